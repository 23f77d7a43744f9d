"""The actions of the persons on a key frame, predicted by an action detection model."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from processing_umt import UMTVideoProcessor
from processing_umt.frame_sampling_umt import sample_key_frame

from .defaults import THRESHOLD
from .detections import Action, Person
from .persons import check_threshold


class ActionRecognizer:
    """Predicts the actions of persons from the frames around their key frame.

    Args:
        model: a `UMTForActionDetection`, in evaluation mode, on its device.
        processor: its video processor, whose `sampling` is "key_frame".
        threshold: least score of an action, from 0 to 1; default 0.5. With 0 every class is listed for every person.
        name: name of the model, for messages; by default that from which it was loaded.

    Raises:
        ValueError: the threshold is out of range, or the processor is not one of action detection.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: UMTVideoProcessor,
        threshold: float = THRESHOLD,
        name: str | None = None,
    ):
        check_threshold("threshold of actions", threshold)
        self.model, self.processor, self.threshold = model, processor, threshold
        self.name = name or model.name_or_path
        sampling = getattr(processor, "sampling", None)
        if sampling != "key_frame":
            raise ValueError(
                f"The video processor of {self.name} is not one of action detection: its sampling is {sampling!r}, "
                "not 'key_frame'. Save UMTVideoProcessor.for_action_detection(model.config) beside the model."
            )

    def clip_frames(self, frame: int, times: np.ndarray) -> np.ndarray:
        """Indices of the frames of the clip around a key frame, int64, ascending; see `sample_key_frame`.

        Args:
            frame: index of the key frame.
            times: float `(frames,)`, presentation times of all frames of the video in seconds.
        """
        processor = self.processor
        return sample_key_frame(frame, times, processor.num_frames, processor.frame_stride, processor.sampling_fps)

    @torch.inference_mode()
    def add_actions(self, clip: np.ndarray, persons: Sequence[Person]) -> None:
        """Sets the actions of the persons on a key frame.

        Args:
            clip: the frames of `clip_frames`, uint8 `(frames, height, width, 3)`.
            persons: with boxes in pixels; nothing happens without persons.

        Raises:
            ValueError: the scores are not finite.
        """
        if not persons:
            return
        boxes = [_inclusive(person.box) for person in persons]
        scores = [person.score for person in persons]
        inputs = self.processor(clip, boxes=[boxes], return_tensors="pt")
        pixels = inputs["pixel_values_videos"].to(self.model.device, self.model.dtype)
        others = {name: inputs[name].to(self.model.device) for name in ("boxes", "box_mask")}
        outputs = self.model(pixel_values_videos=pixels, **others)
        if not outputs.logits.isfinite().all():
            raise ValueError(
                f"The scores of {self.name} are not finite in {self.model.dtype}; use float32, or check the weights."
            )
        found = self.processor.post_process_action_detection(outputs, [boxes], [scores], self.threshold)[0]
        labels = self.model.config.id2label
        triples = zip(found["persons"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        for person in persons:
            person.actions = []
        for number, label, score in triples:
            persons[number].actions.append(Action(labels[label], score))


def require_action_model(model: PreTrainedModel, name: str) -> None:
    """Raises a ValueError if a model is not a `UMTForActionDetection`, also one of a repository's own code."""
    if type(model).__name__ != "UMTForActionDetection":
        raise ValueError(
            f"{name} cannot detect actions: it is a {type(model).__name__}, and an action detection model "
            "(UMTForActionDetection) is needed. A detector of persons is given as such."
        )


def _inclusive(box: tuple[float, float, float, float]) -> list[float]:
    """A box whose width is x2 - x1 with the corners of its first and last pixel, as the model takes it."""
    x1, y1, x2, y2 = box
    return [x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)]
