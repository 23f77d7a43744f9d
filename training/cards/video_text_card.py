"""The model card of a stage-2 or retrieval model."""

from transformers import Trainer

from modeling_umt import UMTVideoTextConfig

from .card_template import table
from .snippets import COMPARE
from .trainer_card import CardSections, describe_data, final_evaluation

OBJECTIVES = {
    "vtc_weight": "contrast",
    "vtm_weight": "matching",
    "mlm_weight": "masked language modelling",
    "uta_weight": "alignment with the teacher",
}


def video_text_sections(trainer: Trainer) -> CardSections:
    """The sections of the card of a model trained by a `UMTVideoTextTrainer`."""
    args, config = trainer.args, trainer.model.config
    weights = {f"weight of {name}": f"{getattr(config, field):g}" for field, name in OBJECTIVES.items()}
    masks = f"{args.mask_type}, ratio {args.mask_ratio:g} for videos, {args.image_mask_ratio:g} for images"
    return CardSections(
        summary=describe_model(config),
        use=COMPARE,
        data=describe_data(trainer, "captioned videos and images", "pairs"),
        results=describe_results(trainer),
        licensed="The weights it started from, the videos and the captions",
        unit="pairs",
        settings={**weights, "contrastive gradients": args.contrastive_gradients, "masks": masks},
        tags=("video", "video-text-retrieval", "unmasked-teacher"),
    )


def describe_model(config: UMTVideoTextConfig) -> str:
    video, text = config.vision_config, config.text_config
    height, width = video.image_height_width
    return (
        f"An Unmasked Teacher (UMT) video-text model: a video encoder of {video.num_hidden_layers} layers of hidden "
        f"size {video.hidden_size} for clips of {video.num_frames} frames of {width} x {height} pixels, and a text "
        f"encoder of {text.num_hidden_layers} layers of hidden size {text.hidden_size}, the last "
        f"{text.num_hidden_layers - text.fusion_layer} of which also attend to the video. It compares videos with "
        "texts as a dual encoder, or more accurately as a cross-encoder by `match`."
    )


def describe_results(trainer: Trainer) -> str:
    results = final_evaluation(trainer, "eval_mean_recall")
    if not results:
        return "Not evaluated during training."
    is_reranked = "eval_dual_encoder_mean_recall" in results
    order = "after re-ranking by the cross-encoder" if is_reranked else "of the dual encoder, not re-ranked"
    rows = [
        (f"{name}, R@{rank}", f"{results[f'eval_{key}_r{rank}']:.4g}")
        for key, name in (("text_to_video", "text to video"), ("video_to_text", "video to text"))
        for rank in (1, 5, 10)
    ]
    return (
        f"Recall in percent {order}:\n\n"
        + table(("measure", "value"), rows)
        + f"\n\nThe chance level of R@1 is {results['eval_chance_r1']:g}."
    )
