"""The kind of an official file, detected by its keys.

Files of related methods share most of their keys with those of UMT, and a model made from one would compute something
else. What is not one of UMT's kinds is therefore named, and refused.
"""

from collections.abc import Mapping

import torch

from .checkpoint_files_umt import UnsupportedCheckpointError
from .official_internvideo2_umt import internvideo2_kind
from .official_layout_umt import VIDEO_PREFIX

StateDict = Mapping[str, torch.Tensor]

MVD_DECODERS = ("decoder_img.", "decoder_vid.")


def checkpoint_kind(state: StateDict) -> str:
    """The kind of an official file, detected by keys that only this kind has.

    Returns:
        `"stage1"`, `"classification"`, `"detection"`, `"teacher"`, `"stage2"`, `"retrieval"`, `"question_answering"`,
        `"mvd"` (a pre-trained student), `"videomae"` (VideoMAE or EVEREST pre-training), `"videomae_encoder"`,
        `"image_teacher"` (MAE), or one of `internvideo2_kind`.

    Raises:
        UnsupportedCheckpointError: (a ValueError) if the keys are of another kind of file, which is named if it is
            known.
    """
    if has_class_token_of_images(state):
        return "image_teacher"
    if kind := internvideo2_kind(state):
        return kind
    if method := foreign_method(state):
        raise UnsupportedCheckpointError(f"This is a file of {method}, which can't be converted.")
    if "encoder.patch_embed.proj.weight" in state:
        return encoder_kind(state)
    if "patch_embed.proj.weight" in state and any(key.startswith(MVD_DECODERS) for key in state):
        return "mvd"
    if "patch_embed.proj.weight" in state and "fc_norm.weight" in state:
        return "classification"
    if "patch_embed.proj.weight" in state and "norm.weight" in state:
        return "detection"
    if "class_embedding" in state and "conv1.weight" in state:
        return "teacher"
    if f"{VIDEO_PREFIX}patch_embed.proj.weight" in state:
        if "text_encoder.bert.embeddings.word_embeddings.weight" in state:
            return "stage2"
        if "text_encoder.embeddings.word_embeddings.weight" in state:
            has_decoder = any(key.startswith("text_decoder.") for key in state)
            return "question_answering" if has_decoder else "retrieval"
    examples = ", ".join(list(state)[:3]) or "none"
    raise UnsupportedCheckpointError(f"The keys are not those of a UMT checkpoint (the first ones: {examples}).")


def foreign_method(state: StateDict) -> str | None:
    """The name of a related method that a file belongs to, or None."""
    if any(key.startswith(("text_encoder.transformer.", "text_encoder.projection_layer")) for key in state):
        return "MobileCLIP (the text encoder of InternVideo2-CLIP)"
    prefixes = ("", "encoder.", "backbone.")
    kernels = [kernel for prefix in prefixes if (kernel := state.get(f"{prefix}patch_embed.proj.weight")) is not None]
    if any(kernel.ndim == 4 for kernel in kernels):
        return "a ViT of single images without a class token"
    return None


def has_class_token_of_images(state: StateDict) -> bool:
    """Whether a state dict has a class token and patches of single frames, as MAE's."""
    return any(
        f"{prefix}cls_token" in state and getattr(state.get(f"{prefix}patch_embed.proj.weight"), "ndim", 0) == 4
        for prefix in ("", "backbone.")
    )


def encoder_kind(state: StateDict) -> str:
    """The kind of a file whose encoder's keys have the prefix `encoder.`."""
    if any(key.startswith("clip_decoder.") for key in state):
        return "stage1"
    if any(key.startswith(("mask_token", "encoder_to_decoder.", "decoder.")) for key in state):
        return "videomae"
    return "videomae_encoder" if spans_frames(state, "encoder.") else "stage1"


def spans_frames(state: StateDict, prefix: str = "") -> bool:
    """Whether one token of the encoder covers several frames, as in MVD, VideoMAE and EVEREST but not in UMT."""
    kernel = state[f"{prefix}patch_embed.proj.weight"]
    return kernel.ndim == 5 and kernel.shape[2] > 1
