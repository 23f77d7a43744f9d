"""The model card of a trained video encoder or classifier."""

from dataclasses import replace

from huggingface_hub import EvalResult
from peft import PeftModel
from transformers import Trainer

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForVideoClassification,
    UMTForMaskedModeling,
    UMTForVideoClassification,
)
from modeling_umt.configuration_umt import PIXELS

from ..data.class_indices import class_names_of
from .card_template import UMT_CITATION, cite, table
from .checkpoint_registry import read_registry
from .snippets import CLASSIFY, CLASSIFY_WITH_ADAPTER, EMBED
from .trainer_card import CardSections, describe_data, evaluated_dataset, evaluation_data, final_evaluation

# Training arguments in the table of settings; trainers have different ones.
ARGUMENTS = {
    "layer_decay": "layer-wise learning-rate decay",
    "label_smoothing_factor": "label smoothing",
    "mixup_alpha": "mixup alpha",
    "cutmix_alpha": "CutMix alpha",
    "ema_decay": "decay of the averaged weights",
    "mask_type": "mask type",
    "mask_ratio": "mask ratio",
    "num_masks_per_clip": "masks per clip",
}
METHODS = {"umt": "Unmasked Teacher (UMT)", "internvideo2": "InternVideo2"}  # by model type
MOST_CLASSES = 50  # that are named


def video_sections(trainer: Trainer) -> CardSections:
    """The sections of a classifier's or an encoder's card."""
    config = trainer.model.config
    height, width = config.image_height_width
    size = (
        f"{config.num_hidden_layers} layers of hidden size {config.hidden_size}, for clips of {config.num_frames} "
        f"frames of {width} x {height} pixels."
    )
    method = f"An {METHODS[config.model_type]}"
    encoder = CardSections(
        summary=f"{method} video model that encodes clips{pretraining_of(trainer)}: {size}",
        use=EMBED,
        data=describe_data(trainer, "videos"),
        results=describe_results(trainer),
        licensed="The weights it started from and the videos",
        unit="videos",
        citation=citation_of(config.model_type, type(trainer.model).__name__),
        settings={name: getattr(trainer.args, argument, None) for argument, name in ARGUMENTS.items()},
    )
    if not is_classifier(trainer):
        return encoder
    labels = f"labels clips with one of {config.num_labels} classes"
    has_adapter = isinstance(trainer.model, PeftModel)
    return replace(
        encoder,
        summary=f"{method} video model that {labels}: {size}",
        data=f"{encoder.data}\n{describe_classes(trainer)}",
        use=CLASSIFY_WITH_ADAPTER if has_adapter else CLASSIFY,
        scores=accuracies(trainer),
        pipeline_tag="video-classification",
        library_name="peft" if has_adapter else "transformers",
    )


def citation_of(model_type: str, architecture: str) -> str:
    """The papers of a model, by its type and class: that of its architecture, and UMT's where it is aligned."""
    if model_type != InternVideo2Config.model_type:
        return UMT_CITATION
    return cite(read_registry()["sources"]["internvideo2"]["citation"], architecture)


def pretraining_of(trainer: Trainer) -> str:
    """What a model of masked modelling was trained to predict, a clause; empty for other models."""
    if not isinstance(trainer.model, UMTForMaskedModeling):
        return ""
    targets = list(trainer.model.config.masked_targets)
    features = [name for name in targets if name != PIXELS]
    predicted = [PIXELS] if PIXELS in targets else []
    predicted += [f"features of teachers ({', '.join(features)})"] if features else []
    return f", pre-trained to predict {' and '.join(predicted)} at masked tokens"


def is_classifier(trainer: Trainer) -> bool:
    model = trainer.model
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    return isinstance(model, UMTForVideoClassification | InternVideo2ForVideoClassification)


def describe_classes(trainer: Trainer) -> str:
    names = class_names_of(trainer.model.config)
    return f"Classes: {', '.join(names[:MOST_CLASSES])}{' …' if len(names) > MOST_CLASSES else ''}."


def accuracies(trainer: Trainer) -> list[EvalResult]:
    """Top-1 and top-5 accuracy for the metadata."""
    results = final_evaluation(trainer, "eval_loss")
    return [
        EvalResult(
            task_type="video-classification",
            **evaluated_dataset(trainer),
            metric_type="accuracy",
            metric_name=f"{name}, single centre view",
            metric_value=round(results[key], 2),
        )
        for key, name in (("eval_top1", "Top-1 accuracy (%)"), ("eval_top5", "Top-5 accuracy (%)"))
        if key in results
    ]


def describe_results(trainer: Trainer) -> str:
    results = final_evaluation(trainer, "eval_loss")
    names = {"eval_top1": "top-1 accuracy, %", "eval_top5": "top-5 accuracy, %", "eval_loss": "loss"}
    rows = [(name, f"{results[key]:.4g}") for key, name in names.items() if key in results]
    if not rows:
        return "Not evaluated during training."
    text = f"On {evaluation_data(trainer)}, one centre view of each video:\n\n" + table(("measure", "value"), rows)
    if trainer.args.load_best_model_at_end:
        text += (
            "\n\nThe checkpoint was chosen by this evaluation, so the scores are optimistic; evaluate on other videos "
            "for an unbiased estimate."
        )
    if "eval_top1" in results:
        text += "\n\nPublished results average several views of a video, as `umt evaluate --clips 4 --crops 3` does."
    return text
