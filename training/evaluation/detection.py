"""Action detection by the protocol of AVA (UMT, arXiv 2303.16058, section 4): frame mAP of a model on given persons.

A key frame is scored once, whole, in one view. The persons are those that a detector found; the score of an action is
its probability times the score of its person, and its box is the detector's, clipped to the frame. The model also
classifies the annotated boxes: the mAP with these boxes has no errors of the detector, so that the difference between
the two is due to it. Both kinds of boxes share a forward pass, whose cost does not depend on their number.

Boxes and scores are rounded to five decimals before the metric, as in the official code, which writes them to a file.
Annotated persons on a key frame that is missing or can't be read are missed, not left out.

Unusual: clips are batched with others of the same padded size, because attention sees the padding: a score does not
depend on which clips are in the batch, where the official one does. Key frames are sharded across processes, each
once. Scores are saved as they are computed, and an interrupted evaluation resumes from them.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn import functional as F
from transformers import PreTrainedModel

from processing_umt import UMTVideoProcessor, VideoDecodeError

from ..data.ava_csv import ActionTable
from ..data.key_frame_clips import KeyFrameClips
from ..data.key_frames import inclusive_corners
from .clips import SkippedVideo, no_readable_video, normalize_clips, read_clips
from .computation import autocast, dtype_name, evaluation_mode, require_finite
from .detection_metrics import FrameMAP, frame_map
from .detection_set import DetectionSet, KeyFramePersons
from .partial_scores import PartialScores

_DECIMALS = 5  # of a box or a score
_CORNERS = 4


@dataclass(frozen=True)
class DetectionScores:
    """Results of `evaluate_detection`, the same in every process."""

    result: FrameMAP
    """With the detected persons; with the annotated boxes if no persons were given."""
    annotated_result: FrameMAP | None
    """With the annotated boxes, beside the result with detected persons."""
    detections: ActionTable
    """The actions that `result` is computed from, a row for each person and class; corners as fractions."""
    num_persons: int
    """Number of persons that were classified for `result`."""
    num_unread: int
    """Number of key frames whose file is missing or can't be read."""
    skipped: list[SkippedVideo]
    """The files that can't be read."""
    num_resumed: int
    """Number of key frames whose scores come from an earlier, interrupted evaluation."""
    protocol: dict[str, Any]
    """Settings: protocol, boxes, frames, sampling, frame_stride, sampling_fps, size, box_extension, dtype."""
    partial_folder: Path | None
    """Folder of the saved scores; to be removed once the results are written."""


