"""Configuration of InternVideo2, the successor of UMT by the same authors (arXiv 2403.15377, section 3)."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_checks_umt import (
    require_choice,
    require_divisible,
    require_positive,
    require_whole_patches,
    validate_motion_selection,
)
from .configuration_mixins_umt import AgreeingLabels, ClipSizes
from .configuration_umt import ENCODER_SIZES


@strict
class InternVideo2Config(AgreeingLabels, ClipSizes, PreTrainedConfig):
    r"""Configuration of [`InternVideo2Model`], [`InternVideo2ForVideoClassification`] and
    [`InternVideo2ForPreTraining`].

    The defaults are InternVideo2-1B at 8 frames of 224 x 224 pixels. The other published sizes:

    | | `hidden_size` | `num_hidden_layers` | `num_attention_heads` | `intermediate_size` |
    |---|---|---|---|---|
    | S/14 | 384 | 12 | 6 | 1536 |
    | B/14 | 768 | 12 | 12 | 3072 |
    | L/14 | 1024 | 24 | 16 | 4096 |
    | 6B | 3200 | 48 | 25 | 12800 |

    Args:
        image_size (`int` or `[height, width]`, defaults to 224): Size of the clips in pixels whose position table is
            learned. Other sizes work too: the table is resized.
        patch_size (`int`, defaults to 14): Side of a square patch in pixels.
        num_frames (`int`, defaults to 8): Frames of the clips whose position table is learned.
        tubelet_size (`int`, defaults to 1): Frames covered by one token.
        num_channels (`int`, defaults to 3): Colour channels.
        hidden_size (`int`, defaults to 1408): Dimension of the tokens, a multiple of 16.
        num_hidden_layers (`int`, defaults to 40): Number of blocks.
        num_attention_heads (`int`, defaults to 16): Attention heads; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 6144): Dimension of the MLP's hidden layer.
        hidden_act (`str`, defaults to `"gelu_pytorch_tanh"`): Activation of the blocks' MLP. The published weights
            were trained with the tanh approximation of the GELU; decoders always have the exact one.
        rms_norm_eps (`float`, defaults to 1e-6): Epsilon of the blocks' norms and of those of queries and keys.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the norms of pooling, classifier and decoders.
        layer_scale_init_value (`float`, defaults to 1e-5): Initial LayerScale of each branch.
        drop_path_rate (`float`, defaults to 0.0): Stochastic depth of the last block; it grows linearly from 0.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the initial weights.
        num_pooling_heads (`int`, defaults to 16): Attention heads of the pooling; must divide `hidden_size`.
        pooled_size (`int`, defaults to 768): Dimension of the pooled vector.
        single_frame (`"mean"` or `"resize"`, defaults to `"mean"`): The position table of a clip of one time step.
            - `"mean"`: the mean of the table over time, as in stage 2 and the CLIP models.
            - `"resize"`: the table resized to one time step, as in the fine-tuning of classifiers.
        classifier_dropout (`float`, defaults to 0.0): Dropout before the last layer of a classifier, in training.
        motion_drop_ratio (`float`, defaults to 0.0): Fraction of the patch tokens that is dropped from clips without a
            mask; see [`UMTConfig`]. The class token is always encoded.
        motion_groups (`int`, defaults to 1): Groups of consecutive time steps that drop tokens independently, at least
            two steps each.
        num_aligned_layers (`int`, defaults to 6): Pre-training: number of blocks aligned with the teacher, counted
            from the last.
        aligned_layer_interval (`float`, defaults to 1): Pre-training: distance between aligned blocks.
        target_dim (`int`, defaults to 1408): Pre-training: dimension of the teacher's features.
        final_target_dim (`int`, defaults to 768): Pre-training: dimension of the teacher's pooled vector.
        decoder (`"mlp"` or `"linear"`, defaults to `"mlp"`): Pre-training: the decoders of these two targets,
            `"mlp"` in the distilled models and `"linear"` in stage 1 of 1B.
        num_second_layers (`int`, defaults to 0): Pre-training: number of blocks aligned with a second teacher, whose
            features have no class token (VideoMAE in stage 1 of 1B); 0: there is none.
        second_layer_interval (`float`, defaults to 1): Pre-training: distance between these blocks.
        second_target_dim (`int`, defaults to 1408): Pre-training: dimension of the second teacher's features.
        id2label (`dict[int, str]`, *optional*): Names of the classes of a classifier; see [`UMTConfig`].

    Raises:
        ValueError: (wrapped by `huggingface_hub`'s strict dataclasses) if sizes do not divide or a choice is unknown.

    Example:

    ```python
    >>> from modeling_umt import InternVideo2Config, InternVideo2Model

    >>> config = InternVideo2Config(
    ...     hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536
    ... )
    >>> model = InternVideo2Model(config)
    ```
    """

    model_type: ClassVar[str] = "internvideo2"
    # the name by which sentence-transformers reads the dimension of vectors
    attribute_map: ClassVar[dict[str, str]] = {"projection_dim": "pooled_size"}

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 14
    num_frames: int = 8
    tubelet_size: int = 1
    num_channels: int = 3
    hidden_size: int = 1408
    num_hidden_layers: int = 40
    num_attention_heads: int = 16
    intermediate_size: int = 6144
    hidden_act: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    layer_norm_eps: float = 1e-5
    layer_scale_init_value: float | int = 1e-5
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    num_pooling_heads: int = 16
    pooled_size: int = 768
    single_frame: str = "mean"
    classifier_dropout: float | int = 0.0
    motion_drop_ratio: float | int = 0.0
    motion_groups: int = 1
    num_aligned_layers: int = 6
    aligned_layer_interval: float | int = 1
    target_dim: int = 1408
    final_target_dim: int = 768
    decoder: str = "mlp"
    num_second_layers: int = 0
    second_layer_interval: float | int = 1
    second_target_dim: int = 1408

    def validate_architecture(self):
        """Raise a ValueError if fields do not fit together."""
        self.require_agreeing_labels()
        require_positive(self, "num_frames", "tubelet_size", *ENCODER_SIZES, "num_pooling_heads", "pooled_size")
        require_positive(self, "target_dim", "final_target_dim", "second_target_dim")
        require_divisible(self, "hidden_size", "num_attention_heads")
        require_divisible(self, "hidden_size", "num_pooling_heads")
        require_divisible(self, "num_frames", "tubelet_size")
        require_choice(self, "single_frame", ("mean", "resize"))
        require_choice(self, "decoder", ("mlp", "linear"))
        require_whole_patches(self)
        if self.hidden_size % 16:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be a multiple of 16: the initial position table has a sine "
                "and a cosine for each frequency of frame, column and row."
            )
        for name in ("drop_path_rate", "classifier_dropout", "motion_drop_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), but is {getattr(self, name)}.")
        validate_motion_selection(self)
        if self.num_second_layers < 0:
            raise ValueError(f"`num_second_layers` must be 0 or more, but is {self.num_second_layers}.")

    def get_text_config(self, *args, **kwargs) -> "InternVideo2Config":
        """This configuration. Transformers would take `decoder` for the configuration of a text decoder."""
        return self


__all__ = ["InternVideo2Config"]
