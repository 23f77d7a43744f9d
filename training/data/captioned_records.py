"""Captioned videos or images from one or several corpora: the data of stage 2 (UMT, arXiv 2303.16058, section 4.3).

A corpus is any source that `load_video_records` reads, with a column of captions, such as the official annotation
files, JSON lists of `{"video" or "image": path, "caption": text}`. A video with several captions gives several pairs.
Pairs with equal `match_id` are positives of each other in the contrastive loss, and are never sampled as negatives in
matching.

Unusual: except for positives by row, `match_id` is a hash of the video's name or of the caption, so that all processes
agree on it, also in a stream, which can't enumerate its records. The official stage 2 counts rows within each corpus,
so that unrelated pairs of two corpora may have the same number; here rows are counted over all corpora.
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

from .column_names import CAPTION_NAMES, accepted_names
from .text_columns import check_texts, is_list_type, is_written_list
from .video_dataset import video_name
from .video_records import describe_source, load_video_records

POSITIVES = ("row", "video", "caption")
_ROWS_AT_ONCE = 100_000


class CaptionedRecords(Sequence):
    """Concatenated pairs of a video and a caption from several tables: `{"video", "caption", "match_id"}`.

    Args:
        tables: results of `load_video_records`, not streamed, each with a column `caption` of texts or lists of texts.
        positives: which pairs are positives of each other: `"row"`, pairs of the same row of a table (stage 2);
            `"video"`, pairs with the same path (retrieval); `"caption"`, pairs with the same caption (retrieval on
            Something-Something, where a caption has several videos).
        sources: names of the tables, for errors.

    Raises:
        ValueError: unknown `positives`, a table without captions, or a row without a caption.
    """

    def __init__(self, tables: Sequence[Dataset], positives: str = "row", sources: Sequence[str] | None = None):
        if positives not in POSITIVES:
            raise ValueError(f"`positives` is {positives!r}; choose one of {', '.join(POSITIVES)}.")
        self.positives = positives
        for table, source in zip(tables, sources or ["The table"] * len(tables), strict=True):
            check_captions(table, source)
        self.tables = [table.select_columns(["video", "caption"]) for table in tables]
        self.first_rows = np.cumsum([0, *(len(table) for table in self.tables)])
        # for a table with lists of captions: the row of each pair, and the index of its caption in the list
        self.pairs = [_pairs_of(table) for table in self.tables]
        lengths = [
            len(table) if pair is None else len(pair[0]) for table, pair in zip(self.tables, self.pairs, strict=True)
        ]
        self.first_pairs = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self.first_pairs[-1])

    def captions(self) -> list[str]:
        """The captions of all pairs."""
        values = [value for table in self.tables for value in table["caption"][:]]
        return [text for value in values for text in ([value] if isinstance(value, str) else value)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        table = int(np.searchsorted(self.first_pairs, index, side="right")) - 1
        row = index - int(self.first_pairs[table])
        caption_index = None
        if self.pairs[table] is not None:
            row, caption_index = (int(indices[row]) for indices in self.pairs[table])
        record = self.tables[table][row]
        video, caption = record["video"], record["caption"]
        caption = caption if caption_index is None else caption[caption_index]
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
    """Loads the captioned videos of one or several corpora.

    Args:
        sources: sources of `load_video_records`; a stream must be the only source.
        roots: folders of the relative paths, one per source or one for all. Default: the folder of each list file.
        positives: see `CaptionedRecords`. In a stream, a row is identified by its video.
        streaming: read a Hub data set during training instead of downloading it first.

    Raises:
        ValueError: no source, a number of roots that is neither one nor that of the sources, several sources with a
            stream among them, no captions; and the errors of `load_video_records`.
    """
    if not sources:
        raise ValueError("No captioned videos or images were given.")
    if len(roots) not in (0, 1, len(sources)):
        raise ValueError(f"{len(roots)} roots were given for {len(sources)} lists; pass one per list, or one for all.")
    roots = list(roots) * len(sources) if len(roots) == 1 else list(roots) or [None] * len(sources)
    tables = [
        load_video_records(source, root=root, with_labels=False, streaming=streaming, reads=("caption",))
        for source, root in zip(sources, roots, strict=True)
    ]
    if not any(isinstance(table, IterableDataset) for table in tables):
        return CaptionedRecords(tables, positives, [describe_source(source) for source in sources])
    if len(tables) > 1:
        raise ValueError("Several corpora can't be streamed together; put their shards in one folder or pattern.")
    return tables[0].map(_stream_pairs, batched=True, batch_size=1, fn_kwargs={"positives": positives})


def name_id(name: Any) -> int:
    """Hash, 0 to 2^63 - 1, of a text or of a record's `video` (its name, or its bytes)."""
    text = name if isinstance(name, str) else video_name(name)
    content = text.encode(errors="surrogatepass") if text or not isinstance(name, dict) else name.get("bytes") or b""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def _stream_pairs(rows: dict[str, list[Any]], positives: str) -> dict[str, list[Any]]:
    """The pairs of one streamed record, with their `match_id`."""
    video, captions = rows["video"][0], rows.get("caption", [None])[0]
    is_broken = isinstance(video, VideoDecodeError)  # of a broken shard; counted when the video is opened
    captions = [""] if is_broken else captions if isinstance(captions, list) else [captions]
    if not is_broken and (not captions or not all(map(_is_caption, captions))):
        raise ValueError(
            f"{video_name(video) or 'A video'} has no caption that is a text; stage 2 needs one for every video. Its "
            f"columns are {', '.join(rows)}."
        )
    return {
        "video": [video] * len(captions),
        "caption": captions,
        "match_id": [name_id(caption if positives == "caption" else video) for caption in captions],
    }


