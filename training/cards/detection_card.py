"""The model card of an action detection model."""

from huggingface_hub import EvalResult
from transformers import Trainer

from ..data.class_indices import class_names_of
from .snippets import DETECT
from .trainer_card import CardSections, describe_data, evaluated_dataset, evaluation_data, final_evaluation

MOST_CLASSES = 80  # that are named


def detection_sections(trainer: Trainer) -> CardSections:
    """The sections of the card of a model trained by a `UMTActionDetectionTrainer`."""
    config, processor = trainer.model.config, trainer.processing_class
    names = class_names_of(config)
    listed = f"{', '.join(names[:MOST_CLASSES])}{' …' if len(names) > MOST_CLASSES else ''}"
    results, scores = "Not evaluated during training.", []
    if evaluation := final_evaluation(trainer, "eval_map50"):
        results = describe_results(trainer, evaluation)
        score = EvalResult(
            task_type="object-detection",
            **evaluated_dataset(trainer),
            metric_type="map",
            metric_name="Frame mAP at IoU 0.5 (%)",
            metric_value=round(evaluation["eval_map50"], 2),
        )
        scores = [score]
    return CardSections(
        summary=(
            "An Unmasked Teacher (UMT) model that detects actions: for each person in a key frame, whose box it is "
            f"given, the scores of {config.num_labels} classes, several of which may be true. Its encoder has "
            f"{config.num_hidden_layers} layers of hidden size {config.hidden_size}, for {config.num_frames} frames."
        ),
        use=DETECT,
        data=f"{describe_data(trainer, 'key frames')}\nClasses: {listed}.",
        results=results,
        licensed="The weights it started from, the videos and the annotations",
        unit="key frames",
        settings={
            "layer-wise learning-rate decay": trainer.args.layer_decay,
            "frames of a clip": f"{processor.num_frames}, stride {processor.frame_stride} at "
            f"{processor.sampling_fps:g} frames per second",
        },
        scores=scores,
        pipeline_tag="object-detection",
    )


def describe_results(trainer: Trainer, evaluation: dict[str, float]) -> str:
    text = (
        f"Frame mAP at IoU 0.5 on {evaluation_data(trainer)}: {evaluation['eval_map50']:.2f} %, with the annotated "
        "boxes of the persons, so without errors of a person detector."
    )
    if trainer.args.load_best_model_at_end:
        text += (
            "\n\nThe checkpoint was chosen by this evaluation, so the score is optimistic; evaluate on other videos "
            "for an unbiased estimate."
        )
    return text
