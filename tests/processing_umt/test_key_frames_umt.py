"""Clips around a key frame: the recorded window, the same times at any frame rate, and the processor's calls."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import load_recorded
from transformers import AutoVideoProcessor
from video_files import write_noise

from modeling_umt import UMTConfig, UMTForActionDetection
from processing_umt import UMTVideoProcessor
from processing_umt.frame_sampling_umt import nearest_frames, sample_clips, sample_key_frame

WINDOW = np.array([-29, -21, -13, -5, 3, 11, 19, 27])
SMALL = {"sampling": "key_frame", "size": {"shortest_edge": 32}, "do_center_crop": False}


def frames_of(processor: UMTVideoProcessor, video, **options) -> list[list[int]]:
    inputs = processor(video, return_metadata=True, return_tensors="pt", **options)
    return [metadata.frames_indices for metadata in inputs["video_metadata"]]


# --- index arithmetic -----------------------------------------------------------------------------------------------


def test_recorded_windows():
    """Those with `sparse`, which all published models use; the key frame of L frames is frame L // 2."""
    rows = [row for row in load_recorded("ava_tables")[0]["temporal_crop"]["table"] if row["sparse"]]
    assert len(rows) == 15
    for row in rows:
        length, times = row["raw_frames"], np.arange(row["raw_frames"]) / 25
        arguments = length // 2, times, row["frame_num"], row["sample_rate"]
        assert sample_key_frame(*arguments).tolist() == row["index"], row
        assert sample_key_frame(*arguments, sampling_fps=None).tolist() == row["index"], row


@given(key=st.integers(0, 500), length=st.integers(1, 600), count=st.integers(1, 20), stride=st.integers(1, 12))
def test_frames_of_the_trained_rate_are_those_of_the_stride(key, length, count, stride):
    key = min(key, length - 1)
    offsets = np.arange(count) * stride - count * stride // 2 + (stride - 1) // 2
    expected = np.clip(key + offsets, 0, length - 1)
    assert sample_key_frame(key, np.arange(length) / 25, count, stride).tolist() == expected.tolist()
    # a rate twice as high has the same times at twice the index
    doubled = sample_key_frame(2 * key, np.arange(2 * length) / 50, count, stride)
    assert doubled.tolist() == np.clip(2 * (key + offsets), 0, 2 * length - 1).tolist()


@given(key=st.integers(0, 400), rate=st.floats(1, 240), start=st.floats(-5, 1e5))
def test_no_frame_is_nearer_to_the_trained_times(key, rate, start):
    times = start + np.arange(401) / rate
    indices = sample_key_frame(key, times, 8)
    wanted = times[key] + WINDOW / 25
    distances = np.abs(times[:, None] - wanted)
    assert (distances[indices, np.arange(8)] <= distances.min(axis=0) + 2e-6).all()
    assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize("rate", [10, 15, 23.976, 24, 29.97, 30, 50, 59.94, 60, 120])
def test_usual_rates_take_the_rounded_index(rate):
    times = np.arange(1000) / rate
    assert sample_key_frame(500, times, 8).tolist() == (500 + np.round(WINDOW * rate / 25)).astype(int).tolist()


def test_variable_frame_rates_are_sampled_by_time():
    times = np.concatenate([np.arange(50) / 50, 1 + np.arange(10) / 10])  # 50 and then 10 frames per second
    assert sample_key_frame(50, times, 8).tolist() == [0, 8, 24, 40, 51, 54, 58, 59]


def test_the_nearest_frame_is_the_earlier_of_two():
    times = np.arange(10) / 10
    assert nearest_frames([0.25, 0.2500011, 0.31, -3, 99, 0.9], times).tolist() == [2, 3, 3, 0, 9, 9]
    assert nearest_frames([-1, 0, 5], np.array([0.0])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((5, np.arange(5), 8), "key frame is 5, but the video has the frames 0 to 4"),
        ((-1, np.arange(5), 8), "key frame is -1"),
        ((0, np.arange(5), 8, 0), "frame_stride is 0"),
        ((0, np.arange(5), 0), "num_frames is 0"),
        ((0, np.arange(5), 8, 8, 0), "sampling_fps is 0"),
        ((0, np.arange(0), 8), "0 frames"),
    ],
)
def test_impossible_clips_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_key_frame(*arguments)