def evaluate_detection(
    model: PreTrainedModel,
    processor: UMTVideoProcessor,
    data: DetectionSet,
    *,
    batch_size: int = 16,
    num_workers: int = 4,
    autocast_dtype: torch.dtype | None = None,
    partial_folder: Path | None = None,
) -> DetectionScores:
    """Scores an action detection model. Under `accelerate launch` or `torchrun` every process must call it.

    Args:
        model: a `UMTForActionDetection`, on its device; its mode is restored. Its class c is action id c + 1.
        processor: its processor, with `sampling="key_frame"`.
        data: annotated actions and the persons to classify, see `detection_set`.
        batch_size: clips per batch, in each process; fewer where clips of a size are fewer.
        num_workers: decoding processes for each process of the evaluation; 0 decodes in the evaluating process.
        autocast_dtype: the official evaluation uses float16; default: the model's own data type, without autocast.
        partial_folder: scores are saved here as they are computed, in a sub-folder named by a hash of weights,
            processor, persons and videos. A later call with the same hash resumes from them, and reads key frames that
            could not be read, or whose files have changed, again. Default: scores are in memory only.

    Raises:
        ValueError: before decoding, for a processor of another kind or a class that the model does not have; later,
            for logits that are not finite, or if none of the key frames can be read.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size is {batch_size} and num_workers {num_workers}; expected at least 1 and 0.")
    check_suitable(model, processor, data)
    protocol = {
        "protocol": data.protocol,
        "boxes": "detected" if data.are_detected else "annotated",
        "frames": processor.num_frames,
        "sampling": processor.sampling,
        "frame_stride": processor.frame_stride,
        "sampling_fps": processor.sampling_fps,
        "size": {name: side for name, side in dict(processor.size).items() if side is not None},
        "box_extension": processor.box_extension,
        "dtype": dtype_name(model, autocast_dtype),
    }
    rows_of = _rows_of_persons(data.persons)
    partial = _partial_scores(partial_folder, data, model, processor, protocol)
    saved = partial.read()
    done = [number for number, rows in enumerate(rows_of) if saved.keys() >= {*rows}]
    values = {row: saved[row] for number in done for row in rows_of[number]}

    state = PartialState(cpu=model.device.type == "cpu")
    remaining = sorted({*range(len(rows_of))} - {*done})[state.process_index :: state.num_processes]
    dataset = PersonClipDataset(data, remaining, processor)
    found, broken = {}, {}
    with evaluation_mode(model), read_clips(dataset, num_workers, "evaluate") as items:
        clips = _readable(items, broken)
        for number, clip, probabilities in _score_clips(model, processor, clips, batch_size, autocast_dtype):
            require_finite(probabilities, data.persons[number].key_frame.name, protocol["dtype"])
            for row, value in zip(rows_of[number], _values(clip, probabilities), strict=True):
                partial.write(row, value)
                found[row] = value

    parts = gather_object([(found, broken)])
    values |= {row: value for part, _ in parts for row, value in part.items()}
    errors = {number: error for _, part in parts for number, error in part.items()}
    skipped = sorted({SkippedVideo(*error) for error in errors.values()})
    if not values:
        raise no_readable_video(skipped)
    annotated, detected = _detections(data, rows_of, values, model.config.num_labels)
    result, annotated_result = _frame_map(data, annotated), None
    if data.are_detected:
        result, annotated_result = _frame_map(data, detected), result
    detections = detected if data.are_detected else annotated
    return DetectionScores(
        result=result,
        annotated_result=annotated_result,
        detections=detections,
        num_persons=len(detections) // model.config.num_labels,
        num_unread=len(errors) + data.missing.total(),
        skipped=skipped,
        num_resumed=len(done),
        protocol=protocol,
        partial_folder=partial.folder,
    )


def check_suitable(model: PreTrainedModel, processor: UMTVideoProcessor, data: DetectionSet) -> None:
    """Raises a ValueError if the processor does not read key frames, or the model lacks an evaluated class."""
    sampling = getattr(processor, "sampling", None)
    if sampling != "key_frame":
        raise ValueError(
            f"The video processor is not one of action detection: its sampling is {sampling!r}, not 'key_frame'. Save "
            "UMTVideoProcessor.for_action_detection(model.config) beside the model."
        )
    if (highest := max(data.label_map)) > model.config.num_labels:
        raise ValueError(
            f"The label map has the id {highest} ({data.label_map[highest]}), but the model has "
            f"{model.config.num_labels} classes, ids from 1. Give the label map of its classes."
        )


# --- clips ----------------------------------------------------------------------------------------------------------


class PersonClip(NamedTuple):
    """The clip around a key frame and its persons, annotated ones first.

    Args:
        frames: uint8 `(frames, channels, height, width)`, resized.
        boxes: float32 `(boxes, 4)`, inclusive corners in pixels of the frames, enlarged as the processor says.
        persons: int64 `(boxes,)`, indices of their persons: a person whose box has no area has none here.
        corners: float64 `(persons, 4)`, boxes clipped to the frame, as fractions of it; NaN without area.
    """

    frames: torch.Tensor
    boxes: torch.Tensor
    persons: np.ndarray
    corners: np.ndarray


class PersonClipDataset(torch.utils.data.Dataset):
    """The clip of each key frame. An item is the number of the key frame and its [`PersonClip`], or, if a file can't
    be read, the number and its name, the reason and the complete message.

    Args:
        data: the key frames and their videos.
        numbers: numbers of the key frames to read.
        processor: a `UMTVideoProcessor`.
    """

    def __init__(self, data: DetectionSet, numbers: Sequence[int], processor: UMTVideoProcessor):
        sampling = (processor.num_frames, processor.frame_stride, processor.sampling_fps)
        self.clips = KeyFrameClips(data.movies, *sampling)
        self.persons, self.numbers, self.processor = data.persons, numbers, processor

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> tuple[int, PersonClip | tuple[str, str, str]]:
        number = self.numbers[position]
        pair = self.persons[number]
        try:
            frames = self.clips.read(pair.key_frame)
        except VideoDecodeError as error:
            return number, (error.video, error.reason, str(error))
        height, width = frames.shape[1:3]
        inclusive, persons, corners = [], [], []
        for key_frame in filter(None, (pair.annotated, pair.detected)):
            boxes, kept = inclusive_corners(key_frame, height, width)
            fractions = np.full((len(key_frame.boxes), _CORNERS), np.nan)
            # the width of a box is x2 - x1 here, and x2 - x1 + 1 of inclusive corners
            fractions[kept] = (boxes + np.array([0, 0, 1, 1])) / ([width, height] * 2)
            persons.append(kept + sum(map(len, corners)))
            inclusive.append(boxes)
            corners.append(np.clip(fractions, 0, 1))
        # normalised on the device; the padding of a batch is zero after it
        unfinished = {"do_rescale": False, "do_normalize": False, "size_divisor": None}
        inputs = self.processor(frames, boxes=[np.concatenate(inclusive)], return_tensors="pt", **unfinished)
        clip = PersonClip(
            inputs["pixel_values_videos"][0], inputs["boxes"][0], np.concatenate(persons), np.concatenate(corners)
        )
        return number, clip


def _readable(
    items: Iterable[tuple[int, PersonClip | tuple[str, str, str]]], broken: dict[int, tuple[str, str, str]]
) -> Iterator[tuple[int, PersonClip]]:
    """Numbers and clips of the key frames that can be read; the others are added to `broken`."""
    for number, clip in items:
        if isinstance(clip, PersonClip):
            yield number, clip
        else:
            broken[number] = clip


def _score_clips(
    model: PreTrainedModel,
    processor: UMTVideoProcessor,
    clips: Iterable[tuple[int, PersonClip]],
    batch_size: int,
    autocast_dtype: torch.dtype | None,
) -> Iterator[tuple[int, PersonClip, torch.Tensor]]:
    """Number, clip and probabilities `(boxes, num_labels)` of each key frame, in batches of one padded size."""
    for batch in _batches_of_size(clips, batch_size, processor.size_divisor or model.config.patch_size):
        pixels, boxes, box_mask = _padded([clip for _, clip in batch], processor, model.device)
        with torch.no_grad(), autocast(model, autocast_dtype):
            outputs = model(pixel_values_videos=pixels.to(model.dtype), boxes=boxes, box_mask=box_mask)
        probabilities = outputs.logits.float().sigmoid().cpu()
        for (number, clip), of_clip in zip(batch, probabilities, strict=True):
            yield number, clip, of_clip[: len(clip.boxes)]


def _batches_of_size(
    clips: Iterable[tuple[int, PersonClip]], batch_size: int, divisor: int
) -> Iterator[list[tuple[int, PersonClip]]]:
    """Numbers and clips in batches whose clips have the same size, rounded up to a multiple of `divisor`."""
    waiting: dict[tuple[int, ...], list[tuple[int, PersonClip]]] = collections.defaultdict(list)
    for number, clip in clips:
        batch = waiting[tuple(-(-side // divisor) * divisor for side in clip.frames.shape[-2:])]
        batch.append((number, clip))
        if len(batch) == batch_size:
            yield batch.copy()
            batch.clear()
    yield from filter(None, waiting.values())


def _padded(
    clips: Sequence[PersonClip], processor: UMTVideoProcessor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of the model for clips of one padded size: `pixel_values_videos`, `boxes` and `box_mask`."""
    divisor = processor.size_divisor or 1
    pixels = []
    for clip in clips:
        normalized = normalize_clips(processor, clip.frames[None].to(device))
        height, width = (-side % divisor for side in clip.frames.shape[-2:])
        pixels.append(F.pad(normalized, (0, width, 0, height)))
    counts = torch.tensor([len(clip.boxes) for clip in clips])
    boxes = torch.nn.utils.rnn.pad_sequence([clip.boxes for clip in clips], batch_first=True)
    box_mask = torch.arange(boxes.shape[1]) < counts[:, None]
    return torch.cat(pixels), boxes.to(device), box_mask.to(device)


