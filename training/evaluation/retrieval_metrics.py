"""Recall of retrieval, of videos by texts and of texts by videos (UMT, arXiv 2303.16058, section 4.3).

Unusual: a tie counts half against the query. Officially the order of equal scores is left to chance; here a model that
gives all pairs the same score lands in the middle of the list, not at its top.
"""

import numpy as np

RANKS = (1, 5, 10)


def retrieval_recalls(video_to_text: np.ndarray, text_to_video: np.ndarray, match: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10 in percent, both ways; of several right candidates the best ranked counts.

    Args:
        video_to_text: scores `(videos, texts)` by which each video ranks the texts, higher is nearer.
        text_to_video: scores `(texts, videos)` by which each text ranks the videos.
        match: bool `(videos, texts)`, which belong together.

    Returns:
        `text_to_video_r1`, `_r5`, `_r10`, `video_to_text_r1` …, `mean_recall` of these six, and `chance_r1`: what
        guessing reaches at rank 1, averaged over both ways. Rounded to two decimals, as in the official code.

    Raises:
        ValueError: a video or a text without anything that belongs to it.
    """
    recalls, chances = {}, []
    for name, scores, right in (
        ("text_to_video", text_to_video, match.T),
        ("video_to_text", video_to_text, match),
    ):
        ranks = best_ranks(scores, right)
        recalls |= {f"{name}_r{rank}": 100 * float((ranks < rank).mean()) for rank in RANKS}
        chances.append(100 * float(right.mean()))
    recalls["mean_recall"] = float(np.mean(list(recalls.values())))
    recalls["chance_r1"] = float(np.mean(chances))
    return {name: round(value, 2) for name, value in recalls.items()}


def best_ranks(scores: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Of each query, a row, how many wrong candidates come before the best right one, equal scores counting half:
    float `(queries,)`.

    Raises:
        ValueError: a query without a right candidate.
    """
    if not match.any(axis=1).all():
        raise ValueError(f"Query {int(np.argmin(match.any(axis=1)))} has no candidate that belongs to it.")
    best = np.where(match, scores, -np.inf).max(axis=1, keepdims=True)
    before = (scores > best).sum(axis=1)  # right ones are not among them
    ties = ((scores == best) & ~match).sum(axis=1)
    return before + ties / 2
