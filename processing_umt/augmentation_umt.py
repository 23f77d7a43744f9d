"""Training-time transforms of clips, one function per training stage of UMT (arXiv 2303.16058).

* `augment_for_pretraining`, stage 1: one of ten crop sizes at one of thirteen positions, resized with antialias;
* `augment_for_masked_modeling`, MVD and VideoMAE: the same crop, resized for the student and for a teacher;
* `augment_for_video_text`, stage 2 and retrieval: random resized crop, bicubic without antialias on uint8;
* `augment_for_finetuning`, action recognition: RandAugment, random resized crop, normalisation, random erasing.

Random parameters are sampled once per clip and applied to all of its frames. They come from the generator passed in,
which `sample_generator` creates from (seed, epoch, sample index), so that neither resuming a run nor its number of
workers or processes changes a clip. For repeated augmentation, call a function again with the same generator.

All but the last return uint8, a quarter of the bytes of float32; the clips are normalised on the device. Fine-tuning
returns normalised floats, because the official code interpolates and erases after normalisation.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .crop_positions_umt import random_multi_scale_crop
from .randaugment_umt import rand_augment
from .resize_umt import resize_bicubic_no_antialias


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random generator of one sample in one epoch, used for frame sampling first and for augmentation after it.

    Args:
        seed, epoch, index: non-negative integers below 2^32; different triples give independent streams.

    Raises:
        ValueError: an argument is out of that range.
    """
    if not all(0 <= number < 2**32 for number in (seed, epoch, index)):
        raise ValueError(f"seed, epoch and index must be 0 to 2^32 - 1, not {seed}, {epoch} and {index}.")
    return np.random.default_rng((seed, epoch, index))


def augment_for_pretraining(
    frames: torch.Tensor | np.ndarray, generator: np.random.Generator, size: int = 224, flip: bool = True
) -> torch.Tensor:
    """Stage 1: multi-scale fixed crop to `size` x `size`, then a horizontal flip with probability 0.5.

    The official resize is Pillow's bilinear. torchvision's, used here, takes less than half the time. Its weights have
    fewer bits: on real clips 0.6 % of the values differ by one grey level and one in a million by two.

    Args:
        frames: uint8, a tensor `(frames, 3, height, width)` or an array `(frames, height, width, 3)` as decoded.
        generator: random generator of the sample, see `sample_generator`.
        size: side length of the result in pixels.
        flip: False where left and right matter.

    Returns:
        uint8 `(frames, 3, size, size)`.

    Raises:
        ValueError: the frames are not uint8 RGB frames of one of the shapes above.
    """
    clip = as_clip(frames)
    clip = resized_crop(clip, draw_multi_scale_box(generator, *clip.shape[-2:], size), size)
    if flip:
        clip = random_flip(clip, generator)
    return clip.contiguous()


def augment_for_masked_modeling(
    frames: torch.Tensor | np.ndarray,
    generator: np.random.Generator,
    size: int = 224,
    teacher_size: int | None = None,
    flip: bool = False,
) -> dict[str, torch.Tensor]:
    """Masked modelling: the crop of stage 1 for the student and, from the same window, for a teacher of another size.

    Args:
        frames, generator: As in `augment_for_pretraining`.
        size: side length of the student's clip in pixels.
        teacher_size: side length of the teacher's clip in pixels; None: the teachers take the student's clip.
        flip: mirror both clips left to right with probability 0.5. The published runs do not.

    Returns:
        `pixel_values_videos`, uint8 `(frames, 3, size, size)`, and with `teacher_size`
        `teacher_pixel_values_videos`, uint8 `(frames, 3, teacher_size, teacher_size)`.

    Raises:
        ValueError: as `augment_for_pretraining`.
    """
    clip = as_clip(frames)
    box = draw_multi_scale_box(generator, *clip.shape[-2:], size)
    clips = {"pixel_values_videos": resized_crop(clip, box, size)}
    if teacher_size is not None:
        clips["teacher_pixel_values_videos"] = resized_crop(clip, box, teacher_size)
    if flip and generator.random() < 0.5:
        clips = {name: tvF.horizontal_flip(clip) for name, clip in clips.items()}
    return {name: clip.contiguous() for name, clip in clips.items()}


def augment_for_video_text(
    frames: torch.Tensor | np.ndarray, generator: np.random.Generator, size: int = 224, flip: bool = True
) -> torch.Tensor:
    """Stage 2 and its downstream tasks: random resized crop of at least half the frame, then a horizontal flip with
    probability 0.5, which the official code applies on every data set.

    Arguments, result and errors are those of `augment_for_pretraining`. The resize is bicubic without antialias,
    rounded and clamped to uint8.
    """
    clip = as_clip(frames)
    box = draw_resized_crop_box(generator, *clip.shape[-2:], scale=(0.5, 1.0))
    clip = resize_bicubic_no_antialias(tvF.crop(clip, *box), size, size)
    return (random_flip(clip, generator) if flip else clip).contiguous()


