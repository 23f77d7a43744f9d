"""Configurations of the UMT video encoder (arXiv 2303.16058, section 3; ViT-B/16 and ViT-L/16), its CLIP teacher, and
stage 2's video-text model.

Unusual: the position table is not learned. It is the sine-cosine code of the *flattened* token index, computed over
`position_grid` and resized to the input; a model therefore takes any number of frames and any size.
"""

from dataclasses import field
from math import inf
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_checks_umt import (
    aligned_layers,
    require_all_tokens,
    require_choice,
    require_divisible,
    require_positive,
    require_whole_patches,
    validate_motion_selection,
)
from .configuration_mixins_umt import AgreeingLabels, ClipSizes

# the entry of `masked_targets` that is computed from the clip
PIXELS = "pixels"
DEFAULT_POSITION_GRID = [8, 14, 14]
ENCODER_SIZES = (
    "patch_size",
    "num_channels",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


@strict
class UMTConfig(AgreeingLabels, ClipSizes, PreTrainedConfig):
    r"""Configuration of [`UMTModel`], [`UMTForVideoClassification`], [`UMTForActionDetection`], [`UMTForPreTraining`]
    and [`UMTForMaskedModeling`].

    The defaults are UMT-L/16 at 8 frames of 224 x 224 pixels. UMT-B/16 has `hidden_size=768`, `num_hidden_layers=12`,
    `num_attention_heads=12`, `intermediate_size=3072` and `target_dim=512`.

    Args:
        image_size (`int` or `[height, width]`, defaults to 224): Size of the model's clips in pixels. Other sizes
            work too; the position table of this one is precomputed.
        patch_size (`int`, defaults to 16): Side of a square patch in pixels.
        num_frames (`int`, defaults to 8): Frames of the model's clips.
        tubelet_size (`int`, defaults to 1): Frames covered by one token.
        num_channels (`int`, defaults to 3): Colour channels.
        hidden_size (`int`, defaults to 1024): Dimension of the tokens.
        num_hidden_layers (`int`, defaults to 24): Number of blocks.
        num_attention_heads (`int`, defaults to 16): Attention heads; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 4096): Dimension of the MLP's hidden layer.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLP, by its Transformers name.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of every LayerNorm except the decoders'.
        drop_path_rate (`float`, defaults to 0.0): Stochastic depth of the last block; it grows linearly from 0.
        initializer_range (`float`, defaults to 0.02): Standard deviation of a classifier's initial weights and of mask
            tokens. Encoders for pre-training are initialised Xavier-uniform, as in the official code.
        position_type (`"flat"` or `"space_time"`, defaults to `"flat"`): The sine-cosine table of the positions.
            - `"flat"`: of the flattened token index, as in UMT, VideoMAE and EVEREST.
            - `"space_time"`: of frame, column and row separately, in a quarter and twice three eighths of the
              channels, as in MVD (arXiv 2212.04500). `hidden_size` must be a multiple of 16.
        position_grid (`[frames, rows, columns]` or `None`, defaults to `[8, 14, 14]`): Token grid over which the
            position table is computed before it is resized to the input (space bicubic, time linear). `None`: computed
            for the input's own grid, as in stage 2. A `"space_time"` table is never resized: the default becomes
            `None`, and another grid is refused.
        final_norm (`"tokens"`, `"pooled"` or `"none"`, defaults to `"tokens"`): Whether the last LayerNorm is applied
            to the tokens (pre-training, action detection, stage 2), to their mean (classifiers), or does not exist (a
            VideoMAE encoder as teacher). Each head sets its own.
        final_norm_eps (`float`, *optional*): Epsilon of the last LayerNorm; None: `layer_norm_eps`. That of the tower
            of VideoChat is 1e-12.
        single_frame (`"resize"` or `"first"`, defaults to `"resize"`): The position table of a clip of one time step.
            - `"resize"`: the table of `position_grid` resized to one time step, as for other lengths.
            - `"first"`: the rows of its first time step, as in the tower of VideoChat.
        pooling (`"mean"`, `"attention"` or `"frames"`, defaults to `"mean"`): How a classifier pools the tokens.
            - `"mean"`: their mean, as in the paper.
            - `"attention"`: one cross-attention block with a learned query, the attentive probe of V-JEPA (arXiv
              2404.08471), for a frozen encoder.
            - `"frames"`: a hidden layer over the concatenated means of the frames, which keeps their order; not from
              the paper. For clips of few frames whose classes differ by the direction of motion, with a small encoder
              or few labels. The model then takes clips of exactly `num_frames` frames, and the hidden layer has
              `(num_frames / tubelet_size * hidden_size)^2` weights.
        classifier_dropout (`float`, defaults to 0.0): Dropout before the last layer of a classifier, in training.
        motion_drop_ratio (`float`, defaults to 0.0): Fraction of the tokens that is dropped from clips without a mask:
            those that differ least from the same place one time step earlier (EVEREST, arXiv 2211.10636, with 0.4).
            Training and evaluation drop the same tokens, and the value is read at each forward pass. A mask replaces
            the selection. 0.0: all tokens are encoded, as action detection and `pooling="frames"` require.
        motion_groups (`int`, defaults to 1): Groups of consecutive time steps that drop tokens independently, at least
            two steps each.
        num_aligned_layers (`int`, defaults to 6): Pre-training: number of blocks aligned with the teacher, counted
            from the last.
        aligned_layer_interval (`float`, defaults to 1): Pre-training: distance between aligned blocks.
        target_dim (`int`, defaults to 768): Pre-training: dimension of the teacher's features.
        target_norm (`"l2"` or `"none"`, defaults to `"l2"`): Pre-training: whether student features are unit vectors.
        decoder_layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the decoders' LayerNorm (1e-5 in stage 2).
        alignment_loss (`"l2"`, `"mse"` or `"smooth_l1"`, defaults to `"l2"`): Distance to the teacher's features.
        masked_targets (`dict[str, int]`, *optional*): Masked modelling: name and dimension of what is predicted at
            the masked tokens, one decoder each. `{"image": 768, "video": 768}` are the features of two teachers (MVD);
            the name `"pixels"` is the clip's own pixels, `{"pixels": 1536}` (VideoMAE, EVEREST). Names are Python
            identifiers.
        masked_target_weights (`dict[str, float]`, *optional*): Weight of each target in the loss; None: 1 each.
        masked_loss (`"smooth_l1"`, `"l1"` or `"mse"`, defaults to `"smooth_l1"`): Distance to the targets, the mean
            over all elements.
        normalize_targets (`bool`, defaults to False): Whether features are normalised over their dimension (a
            LayerNorm without weights), and pixels over each tubelet and colour channel.
        decoder_hidden_size (`int`, *optional*): Dimension of the decoders' tokens; None: `hidden_size`. The hidden
            layer of their MLP is four times that.
        decoder_num_hidden_layers (`int`, defaults to 2): Blocks of each decoder.
        decoder_num_attention_heads (`int`, *optional*): Attention heads of the decoders; None: those of the encoder.
        decoder_projection_bias (`bool`, defaults to True): Whether the projection from encoder to decoder has a bias
            (not in the models of pixels).
        id2label (`dict[int, str]`, *optional*): Names of the classes of a classifier or an action detection model.
            `label2id` is always its inverse: it follows when `id2label` is changed, and is corrected, with a warning,
            in a file where the two disagree.

    Raises:
        ValueError: (wrapped by `huggingface_hub`'s strict dataclasses) if sizes do not divide or a choice is unknown.
            Aligned layers that are not distinct blocks are only refused by models that align layers. A `label2id` that
            was assigned afterwards and disagrees with `id2label` is refused by every model.

    Example:

    ```python
    >>> from modeling_umt import UMTConfig, UMTModel

    >>> config = UMTConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536)
    >>> model = UMTModel(config)
    ```
    """

    model_type: ClassVar[str] = "umt"

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    num_frames: int = 8
    tubelet_size: int = 1
    num_channels: int = 3
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    position_type: str = "flat"
    position_grid: list[int] | tuple[int, ...] | None = field(default_factory=lambda: list(DEFAULT_POSITION_GRID))
    final_norm: str = "tokens"
    final_norm_eps: float | None = None
    single_frame: str = "resize"
    pooling: str = "mean"
    classifier_dropout: float | int = 0.0
    motion_drop_ratio: float | int = 0.0
    motion_groups: int = 1
    num_aligned_layers: int = 6
    aligned_layer_interval: float | int = 1
    target_dim: int = 768
    target_norm: str = "l2"
    decoder_layer_norm_eps: float = 1e-6
    alignment_loss: str = "l2"
    masked_targets: dict[str, int] | None = None
    masked_target_weights: dict[str, float | int] | None = None
    masked_loss: str = "smooth_l1"
    normalize_targets: bool = False
    decoder_hidden_size: int | None = None
    decoder_num_hidden_layers: int = 2
    decoder_num_attention_heads: int | None = None
    decoder_projection_bias: bool = True

    def __post_init__(self, **kwargs):
        if self.position_type == "space_time" and list(self.position_grid or ()) == DEFAULT_POSITION_GRID:
            self.position_grid = None
        if self.masked_targets is not None:
            # a saved configuration has sorted keys, and the order is that of the initial random weights
            self.masked_targets = dict(sorted(self.masked_targets.items()))
        if self.architectures is None:
            # AutoModelForPreTraining has two classes for this configuration, and chooses by name
            self.architectures = [] if self.masked_targets is None else ["UMTForMaskedModeling"]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raise a ValueError if fields do not fit together."""
        self.require_agreeing_labels()
        require_positive(self, "num_frames", "tubelet_size", "target_dim", *ENCODER_SIZES)
        require_divisible(self, "hidden_size", "num_attention_heads")
        require_divisible(self, "num_frames", "tubelet_size")
        require_choice(self, "position_type", ("flat", "space_time"))
        require_choice(self, "final_norm", ("tokens", "pooled", "none"))
        require_choice(self, "single_frame", ("resize", "first"))
        require_choice(self, "pooling", ("mean", "attention", "frames"))
        require_choice(self, "target_norm", ("l2", "none"))
        require_choice(self, "alignment_loss", ("l2", "mse", "smooth_l1"))
        require_whole_patches(self)
        for name in ("drop_path_rate", "classifier_dropout", "motion_drop_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), but is {getattr(self, name)}.")
        if self.position_grid is not None and (len(self.position_grid) != 3 or min(self.position_grid) < 1):
            raise ValueError(f"`position_grid` must be [frames, rows, columns] or None, but is {self.position_grid}.")
        if self.position_type == "space_time" and self.position_grid is not None:
            raise ValueError(
                f"`position_grid` is {self.position_grid}, but a table of `position_type` 'space_time' is computed "
                "for the input's own grid and never resized; give `position_grid=None`."
            )
        if self.position_type == "space_time" and self.hidden_size % 16:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be a multiple of 16 with `position_type` 'space_time'."
            )
        validate_motion_selection(self)
        if self.pooling == "frames":
            require_all_tokens(self, '`pooling="frames"`')
        validate_masked_modeling(self)

    @property
    def decoder_sizes(self) -> tuple[int, int]:
        """Dimension and attention heads of the decoders of masked modelling."""
        hidden_size, num_heads = self.decoder_hidden_size, self.decoder_num_attention_heads
        return (
            self.hidden_size if hidden_size is None else hidden_size,
            self.num_attention_heads if num_heads is None else num_heads,
        )


@strict
class UMTTeacherConfig(PreTrainedConfig):
    r"""Configuration of [`UMTTeacherModel`], CLIP's vision tower.

    The defaults are CLIP ViT-L/14 at 196 pixels, whose grid of 14 x 14 tokens is that of UMT-L/16 at 224. ViT-B/16 has
    `image_size=224`, `patch_size=16`, `hidden_size=768`, `num_hidden_layers=12`, `num_attention_heads=12`,
    `intermediate_size=3072` and `projection_dim=512`.

    Args:
        image_size (`int`, defaults to 196): Side of the square input frames in pixels; clips are resized to it.
        patch_size (`int`, defaults to 14): Side of a square patch in pixels.
        num_channels (`int`, defaults to 3): Colour channels.
        hidden_size (`int`, defaults to 1024): Dimension of the tokens.
        num_hidden_layers (`int`, defaults to 24): Number of blocks.
        num_attention_heads (`int`, defaults to 16): Attention heads; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 4096): Dimension of the MLP's hidden layer.
        projection_dim (`int`, defaults to 768): Dimension of the features, that of CLIP's joint space.
        hidden_act (`str`, defaults to `"quick_gelu"`): Activation of the MLP.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every LayerNorm.
        num_aligned_layers (`int`, defaults to 6): Number of blocks whose features are returned, counted from the last.
        aligned_layer_interval (`float`, defaults to 1): Distance between these blocks.
        target_norm (`"l2"` or `"none"`, defaults to `"l2"`): Whether features are unit vectors.

    Raises:
        ValueError: (wrapped by `huggingface_hub`'s strict dataclasses) if sizes do not divide, a choice is unknown, or
            the aligned layers are not distinct blocks of the model.
    """

    model_type: ClassVar[str] = "umt_teacher"

    image_size: int = 196
    patch_size: int = 14
    num_channels: int = 3
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    projection_dim: int = 768
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    num_aligned_layers: int = 6
    aligned_layer_interval: float | int = 1
    target_norm: str = "l2"

    def validate_architecture(self):
        """Raise a ValueError if fields do not fit together."""
        require_positive(self, "image_size", "projection_dim", *ENCODER_SIZES)
        require_divisible(self, "hidden_size", "num_attention_heads")
        require_divisible(self, "image_size", "patch_size")
        require_choice(self, "target_norm", ("l2", "none"))
        aligned_layers(self)


@strict
class UMTTextConfig(PreTrainedConfig):
    r"""Configuration of [`UMTTextModel`]: a BERT whose upper layers also attend to a video (section 3.3).

    The defaults are the text encoder of UMT-L/16, BERT-large. That of UMT-B/16, BERT-base, has `hidden_size=768`,
    `num_hidden_layers=12`, `num_attention_heads=12`, `intermediate_size=3072`, `fusion_layer=9`, `encoder_width=768`.

    Args:
        vocab_size (`int`, defaults to 30522): Number of tokens in the vocabulary.
        hidden_size (`int`, defaults to 1024): Dimension of the tokens.
        num_hidden_layers (`int`, defaults to 24): Number of layers.
        num_attention_heads (`int`, defaults to 16): Attention heads; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 4096): Dimension of the MLP's hidden layer.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLP, by its Transformers name.
        hidden_dropout_prob (`float`, defaults to 0.1): Dropout of embeddings and of every branch.
        attention_probs_dropout_prob (`float`, defaults to 0.1): Dropout of attention weights.
        max_position_embeddings (`int`, defaults to 512): Length of the longest text in tokens.
        type_vocab_size (`int`, defaults to 2): Number of token types, of which only the first is used.
        initializer_range (`float`, defaults to 0.02): Standard deviation of initial weights.
        layer_norm_eps (`float`, defaults to 1e-12): Epsilon of every LayerNorm.
        pad_token_id, cls_token_id, sep_token_id, mask_token_id (`int`, default to 0, 101, 102, 103): Ids of padding,
            the first token of every text, the end of an answer, and a masked token. The defaults are those of the
            uncased BERT vocabulary. `bos_token_id` and `eos_token_id` are other names of the second and the third.
        fusion_layer (`int`, defaults to 19): The first layer with cross-attention; the layers below encode text alone.
        encoder_width (`int`, defaults to 1024): Dimension of the states that cross-attention attends to.
        is_decoder (`bool`, defaults to False): Whether tokens attend to earlier ones only (question answering).

    Raises:
        ValueError: (wrapped by `huggingface_hub`'s strict dataclasses) if sizes do not fit together.
    """

    model_type: ClassVar[str] = "umt_text_model"
    base_config_key: ClassVar[str] = "text_config"
    attribute_map: ClassVar[dict[str, str]] = {"bos_token_id": "cls_token_id", "eos_token_id": "sep_token_id"}

    vocab_size: int = 30522
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    cls_token_id: int = 101
    sep_token_id: int | None = 102
    mask_token_id: int = 103
    fusion_layer: int = 19
    encoder_width: int = 1024
    is_decoder: bool = False

    def validate_architecture(self):
        """Raise a ValueError if fields do not fit together."""
        require_positive(
            self, "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
        )
        require_positive(self, "max_position_embeddings", "type_vocab_size", "encoder_width")
        require_divisible(self, "hidden_size", "num_attention_heads")
        if not 0 <= self.fusion_layer <= self.num_hidden_layers:
            raise ValueError(
                f"`fusion_layer` must be 0 to the {self.num_hidden_layers} of `num_hidden_layers`, but is "
                f"{self.fusion_layer}."
            )


@strict
class UMTVideoTextConfig(PreTrainedConfig):
    r"""Configuration of [`UMTVideoTextModel`], [`UMTForVideoTextPreTraining`] and [`UMTForVideoQuestionAnswering`].

    The defaults are UMT-L/16 with BERT-large at 4 frames of 224 x 224 pixels. A sub-configuration may be given as a
    mapping of the fields that differ from those defaults.

    Args:
        vision_config (`UMTConfig` or mapping): The video encoder, with `final_norm="tokens"`. By default its position
            table is computed for the input's own grid and its decoders' norms have epsilon 1e-5.
        text_config (`UMTTextConfig` or mapping): The text and fusion encoder. `encoder_width` defaults to the video
            encoder's `hidden_size`.
        projection_dim (`int`, defaults to 768): Dimension of the joint space of the contrastive objective (512 with
            UMT-B/16).
        temperature_init_value (`float`, defaults to 0.07): Initial value of the learned temperature, by which
            similarities are divided.
        keep_temporal (`bool`, defaults to True): Whether a clip without a mask has one vector per frame in the joint
            space, whose cosines with a text are averaged, or a single one.
        vtc_weight, vtm_weight, mlm_weight, uta_weight (`float`, default to 1.0): Weights of the objectives: contrast,
            matching, masked language modelling, unmasked-token alignment. An objective of weight 0 is not computed;
            for the last two, [`UMTForVideoTextPreTraining`] then has no head either.
        vtm_hard_negatives (`bool`, defaults to True): Whether pairs that do not match are sampled in proportion to
            their similarity, or uniformly.
        initializer_range (`float`, defaults to 0.02): Standard deviation of initial projections and heads.
        tie_word_embeddings (`bool`, defaults to True): Whether the masked language modelling head shares the token
            embeddings.
        vocabulary_hash (`str`, *optional*): SHA-256 of the vocabulary, one token per line in the order of their ids,
            with which the model was trained. Another number of token embeddings removes it.

    Raises:
        ValueError: (wrapped by `huggingface_hub`'s strict dataclasses) if sizes do not fit together.

    Example:

    ```python
    >>> from modeling_umt import UMTVideoTextConfig, UMTVideoTextModel

    >>> config = UMTVideoTextConfig(
    ...     vision_config={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "target_dim": 512},
    ...     text_config={"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "fusion_layer": 9},
    ...     projection_dim=512,
    ... )
    >>> model = UMTVideoTextModel(config)
    ```
    """

    model_type: ClassVar[str] = "umt_video_text"
    # otherwise Trainer would gather logits over the vocabulary for a complete evaluation
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *("loss_vtc", "loss_vtm", "loss_mlm", "loss_uta", "vtm_logits", "mlm_logits"),
    ]
    sub_configs: ClassVar[dict] = {"vision_config": UMTConfig, "text_config": UMTTextConfig}

    vision_config: UMTConfig | dict | None = None
    text_config: UMTTextConfig | dict | None = None
    projection_dim: int = 768
    temperature_init_value: float | int = 0.07
    keep_temporal: bool = True
    vtc_weight: float | int = 1.0
    vtm_weight: float | int = 1.0
    mlm_weight: float | int = 1.0
    uta_weight: float | int = 1.0
    vtm_hard_negatives: bool = True
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    vocabulary_hash: str | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, PreTrainedConfig):
            stage2 = {"num_frames": 4, "position_grid": None, "decoder_layer_norm_eps": 1e-5}
            self.vision_config = UMTConfig(**stage2 | (self.vision_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            encoder_width = {"encoder_width": self.vision_config.hidden_size}
            self.text_config = UMTTextConfig(**encoder_width | (self.text_config or {}))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raise a ValueError if fields do not fit together."""
        require_positive(self, "projection_dim")
        if self.text_config.encoder_width != self.vision_config.hidden_size:
            raise ValueError(
                f"`encoder_width` of the text encoder is {self.text_config.encoder_width}, but the video encoder's "
                f"`hidden_size` is {self.vision_config.hidden_size}; the two must be the same, because "
                "cross-attention attends to the video's tokens."
            )
        if self.vision_config.final_norm != "tokens":
            raise ValueError(
                '`final_norm` of the video encoder must be "tokens", because cross-attention attends to normed '
                f"tokens, but is {self.vision_config.final_norm!r}."
            )
        for name in ("vtc_weight", "vtm_weight", "mlm_weight", "uta_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, but is {getattr(self, name)}.")

    @property
    def num_frames(self) -> int:
        """Frames of the model's clips."""
        return self.vision_config.num_frames


def validate_masked_modeling(config: "UMTConfig") -> None:
    """Raise a ValueError if the fields of masked modelling do not fit together; without targets they have no use."""
    require_choice(config, "masked_loss", ("smooth_l1", "l1", "mse"))
    require_positive(config, "decoder_num_hidden_layers")
    targets, weights = config.masked_targets, config.masked_target_weights
    if targets is None:
        if weights is not None:
            raise ValueError(f"`masked_target_weights` is {weights}, but there are no `masked_targets`.")
        return
    if not targets or not all(name.isidentifier() and dim >= 1 for name, dim in targets.items()):
        raise ValueError(
            f"`masked_targets` must be the name, a Python identifier, and the dimension of each target, e.g. "
            f'{{"image": 768, "video": 768}}, but is {targets}.'
        )
    num_pixels = config.num_channels * config.tubelet_size * config.patch_size**2
    if targets.get(PIXELS, num_pixels) != num_pixels:
        raise ValueError(
            f"The target {PIXELS!r} in `masked_targets` has the {num_pixels} values of a token, but is "
            f"{targets[PIXELS]}."
        )
    given = [1.0] if weights is None else weights.values()
    if (weights or targets).keys() != targets.keys() or not all(0 <= w < inf for w in given) or not any(given):
        raise ValueError(
            f"`masked_target_weights` must be a weight of 0 or more for each of {', '.join(targets)}, not all of them "
            f"0, but is {weights}."
        )
    hidden_size, num_heads = config.decoder_sizes
    multiple = 16 if config.position_type == "space_time" else 1
    if hidden_size < 1 or num_heads < 1 or hidden_size % num_heads or hidden_size % multiple:
        raise ValueError(
            f"The decoders' dimension {hidden_size} (`decoder_hidden_size`, by default the encoder's) must be a "
            f"multiple of their {num_heads} heads (`decoder_num_attention_heads`, by default the encoder's)"
            f"{' and of 16' if multiple == 16 else ''}."
        )


__all__ = ["UMTConfig", "UMTTeacherConfig", "UMTTextConfig", "UMTVideoTextConfig"]
