"""RandAugment for clips: the variant used to fine-tune UMT (arXiv 2303.16058, section 4 and appendix).

All published recipes use "rand-m7-n4-mstd0.5-inc1": four of fifteen operations, sampled with replacement, each applied
with probability 0.5, at a magnitude near 7 of 10, where a larger magnitude is a stronger distortion ("increasing").
Operations and arguments are sampled once per clip and applied to every frame, as motion would flicker otherwise.

The operations are Pillow's: torchvision's tensor versions differ by one grey level in AutoContrast, Color and
Contrast, lack bicubic rotation and shear, and are not faster on the single core of a worker.
"""

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

RAND_AUGMENT_OPS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
# the argument at level 10: degrees, slope, slope, fraction of the width, fraction of the height
_GEOMETRIC_REACH = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
_ENHANCERS = {
    "ColorIncreasing": ImageEnhance.Color,
    "ContrastIncreasing": ImageEnhance.Contrast,
    "BrightnessIncreasing": ImageEnhance.Brightness,
    "SharpnessIncreasing": ImageEnhance.Sharpness,
}
_APPLY_PROBABILITY = 0.5
_MAGNITUDE_STD = 0.5
_MAX_LEVEL = 10.0
_FILL = (128, 128, 128)


def rand_augment(
    clip: torch.Tensor, generator: np.random.Generator, num_ops: int = 4, magnitude: float = 7.0
) -> torch.Tensor:
    """Applies the operations sampled by `draw_rand_augment` to every frame.

    Args:
        clip: uint8 `(frames, 3, height, width)`.
        generator: random generator of the sample.
        num_ops: number of operations sampled; on average, half of them are applied.
        magnitude: mean magnitude, 0 to 10.

    Returns:
        uint8 `(frames, 3, height, width)`.
    """
    ops = draw_rand_augment(generator, num_ops, magnitude)
    if not ops:
        return clip
    frames = []
    for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
        image = Image.fromarray(frame)
        for op, argument in ops:
            image = apply_op(image, op, argument)
        frames.append(np.asarray(image))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def draw_rand_augment(
    generator: np.random.Generator, num_ops: int = 4, magnitude: float = 7.0
) -> list[tuple[str, float | int | None]]:
    """Samples the operations to apply, in order, as (name, argument): each of `num_ops` with probability 0.5."""
    ops = []
    for op_index in generator.integers(len(RAND_AUGMENT_OPS), size=num_ops):
        if generator.random() >= _APPLY_PROBABILITY:
            continue
        op = RAND_AUGMENT_OPS[op_index]
        level = float(np.clip(generator.normal(magnitude, _MAGNITUDE_STD), 0.0, _MAX_LEVEL))
        ops.append((op, op_argument(op, level, negated=generator.random() < 0.5)))
    return ops


def op_argument(op: str, level: float, negated: bool = False) -> float | int | None:
    """The argument of operation `op` at `level`, 0 to 10.

    `negated` reverses the direction of geometric operations (around 0) and of enhancers (around the factor 1). The
    remaining operations ignore it; for those without a magnitude the argument is None.
    """
    strength = level / _MAX_LEVEL
    sign = -1 if negated else 1
    if op in _GEOMETRIC_REACH:
        return sign * strength * _GEOMETRIC_REACH[op]
    if op in _ENHANCERS:
        return 1.0 + sign * strength * 0.9
    if op == "PosterizeIncreasing":
        return 4 - int(strength * 4)  # number of bits kept
    if op == "SolarizeIncreasing":
        return 256 - int(strength * 256)  # grey level from which pixels are inverted
    if op == "SolarizeAdd":
        return int(strength * 110)  # added to every grey level below 128
    return None


def apply_op(image: Image.Image, op: str, argument: float | int | None) -> Image.Image:
    """Applies one operation to one RGB image; geometric ones resample bicubically and fill with grey.

    Raises:
        ValueError: `op` is not one of `RAND_AUGMENT_OPS`.
    """
    if op in _ENHANCERS:
        return _ENHANCERS[op](image).enhance(argument)
    if op == "AutoContrast":
        return ImageOps.autocontrast(image)
    if op == "Equalize":
        return ImageOps.equalize(image)
    if op == "Invert":
        return ImageOps.invert(image)
    if op == "PosterizeIncreasing":
        return _map_levels(image, [level & (0xFF << (8 - argument)) for level in range(256)])
    if op == "SolarizeIncreasing":
        return _map_levels(image, [level if level < argument else 255 - level for level in range(256)])
    if op == "SolarizeAdd":
        return _map_levels(image, [min(255, level + argument) if level < 128 else level for level in range(256)])
    if op == "Rotate":
        return image.rotate(argument, resample=Image.Resampling.BICUBIC, fillcolor=_FILL)
    if op == "ShearX":
        return _affine(image, (1, argument, 0, 0, 1, 0))
    if op == "ShearY":
        return _affine(image, (1, 0, 0, argument, 1, 0))
    if op == "TranslateXRel":
        return _affine(image, (1, 0, argument * image.width, 0, 1, 0))
    if op == "TranslateYRel":
        return _affine(image, (1, 0, 0, 0, 1, argument * image.height))
    raise ValueError(f"op is {op!r}; choose one of {', '.join(map(repr, RAND_AUGMENT_OPS))}.")


def _map_levels(image: Image.Image, table: list[int]) -> Image.Image:
    """Maps the grey levels of every channel by one table of 256 values."""
    return image.point(table * 3)


def _affine(image: Image.Image, inverse: tuple[float, ...]) -> Image.Image:
    """Affine transform; `inverse` is the 2x3 matrix, row by row, from output pixels to input pixels."""
    return image.transform(
        image.size, Image.Transform.AFFINE, inverse, resample=Image.Resampling.BICUBIC, fillcolor=_FILL
    )