def augment_for_finetuning(
    frames: torch.Tensor | np.ndarray,
    generator: np.random.Generator,
    size: int = 224,
    flip: bool = True,
    num_ops: int = 4,
    magnitude: float = 7.0,
    scale: tuple[float, float] = (0.08, 1.0),
    erasing_probability: float = 0.25,
) -> torch.Tensor:
    """Action recognition: RandAugment, random resized crop, horizontal flip with probability 0.5, random erasing.

    The crop is interpolated bilinearly without antialias, and before normalisation, while the official code normalises
    first. The results differ only by rounding, because the weights of bilinear interpolation sum to one.

    Args:
        frames: uint8, a tensor `(frames, 3, height, width)` or an array `(frames, height, width, 3)` as decoded.
        generator: random generator of the sample, see `sample_generator`.
        size: side length of the result in pixels.
        flip: False where left and right matter, as in Something-Something.
        num_ops, magnitude: parameters of `rand_augment`; the recipes never change the defaults. `num_ops=0` disables
            it.
        scale: smallest and largest fraction of the frame's area that the crop covers.
        erasing_probability: probability of random erasing.

    Returns:
        float32 `(frames, 3, size, size)`, normalised by ImageNet's mean and standard deviation.

    Raises:
        ValueError: the frames are not uint8 RGB frames of one of the shapes above.
    """
    clip = rand_augment(as_clip(frames), generator, num_ops, magnitude)
    box = draw_resized_crop_box(generator, *clip.shape[-2:], scale)
    clip = tvF.to_dtype(tvF.crop(clip, *box), torch.float32, scale=True)
    clip = F.interpolate(clip, size=(size, size), mode="bilinear", align_corners=False)
    clip = tvF.normalize(clip, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if flip:
        clip = random_flip(clip, generator)
    return random_erasing(clip, generator, erasing_probability).contiguous()


def as_clip(frames: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Decoded frames as a uint8 tensor `(frames, 3, height, width)`, without copying. A tensor has its channels in the
    second dimension, an array in the last one."""
    is_array = isinstance(frames, np.ndarray)
    clip = torch.from_numpy(frames) if is_array else frames
    if is_array and clip.ndim == 4:
        clip = clip.permute(0, 3, 1, 2)
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3 or 0 in clip.shape:
        expected = "array (frames, height, width, 3)" if is_array else "tensor (frames, 3, height, width)"
        raise ValueError(
            f"Frames to augment must be a uint8 {expected}, not {frames.dtype} of shape {tuple(frames.shape)}. "
            "Augmentation comes before normalisation; pass the frames as decoded."
        )
    return clip


def resized_crop(clip: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    """The box (top, left, height, width) of a clip, resized to `size` x `size` by a bilinear filter with antialias."""
    return tvF.resized_crop(clip, *box, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True)


def random_flip(clip: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Mirrors all frames `(frames, channels, height, width)` left to right with probability 0.5."""
    return tvF.horizontal_flip(clip) if generator.random() < 0.5 else clip


def draw_multi_scale_box(
    generator: np.random.Generator, height: int, width: int, size: int = 224
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random stage-1 crop, always inside the frame.

    In a frame whose shorter side is one or two pixels below `size`, the official crop can extend beyond the frame (the
    official code fills the outside with black); in a frame of a single pixel it can be empty. Here crops are clamped
    to the frame and to at least one pixel.
    """
    top, left, crop_height, crop_width = random_multi_scale_crop(height, width, generator, size)
    crop_height, crop_width = min(max(crop_height, 1), height), min(max(crop_width, 1), width)
    return (
        min(max(top, 0), height - crop_height),
        min(max(left, 0), width - crop_width),
        crop_height,
        crop_width,
    )


def draw_resized_crop_box(
    generator: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop. Its fraction of the frame's area is uniform in `scale`, its aspect
    ratio (width over height) log-uniform in `ratio`.

    If none of ten sampled crops fits, the result is the largest centred crop with an aspect ratio within `ratio`.
    """
    for _ in range(10):
        area = generator.uniform(*scale) * height * width
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(generator.integers(height - crop_height + 1))
            left = int(generator.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width < ratio[0] * height:
        crop_height = round(width / ratio[0])
    elif width > ratio[1] * height:
        crop_width = round(height * ratio[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def random_erasing(clip: torch.Tensor, generator: np.random.Generator, probability: float = 0.25) -> torch.Tensor:
    """With `probability`, replaces one rectangle, the same in all frames, by standard normal noise.

    The noise is independent for every pixel and frame.

    Args:
        clip: normalised float `(frames, channels, height, width)`; not modified, an erased clip is a new tensor.
        generator: random generator of the sample.
        probability: probability of erasing.
    """
    if generator.random() >= probability:
        return clip
    box = draw_erasing_box(generator, *clip.shape[-2:])
    if box is None:
        return clip
    top, left, height, width = box
    noise = generator.standard_normal((*clip.shape[:2], height, width), dtype=np.float32)
    erased = clip.clone()
    erased[:, :, top : top + height, left : left + width] = torch.from_numpy(noise)
    return erased


def draw_erasing_box(generator: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of a random rectangle with 1/50 to 1/3 of the frame's area and an aspect ratio
    (height over width) of 0.3 to 1/0.3, or None if none of a hundred samples fits the frame."""
    for _ in range(100):
        area_fraction = generator.uniform(0.02, 1 / 3)
        log_aspect = generator.uniform(math.log(0.3), -math.log(0.3))
        size = erasing_size(height, width, area_fraction, log_aspect)
        if size is not None:
            top = int(generator.integers(height - size[0] + 1))
            left = int(generator.integers(width - size[1] + 1))
            return top, left, *size
    return None


def erasing_size(height: int, width: int, area_fraction: float, log_aspect: float) -> tuple[int, int] | None:
    """(height, width) in pixels of a rectangle with this fraction of the frame's area and this logarithm of height
    over width, or None if it is not smaller than the frame in both directions."""
    area, aspect = area_fraction * height * width, math.exp(log_aspect)
    box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return (box_height, box_width) if box_height < height and box_width < width else None
