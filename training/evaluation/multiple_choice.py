"""Multiple choice: which of several captions belongs to a video (MSRVTT-MC; UMT, arXiv 2303.16058, section 4.3).

A retrieval model scores each option by 0.7 times the matching probability of the fusion layers plus 0.3 times the
softmax of similarities over the video's options.

If n options have the highest score, a row counts 1/n if the correct option is one of them. Options with the same
tokens always have the same score.

Unusual: rows are sharded across processes, each once, while in the official code every process scores all rows. A
video that can't be read counts as a wrong answer. Choices are saved as they are computed, and an interrupted
evaluation resumes from them, also with another number of processes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn import functional as F

from modeling_umt import UMTVideoTextModel
from modeling_umt.modeling_umt_video_text import TEMPERATURE_RANGE, mean_of_unit_vectors
from processing_umt import UMTProcessor

from ..data.text_columns import check_texts
from ..processes import join_processes
from .clips import EvaluationClipDataset, SkippedVideo, no_readable_video, normalize_clips, read_clips, video_names
from .computation import autocast, dtype_name, evaluation_mode, require_finite
from .equal_texts import equal_to_another, first_equal
from .partial_scores import PartialScores

MATCHING_WEIGHT = 0.7


@dataclass(frozen=True)
class ChoiceScores:
    """The chosen options of all rows of a table, in its order."""

    choices: list[int | None]
    """Index of the best option, the first of several; None where the video can't be read."""
    answers: list[int]
    credits: list[float]
    """What each row counts: 1 for the correct option, 1/n if it is one of n best ones, or 0."""
    num_ties: int
    """Number of rows with several best options."""
    num_equal: int
    """Number of rows with options that are equal to the model, because they have the same tokens."""
    skipped: list[SkippedVideo]
    """The videos that can't be read, whose rows count as wrong."""
    num_resumed: int
    """Number of rows whose choices come from an earlier, interrupted evaluation."""
    protocol: dict[str, Any]
    """Settings: frames, sampling, resolution, dtype."""
    partial_folder: Path | None
    """Folder of the saved choices; to be removed once the results are written."""

    @property
    def accuracy(self) -> float:
        """In percent, rounded to two decimals."""
        return round(100 * sum(self.credits) / len(self.credits), 2)


def multiple_choice_scores(
    matching_logits: torch.Tensor, similarity: torch.Tensor, temperature: torch.Tensor | float
) -> torch.Tensor:
    """Scores of the options of videos.

    Args:
        matching_logits: `(..., options, 2)` from `UMTVideoTextModel.match`; column 1 is the match logit.
        similarity: `(..., options)`, mean over frames of the cosines with the text.
        temperature: divisor of the similarities.

    Returns:
        float32 `(..., options)`; the highest score is the choice.
    """
    matching = matching_logits.float().softmax(dim=-1)[..., 1]
    contrast = (similarity.float() / temperature).softmax(dim=-1)
    return MATCHING_WEIGHT * matching + (1 - MATCHING_WEIGHT) * contrast


def best_options(scores: torch.Tensor, input_ids: torch.Tensor) -> list[int]:
    """The options of a video with the highest score, ascending.

    Args:
        scores: `(options,)`.
        input_ids: int64 `(options, length)`. Options with the same tokens are equal, although their scores may differ
            by rounding.
    """
    first = first_equal(input_ids)
    best = {first[option] for option in (scores == scores.max()).nonzero().flatten().tolist()}
    return [option for option in range(len(first)) if first[option] in best]


def check_choices(records: Dataset, source: str = "The table") -> None:
    """Checks that each row has a `caption`, a list of texts, and an `answer`, an index in that list from 0.

    Args:
        records: any table.
        source: its name, for errors.

    Raises:
        ValueError: a row has not, or the answers are counted from 1.
    """
    if not isinstance(records, Dataset) or not {"caption", "answer"} <= {*records.column_names}:
        columns = f"; it has {', '.join(records.column_names)}" if isinstance(records, Dataset) else ""
        raise ValueError(
            f"Multiple choice needs the columns caption, a list of texts, and answer, an index in it, in {source}"
            f"{columns}."
        )
    check_texts(records, "caption", source)
    rows = list(zip(records["caption"], records["answer"], strict=True))
    for row, (options, answer) in enumerate(rows):
        if not isinstance(options, list) or not _is_index(answer, len(options)):
            from_one = all(_is_index(answer - 1, len(options)) for options, answer in rows if isinstance(answer, int))
            advice = "The answers are counted from 1; subtract 1." if from_one else "Answers are counted from 0."
            raise ValueError(
                f"Row {row} of {source} has the options {options!r:.200} and the answer {answer!r:.60}, which is not "
                f"an index in them. {advice}"
            )


