"""What is written for videos: files and a page, or the metadata of a folder of videos to be annotated."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from processing_umt.video_decoding_umt import VideoReader

from ..corpus.fingerprints import video_keys
from ..pictures.drawing import save_picture
from ..processes import is_main_process
from ..terminal import printable
from .annotated_video import write_annotated_video
from .contact_sheet import ContactSheet
from .detections import DetectedVideo, describe, detected_video
from .output_names import extension
from .page import VideoFiles, write_detection_page
from .tracks import TrackedBoxes
from .writers import metadata_rows, write_ava_csv, write_json, write_metadata

SUFFIXES = (".mp4", ".json", ".csv", ".png")
PAGE, METADATA = "index.html", "metadata.jsonl"
_SOURCE = "umt detect"  # text of a contact sheet: what the files of its video are made from


@dataclass(frozen=True)
class FinishedVideo:
    """What is kept of a video until all are finished. Processes of a launcher exchange it.

    Args:
        line: about its results.
        num_boxes: boxes of persons on its key frames.
        content: for the page or the metadata of all videos.
    """

    line: str
    num_boxes: int
    content: Any


class VideoResults:
    """Annotated video, JSON, csv and contact sheet of each video, and a page of all.

    The contact sheet is written last. It states the fingerprint and the video, so that a command that is given again
    finds the videos that are done.

    Args:
        folder: it is created if it does not exist.
        model: name of the action detection model.
        detector: name of the detector, or of the file of boxes.
        label2id: index of each class of the model.
        fingerprint: of all that the results of a video depend on beside the video.
    """

    def __init__(self, folder: Path, model: str, detector: str, label2id: Mapping[str, int], fingerprint: str):
        self.folder, self.model, self.detector, self.label2id = folder, model, detector, label2id
        self.fingerprint = fingerprint

    def find(self, file: str, name: str) -> FinishedVideo | None:
        """A video whose files an earlier command wrote with the same models and settings.

        Args:
            file: path or URL of the video.
            name: name of the files without extension.

        Returns:
            What `add` returned; None if a file is missing or of something else.
        """
        annotated, json_file, csv_file, picture = self._paths(name)
        try:
            with Image.open(picture) as sheet:
                is_same = sheet.info.get(_SOURCE) == self._source(file, json_file)
            if not (is_same and annotated.exists() and csv_file.exists()):
                return None
            video = detected_video(json.loads(json_file.read_text(encoding="utf-8")))
        except (OSError, UnidentifiedImageError, SyntaxError):  # a damaged PNG is a SyntaxError of Pillow
            return None
        return self._finished(name, video)

    def add(
        self,
        file: str,
        name: str,
        video: DetectedVideo,
        sheet: ContactSheet,
        reader: VideoReader,
        times: np.ndarray,
    ) -> FinishedVideo:
        """Writes the files of a video, each atomically, the annotated video first, as only that can fail by damage.

        Args:
            file: path or URL of the video.
            name: name of the files without extension.
            video: the detections.
            sheet: the pictures of its key frames.
            reader: the open video.
            times: its `frame_times`.

        Raises:
            VideoDecodeError: a frame of the video can't be read; no file is written then.
        """
        annotated, json_file, csv_file, picture = self._paths(name)
        with progress_bar(name, reader.num_frames, "frame") as progress:
            persons_at = TrackedBoxes(video.key_frames, times).at
            write_annotated_video(annotated, reader, times, persons_at, progress.update)
        write_json(json_file, video, self.model, self.detector)
        write_ava_csv(csv_file, name, video, self.label2id)
        save_picture(sheet.draw(video, name), picture, {_SOURCE: self._source(file, json_file)})
        return self._finished(name, video)

    def _paths(self, name: str) -> list[Path]:
        return [self.folder / f"{name}{suffix}" for suffix in SUFFIXES]

    def _source(self, file: str, json_file: Path) -> str:
        """What the files of a video are made from, and the content of one of them."""
        content = hashlib.blake2b(json_file.read_bytes(), digest_size=8).hexdigest()
        return f"{self.fingerprint} {video_keys([file], [file])[0]:016x} {content}"

    def _finished(self, name: str, video: DetectedVideo) -> FinishedVideo:
        annotated, json_file, csv_file, picture = self._paths(name)
        files = VideoFiles(video, picture, annotated, (json_file, csv_file))
        return FinishedVideo(f"{annotated}: {describe(video)}", video.num_boxes, files)

    def finish(self, finished: Sequence[FinishedVideo]) -> str:
        """Writes the page of all videos, in order, and returns a line about it; it is called by one process.

        Raises:
            ValueError: the files of another process are not in the folder.
        """
        videos = [video.content for video in finished]
        for files in videos:
            if not files.annotated.exists():
                raise ValueError(
                    f"{files.annotated} was written by another process, but is not on this machine; processes of "
                    "several machines need an --output that they share."
                )
        page = write_detection_page(self.folder / PAGE, self.model, self.detector, videos)
        return f"{page}: {len(videos)} video{'s' * (len(videos) > 1)}"


class MetadataResults:
    """`metadata.jsonl` with the persons of all videos and empty categories, in the form of own data for training.

    Args:
        folder: it is created if it does not exist. A video in it is named by its path; others, which are to be copied
            there, by the name that they will need.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, file: str, name: str) -> None:
        """The metadata of all videos are written at the end, so that there are none of an earlier command."""

    def add(
        self,
        file: str,
        name: str,
        video: DetectedVideo,
        sheet: ContactSheet,
        reader: VideoReader,
        times: np.ndarray,
    ) -> FinishedVideo:
        """The key frames of a video, of which nothing is written yet. Arguments: see `VideoResults.add`."""
        file_name, is_elsewhere = self._file_name(name, video.video)
        content = (metadata_rows(video, file_name), (video.video, file_name) if is_elsewhere else None)
        return FinishedVideo(f"{video.video}: {describe(video)}", video.num_boxes, content)

    def finish(self, finished: Sequence[FinishedVideo]) -> str:
        """Writes the file, unless no person was found, and returns a line about it; it is called by one process."""
        path = self.folder / METADATA
        rows = [row for video in finished for row in video.content[0]]
        elsewhere = [video.content[1] for video in finished if video.content[1] is not None]
        if rows:
            write_metadata(path, rows)
        line = f"{path}: {len(rows)} key frames with persons; fill in their categories"
        if elsewhere:
            video, file_name = elsewhere[0]
            line += (
                f", and copy or link {len(elsewhere)} of the videos to this folder under the names in it, such "
                f"as {video} to {self.folder / file_name}"
            )
        return line

    def _file_name(self, name: str, video: str) -> tuple[str, bool]:
        """The path of a video relative to the folder, and whether the video is elsewhere."""
        file, folder = Path(os.path.abspath(video)), Path(os.path.abspath(self.folder))
        if os.path.exists(video) and file.is_relative_to(folder):
            return file.relative_to(folder).as_posix(), False
        return f"{name}{extension(video)}", True


def progress_bar(name: str, total: int, unit: str) -> tqdm:
    """A bar of the main process on stderr, which appears after a second and disappears at the end."""
    options = {"delay": 1, "file": sys.stderr, "leave": False, "disable": not is_main_process()}
    return tqdm(total=total, desc=printable(name), unit=unit, **options)
