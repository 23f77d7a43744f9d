"""The video processor: all input formats and options, views, broken videos, saving, remote code, pipeline."""

import collections
import functools
import http.server
import io
import json
import math
import pickle
import threading
import types
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from subprocess_tools import run_clean
from transformers import AutoVideoProcessor, Trainer, TrainingArguments, pipeline
from transformers.video_utils import VideoMetadata

from modeling_umt import UMTConfig, UMTForVideoClassification
from processing_umt import UMTVideoProcessor, VideoDecodeError, fold_views
from processing_umt.frame_sampling_umt import sample_clips
from processing_umt.resize_umt import RESIZE_KERNELS, resize_frames

av = pytest.importorskip("av")

SMALL = {"size": {"shortest_edge": 32}, "crop_size": 32, "num_frames": 4}
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def moving_frames(count: int, height: int = 48, width: int = 70) -> np.ndarray:
    """uint8 `(count, height, width, 3)`: a moving gradient, so that all frames and all positions differ."""
    rows, columns = np.mgrid[:height, :width]
    frames = [
        np.stack([rows * 4 + 3 * t, columns * 3 - 2 * t, (rows + columns) * 2 + 5 * t], axis=-1) for t in range(count)
    ]
    return (np.stack(frames) % 256).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, rate: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", moving_frames(23))


@pytest.fixture(scope="module")
def tall_clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "tall.mp4", moving_frames(11, 80, 40))


def plain_views(frames: np.ndarray, indices: np.ndarray, corners: list[tuple[int, int]], kernel="antialias"):
    """Views of a video, one frame at a time: resize the short side to 32, crop 32, rescale, normalise."""
    height, width = frames.shape[1:3]
    size = (32, int(32 * width / height)) if height <= width else (int(32 * height / width), 32)
    views = []
    for clip_indices in indices:
        for top, left in corners:
            view = []
            for index in clip_indices:
                frame = torch.tensor(frames[index].copy()).permute(2, 0, 1)
                crop = resize_frames(frame, *size, kernel)[:, top : top + 32, left : left + 32]
                view.append((crop.float() / 255 - MEAN) / STD)
            views.append(torch.stack(view))
    return torch.stack(views)


def pixels(videos, **options) -> torch.Tensor:
    return UMTVideoProcessor(**SMALL)(videos, return_tensors="pt", **options)["pixel_values_videos"]


# --- one clip, any input format ---


def test_defaults_give_the_official_shape_and_range(clip):
    values = UMTVideoProcessor()(clip, return_tensors="pt")["pixel_values_videos"]
    assert values.shape == (1, 8, 3, 224, 224) and values.dtype == torch.float32
    assert values.min() > -2.2 and values.max() < 2.7


def test_a_file_is_sampled_resized_cropped_and_normalised(clip):
    frames = decode(clip)
    expected = plain_views(frames, sample_clips(len(frames), 4), [(0, round((46 - 32) / 2))])
    torch.testing.assert_close(pixels(str(clip)), expected, rtol=0, atol=1e-5)


def as_frame_files(clip: Path, folder: Path) -> list[Path]:
    paths = [folder / f"{index:03}.png" for index in range(23)]
    for path, frame in zip(paths, decode(clip), strict=True):
        Image.fromarray(frame).save(path)
    return paths


class Decoder:
    """The interface of torchcodec's `VideoDecoder`."""

    def __init__(self, path: Path):
        self.frames = torch.from_numpy(decode(path)).permute(0, 3, 1, 2)
        self.metadata = types.SimpleNamespace(num_frames=len(self.frames), average_fps=10.0, duration_seconds=2.3)

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        return self.frames[index]

    def get_frames_at(self, indices: list[int]):
        seconds = torch.tensor(indices, dtype=torch.float64) / 10
        return types.SimpleNamespace(data=self.frames[indices], pts_seconds=seconds)


