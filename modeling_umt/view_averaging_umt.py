"""Average of the predictions of several views of a video (UMT, arXiv 2303.16058, section 4.1)."""

import math

import torch


def average_views(logits: torch.Tensor, num_views: int, problem_type: str | None) -> torch.Tensor:
    """Logits of the mean prediction over the views of each video.

    Args:
        logits: `(videos * num_views, num_labels)`, video-major.
        num_views: number of views of a video.
        problem_type: of the configuration. Probabilities are averaged, as the official evaluation does: the softmax
            of the result is the mean softmax, for "multi_label_classification" the sigmoid is the mean sigmoid. For
            "regression" the outputs themselves are averaged.

    Returns:
        `(videos, num_labels)`, in the dtype of `logits`; computed in at least float32.
    """
    views = logits.to(torch.promote_types(logits.dtype, torch.float32)).unflatten(0, (-1, num_views))
    if problem_type == "regression":
        averaged = views.mean(dim=1)
    elif problem_type == "multi_label_classification":
        present = torch.logsumexp(torch.nn.functional.logsigmoid(views), dim=1)
        absent = torch.logsumexp(torch.nn.functional.logsigmoid(-views), dim=1)
        averaged = present - absent
    else:
        averaged = torch.logsumexp(views.log_softmax(dim=-1), dim=1) - math.log(num_views)
    return averaged.to(logits.dtype)