# --- rows of persons ------------------------------------------------------------------------------------------------


def _rows_of_persons(persons: Sequence[KeyFramePersons]) -> list[range]:
    """The rows of each key frame's persons in one table of all."""
    ends = np.cumsum([0] + [pair.num_persons for pair in persons]).tolist()
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def _partial_scores(
    folder: Path | None,
    data: DetectionSet,
    model: PreTrainedModel,
    processor: UMTVideoProcessor,
    protocol: dict[str, Any],
) -> PartialScores:
    """The saved scores, a row for each person; the boxes and scores of the persons are a part of their fingerprint."""
    files, facts = [], []
    for pair in data.persons:
        key_frame = pair.key_frame
        movie = data.movies[key_frame.video]
        files += [movie.parts[movie.part_at(key_frame.time)].path] * pair.num_persons
        facts.append([key_frame.video, key_frame.time])
        for kind in filter(None, (pair.annotated, pair.detected)):
            facts.append([kind.relative, kind.boxes.tolist(), None if kind.scores is None else kind.scores.tolist()])
    width = _CORNERS + model.config.num_labels
    return PartialScores(folder, files, files, width, model, processor, {"protocol": protocol, "persons": facts})


def _values(clip: PersonClip, probabilities: torch.Tensor) -> np.ndarray:
    """Corners and probabilities of each person, float64 `(persons, 4 + num_labels)`; NaN for a box without area."""
    values = np.full((len(clip.corners), _CORNERS + probabilities.shape[1]), np.nan)
    values[:, :_CORNERS] = clip.corners
    values[clip.persons, _CORNERS:] = probabilities.numpy()
    return values


