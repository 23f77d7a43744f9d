"""The cost of a stage-2 run: parameters, FLOPs, hours. Nothing is trained.

Parameters and FLOPs are counted as in stage 1 (`estimate.py`): model and teacher do one step on PyTorch's meta device,
with all objectives whose weight is not 0. The recomputation of `checkpoint_text` is not counted, and the memory of
activations, which depends on it, is not estimated. Hours assume a fraction of the device's peak, and that videos and
images are decoded fast enough.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_umt import UMTForVideoTextPreTraining, UMTTextConfig

from .estimate import describe_hours, num_parameters

_BATCH = 4  # FLOPs of a pair depend on it in the contrastive loss only, which is negligible

# so that an estimate of a published recipe needs no download
PUBLISHED_TEXTS = {
    "google-bert/bert-large-uncased": UMTTextConfig(),
    "google-bert/bert-base-uncased": UMTTextConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        fusion_layer=9,
        encoder_width=768,
    ),
}


@dataclass
class PairCost:
    """The cost of one clip or image with its caption: FLOPs of the teacher's forward pass, and of forward and backward
    pass of the model."""

    visible_tokens: int
    teacher_flops: int
    training_flops: int

    @property
    def flops(self) -> int:
        return self.teacher_flops + self.training_flops


def estimate_pair(
    model: UMTForVideoTextPreTraining,
    teacher: nn.Module | None,
    token_selector: Callable[[torch.Tensor], torch.Tensor],
    num_frames: int,
    text_length: int,
) -> PairCost:
    """The cost of a pair.

    Args:
        model, teacher: As the trainer takes them, but on `torch.device("meta")`. Their attention is set to eager.
        token_selector: From the teacher's `cls_attention` (batch, frames, tokens per frame) to `visible_indices`.
        num_frames: Frames of the clip, 1 for an image.
        text_length: Tokens of the caption, padding included.
    """
    vision = model.config.vision_config
    clips = torch.empty(_BATCH, num_frames, vision.num_channels, *vision.image_height_width, device="meta")
    ids = torch.zeros(_BATCH, text_length, dtype=torch.int64, device="meta")
    rows = torch.zeros(_BATCH, dtype=torch.int64, device="meta")
    inputs = {"mlm_input_ids": ids, "mlm_labels": ids, "negative_video_indices": rows, "negative_text_indices": rows}
    visible_tokens = num_frames * vision.token_grid[1] * vision.token_grid[2]
    with torch.no_grad(), FlopCounterMode(display=False) as teaching:
        if teacher is not None:
            teacher.set_attn_implementation("eager")  # as in estimate.py
            targets = teacher.eval()(clips, token_selector=token_selector)
            inputs |= {"visible_indices": targets.visible_indices, "target_features": targets.features}
            visible_tokens = targets.visible_indices.shape[1]
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as training:
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": clips}
        model.train()(**inputs).loss.backward()
    return PairCost(visible_tokens, teaching.get_total_flops() // _BATCH, training.get_total_flops() // _BATCH)


def describe_video_text_cost(
    model: UMTForVideoTextPreTraining,
    teacher: nn.Module | None,
    video: PairCost,
    image: PairCost,
    *,
    num_videos: int,
    num_images: int,
    num_epochs: float,
    num_devices: int,
) -> str:
    """The estimate as text."""
    parameters, teacher_parameters = num_parameters(model), 0 if teacher is None else num_parameters(teacher)
    # weights, gradients and two moments in float32, autocast's copy of the weights, the teacher in 16 bit
    state = (18 * parameters + 2 * teacher_parameters) / 2**30
    lines = [f"model {parameters:,} parameters, teacher {teacher_parameters:,}; about {state:.1f} GiB of state"]
    for name, cost in (("a video", video), ("an image", image)):
        lines.append(
            f"training on {name} and its caption: {cost.flops / 1e12:.4g} TFLOP, of which the teacher's "
            f"{cost.teacher_flops / 1e12:.4g}, with {cost.visible_tokens} visible tokens"
        )
    total = num_epochs * (num_videos * video.flops + num_images * image.flops)
    work = f"({num_videos:,} videos + {num_images:,} images) x {num_epochs:g} epochs"
    lines += describe_hours(work, total, num_devices, data="data")
    return "\n".join(lines)
