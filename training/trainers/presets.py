"""Presets of the trained part of a classifier (arXiv 2303.16058 trains all of it).

- `full`: all weights, with layer-wise learning-rate decay.
- `lora`: low-rank updates of all attention and MLP matrices, norm and head; the other weights are frozen (peft).
- `attentive`: an attention-pooling head on a frozen encoder.
- `linear`: a linear head on the mean token of a frozen encoder; the norm between them is frozen too.
"""

from peft import LoraConfig, PeftModel, get_peft_model

from modeling_umt import UMTForVideoClassification

PRESETS = ("full", "lora", "attentive", "linear")
FROZEN_ENCODER = {"attentive": "attention", "linear": "mean"}  # preset → pooling
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


def preset_config(preset: str) -> dict[str, object]:
    """Fields of `UMTConfig` that a preset requires: the pooling, and no stochastic depth in a frozen encoder.

    Raises:
        ValueError: if the preset is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return {"pooling": FROZEN_ENCODER[preset], "drop_path_rate": 0.0} if preset in FROZEN_ENCODER else {}


def apply_preset(
    model: UMTForVideoClassification, preset: str, lora_rank: int = 16
) -> UMTForVideoClassification | PeftModel:
    """Freeze the weights that a preset does not train, or add adapters of rank `lora_rank`.

    Args:
        model ([`UMTForVideoClassification`]): Created with the fields of [`preset_config`].
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
        model.umt.requires_grad_(False)
    if preset == "attentive":
        model.umt.fc_norm.requires_grad_(True)
    return model