INPUTS = {
    "Path": lambda clip, folder: clip,
    "bytes": lambda clip, folder: clip.read_bytes(),
    "bytearray": lambda clip, folder: bytearray(clip.read_bytes()),
    "memoryview": lambda clip, folder: memoryview(clip.read_bytes()),
    "file object": lambda clip, folder: io.BytesIO(clip.read_bytes()),
    "array of names": lambda clip, folder: np.array([str(clip)]),
    "array of paths": lambda clip, folder: np.array([clip]),
    "name in an array": lambda clip, folder: np.array(str(clip)),
    "column of datasets": lambda clip, folder: datasets.Dataset.from_dict({"video": [str(clip)]})["video"],
    "column of pandas": lambda clip, folder: pd.Series([str(clip)], index=[7]),
    "deque": lambda clip, folder: collections.deque([clip]),
    "decoder of torchcodec": lambda clip, folder: Decoder(clip),
    "datasets, bytes": lambda clip, folder: {"bytes": clip.read_bytes(), "path": "elsewhere.mp4"},
    "datasets, path": lambda clip, folder: {"bytes": None, "path": str(clip)},
    "array, channels last": lambda clip, folder: decode(clip),
    "array, channels first": lambda clip, folder: decode(clip).transpose(0, 3, 1, 2),
    "array, read-only": lambda clip, folder: np.frombuffer(decode(clip).tobytes(), np.uint8).reshape(23, 48, 70, 3),
    "array, int64": lambda clip, folder: decode(clip).astype(np.int64),
    "tensor, channels last": lambda clip, folder: torch.from_numpy(decode(clip)),
    "tensor, channels first": lambda clip, folder: torch.from_numpy(decode(clip)).permute(0, 3, 1, 2),
    "batch of one": lambda clip, folder: decode(clip)[None],
    "images": lambda clip, folder: [Image.fromarray(frame) for frame in decode(clip)],
    "transparent images": lambda clip, folder: [Image.fromarray(frame).convert("RGBA") for frame in decode(clip)],
    "transparent array": lambda clip, folder: np.pad(decode(clip), [(0, 0)] * 3 + [(0, 1)], constant_values=9),
    "arrays": lambda clip, folder: list(decode(clip)),
    "tensors": lambda clip, folder: tuple(torch.from_numpy(frame).permute(2, 0, 1) for frame in decode(clip)),
    "frame files": lambda clip, folder: as_frame_files(clip, folder),
    "names of frame files": lambda clip, folder: [str(path) for path in as_frame_files(clip, folder)],
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_format_gives_the_same_pixels(kind, clip, tmp_path):
    expected = pixels(str(clip))
    video = INPUTS[kind](clip, tmp_path)
    assert torch.equal(pixels(video), expected)
    if kind != "file object":  # which is at its end now
        assert torch.equal(pixels([video, str(clip)]), torch.cat([expected, expected]))


def test_a_url_gives_the_same_pixels(clip):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=clip.parent)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{clip.name}"
            assert torch.equal(pixels(url), pixels(clip))
        finally:
            server.shutdown()


def test_floating_point_frames(clip):
    frames = decode(clip)
    expected = pixels(clip)
    torch.testing.assert_close(pixels(frames.astype(np.float64)), expected, rtol=0, atol=0.02)  # not rounded to uint8
    scaled = torch.from_numpy(frames).to(torch.float32) / 255
    torch.testing.assert_close(pixels(scaled, do_rescale=False), expected, rtol=0, atol=0.02)


def test_grey_frames_become_rgb():
    frames = moving_frames(9)[..., :1]
    assert torch.equal(pixels(frames), pixels(frames.repeat(3, axis=-1)))


def test_an_image_is_a_video_of_one_frame():
    image = Image.fromarray(moving_frames(1)[0])
    one = pixels(image, num_frames=1)
    assert one.shape == (1, 1, 3, 32, 32)
    assert torch.equal(pixels(image), one.expand(1, 4, 3, 32, 32))


def test_a_batch_may_mix_formats_and_sizes(clip, tall_clip):
    tall = decode(tall_clip)
    batch = [clip, tall.transpose(0, 3, 1, 2), [Image.fromarray(frame) for frame in tall], [tall_clip, decode(clip)]]
    singles = [pixels(clip), pixels(tall_clip), pixels(tall_clip), pixels(tall_clip), pixels(clip)]
    assert torch.equal(pixels(batch), torch.cat(singles))


# --- frame sampling ---


@pytest.mark.parametrize("kind", ["array", "tensor", "images"])
@pytest.mark.parametrize("num_clips", [1, 3])
def test_frames_in_memory_of_exactly_num_frames_are_never_resampled(kind, num_clips):
    frames = moving_frames(4)
    video = {"array": frames, "tensor": torch.from_numpy(frames), "images": [Image.fromarray(f) for f in frames]}[kind]
    expected = plain_views(frames, np.arange(4)[None].repeat(num_clips, axis=0), [(0, 7)])
    torch.testing.assert_close(pixels(video, num_clips=num_clips), expected, rtol=0, atol=1e-5)


