"""Frame indices and crop positions: all recorded tables of the official code, and properties for any length."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processing_umt import crop_positions_umt as crops
from processing_umt.frame_sampling_umt import SAMPLING_RULES, sample_clips, sample_training_clip, trimmed_length

# Recorded modes of the official readers that no published recipe uses and that are not implemented here.
LEFT_OUT = {
    ("kinetics_dense", "validation"): "ends where it should start and wraps around",
    ("kinetics_dense", "test, one segment"): "divides by zero; here the centred window",
    ("ssv2_rawframe", "any"): "the reader of raw frames",
    ("stage1_pretrain", "num_segments 1"): "one segment with a stride",
    ("multi", "fix_start"): "may run past the end of the video",
    ("multi", "fps"): "returns a varying number of frames",
}

lengths = st.integers(1, 2000)
counts = st.integers(1, 40)
strides = st.integers(1, 9)


def test_only_the_left_out_modes_are_not_checked(recorded):
    """The recorded files contain only what the tests below check and what `LEFT_OUT` lists."""
    single, multi = recorded("frame_indices_single")[0], recorded("frame_indices_multi")[0]
    assert set(single["samplers"]) == {
        "kinetics_sparse", "kinetics_dense", "ssv2_video", "ssv2_rawframe", "stage1_pretrain",
    }  # fmt: skip
    for name in ("kinetics_sparse", "kinetics_dense", "ssv2_video"):
        assert {row["mode"] for row in single["samplers"][name]["table"]} == {"train", "validation", "test"}
    assert {row["num_segments"] for row in single["samplers"]["stage1_pretrain"]["table"]} == {1, 4, 8}
    assert {row["sample"] for row in multi["interval_table"]} == {"middle", "rand"}
    assert {row["sample"][:3] for row in multi["fps_table"]} == {"fps"}
    assert len(LEFT_OUT) == 6


def test_recorded_test_views(recorded):
    tables = {name: sampler["table"] for name, sampler in recorded("frame_indices_single")[0]["samplers"].items()}
    checked = 0
    for name, family in (("kinetics_sparse", "sparse"), ("kinetics_dense", "dense"), ("ssv2_video", "segments")):
        for row in tables[name]:
            if row["mode"] == "train" or (name, row["mode"]) in LEFT_OUT:
                continue
            views = row.get("test_num_segment", 1)  # the validation clip is a single view
            clips = sample_clips(row["length"], row["frames"], family, views, row.get("sampling_rate", 1))
            assert clips.shape == (views, row["frames"])
            assert clips[row.get("chunk", 0)].tolist() == row["index"], row
            checked += 1
    assert checked == 360 + 600 + 180


# the sampler of `mvd_frame_indices` and the rules of its test views and training clips
MVD_RULES = {"pretrain": (None, "strided"), "k400": ("strided", "dense"), "ssv2": ("uniform", "uniform")}


def test_recorded_test_views_of_mvd(recorded):
    samplers = recorded("mvd_frame_indices")[0]["samplers"]
    assert samplers.keys() == MVD_RULES.keys()
    checked = 0
    for name, sampler in samplers.items():
        for row in sampler["table"]:
            if row.get("mode") != "test":
                continue
            rule, views = MVD_RULES[name][0], row["test_num_segment"]
            clips = sample_clips(row["length"], row["frames"], rule, views, row.get("sampling_rate", 1))
            assert clips.shape == (views, row["frames"])
            assert clips[row["chunk"]].tolist() == row["index"], row
            checked += 1
    assert checked == 13 * 5 + 13 * 2


def test_recorded_windows_of_everest(recorded):
    """Pre-training clips for a given offset: the official range of offsets, and the frames from each."""
    cases = recorded("everest_frame_indices")[0]["cases"]
    assert len(cases) == 33
    for case in cases:
        generator = Offset(case["draw"], case["draw_below"])
        clip = sample_training_clip(case["video_frames"], case["frames"], "strided", generator, case["stride"])
        assert clip.tolist() == case["frame_ids"], case
        assert generator.used == (case["draw"] is not None)


class Offset:
    """A generator that returns one given integer, for the range that it is given with only."""

    def __init__(self, value, below):
        self.value, self.below, self.used = value, below, False

    def integers(self, high, endpoint=False):
        assert high + endpoint == self.below
        self.used = True
        return self.value


def test_recorded_middle_frames(recorded):
    rows = [row for row in recorded("frame_indices_multi")[0]["interval_table"] if row["sample"] == "middle"]
    rows = [row for row in rows if "fix_start" not in row]
    assert len(rows) == 60
    for row in rows:
        assert sample_clips(row["length"], row["frames"], "middle").tolist() == [row["index"]], row


def training_tables(recorded):
    tables = {name: sampler["table"] for name, sampler in recorded("frame_indices_single")[0]["samplers"].items()}
    yield "sparse", [row for row in tables["kinetics_sparse"] if row["mode"] == "train"]
    yield "dense", [row for row in tables["kinetics_dense"] if row["mode"] == "train"]
    yield "segments", [row for row in tables["ssv2_video"] if row["mode"] == "train"]
    yield "segments", [row for row in tables["stage1_pretrain"] if row["num_segments"] > 1]
    yield "middle", [row for row in recorded("frame_indices_multi")[0]["interval_table"] if row["sample"] == "rand"]
    for name, sampler in recorded("mvd_frame_indices")[0]["samplers"].items():
        yield MVD_RULES[name][1], [row for row in sampler["table"] if row.get("mode") != "test"]


class Extreme:
    """A generator that always returns the lowest or the highest possible value."""

    def __init__(self, highest: bool):
        self.highest = highest

    def integers(self, low, high=None, size=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        low, high = np.asarray(low), np.asarray(high) - (not endpoint)
        assert (low <= high).all(), "empty range"
        return np.broadcast_to(high if self.highest else low, size or np.broadcast_shapes(low.shape, high.shape))

    def permutation(self, count):
        return np.arange(count)[::-1] if self.highest else np.arange(count)


def test_recorded_bounds_of_training_clips(recorded):
    """The lowest and highest samples equal the recorded ones: samples stay within bounds and reach them."""
    checked = 0
    for family, rows in training_tables(recorded):
        for row in rows:
            frames = row.get("frames", row.get("num_frames"))
            for bound in ("min", "max"):
                generator = Extreme(highest=bound == "max")
                clip = sample_training_clip(row["length"], frames, family, generator, row.get("sampling_rate", 1))
                assert clip.tolist() == row[bound], (family, bound, row)
            checked += 1
    assert checked == 60 + 120 + 60 + 24 + 60 + 3 * 13


def test_training_clips_reach_their_bounds_with_a_real_generator(recorded):
    """Hundreds of samples of a seeded generator stay within the recorded bounds and reach both."""
    generator = np.random.default_rng(0)
    for family, rows in training_tables(recorded):
        for row in rows:
            if row["length"] > 30 or row.get("frames", 8) != 8 or row.get("num_frames", 8) != 8:
                continue
            stride = row.get("sampling_rate", 1)
            clips = np.stack([sample_training_clip(row["length"], 8, family, generator, stride) for _ in range(400)])
            low, high = clips.min(0), clips.max(0)
            assert (low >= row["min"]).all() and (high <= row["max"]).all(), (family, row)
            if not row.get("fallback"):  # the extremes of a sorted subset are rare
                assert low.tolist() == row["min"] and high.tolist() == row["max"], (family, row)


def check_clip(clip, length, frames):
    assert clip.dtype == np.int64 and clip.shape == (frames,)
    assert clip.min() >= 0 and clip.max() < length
    assert (np.diff(clip) >= 0).all()


@given(lengths, counts, st.sampled_from(SAMPLING_RULES), st.integers(1, 12), strides)
def test_views_of_any_length(length, frames, family, views, stride):
    views = {"middle": 1, "segments": min(views, 2)}.get(family, views)
    clips = sample_clips(length, frames, family, views, stride)
    assert clips.shape == (views, frames)
    for clip in clips:
        check_clip(clip, length, frames)
    if family in ("dense", "strided") and length >= frames * stride:
        assert (np.diff(clips, axis=1) == stride).all()
    if family == "strided":
        assert (clips % stride == 0).all()
        assert views == 1 or clips[-1, -1] == (length - 1) // stride * stride
    if family == "uniform" and length > frames * views:  # every view has a frame of each segment, and none twice
        assert len(np.unique(clips)) == frames * views
    assert (np.diff(clips, axis=0) >= 0).all()  # later views start later


@given(lengths, counts, st.sampled_from(SAMPLING_RULES), strides, st.integers(0, 2**32 - 1))
def test_training_clips_of_any_length(length, frames, family, stride, seed):
    clip = sample_training_clip(length, frames, family, np.random.default_rng(seed), stride)
    check_clip(clip, length, frames)
    assert clip.tolist() == sample_training_clip(length, frames, family, np.random.default_rng(seed), stride).tolist()
    if family == "middle" and length >= frames:
        assert len(set(clip.tolist())) == frames


@given(lengths, counts, strides)
def test_a_strided_training_clip_is_any_window_of_the_video(length, frames, stride):
    first = sample_training_clip(length, frames, "strided", Extreme(highest=False), stride)
    last = sample_training_clip(length, frames, "strided", Extreme(highest=True), stride)
    if length < frames * stride:  # no choice, and neighbours at the stride until the clip stops at a frame
        assert first.tolist() == last.tolist()
        assert set(np.diff(first)) <= {0, stride} and (np.diff(first, n=2) <= 0).all()
    else:
        assert (np.diff(first) == stride).all()
        assert (first[0], (last - first).tolist()) == (0, [length - frames * stride] * frames)


def test_one_view_is_centred():
    assert sample_clips(100, 8, "dense", 1, 4).tolist() == [list(range(34, 66, 4))]
    assert sample_clips(100, 8, "strided", 1, 4).tolist() == [list(range(32, 64, 4))]
    assert sample_clips(81, 8, "uniform", 1).tolist() == [list(range(5, 81, 10))]


def test_more_views_of_uniform_are_thirds_of_the_segments():
    assert sample_clips(61, 2, "uniform", 3).tolist() == [[5, 35], [15, 45], [25, 55]]


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 8),
        (-3, 8),
        (10, 0),
        (10, 8, "random"),
        (10, 8, "sparse", 0),
        (10, 8, "middle", 2),
        (10, 8, "segments", 3),
        (10, 8, "dense", 1, 0),
        (10, 8, "strided", 0, 4),
    ],
)
def test_invalid_views_are_rejected(arguments):
    with pytest.raises(ValueError, match=r"num_|sampling|frame"):
        sample_clips(*arguments)


@pytest.mark.parametrize("arguments", [(0, 8, "sparse"), (10, 0, "sparse"), (10, 8, "random"), (10, 8, "strided", 0)])
def test_invalid_training_clips_are_rejected(arguments):
    length, frames, family, *stride = arguments
    with pytest.raises(ValueError, match=r"num_|sampling|frame"):
        sample_training_clip(length, frames, family, np.random.default_rng(0), *stride)


def test_trimmed_length():
    assert trimmed_length(900, 30.0) == 900  # exactly 30 s is not cut
    assert trimmed_length(901, 30.0) == 900
    assert trimmed_length(1000, 29.97) == int(30 * 29.97)
    assert trimmed_length(50, 1.0, seconds=10) == 10
    assert trimmed_length(100, 0.01) == 1
    with pytest.raises(ValueError, match="positive"):
        trimmed_length(100, 0.0)


@given(lengths, st.floats(0.1, 120), st.floats(0.5, 60))
def test_trimmed_length_of_any_video(length, fps, seconds):
    trimmed = trimmed_length(length, fps, seconds)
    assert 1 <= trimmed <= length
    assert trimmed == length or math.isclose(trimmed / fps, seconds, abs_tol=1 / fps)


def test_recorded_crops(recorded):
    rows = recorded("crop_positions")[0]["crops"]
    checked = 0
    for row in rows:
        resized = crops.resized_size(*row["frame_size"], row["short_side_size"])
        assert list(resized) == row["resized"], row
        if str(row["crops"][0]).startswith("error"):  # one crop of the Something-Something readers divides by zero
            assert row["sampler"].startswith("ssv2") and row["test_num_crop"] == 1
            continue
        size = row["crops"][0][2]
        if row["mode"] == "validation":
            windows = [crops.center_crop(*resized, size)]
        else:
            windows = crops.test_crops(*resized, size, row["test_num_crop"])
        assert [[top, left, size, size] for top, left in windows] == row["crops"], row
        checked += 1
    assert checked == len(rows) - 24


def test_recorded_multi_scale_crops(recorded):
    rows = recorded("crop_positions")[0]["multi_scale_crop"]
    assert len(rows) == 6
    for row in rows:
        height, width = row["frame_size"]
        sizes = crops.multi_scale_crop_sizes(height, width, row["input_size"], tuple(row["scales"]))
        assert [[w, h] for h, w in sizes] == row["crop_sizes_wh"]
        for h, w in sizes:
            positions = crops.multi_scale_crop_positions(height, width, h, w)
            assert [[left, top] for top, left in positions] == row["offsets_wh"][f"{w}x{h}"]


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 400), st.integers(1, 9))
def test_crops_lie_in_the_frame(height, width, size, num_crops):
    resized = crops.resized_size(height, width, size)
    assert min(resized) == size
    windows = crops.test_crops(*resized, size, num_crops)
    assert len(windows) == num_crops
    for top, left in [*windows, crops.center_crop(*resized, size)]:
        assert 0 <= top <= resized[0] - size and 0 <= left <= resized[1] - size
    if num_crops > 1:
        assert windows[0] == (0, 0) and windows[-1] == (resized[0] - size, resized[1] - size)


@given(st.integers(16, 700), st.integers(16, 700), st.integers(0, 2**32 - 1))
@example(223, 222, 0)
@settings(max_examples=50)
def test_multi_scale_crops_lie_in_the_frame(height, width, seed):
    window = crops.random_multi_scale_crop(height, width, np.random.default_rng(seed))
    assert window == crops.random_multi_scale_crop(height, width, np.random.default_rng(seed))
    top, left, h, w = window
    assert top >= 0 and left >= 0 and h >= 1 and w >= 1
    assert top + h <= height and left + w <= width


@pytest.mark.parametrize(
    "call",
    [
        lambda: crops.center_crop(100, 300, 224),
        lambda: crops.test_crops(300, 223, 224, 3),
        lambda: crops.test_crops(224, 224, 224, 0),
        lambda: crops.resized_size(0, 10, 224),
        lambda: crops.resized_size(10, 10, 0),
        lambda: crops.multi_scale_crop_sizes(0, 10),
    ],
)
def test_invalid_crops_are_rejected(call):
    with pytest.raises(ValueError, match=r"crop|expected"):
        call()