def has_equal_texts(processor: UMTProcessor, texts: list[str]) -> bool:
    """Whether two of the texts are equal to the model."""
    return bool(equal_to_another(first_equal(processor(text=texts, return_tensors="pt")["input_ids"])))


def _is_index(value: object, length: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length


@torch.no_grad()
def score_options(
    model: UMTVideoTextModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values_videos: torch.Tensor
) -> torch.Tensor:
    """Scores `(clips, options)` of the options of clips. The texts, `(clips * options, length)`, are clip-major."""
    video = model.get_video_features(pixel_values_videos)
    text = model.get_text_features(input_ids, attention_mask)
    num_clips = pixel_values_videos.shape[0]
    logits = model.match(text.last_hidden_state, attention_mask, video.last_hidden_state).unflatten(0, (num_clips, -1))
    unit_texts = F.normalize(text.pooler_output.float(), dim=-1).unflatten(0, (num_clips, -1))  # (B, options, E)
    clips = mean_of_unit_vectors(video.pooler_output.float())  # (B, E)
    similarity = (unit_texts @ clips[:, :, None])[..., 0]
    return multiple_choice_scores(logits, similarity, model.temperature.clamp(*TEMPERATURE_RANGE))


def evaluate_multiple_choice(
    model: UMTVideoTextModel,
    processor: UMTProcessor,
    records: Dataset,
    *,
    num_workers: int = 4,
    autocast_dtype: torch.dtype | None = None,
    partial_folder: Path | None = None,
) -> ChoiceScores:
    """Chooses a caption for every video. Under `accelerate launch` or `torchrun` every process must call it.

    Args:
        model: on its device; its mode is restored.
        processor: its processor; clips are single views of `num_frames` frames.
        records: the table that `load_video_records` returns, with `video`, `caption` (a list of texts) and `answer`
            (an index in it).
        num_workers: decoding processes for each process of the evaluation; 0 decodes in the evaluating process.
        autocast_dtype: the official evaluation uses float16; default: the model's own data type, without autocast.
        partial_folder: choices are saved here as they are computed, in a sub-folder named by a hash of weights,
            processor, captions and names of the videos. A later call with the same hash resumes from them and retries
            the videos that could not be read or whose files have changed. Default: choices are in memory only.

    Returns:
        The same scores in every process.

    Raises:
        ValueError: a table that `check_choices` refuses, scores that are not finite, or none of the videos can be
            read.
    """
    check_choices(records)
    names, options, answers = video_names(records), list(records["caption"]), list(records["answer"])
    state = join_processes(model.device)
    dtype = dtype_name(model, autocast_dtype)
    settings, width = {"dtype": dtype, "captions": options}, max(map(len, options))
    partial = PartialScores(partial_folder, records, names, width, model, processor, settings)
    earlier = {row: values.nonzero()[0].tolist() for row, values in partial.read().items()}

    remaining = [row for row in range(len(records)) if row not in earlier]
    videos = [(row, records[row]["video"]) for row in remaining[state.process_index :: state.num_processes]]
    clips = EvaluationClipDataset(videos, processor.video_processor, processor.video_processor.num_frames)
    found, broken = {}, {}
    with evaluation_mode(model), read_clips(clips, num_workers, "choose") as items:
        for row, clip in items:
            if not isinstance(clip, torch.Tensor):
                broken[row] = clip
                continue
            texts = processor(text=options[row], return_tensors="pt").to(model.device)
            pixels = normalize_clips(clips.video_processor, clip[None].to(model.device)).to(model.dtype)
            with autocast(model, autocast_dtype):
                scores = score_options(model, **texts, pixel_values_videos=pixels)
            require_finite(scores, names[row], dtype)
            found[row] = best_options(scores[0], texts["input_ids"])
            partial.write(row, [option in found[row] for option in range(width)])

    parts = gather_object([(found, broken)])
    found = earlier | {row: best for part, _ in parts for row, best in part.items()}
    broken = {row: error for _, part in parts for row, error in part.items()}
    skipped = [SkippedVideo(names[row], *broken[row]) for row in sorted(broken)]
    if not found:
        raise no_readable_video(skipped)
    best = [found.get(row, []) for row in range(len(records))]
    return ChoiceScores(
        choices=[min(tied, default=None) for tied in best],
        answers=answers,
        credits=[1 / len(tied) if answer in tied else 0.0 for tied, answer in zip(best, answers, strict=True)],
        num_ties=sum(len(tied) > 1 for tied in best),
        num_equal=sum(has_equal_texts(processor, texts) for texts in options),
        skipped=skipped,
        num_resumed=len(earlier),
        protocol={
            "frames": processor.video_processor.num_frames,
            "sampling": processor.video_processor.sampling,
            "resolution": list(clips.resolution),
            "dtype": dtype,
        },
        partial_folder=partial.folder,
    )
