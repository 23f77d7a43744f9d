"""Captioned videos or images from one or several corpora (UMT, arXiv 2303.16058, section 4.3): the data of stage 2.

A corpus is any source that `load_video_records` reads, with a column of captions: the official annotation files, JSON
lists of `{"video" or "image": path, "caption": text}`, are one. A video with several captions makes several pairs.
What belongs together is told by `match_id`: pairs of equal number are positives of each other in the contrastive loss,
and never drawn as negatives in matching.

Unusual: the number is a hash of the video's name or of the caption, so that streams, which can't number what they
have not seen, and all processes agree on it. Officially stage 2 counts rows within each corpus, so that pairs of two
corpora may share a number by accident; here they do not.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets import Dataset, IterableDataset

from processing_umt.video_source_umt import VideoDecodeError

from .video_dataset import video_name
from .video_records import load_video_records

POSITIVES = ("row", "video", "caption")
_ROWS_AT_ONCE = 100_000


class CaptionedRecords(Sequence):
    """Pairs of a video and a caption, of several tables one after the other: `{"video", "caption", "match_id"}`.

    Args:
        tables: what `load_video_records` returns, not streamed, each with a column `caption` of texts or lists of
            texts.
        positives: pairs that belong together: `"row"`, those of one row of a table (stage 2); `"video"`, those of one
            path (retrieval); `"caption"`, those of one caption (retrieval in Something-Something, where a caption has
            several videos).

    Raises:
        ValueError: unknown `positives`, a table without captions, or a row without one.
    """

    def __init__(self, tables: Sequence[Dataset], positives: str = "row"):
        if positives not in POSITIVES:
            raise ValueError(f"`positives` is {positives!r}; choose one of {', '.join(POSITIVES)}.")
        self.positives = positives
        self.tables = [_with_captions(table) for table in tables]
        self.first_rows = np.cumsum([0, *(len(table) for table in self.tables)])
        # where a table has lists of captions: of each pair its row and its place in the row's list
        self.pairs = [_pairs_of(table) for table in self.tables]
        lengths = [
            len(table) if pair is None else len(pair[0]) for table, pair in zip(self.tables, self.pairs, strict=True)
        ]
        self.first_pairs = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self.first_pairs[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        table = int(np.searchsorted(self.first_pairs, index, side="right")) - 1
        row = index - int(self.first_pairs[table])
        place = None
        if self.pairs[table] is not None:
            row, place = (int(numbers[row]) for numbers in self.pairs[table])
        record = self.tables[table][row]
        video, caption = record["video"], record["caption"]
        caption = caption if place is None else caption[place]
        match_id = int(self.first_rows[table]) + row
        if self.positives != "row":
            match_id = name_id(caption if self.positives == "caption" else video)
        return {"video": video, "caption": caption, "match_id": match_id}


def load_captioned_records(
    sources: Sequence[Any],
    roots: Sequence[str | os.PathLike] = (),
    *,
    positives: str = "row",
    streaming: bool = False,
) -> CaptionedRecords | IterableDataset:
    """The captioned videos of one or several corpora.

    Args:
        sources: as `load_video_records` takes them; several may not be streams.
        roots: a folder for the relative paths of each source, or one for all. Default: each list's own folder.
        positives: see `CaptionedRecords`. In a stream a row is known by its video.
        streaming: read a data set of the Hub while training rather than download it first.

    Raises:
        ValueError: there is no source, roots that are neither one nor as many as the sources, several sources of
            which one is a stream, no captions, and what `load_video_records` raises.
    """
    if not sources:
        raise ValueError("No captioned videos or images were given.")
    if len(roots) not in (0, 1, len(sources)):
        raise ValueError(f"{len(roots)} roots are given for {len(sources)} lists; give one for each, or one for all.")
    roots = list(roots) * len(sources) if len(roots) == 1 else list(roots) or [None] * len(sources)
    tables = [
        load_video_records(source, root=root, streaming=streaming) for source, root in zip(sources, roots, strict=True)
    ]
    if not any(isinstance(table, IterableDataset) for table in tables):
        return CaptionedRecords(tables, positives)
    if len(tables) > 1:
        raise ValueError("Several corpora can't be streamed together; put their shards in one folder or pattern.")
    return tables[0].map(_stream_pairs, batched=True, batch_size=1, fn_kwargs={"positives": positives})


def name_id(name: Any) -> int:
    """A number, 0 to 2^63 - 1, that stands for a text or for a record's `video` (its name, or its bytes)."""
    text = name if isinstance(name, str) else video_name(name)
    content = text.encode() if text or not isinstance(name, dict) else name.get("bytes") or b""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def _stream_pairs(rows: dict[str, list[Any]], positives: str) -> dict[str, list[Any]]:
    """The pairs of one streamed record, each with its number."""
    video, captions = rows["video"][0], rows.get("caption", [None])[0]
    if isinstance(video, VideoDecodeError):  # of a broken shard; whoever opens the video counts it
        captions = ""
    captions = captions if isinstance(captions, list) else [captions]
    if not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{video_name(video) or 'A video'} has no caption; stage 2 needs one for every video.")
    return {
        "video": [video] * len(captions),
        "caption": captions,
        "match_id": [name_id(caption if positives == "caption" else video) for caption in captions],
    }


def _with_captions(table: Dataset) -> Dataset:
    if "caption" not in table.column_names:
        raise ValueError(
            f"A table of videos has no column of captions; its columns are {', '.join(table.column_names)}. Name one "
            "of them caption."
        )
    return table.select_columns(["video", "caption"])


def _pairs_of(table: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and place in its list of every caption of a table, int64 `(pairs,)` each; None if rows hold one text."""
    counts, rows_done = [], 0
    for batch in table.select_columns(["caption"]).with_format("arrow").iter(_ROWS_AT_ONCE):
        column = batch["caption"]
        is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        if not is_list and not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            raise ValueError(
                f"The captions of a table are of the type {column.type}; expected texts or lists of them."
            )
        lengths = pa.compute.list_value_length(column) if is_list else pa.compute.is_valid(column).cast(pa.int32())
        lengths = lengths.fill_null(0).to_numpy()
        if not lengths.all():
            row = rows_done + int(np.argmin(lengths != 0))
            raise ValueError(
                f"{video_name(table[row]['video']) or 'A video'}, row {row} of its table, has no caption; stage 2 "
                "needs one for every video."
            )
        counts.append(lengths if is_list else None)
        rows_done += len(column)
    if not counts or counts[0] is None:
        return None
    counts = np.concatenate(counts).astype(np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
