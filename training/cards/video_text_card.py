"""The model card of a stage-2 run: what the model is, how to use it, and what it was trained on and how."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .card_template import code_block, environment, render_card, table
from .model_card import curves, hub_name, shown

USE = """from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModel.from_pretrained("{model}", trust_remote_code=True).eval()
inputs = processor(text=["a dog runs", "a cat sleeps"], videos="clip.mp4", return_tensors="pt")
print(model(**inputs).logits_per_video.softmax(dim=-1))
"""
OBJECTIVES = {
    "vtc_weight": "contrast",
    "vtm_weight": "matching",
    "mlm_weight": "masked language modelling",
    "uta_weight": "alignment with the teacher",
}


def video_text_card(trainer: Any, model_name: str | None, license: str | None, tags: list[str] | None) -> ModelCard:
    """The card of the model that a `UMTVideoTextTrainer` has trained; see `model_card.trainer_card`."""
    args, run, config = trainer.args, trainer.run, trainer.model.config
    model_id = trainer.hub_model_id or args.hub_model_id
    model_name = model_name or Path(model_id or args.output_dir).name
    license = license or getattr(run, "license", None)
    starts = [
        name for name in (hub_name(getattr(run, "init_from", None)), hub_name(getattr(run, "text", None))) if name
    ]
    data = ModelCardData(
        model_name=model_name,
        license=license,
        library_name="transformers",
        tags=["video", "video-text-retrieval", "unmasked-teacher", *(tags or [])],
        base_model=starts or None,
    )
    stated = f"{license}." if license else "Whoever trained this model has not stated a licence for it."
    return render_card(
        data,
        title=model_name,
        summary=describe_model(config),
        use=code_block(USE.format(model=model_id or Path(args.output_dir).name)),
        data=describe_data(trainer),
        training=table(("setting", "value"), settings(trainer)) + curves(args.output_dir),
        results=describe_results(trainer),
        environment=table(("package", "version"), environment()),
        licence=f"{stated} The weights it started from, the videos and the captions have licences of their own.",
    )


def describe_model(config: Any) -> str:
    video, text = config.vision_config, config.text_config
    height, width = video.image_height_width
    return (
        f"An Unmasked Teacher (UMT) model of video and text: a video encoder of {video.num_hidden_layers} layers of "
        f"width {video.hidden_size} for clips of {video.num_frames} frames of {width} x {height} pixels, and a text "
        f"encoder of {text.num_hidden_layers} layers of width {text.hidden_size}, of which the last "
        f"{text.num_hidden_layers - text.fusion_layer} also look at the video. It compares videos with texts, as two "
        "towers or, more closely, by `match`."
    )


def describe_data(trainer: Any) -> str:
    run = trainer.run
    source = "a data set given in Python"
    if run is not None:
        source = ", ".join(f"`{shown(name)}`" for name in (*run.video_data, *run.image_data))
    lines = [f"Trained on {source}: {len(trainer.train_dataset):,} captioned videos and images."]
    if trainer.eval_dataset is not None:
        name = shown(run.eval_data) if run is not None else "held-out videos"
        lines.append(f"Evaluated on {name}: {len(trainer.eval_dataset):,} pairs.")
    return "\n".join(lines)


def settings(trainer: Any) -> list[tuple[str, Any]]:
    """What decides a run's outcome, as (name, value)."""
    args, run, config = trainer.args, trainer.run, trainer.model.config
    rows = []
    if run is not None:
        rows = [
            ("started from", shown(run.init_from)),
            ("text encoder", shown(run.text)),
            ("teacher", shown(run.teacher) if config.uta_weight > 0 else None),
            ("pairs that belong together", f"of one {run.positives}"),
        ]
    rows += [(f"weight of {name}", f"{getattr(config, field):g}") for field, name in OBJECTIVES.items()]
    rows += [
        ("contrastive gradients", args.contrastive_gradients),
        ("steps", f"{trainer.state.global_step} ({trainer.state.epoch or 0:g} epochs)"),
        ("batch", f"{args.effective_batch_size} of {args.world_size} processes"),
        ("peak learning rate", f"{args.learning_rate:.4g}, down to {args.learning_rate_floor:g} of it"),
        ("warm-up", f"{trainer.num_warmup_steps(trainer.state.max_steps)} steps"),
        ("optimiser", f"{args.optim.value}, betas ({args.adam_beta1:g}, {args.adam_beta2:g})"),
        ("weight decay", args.weight_decay),
        ("masking", f"{args.mask_type}, videos {args.mask_ratio:g}, images {args.image_mask_ratio:g}"),
        ("stochastic depth", config.vision_config.drop_path_rate),
        ("precision", "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"),
        ("seed", args.seed),
    ]
    return [(name, value) for name, value in rows if value is not None]


def describe_results(trainer: Any) -> str:
    logged = [line for line in trainer.state.log_history if "eval_mean_recall" in line]
    if not logged:
        return "Not evaluated during training."
    last = logged[-1]
    is_reranked = "eval_dual_encoder_mean_recall" in last
    order = "of both encoders, re-ranked" if is_reranked else "of the two towers, not re-ranked"
    rows = [
        (f"{name}, R@{rank}", f"{last[f'eval_{key}_r{rank}']:.4g}")
        for key, name in (("text_to_video", "text to video"), ("video_to_text", "video to text"))
        for rank in (1, 5, 10)
    ]
    return (
        f"Recall in percent {order}:\n\n"
        + table(("measure", "value"), rows)
        + f"\n\nGuessing reaches {last['eval_chance_r1']:g} at R@1."
    )
