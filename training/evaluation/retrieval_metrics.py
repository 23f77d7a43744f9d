"""Recall and rank of text-video retrieval in both directions (UMT, arXiv 2303.16058, section 4.3).

Unusual: a tie counts half against the query. The official code leaves the order of equal scores to the sorting; here a
model that gives all pairs the same score gets the mean rank, not the first.
"""

import numpy as np

RANKS = (1, 5, 10)


def retrieval_metrics(text_to_video: np.ndarray, video_to_text: np.ndarray, match: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10 and ranks in both directions; of several matches of a query the best ranked one counts.

    Args:
        text_to_video: scores `(texts, videos)` by which each text ranks the videos, higher is better.
        video_to_text: scores `(videos, texts)` by which each video ranks the texts.
        match: bool `(videos, texts)`, True for pairs that belong together.

    Returns:
        `text_to_video_r1`, `_r5` and `_r10` in percent, `_mean_rank` and `_median_rank` from 1, the same for
        `video_to_text`, and `mean_recall`, the mean of the six recalls. Nothing is rounded.

    Raises:
        ValueError: scores that are not finite, or a video or text without a match.
    """
    metrics, recalls = {}, []
    for direction, scores, matches in (
        ("text_to_video", text_to_video, match.T),
        ("video_to_text", video_to_text, match),
    ):
        ranks = best_ranks(scores, matches)
        at_rank = {f"{direction}_r{rank}": 100 * float((ranks < rank).mean()) for rank in RANKS}
        recalls += at_rank.values()
        metrics |= at_rank
        metrics[f"{direction}_mean_rank"] = float(ranks.mean()) + 1
        metrics[f"{direction}_median_rank"] = float(np.median(ranks)) + 1
    return metrics | {"mean_recall": float(np.mean(recalls))}


def best_ranks(scores: np.ndarray, match: np.ndarray) -> np.ndarray:
    """The rank, from 0, of the best match of each query: the number of non-matching candidates with a higher score,
    plus half of those with an equal score.

    Args:
        scores: `(queries, candidates)`, higher is better.
        match: bool `(queries, candidates)`.

    Returns:
        float `(queries,)`.

    Raises:
        ValueError: scores that are not finite, or a query without a match.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"Scores of {(~np.isfinite(scores).all(axis=1)).sum()} queries are not finite.")
    if not match.any(axis=1).all():
        raise ValueError(f"Query {int(np.argmin(match.any(axis=1)))} has no candidate that belongs to it.")
    best = np.where(match, scores, -np.inf).max(axis=1, keepdims=True)
    before = (scores > best).sum(axis=1)  # none of these is a match
    ties = ((scores == best) & ~match).sum(axis=1)
    return before + ties / 2