def test_a_file_of_exactly_num_frames_is_sampled_like_any_other(tmp_path):
    frames = decode(write_video(tmp_path / "short.mp4", moving_frames(4)))
    indices = sample_clips(4, 4)
    assert indices.tolist() != [[0, 1, 2, 3]]
    expected = plain_views(frames, indices, [(0, 7)])
    torch.testing.assert_close(pixels(tmp_path / "short.mp4"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 6},
        {"num_frames": 30},
        {"sampling": "middle"},
        {"sampling": "segments", "num_clips": 2},
        {"sampling": "dense", "frame_stride": 2},
        {"sampling": "dense", "frame_stride": 3, "num_clips": 4},
        {"sampling": "strided", "frame_stride": 3, "num_clips": 4},
        {"sampling": "uniform", "num_clips": 2},
        {"num_clips": 5},
    ],
)
def test_sampling_is_that_of_sample_clips(options, clip):
    indices = sample_clips(23, **{"num_frames": 4, **options})
    features = UMTVideoProcessor(**SMALL)(clip, return_tensors="pt", return_metadata=True, **options)
    assert [view.frames_indices for view in features["video_metadata"]] == indices.tolist()
    corner = (0, 7)  # (46 - 32) / 2
    expected = plain_views(decode(clip), indices, [corner])
    torch.testing.assert_close(features["pixel_values_videos"], expected, rtol=0, atol=1e-5)
    assert torch.equal(pixels(decode(clip), **options), features["pixel_values_videos"])
    saved = UMTVideoProcessor(**{**SMALL, **options})
    assert torch.equal(saved(clip, return_tensors="pt")["pixel_values_videos"], features["pixel_values_videos"])


def test_all_frames_without_sampling(clip):
    values = pixels(clip, do_sample_frames=False)
    assert torch.equal(values, pixels(decode(clip), do_sample_frames=False))
    torch.testing.assert_close(values, plain_views(decode(clip), np.arange(23)[None], [(0, 7)]), rtol=0, atol=1e-5)


def test_all_clips_are_decoded_in_one_read(clip, monkeypatch):
    from processing_umt import video_processing_umt

    reads = []
    read = video_processing_umt.VideoReader.read
    monkeypatch.setattr(
        video_processing_umt.VideoReader, "read", lambda self, indices: reads.append(indices) or read(self, indices)
    )
    pixels(clip, num_clips=6, num_crops=3)
    assert len(reads) == 1 and reads[0].tolist() == sample_clips(23, 4, num_clips=6).ravel().tolist()


def test_metadata_of_views(clip):
    processor = UMTVideoProcessor(**SMALL, num_clips=2, num_crops=3)
    array = moving_frames(11)
    metadata = processor(
        [clip, array], return_metadata=True, video_metadata=[{"total_num_frames": 23, "fps": 1.0}] * 2
    )
    metadata = metadata["video_metadata"]
    positions = [(view.video_index, view.clip, view.crop) for view in metadata]
    assert positions == [(v, c, s) for v in range(2) for c in range(2) for s in range(3)]
    for view in metadata[:6]:
        assert view.frames_indices == sample_clips(23, 4, num_clips=2)[view.clip].tolist()
        np.testing.assert_allclose(view.timestamps, np.array(view.frames_indices) / 10)
        assert (view.total_num_frames, view.fps, view.height, view.width) == (23, 10, 48, 70)
        assert view.duration == pytest.approx(2.3)
    for view in metadata[6:]:
        assert view.frames_indices == sample_clips(11, 4, num_clips=2)[view.clip].tolist()
        assert view.timestamps == view.frames_indices  # one frame per second, as given
        assert (view.total_num_frames, view.duration, view.height, view.width) == (11, 11, 48, 70)


# --- crops and resizing ---


@pytest.mark.parametrize("frame_size", [(48, 70), (80, 40), (40, 40), (50, 67)])
@pytest.mark.parametrize("num_clips", [1, 4])
@pytest.mark.parametrize("num_crops", [1, 2, 3, 5])
def test_views_are_video_major_then_clip_then_crop(frame_size, num_clips, num_crops):
    videos = [moving_frames(9, *frame_size), moving_frames(14, *frame_size)[:, ::-1]]
    height, width = frame_size
    margin = int(32 * max(frame_size) / min(frame_size)) - 32
    if num_clips * num_crops == 1:
        starts = [round(margin / 2)]
    elif num_crops == 1:
        starts = [int(margin / 2)]
    else:
        starts = [int(crop * margin / (num_crops - 1)) for crop in range(num_crops)]
    corners = [(start, 0) if height >= width else (0, start) for start in starts]
    values = pixels(videos, num_clips=num_clips, num_crops=num_crops)
    expected = [plain_views(video, sample_clips(len(video), 4, num_clips=num_clips), corners) for video in videos]
    torch.testing.assert_close(values, torch.cat(expected), rtol=0, atol=1e-5)


