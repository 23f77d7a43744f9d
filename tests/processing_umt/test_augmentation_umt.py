"""Clip transforms and batch mixing: recorded values of the official code, geometry for any frame, distributions."""

import inspect
import math

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from processing_umt import augmentation_umt as augmentation
from processing_umt import mixup_umt as mixup
from processing_umt import randaugment_umt as randaugment
from processing_umt.augmentation_umt import (
    augment_for_finetuning,
    augment_for_masked_modeling,
    augment_for_pretraining,
    augment_for_video_text,
    draw_erasing_box,
    draw_multi_scale_box,
    draw_resized_crop_box,
    erasing_size,
    random_erasing,
    random_flip,
    sample_generator,
)
from processing_umt.mixup_umt import Mix, cutmix_box, draw_mix, mix_batch, mix_clips, mix_targets, smooth_targets
from processing_umt.randaugment_umt import RAND_AUGMENT_OPS, apply_op, draw_rand_augment, op_argument, rand_augment

TRANSFORMS = {
    "pretraining": augment_for_pretraining,
    "video_text": augment_for_video_text,
    "finetuning": augment_for_finetuning,
}
MEAN = torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1)
STD = torch.tensor(IMAGENET_DEFAULT_STD).view(3, 1, 1)

frame_sides = st.integers(1, 400)
seeds = st.integers(0, 2**32 - 1)


def natural_frames(frames: int = 3, height: int = 60, width: int = 84) -> np.ndarray:
    """uint8 `(frames, height, width, 3)`: smooth colours with some noise, every frame different."""
    generator = np.random.default_rng(5)
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = [np.sin(x / 9 + t), np.cos(y / 7 - t), np.sin((x + y) / 11 + 2 * t)]
    return np.clip(128 + 90 * np.stack(waves, -1) + generator.normal(0, 12, (*t.shape, 3)), 0, 255).astype(np.uint8)


# random generator of a sample


def test_sample_generator_is_a_function_of_its_arguments():
    first = sample_generator(3, 1, 4).random(8)
    assert np.array_equal(first, sample_generator(3, 1, 4).random(8))
    others = [(4, 1, 3), (1, 3, 4), (3, 1, 5), (3, 2, 4), (2, 1, 4), (3, 1, 0), (3, 0, 0), (0, 0, 3), (0, 3, 0)]
    streams = {tuple(sample_generator(*triple).random(8)) for triple in [(3, 1, 4), *others]}
    assert len(streams) == len(others) + 1


def test_sample_generator_streams_are_uncorrelated():
    values = np.array([sample_generator(0, 0, index).random(2) for index in range(4000)])
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.05  # neighbouring samples
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("triple", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2**32, 0, 0)])
def test_sample_generator_rejects_values_out_of_range(triple):
    with pytest.raises(ValueError, match=r"2\^32"):
        sample_generator(*triple)


