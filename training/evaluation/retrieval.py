"""Text-video retrieval by the protocol of UMT (arXiv 2303.16058, section 4.3): videos by texts, and texts by videos.

The dual encoder compares every video with every text, and the cross-encoder re-ranks the best `num_reranked`
candidates of each query by its match logit. Both rankings are reported; published results are the re-ranked ones.

Unusual: pairs are grouped by video, so that the cross-encoder computes the keys and values of a video once for all its
texts, and a pair that is a candidate in both directions is scored once. A process decodes, encodes and re-ranks its
own videos; only vectors of the joint space and scores of pairs are gathered, and nothing is summed (the official sum
over processes shifts the scores by 100 per process). Candidates that are not re-ranked follow all others, in the order
of the dual encoder. Of candidates with equal scores, the one with the lower index is re-ranked; in the metrics, ties
count half. A video that can't be read is left out, and so are the texts that belong to no other video.

The match logits of a video are saved as soon as they are computed. An interrupted evaluation that resumes from them
decodes and encodes all videos again, as the cross-encoder reads their tokens, which are too large to save, and
re-ranks those that were not done. With the same number of processes and batch size, its scores are those of an
uninterrupted evaluation, bit for bit.

Shape legend: M videos, N texts, L tokens, E dimension of the joint space, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn import functional as F

from modeling_umt import UMTVideoTextModel
from modeling_umt.modeling_umt_video_text import mean_of_unit_vectors
from processing_umt import UMTProcessor

from ..data.captioned_records import check_captions, join_paragraphs
from ..data.video_dataset import video_name
from ..processes import join_processes
from .clips import (
    EvaluationClipDataset,
    SkippedVideo,
    batches_in_place,
    no_readable_video,
    normalize_clips,
    progress_bar,
    read_clips,
)
from .computation import autocast, dtype_name, evaluation_mode
from .partial_scores import PartialScores
from .retrieval_metrics import retrieval_metrics

TEXTS_AT_ONCE = 256  # batch size of the text encoder
UNRANKED = -100.0  # in the official code the score of a candidate that is not re-ranked; here added to its similarity


@dataclass
class RetrievalSet:
    """Videos, texts, and which of them belong together; see `retrieval_set`."""

    videos: list[Any]
    """(M,), as in the records: paths, or bytes."""
    names: list[str]
    """(M,)."""
    texts: list[str]
    """(N,), unchanged."""
    match: np.ndarray
    """bool (M, N), True for pairs that belong together."""

    def __len__(self) -> int:
        """Number of pairs that belong together."""
        return int(self.match.sum())


@dataclass
class RetrievalScores:
    """Results of `evaluate_retrieval`, the same in every process."""

    metrics: dict[str, dict[str, float]]
    """`reranked` and `dual_encoder`, each as `retrieval_metrics` returns them."""
    dual_encoder: np.ndarray
    """float64 (M, N), mean over frames of the cosines."""
    text_to_video: np.ndarray
    """float64 (N, M): match logits of the cross-encoder; for pairs that are not re-ranked the similarity minus 100."""
    video_to_text: np.ndarray
    """float64 (M, N), likewise."""
    data: RetrievalSet
    """The scored videos and texts."""
    skipped: list[SkippedVideo]
    num_skipped_texts: int
    """Number of texts without a video that can be read."""
    num_resumed: int
    """Number of videos whose match logits come from an earlier, interrupted evaluation."""
    protocol: dict[str, Any]
    """Settings: frames, sampling, trim_seconds, resolution, resize_kernel, max_text_length, reranked, dtype."""
    partial_folder: Path | None
    """Folder of the saved logits; to be removed once the results are written."""


def retrieval_set(
    records: datasets.Dataset, paragraph: bool = False, several_videos: bool = False, source: str = "The table"
) -> RetrievalSet:
    """The videos and texts of a table with `video` and `caption`, a text or a list of texts.

    Rows with the same path are one video. Each caption is a separate text, also where two captions are the same.

    Args:
        records: the table that `load_video_records` returns.
        paragraph: all captions of a video, of one row or of several, are one text (ActivityNet, DiDeMo); see
            `join_paragraphs`.
        several_videos: rows with the same caption are one text that belongs to several videos (Something-Something).
            In the official lists a row names all videos of a text; the two agree unless a caption occurs in two rows.
        source: name of the table, for errors.

    Raises:
        ValueError: a table that `check_captions` refuses, or an empty one.
    """
    check_captions(records, source)
    if len(records) == 0:
        raise ValueError(f"{source} is empty; retrieval is evaluated on at least one video with a caption.")
    if paragraph:
        records = join_paragraphs(records)
    videos, names, texts, pairs = [], [], [], []
    video_indices: dict[str, int] = {}
    text_indices: dict[str, int] = {}
    for row, (video, captions) in enumerate(zip(records["video"], records["caption"], strict=True)):
        name = video_name(video) or f"record {row}"
        if name not in video_indices:
            video_indices[name] = len(videos)
            videos.append(video)
            names.append(name)
        for caption in captions if isinstance(captions, list) else [captions]:
            if not several_videos or caption not in text_indices:
                text_indices[caption] = len(texts)
                texts.append(caption)
            pairs.append((video_indices[name], text_indices[caption]))
    match = np.zeros((len(videos), len(texts)), dtype=bool)
    match[tuple(np.array(pairs).T)] = True
    return RetrievalSet(videos, names, texts, match)


def evaluate_retrieval(
    model: UMTVideoTextModel,
    processor: UMTProcessor,
    data: RetrievalSet,
    *,
    num_frames: int | None = None,
    max_text_length: int | None = None,
    num_reranked: int = 128,
    trim_seconds: float | None = None,
    batch_size: int = 16,
    texts_per_match: int = 128,
    num_workers: int = 4,
    autocast_dtype: torch.dtype | None = None,
    partial_folder: Path | None = None,
) -> RetrievalScores:
    """Scores a video-text model. Under `accelerate launch` or `torchrun` every process must call it.

    A process keeps the tokens of its videos in CPU memory, in the data type of the computation (4.8 MB per video for
    UMT-L/16 with 12 frames in float16), and the last hidden states of all texts.

    Args:
        model: on its device; its mode is restored.
        processor: its saved options apply unless given here.
        num_frames: frames per clip, the middles of as many intervals; published: 4 zero-shot, 12 fine-tuned.
        max_text_length: tokens per text.
        num_reranked: candidates per query for the cross-encoder; 0 for the dual encoder alone.
        trim_seconds: sample frames from the first seconds of a video only (30 for DiDeMo).
        batch_size: clips per batch of the video encoder, in each process.
        texts_per_match: texts per batch of the cross-encoder.
        num_workers: decoding processes for each process of the evaluation; 0 decodes in the evaluating process.
        autocast_dtype: the official evaluation uses float16; default: the model's own data type, without autocast.
        partial_folder: the match logits of each video are saved here as they are computed, 8 bytes per text, in a
            sub-folder named by a hash of weights, processor, protocol, texts and names of the videos. A later call
            with the same hash encodes videos and texts again and re-ranks the videos whose pairs are not all there or
            whose files have changed. Default: logits are in memory only.

    Raises:
        ValueError: options below their minimum, scores that are not finite, texts longer than the position table of
            the model, or none of the videos can be read.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("num_reranked", num_reranked, 0),
        ("texts_per_match", texts_per_match, 1),
        ("num_frames", num_frames, 1),
        ("max_text_length", max_text_length, 2),  # [CLS] and a token
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}.")
    state = join_processes(model.device)
    num_frames = processor.video_processor.num_frames if num_frames is None else num_frames
    max_text_length = processor.max_text_length if max_text_length is None else max_text_length
    videos = list(enumerate(data.videos))[state.process_index :: state.num_processes]
    clips = EvaluationClipDataset(videos, processor.video_processor, num_frames, trim_seconds)
    protocol = {
        "frames": num_frames,
        "sampling": processor.video_processor.sampling,
        "trim_seconds": trim_seconds,
        "resolution": list(clips.resolution),
        "resize_kernel": processor.video_processor.resize_kernel,
        "max_text_length": max_text_length,
        "reranked": num_reranked,
        "dtype": dtype_name(model, autocast_dtype),
    }
    settings = {"protocol": protocol, "texts": data.texts}
    partial = PartialScores(partial_folder, data.videos, data.names, len(data.texts), model, processor, settings)
    encoder = _Encoder(model, autocast_dtype)
    with evaluation_mode(model):
        vectors, tokens, broken = encoder.encode_videos(clips, batch_size, num_workers)
        parts = gather_object([(vectors, broken)])
        vectors = {video: vector for part, _ in parts for video, vector in part.items()}
        broken = {video: error for _, part in parts for video, error in part.items()}
        skipped = [SkippedVideo(data.names[video], *broken[video]) for video in sorted(broken)]
        if not vectors:
            raise no_readable_video(skipped)
        rows = np.array(sorted(vectors))
        columns = np.flatnonzero(data.match[rows].any(axis=0))
        scored = np.ix_(rows, columns)
        # all texts, so that their states do not depend on the videos that can be read
        text_vectors, text_states, text_mask = encoder.encode_texts(processor, data.texts, max_text_length)
        video_vectors = np.stack([vectors[row] for row in rows]).astype(np.float64)
        dual_encoder = video_vectors @ text_vectors[columns].astype(np.float64).T
        if not np.isfinite(dual_encoder).all():
            raise ValueError(
                f"Scores are not finite in {autocast_dtype or model.dtype}; evaluate in bfloat16 or float32."
            )
        by_video = best_candidates(dual_encoder, num_reranked)
        by_text = best_candidates(dual_encoder.T, num_reranked).T
        pairs = np.zeros(data.match.shape, dtype=bool)
        pairs[scored] = by_video | by_text
        reranked, num_resumed = _match_logits(encoder, tokens, pairs, text_states, text_mask, texts_per_match, partial)
    if not np.isfinite(reranked[pairs]).all():
        raise ValueError(f"Logits are not finite in {autocast_dtype or model.dtype}; evaluate in bfloat16 or float32.")
    reranked, unranked = reranked[scored], dual_encoder + UNRANKED
    kept = RetrievalSet(
        [data.videos[row] for row in rows],
        [data.names[row] for row in rows],
        [data.texts[column] for column in columns],
        data.match[scored],
    )
    scores = RetrievalScores(
        metrics={},
        dual_encoder=dual_encoder,
        text_to_video=np.where(by_text, reranked, unranked).T,
        video_to_text=np.where(by_video, reranked, unranked),
        data=kept,
        skipped=skipped,
        num_skipped_texts=len(data.texts) - len(columns),
        num_resumed=num_resumed,
        protocol=protocol,
        partial_folder=partial.folder,
    )
    if num_reranked:
        scores.metrics["reranked"] = retrieval_metrics(scores.text_to_video, scores.video_to_text, kept.match)
    scores.metrics["dual_encoder"] = retrieval_metrics(dual_encoder.T, dual_encoder, kept.match)
    return scores