def _is_caption(text: Any) -> bool:
    return isinstance(text, str) and text.strip() != "" and not is_written_list(text)


def check_captions(table: Any, source: str) -> None:
    """Raises a ValueError unless a table, not streamed, has a caption in every row: a text or a list of texts."""
    if not isinstance(table, Dataset):
        raise ValueError(f"{source} is a stream; captions are read from a table, such as a list file.")
    if "caption" not in table.column_names:
        raise ValueError(
            f"{source} has no column of captions; its columns are {', '.join(table.column_names)}. Rename one of them "
            f"to caption (also read: {accepted_names(CAPTION_NAMES[1:])})."
        )
    check_texts(table, "caption", source)


def join_paragraphs(table: Dataset) -> Dataset:
    """The videos of a table, each with one caption: all its captions, joined by spaces (ActivityNet, DiDeMo).

    The captions of a video are in one row or in several, and are joined in the order of the table. A video of bytes
    without a name is one of its own.

    Args:
        table: a table that `check_captions` accepts.

    Returns:
        The columns `video` and `caption`, videos in the order of their first rows.
    """
    paragraphs: dict[Any, list[str]] = {}
    first_rows = []
    for row, (video, caption) in enumerate(zip(table["video"][:], table["caption"][:], strict=True)):
        key = video_name(video) or row
        if key not in paragraphs:
            paragraphs[key] = []
            first_rows.append(row)
        paragraphs[key] += [caption] if isinstance(caption, str) else caption
    joined = [" ".join(captions) for captions in paragraphs.values()]
    return table.select_columns(["video"]).select(first_rows).add_column("caption", joined)


def _pairs_of(table: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and index in its list of every caption of a table, int64 `(pairs,)` each; None if captions are texts."""
    counts = []
    for batch in table.select_columns(["caption"]).with_format("arrow").iter(_ROWS_AT_ONCE):
        if not is_list_type(batch["caption"].type):
            return None
        counts.append(pa.compute.list_value_length(batch["caption"]).to_numpy())
    if not counts:
        return None
    counts = np.concatenate(counts).astype(np.int64)
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
