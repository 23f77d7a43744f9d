"""The model card of a trained model: what it was trained on and how, what it scored, and how to run it.

Not of the paper. Unusual: everything on the card comes from the trainer that trained the model, and what the trainer
does not know (a licence, a name of the data) is said to be missing. Local paths are told by their last part alone.
"""

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from transformers import TrainingArguments

from modeling_umt import UMTForVideoClassification

from ..pictures.run_pictures import CURVES
from .card_template import code_block, environment, render_card, table

# Fields that a card tells, if the run's arguments have them.
RUN_FIELDS = {
    "init_from": "started from",
    "teacher": "teacher",
    "preset": "preset",
    "lora_rank": "LoRA rank",
    "sampling": "frame sampling",
    "flip": "horizontal flip",
}
ARGUMENT_FIELDS = {
    "layer_decay": "layer-wise rate decay",
    "weight_decay": "weight decay",
    "label_smoothing_factor": "label smoothing",
    "mixup_alpha": "mixup alpha",
    "cutmix_alpha": "CutMix alpha",
    "ema_decay": "decay of the averaged weights",
    "mask_type": "masking",
    "mask_ratio": "masked share",
    "num_masks_per_clip": "masks for a teacher pass",
    "seed": "seed",
}

CLASSIFY = """from transformers import pipeline

classifier = pipeline("video-classification", model="{model}", trust_remote_code=True)
print(classifier("clip.mp4", top_k=5))
"""

CLASSIFY_WITH_ADAPTER = """from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

folder = {folder}
base = AutoModelForVideoClassification.from_pretrained(f"{{folder}}/base", trust_remote_code=True)
processor = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
model = PeftModel.from_pretrained(base, folder).eval()
logits = model(**processor("clip.mp4", return_tensors="pt")).logits
print(base.config.id2label[logits.argmax().item()])
"""

EMBED = """import torch
from transformers import AutoModel, AutoVideoProcessor

processor = AutoVideoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModel.from_pretrained("{model}", trust_remote_code=True)
with torch.inference_mode():
    outputs = model(**processor("clip.mp4", return_tensors="pt"))
print(outputs.pooler_output.shape)
"""


def trainer_card(
    trainer: Any, model_name: str | None = None, license: str | None = None, tags: list[str] | None = None
) -> ModelCard:
    """The card of the model that a `UMTTrainer` has trained.

    Args:
        trainer: A trainer; `trainer.run`, if it is set, tells data and start (`FineTuningRun`, `PreTrainingRun`).
        model_name: Defaults to the last part of `hub_model_id` or `output_dir`.
        license: An identifier of the Hub; defaults to the run's.
        tags: More tags.
    """
    args, run = trainer.args, trainer.run
    model_id = trainer.hub_model_id or args.hub_model_id
    model_name = model_name or Path(model_id or args.output_dir).name
    license = license or getattr(run, "license", None)
    results = final_evaluation(args, trainer.state)
    scores = [
        EvalResult(
            task_type="video-classification",
            dataset_type=hub_name(getattr(run, "data", None)) or "videos",
            dataset_name=eval_name(run),
            metric_type="accuracy",
            metric_name=f"{name}, single centre view",
            metric_value=round(results[key], 2),
        )
        for key, name in (("eval_top1", "Top-1 accuracy (%)"), ("eval_top5", "Top-5 accuracy (%)"))
        if key in results
    ]
    data = ModelCardData(
        model_name=model_name,
        license=license,
        library_name="peft" if isinstance(trainer.model, PeftModel) else "transformers",
        pipeline_tag="video-classification" if is_classifier(trainer) else None,
        tags=["video", "unmasked-teacher", *(tags or [])],
        base_model=hub_name(getattr(run, "init_from", None)),
        datasets=hub_name(getattr(run, "data", None)),
        eval_results=scores or None,
    )
    stated = f"{license}." if license else "Whoever trained this model has not stated a licence for it."
    return render_card(
        data,
        title=model_name,
        summary=describe_model(trainer),
        use=code_block(snippet(trainer, model_id)),
        data=describe_data(trainer),
        training=table(("setting", "value"), recipe_rows(trainer)) + curves(args.output_dir),
        results=describe_results(trainer, results),
        environment=table(("package", "version"), environment()),
        licence=f"{stated} The weights it started from and the videos have licences of their own.",
    )


def is_classifier(trainer: Any) -> bool:
    model = trainer.model
    return isinstance(model.get_base_model() if isinstance(model, PeftModel) else model, UMTForVideoClassification)


def describe_model(trainer: Any) -> str:
    config = trainer.model.config
    height, width = config.image_height_width
    does = f"labels clips with one of {config.num_labels} classes" if is_classifier(trainer) else "encodes clips"
    return (
        f"An Unmasked Teacher (UMT) video model that {does}: {config.num_hidden_layers} layers of width "
        f"{config.hidden_size}, for clips of {config.num_frames} frames of {width} x {height} pixels."
    )


