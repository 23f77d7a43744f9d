"""The model card of a model fine-tuned for question answering: what it was trained on and how, what it scored, and how
to ask it."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .card_template import code_block, environment, render_card, table
from .model_card import curves, eval_name, hub_name, shown

USE = """from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor

processor = AutoProcessor.from_pretrained("{model}", trust_remote_code=True)
model = AutoModelForVisualQuestionAnswering.from_pretrained("{model}", trust_remote_code=True).eval()
asked = processor(videos="clip.mp4", text="what is the man doing?", return_tensors="pt")
print(processor.tokenizer.batch_decode(model.generate(**asked), skip_special_tokens=True))
answers = ["dancing", "running", "singing"]
candidates = processor.encode_answers(answers, return_tensors="pt")
order, scores = model.rank_answers(**asked, candidate_ids=candidates["input_ids"])
print([answers[place] for place in order[0]], scores[0])
"""


def question_answering_card(
    trainer: Any, model_name: str | None, license: str | None, tags: list[str] | None
) -> ModelCard:
    """The card of the model that a `UMTQuestionAnsweringTrainer` has trained; see `model_card.trainer_card`."""
    args, run = trainer.args, trainer.run
    model_id = trainer.hub_model_id or args.hub_model_id
    model_name = model_name or Path(model_id or args.output_dir).name
    license = license or getattr(run, "license", None)
    accuracy = final_accuracy(args, trainer.state)
    score = EvalResult(
        task_type="visual-question-answering",
        dataset_type=hub_name(getattr(run, "data", None)) or "videos",
        dataset_name=eval_name(run),
        metric_type="accuracy",
        metric_name="Accuracy (%)",
        metric_value=accuracy and round(accuracy, 2),
    )
    data = ModelCardData(
        model_name=model_name,
        license=license,
        library_name="transformers",
        pipeline_tag="visual-question-answering",
        tags=["video", "unmasked-teacher", *(tags or [])],
        base_model=hub_name(getattr(run, "init_from", None)),
        eval_results=None if accuracy is None else [score],
    )
    stated = f"{license}." if license else "Whoever trained this model has not stated a licence for it."
    results = "Not evaluated during training."
    if accuracy is not None:
        results = (
            f"{accuracy:.2f} % of the questions of {eval_name(run)} are answered right, by choosing from "
            f"{len(trainer.candidates)} answers."
        )
    return render_card(
        data,
        title=model_name,
        summary=describe_model(trainer.model.config),
        use=code_block(USE.format(model=model_id or Path(args.output_dir).name)),
        data=describe_data(trainer),
        training=table(("setting", "value"), settings(trainer)) + curves(args.output_dir),
        results=results,
        environment=table(("package", "version"), environment()),
        licence=f"{stated} The weights it started from, the videos and the questions have licences of their own.",
    )


def final_accuracy(args: Any, state: Any) -> float | None:
    """The accuracy of the weights that training ended with, if it was measured."""
    step = state.global_step
    if args.load_best_model_at_end and state.best_global_step:
        step = state.best_global_step
    logged = [entry for entry in state.log_history if entry["step"] == step and "eval_accuracy" in entry]
    return logged[-1]["eval_accuracy"] if logged else None


def describe_model(config: Any) -> str:
    video, text = config.vision_config, config.text_config
    height, width = video.image_height_width
    return (
        f"An Unmasked Teacher (UMT) model that answers questions about videos: a video encoder of "
        f"{video.num_hidden_layers} layers of width {video.hidden_size} for clips of {video.num_frames} frames of "
        f"{width} x {height} pixels, a text encoder of {text.num_hidden_layers} layers, and an answer decoder of "
        f"{text.num_hidden_layers - text.fusion_layer}."
    )


def describe_data(trainer: Any) -> str:
    source = f"`{shown(trainer.run.data)}`" if trainer.run else "a data set given in Python"
    lines = [f"Trained on {source}: {len(trainer.train_dataset):,} questions."]
    if trainer.eval_dataset is not None:
        lines.append(f"Evaluated on {eval_name(trainer.run)}: {len(trainer.eval_dataset):,} questions.")
    return "\n".join(lines)


def settings(trainer: Any) -> list[tuple[str, Any]]:
    """What decides a run's outcome, as (name, value)."""
    args, run, state = trainer.args, trainer.run, trainer.state
    rows = [("started from", shown(run.init_from))] if run is not None else []
    return [
        *rows,
        ("steps", f"{state.global_step} ({state.epoch or 0:g} epochs)"),
        ("effective batch", f"{args.effective_batch_size} questions"),
        ("peak learning rate", f"{args.learning_rate:.4g}"),
        ("warm-up", f"{trainer.num_warmup_steps(state.max_steps)} steps"),
        ("optimiser", f"{args.optim.value}, betas ({args.adam_beta1:g}, {args.adam_beta2:g})"),
        ("weight decay", args.weight_decay),
        ("stochastic depth", trainer.model.config.vision_config.drop_path_rate),
        ("tokens of a question", trainer.processing_class.max_text_length),
        ("precision", "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"),
        ("seed", args.seed),
    ]
