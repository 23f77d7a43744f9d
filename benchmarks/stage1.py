"""A step of stage 1, plain and fast: forward and backward pass of the student, forward pass of the teacher.

The plain step is that of `benchmarks/plain.py`. The fast step is `UMTPreTrainingTrainer.training_step` on `uint8`
clips, with one, two or four masks per forward pass of the teacher, and with compiled blocks. The optimiser is measured
separately, because its cost does not depend on the clips: PyTorch's loop over the parameters, as in the official code,
and the fused implementation that the trainer uses. Before the measurement, the loss of both steps is compared on the
same clips and masks.

    python -m benchmarks.stage1 --size b16 --batch 2 [--device cuda] [--rounds 10] [--only fast_bfloat16 ...]

Contenders: plain_float32, plain_bfloat16, plain_bfloat16_teacher, fast_float32, fast_bfloat16, fast_bfloat16_teacher,
fast_bfloat16_2masks, fast_bfloat16_4masks, fast_bfloat16_compiled, fast_float32_at_once and fast_bfloat16_at_once,
which keep all aligned layers for the backward pass, adamw_loop, adamw_fused. FLOPs are the useful ones, counted by
`training/runs/estimate.py`, and equal for contenders of the same task. For the largest batch, see
`benchmarks/largest_batch.py`.
"""

import tempfile
from functools import partial

import torch

from modeling_umt import UMTForPreTraining, UMTTeacherModel
from modeling_umt.objectives_umt import unmasked_token_alignment_loss
from modeling_umt.token_selection_umt import attention_token_selection, mask_from_visible_indices
from umt_training.runs.estimate import Cost, estimate_pretraining
from umt_training.trainers.pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer

from . import sizes
from .harness import Contender, as_markdown, environment, measure, measurement_parser, write
from .plain import PlainStageOne

CONTENDERS = (
    "plain_float32",
    "plain_bfloat16",
    "plain_bfloat16_teacher",
    "fast_float32",
    "fast_bfloat16",
    "fast_bfloat16_teacher",
    "fast_bfloat16_2masks",
    "fast_bfloat16_4masks",
    "fast_bfloat16_compiled",
    "fast_float32_at_once",
    "fast_bfloat16_at_once",
    "adamw_loop",
    "adamw_fused",
)
MASK_RATIO = 0.8


class AtOnceTrainer(UMTPreTrainingTrainer):
    """Decodes all aligned layers before comparing them: the same loss, but the activations of all decoders are kept
    for the backward pass. One mask per clip."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        clips = self.pixel_values(inputs["pixel_values_videos"])
        visible_indices, targets = self.compute_targets(clips, inputs["sample_seeds"], self.args.mask_ratio)
        outputs = model(pixel_values_videos=clips, visible_indices=visible_indices)
        return unmasked_token_alignment_loss(outputs.student_features, targets)


class FastStep:
    """The trainer's step on one batch, without its loop.

    Args:
        student, teacher: The trainer changes both: it casts the teacher and sets the student's precision.
        clips: uint8 (B, T, C, H, W) on the CPU.
        dtype: Data type of the arithmetic.
        device: Device of the step.
        folder: Output folder of the trainer.
        compiled: Whether blocks are compiled.
        trainer_class: Class of the trainer.
    """

    def __init__(
        self,
        student: UMTForPreTraining,
        teacher: UMTTeacherModel,
        clips: torch.Tensor,
        dtype: torch.dtype,
        device: torch.device,
        folder: str,
        compiled: bool = False,
        trainer_class: type[UMTPreTrainingTrainer] = UMTPreTrainingTrainer,
    ):
        args = UMTPreTrainingArguments(
            output_dir=folder,
            mask_ratio=MASK_RATIO,
            bf16=dtype == torch.bfloat16,
            use_cpu=device.type == "cpu",
            torch_compile=compiled,
            report_to="none",
        )
        self.trainer = trainer_class(model=student, teacher=teacher, args=args)
        self.trainer.current_gradient_accumulation_steps = 1  # set by the trainer's loop
        self.model = self.trainer.accelerator.prepare(self.trainer.model)
        self.set_clips(clips)

    def set_clips(self, clips: torch.Tensor) -> None:
        """Set the clips of the step."""
        device = self.trainer.args.device
        seeds = torch.arange(len(clips), device=device)
        self.inputs = {"pixel_values_videos": clips.to(device), "sample_seeds": seeds}

    def step(self, num_masks: int = 1) -> torch.Tensor:
        """Compute the gradients of the batch; returns the loss, on the device."""
        trainer = self.trainer
        trainer.args.num_masks_per_clip = num_masks
        trainer.model.zero_grad()
        loss = trainer.training_step(self.model, dict(self.inputs))
        # the guard reads these before the optimiser's step and at the next log line, which do not happen here
        trainer.guard.micro_batches.clear()
        trainer.guard.were_finite.clear()
        trainer.timer.pending.clear()
        return loss

    def compute_targets(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The forward pass of the teacher alone: `visible_indices` and targets."""
        clips = self.trainer.pixel_values(self.inputs["pixel_values_videos"])
        return self.trainer.compute_targets(clips, self.inputs["sample_seeds"], MASK_RATIO)


def cost_of_clip(size: str) -> Cost:
    """FLOPs of a clip for a model size."""
    with torch.device("meta"):
        student, teacher = sizes.student(size), sizes.teacher(size)
    seeds = torch.zeros(1, dtype=torch.int64, device="meta")
    select = partial(attention_token_selection, mask_ratio=MASK_RATIO, sample_seeds=seeds)
    return estimate_pretraining(student, teacher, select)


