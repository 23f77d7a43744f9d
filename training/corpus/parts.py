"""Results of a corpus in a folder: a Parquet data set of one file for each part, a range of consecutive videos.

A part is written atomically when its last video is done, so a command that is given again computes the parts that are
missing. The parts do not depend on the number of processes: each process computes every n-th one.

Beside the parts, `_corpus.json` describes what they are the results of, and `_broken.jsonl` lists the broken videos.
Readers of data sets leave out files whose names start with an underscore.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from processing_umt.video_source_umt import USER_AND_PASSWORD

from ..atomic_files import atomic_write, require_writable
from .fingerprints import video_keys

DESCRIPTION, BROKEN = "_corpus.json", "_broken.jsonl"
_METADATA = b"umt"  # of a part, in the metadata of its schema
_NUM_PARTS, _LARGEST_PART = 64, 256
_TRANSIENT = "network"  # reason of a failure that may not happen again
_ROWS_PER_GROUP = 8192
# of the description, beside the options of the command
_FIELDS = {"command", "model", "fingerprint", "num_videos", "videos", "part_size"}


class BrokenVideo(NamedTuple):
    """A video without results, or with those before the error.

    Args:
        video: its name.
        reason: that of a `VideoDecodeError`, or "not_finite".
        message: the complete error.
    """

    video: str
    reason: str
    message: str


class CorpusSummary(NamedTuple):
    num_rows: int
    broken: list[BrokenVideo]

    @property
    def reasons(self) -> str:
        """`empty 2, no_index 1`."""
        counts = Counter(video.reason for video in self.broken).most_common()
        return ", ".join(f"{reason} {count}" for reason, count in counts)


class CorpusFolder:
    """The folder of the results of a command for a list of videos.

    Under a launcher every process creates it, with the same arguments; the folder may be shared between machines.

    Args:
        folder: it is created if it does not exist.
        videos: paths and URLs, of which user names and passwords are left out in the results.
        settings: all that the results depend on, as JSON: the command, `model` (its name), `fingerprint`, options.
        batch_size: clips per batch; a new part has at least as many videos.

    Raises:
        ValueError: the folder has results of another model, of other settings or videos, or other Parquet files.
        OSError: the folder can't be written.

    Attributes:
        names: the videos as they are named in the results.
        num_parts: number of parts.
        broken_list: the file that lists the broken videos.
    """

    def __init__(self, folder: Path, videos: Sequence[str], settings: dict[str, Any], batch_size: int):
        self.folder = folder
        self.names = [USER_AND_PASSWORD.sub("", video) for video in videos]
        self._keys = video_keys(list(videos), list(videos))
        require_writable(folder / DESCRIPTION)
        self.part_size = self._describe(settings, batch_size)
        self.num_parts = -(-len(videos) // self.part_size)
        self.broken_list = folder / BROKEN

    @staticmethod
    def size_of_parts(num_videos: int, batch_size: int) -> int:
        """The number of videos of a part, for about 64 parts, which several processes can share: at most 256, but at
        least a batch."""
        return max(batch_size, min(-(-num_videos // _NUM_PARTS), _LARGEST_PART))

    def rows_of(self, part: int) -> range:
        """The indices of the videos of a part."""
        return range(part * self.part_size, min((part + 1) * self.part_size, len(self.names)))

    def unfinished(self, process: int, num_processes: int) -> list[int]:
        """The parts that a process has to compute: of its own, those that are missing or damaged, whose videos have
        changed, or of which a video could not be downloaded."""
        return [part for part in range(process, self.num_parts, num_processes) if not self._is_done(part)]

    def write(self, part: int, table: pa.Table, broken: Sequence[BrokenVideo]) -> None:
        """Writes a part, atomically.

        Raises:
            OSError: with the name of the file.
        """
        facts = {"videos": self._key(part), "broken": broken}
        table = table.replace_schema_metadata({_METADATA: json.dumps(facts)})
        with atomic_write(self._path(part)) as temporary:
            parquet.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP)

    def finish(self) -> CorpusSummary:
        """Writes the list of broken videos when all parts are there; it is called by one process.

        Raises:
            ValueError: a part is missing.
        """
        num_rows, broken = 0, []
        for part in range(self.num_parts):
            facts = self._facts(part)
            if facts is None:
                raise ValueError(f"{self._path(part)} is missing or damaged; give the same command again.")
            num_rows += parquet.read_metadata(self._path(part)).num_rows
            broken += facts["broken"]
        with atomic_write(self.broken_list) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(video._asdict()) + "\n" for video in broken)
        return CorpusSummary(num_rows, broken)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"

    def _key(self, part: int) -> str:
        rows = self.rows_of(part)
        return _digest(self._keys[rows.start : rows.stop].tobytes())

    def _facts(self, part: int) -> dict[str, Any] | None:
        """The videos of a part and the broken ones of them; None if it is missing, damaged or not of this module."""
        try:
            facts = json.loads(parquet.read_schema(self._path(part)).metadata[_METADATA])
            return {"videos": facts["videos"], "broken": [BrokenVideo(*video) for video in facts["broken"]]}
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
            return None

    def _is_done(self, part: int) -> bool:
        facts = self._facts(part)
        if facts is None or facts["videos"] != self._key(part):
            return False
        return not any(video.reason == _TRANSIENT for video in facts["broken"])

    def _describe(self, settings: dict[str, Any], batch_size: int) -> int:
        """Writes the description, or compares it with that of an earlier run; returns the size of the parts."""
        path = self.folder / DESCRIPTION
        names = _digest("\0".join(self.names).encode(errors="surrogateescape"))
        known = {**settings, "num_videos": len(self.names), "videos": names}
        if not path.exists():
            if other := next(self.folder.glob("*.parquet"), None):
                raise ValueError(
                    f"{other} is not a result of this command; give another --output, or move the Parquet files of "
                    "this folder."
                )
            size = self.size_of_parts(len(self.names), batch_size)
            with atomic_write(path) as temporary:  # that of another process has the same content
                temporary.write_text(json.dumps({**known, "part_size": size}, indent=1) + "\n", encoding="utf-8")
            return size
        stored = _read_description(path)
        size = stored.pop("part_size")
        if difference := _difference(stored, known):
            raise ValueError(f"{self.folder} contains {difference}; give another --output, or delete the folder.")
        return size


def _read_description(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        is_known = stored.keys() >= _FIELDS and type(stored["part_size"]) is int and stored["part_size"] > 0
    except (ValueError, AttributeError):
        is_known = False
    if not is_known:
        raise ValueError(f"{path} is damaged; give another --output, or delete the folder.")
    return stored


def _difference(stored: dict[str, Any], known: dict[str, Any]) -> str | None:
    """What the results are of, if it is not what is known now: `results of ..., not of ...`; None if it is."""
    if stored["command"] != known["command"]:
        return f"results of {stored['command']}, not of {known['command']}"
    if stored["fingerprint"] != known["fingerprint"]:
        if stored["model"] != known["model"]:
            return f"results of another model, {stored['model']}"
        return f"results of {stored['model']} with other weights, another processor or another data type"
    for name in (name for name in {**known, **stored} if name not in _FIELDS):
        if stored.get(name) != known.get(name):
            return f"results {_with_option(name, stored)}, not {_with_option(name, known)}"
    if stored["videos"] != known["videos"]:
        return f"results of another list of {stored['num_videos']} videos, not of these {known['num_videos']}"
    return None


def _with_option(name: str, options: dict[str, Any]) -> str:
    return f"without {name}" if options.get(name) is None else f"with {name} {options[name]}"


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
