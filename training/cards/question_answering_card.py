"""The model card of a question-answering model."""

from huggingface_hub import EvalResult
from transformers import Trainer

from modeling_umt import UMTVideoTextConfig

from .snippets import ANSWER
from .trainer_card import CardSections, describe_data, evaluated_dataset, evaluation_data, final_evaluation


def question_answering_sections(trainer: Trainer) -> CardSections:
    """The sections of the card of a model trained by a `UMTQuestionAnsweringTrainer`."""
    results, scores = "Not evaluated during training.", []
    if evaluation := final_evaluation(trainer, "eval_accuracy"):
        accuracy = evaluation["eval_accuracy"]
        possible = evaluation.get("eval_possible_accuracy")
        contained = "" if possible is None else f", which contain {possible:.2f} % of the correct ones"
        results = (
            f"Accuracy on {evaluation_data(trainer)}: {accuracy:.2f} %, choosing from "
            f"{len(trainer.candidates)} answers{contained}."
        )
        score = EvalResult(
            task_type="visual-question-answering",
            **evaluated_dataset(trainer),
            metric_type="accuracy",
            metric_name="Accuracy (%)",
            metric_value=round(accuracy, 2),
        )
        scores = [score]
    return CardSections(
        summary=describe_model(trainer.model.config),
        use=ANSWER,
        data=describe_data(trainer, "questions"),
        results=results,
        licensed="The weights it started from, the videos and the questions",
        unit="questions",
        settings={"maximum length of a question": f"{trainer.processing_class.max_text_length} tokens"},
        scores=scores,
        pipeline_tag="visual-question-answering",
    )


def describe_model(config: UMTVideoTextConfig) -> str:
    video, text = config.vision_config, config.text_config
    height, width = video.image_height_width
    return (
        f"An Unmasked Teacher (UMT) model that answers questions about videos: a video encoder of "
        f"{video.num_hidden_layers} layers of hidden size {video.hidden_size} for clips of {video.num_frames} frames "
        f"of {width} x {height} pixels, a text encoder of {text.num_hidden_layers} layers, and an answer decoder of "
        f"{text.num_hidden_layers - text.fusion_layer}."
    )
