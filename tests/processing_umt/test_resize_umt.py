"""The official resize kernels against the libraries that they reproduce."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from processing_umt.resize_umt import (
    RESIZE_KERNELS,
    resize_bicubic_no_antialias,
    resize_frames,
    resize_opencv_bilinear,
)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def opencv(frame: torch.Tensor, height: int, width: int) -> torch.Tensor:
    cv2 = pytest.importorskip("cv2")
    image = frame.permute(1, 2, 0).contiguous().numpy()
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(resized).permute(2, 0, 1)


side = st.integers(1, 160)


@settings(max_examples=300, deadline=None)
@given(source=st.tuples(side, side), target=st.tuples(side, side), seed=st.integers(0, 10))
def test_opencv_bilinear_is_bit_exact(source, target, seed):
    frame = noise(seed, 3, *source)
    assert torch.equal(resize_opencv_bilinear(frame, *target), opencv(frame, *target))


@settings(max_examples=100, deadline=None)
@given(half=st.tuples(side, side), factor=st.sampled_from([(2, 2), (2, 1), (1, 2), (4, 2), (2, 4), (4, 4), (3, 3)]))
def test_opencv_bilinear_is_bit_exact_at_integer_factors(half, factor):
    frame = noise(0, 3, half[0] * factor[0], half[1] * factor[1])
    assert torch.equal(resize_opencv_bilinear(frame, *half), opencv(frame, *half))


@pytest.mark.parametrize(
    ("source", "target"),
    [((256, 340), (224, 297)), ((720, 1280), (224, 398)), ((1080, 1920), (384, 682)), ((448, 796), (224, 398))],
)
def test_opencv_bilinear_is_bit_exact_at_video_sizes(source, target):
    frame = noise(1, 3, *source)
    assert torch.equal(resize_opencv_bilinear(frame, *target), opencv(frame, *target))


@pytest.mark.parametrize("kernel", RESIZE_KERNELS)
def test_a_batch_is_resized_frame_by_frame_in_any_memory_layout(kernel):
    clip = noise(2, 2, 5, 3, 40, 61)
    together = resize_frames(clip, 24, 37, kernel)
    assert together.shape == (2, 5, 3, 24, 37) and together.dtype == torch.uint8
    for video in range(2):
        for frame in range(5):
            assert torch.equal(together[video, frame], resize_frames(clip[video, frame], 24, 37, kernel))
    channels_last = clip[0].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(resize_frames(channels_last, 24, 37, kernel), together[0])


@pytest.mark.parametrize("kernel", RESIZE_KERNELS)
def test_a_frame_of_the_target_size_is_returned_unchanged(kernel):
    frame = noise(3, 3, 20, 30)
    assert resize_frames(frame, 20, 30, kernel) is frame


def cubic_weight(distance: float) -> float:
    """Keys' kernel with a = -0.75, as in torch and OpenCV."""
    distance = abs(distance)
    if distance <= 1:
        return 1.25 * distance**3 - 2.25 * distance**2 + 1
    if distance < 2:
        return -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return 0.0


@pytest.mark.parametrize("target", [(9, 7), (33, 41), (20, 7)])
def test_bicubic_without_antialias_is_the_four_tap_sum(target):
    frame = noise(4, 1, 20, 30)

    def matrix(source: int, size: int) -> np.ndarray:
        weights = np.zeros((size, source))
        for i in range(size):
            centre = (i + 0.5) * source / size - 0.5
            first = int(np.floor(centre)) - 1
            for tap in range(first, first + 4):
                weights[i, min(max(tap, 0), source - 1)] += cubic_weight(centre - tap)
        return weights

    exact = matrix(20, target[0]) @ frame[0].double().numpy() @ matrix(30, target[1]).T
    resized = resize_bicubic_no_antialias(frame, *target)[0].double().numpy()
    assert np.abs(resized - exact.clip(0, 255)).max() <= 0.501  # rounding only


def test_bicubic_without_antialias_clamps_before_it_rounds_half_to_even():
    frame = torch.zeros(1, 8, 8, dtype=torch.uint8)
    frame[:, :, 4:] = 255  # overshoots on both sides of the edge
    plain = F.interpolate(frame[None].float(), size=(16, 16), mode="bicubic", align_corners=False)[0]
    assert plain.min() < 0 and plain.max() > 255
    assert torch.equal(resize_bicubic_no_antialias(frame, 16, 16), plain.clamp(0, 255).round().to(torch.uint8))


@pytest.mark.parametrize(("source", "target"), [((120, 160), (50, 70)), ((50, 70), (120, 160)), ((99, 64), (64, 64))])
def test_antialias_is_within_one_level_of_pillow(source, target):
    frame = noise(5, 3, *source)
    image = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(target[::-1], Image.Resampling.BILINEAR)
    pillow = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    difference = (resize_frames(frame, *target, "antialias").int() - pillow.int()).abs()
    assert difference.max() <= 1


def test_the_kernels_differ_when_shrinking():
    frame = noise(6, 3, 120, 160)
    outputs = [resize_frames(frame, 40, 53, kernel).float() for kernel in RESIZE_KERNELS]
    for i in range(3):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().mean() > 5


def test_antialias_keeps_floating_point_frames():
    frame = noise(7, 3, 30, 40).float() / 255
    resized = resize_frames(frame, 20, 20)
    assert resized.dtype == torch.float32 and resized.min() >= 0 and resized.max() <= 1


def test_errors_name_the_given_and_the_expected_value():
    with pytest.raises(ValueError, match="'lanczos'; choose one of 'antialias', 'opencv_bilinear', 'bicubic_no_ant"):
        resize_frames(noise(8, 3, 8, 8), 4, 4, "lanczos")
    for kernel in RESIZE_KERNELS[1:]:
        with pytest.raises(ValueError, match=f"{kernel}.*uint8.*torch.float32"):
            resize_frames(torch.zeros(3, 8, 8), 4, 4, kernel)