# properties of every clip transform


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("num_frames", [1, 3])
def test_shape_dtype_and_both_layouts(name, num_frames):
    frames = natural_frames(num_frames)
    kept = frames.copy()
    clip = TRANSFORMS[name](frames, sample_generator(0, 0, 1), size=32)
    assert clip.shape == (num_frames, 3, 32, 32)
    assert clip.dtype == (torch.float32 if name == "finetuning" else torch.uint8)
    assert clip.is_contiguous()
    channels_second = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    assert torch.equal(clip, TRANSFORMS[name](channels_second, sample_generator(0, 0, 1), size=32))
    assert np.array_equal(frames, kept), "the decoded frames were changed"
    assert np.array_equal(channels_second.numpy().transpose(0, 2, 3, 1), kept)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_result_depends_on_the_generator_and_not_on_global_state(name):
    frames = natural_frames(2, 40, 52)
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        state = np.random.get_state()[1].copy(), torch.get_rng_state()
        results.append([TRANSFORMS[name](frames, sample_generator(7, 2, i), size=16) for i in range(12)])
        assert np.array_equal(state[0], np.random.get_state()[1])
        assert torch.equal(state[1], torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len({tuple(clip.flatten().tolist()) for clip in results[0]}) == 12, "different samples gave the same clip"


@pytest.mark.parametrize("name", TRANSFORMS)
def test_all_frames_get_the_same_transform(name):
    frames = np.repeat(natural_frames(1, 40, 52), 4, axis=0)
    options = {"erasing_probability": 0.0} if name == "finetuning" else {}
    for index in range(60):
        clip = TRANSFORMS[name](frames, sample_generator(0, 0, index), size=16, **options)
        assert torch.equal(clip, clip[:1].expand_as(clip))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_frame_is_transformed_as_if_it_were_alone(name):
    frames = natural_frames(3, 40, 52)
    options = {"erasing_probability": 0.0} if name == "finetuning" else {}
    for index in range(25):
        clip = TRANSFORMS[name](frames, sample_generator(0, 0, index), size=16, **options)
        alone = TRANSFORMS[name](frames[1:2], sample_generator(0, 0, index), size=16, **options)
        torch.testing.assert_close(clip[1:2], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=seeds)
def test_frames_of_any_size(name, height, width, seed):
    frames = np.full((2, height, width, 3), 77, dtype=np.uint8)
    clip = TRANSFORMS[name](frames, sample_generator(seed, 0, 0), size=16)
    assert clip.shape == (2, 3, 16, 16)
    if name == "finetuning":
        assert clip.isfinite().all()
    else:
        assert (clip == 77).all(), "the crop contains pixels from outside the frame"


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3), dtype=np.float32),
        np.zeros((2, 3, 8, 8), dtype=np.uint8),
        np.zeros((8, 8, 3), dtype=np.uint8),
        np.zeros((0, 8, 8, 3), dtype=np.uint8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8),
    ],
    ids=["float array", "array channels first", "one frame", "no frame", "tensor channels last", "float tensor"],
)
def test_invalid_frames_are_rejected(name, frames):
    with pytest.raises(ValueError, match=r"must be a uint8 (array|tensor) \(frames"):
        TRANSFORMS[name](frames, sample_generator(0, 0, 0))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_flip_rate(name, monkeypatch):
    """The left half of a frame is dark and the right half bright; after a flip it is the other way round."""
    frames = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    frames[:, :, 8:] = 255
    # the crop is the complete frame, as another crop might miss one half
    monkeypatch.setattr(augmentation, "draw_multi_scale_box", lambda generator, *args, **kwargs: (0, 0, 16, 16))
    monkeypatch.setattr(augmentation, "draw_resized_crop_box", lambda generator, *args, **kwargs: (0, 0, 16, 16))
    options = {"erasing_probability": 0.0, "num_ops": 0} if name == "finetuning" else {}

    def flipped(index, **more):
        clip = TRANSFORMS[name](frames, sample_generator(1, 0, index), size=16, **options, **more).float()
        return bool(clip[..., :8].mean() > clip[..., 8:].mean())

    rate = np.mean([flipped(index) for index in range(1000)])
    assert abs(rate - 0.5) < 4 * math.sqrt(0.25 / 1000)
    if "flip" in inspect.signature(TRANSFORMS[name]).parameters:
        assert not any(flipped(index, flip=False) for index in range(100))


def test_random_flip_mirrors_the_last_axis():
    clip = torch.arange(24).view(2, 3, 2, 2)
    outcomes = [random_flip(clip, sample_generator(0, 0, index)) for index in range(20)]
    assert {tuple(outcome.flatten().tolist()) for outcome in outcomes} == {
        tuple(clip.flatten().tolist()),
        tuple(clip.flip(-1).flatten().tolist()),
    }


# stage 1: multi-scale crop