def test_recorded_crop_positions(recorded):
    """Pixels that encode their position show which region the processor crops."""
    table, _ = recorded("crop_positions")
    processor = UMTVideoProcessor(num_frames=1, do_resize=False, do_rescale=False, do_normalize=False)
    seen = 0
    for row in table["crops"]:
        if "error" in str(row["crops"]):
            continue
        height, width = row["resized"]
        rows, columns = np.mgrid[:height, :width]
        frame = np.stack([rows // 256, rows % 256, columns // 256], axis=-1).astype(np.uint8)
        low = np.stack([columns % 256] * 3, axis=-1).astype(np.uint8)
        test = row["mode"] == "test"
        crop_size = row["short_side_size"] if test else row["crop_size"]
        # with a single view the processor would use the validation crop
        num_clips, num_crops = (2, row["test_num_crop"]) if test else (1, 1)
        options = {"crop_size": crop_size, "num_crops": num_crops, "num_clips": num_clips, "return_tensors": "np"}
        high_views = processor(frame[None], **options)["pixel_values_videos"][:, 0].astype(int)
        low_views = processor(low[None], **options)["pixel_values_videos"][:, 0].astype(int)
        windows = []
        for high, low_view in zip(high_views[:num_crops], low_views, strict=False):
            top, left = high[0, 0, 0] * 256 + high[1, 0, 0], high[2, 0, 0] * 256 + low_view[0, 0, 0]
            bottom, right = high[0, -1, -1] * 256 + high[1, -1, -1], high[2, -1, -1] * 256 + low_view[0, -1, -1]
            windows.append([top, left, bottom - top + 1, right - left + 1])
        assert windows == row["crops"], row
        # before the crop, the frame was resized to the recorded size
        resized = UMTVideoProcessor(num_frames=1, size={"shortest_edge": row["short_side_size"]}, do_center_crop=False)
        blank = np.zeros((1, *row["frame_size"], 3), np.uint8)
        assert list(resized(blank, return_tensors="np")["pixel_values_videos"].shape[-2:]) == row["resized"]
        seen += 1
    assert seen > 100


@pytest.mark.parametrize("kernel", RESIZE_KERNELS)
def test_the_resize_kernel_is_chosen_by_name(kernel):
    frames = moving_frames(4)
    expected = plain_views(frames, np.arange(4)[None], [(0, 7)], kernel)
    torch.testing.assert_close(pixels(frames, resize_kernel=kernel), expected, rtol=0, atol=1e-5)


def test_stage_2_resizes_to_a_square():
    frames = moving_frames(4)
    options = {"size": {"height": 32, "width": 32}, "resize_kernel": "bicubic_no_antialias"}
    resized = resize_frames(torch.from_numpy(frames).permute(0, 3, 1, 2), 32, 32, "bicubic_no_antialias")
    expected = ((resized.float() / 255 - MEAN) / STD)[None]
    torch.testing.assert_close(pixels(frames, **options), expected, rtol=0, atol=1e-5)


def test_resample_is_the_filter_of_the_antialiased_kernel():
    frames = moving_frames(4)
    cubic = pixels(frames, resample=3)
    assert not torch.equal(cubic, pixels(frames))
    assert torch.equal(
        cubic, UMTVideoProcessor(**SMALL, resample=3)(frames, return_tensors="pt")["pixel_values_videos"]
    )


def test_a_crop_that_is_not_square():
    values = pixels(moving_frames(4), crop_size={"height": 16, "width": 32})
    assert torch.equal(values, pixels(moving_frames(4))[..., 8:24, :])


def test_test_crops_smaller_than_the_short_side_are_centred_along_it():
    frames = moving_frames(4, 32, 46)
    values = pixels(frames, crop_size=16, num_crops=3)
    whole = pixels(frames, do_center_crop=False)[0]
    expected = [whole[..., 8:24, left : left + 16] for left in (0, 15, 30)]
    assert torch.equal(values, torch.stack(expected))


@pytest.mark.parametrize("shape", ["pt", "np", None])
def test_types_of_output(shape, clip):
    values = UMTVideoProcessor(**SMALL)([clip, clip], num_crops=3, return_tensors=shape)["pixel_values_videos"]
    assert isinstance(values, {"pt": torch.Tensor, "np": np.ndarray, None: list}[shape])
    assert len(values) == 6 and tuple(values[0].shape) == (4, 3, 32, 32)


def test_views_of_unequal_sizes_are_returned_as_a_list_or_rejected():
    videos = [moving_frames(4), moving_frames(4, 40, 40)]
    values = UMTVideoProcessor(**SMALL)(videos, do_center_crop=False)["pixel_values_videos"]
    assert [tuple(value.shape) for value in values] == [(4, 3, 32, 46), (4, 3, 32, 32)]
    with pytest.raises(
        ValueError, match=r"\(4, 3, 32, 46\) \(such as video 0\), \(4, 3, 32, 32\) \(such as video 1\)"
    ):
        pixels(videos, do_center_crop=False)


def test_frames_are_processed_on_the_device():
    frames = moving_frames(4)
    assert torch.equal(pixels(frames, device="cpu"), pixels(frames))
    assert pixels(frames, device="meta", resize_kernel="bicubic_no_antialias").device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", RESIZE_KERNELS)
def test_cuda_gives_the_same_pixels(kernel):
    frames = moving_frames(4)
    on_device = pixels(frames, device="cuda", resize_kernel=kernel)
    assert on_device.device.type == "cuda"
    # the integer kernel is exact; the others may differ by one grey level
    tolerance = 1e-5 if kernel == "opencv_bilinear" else 1.01 / 255 / 0.224
    torch.testing.assert_close(on_device.cpu(), pixels(frames, resize_kernel=kernel), rtol=0, atol=tolerance)


# --- scores of views ---


def test_fold_views_is_the_mean_of_probabilities():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folded = fold_views(logits, 3)
    for video in range(2):
        expected = sum(torch.softmax(logits[video * 3 + view], 0) for view in range(3)) / 3
        torch.testing.assert_close(folded[video], expected)
    assert fold_views(logits.bfloat16(), 3).dtype == torch.float32
    assert torch.equal(fold_views(logits, 1), logits.softmax(-1))
    for bad in (4, 0):
        with pytest.raises(ValueError, match=r"\(6, 5\) cannot be folded by num_views="):
            fold_views(logits, bad)


def test_recorded_merging_of_views(recorded):
    """The official merge of complete sets of views, in the order of the processor."""
    table, _ = recorded("multiview_merge")
    rows = {}
    for rank in table["rank_files"]:
        for row in rank:
            rows.setdefault(row["id"], {}).setdefault((row["chunk"], row["split"]), row["logits"])
    assert rows.keys() == table["expected"]["per_video"].keys()
    for name, views in rows.items():
        logits = torch.tensor([views[key] for key in sorted(views)], dtype=torch.float64)
        assert int(fold_views(logits, len(logits))[0].argmax()) == table["expected"]["per_video"][name]["pred"]


# --- broken videos and invalid options ---


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"this is not a video")
    return path


def test_a_broken_video_raises_an_error_that_names_it(broken, clip):
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        pixels([clip, broken])
    with pytest.raises(VideoDecodeError, match=r"missing\.mp4: the file does not exist"):
        pixels(broken.with_name("missing.mp4"))


def test_broken_videos_are_skipped_and_reported(broken, clip):
    image = broken.with_name("frame.png")
    image.write_bytes(b"\x89PNG\r\n\x1a\nnot an image")
    videos = [broken, clip, b"nor this", decode(clip), [str(image)] * 4]
    features = UMTVideoProcessor(**SMALL, on_error="skip")(videos, return_tensors="pt", return_metadata=True)
    assert torch.equal(features["pixel_values_videos"], torch.cat([pixels(clip)] * 2))
    assert features.video_indices == [1, 3]
    assert [index for index, _ in features.errors] == [0, 2, 4]
    assert "broken.mp4" in features.errors[0][1] and "frame.png" in features.errors[2][1]
    assert [view.video_index for view in features["video_metadata"]] == [1, 3]


def test_the_report_is_not_passed_to_the_model_and_survives_pickling(broken, clip):
    features = UMTVideoProcessor(**SMALL, on_error="skip")([broken, clip], return_tensors="pt")
    assert list(features) == ["pixel_values_videos"]
    for copy in (pickle.loads(pickle.dumps(features)), features.to(torch.bfloat16)):
        assert copy.errors == features.errors and copy.video_indices == [1]
    assert tiny_model()(**features.to(torch.float32)).logits.shape == (1, 3)


def test_a_batch_without_readable_videos_is_an_error(broken):
    with pytest.raises(
        VideoDecodeError, match=r"None of the 2 videos can be read; the first, .*broken\.mp4: it is not in"
    ):
        pixels([broken, broken.with_name("missing.mp4")], on_error="skip")


def test_a_batch_of_readable_videos_reports_no_errors(clip):
    features = UMTVideoProcessor(**SMALL)([clip, clip])
    assert features.errors == [] and features.video_indices == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_kernel": "nearest"}, "resize_kernel is 'nearest'; choose one of 'antialias', 'opencv_bilinear'"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; choose one of 'raise', 'skip'"),
        ({"sampling": "random"}, "sampling is 'random'; choose"),
        ({"sampling": "middle", "num_clips": 2}, "num_clips is 2"),
        ({"num_frames": 0}, "num_frames is 0; expected an integer of at least 1"),
        ({"num_clips": 0}, "num_clips is 0; expected an integer of at least 1"),
        ({"num_crops": True}, "num_crops is True; expected an integer"),
        ({"frame_stride": 3}, "frame_stride is 3, but sampling='sparse' has no stride"),
        ({"do_pad": True}, "do_pad is True"),
        ({"data_format": "channels_last"}, "data_format is 'channels_last'"),
        *[({"input_data_format": name}, f"input_data_format is '{name}'; choose") for name in ("NCHW", "first", "")],
        ({"num_crops": 1.5}, "num_crops is 1.5"),
        ({"fps": 2}, "fps is 2, but a clip has num_frames frames"),
        ({"num_clips": 2, "do_sample_frames": False}, "num_clips is 2, but do_sample_frames=False"),
        ({"num_crops": 3, "do_center_crop": False}, "num_crops is 3, but do_center_crop=False"),
    ],
)
def test_invalid_options_are_rejected_at_creation_and_in_a_call(options, message):
    with pytest.raises(ValueError, match=message):
        UMTVideoProcessor(**options)
    with pytest.raises(ValueError, match=message):
        pixels(moving_frames(4), **options)


