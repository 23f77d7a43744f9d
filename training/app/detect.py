"""Persons and their actions in a video, drawn into it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from processing_umt import UMTVideoProcessor
from processing_umt.video_decoding_umt import VideoReader

from ..clock import clock
from ..data.video_dataset import open_video
from ..detection.actions import ActionRecognizer
from ..detection.annotated_video import write_annotated_video
from ..detection.detections import DetectedVideo
from ..detection.key_times import frame_times
from ..detection.persons import PersonDetector
from ..detection.tracks import TrackedBoxes
from ..detection.video_detection import detect_in_video

Row = tuple[str, int, str]  # time, person, actions


@dataclass(frozen=True)
class ActionFinder:
    """An action detection model, its processor, and a detector of persons.

    Args:
        model: in evaluation mode, on its device.
        processor: its video processor.
        persons: finds the persons on key frames.
        name: name of the model.
    """

    model: PreTrainedModel
    processor: UMTVideoProcessor
    persons: PersonDetector
    name: str

    def find(
        self, video: str, output: Path, threshold: float, progress: Callable[[float, str], object]
    ) -> DetectedVideo:
        """Detects persons and actions as `umt detect`, and writes the video with boxes and actions to `output`.

        Args:
            video: path of the video.
            output: MP4 file to write.
            threshold: least score of an action, from 0 to 1.
            progress: called with the done fraction and what is being done.

        Raises:
            VideoDecodeError: the video can't be read.
            ValueError: the threshold is out of range, or the scores are not finite.
        """
        recognizer = ActionRecognizer(self.model, self.processor, threshold, self.name)
        with VideoReader(open_video(video)) as reader:
            times = frame_times(video, reader)
            key_frames, persons_on = self.persons.open(video, reader, times)

            def on_key_frame(number: int, _: object) -> None:
                progress(0.8 * (number + 1) / len(key_frames), "persons and actions")

            found = detect_in_video(video, reader, times, key_frames, persons_on, recognizer, on_key_frame)
            drawn = iter(range(1, reader.num_frames + 1))
            write_annotated_video(
                output,
                reader,
                times,
                TrackedBoxes(found.key_frames, times).at,
                lambda: progress(0.8 + 0.2 * next(drawn) / reader.num_frames, "drawing"),
            )
        return found


def rows_of(found: DetectedVideo) -> list[Row]:
    """A row for each person on each key frame: its time, the number of the person, its actions with scores."""
    return [
        (
            clock(key_frame.time),
            person.track,
            ", ".join(f"{action.label} {action.score:.2f}" for action in person.actions) or "no action",
        )
        for key_frame in found.key_frames
        for person in key_frame.persons
    ]