def test_multi_scale_boxes_are_the_recorded_candidates(recorded):
    for case in recorded("crop_positions")[0]["multi_scale_crop"]:
        height, width = case["frame_size"]
        candidates = {
            (top, left, int(size.split("x")[1]), int(size.split("x")[0]))
            for size, offsets in case["offsets_wh"].items()
            for left, top in offsets
        }
        sampled = {
            draw_multi_scale_box(sample_generator(0, 0, index), height, width, case["input_size"])
            for index in range(3000)
        }
        assert sampled == candidates


@settings(max_examples=300, deadline=None)
@given(height=frame_sides, width=frame_sides, seed=seeds, size=st.sampled_from([16, 224]))
def test_multi_scale_box_lies_in_the_frame(height, width, seed, size):
    generator = np.random.default_rng(seed)
    for _ in range(10):
        top, left, box_height, box_width = draw_multi_scale_box(generator, height, width, size)
        assert 0 <= top <= top + box_height <= height and box_height >= 1
        assert 0 <= left <= left + box_width <= width and box_width >= 1
        # truncation loses less than a pixel, snapping to `size` moves a side by up to two
        assert max(box_height, box_width) <= min(height, width) + 2
        assert min(box_height, box_width) >= max(1, int(0.66 * min(height, width)) - 2)


def test_multi_scale_sizes_and_positions_are_uniform():
    generator = np.random.default_rng(0)
    boxes = [draw_multi_scale_box(generator, 360, 640) for _ in range(13000)]
    _, counts = np.unique([box[2:] for box in boxes], axis=0, return_counts=True)
    assert len(counts) == 10
    assert np.abs(counts / 13000 - 1 / 10).max() < 4 * math.sqrt(0.1 * 0.9 / 13000)
    smallest = [box[:2] for box in boxes if box[2:] == (237, 237)]
    _, counts = np.unique(smallest, axis=0, return_counts=True)
    assert len(counts) == 13
    assert np.abs(counts / len(smallest) - 1 / 13).max() < 4 * math.sqrt(1 / 13 * 12 / 13 / len(smallest))


@pytest.mark.parametrize("shape", [(60, 84), (300, 500), (230, 226)])
def test_pretraining_is_the_crop_resized_as_pillow_does(shape):
    """Up to one grey level in a few percent of the values: torchvision's weights have fewer bits than Pillow's."""
    frames = natural_frames(2, *shape)
    for index in range(8):
        clip = augment_for_pretraining(frames, sample_generator(0, 0, index), size=64, flip=False)
        top, left, height, width = draw_multi_scale_box(sample_generator(0, 0, index), *shape, 64)
        for frame, result in zip(frames, clip, strict=True):
            image = Image.fromarray(frame[top : top + height, left : left + width])
            expected = torch.from_numpy(np.array(image.resize((64, 64), Image.Resampling.BILINEAR))).permute(2, 0, 1)
            difference = (result.int() - expected.int()).abs()
            assert difference.max() <= 2
            assert (difference == 2).float().mean() < 1e-3
            assert (difference > 0).float().mean() < 0.05


# masked modelling: the same crop for student and teacher


@pytest.mark.parametrize("flip", [False, True])
def test_student_and_teacher_see_the_same_window(flip):
    frames = natural_frames(2, 60, 84)
    for index in range(8):
        clips = augment_for_masked_modeling(frames, sample_generator(0, 0, index), 32, teacher_size=28, flip=flip)
        alone = augment_for_masked_modeling(frames, sample_generator(0, 0, index), 32, flip=flip)
        assert list(alone) == ["pixel_values_videos"]
        student, teacher = clips["pixel_values_videos"], clips["teacher_pixel_values_videos"]
        assert student.shape == (2, 3, 32, 32) and teacher.shape == (2, 3, 28, 28)
        assert student.is_contiguous() and teacher.is_contiguous()
        # it is the crop of stage 1, whatever the teacher's size
        expected = augment_for_pretraining(frames, sample_generator(0, 0, index), 32, flip=flip)
        assert torch.equal(student, alone["pixel_values_videos"]) and torch.equal(student, expected)
        resized = torch.nn.functional.interpolate(student.float(), size=(28, 28), mode="bilinear", antialias=True)
        assert (resized - teacher).abs().mean() < 8 < (resized - teacher.flip(-1)).abs().mean()