def test_the_rules_without_a_key_frame_refuse_this_one():
    with pytest.raises(ValueError, match=r'"key_frame", .*: use sample_key_frame'):
        sample_clips(10, 8, sampling="key_frame")


# --- the processor --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[int, str]:
    """Eight seconds at several rates: the same pictures at the same times, noise of 10 per second."""
    folder = tmp_path_factory.mktemp("videos")
    return {rate: str(write_noise(folder / f"{rate}.mp4", 0, 4 * rate, rate)) for rate in (10, 25, 50)}


def test_a_file_is_sampled_around_a_frame_or_a_second(videos):
    processor = UMTVideoProcessor(**SMALL)
    assert (processor.num_frames, processor.frame_stride, processor.sampling_fps) == (8, 8, 25)
    assert frames_of(processor, videos[25], key_frames=[50]) == [(50 + WINDOW).tolist()]
    for rate in (10, 25, 50):
        expected = np.clip(2 * rate + np.ceil(WINDOW * rate / 25 - 0.5), 0, 4 * rate - 1).astype(int).tolist()
        assert frames_of(processor, videos[rate], key_times=[2.0]) == [expected]
        assert frames_of(processor, videos[rate], key_frames=[2 * rate]) == [expected]
        last = [4 * rate - 1]
        assert frames_of(processor, videos[rate], key_frames=last)[0][-3:] == last * 3
    mixed = frames_of(processor, [videos[50], videos[10]], key_times=np.array([1.0, 3]), size_divisor=16)
    assert mixed[0] == np.clip(50 + 2 * WINDOW, 0, 199).tolist() and len(mixed) == 2
    pixels = processor(videos[25], key_frames=[50], return_tensors="pt")["pixel_values_videos"]
    plain = UMTVideoProcessor(size=SMALL["size"], do_center_crop=False, do_sample_frames=False)
    assert torch.equal(pixels[0], plain(videos[25], return_tensors="pt")["pixel_values_videos"][0, 50 + WINDOW])


def test_strides_count_frames_without_a_rate(videos):
    processor = UMTVideoProcessor(**SMALL, sampling_fps=None, frame_stride=2)
    offsets = 2 * np.arange(8) - 8
    for rate in (10, 50):
        assert frames_of(processor, videos[rate], key_frames=[20]) == [(20 + offsets).tolist()]
    by_rate = UMTVideoProcessor(**SMALL, frame_stride=2)
    assert frames_of(by_rate, videos[50], key_frames=[20], sampling_fps=None) == [(20 + offsets).tolist()]
    assert frames_of(by_rate, videos[50], key_frames=[40]) == [(40 + 2 * offsets).tolist()]


def test_another_processor_becomes_one_of_key_frames_in_a_call(videos):
    processor = UMTVideoProcessor(size=SMALL["size"], do_center_crop=False)
    called = frames_of(processor, videos[25], sampling="key_frame", key_frames=[50])
    assert called == [(50 + WINDOW).tolist()] and processor.sampling == "sparse" and processor.frame_stride == 1


def test_frames_in_memory_have_no_rate_unless_one_is_given():
    processor, frames = UMTVideoProcessor(**SMALL), np.zeros((200, 32, 40, 3), dtype=np.uint8)
    assert frames_of(processor, frames, key_frames=[100]) == [(100 + WINDOW).tolist()]
    rate = [{"fps": 50}]
    assert frames_of(processor, frames, key_frames=[100], video_metadata=rate) == [(100 + 2 * WINDOW).tolist()]
    assert frames_of(processor, frames, key_times=[2], video_metadata=rate) == [(100 + 2 * WINDOW).tolist()]
    with pytest.raises(ValueError, match=r"key time of video 0 is 2.0 s, but frames in memory have no times; .*fps"):
        processor(frames, key_times=[2.0])


def test_a_clip_in_memory_is_not_sampled():
    clip = np.zeros((8, 32, 40, 3), dtype=np.uint8)
    assert frames_of(UMTVideoProcessor(**SMALL), clip) == [list(range(8))]
    pair = frames_of(UMTVideoProcessor(**SMALL), [clip, np.zeros((90, 32, 40, 3), np.uint8)], key_frames=[None, 50])
    assert pair == [list(range(8)), (50 + WINDOW).tolist()]


