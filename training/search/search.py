"""Search of video moments by text (UMT, arXiv 2303.16058, section 3.3): the nearest windows of an index, of which the
best are re-ranked by the cross-encoder, and an HTML page of the results.

Windows are read and encoded again for re-ranking, because the tokens that the cross-encoder attends to are thousands
of times as large as a window's vector.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BaseVideoProcessor, PreTrainedModel
from transformers.video_utils import VideoMetadata

from processing_umt import UMTProcessor, VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader

from ..clock import clock
from ..data.batching import batches
from ..pictures.run_page import Link, Picture, Section, Table, Text, write_page
from ..pictures.video_strip import STRIP_FRAMES, save_strip
from ..terminal import printable
from .search_index import SearchIndex
from .windows import time_windows


@dataclass
class Moment:
    """A window that was found.

    Args:
        video: path of the file.
        start, end: seconds.
        similarity: mean over frames of the cosines with the text.
        match: probability of a match by the cross-encoder; None if the window was not re-ranked.
    """

    video: str
    start: float
    end: float
    similarity: float
    match: float | None = None


@torch.inference_mode()
def search(
    index: SearchIndex,
    model: PreTrainedModel,
    processor: UMTProcessor,
    query: str,
    *,
    top_k: int = 10,
    num_reranked: int = 32,
    batch_size: int = 4,
) -> list[Moment]:
    """The moments that match a text, best first.

    Re-ranked moments come first, in the order of the cross-encoder, then the others in the order of the dual encoder.
    A file that was deleted or damaged since it was indexed is left out and reported on stderr.

    Args:
        index, model, processor: an index and its model, on its device and in evaluation mode.
        query: the text to search for.
        top_k: number of moments to return.
        num_reranked: number of nearest windows for the cross-encoder; 0 for the dual encoder alone.
        batch_size: windows per batch.
    """
    inputs = processor(text=query, return_tensors="pt").to(model.device)
    text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    vector = F.normalize(text.pooler_output.float(), dim=-1)[0].cpu().numpy()
    found = index.nearest(vector, max(top_k, num_reranked))
    moments = [
        Moment(os.path.join(index.videos, row["video"]), row["start"], row["end"], row["similarity"]) for row in found
    ]
    candidates, rest = moments[:num_reranked], moments[num_reranked:]
    reranked = []
    for batch in batches(candidates, batch_size):
        readable, clips = [], []
        for moment in batch:
            try:
                frames = read_moment(moment, processor.video_processor, index.facts.window)
            except VideoDecodeError as error:
                print(f"umt search: {printable(str(error))}", file=sys.stderr)
                continue
            readable.append(moment)
            clips.append(processor.video_processor(frames, num_clips=1, num_crops=1, return_tensors="pt"))
        if not readable:
            continue
        pixels = torch.cat([clip["pixel_values_videos"] for clip in clips]).to(model.device, model.dtype)
        tokens = model.get_video_features(pixels).last_hidden_state
        states = text.last_hidden_state.expand(len(readable), -1, -1)
        logits = model.match(states, inputs["attention_mask"].expand(len(readable), -1), tokens)
        for moment, probability in zip(readable, logits.float().softmax(dim=-1)[:, 1].tolist(), strict=True):
            moment.match = probability
            reranked.append(moment)
    reranked.sort(key=lambda moment: -moment.match)  # stable: ties stay in the order of the dual encoder
    return (reranked + rest)[:top_k]


def read_moment(
    moment: Moment, video_processor: BaseVideoProcessor, window: float, num_frames: int | None = None
) -> np.ndarray:
    """Frames of a moment, uint8 `(frames, height, width, 3)`: those of its vector, or `num_frames` frames.

    Raises:
        VideoDecodeError: the file is missing or broken, or no longer has this window.
    """
    with VideoReader(moment.video) as reader:
        windows = time_windows(reader.timestamps, reader.duration, window, window)
        frames = next((frames for start, _, frames in windows if start == moment.start), None)
        if frames is None:
            raise VideoDecodeError(moment.video, "missing", f"it no longer has frames at {moment.start:g} s")
        options = {} if num_frames is None else {"num_frames": num_frames}
        sampled = video_processor.sample_frames(VideoMetadata(total_num_frames=len(frames)), num_clips=1, **options)
        return reader.read(frames[sampled])


def write_search_page(
    path: Path, query: str, moments: list[Moment], index: SearchIndex, processor: UMTProcessor
) -> None:
    """Writes an HTML page of the results with a strip of frames per moment; the strips are in a folder beside it.

    Strips and file names are links to the video at the moment's time. Their paths are relative to the page.
    """
    folder = path.with_name(f"{path.stem}_pictures")
    folder.mkdir(parents=True, exist_ok=True)
    rows, pictures = [], []
    for number, moment in enumerate(moments, 1):
        name = os.path.relpath(moment.video, index.videos)
        span = f"{clock(moment.start)} to {clock(moment.end)}"
        match = "" if moment.match is None else f"{moment.match:.3f}"
        link = Link(name, moment.video, f"t={moment.start:g},{moment.end:g}")
        rows.append((number, link, clock(moment.start), clock(moment.end), match, f"{moment.similarity:.3f}"))
        try:
            frames = read_moment(moment, processor.video_processor, index.facts.window, STRIP_FRAMES)
        except VideoDecodeError as error:
            print(f"umt search: {printable(str(error))}", file=sys.stderr)
            continue
        picture = folder / f"{number:03}.jpg"
        save_strip(frames, picture)
        pictures.append(Picture(picture, f"{number}. {name}, {span}", link))
    revision = index.facts.model.revision
    source = Text(f"Videos of {index.videos}, model {index.model}{f' ({revision})' if revision else ''}.")
    header = ("", "video", "from", "to", "match", "similarity")
    table = Table(header, rows, "Match: probability by the cross-encoder. Similarity: mean of cosines.")
    write_page(path, f"“{query}”", [Section("Moments", [*pictures]), Section("Scores", [source, table])])
