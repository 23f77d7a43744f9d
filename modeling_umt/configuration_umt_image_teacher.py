"""Configuration of MAE's ViT, the image teacher of masked feature distillation (MVD, arXiv 2212.04500)."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_checks_umt import height_width, require_divisible, require_positive, require_whole_patches
from .configuration_umt import ENCODER_SIZES


@strict
class UMTImageTeacherConfig(PreTrainedConfig):
    r"""Configuration of [`UMTImageTeacherModel`].

    The defaults are MAE's ViT-L/16 at 224 pixels. ViT-B/16 has `hidden_size=768`, `num_hidden_layers=12`,
    `num_attention_heads=12`, `intermediate_size=3072`; ViT-H/14 has `patch_size=14`, `hidden_size=1280`,
    `num_hidden_layers=32`, `intermediate_size=5120`, and MVD uses it with `image_size=196`.

    Args:
        image_size (`int` or `[height, width]`, defaults to 224): Size of the teacher's frames in pixels. Others work
            too: the position table is computed for the grid of the input.
        patch_size (`int`, defaults to 16): Side of a square patch in pixels.
        num_channels (`int`, defaults to 3): Colour channels.
        hidden_size (`int`, defaults to 1024): Dimension of the tokens, and so of the targets; a multiple of 4.
        num_hidden_layers (`int`, defaults to 24): Number of blocks.
        num_attention_heads (`int`, defaults to 16): Attention heads; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 4096): Dimension of the MLP's hidden layer.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLP, by its Transformers name.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of every LayerNorm.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial class token.

    Raises:
        ValueError: (wrapped by `huggingface_hub`'s strict dataclasses) if sizes do not divide.
    """

    model_type: ClassVar[str] = "umt_image_teacher"

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def validate_architecture(self):
        """Raise a ValueError if fields do not fit together."""
        require_positive(self, *ENCODER_SIZES)
        require_divisible(self, "hidden_size", "num_attention_heads")
        if self.hidden_size % 4:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be a multiple of 4: rows and columns have a sine and a cosine "
                "for each frequency."
            )
        require_whole_patches(self)

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return height_width(self.image_size)


__all__ = ["UMTImageTeacherConfig"]