@pytest.mark.parametrize(
    ("videos", "options", "message"),
    [
        ([], {}, "An empty list was given"),
        (7, {}, "Cannot read a video from int: '7'"),
        ([None], {}, "Cannot read a video from NoneType"),
        (np.zeros((4, 5), np.uint8), {}, r"the shape \(4, 5\); expected \(frames, height, width"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "zero frames"),
        (
            np.zeros((4, 8, 8, 5), np.uint8),
            {},
            r"Cannot infer the channel dimension .* \(4, 8, 8, 5\)",
        ),
        (np.zeros((4, 3, 8, 3), np.uint8), {}, "input_data_format='channels_first'"),
        (np.full((4, 8, 8, 3), 300), {}, "outside 0..255"),
        (np.zeros((4, 3, 8, 9), np.uint8), {"input_data_format": "channels_last"}, "then has 9 channels"),
        (np.zeros((4, 8, 9, 3), np.uint8), {"input_data_format": "channels_first"}, "then has 8 channels"),
        ({"video": "clip.mp4"}, {}, "Cannot read a video from dict"),
        (pd.DataFrame({"video": ["clip.mp4"]}), {}, "Cannot read a video from DataFrame"),
        ({"clip.mp4"}, {}, "Cannot read a video from set"),
        (
            [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)] * 2,
            {},
            r"one size.*\(8, 8, 3\), \(8, 9, 3\)",
        ),
        (np.zeros((4, 8, 8, 3), np.uint8), {"do_resize": False}, "crop of 32x32 does not fit frames of 8x8"),
        (np.zeros((4, 8, 8, 3), np.uint8), {"size": {"longest_edge": 9}}, "expected the key 'shortest_edge'"),
        (np.full((4, 8, 8, 3), 9.0), {"resize_kernel": "opencv_bilinear"}, "uint8 frames, these are torch.float32"),
        (np.zeros((4, 40, 40, 3), np.uint8), {"video_metadata": [{"fps": 1}] * 2}, "2 video_metadata .* 1 videos"),
    ],
)
def test_invalid_inputs_are_reported(videos, options, message):
    with pytest.raises(ValueError, match=message):
        pixels(videos, **options)


