"""The training objectives of UMT (arXiv 2303.16058, section 3) as pure functions of tensors.

UTA, unmasked-token alignment: the student's features at the visible tokens are pulled to the teacher's at the same
tokens and layers. Only visible tokens are compared; nothing is reconstructed.

Unusual: everything is computed in float32 whatever the dtype of the features, also under autocast, and every aligned
layer weighs the same.
"""

import torch
from torch.nn import functional as F


def unmasked_token_alignment_loss(
    student_features: torch.Tensor, target_features: torch.Tensor, kind: str = "l2"
) -> torch.Tensor:
    """
    Mean distance between student and teacher features.

    Args:
        student_features (`torch.Tensor` of shape `(batch, K, visible, dim)`): The decoders' outputs.
        target_features (`torch.Tensor` of the same shape): The teacher's features at the visible tokens.
        kind (`str`, defaults to `"l2"`):
            `"l2"`: `2 - 2 <s, t>` per token, the squared distance if both sides are unit vectors, as every published
            recipe makes them; `"mse"`: squared difference per element; `"smooth_l1"`: Huber with beta 1 per element.

    Returns:
        `torch.Tensor`, float32 scalar.

    Raises:
        ValueError: if the shapes differ or `kind` is unknown.
    """
    if student_features.shape != target_features.shape:
        raise ValueError(
            f"Student features of shape {tuple(student_features.shape)} cannot be aligned with target features of "
            f"shape {tuple(target_features.shape)}; both must be (batch, K, visible, dim): give student and teacher "
            "the same aligned layers, visible tokens and output dimension."
        )
    student, target = student_features.float(), target_features.float()
    if kind == "l2":
        return (2 - 2 * (student * target).sum(dim=-1)).mean()
    if kind == "mse":
        return F.mse_loss(student, target)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student, target)
    raise ValueError(f"Unknown alignment loss {kind!r}; choose 'l2', 'mse' or 'smooth_l1'.")
