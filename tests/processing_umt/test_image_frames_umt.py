"""Images as frames: modes, orientation, animations, and broken files, against pixels written by hand."""

import functools
import http.server
import io
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from processing_umt import UMTVideoProcessor, VideoDecodeError
from processing_umt.frame_sampling_umt import sample_clips
from processing_umt.image_frames_umt import animation_frames, image_pixels

RAMP = np.tile(np.arange(32, dtype=np.uint8) * 8, (16, 1))  # (16, 32)
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 77)], axis=-1)


def frames_of(video, **options) -> np.ndarray:
    """Frames as they are given, uint8 `(frames, height, width, 3)`."""
    steps = dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), False)
    processor = UMTVideoProcessor(num_frames=4, **steps)
    return processor(video, return_tensors="pt", **options)["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy()


def grey(values: np.ndarray) -> np.ndarray:
    return np.stack([values] * 3, axis=-1)


def palette_image() -> Image.Image:
    image = Image.fromarray(RAMP // 8, mode="P")
    image.putpalette(COLOURS[0].ravel().tolist())
    return image


def transparent_palette_image() -> Image.Image:
    image = palette_image()
    image.info["transparency"] = bytes(range(32))
    return image


IMAGES = {  # image, its pixels
    "RGB": (lambda: Image.fromarray(COLOURS), COLOURS),
    "L": (lambda: Image.fromarray(RAMP), grey(RAMP)),
    "1": (lambda: Image.fromarray(RAMP).convert("1", dither=0), grey(np.where(RAMP > 127, 255, 0).astype(np.uint8))),
    "LA": (lambda: Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(RAMP[:, ::-1].copy())]), grey(RAMP)),
    "RGBA": (lambda: Image.fromarray(np.dstack([COLOURS, RAMP])), COLOURS),
    "P": (palette_image, COLOURS),
    "P with transparency": (transparent_palette_image, COLOURS),
    "CMYK": (lambda: Image.fromarray(np.dstack([255 - COLOURS, np.zeros_like(RAMP)]), mode="CMYK"), COLOURS),
    "I;16": (lambda: Image.fromarray(RAMP.astype(np.uint16) * 257), grey(RAMP)),
    "I;16, dark": (lambda: Image.fromarray(RAMP.astype(np.uint16)), grey(np.round(RAMP / 257).astype(np.uint8))),
    "I;16B": (lambda: Image.fromarray((RAMP.astype(np.uint16) * 257).astype(">u2")), grey(RAMP)),
    "I": (lambda: Image.fromarray(RAMP.astype(np.int32)), grey(RAMP)),
}  # fmt: skip


@pytest.mark.parametrize("mode", IMAGES)
@pytest.mark.filterwarnings("error", "ignore:'mode' parameter:DeprecationWarning")
def test_pixels_of_every_mode(mode):
    make, expected = IMAGES[mode]
    assert np.array_equal(image_pixels(make()), expected)
    assert np.array_equal(frames_of([make()] * 4), np.stack([expected] * 4))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_files_of_16_bits(suffix, tmp_path):
    path = tmp_path / f"depth{suffix}"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    assert np.array_equal(frames_of([str(path)] * 4)[0], grey(RAMP))


@pytest.mark.parametrize(
    "values",
    [RAMP.astype(np.float32) / 255, RAMP.astype(np.float32), RAMP.astype(np.int32) * 300, RAMP.astype(np.int32) - 9],
)
def test_values_without_a_known_range_are_an_error(values, tmp_path):
    image = Image.fromarray(values)
    image.save(tmp_path / "values.tif")
    for frame in (image, tmp_path / "values.tif"):
        with pytest.raises(VideoDecodeError, match=f"its mode {image.mode} has no known range"):
            frames_of([frame] * 4)