def _detections(
    data: DetectionSet, rows_of: Sequence[range], values: dict[int, np.ndarray], num_labels: int
) -> tuple[ActionTable, ActionTable]:
    """The actions of the annotated and of the detected persons."""
    videos = {name: number for number, name in enumerate(dict.fromkeys(pair.key_frame.video for pair in data.persons))}
    # of each person: video, time, score of the person, and its values
    persons: tuple[list, list] = ([], [])
    for pair, rows in zip(data.persons, rows_of, strict=True):
        place = (videos[pair.key_frame.video], pair.key_frame.time)
        num_annotated = 0 if pair.annotated is None else len(pair.annotated.boxes)
        scores = [] if pair.detected is None else pair.detected.scores.tolist()
        for position, row in enumerate(rows):
            if row not in values or np.isnan(values[row][0]):
                continue
            if position < num_annotated:
                persons[0].append((*place, 1.0, values[row]))
            else:
                persons[1].append((*place, scores[position - num_annotated], values[row]))
    annotated, detected = (_table(list(videos), rows, num_labels) for rows in persons)
    return annotated, detected


def _table(videos: list[str], persons: Sequence[tuple[int, float, float, np.ndarray]], num_labels: int) -> ActionTable:
    """A row for each person and class."""
    values = np.array([row[3] for row in persons]).reshape(len(persons), _CORNERS + num_labels)
    scores = values[:, _CORNERS:] * np.array([row[2] for row in persons])[:, None]
    return ActionTable(
        videos=videos,
        video=np.repeat(np.array([row[0] for row in persons], dtype=np.int32), num_labels),
        times=np.repeat(np.array([row[1] for row in persons], dtype=np.float64), num_labels),
        boxes=np.repeat(values[:, :_CORNERS].round(_DECIMALS), num_labels, axis=0),
        actions=np.tile(np.arange(1, num_labels + 1, dtype=np.int32), len(persons)),
        scores=scores.round(_DECIMALS).reshape(-1),
    )


def _frame_map(data: DetectionSet, detections: ActionTable) -> FrameMAP:
    return frame_map(data.annotations, detections, data.label_map, data.protocol, data.excluded)
