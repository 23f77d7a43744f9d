"""The cost of a run of stage 1 or of distillation: parameters, FLOPs, memory, hours. Nothing is trained.

Parameters and FLOPs are counted: student and teacher do one step on PyTorch's meta device, where tensors have shapes
and no data. A multiply-add is two FLOPs, and only matrix products count.

Memory and hours are estimated. Activations follow the usual count of 34 bytes per token, channel and layer in 16 bit
(fused attention stores no attention map; the tensors that autocast saves add up to 32). Hours assume a fraction of the
device's peak, and that the videos are decoded fast enough.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_umt import InternVideo2ForPreTraining, UMTForPreTraining

from ..trainers.video_teacher import VideoTeacher

ACTIVATION_BYTES = 34
DEVICES = {"A100": 312e12, "H100 / H200": 989e12}  # dense bf16 FLOP/s, the manufacturer's figures
ASSUMED_UTILISATION = 0.4


@dataclass
class Cost:
    """The cost of one clip, and of the state that a device stores. FLOPs are per clip and mask, memory in bytes."""

    student_parameters: int
    teacher_parameters: int
    visible_tokens: int
    teacher_flops: int
    student_flops: int  # forward
    student_training_flops: int  # forward and backward
    state_bytes: int
    activation_bytes: int

    def training_flops(self, num_masks: int) -> int:
        """FLOPs to train on a clip: a forward pass of the teacher, and forward and backward pass of the student for
        each mask."""
        return self.teacher_flops + num_masks * self.student_training_flops

    def hours(self, num_clips: float, num_masks: int, num_devices: int, peak_flops: float) -> float:
        """Hours to train on `num_clips` clips at the assumed fraction of `peak_flops` per device."""
        return hours_of(num_clips * self.training_flops(num_masks), num_devices, peak_flops)


def estimate_pretraining(
    student: UMTForPreTraining, teacher: nn.Module, token_selector: Callable[[torch.Tensor], torch.Tensor]
) -> Cost:
    """The cost of a clip of the student's size.

    Args:
        student, teacher: As the trainer takes them, but on `torch.device("meta")`. Their attention is set to eager.
        token_selector: From the teacher's `cls_attention` (1, frames, tokens per frame) to `visible_indices`.
    """
    for model in (student, getattr(teacher, "backbone", teacher)):
        model.set_attn_implementation("eager")  # its matrix products are counted in every version of PyTorch
    config = student.config
    clip = torch.empty(1, config.num_frames, config.num_channels, *config.image_height_width, device="meta")

    with torch.no_grad(), FlopCounterMode(display=False) as teaching:
        targets = teacher.eval()(clip, token_selector=token_selector)
    inputs = {"visible_indices": targets.visible_indices, "target_features": targets.features}
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        student(clip, **inputs)
    with FlopCounterMode(display=False) as training:
        # without targets the decoders run once; their recomputation, which saves memory, is not useful work
        student.train()(clip, visible_indices=targets.visible_indices).student_features.sum().backward()

    visible_tokens = targets.visible_indices.shape[1]
    return cost_of(student, teacher, visible_tokens, visible_tokens, teaching, forward, training)


def estimate_distillation(
    student: InternVideo2ForPreTraining, teacher: VideoTeacher, token_selector: Callable[[torch.Tensor], torch.Tensor]
) -> Cost:
    """The cost of a clip of the student's size.

    Args:
        student, teacher: As the trainer takes them, but on `torch.device("meta")`. Their attention is set to eager.
        token_selector: From the teacher's `cls_attention` (1, frames, tokens per frame) to `visible_indices`.
    """
    for model in (student, teacher.encoder):
        model.set_attn_implementation("eager")  # as above
    config = student.config
    clip = torch.empty(1, config.num_frames, config.num_channels, *config.image_height_width, device="meta")

    with torch.no_grad(), FlopCounterMode(display=False) as teaching:
        visible_indices = token_selector(teacher.requires_grad_(False).eval()(clip).cls_attention)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        student(clip, visible_indices=visible_indices)
    with FlopCounterMode(display=False) as training:
        outputs = student.train()(clip, visible_indices=visible_indices)
        (outputs.student_features.sum() + outputs.final_features.sum()).backward()

    visible_tokens = visible_indices.shape[1]
    return cost_of(student, teacher, visible_tokens, 1 + visible_tokens, teaching, forward, training)


def cost_of(
    student: nn.Module,
    teacher: nn.Module,
    visible_tokens: int,
    encoded_tokens: int,
    teaching: FlopCounterMode,
    forward: FlopCounterMode,
    training: FlopCounterMode,
) -> Cost:
    """The cost of a clip from the FLOPs of teacher and student; `encoded_tokens` includes a class token."""
    student_parameters, teacher_parameters = num_parameters(student), num_parameters(teacher)
    return Cost(
        student_parameters=student_parameters,
        teacher_parameters=teacher_parameters,
        visible_tokens=visible_tokens,
        teacher_flops=teaching.get_total_flops(),
        student_flops=forward.get_total_flops(),
        student_training_flops=training.get_total_flops(),
        # weights, gradients and two moments in float32, autocast's copy of the weights, the teacher in 16 bit
        state_bytes=18 * student_parameters + 2 * teacher_parameters,
        activation_bytes=(
            ACTIVATION_BYTES * encoded_tokens * student.config.hidden_size * student.config.num_hidden_layers
        ),
    )


def describe_cost(cost: Cost, num_clips: int, num_epochs: float, num_masks: int, batch: int, num_devices: int) -> str:
    """The estimate as text."""
    lines = [
        f"student {cost.student_parameters:,} parameters, teacher {cost.teacher_parameters:,}",
        f"forward of a clip: teacher {cost.teacher_flops / 1e12:.4g} TFLOP, student {cost.student_flops / 1e12:.4g} "
        f"TFLOP on {cost.visible_tokens} visible tokens",
        f"training on a clip: {cost.training_flops(num_masks) / 1e12:.4g} TFLOP with {num_masks} "
        f"{'mask' if num_masks == 1 else 'masks'} per forward pass of the teacher",
        f"memory per device for {batch} clips in 16 bit: about {cost.state_bytes / 2**30:.1f} GiB of state and "
        f"{batch * num_masks * cost.activation_bytes / 2**30:.1f} GiB of activations",
    ]
    work = f"{num_clips:,} clips x {num_epochs:g} epochs"
    lines += describe_hours(work, num_clips * num_epochs * cost.training_flops(num_masks), num_devices)
    return "\n".join(lines)


def describe_hours(work: str, flops: float, num_devices: int, data: str = "videos") -> list[str]:
    """A line for each of `DEVICES` with the hours of an amount of work.

    Args:
        work: The amount in words.
        flops: The amount in FLOPs.
        num_devices: Devices that share it.
        data: What a step may have to wait for.
    """
    return [
        f"{work}: {hours_of(flops, num_devices, peak):,.1f} hours on {num_devices} {name}, assuming "
        f"{ASSUMED_UTILISATION:.0%} of {peak / 1e12:.0f} TFLOP/s and no waiting for {data}"
        for name, peak in DEVICES.items()
    ]


def hours_of(flops: float, num_devices: int, peak_flops: float) -> float:
    """Hours of an amount of FLOPs at the assumed fraction of `peak_flops` per device."""
    return flops / (num_devices * peak_flops * ASSUMED_UTILISATION) / 3600


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