def test_unknown_options_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="no option num_frame;"):
        UMTVideoProcessor(num_frame=4)
    with pytest.raises(TypeError, match="num_frame"):
        pixels(moving_frames(4), num_frame=4)
    with pytest.raises(ValueError, match="resample is the filter"):
        pixels(moving_frames(4), resample=3, resize_kernel="opencv_bilinear")
    with pytest.raises(ValueError, match="fps is 3"):
        UMTVideoProcessor().sample_frames(metadata=VideoMetadata(total_num_frames=8, fps=4), fps=3)
    # of another version
    UMTVideoProcessor(num_frames=5).save_pretrained(tmp_path)
    path = tmp_path / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "option_of_tomorrow": 1}))
    assert AutoVideoProcessor.from_pretrained(tmp_path).num_frames == 5


@pytest.mark.parametrize("sampling", ["dense", "strided"])
def test_a_processor_with_a_stride_can_be_called_with_another_rule(sampling, clip):
    processor = UMTVideoProcessor(**SMALL, sampling=sampling, frame_stride=3)
    assert torch.equal(processor(clip, sampling="sparse", return_tensors="pt")["pixel_values_videos"], pixels(clip))


NUMPY_OPTIONS = {
    "num_frames": np.int64(6),
    "num_clips": np.int32(2),
    "num_crops": np.uint8(3),
    "size": {"shortest_edge": np.int64(40)},
    "crop_size": np.int64(36),
    "rescale_factor": np.float64(0.5),
    "do_normalize": np.bool_(True),
    "image_mean": np.array([0.5, 0.4, 0.3]),
}


