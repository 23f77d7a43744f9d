"""The model card of a trained model: the parts that all objectives share.

A card contains only facts that its trainer and [`RunFacts`] know, and states which are missing, such as a licence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import Trainer, TrainingArguments

from .card_template import UMT_CITATION, code_block, environment, render_card, table
from .run_facts import display_name, hub_names

NO_LICENCE = "Whoever trained this model has not stated a licence for it."


@dataclass(frozen=True)
class CardSections:
    """The parts of a card that depend on the objective.

    Args:
        summary: What the model is, in a sentence or two.
        use: Python code that runs the model, a template of `snippets`.
        data: Training and evaluation data, in sentences.
        results: Results of the last evaluation, in Markdown.
        licensed: Parts with licences of their own, the subject of a sentence.
        unit: What a batch counts, such as `videos`.
        citation: The papers of the model.
        settings: Rows of the table of settings, name to value; None values are left out.
        scores: Metrics for the card's metadata.
        tags: Tags on the Hub.
        pipeline_tag (*optional*): Task on the Hub.
        library_name: Library that loads the model.
    """

    summary: str
    use: str
    data: str
    results: str
    licensed: str
    unit: str
    citation: str = UMT_CITATION
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[EvalResult] = ()
    tags: tuple[str, ...] = ("video", "unmasked-teacher")
    pipeline_tag: str | None = None
    library_name: str = "transformers"


def trainer_card(
    trainer: Trainer,
    sections: CardSections,
    model_name: str | None = None,
    license: str | None = None,
    tags: list[str] | None = None,
) -> ModelCard:
    """The card of the model that a `UMTTrainer` has trained.

    Args:
        trainer: The trainer, whose `run_facts` contain data, start and licence.
        sections: The parts that depend on the objective.
        model_name: Defaults to the base name of `hub_model_id` or `output_dir`.
        license: An identifier of the Hub. Defaults to that of `run_facts`.
        tags: Additional tags.
    """
    facts = trainer.run_facts
    model_id = trainer.hub_model_id or trainer.args.hub_model_id
    folder = Path(trainer.args.output_dir).name
    model_name = model_name or Path(model_id or folder).name
    license = license or facts.license
    stated = f"{license}." if license else NO_LICENCE
    metadata = ModelCardData(
        model_name=model_name,
        license=license,
        library_name=sections.library_name,
        pipeline_tag=sections.pipeline_tag,
        tags=[*sections.tags, *(tags or [])],
        base_model=one_or_all(hub_names(facts.starts)),
        datasets=one_or_all(hub_names(facts.data)),
        eval_results=list(sections.scores) or None,
    )
    folder_code = f'snapshot_download("{model_id}")' if model_id else f'"{folder}"'
    curves = f"\n\n![Curves of the training run]({facts.curves})" if facts.curves else ""
    return render_card(
        metadata,
        title=model_name,
        summary=sections.summary,
        use=code_block(sections.use.format(model=model_id or folder, folder=folder_code)),
        data=sections.data,
        training=table(("setting", "value"), settings(trainer, sections)) + curves,
        results=sections.results,
        environment=table(("package", "version"), environment()),
        licence=f"{stated} {sections.licensed} have licences of their own.",
        citation=sections.citation,
    )


def one_or_all(names: list[str]) -> str | list[str] | None:
    """A single name by itself, as the metadata of the Hub allows."""
    return names[0] if len(names) == 1 else names or None


def settings(trainer: Trainer, sections: CardSections) -> list[tuple[str, Any]]:
    """The settings that determine the outcome of a run, as (name, value)."""
    args, state, config = trainer.args, trainer.state, trainer.model.config
    video = getattr(config, "vision_config", config)
    batch = (
        f"{args.effective_batch_size} = {args.world_size} processes x {args.train_batch_size} {sections.unit} x "
        f"{args.gradient_accumulation_steps} accumulated x {args.views_per_clip} views"
    )
    given = trainer.run_facts.settings
    rows = {
        **{name: display_name(value) if isinstance(value, str) else value for name, value in given.items()},
        "steps": f"{state.global_step} ({state.epoch or 0:g} epochs)",
        "effective batch": batch,
        **learning_rates(args),
        "warm-up": f"{trainer.num_warmup_steps(state.max_steps)} steps",
        "optimiser": f"{args.optim.value}, betas ({args.adam_beta1:g}, {args.adam_beta2:g})",
        "weight decay": args.weight_decay,
        "stochastic depth": video.drop_path_rate,
        "tokens dropped by motion": video.motion_drop_ratio or None,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "float32",
        **sections.settings,
        "seed": args.seed,
    }
    return [(name, value) for name, value in rows.items() if value is not None]


def learning_rates(args: TrainingArguments) -> dict[str, str]:
    """Peak and ends of the learning rate, after scaling by the batch size."""
    peak = f"{args.learning_rate:.4g}"
    if args.absolute_learning_rate:
        return {"peak learning rate": f"{peak}, floor {args.learning_rate * args.learning_rate_floor:.4g}"}
    scale = args.effective_batch_size / 256
    last, first = (f"{rate * scale:.4g}" for rate in (args.base_min_learning_rate, args.base_warmup_learning_rate))
    return {"peak learning rate": peak, "last and first learning rate": f"{last}, {first}"}


# --- for the sections -----------------------------------------------------------------------------------------------


def describe_data(trainer: Trainer, unit: str, evaluation_unit: str | None = None) -> str:
    """Names and sizes of the training and evaluation data, in sentences; `unit` is what the sizes count."""
    names = ", ".join(f"`{display_name(name)}`" for name in trainer.run_facts.data) or "a data set given in Python"
    try:
        size = f"{len(trainer.train_dataset):,} {unit}"
    except TypeError:
        size = f"a stream of {unit}"
    lines = [f"Trained on {names}: {size}."]
    if trainer.eval_dataset is not None:
        size = f"{len(trainer.eval_dataset):,} {evaluation_unit or unit}"
        lines.append(f"Evaluated on {evaluation_data(trainer)}: {size}.")
    return "\n".join(lines)


def evaluation_data(trainer: Trainer) -> str:
    """Name of the evaluation data, in words."""
    name = trainer.run_facts.eval_data
    return display_name(name) if name else "the evaluation videos"


def evaluated_dataset(trainer: Trainer) -> dict[str, str]:
    """The arguments of `EvalResult` that describe the evaluation data."""
    on_hub = hub_names(trainer.run_facts.data)
    return {"dataset_type": on_hub[0] if on_hub else "videos", "dataset_name": evaluation_data(trainer)}


def final_evaluation(trainer: Trainer, metric: str) -> dict[str, float]:
    """The logged evaluation with `metric` of the weights that training ended with; empty if there was none."""
    logged = [entry for entry in evaluations_of_weights(trainer) if metric in entry]
    return logged[-1] if logged else {}


def evaluations_of_weights(trainer: Trainer) -> list[dict[str, float]]:
    """The logged evaluations of the weights that training ended with: those of the best step if it was chosen."""
    state = trainer.state
    step = state.global_step
    if trainer.args.load_best_model_at_end and state.best_global_step:
        step = state.best_global_step
    return [
        entry
        for entry in state.log_history
        if entry["step"] == step and any(name.startswith("eval_") for name in entry)
    ]
