"""The training objectives of UMT (arXiv 2303.16058, section 3) as pure functions of tensors.

UTA, unmasked-token alignment: the student's features at the visible tokens are pulled to the teacher's at the same
tokens and layers. Hidden tokens are not reconstructed.

Stage 2 adds VTC, video-text contrast: a video should be closer to its own text than to the batch's other texts, and
vice versa; VTM, video-text matching: the fusion encoder classifies pairs as matching or not; MLM, masked language
modelling: masked tokens are predicted from the others and the video. The last two are cross-entropies, as is the loss
of an answer to a question.

Masked modelling predicts the features of teachers, or pixels, at masked tokens.

All losses are computed in float32 whatever the dtype of the features, also under autocast, and every aligned layer has
the same weight.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .configuration_umt import UMTConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def unmasked_token_alignment_loss(
    student_features: torch.Tensor, target_features: torch.Tensor, kind: str = "l2"
) -> torch.Tensor:
    """Mean distance between student and teacher features (section 3.2).

    Args:
        student_features (`torch.Tensor` of shape `(batch, K, visible, dim)`): The decoders' outputs, or those of a
            single layer, `(batch, visible, dim)`.
        target_features (`torch.Tensor` of the same shape): The teacher's features at the visible tokens.
        kind (`str`, defaults to `"l2"`):
            `"l2"`: `2 - 2 <s, t>` per token, the squared distance of unit vectors, as in every published recipe;
            `"mse"`: squared difference per element; `"smooth_l1"`: Huber with beta 1 per element.

    Returns:
        `torch.Tensor`, float32 scalar.

    Raises:
        ValueError: if the shapes differ or `kind` is unknown.
    """
    check_same_features(student_features.shape, target_features.shape)
    student, target = student_features.float(), target_features.float()
    if kind == "l2":
        return (2 - 2 * (student * target).sum(dim=-1)).mean()
    if kind == "mse":
        return F.mse_loss(student, target)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student, target)
    raise ValueError(f"Unknown alignment loss {kind!r}; choose 'l2', 'mse' or 'smooth_l1'.")


def masked_prediction_loss(prediction: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean distance between predictions at masked tokens and their targets, over all elements.

    Args:
        prediction, target (`torch.Tensor` of the same shape).
        kind: `"smooth_l1"` (Huber with beta 1, as in MVD), `"l1"`, or `"mse"` (VideoMAE, EVEREST).

    Returns:
        `torch.Tensor`, float32 scalar.
    """
    distances = {"smooth_l1": F.smooth_l1_loss, "l1": F.l1_loss, "mse": F.mse_loss}
    return distances[kind](prediction.float(), target.float())


def feature_targets(features: torch.Tensor, config: UMTConfig) -> torch.Tensor:
    """A teacher's features as the targets of MVD (arXiv 2212.04500): with `normalize_targets` each token's have mean 0
    and variance 1, by a LayerNorm without weights in float32, else they are unchanged.

    Args:
        features (`torch.Tensor` of shape `(..., dim)`).
        config: The student's configuration.
    """
    if not config.normalize_targets:
        return features
    return F.layer_norm(features.float(), features.shape[-1:], eps=1e-6)