def test_numbers_of_numpy_are_options(clip, tmp_path):
    plain = {
        name: value.tolist() if hasattr(value, "tolist") else {"shortest_edge": 40}
        for name, value in NUMPY_OPTIONS.items()
    }
    expected = pixels(clip, **plain)
    assert torch.equal(pixels(clip, **NUMPY_OPTIONS), expected)
    UMTVideoProcessor(**{**SMALL, **NUMPY_OPTIONS}).save_pretrained(tmp_path)
    loaded = UMTVideoProcessor.from_pretrained(tmp_path)
    assert torch.equal(loaded(clip, return_tensors="pt")["pixel_values_videos"], expected)


@pytest.mark.parametrize("shape", [lambda x: x, lambda x: [[entry] for entry in x], lambda x: [x]])
def test_metadata_may_be_nested_as_videos_are(shape):
    entries = [{"total_num_frames": 8, "fps": 4.0}, {"total_num_frames": 8, "fps": 2.0}]
    features = UMTVideoProcessor(**SMALL)(
        [moving_frames(8)] * 2, video_metadata=shape(entries), return_metadata=True, return_tensors="pt"
    )
    assert [view.fps for view in features["video_metadata"]] == [4.0, 2.0]


def test_an_ambiguous_layout_can_be_specified():
    frames = moving_frames(4, 3, 8)
    first = pixels(frames, input_data_format="channels_last", do_resize=False, do_center_crop=False)
    assert first.shape == (1, 4, 3, 3, 8)


def test_frames_with_values_from_0_to_1_cause_a_warning():
    with pytest.warns(UserWarning, match="rescaled again"):
        pixels(np.full((4, 40, 40, 3), 0.5))


# --- integration with Transformers ---

OVERRIDES = {
    "num_frames": 6,
    "sampling": "dense",
    "frame_stride": 3,
    "num_clips": 4,
    "num_crops": 3,
    "resize_kernel": "opencv_bilinear",
    "on_error": "skip",
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 36, "width": 36},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "do_sample_frames": True,
}


@pytest.mark.parametrize("loader", [UMTVideoProcessor, AutoVideoProcessor])
def test_saving_and_loading(loader, tmp_path, clip):
    processor = UMTVideoProcessor(**OVERRIDES)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    for name in ("num_frames", "sampling", "frame_stride", "num_clips", "num_crops", "resize_kernel", "on_error"):
        assert saved[name] == OVERRIDES[name]
    assert saved["auto_map"] == {"AutoVideoProcessor": "video_processing_umt.UMTVideoProcessor"}
    loaded = loader.from_pretrained(tmp_path, trust_remote_code=False)
    assert type(loaded) is UMTVideoProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.default_to_square is False
    before, after = processor(clip, return_tensors="pt"), loaded(clip, return_tensors="pt")
    assert before["pixel_values_videos"].shape == (12, 6, 3, 36, 36)
    assert torch.equal(before["pixel_values_videos"], after["pixel_values_videos"])
    assert loader.from_pretrained(tmp_path, num_clips=1).num_clips == 1


def test_defaults_survive_saving(tmp_path, clip):
    UMTVideoProcessor().save_pretrained(tmp_path)
    loaded = UMTVideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**UMTVideoProcessor().to_dict(), "auto_map": loaded.auto_map}
    assert dict(loaded.size) == {"shortest_edge": 224}
    assert dict(UMTVideoProcessor(size=96).size) == {"shortest_edge": 96}


