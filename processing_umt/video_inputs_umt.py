"""Input formats of a video: files to decode, and frames in memory.

Nothing is inferred for a batch: each video may have its own format, size and layout. Of a list of images only the
sampled frames are read.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .image_frames_umt import AnimationFrame, image_pixels, is_image
from .video_features_umt import UMTVideoMetadata
from .video_source_umt import VideoDecodeError


def list_videos(videos: Any) -> list[Any]:
    """Flattens one video, or videos nested in lists to any depth, to a list of videos.

    A video is a file (path, `Path`, URL, bytes, file object, or a dict with `bytes` and `path` as `datasets` returns
    it for `Video(decode=False)`), a decoder of torchcodec (as `datasets` returns it for `Video()`), an array or tensor
    `(T, H, W, C)` or `(T, C, H, W)`, or a list of its frames (images, arrays of three dimensions, or names of image
    files). An array of five dimensions is a batch; a single image is a video of one frame, or of all its pictures if
    it is an animation. Lists are also tuples, columns of `datasets` and pandas, and arrays of names.

    Raises:
        ValueError: an empty list, or an unsupported type or shape.
    """
    if isinstance(videos, dict) and {"bytes", "path"} & videos.keys():
        content = videos.get("bytes")
        videos = content if content is not None else videos.get("path")
    if isinstance(videos, np.ndarray) and videos.dtype.kind in "OU":  # of names or other objects
        videos = videos.tolist()
    if is_file(videos) or is_decoder(videos):
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
    if _is_list(videos):
        videos = list(videos)
        if not videos:
            raise ValueError("An empty list was given as video; expected at least one video or one frame.")
        if all(_is_frame(frame) for frame in videos):
            return [videos]
        return [video for item in videos for video in list_videos(item)]
    raise ValueError(
        f"Cannot read a video from {type(videos).__name__}: {str(videos)[:80]!r}. Expected a path, URL, bytes, file "
        "object, array, tensor, a list of frames, or a list of these."
    )


def _is_list(videos: Any) -> bool:
    """Whether these are several items in order: a list, tuple, column of `datasets` or pandas, but not a table."""
    if isinstance(videos, (str, bytes, Mapping)) or getattr(videos, "ndim", 1) != 1:
        return False
    return all(hasattr(videos, method) for method in ("__len__", "__iter__", "__getitem__"))


def is_file(video: Any) -> bool:
    """Whether the video must be decoded: a path or URL other than that of an image, bytes, or a file object."""
    if isinstance(video, (str, os.PathLike)):
        return not is_image(video)
    return isinstance(video, (bytes, bytearray, memoryview)) or hasattr(video, "read")


def is_decoder(video: Any) -> bool:
    """Whether this has the interface of torchcodec's `VideoDecoder`."""
    return hasattr(video, "metadata") and hasattr(video, "get_frames_at")


def read_from_decoder(
    decoder: Any, sample_indices_fn: Callable[..., np.ndarray] | None
) -> tuple[torch.Tensor, UMTVideoMetadata]:
    """Frames `(n, C, H, W)` of a `VideoDecoder` of torchcodec, and their metadata."""
    facts = decoder.metadata
    metadata = UMTVideoMetadata(
        total_num_frames=facts.num_frames,
        fps=facts.average_fps,
        duration=facts.duration_seconds,
        video_backend="torchcodec",
    )
    if not facts.num_frames:
        raise VideoDecodeError("<VideoDecoder>", "no_frames")
    indices = np.arange(facts.num_frames) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
    try:
        batch = decoder.get_frames_at(indices.tolist())
    except (RuntimeError, ValueError, IndexError) as error:
        raise VideoDecodeError("<VideoDecoder>", "decode", " ".join(str(error).split())) from error
    frames = read_frames(batch.data, np.arange(len(indices)))
    metadata.height, metadata.width = frames.shape[-2:]
    metadata.frames_indices = indices.tolist()
    metadata.frame_timestamps = batch.pts_seconds.tolist()
    return frames, metadata


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
        if isinstance(video[0], AnimationFrame) or is_image(video[0]):
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
    return torch.from_numpy(image_pixels(frame))


def _is_frame(frame: Any) -> bool:
    if isinstance(frame, (np.ndarray, torch.Tensor)):
        return frame.ndim == 3
    return is_image(frame)


def _is_channels_first(shape: tuple[int, ...], input_data_format: str | None) -> bool:
    """Whether a shape is `(T, C, H, W)` rather than `(T, H, W, C)`; first assumes three channels, then one or four."""
    if input_data_format is not None:
        is_first = input_data_format == "channels_first"
        if shape[1 if is_first else 3] not in (1, 3, 4):
            raise ValueError(
                f"input_data_format is {str(input_data_format)!r}, but a video of shape {shape} then has "
                f"{shape[1 if is_first else 3]} channels; expected 1, 3 or 4."
            )
        return is_first
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