WRONG = {
    "none": ({}, r"needs the key frame of each video: key_frames=\[\.\.\.\], or key_times"),
    "both": ({"key_frames": [1], "key_times": [1.0]}, "key_frames and key_times were given"),
    "number": ({"key_frames": 3}, "key_frames is 3, but there are 1 videos"),
    "two": ({"key_times": [1, 2]}, r"key_times is \[1, 2\], but there are 1 videos"),
    "fraction": ({"key_frames": [1.5]}, "key_frames contains 1.5 for video 0; .* Seconds are key_times"),
    "word": ({"key_times": ["start"]}, "key_times contains 'start' for video 0; expected seconds"),
    "nan": ({"key_times": [float("nan")]}, "key_times contains nan for video 0"),
    "after the end": ({"key_times": [4.5]}, "key time of video 0 is 4.5 s, but the video lasts from 0 to 4.00 s"),
    "AVA's time": ({"key_times": [902]}, "key time of video 0 is 902.0 s, but"),
    "negative": ({"key_times": [-0.1]}, "key time of video 0 is -0.1 s"),
    "no such frame": ({"key_frames": [100]}, "key frame of video 0 is 100, but the video has the frames 0 to 99"),
    "other rule": ({"key_frames": [3], "sampling": "dense"}, "no effect on 'dense'"),
    "all frames": ({"key_frames": [3], "do_sample_frames": False}, "no effect on do_sample_frames=False"),
    "clips": ({"key_frames": [3], "num_clips": 2}, "num_clips is 2.*one clip per key frame"),
    "rate": ({"key_frames": [3], "sampling_fps": -1}, "sampling_fps is -1; expected frames per second above 0"),
    "rate of another rule": ({"sampling": "sparse", "sampling_fps": 10}, "sampling_fps is 10, but is the rate of"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_calls_without_a_meaning_are_refused(wrong, videos):
    options, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        UMTVideoProcessor(**SMALL)(videos[25], return_tensors="pt", **options)


def test_the_saved_rule_is_the_loaded_one(tmp_path):
    config = UMTConfig(num_frames=8, image_size=224)
    for rate in (25, 12.5, None):
        processor = UMTVideoProcessor.for_action_detection(config)
        processor.sampling_fps = rate
        processor.save_pretrained(tmp_path)
        assert AutoVideoProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
        assert AutoVideoProcessor.from_pretrained(tmp_path).sampling_fps == rate


def test_the_processor_of_a_detection_model_follows_from_its_configuration(tmp_path):
    processor = UMTVideoProcessor.for_action_detection(UMTConfig())
    assert processor.size == {"shortest_edge": 256} and not processor.do_center_crop
    assert (processor.sampling, processor.frame_stride, processor.sampling_fps) == ("key_frame", 8, 25)
    assert (processor.resize_kernel, processor.size_divisor) == ("opencv_bilinear", 16)
    assert processor.box_extension == [0.1, 0.05] and list(processor.image_std) == [0.225] * 3
    np.testing.assert_allclose(processor.image_mean, [0.4814576, 0.4546922, 0.4038435], atol=1e-7)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    UMTForActionDetection(UMTConfig(**sizes)).save_pretrained(tmp_path)
    of_folder = UMTVideoProcessor.for_config(UMTConfig.from_pretrained(tmp_path))
    assert of_folder.to_dict() == processor.to_dict()
    wide = UMTVideoProcessor.for_action_detection(UMTConfig(image_size=[112, 224], num_frames=4))
    assert wide.size == {"shortest_edge": 128} and wide.num_frames == 4


def test_videos_of_several_sizes_and_their_boxes_are_inputs_of_the_model(videos):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = UMTConfig(**sizes, image_size=32, position_grid=[8, 2, 2], num_labels=3)
    model, processor = UMTForActionDetection(config), UMTVideoProcessor.for_action_detection(config)
    frames = np.zeros((90, 50, 40, 3), dtype=np.uint8)
    boxes = [[[10, 10, 30, 40], [4, 4, 20, 20]], [[1, 1, 39, 49]]]
    inputs = processor([videos[25], frames], key_frames=[25, 45], boxes=boxes, return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (2, 8, 3, 48, 48)
    with torch.no_grad():
        results = processor.post_process_action_detection(model(**inputs), boxes, threshold=0)
    assert [len(result["scores"]) for result in results] == [6, 3]