def snippet(trainer: Any, model_id: str | None) -> str:
    """Code that runs the model from the Hub, or from the folder it was saved in."""
    model = model_id or Path(trainer.args.output_dir).name
    if not is_classifier(trainer):
        return EMBED.format(model=model)
    if isinstance(trainer.model, PeftModel):
        return CLASSIFY_WITH_ADAPTER.format(folder=f'snapshot_download("{model}")' if model_id else f'"{model}"')
    return CLASSIFY.format(model=model)


def describe_data(trainer: Any) -> str:
    source = f"`{shown(trainer.run.data)}`" if trainer.run else "a data set given in Python"
    try:
        size = f"{len(trainer.train_dataset)} videos"
    except TypeError:
        size = "a stream of videos"
    lines = [f"Trained on {source}: {size}."]
    config = trainer.model.config
    if is_classifier(trainer):
        names = [config.id2label[index] for index in range(config.num_labels)]
        lines.append(f"Classes: {', '.join(names[:50])}{' …' if len(names) > 50 else ''}.")
    if trainer.eval_dataset is not None:
        lines.append(f"Evaluated on {eval_name(trainer.run)}: {len(trainer.eval_dataset)} videos.")
    return "\n".join(lines)


def recipe_rows(trainer: Any) -> list[tuple[str, Any]]:
    """What decides a run's outcome, as (name, value)."""
    args, run, state = trainer.args, trainer.run, trainer.state
    rows = [(name, getattr(run, field, None)) for field, name in RUN_FIELDS.items()]
    if getattr(run, "preset", None) != "lora":
        rows = [(name, value) for name, value in rows if name != RUN_FIELDS["lora_rank"]]
    rows = [(name, shown(value) if isinstance(value, str) else value) for name, value in rows]
    scale = args.effective_batch_size / 256
    rows += [
        ("steps", f"{state.global_step} ({state.epoch or 0:g} epochs)"),
        (
            "effective batch",
            f"{args.effective_batch_size} = {args.world_size} processes x {args.train_batch_size} videos x "
            f"{args.gradient_accumulation_steps} accumulated x {args.views_per_clip} views",
        ),
        ("peak learning rate", f"{args.base_learning_rate * scale:.4g}"),
        (
            "last and first learning rate",
            f"{args.base_min_learning_rate * scale:.4g}, {args.base_warmup_learning_rate * scale:.4g}",
        ),
        ("warm-up", f"{trainer.num_warmup_steps(state.max_steps)} steps"),
        ("optimiser", f"{args.optim.value}, betas ({args.adam_beta1:g}, {args.adam_beta2:g})"),
        ("stochastic depth", trainer.model.config.drop_path_rate),
        ("precision", "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"),
    ]
    rows += [(name, getattr(args, field, None)) for field, name in ARGUMENT_FIELDS.items()]
    return [(name, value) for name, value in rows if value is not None]


def curves(folder: str) -> str:
    """The picture of the run's curves, if it was drawn."""
    return f"\n\n![Curves of the training run]({CURVES})" if os.path.exists(os.path.join(folder, CURVES)) else ""


def final_evaluation(args: TrainingArguments, state: Any) -> dict[str, float]:
    """The evaluation of the weights that training ended with, empty if there was none."""
    step = state.global_step
    if args.load_best_model_at_end and state.best_global_step:
        step = state.best_global_step
    logged = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] == step]
    return logged[-1] if logged else {}


def describe_results(trainer: Any, results: dict[str, float]) -> str:
    rows = [
        (name, f"{results[key]:.4g}")
        for key, name in (
            ("eval_top1", "top-1 accuracy, %"),
            ("eval_top5", "top-5 accuracy, %"),
            ("eval_loss", "loss"),
        )
        if key in results
    ]
    if not rows:
        return "Not evaluated during training."
    text = f"On {eval_name(trainer.run)}, one centre view of each video:\n\n" + table(("measure", "value"), rows)
    if trainer.args.load_best_model_at_end:
        text += (
            "\n\nThis evaluation chose the checkpoint, so it flatters the model; other videos would be a fair test."
        )
    if "eval_top1" in results:
        text += (
            "\n\nPublished UMT results are of several views a video: `umt evaluate --clips 4 --crops 3` measures such."
        )
    return text


def eval_name(run: Any) -> str:
    """The evaluation videos, in words."""
    if run is None:
        return "the evaluation videos"
    name = shown(getattr(run, "eval_data", None) or run.data)
    if getattr(run, "eval_split", None):
        return f"{name}, split {run.eval_split}"
    if getattr(run, "eval_share", 0):
        return f"{name}, a held-out share of {run.eval_share:g}"
    return name


def shown(source: str | None) -> str | None:
    """A name on the Hub as it is, and a local path by its last part."""
    if source is None or not (os.path.exists(source) or os.path.isabs(source)):
        return source
    return Path(source).resolve().name


def hub_name(source: str | None) -> str | None:
    """The Hub repository that a source is or lies in (`repository:file.pth`), or None."""
    repository = (source or "").split(":")[0]
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", repository) and not os.path.exists(repository)
    return repository if on_hub else None
