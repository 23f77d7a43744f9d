"""Presets of the trained part of a classifier (arXiv 2303.16058 trains all of it).

- `full`: all weights, with layer-wise learning-rate decay.
- `lora`: low-rank updates of all attention and MLP matrices, norm and head; the other weights are frozen (peft).
- `attentive`: an attention-pooling head on a frozen encoder.
- `linear`: a linear head on the mean token of a frozen encoder; the norm between them is frozen too.

InternVideo2 has an attention pooling of its own: `attentive` trains it, and `linear` freezes it.
"""

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

PRESETS = ("full", "lora", "attentive", "linear")
FROZEN_ENCODER = {"attentive": "attention", "linear": "mean"}  # preset → pooling
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


def preset_config(preset: str, model_type: str = "umt") -> dict[str, object]:
    """Fields of the configuration that a preset requires: the pooling of UMT, and no stochastic depth in a frozen
    encoder.

    Raises:
        ValueError: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    if preset not in FROZEN_ENCODER:
        return {}
    return {"drop_path_rate": 0.0} | ({"pooling": FROZEN_ENCODER[preset]} if model_type == "umt" else {})


def apply_preset(model: PreTrainedModel, preset: str, lora_rank: int = 16) -> PreTrainedModel | PeftModel:
    """Freeze the weights that a preset does not train, or add adapters of rank `lora_rank`.

    Args:
        model ([`UMTForVideoClassification`] or [`InternVideo2ForVideoClassification`]): Created with the fields of
            [`preset_config`].
        preset (`str`): One of `PRESETS`.
        lora_rank (`int`, defaults to 16): Rank of the updates; `lora_alpha` is twice the rank.
    """
    if preset == "lora":
        return get_peft_model(
            model,
            LoraConfig(
                r=lora_rank,
                lora_alpha=2 * lora_rank,
                target_modules=LORA_TARGETS,
                # newly initialised modules; names that the model does not have are ignored
                modules_to_save=["classifier", "fc_norm", "attention_pooling", "frame_pooling"],
            ),
        )
    if preset in FROZEN_ENCODER:
        norm = model.base_model.fc_norm if model.config.model_type == "umt" else model.fc_norm
        model.base_model.requires_grad_(False)
        norm.requires_grad_(preset == "attentive")
        if preset == "attentive" and model.config.model_type != "umt":
            model.base_model.pooling.requires_grad_(True)
    return model
