"""A pipeline of two models, a detector of persons and an action detection model, in the manner of Transformers'."""

import os
from dataclasses import asdict
from typing import Any

import torch
from transformers import AutoModelForObjectDetection, AutoVideoProcessor, ObjectDetectionPipeline, PreTrainedModel

import modeling_umt  # noqa: F401 (registers the models)
from processing_umt import UMTVideoProcessor
from processing_umt.video_decoding_umt import VideoReader

from ..model_sources import has_file, read_model_config, require_architecture
from .actions import ActionRecognizer, require_action_model
from .defaults import DEFAULT_DETECTOR, DETECTOR_THRESHOLD, EVERY, THRESHOLD
from .key_times import frame_times
from .persons import PersonDetector, load_detector
from .video_detection import detect_in_video

SUITABLE = ("UMTForActionDetection",)
_PROCESSOR = "video_preprocessor_config.json"


class UMTActionDetectionPipeline:
    """Finds the persons of a video, and what each of them is doing (action detection as in AVA, arXiv 1705.08421).

    Persons are found on one key frame per second and linked into tracks by the overlap of their boxes. The model
    predicts the actions of each from the frames around the key frame.

    Args:
        model (`UMTForActionDetection` or `str`): The model, or the folder or Hub id of one.
        detector (`ObjectDetectionPipeline` or `str`, defaults to `"PekingU/rtdetr_r18vd"`): Any object detector of
            Transformers that knows the class "person": its pipeline, or its folder or Hub id.
        video_processor (`UMTVideoProcessor`, *optional*): By default the one beside the model, or else that of the
            model's configuration.
        device (`torch.device` or `str`, *optional*): Device of models that are given by name; by default the
            accelerator if there is one.

    Raises:
        OSError: a model does not exist.
        ValueError: a model of another kind, or a detector without the class "person".

    Example:

    ```python
    >>> from umt_training import UMTActionDetectionPipeline

    >>> detect = UMTActionDetectionPipeline("umt-b16-ava", detector="PekingU/rtdetr_r18vd")
    >>> for key_frame in detect("clip.mp4"):
    ...     for person in key_frame["persons"]:
    ...         print(key_frame["time"], person["track"], person["actions"])
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        detector: ObjectDetectionPipeline | str = DEFAULT_DETECTOR,
        video_processor: UMTVideoProcessor | None = None,
        device: torch.device | str | None = None,
    ):
        if isinstance(model, (str, os.PathLike)):
            require_architecture(str(model), read_model_config(str(model)), SUITABLE, "detect actions")
        is_name = isinstance(detector, (str, os.PathLike))
        self.detector = load_detector(str(detector), device) if is_name else detector
        PersonDetector(self.detector)
        if isinstance(model, (str, os.PathLike)):
            model = AutoModelForObjectDetection.from_pretrained(model).to(device or self.detector.device)
        require_action_model(model, model.name_or_path)
        self.model = model.eval()
        self.video_processor = video_processor or _video_processor(model)

    def __call__(
        self,
        videos: Any,
        every: float = EVERY,
        threshold: float = THRESHOLD,
        detector_threshold: float = DETECTOR_THRESHOLD,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """The persons and their actions on each key frame of a video, or of each video of a list.

        Args:
            videos: path, `Path`, http(s) URL, `bytes` or binary file object, or a list of these.
            every: Seconds between two key frames; the first is at half of it.
            threshold: Least score of an action; 0 lists all classes for every person. A score is the probability of
                the class times the score of the person.
            detector_threshold: Least score of a person.

        Returns:
            For each key frame `{"time", "frame", "persons": [{"track", "box", "score", "actions": [{"label",
            "score"}]}]}`: seconds since the first frame, index of the frame, and for each person the number of its
            track, corners x1, y1, x2, y2 in pixels, and actions, highest score first. For a list of videos, a list of
            such lists.

        Raises:
            ValueError: `every` is not positive, or a threshold is not from 0 to 1.
            VideoDecodeError: a video can't be read.
        """
        persons = PersonDetector(self.detector, detector_threshold, every)
        recognizer = ActionRecognizer(self.model, self.video_processor, threshold)
        if not isinstance(videos, list):
            return _detect(videos, persons, recognizer)
        return [_detect(video, persons, recognizer) for video in videos]


def _detect(video: Any, persons: PersonDetector, recognizer: ActionRecognizer) -> list[dict[str, Any]]:
    name = str(video) if isinstance(video, (str, os.PathLike)) else "<video>"
    with VideoReader(video) as reader:
        times = frame_times(name, reader)
        key_frames, persons_on = persons.open(name, reader, times)
        found = detect_in_video(name, reader, times, key_frames, persons_on, recognizer)
    return [asdict(key_frame) for key_frame in found.key_frames]


def _video_processor(model: PreTrainedModel) -> Any:
    """The processor beside a model; that of its configuration if there is none."""
    name = model.name_or_path
    if name and has_file(name, _PROCESSOR):
        return AutoVideoProcessor.from_pretrained(name)
    return UMTVideoProcessor.for_action_detection(model.config)
