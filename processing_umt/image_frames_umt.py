"""Images as frames: an image file, URL or Pillow image becomes RGB pixels, upright and of 8 bits.

An animation or a stack of pictures in one file (animated WebP, PNG and GIF, TIFF with several pages) is a video of its
pictures. Unusual: a transparent image loses its alpha channel, as in Transformers' image processors, and the second
picture of a photograph (MPO: stereo, depth, gain map) is not a frame.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.utils import is_vision_available

from .video_source_umt import VideoDecodeError, open_file

if is_vision_available():
    from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".apng", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MAX_DOWNLOAD = 256 << 20  # bytes of an image from a URL, which is read into memory
_ANIMATIONS = ("AVIF", "FLI", "GIF", "PNG", "TIFF", "WEBP")  # formats whose pictures are frames


@dataclass(frozen=True)
class AnimationFrame:
    """Picture `index` of an image file with several pictures."""

    image: "Image.Image"
    index: int


def is_image(frame: Any) -> bool:
    """Whether this is a Pillow image, or the name or URL of an image file."""
    if is_vision_available() and isinstance(frame, Image.Image):
        return True
    return isinstance(frame, (str, os.PathLike)) and str(frame).split("?")[0].lower().endswith(IMAGE_SUFFIXES)


def open_image(image: "str | os.PathLike | bytes | Image.Image", name: str = "") -> "Image.Image":
    """Opens an image file, URL or the contents of an image file; its pixels are not decoded yet.

    Args:
        image: an opened image is returned as it is.
        name: name of the contents in error messages.

    Raises:
        VideoDecodeError: the image can't be read.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, bytes):
        name = os.fspath(image)
        with open_file(name, _MAX_DOWNLOAD) as file:
            image = file.read()
    with _named_errors(name or f"<{len(image)} bytes>"):
        opened = Image.open(io.BytesIO(image))
        opened.filename = name
        _check_size(opened, name)
        return opened


def animation_frames(image: "str | os.PathLike | Image.Image") -> list[Any]:
    """The frames of an image: itself, or the pictures of an animation.

    Raises:
        VideoDecodeError: the image can't be read.
    """
    opened = open_image(image)
    with _named_errors(_name(opened)):
        count = getattr(opened, "n_frames", 1) if opened.format in _ANIMATIONS else 1
        # the still picture of an animated PNG, for viewers without animation, may not belong to the animation
        first = int(count > 1 and getattr(opened, "default_image", False))
    if count == 1:
        return [opened]
    if opened is image and os.path.isfile(image.filename):
        # Pillow reads an animated PNG forward only, and the caller may be within it
        opened = open_image(image.filename)
    return [AnimationFrame(opened, index) for index in range(first, count)]


def image_pixels(frame: "str | os.PathLike | Image.Image | AnimationFrame") -> np.ndarray:
    """The picture, uint8 `(height, width, 3)`, RGB, turned as its EXIF data state. 16 bits are scaled to 8.

    Raises:
        VideoDecodeError: the image can't be read, or has values without a known range.
        ValueError: an animation among other frames.
    """
    if isinstance(frame, AnimationFrame):
        with _named_errors(_name(frame.image)):
            frame.image.seek(frame.index)
            return _pixels(frame.image)
    frames = animation_frames(frame)
    if len(frames) > 1:
        raise ValueError(
            f"{_name(frames[0].image)} is an animation of {len(frames)} frames among other frames; pass it alone as a "
            "video ([['a.webp'], ['b.webp']] for several), or copies of its frames."
        )
    with _named_errors(_name(frames[0])):
        return _pixels(frames[0])


def _check_size(image: "Image.Image", name: str) -> None:
    """Pillow only warns of images between its limit and twice its limit."""
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit:
        detail = f"{width} × {height}; at most {limit} pixels, Pillow's limit, are read"
        raise VideoDecodeError(name, "too_large", detail)


def _pixels(image: "Image.Image") -> np.ndarray:
    image_format = image.format
    if image_format is not None:  # opened from a file; a page of a TIFF file has its own size
        _check_size(image, _name(image))
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image_format == "PNG"):  # older Pillow: 16 bits as "I"
        grey = ((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8)
    elif image.mode in ("I", "F"):
        grey = np.asarray(image)
        if image.mode == "F" or grey.min() < 0 or grey.max() > 255:
            raise ValueError(f"its mode {image.mode} has no known range of values; convert it to 8 or 16 bits")
        grey = grey.astype(np.uint8)
    else:
        if "transparency" in image.info and image.mode == "P":
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))
    return np.stack([grey] * 3, axis=-1)


def _name(image: "Image.Image") -> str:
    return os.fsdecode(getattr(image, "filename", "") or f"<{image.format or image.mode} image>")


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Raises any error of Pillow as a `VideoDecodeError` with the name of the image."""
    try:
        yield
    except VideoDecodeError:
        raise
    except UnidentifiedImageError as error:  # whose message names the buffer in memory
        raise VideoDecodeError(name, "unreadable", "it is in no known image format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise VideoDecodeError(name, "too_large", str(error)) from error
    except Exception as error:  # the readers of its formats raise exceptions of many kinds for broken files
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VideoDecodeError(name, "unreadable", f"as an image: {detail}") from error
