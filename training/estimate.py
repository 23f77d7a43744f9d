"""What a stage-1 run will cost, from shapes alone: parameters, FLOPs, memory, hours. Nothing is trained.

A multiply-add counts as two FLOPs; only matrix products are counted, and a backward pass as two forward passes.
Memory and hours are estimates: activations by the usual count of 34 bytes a token, layer and channel in 16 bit
(attention is fused and stores no map), hours for a share of the device's peak that is an assumption and said to be.
"""

from dataclasses import dataclass

from modeling_umt import UMTConfig, UMTTeacherConfig

ACTIVATION_BYTES = 34
DEVICES = {"A100": 312e12, "H100 / H200": 989e12}  # dense bf16 FLOP/s, the manufacturer's figures
ASSUMED_UTILISATION = 0.4

_CLIP_B16 = {"patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
# so that an estimate of a published recipe needs no download
PUBLISHED_TEACHERS = {
    "openai/clip-vit-large-patch14": UMTTeacherConfig(),
    "openai/clip-vit-base-patch16": UMTTeacherConfig(
        image_size=224, intermediate_size=3072, projection_dim=512, **_CLIP_B16
    ),
}


@dataclass
class Cost:
    """Cost of one clip and of the state that a run keeps. FLOPs are of a forward pass; memory is in bytes."""

    student_parameters: int
    teacher_parameters: int
    visible_tokens: int
    student_flops: float
    teacher_flops: float
    state_bytes: float
    activation_bytes: float

    def training_flops(self, num_masks: int) -> float:
        """FLOPs of a clip: one teacher pass, forward and backward of the student for each mask."""
        return self.teacher_flops + 3 * self.student_flops * num_masks

    def hours(self, num_clips: float, num_masks: int, num_devices: int, peak_flops: float) -> float:
        """Hours to see `num_clips` clips at the assumed share of `peak_flops` a device."""
        return num_clips * self.training_flops(num_masks) / (num_devices * peak_flops * ASSUMED_UTILISATION) / 3600


def transformer_flops(num_tokens: int, hidden_size: int, intermediate_size: int, num_layers: int) -> float:
    """Forward FLOPs of a ViT's blocks over one sequence: projections, MLP and attention."""
    per_token = 8 * hidden_size**2 + 4 * hidden_size * intermediate_size + 4 * num_tokens * hidden_size
    return num_layers * num_tokens * per_token


def estimate_pretraining(student: UMTConfig, teacher: UMTTeacherConfig, mask_ratio: float) -> Cost:
    """The cost of a clip of the student's own size under attention masking."""
    frames, rows, columns = student.token_grid
    per_frame = rows * columns
    visible = frames * (per_frame - int(per_frame * mask_ratio))
    width, aligned = student.hidden_size, student.num_aligned_layers
    patch_values = student.num_channels * student.tubelet_size * student.patch_size**2
    student_flops = (
        2 * visible * patch_values * width
        + transformer_flops(visible, width, student.intermediate_size, student.num_hidden_layers)
        + aligned * 2 * visible * width * student.target_dim
    )
    teacher_values = teacher.num_channels * teacher.patch_size**2
    teacher_flops = (
        2 * frames * per_frame * teacher_values * teacher.hidden_size
        + frames
        * transformer_flops(per_frame + 1, teacher.hidden_size, teacher.intermediate_size, teacher.num_hidden_layers)
        + aligned * 2 * visible * teacher.hidden_size * teacher.projection_dim
    )
    student_parameters = (
        width * (patch_values + 1)
        + student.num_hidden_layers
        * encoder_layer_parameters(width, student.intermediate_size, num_attention_biases=3)
        + 2 * width
        + aligned * (student.target_dim * (width + 1) + 2 * student.target_dim)
    )
    teacher_parameters = (
        teacher.hidden_size * (teacher_values + 1 + per_frame + 1)
        + teacher.num_hidden_layers
        * encoder_layer_parameters(teacher.hidden_size, teacher.intermediate_size, num_attention_biases=4)
        + 4 * teacher.hidden_size
        + teacher.hidden_size * teacher.projection_dim
    )
    return Cost(
        student_parameters=student_parameters,
        teacher_parameters=teacher_parameters,
        visible_tokens=visible,
        student_flops=student_flops,
        teacher_flops=teacher_flops,
        # weights, gradients and two moments in float32; the teacher in 16 bit
        state_bytes=16 * student_parameters + 2 * teacher_parameters,
        activation_bytes=ACTIVATION_BYTES * visible * width * student.num_hidden_layers,
    )


def encoder_layer_parameters(hidden_size: int, intermediate_size: int, num_attention_biases: int) -> int:
    """Parameters of one block; UMT's attention has biases on query, value and output, CLIP's on keys too."""
    attention = 4 * hidden_size**2 + num_attention_biases * hidden_size
    mlp = 2 * hidden_size * intermediate_size + hidden_size + intermediate_size
    return attention + mlp + 4 * hidden_size


def describe_cost(cost: Cost, num_clips: int, num_epochs: float, num_masks: int, batch: int, num_devices: int) -> str:
    """The estimate as text."""
    lines = [
        f"student {cost.student_parameters / 1e6:,.1f} M parameters, teacher {cost.teacher_parameters / 1e6:,.1f} M",
        f"forward of a clip: teacher {cost.teacher_flops / 1e12:.3f} TFLOP, student {cost.student_flops / 1e12:.3f} "
        f"TFLOP on {cost.visible_tokens} visible tokens",
        f"training on a clip: {cost.training_flops(num_masks) / 1e12:.3f} TFLOP at {num_masks} mask(s) a teacher pass",
        f"memory a device at {batch} clips: about {cost.state_bytes / 2**30:.1f} GiB of state and "
        f"{batch * num_masks * cost.activation_bytes / 2**30:.1f} GiB of activations",
    ]
    for name, peak in DEVICES.items():
        hours = cost.hours(num_clips * num_epochs, num_masks, num_devices, peak)
        lines.append(
            f"{num_clips:,} clips x {num_epochs:g} epochs: {hours:,.1f} hours on {num_devices} {name}, assuming "
            f"{ASSUMED_UTILISATION:.0%} of {peak / 1e12:.0f} TFLOP/s"
        )
    return "\n".join(lines)