def gradients_differ(plain: PlainStageOne, fast: FastStep) -> dict[str, float]:
    """Losses of both steps for the same masks, and the relative difference of a gradient."""
    loss = fast.step().item()
    visible_indices, _ = fast.compute_targets()
    tokens = fast.trainer.model.umt.embeddings.position_embeddings.shape[0]
    mask = mask_from_visible_indices(visible_indices, tokens).cpu()
    clips = fast.trainer.pixel_values(fast.inputs["pixel_values_videos"]).transpose(1, 2)
    plain.student.zero_grad()
    plain_loss = plain.step(clips, mask=mask)
    ours = fast.trainer.model.umt.layers[0].mlp.fc1.weight.grad
    theirs = plain.student.blocks[0].fc1.weight.grad
    return {"plain_loss": plain_loss, "fast_loss": loss, "relative_gradient_difference": relative(ours, theirs)}


def at_once_differs(fast: FastStep, at_once: FastStep) -> dict[str, float]:
    """Loss of the step that keeps all aligned layers, and the largest relative difference of its gradients."""
    losses, gradients = [], []
    for step in (fast, at_once):
        losses.append(step.step().item())
        gradients.append({name: tensor.grad for name, tensor in step.trainer.model.named_parameters()})
    difference = max(relative(gradient, gradients[0][name]) for name, gradient in gradients[1].items())
    return {"at_once_loss": losses[1], "largest_relative_gradient_difference_at_once": difference}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def make_contenders(
    size: str, batch: int, device: torch.device, only: list[str], folder: str
) -> tuple[dict[str, Contender], dict[str, dict[str, float]]]:
    """The contenders named in `only`, and the differences between plain and fast in each precision."""
    cost = cost_of_clip(size)
    clips = sizes.clips(batch, sizes.student(size).config)
    plain = PlainStageOne(sizes.student(size), sizes.teacher(size), None).to(device)
    # each contender has its own models: accelerate prepares a model only once, with the precision of that time
    fast_step = partial(FastStep, clips=clips, device=device, folder=folder)
    contenders, agreement = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        if not any(name in contender for contender in only):
            continue
        fast = fast_step(sizes.student(size), sizes.teacher(size), dtype=dtype)
        plain_of = PlainStageOne.__new__(PlainStageOne)  # the same modules in another precision
        plain_of.__dict__.update(plain.__dict__ | {"autocast": None if dtype == torch.float32 else dtype})
        agreement[name] = gradients_differ(plain_of, fast)
        # the official data loader normalises
        videos = fast.trainer.pixel_values(clips).transpose(1, 2).contiguous()

        def step(flops: float, run, dtype=dtype) -> Contender:
            return Contender(run, units=batch, flops=batch * flops, dtype=dtype)

        contenders[f"plain_{name}"] = step(cost.training_flops(1), partial(plain_step, plain_of, videos, device))
        contenders[f"fast_{name}"] = step(cost.training_flops(1), fast.step)
        if f"fast_{name}_at_once" in only:
            at_once = fast_step(sizes.student(size), sizes.teacher(size), dtype=dtype, trainer_class=AtOnceTrainer)
            agreement[name] |= at_once_differs(fast, at_once)
            contenders[f"fast_{name}_at_once"] = step(cost.training_flops(1), at_once.step)
        if dtype == torch.float32:
            continue
        contenders[f"plain_{name}_teacher"] = step(
            cost.teacher_flops, partial(plain_teacher, plain_of, videos, device)
        )
        contenders[f"fast_{name}_teacher"] = step(cost.teacher_flops, fast.compute_targets)
        for masks in (2, 4):
            views = step(cost.training_flops(masks), partial(fast.step, masks))
            views.units = batch * masks
            contenders[f"fast_{name}_{masks}masks"] = views
        if f"fast_{name}_compiled" in only:
            compiled = fast_step(sizes.student(size), sizes.teacher(size), dtype=dtype, compiled=True)
            contenders[f"fast_{name}_compiled"] = step(cost.training_flops(1), compiled.step)
    student = sizes.student(size).to(device)
    for name, options in (("adamw_loop", {"foreach": False}), ("adamw_fused", {"fused": True})):
        if name in only:
            optimizer = torch.optim.AdamW(student.parameters(), lr=0.0, **options)
            contenders[name] = Contender(partial(optimizer_step, student, optimizer), units=batch)
    return {name: contender for name, contender in contenders.items() if name in only}, agreement


def plain_step(plain: PlainStageOne, videos: torch.Tensor, device: torch.device) -> None:
    plain.student.zero_grad()
    plain.step(videos.to(device), MASK_RATIO)


def plain_teacher(plain: PlainStageOne, videos: torch.Tensor, device: torch.device) -> None:
    with torch.autocast(device.type, plain.autocast):
        plain.compute_targets(videos.to(device), MASK_RATIO)


def optimizer_step(student: UMTForPreTraining, optimizer: torch.optim.Optimizer) -> None:
    for parameter in student.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes.ENCODERS, default="b16")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        contenders, agreement = make_contenders(options.size, options.batch, device, options.only, folder)
        print(agreement, flush=True)
        measured = measure(contenders, device, options.rounds, options.warmup, options.matmul_side)
    remarks = {"batch": options.batch, "plain = fast": agreement}
    results = {"environment": environment(device), "remarks": remarks, "contenders": measured}
    title = f"Stage 1, {options.size}, a step of {options.batch} clips, {device.type}"
    baseline = "plain_bfloat16" if "plain_bfloat16" in measured else None
    page = as_markdown(title, results, "views", baseline)
    write(options.output, f"stage1_{options.size}_{device.type}{options.tag}", results, page)
    return results


if __name__ == "__main__":
    main()
