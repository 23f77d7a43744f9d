"""Scores on disk, from which an interrupted evaluation resumes."""

import secrets
import time
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from ..atomic_files import named_errors, require_writable
from ..corpus.fingerprints import fingerprint, video_keys


class PartialScores:
    """Scores of the rows of a table, each of which belongs to a video, saved as they are computed.

    A record has a fixed length: row, key of the video (`video_keys`), values, and a CRC-32 of these. Each start of a
    process writes a new file, so that what is written is never changed. Under a launcher every process creates it.

    Args:
        folder: parent folder of the scores; None saves nothing.
        videos, names: the videos of the rows and their names, see `video_keys`.
        width: number of values of a row.
        model, processor, settings: all else that the scores depend on, see `fingerprint`.

    Raises:
        OSError: the folder can't be written.

    Attributes:
        folder: the folder of these scores, named by their fingerprint; to be removed once the results are written.
    """

    def __init__(
        self,
        folder: Path | None,
        videos: datasets.Dataset | list[Any],
        names: list[str],
        width: int,
        model: PreTrainedModel,
        processor: Any,
        settings: dict[str, Any],
    ):
        self.folder = None
        self.dtype = np.dtype([("row", "<i8"), ("video", "<u8"), ("values", "<f8", (width,)), ("crc", "<u4")])
        if folder is not None:
            self.keys = video_keys(videos, names)
            self.folder = Path(folder) / fingerprint(model, processor, {**settings, "names": names})
            # files in the order of their names are in that of time
            self.file = self.folder / f"{time.time_ns():020}-{secrets.token_hex(8)}.scores"
            require_writable(self.file)

    def read(self) -> dict[int, np.ndarray]:
        """Row → values, float64 `(width,)`, the same in every process, each of which must call it.

        Records that were cut off, damaged or not written to the disk are left out, and so are those of a video that is
        not the same now. Of several records of a row the last one counts.
        """
        found = {}
        if self.folder is not None and PartialState().is_local_main_process:
            for path in sorted(self.folder.glob("*.scores")):
                found |= self._read_file(path)
        # The folder may be shared between machines. No process writes before all have read.
        return {row: values for part in gather_object([found]) for row, values in part.items()}

    def _read_file(self, path: Path) -> dict[int, np.ndarray]:
        records = np.fromfile(path, self.dtype)
        intact = [record for record in records if record["crc"] == _checksum(record)]
        return {
            int(record["row"]): record["values"] for record in intact if self.keys[record["row"]] == record["video"]
        }

    def write(self, row: int, values: Any) -> None:
        """Saves the values of a row.

        Raises:
            OSError: with the name of the file, such as on a full disk.
        """
        if self.folder is None:
            return
        record = np.zeros((), self.dtype)
        record["row"], record["video"], record["values"] = row, self.keys[row], values
        record["crc"] = _checksum(record)
        with named_errors(self.file):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as file:
                file.write(record.tobytes())


def _checksum(record: np.ndarray | np.void) -> int:
    return zlib.crc32(record.tobytes()[:-4])
