"""Moments of the videos of a folder, found by a text."""

import os
from dataclasses import dataclass

from PIL import Image
from transformers import PreTrainedModel

from processing_umt import UMTProcessor, VideoDecodeError

from ..clock import clock
from ..data.video_files import is_inside
from ..pictures.video_strip import STRIP_FRAMES, frame_strip
from ..search.search import Moment, read_moment, search
from ..search.search_index import SearchIndex


@dataclass(frozen=True)
class VideoSearch:
    """An index with its model.

    Args:
        index: an index of a folder of videos.
        model: its model, in evaluation mode, on its device.
        processor: its processor.
        name: name of the model.
    """

    index: SearchIndex
    model: PreTrainedModel
    processor: UMTProcessor
    name: str

    def find(self, query: str | None, top_k: int) -> list[tuple[Moment, Image.Image]]:
        """The moments that match a text, best first, each with a strip of its frames.

        A video that is a link out of the folder is left out, and so is one that has been deleted or damaged.

        Args:
            query: the text.
            top_k: number of moments.

        Raises:
            ValueError: the text is empty.
        """
        if not query or not query.strip():
            raise ValueError("The text to search for is empty.")
        found = []
        for moment in search(self.index, self.model, self.processor, query, top_k=top_k):
            if not is_inside(moment.video, self.index.videos):
                continue
            try:
                frames = read_moment(moment, self.processor.video_processor, self.index.facts.window, STRIP_FRAMES)
            except VideoDecodeError:
                continue
            found.append((moment, frame_strip(frames)))
        return found

    def caption(self, moment: Moment) -> str:
        """`dogs/clip.mp4, 0:10 to 0:20, match 0.93`."""
        score = f"similarity {moment.similarity:.3f}" if moment.match is None else f"match {moment.match:.3f}"
        name = os.path.relpath(moment.video, self.index.videos)
        return f"{name}, {clock(moment.start)} to {clock(moment.end)}, {score}"