def test_the_recorded_crop_at_two_sizes(recorded):
    """Up to one grey level: the official resize is Pillow's."""
    description, tensors = recorded("mvd_two_size_crop")
    (left, top), (width, height) = description["crop_x_y"], description["crop_width_height"]
    frames, box = tensors["input/frames_u8"].numpy(), (top, left, height, width)
    rows, columns = description["frame_size"]
    drawn = (sample_generator(seed, 0, 0) for seed in range(10_000))
    generator = next(
        sample_generator(seed, 0, 0)
        for seed, generator in enumerate(drawn)
        if draw_multi_scale_box(generator, rows, columns, description["input_size"]) == box
    )
    clips = augment_for_masked_modeling(
        frames, generator, description["input_size"], description["teacher_input_size"]
    )
    for name, expected in (("pixel_values_videos", "student_clip"), ("teacher_pixel_values_videos", "teacher_clip")):
        ours = (clips[name] / 255 - MEAN) / STD
        difference = (ours - tensors[f"expected/{expected}"].transpose(0, 1)).abs() * STD * 255
        assert difference.max() < 1.001 and (difference > 0.5).float().mean() < 0.05


# stage 2 and fine-tuning: random resized crop


@settings(max_examples=300, deadline=None)
@given(height=frame_sides, width=frame_sides, seed=seeds, smallest=st.sampled_from([0.08, 0.5]))
def test_resized_crop_box_lies_in_the_frame(height, width, seed, smallest):
    generator = np.random.default_rng(seed)
    for _ in range(10):
        top, left, box_height, box_width = draw_resized_crop_box(generator, height, width, (smallest, 1.0))
        assert 0 <= top <= top + box_height <= height and box_height >= 1
        assert 0 <= left <= left + box_width <= width and box_width >= 1


def test_resized_crop_box_distribution():
    """In a frame that every crop fits, area and log aspect ratio are uniform, and positions cover the margin."""
    generator = np.random.default_rng(0)
    boxes = np.array([draw_resized_crop_box(generator, 1000, 1000, (0.08, 0.5)) for _ in range(8000)])
    areas = np.sort(boxes[:, 2] * boxes[:, 3] / 1e6)
    log_aspects = np.sort(np.log(boxes[:, 3] / boxes[:, 2]))
    quantiles = (np.arange(8000) + 0.5) / 8000
    assert np.abs((areas - 0.08) / 0.42 - quantiles).max() < 0.02  # Kolmogorov-Smirnov at 1 in 500
    reach = math.log(4 / 3)
    assert np.abs((log_aspects + reach) / (2 * reach) - quantiles).max() < 0.02
    position = boxes[:, 0] / (1000 - boxes[:, 2])
    assert np.abs(np.sort(position) - quantiles).max() < 0.02


@pytest.mark.parametrize(
    ("frame", "box"),
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((1, 1), (0, 0, 1, 1))],
)
def test_resized_crop_fallback_is_the_largest_centred_window(frame, box):
    """In a frame with an aspect ratio of 10, none of ten crops with 0.9 of its area fits."""
    assert draw_resized_crop_box(np.random.default_rng(0), *frame, scale=(0.9, 0.9)) == box


