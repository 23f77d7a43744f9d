"""Which of several captions belongs to a video, as MSRVTT's multiple choice asks it of a retrieval model
(UMT, arXiv 2303.16058, section 4.3; method, 20).

An option's score is 0.7 times its probability to match, by the fusion layers, and 0.3 times its share in the softmax
of similarities over the video's options. Unusual: rows, each once, are dealt out to the processes, while the official
code has every process score all; a video that can't be read counts as a wrong answer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_umt import UMTVideoTextModel
from modeling_umt.modeling_umt_video_text import TEMPERATURE_RANGE, mean_of_unit_vectors
from processing_umt import UMTProcessor

from ..data.video_dataset import video_name
from .classification import SkippedVideo
from .retrieval import ClipsOfVideos

MATCHING_SHARE = 0.7


@dataclass(frozen=True)
class ChoiceScores:
    """Choices of all rows of a table, in its order."""

    choices: list[int | None]
    """Place of the best option; None where the video can't be read."""
    answers: list[int]
    skipped: list[SkippedVideo]
    """The videos that can't be read, whose rows count as wrong."""
    protocol: dict[str, Any]
    """How it was measured: frames, sampling, resolution, dtype."""

    @property
    def accuracy(self) -> float:
        """In percent, rounded to two decimals."""
        right = sum(choice == answer for choice, answer in zip(self.choices, self.answers, strict=True))
        return round(100 * right / len(self.answers), 2)


def multiple_choice_scores(
    matching_logits: torch.Tensor, similarity: torch.Tensor, temperature: torch.Tensor | float
) -> torch.Tensor:
    """Scores of the options of videos.

    Args:
        matching_logits (`(..., options, 2)`): Of `UMTVideoTextModel.match`; column 1 speaks for a match.
        similarity (`(..., options)`): Mean over frames of the cosines with the text.
        temperature: What similarities are divided by.

    Returns:
        float32 `(..., options)`; the largest is the choice.
    """
    matching = matching_logits.float().softmax(dim=-1)[..., 1]
    contrast = (similarity.float() / temperature).softmax(dim=-1)
    return MATCHING_SHARE * matching + (1 - MATCHING_SHARE) * contrast


def check_choices(records: Dataset) -> None:
    """Raise a ValueError unless every row has a `caption` with several texts and an `answer` that is a place in it."""
    if not isinstance(records, Dataset) or not {"caption", "answer"} <= {*records.column_names}:
        raise ValueError(
            "Multiple choice needs a table with columns caption, a list of texts, and answer, a place in it."
        )
    for row, (options, answer) in enumerate(zip(records["caption"], records["answer"], strict=True)):
        if not isinstance(options, list) or not isinstance(answer, int) or not 0 <= answer < len(options):
            raise ValueError(
                f"Row {row} has the options {options!r} and the answer {answer!r}, which is no place in them."
            )


@torch.no_grad()
def score_options(
    model: UMTVideoTextModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixel_values_videos: torch.Tensor
) -> torch.Tensor:
    """Scores (clips, options) of the options of clips, whose texts (clips * options, length) lie side by side."""
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
) -> ChoiceScores:
    """Chooses a caption for every video. Under `accelerate launch` or `torchrun` every process must call it.

    Args:
        model: on its device; its mode is restored.
        processor: its processor; clips are single views of `num_frames` frames.
        records: `video`, `caption` (a list of texts) and `answer` (a place in it), as `load_video_records` reads it.
        num_workers: processes that decode, for each process of the evaluation; 0 decodes in between.
        autocast_dtype: the official evaluation uses float16; default: the model's own type, without autocast.

    Raises:
        ValueError: what `check_choices` raises, or not a single video can be read.
    """
    check_choices(records)
    state = PartialState(cpu=model.device.type == "cpu")
    mine = [(row, records[row]["video"]) for row in range(state.process_index, len(records), state.num_processes)]
    clips = ClipsOfVideos(mine, processor.video_processor, processor.video_processor.num_frames)
    loader = DataLoader(clips, batch_size=None, num_workers=num_workers, collate_fn=list, generator=torch.Generator())
    hidden = None if state.is_main_process else True  # None: hidden where stderr is no terminal
    found, broken, was_training = {}, {}, model.training
    model.eval()
    try:
        for row, clip in tqdm(loader, desc="choose", unit=" videos", delay=1, leave=False, disable=hidden):
            if not isinstance(clip, torch.Tensor):
                broken[row] = (video_name(records[row]["video"]) or f"record {row}", *clip)
                continue
            texts = processor(text=records[row]["caption"], return_tensors="pt").to(model.device)
            pixels = clips.normalize(clip[None].to(model.device)).to(model.dtype)
            with torch.autocast(model.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                scores = score_options(model, **texts, pixel_values_videos=pixels)
            found[row] = int(scores[0].argmax())
    finally:
        model.train(was_training)
    parts = gather_object([(found, broken)])
    found = {row: choice for part, _ in parts for row, choice in part.items()}
    broken = {row: video for _, part in parts for row, video in part.items()}
    skipped = [SkippedVideo(*broken[row]) for row in sorted(broken)]
    if not found:
        listed = ", ".join(f"{video.video} ({video.reason})" for video in skipped[:8])
        raise ValueError(f"None of the {len(skipped)} videos can be read: {listed}. Check path and root of the data.")
    return ChoiceScores(
        choices=[found.get(row) for row in range(len(records))],
        answers=list(records["answer"]),
        skipped=skipped,
        protocol={
            "frames": processor.video_processor.num_frames,
            "sampling": processor.video_processor.sampling,
            "resolution": list(clips.resolution),
            "dtype": str(autocast_dtype or model.dtype).removeprefix("torch."),
        },
    )
