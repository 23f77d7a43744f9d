"""A step of MVD, of VideoMAE and of stage 1 of UMT with encoders of the same size, and the part of their teachers.

Each is `training_step` of its trainer: forward and backward pass of the student, forward pass of the teachers, without
the optimiser. Clips have 8 x 14 x 14 tokens: 16 frames in tubelets of two for MVD and VideoMAE, 8 frames for stage 1.
Masks hide 90 % of them, in stage 1 80 %. Teachers have the size of the student's encoder; decoders are those of the
published ViT-B, in proportion. FLOPs are those of `umt pretrain --estimate`.

    python -m benchmarks.pretraining_methods [--size b16] [--batch 2] [--device cuda] [--dtype bfloat16]

`narrow` has the blocks of ViT-B and an eighth of its width, which a CPU measures in a few minutes; `tiny` has smaller
clips too.
"""

import tempfile
from collections.abc import Callable
from functools import partial

import torch

from modeling_umt import (
    UMTConfig,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTImageTeacherConfig,
    UMTImageTeacherModel,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
)
from modeling_umt.token_selection_umt import attention_token_selection, tube_token_selection
from umt_training.runs.estimate import estimate_pretraining
from umt_training.runs.estimate_masked_modeling import estimate_masked_modeling
from umt_training.trainers.base_trainer import UMTTrainer
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments, UMTMaskedModelingTrainer
from umt_training.trainers.pretraining import UMTPreTrainingArguments, UMTPreTrainingTrainer

from . import sizes
from .harness import Contender, as_markdown, environment, measure, measurement_parser, write
from .training_steps import step

NARROW = {"hidden_size": 96, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 384}
ENCODERS = {"tiny": sizes.TINY, "narrow": NARROW, "b16": sizes.B16}
METHODS = ("mvd", "videomae", "stage1")
MASK_RATIOS = {"mvd": 0.9, "videomae": 0.9, "stage1": 0.8}


def make_models(method: str, size: str) -> tuple[torch.nn.Module, dict[str, torch.nn.Module]]:
    """The student of a method, and its teachers."""
    encoder, image_size = ENCODERS[size], 64 if size == "tiny" else 224
    torch.manual_seed(0)
    if method == "stage1":
        aligned = {"num_aligned_layers": min(6, encoder["num_hidden_layers"])}
        student = UMTConfig(num_frames=8, image_size=image_size, target_dim=512, **aligned, **encoder)
        teacher = UMTTeacherConfig(image_size=image_size, patch_size=16, projection_dim=512, **aligned, **encoder)
        return UMTForPreTraining(student).train(), {"clip": UMTTeacherModel(teacher)}
    width, clip = encoder["hidden_size"], {"num_frames": 16, "tubelet_size": 2, "image_size": image_size}
    if method == "videomae":
        fields = {
            "position_grid": None,
            "masked_targets": {"pixels": 1536},
            "masked_loss": "mse",
            "normalize_targets": True,
            "decoder_hidden_size": width // 2,
            "decoder_num_attention_heads": max(1, encoder["num_attention_heads"] // 2),
            "decoder_num_hidden_layers": 4,
            "decoder_projection_bias": False,
        }
        return UMTForMaskedModeling(UMTConfig(**clip, **encoder, **fields)).train(), {}
    fields = {"position_type": "space_time", "masked_targets": {"image": width, "video": width}}
    teachers = {
        "image": UMTImageTeacherModel(UMTImageTeacherConfig(image_size=image_size, **encoder)),
        "video": UMTModel(UMTConfig(position_grid=None, final_norm="none", **clip, **encoder)),
    }
    return UMTForMaskedModeling(UMTConfig(**clip, **encoder, **fields)).train(), teachers


def cost_of_clip(method: str, size: str) -> tuple[int, int]:
    """FLOPs of a step for a clip, and of its teachers alone."""
    with torch.device("meta"):
        student, teachers = make_models(method, size)
    ratio = MASK_RATIOS[method]
    if method == "stage1":
        seeds = torch.zeros(1, dtype=torch.int64, device="meta")
        select = partial(attention_token_selection, mask_ratio=ratio, sample_seeds=seeds)
        cost = estimate_pretraining(student, teachers["clip"], select)
        return cost.training_flops(1), cost.teacher_flops
    cost = estimate_masked_modeling(student, teachers, tube_token_selection, ratio)
    return cost.training_flops, sum(cost.teacher_flops.values())


def make_trainer(
    method: str, size: str, **arguments
) -> tuple[UMTTrainer, Callable[[dict[str, torch.Tensor]], object]]:
    """The trainer of a method, and the function that runs its teachers alone on a batch."""
    student, teachers = make_models(method, size)
    common = {"mask_ratio": MASK_RATIOS[method], **arguments}
    if method == "stage1":
        trainer = UMTPreTrainingTrainer(student, teachers["clip"], UMTPreTrainingArguments(**common))

        def teach(batch: dict[str, torch.Tensor]) -> object:
            clips = trainer.pixel_values(batch["pixel_values_videos"])
            return trainer.compute_targets(clips, batch["sample_seeds"], trainer.args.mask_ratio)

    else:
        trainer = UMTMaskedModelingTrainer(student, teachers, UMTMaskedModelingArguments(**common))

        def teach(batch: dict[str, torch.Tensor]) -> object:
            clips = trainer.pixel_values(batch["pixel_values_videos"])
            return trainer.compute_targets(clips, batch, trainer.select_tokens(clips, batch["sample_seeds"])[1])

    trainer.current_gradient_accumulation_steps = 1  # set by the trainer's loop
    return trainer, teach


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=ENCODERS, default="narrow")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    contenders, shares = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        common = {"output_dir": folder, "use_cpu": device.type == "cpu", "report_to": "none"}
        for method in METHODS:
            trainer, teach = make_trainer(method, options.size, bf16=options.dtype == "bfloat16", **common)
            model = trainer.accelerator.prepare(trainer.model)
            clips = sizes.clips(options.batch, trainer.model.config).to(device)
            batch = {"pixel_values_videos": clips, "sample_seeds": torch.arange(options.batch, device=device)}
            flops, teacher_flops = cost_of_clip(method, options.size)
            contenders[method] = Contender(
                partial(step, trainer, model, batch), options.batch, options.batch * flops, dtype
            )
            if teacher_flops:
                contenders[f"{method}, teachers"] = Contender(
                    partial(teach, batch), options.batch, options.batch * teacher_flops, dtype
                )
                shares[method] = {"of FLOPs": round(teacher_flops / flops, 3)}
        measured = measure(contenders, device, options.rounds, options.warmup, options.matmul_side)
    for method, share in shares.items():
        share["of CPU seconds"] = round(
            measured[f"{method}, teachers"]["cpu_seconds"] / measured[method]["cpu_seconds"], 3
        )
    results = {
        "environment": environment(device),
        "remarks": {"batch": options.batch, "part of the teachers": shares},
        "contenders": measured,
    }
    title = f"Pre-training steps, {options.size}, {options.batch} clips, {options.dtype}, {device.type}"
    page = as_markdown(title, results, "clips", "stage1")
    write(
        options.output,
        f"pretraining_methods_{options.size}_{options.dtype}_{device.type}{options.tag}",
        results,
        page,
    )
    return results


if __name__ == "__main__":
    main()