def test_video_text_crop_is_the_recorded_kernel():
    """Bicubic without antialias in float64, rounded and clamped; float32 may round a tie differently."""
    frames = natural_frames(2, 50, 70)
    clip_in = torch.from_numpy(frames).permute(0, 3, 1, 2).double()
    for index in range(6):
        clip = augment_for_video_text(frames, sample_generator(0, 0, index), size=24)
        generator = sample_generator(0, 0, index)
        top, left, height, width = draw_resized_crop_box(generator, 50, 70, (0.5, 1.0))
        assert height * width >= 0.45 * 50 * 70
        window = clip_in[:, :, top : top + height, left : left + width]
        expected = F.interpolate(window, size=(24, 24), mode="bicubic", align_corners=False).round().clamp(0, 255)
        expected = expected.flip(-1) if generator.random() < 0.5 else expected
        difference = (clip.double() - expected).abs()
        assert difference.max() <= 1 and difference.mean() < 1e-3


def test_finetuning_follows_the_official_order():
    """Normalising the complete frame before cropping and interpolating, as officially, differs by rounding only."""
    frames = natural_frames(2, 50, 70)
    for index in range(12):
        clip = augment_for_finetuning(frames, sample_generator(0, 0, index), size=24, erasing_probability=0.0)
        generator = sample_generator(0, 0, index)
        official = rand_augment(torch.from_numpy(frames).permute(0, 3, 1, 2), generator).float() / 255
        official = (official - MEAN) / STD
        top, left, height, width = draw_resized_crop_box(generator, 50, 70)
        official = official[:, :, top : top + height, left : left + width]
        official = F.interpolate(official, size=(24, 24), mode="bilinear", align_corners=False)
        official = official.flip(-1) if generator.random() < 0.5 else official
        torch.testing.assert_close(clip, official, rtol=0, atol=1e-5)


# RandAugment


def test_rand_augment_facts(recorded):
    facts = recorded("randaug_erase")[0]["rand_augment"]
    assert list(RAND_AUGMENT_OPS) == facts["ops"]
    defaults = inspect.signature(rand_augment).parameters
    assert defaults["num_ops"].default == facts["num_layers"]
    assert defaults["magnitude"].default == facts["magnitude"]
    assert facts["probability_per_op"] == randaugment._APPLY_PROBABILITY
    assert facts["magnitude_std"] == randaugment._MAGNITUDE_STD
    assert facts["max_level"] == randaugment._MAX_LEVEL


@pytest.mark.parametrize("op", RAND_AUGMENT_OPS)
def test_op_arguments(recorded, op):
    for level, arguments in recorded("randaug_erase")[0]["level_to_argument"]["table"][op].items():
        argument = op_argument(op, float(level))
        if not arguments:
            assert argument is None
        elif isinstance(arguments[0], int):
            assert argument == arguments[0] and isinstance(argument, int)
        else:
            assert argument == pytest.approx(arguments[0], abs=1e-12)
            neutral = 1.0 if op.endswith("Increasing") else 0.0
            assert op_argument(op, float(level), negated=True) == pytest.approx(2 * neutral - arguments[0], abs=1e-12)


@pytest.mark.parametrize("op", RAND_AUGMENT_OPS)
def test_op_pixels(recorded, op):
    description, tensors = recorded("randaug_erase")
    arguments = description["op_arguments"][op]
    image = Image.fromarray(tensors["input/image"].numpy())
    result = torch.from_numpy(np.array(apply_op(image, op, arguments[0] if arguments else None)))
    difference = (result.int() - tensors[f"expected/{op}"].int()).abs().max()
    assert difference <= (0 if PIL.__version__ == description["pillow"] else 1)


@pytest.mark.parametrize("level", [0.0, 0.3, 5.2, 9.99, 10.0])
@pytest.mark.parametrize("op", RAND_AUGMENT_OPS)
def test_every_op_accepts_every_level(op, level):
    image = Image.fromarray(natural_frames(1, 9, 5)[0])
    for negated in (False, True):
        result = apply_op(image, op, op_argument(op, level, negated))
        assert result.size == (5, 9) and result.mode == "RGB"