ORIENTATIONS = {  # EXIF orientation -> how the stored picture is turned to be shown
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_images_are_upright(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(COLOURS).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    expected = ORIENTATIONS[orientation](COLOURS)
    assert np.array_equal(image_pixels(path), expected)
    with Image.open(path) as image:
        assert np.array_equal(frames_of([image] * 4)[2], expected)


def pictures(count: int) -> list[Image.Image]:
    return [Image.fromarray(np.roll(COLOURS, number, axis=1)) for number in range(count)]


ANIMATIONS = {
    "a.png": {},
    "a.apng": {"format": "PNG"},
    "still.png": {"default_image": True},
    "a.webp": {"lossless": True},
    "a.tif": {},
    "a.tiff": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("name", ANIMATIONS)
@pytest.mark.parametrize("count", [2, 4, 11])
@pytest.mark.parametrize("kind", ["name", "path", "image", "image within"])
def test_an_animation_is_a_video(name, count, kind, tmp_path):
    path, still = tmp_path / name, "still" in name
    first, *others = pictures(count + still)
    first.save(path, save_all=True, append_images=others, **ANIMATIONS[name])
    indices = sample_clips(count, 4)[0]
    expected = np.stack([np.roll(COLOURS, index + still, axis=1) for index in indices])
    if kind in ("name", "path"):
        assert np.array_equal(frames_of({"name": str, "path": Path}[kind](path)), expected)
        return
    with Image.open(path) as image:
        if kind == "image within":
            image.seek(count - 1)
            image.load()
        for _ in range(2):
            assert np.array_equal(frames_of(image), expected)
            assert np.array_equal(frames_of([image]), expected)
        two = UMTVideoProcessor(num_frames=4, size=16, crop_size=16)([[image], [str(path)]], return_tensors="pt")
        assert torch.equal(*two["pixel_values_videos"])


def test_a_gif_in_memory_is_a_video():
    file = io.BytesIO()
    numbers = [Image.fromarray(np.full((16, 16), 60 * number, np.uint8)) for number in range(4)]
    numbers[0].save(file, "GIF", save_all=True, append_images=numbers[1:], duration=40)
    frames = frames_of(Image.open(file))
    assert frames[:, 0, 0, 0].tolist() == [60 * index for index in sample_clips(4, 4)[0]]


def test_an_animation_among_frames_is_an_error(tmp_path):
    first, *others = pictures(3)
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, lossless=True)
    with Image.open(tmp_path / "a.webp") as image:
        for video in ([first, image], [str(tmp_path / "a.webp")] * 2, list(ImageSequence.Iterator(image))):
            with pytest.raises(ValueError, match="is an animation of 3 frames among other frames"):
                frames_of(video)
        copies = [frame.copy() for frame in ImageSequence.Iterator(image)]
    assert np.array_equal(frames_of(copies, num_frames=3), np.stack([np.asarray(picture) for picture in pictures(3)]))


def test_the_second_picture_of_a_photograph_is_no_frame(tmp_path):
    first, second = pictures(2)
    first.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[second])
    assert len(animation_frames(tmp_path / "photo.jpg")) == 1


def test_broken_images_are_reported(tmp_path):
    good = tmp_path / "good.png"
    pictures(1)[0].save(good)
    first, *others = pictures(5)
    first.save(tmp_path / "whole.webp", save_all=True, append_images=others, lossless=True)
    broken = {
        "header.png": b"\x89PNG\r\n\x1a\nnot an image",
        "cut.png": good.read_bytes()[: good.stat().st_size // 2],
        "empty.jpg": b"",
        "text.bmp": b"text",
        "cut.webp": (tmp_path / "whole.webp").read_bytes()[:400],
    }
    for name, contents in broken.items():
        (tmp_path / name).write_bytes(contents)
        processor = UMTVideoProcessor(num_frames=1, size=16, crop_size=16, on_error="skip")
        features = processor([[str(tmp_path / name)], [str(good)]], return_tensors="pt")
        assert features.video_indices == [1], name
        assert name in features.errors[0][1] and "\n" not in features.errors[0][1]
    with pytest.raises(VideoDecodeError, match=r"missing\.png: the file does not exist"):
        frames_of(str(tmp_path / "missing.png"))


@pytest.mark.parametrize("limit", [100, 40])  # Pillow warns of an image, and refuses one of twice its limit
def test_images_above_the_limit_of_pillow_are_refused(limit, tmp_path, monkeypatch):
    Image.new("RGB", (12, 10)).save(tmp_path / "a.png")
    opened = Image.open(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for image in (tmp_path / "a.png", opened):
        with pytest.raises(VideoDecodeError, match=r"a\.png") as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image_pixels(image)
        assert caught.value.reason == "too_large"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert image_pixels(tmp_path / "a.png").shape == (10, 12, 3)


def test_images_are_downloaded(tmp_path):
    pictures(1)[0].save(tmp_path / "a picture é.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            for name in ("a picture é.png", "a%20picture%20%C3%A9.png?width=8&sign=a b"):
                assert np.array_equal(frames_of(f"{address}/{name}")[0], COLOURS)
            with pytest.raises(VideoDecodeError, match="404") as caught:
                frames_of([f"{address}/missing.png"] * 4)
            assert caught.value.reason == "network"
        finally:
            server.shutdown()