def _match_logits(
    encoder: "_Encoder",
    tokens: dict[int, torch.Tensor],
    pairs: np.ndarray,
    text_states: torch.Tensor,
    text_mask: torch.Tensor,
    texts_per_match: int,
    partial: PartialScores,
) -> tuple[np.ndarray, int]:
    """Match logits of the videos of all processes, float64 (M, N), NaN outside of `pairs`, and the number of videos
    whose logits were saved before, for the same texts: rounding may depend on the texts of a batch."""
    saved = {video: logits for video, logits in partial.read().items() if video in tokens}
    logits = {video: row for video, row in saved.items() if np.array_equal(np.isfinite(row), pairs[video])}
    num_resumed = len(logits)
    left = {video: states for video, states in tokens.items() if video not in logits}
    for video, row in encoder.match_pairs(left, pairs, text_states, text_mask, texts_per_match):
        partial.write(video, row)
        logits[video] = row
    matrix = np.full(pairs.shape, np.nan)
    parts = gather_object([(logits, num_resumed)])
    for part, _ in parts:
        for video, row in part.items():
            matrix[video] = row
    return matrix, sum(number for _, number in parts)


def best_candidates(scores: np.ndarray, number: int) -> np.ndarray:
    """bool (queries, candidates), True for the `number` best of each row; of equal scores, for the lower indices."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :number]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


class _Encoder:
    """The video encoder, the text encoder and the cross-encoder of a model, under autocast and without gradients."""

    def __init__(self, model: UMTVideoTextModel, autocast_dtype: torch.dtype | None):
        self.model, self.dtype = model, autocast_dtype

    @torch.no_grad()
    def encode_videos(
        self, clips: EvaluationClipDataset, batch_size: int, num_workers: int
    ) -> tuple[dict[int, np.ndarray], dict[int, torch.Tensor], dict[int, tuple[str, str]]]:
        """By the video's index: vectors float32 (E,), tokens (tokens, D) on the CPU, and errors."""
        vectors, tokens, broken = {}, {}, {}

        def readable(items: Iterator) -> Iterator[tuple[int, torch.Tensor]]:
            for number, (video, clip) in enumerate(items):
                if isinstance(clip, torch.Tensor):
                    yield number, clip
                else:
                    broken[video] = clip

        with read_clips(clips, num_workers, "videos") as items:
            for numbers, batch in batches_in_place(readable(items), batch_size, len(clips)):
                pixels = normalize_clips(clips.video_processor, batch.to(self.model.device))
                with autocast(self.model, self.dtype):
                    features = self.model.get_video_features(pixels.to(self.model.dtype))
                means = mean_of_unit_vectors(features.pooler_output.float())
                # cross-attention reads them in the data type of the computation
                states = features.last_hidden_state.to("cpu", self.dtype or self.model.dtype)
                for number, vector, state in zip(numbers, means.cpu().numpy(), states, strict=True):
                    if number is not None:
                        video, _ = clips.videos[number]
                        vectors[video], tokens[video] = vector, state
        return vectors, tokens, broken

    @torch.no_grad()
    def encode_texts(
        self, processor: UMTProcessor, texts: list[str], max_text_length: int
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Vectors float32 (N, E), states (N, L, D) and mask (N, L) on the CPU; L is the length of the longest text."""
        encoded = processor(text=texts, max_length=max_text_length, return_tensors="pt")
        longest = int(encoded["attention_mask"].sum(dim=1).max())
        input_ids, mask = encoded["input_ids"][:, :longest], encoded["attention_mask"][:, :longest]
        vectors, states = [], []
        for ids, part in zip(input_ids.split(TEXTS_AT_ONCE), mask.split(TEXTS_AT_ONCE), strict=True):
            with autocast(self.model, self.dtype):
                features = self.model.get_text_features(ids.to(self.model.device), part.to(self.model.device))
            vectors.append(F.normalize(features.pooler_output.float(), dim=-1).cpu())
            states.append(features.last_hidden_state.cpu())
        return torch.cat(vectors).numpy(), torch.cat(states), mask

    @torch.no_grad()
    def match_pairs(
        self,
        tokens: dict[int, torch.Tensor],
        pairs: np.ndarray,
        text_states: torch.Tensor,
        text_mask: torch.Tensor,
        texts_per_match: int,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each video with its match logits, float64 (N,), NaN for texts that are not in `pairs`, bool (M, N)."""
        device = self.model.device
        for video, states in progress_bar(tokens.items(), "re-ranking"):
            texts = np.flatnonzero(pairs[video])
            if len(texts) == 0:
                continue
            with autocast(self.model, self.dtype):
                scores = self.model.match(
                    text_states[texts].to(device),
                    text_mask[texts].to(device),
                    states[None].to(device),
                    chunk_size=texts_per_match,
                )
            logits = np.full(pairs.shape[1], np.nan)
            logits[texts] = scores[:, 1].double().cpu().numpy()
            yield video, logits