def test_unknown_op_is_rejected():
    with pytest.raises(ValueError, match=r"'Blur'.*'AutoContrast'"):
        apply_op(Image.new("RGB", (2, 2)), "Blur", None)


def test_rand_augment_distribution():
    num_clips = 4000
    ops = [op for index in range(num_clips) for op in draw_rand_augment(sample_generator(0, 0, index))]
    deviation = math.sqrt(0.25 / (4 * num_clips))
    assert abs(len(ops) / (4 * num_clips) - 0.5) < 4 * deviation
    for op in RAND_AUGMENT_OPS:
        fraction = sum(name == op for name, _ in ops) / len(ops)
        assert abs(fraction - 1 / 15) < 4 * math.sqrt(1 / 15 * 14 / 15 / len(ops))
    angles = np.array([argument for name, argument in ops if name == "Rotate"])
    assert abs((angles > 0).mean() - 0.5) < 4 * math.sqrt(0.25 / len(angles))
    levels = np.abs(angles) / 30 * 10
    assert abs(levels.mean() - 7) < 4 * 0.5 / math.sqrt(len(levels))
    assert abs(levels.std() - 0.5) < 0.06
    factors = np.array([argument for name, argument in ops if name == "BrightnessIncreasing"])
    assert abs((factors > 1).mean() - 0.5) < 4 * math.sqrt(0.25 / len(factors))


def test_magnitude_is_clipped_and_number_of_ops_respected():
    generator = np.random.default_rng(0)
    for _ in range(200):
        assert all(abs(a) <= 30 for op, a in draw_rand_augment(generator, 8, magnitude=10.0) if op == "Rotate")
        assert len(draw_rand_augment(generator, num_ops=2)) <= 2
    assert draw_rand_augment(generator, num_ops=0) == []


def test_rand_augment_applies_the_sampled_ops_in_order():
    frames = natural_frames(2, 20, 24)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for index in range(20):
        result = rand_augment(clip, sample_generator(0, 0, index))
        for frame, augmented in zip(frames, result, strict=True):
            image = Image.fromarray(frame)
            for op, argument in draw_rand_augment(sample_generator(0, 0, index)):
                image = apply_op(image, op, argument)
            assert np.array_equal(np.array(image), augmented.permute(1, 2, 0).numpy())


# random erasing