def tiny_model(num_frames: int = 4) -> UMTForVideoClassification:
    torch.manual_seed(0)
    config = UMTConfig(
        image_size=32,
        num_frames=num_frames,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_aligned_layers=1,
        id2label={0: "arm wrestling", 1: "archery", 2: "bowling"},
        label2id={"arm wrestling": 0, "archery": 1, "bowling": 2},
    )
    return UMTForVideoClassification(config).eval()


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    tiny_model().save_pretrained(folder)
    UMTVideoProcessor(**SMALL).save_pretrained(folder)
    return folder


def test_the_processor_is_found_through_the_configuration(tmp_path):
    """A repository whose processor file does not name a class, as written by other tools."""
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"num_frames": 5}))
    processor = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(processor) is UMTVideoProcessor and processor.num_frames == 5


@pytest.mark.parametrize("kind", ["str", "array", "list", "frames"])
def test_pipeline(kind, repository, clip):
    classify = pipeline("video-classification", model=str(repository))
    video = {"str": str(clip), "array": decode(clip), "list": [str(clip)] * 2, "frames": [[*decode(clip)]]}[kind]
    answers = classify(video, top_k=3)
    answers = answers if isinstance(answers[0], list) else [answers]
    assert len(answers) == (2 if kind == "list" else 1)
    with torch.no_grad():
        expected = tiny_model()(pixel_values_videos=pixels(clip)).logits.softmax(-1)[0]
    for answer in answers:
        scores = {entry["label"]: entry["score"] for entry in answer}
        np.testing.assert_allclose(
            [scores[name] for name in ("arm wrestling", "archery", "bowling")], expected, rtol=1e-5
        )


@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_pipeline_takes_any_number_of_frames(num_frames, repository, clip):
    classify = pipeline("video-classification", model=str(repository))
    assert len(classify(str(clip), num_frames=num_frames)) == 3


@pytest.mark.parametrize("views", [{"num_clips": 4}, {"num_crops": 3}, {"num_clips": 2, "num_crops": 3}])
def test_pipeline_and_trainer_average_the_views(views, clip, tall_clip, tmp_path):
    """As `fold_views` does for the views of the processor, which are not grouped."""
    model, processor = tiny_model(), UMTVideoProcessor(**SMALL, **views)
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    videos, num_views = [str(clip), str(tall_clip)], math.prod(views.values())
    inputs = processor(videos, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (2 * num_views, 4, 3, 32, 32)
    with torch.no_grad():
        expected = fold_views(model(**inputs).logits, num_views)
    for classify in (
        pipeline("video-classification", model=str(tmp_path)),
        pipeline("video-classification", model=model, video_processor=processor),
    ):
        for answer, row in zip(classify(videos, top_k=3), expected, strict=True):
            scores = {entry["label"]: entry["score"] for entry in answer}
            names = [model.config.id2label[index] for index in range(3)]
            np.testing.assert_allclose([scores[name] for name in names], row, rtol=1e-4)
    examples = [processor(video, return_tensors="pt") for video in videos]
    arguments = TrainingArguments(output_dir=tmp_path / "run", report_to="none", use_cpu=True)
    predictions = Trainer(model, arguments).predict(examples).predictions
    np.testing.assert_allclose(torch.from_numpy(predictions).softmax(dim=-1), expected, rtol=1e-4)


def test_remote_code(repository, clip, tmp_path):
    """A saved repository works without the packages of this project."""
    names = {path.name for path in repository.glob("*.py")}
    assert {"video_processing_umt.py", "video_decoding_umt.py", "frame_sampling_umt.py", "resize_umt.py"} <= names
    script = f"""
import sys
from transformers import AutoVideoProcessor, pipeline
processor = AutoVideoProcessor.from_pretrained({str(repository)!r}, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
print(float(processor({str(clip)!r}, return_tensors="pt", num_clips=2)["pixel_values_videos"].double().sum()))
classify = pipeline("video-classification", model={str(repository)!r}, trust_remote_code=True)
print(classify({str(clip)!r}, top_k=1)[0]["score"])
classify.video_processor.num_clips = 3
print(classify({str(clip)!r}, top_k=1)[0]["score"])
"""
    outcome = run_clean(script, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    total, score, mean_score = map(float, outcome.stdout.split())
    assert total == pytest.approx(float(pixels(clip, num_clips=2).double().sum()))
    with torch.no_grad():
        assert score == pytest.approx(float(tiny_model()(pixels(clip)).logits.softmax(-1).max()), rel=1e-5)
        mean = fold_views(tiny_model()(pixels(clip, num_clips=3)).logits, 3)
    assert mean_score == pytest.approx(float(mean.max()), rel=1e-5)
