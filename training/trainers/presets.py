"""How much of a classifier is trained, by one word (arXiv 2303.16058 trains all of it).

- `full`: every weight, with layer-wise decay.
- `lora`: low-rank updates of every attention and MLP matrix beside the frozen weights, and norm and head (peft).
- `attentive`: a frozen encoder under an attention-pooling head.
- `linear`: a frozen encoder under a linear head on the mean of its tokens, and the norm between them as it is.
"""

from peft import LoraConfig, PeftModel, get_peft_model

from modeling_umt import UMTForVideoClassification

PRESETS = ("full", "lora", "attentive", "linear")
FROZEN_ENCODER = {"attentive": "attention", "linear": "mean"}  # preset → pooling
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


def preset_config(preset: str) -> dict[str, object]:
    """Fields of `UMTConfig` that a preset asks for; drop path makes no sense where the encoder is frozen.

    Raises:
        ValueError: if there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    return {"pooling": FROZEN_ENCODER[preset], "drop_path_rate": 0.0} if preset in FROZEN_ENCODER else {}


def apply_preset(
    model: UMTForVideoClassification, preset: str, lora_rank: int = 16
) -> UMTForVideoClassification | PeftModel:
    """Freeze what a preset does not train, or wrap the model with adapters of rank `lora_rank`.

    Args:
        model: Made with the fields of [`preset_config`].
        preset: One of `PRESETS`.
        lora_rank (`int`, defaults to 16): Rank of the updates; their scale is twice that over the rank.
    """
    if preset == "lora":
        return get_peft_model(
            model,
            LoraConfig(
                r=lora_rank,
                lora_alpha=2 * lora_rank,
                target_modules=LORA_TARGETS,
                # what may be fresh; names that the model does not have are passed over
                modules_to_save=["classifier", "fc_norm", "attention_pooling", "frame_pooling"],
            ),
        )
    if preset in FROZEN_ENCODER:
        model.umt.requires_grad_(False)
    if preset == "attentive":
        model.umt.fc_norm.requires_grad_(True)
    return model
