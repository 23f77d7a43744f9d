"""The trainers' steps of fine-tuning and of stage 2, with and without compiled blocks.

Forward and backward pass of `training_step`, without the optimiser, in float32 and with bf16 autocast. Fine-tuning:
all tokens, mixup, soft labels. Stage 2: 80 % of the tokens masked, texts of 32 tokens, four objectives, teacher.

    python -m benchmarks.training_steps --task finetuning --size b16 --batch 2 [--device cuda] [--compile]
    python -m benchmarks.training_steps --task stage2 --size b16 --batch 8 [--device cuda] [--compile]
"""

import tempfile
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_umt import UMTConfig, UMTForVideoClassification, UMTForVideoTextPreTraining, UMTVideoTextConfig
from umt_training.data.video_dataset import collate_clips
from umt_training.trainers.base_trainer import UMTTrainer
from umt_training.trainers.finetuning import UMTFineTuningArguments, UMTFineTuningTrainer
from umt_training.trainers.video_text import UMTVideoTextArguments, UMTVideoTextTrainer

from . import sizes
from .harness import Contender, as_markdown, environment, measure, measurement_parser, write

TEXT_LENGTH = 32
STAGE2_FRAMES = 4


def finetuning(size: str, batch: int, frames: int, **arguments) -> tuple[UMTTrainer, dict[str, torch.Tensor]]:
    """Trainer and batch of a classifier with 400 classes; `batch` is the number of clips."""
    torch.manual_seed(0)
    config = UMTConfig(**sizes.ENCODERS[size] | {"num_frames": frames}, num_labels=400)
    args = UMTFineTuningArguments(views_per_video=1, **arguments)
    inputs = {
        "pixel_values_videos": sizes.clips(batch, config),
        "labels": torch.arange(batch),
    }
    return UMTFineTuningTrainer(model=UMTForVideoClassification(config), args=args), inputs


def stage2(size: str, batch: int, frames: int, **arguments) -> tuple[UMTTrainer, dict[str, torch.Tensor]]:
    """Trainer and batch of stage 2."""
    torch.manual_seed(0)
    vision = sizes.ENCODERS[size] | {"num_frames": frames, "position_grid": None}
    text = sizes.TEXTS[size] | {"encoder_width": vision["hidden_size"]}
    config = UMTVideoTextConfig(vision_config=vision, text_config=text, projection_dim=vision.get("target_dim", 768))
    model = UMTForVideoTextPreTraining(config)
    trainer = UMTVideoTextTrainer(
        model=model,
        teacher=sizes.teacher(size),
        args=UMTVideoTextArguments(**arguments),
        processing_class=None,
        data_collator=collate_clips,
    )
    generator = torch.Generator().manual_seed(3)
    length = min(TEXT_LENGTH, config.text_config.max_position_embeddings)
    inputs = {
        "pixel_values_videos": sizes.clips(batch, config.vision_config),
        "sample_seeds": torch.arange(batch),
        "match_ids": torch.arange(batch),
        "input_ids": torch.randint(104, config.text_config.vocab_size, (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64),
    }
    return trainer, inputs


TASKS = {"finetuning": (finetuning, 8), "stage2": (stage2, STAGE2_FRAMES)}


def step(trainer: UMTTrainer, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the gradients of a batch; returns the loss, on the device."""
    trainer.model.zero_grad()
    loss = trainer.training_step(model, dict(inputs))
    trainer.guard.micro_batches.clear()
    trainer.guard.were_finite.clear()
    trainer.timer.pending.clear()
    if hasattr(trainer, "loss_parts"):  # read at the next log line
        trainer.loss_parts.losses.clear()
    return loss


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--size", choices=sizes.ENCODERS, default="b16")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, help="default: 8 in fine-tuning, 4 in stage 2")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="also measure compiled blocks in bf16")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    make, frames = TASKS[options.task]
    contenders, losses = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        common = {"output_dir": folder, "use_cpu": device.type == "cpu", "report_to": "none"}
        variants = [(name, False) for name in options.precision]
        # last, because compilation is switched on by environment variables of accelerate
        variants += [("bfloat16", True)] if options.compile else []
        for precision, compiled in variants:
            own = common | {"bf16": precision == "bfloat16", "torch_compile": compiled}
            trainer, inputs = make(options.size, options.batch, options.frames or frames, **own)
            trainer.current_gradient_accumulation_steps = 1  # set by the trainer's loop
            model = trainer.accelerator.prepare(trainer.model)
            inputs = {name: value.to(device) for name, value in inputs.items()}
            run = partial(step, trainer, model, inputs)
            name = f"{precision}_compiled" if compiled else precision
            if not contenders:  # the counter does not see the products of a compiled graph
                with FlopCounterMode(display=False) as counter:
                    run()
                flops = counter.get_total_flops()
            losses[name] = run().item()
            contenders[name] = Contender(run, options.batch, flops, getattr(torch, precision))
        measured = measure(contenders, device, options.rounds, options.warmup, options.matmul_side)
    results = {"environment": environment(device), "contenders": measured}
    results["remarks"] = {"batch": options.batch, "frames": options.frames or frames, "losses": losses}
    title = f"{options.task}, {options.size}, a step of {options.batch} clips, {device.type}"
    page = as_markdown(title, results, "clips", next(iter(contenders)))
    write(options.output, f"{options.task}_{options.size}_{device.type}{options.tag}", results, page)
    return results


if __name__ == "__main__":
    main()
