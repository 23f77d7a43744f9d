"""Retrieval scored to the protocol of UMT (arXiv 2303.16058, section 4.3): videos by texts and texts by videos.

Every video is compared with every text by the dual encoder, and the best `num_reranked` candidates of each query are
put in a new order by the cross-encoder's logit for a match. Both orders are reported; the published numbers are the
second.

What is unusual: pairs are grouped by video, so that the cross-encoder computes the keys and values of a video once for
all texts that it is compared with, and a pair that both directions ask for is scored once. A process decodes, encodes
and re-ranks its own videos; only the vectors of the joint space and the scores of pairs travel, and nothing is summed
(the official sum over processes shifts the scores by 100 for each). Candidates that were not re-ranked stay behind all
others, in the order of the dual encoder. Equal scores: the cross-encoder gets the candidate of the lower number; in
the metrics an equal one counts half. A broken video is left out, with the texts that belong to it alone.

Shape legend: M videos, N texts, L word pieces, E width of the joint space.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.video_utils import VideoMetadata

from modeling_umt import UMTVideoTextModel
from modeling_umt.modeling_umt_video_text import mean_of_unit_vectors
from processing_umt import UMTProcessor, VideoDecodeError
from processing_umt.frame_sampling_umt import trimmed_length
from processing_umt.video_decoding_umt import VideoReader

from ..data.batching import batches
from ..data.video_dataset import open_video, video_name
from .classification import SkippedVideo
from .metrics import RetrievalRecall

TEXTS_AT_ONCE = 256  # through the text encoder
UNRANKED = -100.0  # officially the score of what is not re-ranked; here the dual encoder's score less 100


@dataclass
class RetrievalSet:
    """Videos, texts, and which belong together; see `retrieval_set`."""

    videos: list[Any]
    """(M,), as the records have them: paths, or bytes."""
    names: list[str]
    """(M,)."""
    texts: list[str]
    """(N,), as they are written."""
    match: np.ndarray
    """bool (M, N)."""

    def __len__(self) -> int:
        """Pairs that belong together."""
        return int(self.match.sum())


@dataclass
class RetrievalScores:
    """What `evaluate_retrieval` returns, the same in every process."""

    metrics: dict[str, dict[str, float]]
    """`reranked` and `dual_encoder`, each with `text_to_video_r1` …, see `RetrievalRecall`, and `mean_recall`, the
    mean of the six recalls. Percent, but ranks from 1."""
    dual_encoder: np.ndarray
    """float64 (M, N), mean over frames of the cosines."""
    text_to_video: np.ndarray
    """float64 (N, M): the cross-encoder's logit for a match, or, not re-ranked, the dual encoder's score less 100."""
    video_to_text: np.ndarray
    """float64 (M, N), likewise."""
    data: RetrievalSet
    """What was scored, without the broken."""
    skipped: list[SkippedVideo]
    num_skipped_texts: int
    """Texts all of whose videos are broken."""
    protocol: dict[str, Any]


def retrieval_set(records: datasets.Dataset, paragraph: bool = False, several_videos: bool = False) -> RetrievalSet:
    """The videos and texts of a table with `video` and `caption`, a text or a list of them.

    Rows of equal path are one video. Each caption is a text of its own, also where two read the same.

    Args:
        records: what `load_video_records` returns.
        paragraph: a row's captions, joined by spaces, are one text (ActivityNet, DiDeMo).
        several_videos: rows of equal captions are one text, that belongs to several videos (Something-Something).
            Officially the rows of a list are, each with its videos; the two agree where no caption is there twice.

    Raises:
        ValueError: a stream, an empty table, or a row without a caption.
    """
    if not isinstance(records, datasets.Dataset) or len(records) == 0 or "caption" not in records.column_names:
        raise ValueError(
            "Retrieval is measured on a table of videos with a column `caption`, not streamed and not empty; use a "
            "list of {video, caption}."
        )
    videos, names, texts, pairs = [], [], [], []
    video_numbers: dict[str, int] = {}
    text_numbers: dict[str, int] = {}
    for row, (video, captions) in enumerate(zip(records["video"], records["caption"], strict=True)):
        captions = captions if isinstance(captions, list) else [captions]
        if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
            raise ValueError(f"{video_name(video) or f'Record {row}'} has no caption, or an empty one.")
        name = video_name(video) or f"record {row}"
        if name not in video_numbers:
            video_numbers[name] = len(videos)
            videos.append(video)
            names.append(name)
        for caption in [" ".join(captions)] if paragraph else captions:
            if not several_videos or caption not in text_numbers:
                text_numbers[caption] = len(texts)
                texts.append(caption)
            pairs.append((video_numbers[name], text_numbers[caption]))
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
) -> RetrievalScores:
    """Scores a video-text model. Under `accelerate launch` or `torchrun` every process must call it.

    A process keeps the tokens of its videos in memory, in the type of the computation: for UMT-L/16 with 12 frames 4.8
    MB a video in float16; and the last text layer of all texts.

    Args:
        model: in any mode, which is restored; on its device.
        processor: its saved options hold where none is given here.
        num_frames: frames of a clip, the middles of as many intervals; published: 4 zero-shot, 12 fine-tuned.
        max_text_length: tokens of a text.
        num_reranked: candidates of a query that the cross-encoder sees; 0 for the dual encoder alone.
        trim_seconds: frames come from the first seconds only (30 for DiDeMo).
        batch_size: clips that pass the video encoder at once, in each process.
        texts_per_match: texts that pass the cross-encoder at once.
        num_workers: processes that decode, for each process of the evaluation; 0 decodes in between.
        autocast_dtype: the official evaluation uses float16; default: the model's own type, without autocast.

    Raises:
        ValueError: counts below 1, scores that are not finite, texts longer than the model's table, or when not a
            single video can be read.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("num_reranked", num_reranked, 0),
        ("texts_per_match", texts_per_match, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}.")
    state = PartialState(cpu=model.device.type == "cpu")
    num_frames = num_frames or processor.video_processor.num_frames
    max_text_length = max_text_length or processor.max_text_length
    mine = list(enumerate(data.videos))[state.process_index :: state.num_processes]
    clips = ClipsOfVideos(mine, processor.video_processor, num_frames, trim_seconds)
    encoder = _Encoder(model, autocast_dtype, is_main_process=state.is_main_process)
    was_training = model.training
    model.eval()
    try:
        vectors, tokens, broken = encoder.encode_videos(clips, batch_size, num_workers)
        parts = gather_object([(vectors, broken)])
        vectors = {row: vector for part, _ in parts for row, vector in part.items()}
        broken = {row: error for _, part in parts for row, error in part.items()}
        skipped = [SkippedVideo(data.names[row], *broken[row]) for row in sorted(broken)]
        if not vectors:
            listed = ", ".join(f"{video} ({reason})" for video, reason, _ in skipped[:8])
            raise ValueError(f"None of the {len(data.videos)} videos can be read: {listed}. Check path and root.")
        rows = np.array(sorted(vectors))
        columns = np.flatnonzero(data.match[rows].any(axis=0))
        kept = RetrievalSet(
            [data.videos[row] for row in rows],
            [data.names[row] for row in rows],
            [data.texts[column] for column in columns],
            data.match[np.ix_(rows, columns)],
        )
        text_vectors, text_states, text_mask = encoder.encode_texts(processor, kept.texts, max_text_length)
        dual_encoder = np.stack([vectors[row] for row in rows]).astype(np.float64) @ text_vectors.astype(np.float64).T
        if not np.isfinite(dual_encoder).all():
            raise ValueError(
                f"Scores are not finite in {autocast_dtype or model.dtype}; evaluate in bfloat16 or float32."
            )
        by_video = best_candidates(dual_encoder, num_reranked)
        by_text = best_candidates(dual_encoder.T, num_reranked).T
        own = {number: tokens[row] for number, row in enumerate(rows) if row in tokens}
        logits = encoder.match_pairs(own, by_video | by_text, text_states, text_mask, texts_per_match)
    finally:
        model.train(was_training)

    reranked = np.full(dual_encoder.shape, np.nan)
    for part in gather_object([logits]):
        for video, (texts, scores) in part.items():
            reranked[video, texts] = scores
    scored = reranked[by_video | by_text]
    if not np.isfinite(scored).all():
        raise ValueError(f"Logits are not finite in {autocast_dtype or model.dtype}; evaluate in bfloat16 or float32.")
    unranked = dual_encoder + UNRANKED
    scores = RetrievalScores(
        metrics={},
        dual_encoder=dual_encoder,
        text_to_video=np.where(by_text, reranked, unranked).T,
        video_to_text=np.where(by_video, reranked, unranked),
        data=kept,
        skipped=skipped,
        num_skipped_texts=len(data.texts) - len(columns),
        protocol={
            "frames": num_frames,
            "sampling": processor.video_processor.sampling,
            "trim_seconds": trim_seconds,
            "resolution": list(clips.resolution),
            "resize_kernel": processor.video_processor.resize_kernel,
            "max_text_length": max_text_length,
            "reranked": num_reranked,
            "dtype": str(autocast_dtype or model.dtype).removeprefix("torch."),
        },
    )
    if num_reranked:
        scores.metrics["reranked"] = recall(scores.text_to_video, scores.video_to_text, kept.match)
    scores.metrics["dual_encoder"] = recall(dual_encoder.T, dual_encoder, kept.match)
    return scores


