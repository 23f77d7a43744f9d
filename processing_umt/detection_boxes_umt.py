"""Boxes of persons for action detection: from pixels of a video to those of the model's input, and back to actions.

Boxes are inclusive corners x1, y1, x2, y2 in pixels, as in the official code (UMT's detection code; AVA): a box of one
pixel has x1 = x2, and the last column of a frame is width - 1.

Unusual: the processor neither drops boxes nor changes their order, so that row p of the logits is box p of the caller.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def boxes_per_video(boxes: Any, num_videos: int) -> list[torch.Tensor] | None:
    """The caller's boxes as one float32 tensor `(n, 4)` per video; None without boxes.

    Raises:
        ValueError: not one list of boxes per video, or a box that is none in pixels: not four finite numbers, corners
            in the wrong order, or relative coordinates.
    """
    if boxes is None:
        return None
    if isinstance(boxes, Mapping) or not hasattr(boxes, "__len__") or len(boxes) != num_videos:
        given = len(boxes) if hasattr(boxes, "__len__") else type(boxes).__name__
        raise ValueError(
            f"boxes is {given}, but there are {num_videos} videos; expected a list with the boxes of each video, "
            "[[[x1, y1, x2, y2], ...], ...]; an empty list for a video without boxes."
        )
    return [box_tensor(rows, f"boxes of video {index}") for index, rows in enumerate(boxes)]


def box_tensor(rows: Any, name: str) -> torch.Tensor:
    """The boxes of one video, float32 `(n, 4)`; `name` is what errors call them. See `boxes_per_video`."""
    if isinstance(rows, (list, tuple)):  # of rows that may be arrays or tensors, as a detector's boxes are
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
    try:
        boxes = torch.as_tensor(rows, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The {name} are not rows of four numbers x1, y1, x2, y2: {error}.") from error
    if boxes.numel() == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"The {name} have the shape {tuple(boxes.shape)}; expected rows [x1, y1, x2, y2].")
    for box in boxes.tolist():
        if not all(map(math.isfinite, box)):
            raise ValueError(f"A box among the {name} is {box}; expected finite numbers.")
        if box[2] < box[0] or box[3] < box[1]:
            raise ValueError(f"A box among the {name} is {box}; expected x1 <= x2 and y1 <= y2.")
    if 0 < boxes.max() <= 1 and boxes.min() >= 0:
        raise ValueError(
            f"The {name} lie between 0 and 1, as relative coordinates do; expected pixels: multiply x by the width "
            "and y by the height of the video."
        )
    return boxes


def input_boxes(
    boxes: torch.Tensor,
    video_size: tuple[int, int],
    input_size: tuple[int, int],
    extension: Sequence[float] | None = None,
    name: str = "boxes",
) -> torch.Tensor:
    """Boxes of a video in pixels of its resized frames.

    Args:
        boxes (float32 `(n, 4)`): In pixels of the video; what is beyond its border is cut off.
        video_size: (height, width) of the video.
        input_size: (height, width) of the resized frames, without padding. Each axis is scaled for itself.
        extension (*optional*): Fractions of width and height by which a box is enlarged, half on each side, before it
            is clipped to the resized frames: 0.1 and 0.05 for published models.
        name: What errors call the boxes.

    Raises:
        ValueError: a box outside of its video.
    """
    outside = (boxes[:, :2] >= boxes.new_tensor(video_size[::-1])).any(1) | (boxes[:, 2:] < 0).any(1)
    if outside.any():
        raise ValueError(
            f"A box among the {name} is {boxes[outside][0].tolist()}, which is outside of the video of "
            f"{video_size[0]}x{video_size[1]} (height x width); expected pixels of the displayed frame."
        )
    boxes = clip_boxes(boxes, video_size)
    boxes = boxes * boxes.new_tensor([new / old for old, new in zip(video_size, input_size, strict=True)][::-1] * 2)
    if extension is not None:
        margins = (boxes[:, 2:] - boxes[:, :2] + 1) * boxes.new_tensor(extension) / 2
        boxes = clip_boxes(torch.cat([boxes[:, :2] - margins, boxes[:, 2:] + margins], dim=1), input_size)
    return boxes


def clip_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Boxes `(n, 4)` with corners inside a frame of `size` (height, width): from 0 to size - 1."""
    height, width = size
    last = boxes.new_tensor([width - 1, height - 1] * 2)
    return torch.minimum(boxes.clamp(min=0), last)


def pad_boxes(boxes: list[torch.Tensor], device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """The inputs `boxes`, float32 `(batch, boxes, 4)`, padded with zeros, and `box_mask`, bool `(batch, boxes)`.

    `boxes` are those `(n, 4)` of each clip.
    """
    count = max(map(len, boxes))
    padded, mask = torch.zeros(len(boxes), count, 4), torch.zeros(len(boxes), count, dtype=torch.bool)
    for index, rows in enumerate(boxes):
        padded[index, : len(rows)], mask[index, : len(rows)] = rows, True
    return {"boxes": padded.to(device), "box_mask": mask.to(device)}


class ActionDetectionPostProcessing:
    """The part of `UMTVideoProcessor` that turns logits of boxes into actions of persons."""

    def post_process_action_detection(
        self, outputs: Any, boxes: Any, box_scores: Any = None, threshold: float = 0.5
    ) -> list[dict[str, torch.Tensor]]:
        """The actions of the persons of each clip.

        Args:
            outputs: A `UMTActionDetectionOutput`, or another object with `logits (batch, boxes, num_labels)`.
            boxes: For each clip the boxes `(n, 4)` that are returned: those of the detector, in pixels of the video,
                as they were given to the processor.
            box_scores (*optional*): For each clip the scores `(n,)` of its boxes, by which those of the actions are
                multiplied.
            threshold: Actions with at least this score are returned; 0 returns all classes of every person.

        Returns:
            One dictionary per clip, with entries of equal length and the highest score first: `scores` float32,
            `labels` int64 (class indices), `boxes` float32 `(actions, 4)`, `persons` int64 (indices into the boxes of
            the clip).

        Raises:
            ValueError: boxes or scores that are not those of the logits.
        """
        logits = outputs.logits.detach().float().cpu()
        clips = boxes_per_video(boxes, len(logits))
        if box_scores is not None and len(box_scores) != len(clips):
            raise ValueError(
                f"There are {len(box_scores)} box_scores for {len(clips)} clips; expected a list for each."
            )
        results = []
        for index, rows in enumerate(clips):
            if len(rows) > logits.shape[1]:
                raise ValueError(f"Clip {index} has {len(rows)} boxes, but the logits are of {logits.shape[1]} boxes.")
            scores = logits[index, : len(rows)].sigmoid()  # (n, num_labels)
            if box_scores is not None:
                factors = torch.as_tensor(box_scores[index], dtype=torch.float32, device="cpu").reshape(-1)
                if len(factors) != len(rows):
                    raise ValueError(f"Clip {index} has {len(rows)} boxes, but {len(factors)} box_scores.")
                scores = scores * factors[:, None]
            persons, labels = (scores >= threshold).nonzero(as_tuple=True)
            kept = scores[persons, labels]
            order = kept.argsort(descending=True, stable=True)
            persons = persons[order]
            results.append(
                {"scores": kept[order], "labels": labels[order], "boxes": rows[persons], "persons": persons}
            )
        return results
