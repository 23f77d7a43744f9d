"""The input of a video: an uploaded file, a clip of the camera, or an example."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from processing_umt import VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader

from .preview import PREVIEW_SECONDS, is_playable, write_preview

MODEL = "model"  # the functions of all tabs share the queue of this name: one of them runs at a time
_THUMBNAIL_HEIGHT = 96  # pixels


class Surroundings(NamedTuple):
    """What all tabs share.

    Args:
        folder: folder of the files that the server writes; Gradio's own temporary folder, or in it.
        examples: name and path of videos to choose from.
        describe_error: the message of an error that a user can fix, in one line; None for a bug.
    """

    folder: Path
    examples: Sequence[tuple[str, Path]]
    describe_error: Callable[[Exception], str | None]

    def new_file(self, name: str) -> Path:
        """A file name in a new folder with a random name."""
        folder = self.folder / secrets.token_urlsafe(16)
        folder.mkdir()
        return folder / name

    @contextmanager
    def errors_in_one_line(self, video: str | None = None):
        """Shows an error that a user can fix on the page, with the name of the video in place of its path."""
        try:
            yield
        except Exception as error:
            message = self.message(error, video)
            if message is None:
                raise
            raise gr.Error(message, duration=None, print_exception=False) from error

    def message(self, error: Exception, video: str | None = None) -> str | None:
        """The message of an error that a user can fix, with the name of the video in place of its path."""
        message = self.describe_error(error)
        return message if message is None or video is None else message.replace(video, Path(video).name)


def refuse_urls(component: gr.Video) -> None:
    """Makes a component take uploaded files alone; Gradio's would also fetch a URL that a client sends in their place.

    Unusual: a subclass would do, but Gradio writes a stub file beside the module of every subclass.
    """
    move = component.async_move_resource_to_block_cache

    async def move_file(url_or_file_path: str | Path | None) -> str | None:
        if "://" in str(url_or_file_path):
            raise gr.Error("This page reads no URLs; upload the file.", print_exception=False)
        return await move(url_or_file_path)

    component.async_move_resource_to_block_cache = move_file


class VideoInput:
    """A player for an uploaded video, a clip of the camera or an example, and the path of that video on the server.

    Args:
        shared: what all tabs share.
        name: of the tab, for the ids of its elements.
    """

    def __init__(self, shared: Surroundings, name: str):
        self.shared = shared
        self.path = gr.State(None)
        self.player = gr.Video(
            label="Video", sources=["upload", "webcam"], elem_id=f"{name}-video", elem_classes="player", buttons=[]
        )
        refuse_urls(self.player)
        self.gallery = None
        if shared.examples:
            self.gallery = gr.Gallery(
                value=[(_thumbnail(path), name) for name, path in shared.examples],
                label="Examples",
                columns=4,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                buttons=[],
                elem_id=f"{name}-examples",
                elem_classes="pictures",
            )

    def on_change(self, function: Callable | None = None, inputs: Sequence[Any] = (), outputs: Sequence[Any] = ()):
        """Calls a function with the path of every new video; outputs are empty while there is none.

        Args:
            function: of the path and the values of `inputs`, or None.
            inputs, outputs: components.
        """
        events = [self.player.input(self._take, [self.player], [self.player, self.path], **private())]
        if self.gallery is not None:
            events.append(self.gallery.select(self._take_example, None, [self.player, self.path], **private()))
        self.player.clear(lambda: [None] * (1 + len(outputs)), None, [self.path, *outputs], **private())
        if function is not None:
            for event in events:
                event.success(
                    partial(_unless_empty, function, len(outputs)),
                    [self.path, *inputs],
                    [*outputs],
                    concurrency_id=MODEL,
                    **private(),
                )

    def _take(self, path: str | None) -> tuple[Any, str | None]:
        """The player and the path of an uploaded video; a broken one is reported, and removed from the player."""
        if path is None:
            return gr.skip(), None
        try:
            return self._show(path), path
        except VideoDecodeError as error:
            gr.Warning(self.shared.message(error, path), title="Broken video", duration=None)
            return gr.Video(value=None, label="Video"), None

    def _take_example(self, selected: gr.SelectData) -> tuple[Any, str | None]:
        return self._take(str(self.shared.examples[selected.index][1]))

    def _show(self, path: str) -> Any:
        """The player with a video that the browser plays."""
        with VideoReader(Path(path)) as reader:
            if is_playable(path):
                return gr.Video(value=path, label="Video")
            preview = write_preview(self.shared.new_file(f"{Path(path).stem}.mp4"), reader)
            is_short = reader.duration <= PREVIEW_SECONDS
        beginning = "" if is_short else f" of the first {PREVIEW_SECONDS:g} s"
        return gr.Video(value=preview, label=f"Video (preview{beginning}, converted for the browser)")


def _unless_empty(function: Callable, num_outputs: int, path: str | None, *values: Any) -> Any:
    """What a function returns for a video, or empty outputs without one."""
    if path is not None:
        return function(path, *values)
    return [None] * num_outputs if num_outputs > 1 else None


def require_path(path: str | None) -> str:
    """The path of the video, or an error on the page if there is none."""
    if path is None:
        raise gr.Error(
            "Give a video first: upload a file, record a clip, or choose an example.", print_exception=False
        )
    return path


def private() -> dict[str, Any]:
    """Options of events: the page calls them, and Gradio's client libraries do not."""
    return {"api_visibility": "private", "show_progress": "minimal"}


def _thumbnail(path: Path) -> Image.Image:
    try:
        with VideoReader(path) as reader:
            frame = Image.fromarray(reader.read(np.array([reader.num_frames // 2]))[0])
    except VideoDecodeError as error:
        raise ValueError(f"An example is broken: {error}") from error
    factor = _THUMBNAIL_HEIGHT / frame.height
    resample = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.BICUBIC
    return frame.resize((max(1, round(factor * frame.width)), _THUMBNAIL_HEIGHT), resample)
