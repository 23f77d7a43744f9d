"""Persons on key frames, found by any object detector of Transformers that knows the class "person"."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ObjectDetectionPipeline, pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from processing_umt.video_decoding_umt import VideoReader

from ..model_sources import KINDS, architecture_of, describe_model, read_model_config
from ..quiet_loading import without_weight_bars
from .defaults import DEFAULT_DETECTOR, DETECTOR_THRESHOLD, EVERY
from .detections import Person, PersonsOn
from .key_times import regular_key_frames

_PERSON = "person"
_SMALLEST_SIDE = 4.0  # pixels


class PersonDetector:
    """Finds the persons on regular key frames with Transformers' object detection pipeline.

    Args:
        detector: the pipeline; its labels contain "person", in any case.
        threshold: least score of a person, from 0 to 1; default 0.8.
        every: seconds between two key frames; default 1.
        name: name of the model, for messages; by default that from which it was loaded.

    Raises:
        ValueError: threshold or time are out of range, or the detector has no class "person".
    """

    def __init__(
        self,
        detector: ObjectDetectionPipeline,
        threshold: float = DETECTOR_THRESHOLD,
        every: float = EVERY,
        name: str | None = None,
    ):
        check_threshold("threshold of the detector", threshold)
        if not 0 < every < math.inf:
            raise ValueError(f"The time between two key frames is {every} s; expected more than 0 seconds.")
        self.detector, self.threshold, self.every = detector, threshold, every
        self.name = name or detector.model.name_or_path
        labels = detector.model.config.id2label.values()
        self.person_labels = {label for label in labels if label.strip().lower() == _PERSON}
        if not self.person_labels:
            listed = ", ".join(list(labels)[:4])
            raise ValueError(
                f"The detector {self.name} has no class 'person', but {listed}{' ...' if len(labels) > 4 else ''}; "
                f"give one that was trained for persons, such as {DEFAULT_DETECTOR}."
            )

    def open(self, video: str, reader: VideoReader, times: np.ndarray) -> tuple[list[tuple[float, int]], PersonsOn]:
        """The key frames of a video, as (time, index of the frame), and the function that finds the persons on each.

        Args:
            video: path or URL.
            reader: the open video.
            times: its `frame_times`.
        """
        return regular_key_frames(times, reader.duration, self.every), lambda _, image: self.find(image)

    def find(self, image: np.ndarray) -> list[Person]:
        """The persons on a frame, uint8 `(height, width, 3)`, without tracks and actions, in the detector's order.

        Boxes are clipped to the frame; those of less than four pixels in width or height are left out.
        """
        height, width = image.shape[:2]
        persons = []
        for found in self.detector(Image.fromarray(image), threshold=self.threshold):
            if found["label"] not in self.person_labels:
                continue
            corners = np.array([found["box"][name] for name in ("xmin", "ymin", "xmax", "ymax")], dtype=np.float64)
            box = corners.clip(0, [width, height, width, height])
            if (box[2:] - box[:2]).min() >= _SMALLEST_SIDE:
                persons.append(Person(track=0, box=tuple(box.tolist()), score=float(found["score"])))
        return persons


def load_detector(
    name: str, device: torch.device | str | None = None, trust_remote_code: bool = False
) -> ObjectDetectionPipeline:
    """Loads an object detector of Transformers.

    Args:
        name: model folder, or id on the Hub.
        device: by default the pipeline's, the accelerator if there is one.
        trust_remote_code: run code from the model's repository.

    Raises:
        OSError: the model does not exist or can't be reached.
        ValueError: it is not an object detector, for example an action detection model, which needs boxes itself.
    """
    config = read_model_config(name, "detector")
    _require_object_detector(name, config)
    with without_weight_bars():
        return pipeline("object-detection", model=name, device=device, trust_remote_code=trust_remote_code)


def _require_object_detector(name: str, config: dict[str, Any]) -> None:
    is_own = architecture_of(config) in KINDS or config.get("model_type", "").startswith("umt")
    is_detector = config.get("model_type") in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES or "auto_map" in config
    if is_own or not is_detector:
        raise ValueError(
            f"{name} cannot find persons: it is {describe_model(config)}, and a detector of objects is needed, such "
            f"as {DEFAULT_DETECTOR}."
        )


def check_threshold(name: str, value: float) -> None:
    """Raises a ValueError if a threshold is not a score from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"The {name} is {value}; expected a score from 0 to 1.")
