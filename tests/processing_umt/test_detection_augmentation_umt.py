"""The transform of frames with boxes: recorded values of each step, and its randomness."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_umt import detection_augmentation_umt as augmentation
from processing_umt.augmentation_umt import sample_generator

augment = functools.partial(
    augmentation.augment_for_detection,
    image_mean=[0.48, 0.45, 0.4],
    image_std=[0.225] * 3,
    size=32,
    short_side=36,
)


def frames_of(tensor):
    return tensor.permute(0, 3, 1, 2)


@pytest.fixture
def step(recorded):
    """Recording of the training transform: its description and its tensors, frames as `(frames, 3, height, width)`."""
    description, tensors = recorded("ava_augment")
    return description, {name: frames_of(t) if t.dtype == torch.uint8 else t for name, t in tensors.items()}


def test_the_crop_is_the_recorded_one(step):
    description, tensors = step
    frames, boxes = augmentation.crop_with_boxes(
        tensors["input/frames"],
        tensors["input/boxes_xyxy"],
        np.array(description["crop_fractions_xy"]),
        description["crop_size"],
    )
    assert torch.equal(frames, tensors["expected/crop_frames"])
    torch.testing.assert_close(boxes, tensors["expected/crop_boxes"], rtol=0, atol=1e-4)


def test_the_colour_shift_is_close_to_the_recorded_one(step):
    description, tensors = step
    shifted = augmentation.shift_colours(
        tensors["expected/crop_frames"],
        description["hue_shift_half_degrees"],
        description["saturation_shift"],
        description["value_shift"],
    )
    error = (shifted.float() - tensors["expected/jittered_colour_frames"].float()).abs()
    assert error.mean() < 0.4 and (error > 2).float().mean() < 0.01 and error.max() <= 10


def test_the_flip_is_the_recorded_one(step):
    _, tensors = step
    frames, boxes = augmentation.flip_with_boxes(
        tensors["expected/jittered_colour_frames"], tensors["expected/crop_boxes"]
    )
    assert torch.equal(frames, tensors["expected/flip_frames"])
    torch.testing.assert_close(boxes, tensors["expected/flip_boxes"], rtol=0, atol=1e-4)


def test_the_jitter_of_boxes_is_the_recorded_one(step):
    description, tensors = step
    side = description["crop_size"]
    boxes = augmentation.jitter_boxes(tensors["expected/flip_boxes"], tensors["input/jitter_uniform"], side, side)
    torch.testing.assert_close(boxes, tensors["expected/jitter_boxes"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_frames_and_boxes_are_resized_as_recorded(recorded, number):
    description, tensors = recorded("ava_transform")
    clip, boxes = augmentation.resize_with_boxes(
        frames_of(tensors[f"input/frames_{number}"]),
        tensors[f"input/boxes_xyxy_{number}"],
        description["short_side"],
    )
    mean, std = (torch.tensor(description[f"{name}_255"]).view(3, 1, 1) for name in ("mean", "std"))
    clip = (clip.float() - mean) / std
    torch.testing.assert_close(clip.permute(1, 0, 2, 3), tensors[f"expected/clip_{number}"], rtol=0, atol=1e-5)
    torch.testing.assert_close(boxes, tensors[f"expected/boxes_{number}"], rtol=0, atol=1e-3)


def test_colours_without_a_shift_change_by_rounding_only():
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 40), dtype=np.uint8))
    error = (augmentation.shift_colours(clip, 0, 0, 0).float() - clip.float()).abs()
    assert error.max() <= 6 and error.mean() < 1
    grey = torch.full((1, 3, 2, 2), 90, dtype=torch.uint8)
    assert torch.equal(augmentation.shift_colours(grey, 7, 0, 0), grey)
    assert (augmentation.shift_colours(grey, 0, 0, 200) == 255).all()
    red = torch.tensor([250, 10, 10], dtype=torch.uint8).view(1, 3, 1, 1)
    assert augmentation.shift_colours(red, 60, 0, 0).flatten().tolist() == [10, 250, 10]  # 120 degrees
    assert augmentation.shift_colours(red, -60, 0, 0).flatten().tolist() == [10, 10, 250]


def clip_and_boxes(seed, height=54, width=70, num_boxes=3):
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    corners = generator.random((num_boxes, 2)) * [width - 9, height - 9]
    boxes = np.concatenate([corners, corners + 2 + generator.random((num_boxes, 2)) * 6], axis=1)
    return frames, torch.from_numpy(boxes).float()


def test_the_transform_is_a_function_of_seed_epoch_and_index():
    frames, boxes = clip_and_boxes(0)
    first, others = (0, 0, 0), [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    results = [augment(frames, boxes, sample_generator(*key)) for key in (first, first, *others)]
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    for clip, moved in results[2:]:
        assert not torch.equal(clip, results[0][0]) and not torch.equal(moved, results[0][1])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(8, 90), width=st.integers(8, 90), num_boxes=st.integers(0, 3))
def test_boxes_are_in_the_crop_and_have_an_area(seed, height, width, num_boxes):
    frames, boxes = clip_and_boxes(seed, max(height, 10), max(width, 10), num_boxes)
    clip, moved = augment(frames, boxes, sample_generator(seed, 0, 0))
    assert clip.shape == (2, 3, 32, 32) and clip.dtype == moved.dtype == torch.float32
    assert moved.shape == boxes.shape and bool((moved >= 0).all()) and bool((moved <= 31).all())
    assert bool((moved[:, 2:] - moved[:, :2] >= 1 - 1e-4).all())


def test_a_box_follows_its_pixels():
    """A bright square on black: the box without jitter is the bounding box of the bright pixels."""
    frames = np.zeros((1, 54, 70, 3), dtype=np.uint8)
    frames[:, 20:32, 24:44] = 200
    boxes = torch.tensor([[24.0, 20.0, 43.0, 31.0]])
    for index in range(8):
        generator = sample_generator(3, 0, index)
        clip, moved = augmentation.resize_with_boxes(torch.from_numpy(frames).permute(0, 3, 1, 2), boxes, 36)
        clip, moved = augmentation.crop_with_boxes(clip, moved, generator.random(2), 32)
        if index % 2:
            clip, moved = augmentation.flip_with_boxes(clip, moved)
        rows, columns = (clip[0, 0] > 100).nonzero().unbind(1)
        visible = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
        assert (moved[0] - visible).abs().max() <= 1.5


def test_a_flip_is_left_out_where_sides_matter():
    frames, boxes = clip_and_boxes(1)
    frames[:, :, :35], frames[:, :, 35:] = 30, 220
    for index in range(12):
        clip, _ = augment(frames, boxes, sample_generator(0, 0, index), flip=False)
        assert clip[..., :4].mean() < clip[..., -4:].mean()


def test_a_crop_larger_than_the_frames_is_refused():
    frames, boxes = clip_and_boxes(2)
    with pytest.raises(ValueError, match="A crop of 40 pixels does not fit frames whose shorter side has 36"):
        augment(frames, boxes, sample_generator(0, 0, 0), size=40)