def best_candidates(scores: np.ndarray, number: int) -> np.ndarray:
    """bool (queries, candidates): the `number` best of each row; of equal ones those of the lower number."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :number]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen


def recall(text_to_video: np.ndarray, video_to_text: np.ndarray, match: np.ndarray) -> dict[str, float]:
    """Recall and ranks both ways, from scores (N, M), scores (M, N) and which belong together, bool (M, N)."""
    results, recalls = {}, []
    for name, scores, right in (("text_to_video", text_to_video, match.T), ("video_to_text", video_to_text, match)):
        references = [np.flatnonzero(row).tolist() for row in right]
        results |= RetrievalRecall(config_name=name).compute(predictions=scores, references=references)
        recalls += [results[f"{name}_r{rank}"] for rank in (1, 5, 10)]
    return results | {"mean_recall": float(np.mean(recalls))}


class ClipsOfVideos(torch.utils.data.Dataset):
    """An item is a video's number and its clip, uint8 `(frames, channels, height, width)`, or reason and message if it
    can't be read.

    Args:
        videos: number and path, bytes, or record of both.
        video_processor: a `UMTVideoProcessor`, whose options hold but for these:
        num_frames: frames of a clip.
        trim_seconds: see `evaluate_retrieval`.
    """

    def __init__(
        self, videos: list[tuple[int, Any]], video_processor: Any, num_frames: int, trim_seconds: float | None = None
    ):
        self.videos, self.video_processor = videos, video_processor
        self.num_frames, self.trim_seconds = num_frames, trim_seconds
        self.resolution = tuple(self.process(np.zeros((num_frames, 48, 64, 3), dtype=np.uint8)).shape[-2:])

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | tuple[str, str]]:
        number, video = self.videos[index]
        try:
            with VideoReader(open_video(video)) as reader:
                length = reader.num_frames
                if self.trim_seconds is not None:
                    length = trimmed_length(length, reader.fps, self.trim_seconds)
                places = self.video_processor.sample_frames(
                    VideoMetadata(total_num_frames=length), num_frames=self.num_frames, num_clips=1
                )
                return number, self.process(reader.read(places))
        except VideoDecodeError as error:
            return number, (error.reason, str(error))

    def process(self, frames: np.ndarray) -> torch.Tensor:
        """Resized and cropped, but not normalised: uint8 travels faster from the workers."""
        options = {"num_frames": self.num_frames, "num_clips": 1, "num_crops": 1}
        options |= {"do_rescale": False, "do_normalize": False}
        return self.video_processor(frames, return_tensors="pt", **options)["pixel_values_videos"][0]

    def normalize(self, clips: torch.Tensor) -> torch.Tensor:
        """`pixel_values_videos` of clips `(batch, frames, channels, height, width)`."""
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        options = {name: getattr(self.video_processor, name) for name in names}
        return self.video_processor.rescale_and_normalize(clips, **options)


class _Encoder:
    """The three passes of a model, under autocast and without gradients."""

    def __init__(self, model: UMTVideoTextModel, autocast_dtype: torch.dtype | None, is_main_process: bool):
        self.model, self.dtype = model, autocast_dtype
        self.hidden = None if is_main_process else True  # of the bars; None: hidden where stderr is no terminal

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self.dtype, enabled=self.dtype is not None)

    @torch.no_grad()
    def encode_videos(
        self, clips: ClipsOfVideos, batch_size: int, num_workers: int
    ) -> tuple[dict[int, np.ndarray], dict[int, torch.Tensor], dict[int, tuple[str, str]]]:
        """By number: vectors float32 (E,), tokens (tokens, width) on the CPU, and what can't be read."""
        loader = DataLoader(
            clips, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, generator=torch.Generator()
        )
        vectors, tokens, broken = {}, {}, {}

        def readable(items: Iterator) -> Iterator[tuple[int, torch.Tensor]]:
            for number, clip in items:
                if isinstance(clip, torch.Tensor):
                    yield number, clip
                else:
                    broken[number] = clip

        with tqdm(loader, desc="videos", unit=" videos", delay=1, leave=False, disable=self.hidden) as items:
            for batch in batches(readable(items), batch_size):
                pixels = clips.normalize(torch.stack([clip for _, clip in batch]).to(self.model.device))
                with self.autocast():
                    features = self.model.get_video_features(pixels.to(self.model.dtype))
                means = mean_of_unit_vectors(features.pooler_output.float())
                # cross-attention reads them in the type of the computation
                states = features.last_hidden_state.to("cpu", self.dtype or self.model.dtype)
                for (number, _), vector, state in zip(batch, means.cpu().numpy(), states, strict=True):
                    vectors[number], tokens[number] = vector, state
        return vectors, tokens, broken

    @torch.no_grad()
    def encode_texts(
        self, processor: UMTProcessor, texts: list[str], max_text_length: int
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Vectors float32 (N, E), states (N, L, width) and mask (N, L) on the CPU; L is the longest text's."""
        encoded = processor(text=texts, max_length=max_text_length, return_tensors="pt")
        longest = int(encoded["attention_mask"].sum(dim=1).max())
        input_ids, mask = encoded["input_ids"][:, :longest], encoded["attention_mask"][:, :longest]
        vectors, states = [], []
        for ids, part in zip(input_ids.split(TEXTS_AT_ONCE), mask.split(TEXTS_AT_ONCE), strict=True):
            with self.autocast():
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
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Of every video the texts that `pairs`, bool (M, N), names, and their logits for a match."""
        device, logits = self.model.device, {}
        for video, states in tqdm(
            tokens.items(), desc="re-ranking", unit=" videos", delay=1, leave=False, disable=self.hidden
        ):
            texts = np.flatnonzero(pairs[video])
            if len(texts) == 0:
                continue
            with self.autocast():
                scores = self.model.match(
                    text_states[texts].to(device),
                    text_mask[texts].to(device),
                    states[None].to(device),
                    chunk_size=texts_per_match,
                )
            logits[video] = texts, scores[:, 1].double().cpu().numpy()
        return logits


def _as_it_is(item: Any) -> Any:
    return item
