"""An HTML page of the detections in several videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..clock import clock
from ..pictures.run_page import Link, Picture, Section, Table, Text, write_page
from .detections import Action, DetectedVideo, describe

MOST_TRACKS = 50  # in the table of a video
_ACTIONS_SHOWN = 3
_HEADER = ("track", "from", "to", "key frames", "actions")


@dataclass(frozen=True)
class VideoFiles:
    """A video on the page, and the files beside the page.

    Args:
        video: its detections.
        picture: contact sheet.
        annotated: video with the persons drawn.
        tables: other files, to which the page links.
    """

    video: DetectedVideo
    picture: Path
    annotated: Path
    tables: tuple[Path, ...]


def write_detection_page(path: Path, model: str, detector: str, videos: Sequence[VideoFiles]) -> Path:
    """Writes a page with a section for each video: contact sheet, persons with their actions, links to the files.

    Args:
        path: file to write.
        model: name of the action detection model.
        detector: name of the detector, or of the file of boxes.
        videos: the videos, in order.
    """
    source = Section("Models", [Text(f"Actions: {model}. Persons: {detector}.")])
    return write_page(path, "Persons and their actions", [*(_section(files) for files in videos), source])


def _section(files: VideoFiles) -> Section:
    video = files.video
    facts = Text(f"{video.width} × {video.height} pixels, {video.fps:.4g} frames per second; {describe(video)}.")
    sheet = Picture(files.picture, f"Key frames of {files.annotated.name}", Link("", files.annotated))
    paths = (files.annotated, files.picture, *files.tables)
    links = Table(("files", *[""] * (len(paths) - 1)), [[Link(path.name, path) for path in paths]])
    return Section(video.video, [facts, sheet, *_tracks(files), links])


def _tracks(files: VideoFiles) -> list[Table]:
    """The persons in the order in which they appear, as a table; none without persons."""
    spans: dict[int, list[float]] = {}
    best: dict[int, dict[str, Action]] = {}
    for key_frame in files.video.key_frames:
        for person in key_frame.persons:
            spans.setdefault(person.track, []).append(key_frame.time)
            actions = best.setdefault(person.track, {})
            for action in person.actions:
                if action.label not in actions or actions[action.label].score < action.score:
                    actions[action.label] = action
    rows = []
    for track, times in list(spans.items())[:MOST_TRACKS]:
        found = sorted(best[track].values(), key=lambda action: -action.score)[:_ACTIONS_SHOWN]
        listed = ", ".join(f"{action.label} {action.score:.2f}" for action in found)
        start = Link(clock(times[0]), files.annotated, f"t={times[0]:g}")
        rows.append((f"#{track}", start, clock(times[-1]), len(times), listed))
    if not rows:
        return []
    caption = "The best actions of each person, with their highest score on one key frame."
    if len(spans) > MOST_TRACKS:
        caption += f" The first {MOST_TRACKS} of {len(spans)} tracks."
    return [Table(_HEADER, rows, caption)]