def pixel_targets(pixel_values_videos: torch.Tensor, config: UMTConfig) -> torch.Tensor:
    """The pixels of every token, the targets of VideoMAE (arXiv 2203.12602, section 3.2) and EVEREST.

    Args:
        pixel_values_videos (`torch.Tensor` of shape `(batch, frames, 3, height, width)`): ImageNet-normalised clips.
        config: Patch and tubelet size. With `normalize_targets` each colour channel of a tubelet has mean 0 and
            unbiased variance 1, else values are in [0, 1].

    Returns:
        float32 `torch.Tensor` of shape `(batch, tokens, tubelet_size * patch_size ** 2 * 3)`, values ordered by frame,
        row, column and colour.

    Raises:
        ValueError: if the clips have other than three colour channels.
    """
    if pixel_values_videos.shape[2] != len(IMAGENET_MEAN):
        raise ValueError(
            f"Pixels as targets require clips of {len(IMAGENET_MEAN)} colour channels, whose normalisation is known, "
            f"but these have {pixel_values_videos.shape[2]}."
        )
    clips = pixel_values_videos.detach().float()
    mean, std = (clips.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    tubelets = (clips * std + mean).unflatten(1, (-1, config.tubelet_size))
    tubelets = tubelets.unflatten(-2, (-1, config.patch_size)).unflatten(-1, (-1, config.patch_size))
    # (batch, frames, rows, columns, tubelet, patch, patch, channels)
    tubelets = tubelets.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4, 6).flatten(1, 3)  # (batch, tokens, pixels, 3)
    if config.normalize_targets:
        # the epsilon is outside of the root, as in the official code
        deviation = tubelets.var(dim=2, keepdim=True).sqrt() + 1e-6
        tubelets = (tubelets - tubelets.mean(dim=2, keepdim=True)) / deviation
    return tubelets.flatten(2)


def check_same_features(student_shape: Sequence[int], target_shape: Sequence[int]) -> None:
    """Raise a ValueError unless student and teacher features have the same shape."""
    if tuple(student_shape) != tuple(target_shape):
        raise ValueError(
            f"Student features of shape {tuple(student_shape)} cannot be aligned with target features of shape "
            f"{tuple(target_shape)}; both must be (batch, K, visible, dim): give student and teacher the same aligned "
            "layers, visible tokens and output dimension."
        )


def video_text_contrastive_loss(
    logits_per_video: torch.Tensor, video_ids: torch.Tensor | None = None, text_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of similarities over texts and over videos, averaged (section 3.3).

    Args:
        logits_per_video (`torch.Tensor` of shape `(videos, texts)`): Similarities divided by the temperature.
        video_ids, text_ids (int64 `(videos,)` and `(texts,)`, *optional*): A video and a text of the same id match;
            several matches of one row have equal target probability. Without ids, video i and text i match.

    Returns:
        `torch.Tensor`, float32 scalar.

    Raises:
        ValueError: if ids are missing and the matrix is not square.
    """
    logits = logits_per_video.float()
    if video_ids is None:
        if logits.shape[0] != logits.shape[1]:
            raise ValueError(f"{logits.shape[0]} videos and {logits.shape[1]} texts need ids that state which match.")
        video_ids = text_ids = torch.arange(logits.shape[0], device=logits.device)
    same = (video_ids[:, None] == text_ids[None, :]).float()  # (videos, texts)
    over_texts = -(same / same.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    over_videos = -(same / same.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (over_texts + over_videos) / 2


def video_text_matching_loss(matching_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of matching and non-matching pairs (section 3.3).

    Args:
        matching_logits (`torch.Tensor` of shape `(pairs, 2)`): Column 1 is the match logit.
        labels (int64 `(pairs,)`): 1 for a match, 0 for no match, -100 for a pair to ignore.

    Returns:
        `torch.Tensor`, float32 scalar.
    """
    return F.cross_entropy(matching_logits.float(), labels)


def masked_language_modeling_loss(mlm_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the masked tokens (section 3.3).

    Args:
        mlm_logits (`torch.Tensor` of shape `(batch, length, vocab_size)`).
        labels (int64 `(batch, length)`): The original token where one was masked, -100 elsewhere.

    Returns:
        `torch.Tensor`, float32 scalar: the mean over masked tokens, 0 without any.
    """
    total = F.cross_entropy(mlm_logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


def answer_losses(answer_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of complete answers, summed over their tokens.

    Args:
        answer_logits (`torch.Tensor` of shape `(answers, length, vocab_size)`): At every token the logits of the next.
        labels (int64 `(answers, length)`): The answers, whose first token is not predicted; -100 where padded.

    Returns:
        `torch.Tensor` of shape `(answers,)`, float32.
    """
    logits, targets = answer_logits[:, :-1].float(), labels[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).sum(dim=1)
