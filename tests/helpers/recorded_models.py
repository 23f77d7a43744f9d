"""Configurations and state dicts of the models recorded from the official code, by the official arguments."""

import torch

from modeling_umt import InternVideo2Config, UMTConfig, UMTTeacherConfig


def sub_state(tensors: dict[str, torch.Tensor], prefix: str = "state/") -> dict[str, torch.Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def encoder_sizes(recorded: dict) -> dict[str, int]:
    """The fields of a configuration that state the sizes of a recorded encoder, alone or with decoders."""
    prefix = "encoder_" if "encoder_embed_dim" in recorded else ""
    dim = recorded[f"{prefix}embed_dim"]
    return {
        "image_size": recorded["img_size"],
        "patch_size": recorded.get("patch_size", 16),
        "hidden_size": dim,
        "num_hidden_layers": recorded[f"{prefix}depth"],
        "num_attention_heads": recorded[f"{prefix}num_heads"],
        "intermediate_size": int(recorded.get("mlp_ratio", 4) * dim),
    }


def student_config(recorded: dict, **fields) -> UMTConfig:
    """The configuration of a recorded encoder with decoders, of stage 1 or stage 2."""
    return UMTConfig(
        **encoder_sizes(recorded),
        num_frames=recorded["num_frames"],
        tubelet_size=recorded.get("tubelet_size", 1),
        num_aligned_layers=recorded["clip_return_layer"] or 1,
        aligned_layer_interval=recorded.get("clip_student_return_interval", 1),
        target_dim=recorded["clip_output_dim"],
        **{"target_norm": recorded.get("clip_norm_type", "l2")} | fields,
    )


def teacher_config(recorded: dict, **fields) -> UMTTeacherConfig:
    """The configuration of a recorded CLIP tower."""
    return UMTTeacherConfig(
        patch_size=recorded["patch_size"],
        hidden_size=recorded["width"],
        num_hidden_layers=recorded["layers"],
        num_attention_heads=recorded["heads"],
        intermediate_size=4 * recorded["width"],
        projection_dim=recorded["output_dim"],
        **{
            field: recorded[key]
            for field, key in (
                ("image_size", "input_resolution"),
                ("num_aligned_layers", "clip_return_layer"),
                ("aligned_layer_interval", "clip_return_interval"),
                ("target_norm", "clip_norm_type"),
            )
            if field not in fields
        },
        **fields,
    )


def masked_student_config(recorded: dict, **fields) -> UMTConfig:
    """The configuration of a recorded student of MVD."""
    return UMTConfig(
        **encoder_sizes(recorded),
        num_frames=recorded["num_frames"],
        tubelet_size=recorded["tubelet_size"],
        position_type="space_time",
        masked_targets={"image": recorded["target_feature_dim"], "video": recorded["target_video_feature_dim"]},
        decoder_hidden_size=recorded["feat_decoder_embed_dim"],
        decoder_num_hidden_layers=recorded["decoder_depth"],
        decoder_num_attention_heads=recorded["feat_decoder_num_heads"],
        **fields,
    )


def pixel_model_config(recorded: dict, **fields) -> UMTConfig:
    """The configuration of a recorded VideoMAE or EVEREST model."""
    return UMTConfig(
        **encoder_sizes(recorded),
        num_frames=16,
        tubelet_size=2,
        masked_targets={"pixels": recorded["decoder_num_classes"]},
        masked_loss="mse",
        normalize_targets=True,
        decoder_hidden_size=recorded["decoder_embed_dim"],
        decoder_num_hidden_layers=recorded["decoder_depth"],
        decoder_num_attention_heads=recorded["decoder_num_heads"],
        **fields,
    )


def internvideo2_config(recorded: dict, **fields) -> InternVideo2Config:
    """The configuration of a recorded InternVideo2 model: encoder, classifier or student."""
    students = {
        "num_aligned_layers": "clip_return_layer",
        "aligned_layer_interval": "clip_student_return_interval",
        "target_dim": "clip_teacher_embed_dim",
        "final_target_dim": "clip_teacher_final_dim",
        "num_second_layers": "mae_return_layer",
        "second_layer_interval": "mae_student_return_interval",
        "second_target_dim": "mae_teacher_embed_dim",
    }
    given = {field: recorded[key] for field, key in students.items() if key in recorded}
    if "clip_teacher_embed_dim" in recorded:
        given["decoder"] = "mlp" if recorded.get("clip_student_decoder") == "MLP_Decoder" else "linear"
    return InternVideo2Config(
        **encoder_sizes(recorded),
        num_frames=recorded["num_frames"],
        tubelet_size=recorded["tubelet_size"],
        num_pooling_heads=recorded["attn_pool_num_heads"],
        pooled_size=recorded["clip_embed_dim"],
        **given | fields,
    )


def fold_layer_scale(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of the same function with LayerScale, which no published recipe uses, multiplied into the
    matrices before it."""
    state = dict(state)
    for key in [key for key in state if "gamma_" in key]:
        block, gamma = key.rsplit(".", 1)
        scaled = f"{block}.attn.proj" if gamma == "gamma_1" else f"{block}.mlp.fc2"
        scale = state.pop(key)
        state[f"{scaled}.weight"] = state[f"{scaled}.weight"] * scale[:, None]
        state[f"{scaled}.bias"] = state[f"{scaled}.bias"] * scale
    return state