def test_erasing_geometry(recorded):
    for case in recorded("randaug_erase")[0]["random_erasing"]["geometry"]:
        height, width = case["frame"]
        size = erasing_size(height, width, case["area_fraction"], case["log_aspect"])
        if case["box"] is None:
            assert size is None
        else:
            assert [(height - size[0]) // 2, (width - size[1]) // 2, *size] == case["box"]


def test_erasing_defaults(recorded):
    defaults = recorded("randaug_erase")[0]["random_erasing"]["defaults"]
    assert inspect.signature(augment_for_finetuning).parameters["erasing_probability"].default == 0.25
    assert defaults["probability"] == 0.25
    boxes = np.array([draw_erasing_box(sample_generator(0, 0, index), 2000, 2000) for index in range(3000)])
    fractions, log_aspects = boxes[:, 2] * boxes[:, 3] / 4e6, np.log(boxes[:, 2] / boxes[:, 3])
    assert defaults["min_area"] - 1e-3 < fractions.min() < defaults["min_area"] + 3e-3
    assert defaults["max_area"] - 3e-3 < fractions.max() < defaults["max_area"] + 1e-3
    assert abs(log_aspects).max() == pytest.approx(math.log(1 / 0.3), abs=0.01)


@settings(max_examples=300, deadline=None)
@given(height=frame_sides, width=frame_sides, seed=seeds)
def test_erasing_box_lies_in_the_frame(height, width, seed):
    box = draw_erasing_box(np.random.default_rng(seed), height, width)
    if box is not None:
        top, left, box_height, box_width = box
        assert 0 <= top <= top + box_height <= height and 0 <= box_height < height
        assert 0 <= left <= left + box_width <= width and 0 <= box_width < width


def test_erasing_rate_and_noise():
    """One rectangle at the same position in all frames, with independent standard normal noise in each."""
    clip = torch.full((3, 3, 24, 24), 100.0)
    erased_clips, values = 0, []
    for index in range(1500):
        result = random_erasing(clip, sample_generator(0, 1, index))
        if result is clip:
            continue
        erased_clips += 1
        erased = result != clip
        assert torch.equal(erased, erased[:1, :1].expand_as(erased)), "frames or channels were erased differently"
        rows, columns = erased[0, 0].any(1), erased[0, 0].any(0)
        assert torch.equal(erased[0, 0], rows[:, None] & columns[None, :])
        for line in (rows, columns):
            assert int(line.sum()) == int(line.nonzero().max() - line.nonzero().min()) + 1
        assert not torch.equal(result[0], result[1])
        values.append(result[erased])
    assert abs(erased_clips / 1500 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 1500)
    values = torch.cat(values)
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    assert (clip == 100).all()


def test_finetuning_erases_with_the_given_probability():
    frames = np.full((2, 20, 20, 3), 90, dtype=np.uint8)

    def is_erased(index, **options):
        clip = augment_for_finetuning(frames, sample_generator(0, 0, index), size=16, num_ops=0, **options)
        return not torch.equal(clip[0], clip[1])

    rate = np.mean([is_erased(index) for index in range(1200)])
    assert abs(rate - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 1200)
    assert not any(is_erased(index, erasing_probability=0.0) for index in range(50))


# mixup, cutmix, targets


def test_recorded_targets(recorded):
    description, tensors = recorded("mixup")
    labels, num_labels = tensors["input/target"], description["num_classes"]
    for case in description["targets"]:
        targets = mix_targets(labels, labels.flip(0), num_labels, case["lam"], case["smoothing"])
        torch.testing.assert_close(targets, tensors[case["tensor"]], rtol=0, atol=1e-6)
        assert targets.dtype == torch.float32
    rows = [
        mix_targets(labels[i : i + 1], labels.flip(0)[i : i + 1], num_labels, float(lam))
        for i, lam in enumerate(tensors["input/lam_per_element"])
    ]
    torch.testing.assert_close(torch.cat(rows), tensors["expected/target_per_element"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["batch0", "batch1", "batch2", "batch3", "elem"])
def test_recorded_mixes(recorded, key):
    description, tensors = recorded("mixup")
    case = next(case for case in description["mixes"] if case["key"] == key)
    clips, labels, num_labels = tensors["input/video"], tensors["input/target"], description["num_classes"]
    kept = clips.clone()

    def mix_of(lam, use_cutmix):
        if not use_cutmix:
            return Mix(lam)
        return cutmix_box(*clips.shape[-2:], lam, case["box_centre_y"], case["box_centre_x"])

    if case["mode"] == "batch":
        mix = mix_of(case["lam"], case["use_cutmix"])
        mixed, targets = mix_batch(clips, labels, num_labels, mix, case["label_smoothing"])
    else:  # different parameters for every sample, which no recipe uses, but the same functions compute
        parts = []
        for i in range(len(clips)):
            mix = mix_of(case["lam"][i], case["use_cutmix"][i])
            pair = slice(i, i + 1)
            parts.append(
                (
                    mix_clips(clips[pair], clips.flip(0)[pair], mix),
                    mix_targets(labels[pair], labels.flip(0)[pair], num_labels, mix.lam, case["label_smoothing"]),
                )
            )
        mixed, targets = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    torch.testing.assert_close(mixed, tensors[f"expected/{key}_video"], rtol=0, atol=1e-6)
    torch.testing.assert_close(targets, tensors[f"expected/{key}_target"], rtol=0, atol=1e-6)
    assert torch.equal(clips, kept)


def test_losses_are_those_of_pytorch(recorded):
    """`F.cross_entropy` computes the official soft-target and label-smoothing losses."""
    description, tensors = recorded("mixup")
    logits, labels = tensors["input/logits"], tensors["input/target"]
    targets = tensors["expected/batch1_target"]
    soft = F.cross_entropy(logits, targets).view(1)
    torch.testing.assert_close(soft, tensors["expected/loss_soft_target"], rtol=0, atol=1e-6)
    for smoothed in (
        F.cross_entropy(logits, labels, label_smoothing=0.1),
        F.cross_entropy(logits, smooth_targets(labels, description["num_classes"], 0.1)),
    ):
        torch.testing.assert_close(smoothed.view(1), tensors["expected/loss_label_smoothing_0.1"], rtol=0, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(height=frame_sides, width=frame_sides, seed=seeds, lam=st.floats(0, 1))
def test_cutmix_box_lies_in_the_frame(height, width, seed, lam):
    generator = np.random.default_rng(seed)
    mix = cutmix_box(height, width, lam, int(generator.integers(height)), int(generator.integers(width)))
    top, left, box_height, box_width = mix.box
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert mix.lam == 1 - box_height * box_width / (height * width)
    assert mix.lam >= lam - 1e-9, "a box is never larger than requested"


def test_draw_mix_distribution():
    mixes = [draw_mix(sample_generator(0, 0, index), 224, 224) for index in range(4000)]
    is_cutmix = np.array([mix.box is not None for mix in mixes])
    assert abs(is_cutmix.mean() - 0.5) < 4 * math.sqrt(0.25 / 4000)
    blends = np.array([mix.lam for mix in mixes if mix.box is None])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert abs(blends.mean() - 0.5) < 0.03
    assert abs(blends.var() - 1 / (4 * 2.6)) < 0.006
    centers = np.array([mix.box[0] + mix.box[2] / 2 for mix in mixes if mix.box is not None])
    assert abs(centers.mean() - 112) < 4
    assert all(0 <= mix.lam <= 1 for mix in mixes)


def test_draw_mix_with_one_or_both_disabled():
    for index in range(50):
        generator = sample_generator(0, 0, index)
        assert draw_mix(generator, 8, 8, mixup_alpha=0.8, cutmix_alpha=0).box is None
        assert draw_mix(generator, 8, 8, mixup_alpha=0, cutmix_alpha=1.0).box is not None
        assert draw_mix(generator, 8, 8, mixup_alpha=0, cutmix_alpha=0) == Mix(1.0)
    with pytest.raises(ValueError, match=r"mixup_alpha is -0\.1"):
        draw_mix(generator, 8, 8, mixup_alpha=-0.1)


@pytest.mark.parametrize("mix", [Mix(0.3), cutmix_box(6, 8, 0.4, 3, 3)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mix_batch_keeps_shape_and_dtype_and_does_not_change_an_odd_middle(mix, dtype):
    clips = torch.randn(3, 2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    mixed, targets = mix_batch(clips, torch.tensor([0, 4, 2]), 5, mix)
    assert mixed.shape == clips.shape and mixed.dtype == dtype
    torch.testing.assert_close(mixed[1], clips[1], rtol=0.02 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    assert not torch.equal(mixed[0], clips[0])
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    assert targets[1].argmax() == 4


def test_mixing_integers_is_rejected():
    clips = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        mix_clips(clips, clips, Mix(0.5))


def test_labels_out_of_range_are_rejected():
    with pytest.raises(RuntimeError):
        smooth_targets(torch.tensor([0, 5]), 5)


def test_mixup_defaults_are_those_of_the_recipes():
    defaults = inspect.signature(mixup.draw_mix).parameters
    assert (defaults["mixup_alpha"].default, defaults["cutmix_alpha"].default) == (0.8, 1.0)
    assert inspect.signature(mixup.mix_batch).parameters["label_smoothing"].default == 0.1
