"""Input formats of a video: files to decode, and frames in memory.

Nothing is inferred for a batch: each video may have its own format, size and layout. Of a list of images only the
sampled frames are read.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.image_utils import load_image
from transformers.utils import is_vision_available

from .video_source_umt import VideoDecodeError

if is_vision_available():
    from PIL.Image import DecompressionBombError, Image

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_videos(videos: Any) -> list[Any]:
    """Flattens one video, or videos nested in lists to any depth, to a list of videos.

    A video is a file (path, `Path`, URL, bytes, file object, or a dict with `bytes` and `path` as `datasets` returns
    it for `Video(decode=False)`), an array or tensor `(T, H, W, C)` or `(T, C, H, W)`, or a list of its frames
    (images, arrays of three dimensions, or names of image files). An array of five dimensions is a batch; a single
    image is a video of one frame.

    Raises:
        ValueError: an empty list, or an unsupported type or shape.
    """
    if isinstance(videos, dict) and {"bytes", "path"} & videos.keys():
        content = videos.get("bytes")
        videos = content if content is not None else videos.get("path")
    if is_file(videos):
        return [videos]
    if _is_frame(videos):
        return [[videos]]
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        if videos.ndim not in (4, 5):
            raise ValueError(
                f"A video given as an array has the shape {tuple(videos.shape)}; expected (frames, height, width, "
                "channels) or (frames, channels, height, width), optionally with a leading batch dimension."
            )
        return [videos] if videos.ndim == 4 else list(videos)
    if isinstance(videos, (list, tuple)):
        if not videos:
            raise ValueError("An empty list was given as video; expected at least one video or one frame.")
        if all(_is_frame(frame) for frame in videos):
            return [list(videos)]
        return [video for item in videos for video in list_videos(item)]
    raise ValueError(
        f"Cannot read a video from {type(videos).__name__}: {str(videos)[:80]!r}. Expected a path, URL, bytes, file "
        "object, array, tensor, a list of frames, or a list of these."
    )


def is_file(video: Any) -> bool:
    """Whether the video must be decoded: a path or URL other than that of an image, bytes, or a file object."""
    if isinstance(video, (str, os.PathLike)):
        return not _is_image_name(video)
    return isinstance(video, bytes) or hasattr(video, "read")


def read_frames(
    video: np.ndarray | torch.Tensor | Sequence[Any], indices: np.ndarray, input_data_format: str | None = None
) -> torch.Tensor:
    """The frames at `indices` of a video in memory or of a list of image files, `(len(indices), C, H, W)`.

    Args:
        video: array or tensor of four dimensions, or a list of frames.
        indices: int `(n,)`, each in `[0, len(video))`, repeats allowed.
        input_data_format: "channels_first" or "channels_last"; inferred from the shape if None.

    Returns:
        uint8, or floating point if the video is.

    Raises:
        ValueError: frames of unequal sizes, a layout that cannot be inferred, integers outside 0..255.
        VideoDecodeError: an image file that cannot be read.
    """
    if isinstance(video, torch.Tensor):
        frames = video[torch.from_numpy(indices).to(video.device)]
    elif isinstance(video, np.ndarray):
        frames = torch.from_numpy(video[indices])  # indexing copies: the tensor is writable and shares no memory
    else:
        unique, inverse = np.unique(indices, return_inverse=True)
        pictures = [_read_frame(video[index]) for index in unique]
        shapes = {tuple(picture.shape) for picture in pictures}
        if len(shapes) > 1:
            raise ValueError(f"The frames of a video must have one size; got the shapes {sorted(shapes)}.")
        frames = torch.stack(pictures)[torch.from_numpy(inverse)]
        if not isinstance(video[0], (np.ndarray, torch.Tensor)):
            input_data_format = "channels_last"  # images, even those of 1, 3 or 4 rows
    if not _is_channels_first(tuple(frames.shape), input_data_format):
        frames = frames.permute(0, 3, 1, 2)
    if frames.dtype == torch.uint8 or frames.is_floating_point():
        return frames
    if frames.dtype == torch.bool or frames.to(torch.int64).min() < 0 or frames.to(torch.int64).max() > 255:
        raise ValueError(
            f"Frames of {frames.dtype} were given with values outside 0..255; expected uint8 from 0 to 255, or "
            "floating point."
        )
    return frames.to(torch.uint8)


def _read_frame(frame: Any) -> torch.Tensor:
    """Converts an image, image file or array to a tensor of three dimensions; images become RGB, channels last."""
    if isinstance(frame, torch.Tensor):
        return frame
    if isinstance(frame, np.ndarray):
        return torch.tensor(frame)
    if not _is_image(frame):
        try:
            frame = load_image(os.fspath(frame))
        # Pillow raises SyntaxError for a broken PNG
        except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:
            raise VideoDecodeError(str(frame), "unreadable", f"as an image: {error}") from error
    return torch.tensor(np.asarray(frame.convert("RGB")))


def _is_frame(frame: Any) -> bool:
    if isinstance(frame, (np.ndarray, torch.Tensor)):
        return frame.ndim == 3
    return _is_image(frame) or _is_image_name(frame)


def _is_image(frame: Any) -> bool:
    return is_vision_available() and isinstance(frame, Image)


def _is_image_name(frame: Any) -> bool:
    return isinstance(frame, (str, os.PathLike)) and str(frame).split("?")[0].lower().endswith(IMAGE_SUFFIXES)


def _is_channels_first(shape: tuple[int, ...], input_data_format: str | None) -> bool:
    """Whether a shape is `(T, C, H, W)` rather than `(T, H, W, C)`; first assumes three channels, then one or four."""
    if input_data_format is not None:
        return input_data_format == "channels_first"
    for channels in ((3,), (1, 4)):
        first, last = shape[1] in channels, shape[3] in channels
        if first != last:
            return first
        if first and last:
            break
    raise ValueError(
        f"Cannot infer the channel dimension of a video of shape {shape}; expected 1, 3 or 4 channels in either the "
        "second or the last dimension. Pass input_data_format='channels_first' or 'channels_last'."
    )
