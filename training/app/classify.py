"""Labels of a video, and the frames that they are predicted from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import BaseVideoProcessor, PreTrainedModel

from processing_umt import UMTVideoProcessor
from processing_umt.video_decoding_umt import VideoReader

from ..clock import clock
from ..corpus.class_scores import ViewReader, class_scores
from ..corpus.engine import process_videos
from ..corpus.runs import broken_video
from ..corpus.tables import best_classes

_FRAME_HEIGHT = 180  # pixels, of small frames that are shown


@dataclass(frozen=True)
class Classifier:
    """A classifier with its processor.

    Args:
        model: in evaluation mode, on its device.
        processor: its video processor.
        name: name of the model.
    """

    model: PreTrainedModel
    processor: BaseVideoProcessor
    name: str

    def classify(self, video: str, top_k: int = 5) -> dict[str, float]:
        """The `top_k` most likely labels of a video with their probabilities, best first: those of `umt classify`.

        Raises:
            VideoDecodeError: the video can't be read.
            ValueError: the scores are not finite.
        """
        reader = ViewReader(self.processor)
        (result,) = process_videos([video], reader, class_scores, self.model, batch_size=4, num_workers=0)
        if result.error is not None:
            raise result.error
        if (broken := broken_video(video, result, str(self.model.dtype))) is not None:
            raise ValueError(broken.message)
        (best,) = best_classes(result.outputs, top_k)
        return {self.model.config.id2label[index]: float(result.outputs[0, index]) for index in best.tolist()}

    def frames(self, video: str) -> list[tuple[Image.Image, str]]:
        """The frames of the first clip that the model reads, each with its time; empty for processors of other
        families, which do not state them.

        Raises:
            VideoDecodeError: the video can't be read.
        """
        if not isinstance(self.processor, UMTVideoProcessor):
            return []
        frames, metadata = self.processor.fetch_videos(video, self.processor.sample_frames)
        shown = self.processor.num_frames
        times = np.array(metadata.frame_timestamps[:shown])
        with VideoReader(Path(video)) as reader:
            times = times - reader.timestamps[0]
        return [
            (_enlarged(Image.fromarray(frame)), clock(float(time)))
            for frame, time in zip(frames[:shown], times, strict=True)
        ]


def _enlarged(picture: Image.Image) -> Image.Image:
    """A small picture, enlarged by an integer factor."""
    factor = max(1, round(_FRAME_HEIGHT / picture.height))
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
