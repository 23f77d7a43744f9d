"""The cost of a run of masked modelling: parameters, FLOPs, memory, hours. Nothing is trained.

Parameters and FLOPs are counted: student and teachers do one step on PyTorch's meta device. Memory and hours are
estimated as in stage 1 (`estimate.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_umt import UMTForMaskedModeling

from ..trainers.masked_modeling_teachers import frame_step
from ..trainers.masked_tokens import num_pool_frames, select_masked_tokens, select_pool_frames
from .estimate import ACTIVATION_BYTES, describe_hours, num_parameters


@dataclass
class MaskedModelingCost:
    """The cost of one clip, and of the state that a device stores. FLOPs are per clip, memory in bytes."""

    encoder_parameters: int
    decoder_parameters: dict[str, int]  # of each target
    teacher_parameters: dict[str, int]
    visible_tokens: int
    target_tokens: int
    selection_flops: int  # of motion: the patch embedding of all tokens, of a pool of frames too
    encoder_flops: int  # forward
    decoder_flops: int  # forward, of all decoders
    student_training_flops: int  # forward and backward
    teacher_flops: dict[str, int]
    activation_bytes: int

    @property
    def training_flops(self) -> int:
        """FLOPs to train on a clip: token selection, a forward pass of every teacher, and forward and backward pass of
        the student."""
        return self.selection_flops + sum(self.teacher_flops.values()) + self.student_training_flops

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and two moments in float32, autocast's copy of the weights, the teachers in 16 bit."""
        student = self.encoder_parameters + sum(self.decoder_parameters.values())
        return 18 * student + 2 * sum(self.teacher_parameters.values())


def estimate_masked_modeling(
    student: UMTForMaskedModeling,
    teachers: Mapping[str, nn.Module],
    token_selection: Callable[..., torch.Tensor] | None,
    mask_ratio: float,
    keep_ratio: float | None = None,
    frame_pool_ratio: float = 1.0,
) -> MaskedModelingCost:
    """The cost of a clip of the student's size.

    Args:
        student, teachers: As the trainer takes them, but on `torch.device("meta")`. Their attention is set to eager.
        token_selection, mask_ratio: As in the trainer, such as `tube_token_selection`; None for selection by motion.
        keep_ratio, frame_pool_ratio: For selection by motion; see [`UMTMaskedModelingArguments`].
    """
    for model in (student, *teachers.values()):
        model.set_attn_implementation("eager")  # its matrix products are counted in every version of PyTorch
    config = student.config
    num_frames = num_pool_frames(config, frame_pool_ratio)
    clip = torch.empty(1, num_frames, config.num_channels, *config.image_height_width, device="meta")
    seeds = torch.zeros(1, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as selection:
        if frame_pool_ratio > 1:
            clip = select_pool_frames(student.umt, clip, seeds, keep_ratio)
        visible, targets = select_masked_tokens(student.umt, clip, seeds, mask_ratio, keep_ratio, token_selection)

    teacher_flops = {}
    for name, teacher in teachers.items():
        size = (config.num_channels, *teacher.config.image_height_width)
        teacher_clip = torch.empty(1, config.num_frames, *size, device="meta")[
            :, :: frame_step(config, teacher.config)
        ]
        with torch.no_grad(), FlopCounterMode(display=False) as teaching:
            teacher.eval()(teacher_clip)
        teacher_flops[name] = teaching.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        student.eval().umt(clip, visible_indices=visible)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        student(clip, visible_indices=visible, target_indices=targets)
    with FlopCounterMode(display=False) as training:
        predictions = student.train()(clip, visible_indices=visible, target_indices=targets).predictions
        sum(prediction.sum() for prediction in predictions.values()).backward()

    num_visible, num_targets = visible.shape[1], targets.shape[1]
    decoder_size, _ = config.decoder_sizes
    num_blocks = len(config.masked_targets) * config.decoder_num_hidden_layers
    encoder_values = num_visible * config.hidden_size * config.num_hidden_layers
    decoder_values = (num_visible + num_targets) * decoder_size * num_blocks
    return MaskedModelingCost(
        encoder_parameters=num_parameters(student.umt),
        decoder_parameters={name: num_parameters(decoder) for name, decoder in student.decoders.items()},
        teacher_parameters={name: num_parameters(teacher) for name, teacher in teachers.items()},
        visible_tokens=num_visible,
        target_tokens=num_targets,
        selection_flops=selection.get_total_flops(),
        encoder_flops=encoding.get_total_flops(),
        decoder_flops=forward.get_total_flops() - encoding.get_total_flops(),
        student_training_flops=training.get_total_flops(),
        teacher_flops=teacher_flops,
        activation_bytes=ACTIVATION_BYTES * (encoder_values + decoder_values),
    )


def describe_masked_modeling_cost(
    cost: MaskedModelingCost, *, num_clips: int, num_epochs: float, batch: int, num_devices: int
) -> str:
    """The estimate as text."""
    decoders = ", ".join(f"decoder of {name} {number:,}" for name, number in cost.decoder_parameters.items())
    teachers = "".join(f"; {name} teacher {number:,}" for name, number in cost.teacher_parameters.items())
    others = {"selection by motion": cost.selection_flops} if cost.selection_flops else {}
    others |= {f"{name} teacher": flops for name, flops in cost.teacher_flops.items()}
    listed = "".join(f", {name} {flops / 1e12:.4g}" for name, flops in others.items())
    share = sum(cost.teacher_flops.values()) / cost.training_flops
    lines = [
        f"parameters: encoder {cost.encoder_parameters:,}, {decoders}{teachers}",
        f"forward of a clip in TFLOP: encoder {cost.encoder_flops / 1e12:.4g} on {cost.visible_tokens} visible "
        f"tokens, decoders {cost.decoder_flops / 1e12:.4g} for {cost.target_tokens} predicted tokens{listed}",
        f"training on a clip: {cost.training_flops / 1e12:.4g} TFLOP"
        + (f", of which the teachers take {share:.0%}" if cost.teacher_flops else ""),
        f"memory per device for {batch} clips in 16 bit: about {cost.state_bytes / 2**30:.1f} GiB of state and "
        f"{batch * cost.activation_bytes / 2**30:.1f} GiB of activations",
    ]
    work = f"{num_clips:,} clips x {num_epochs:g} epochs"
    lines += describe_hours(work, num_clips * num_epochs * cost.training_flops, num_devices)
    return "\n".join(lines)
