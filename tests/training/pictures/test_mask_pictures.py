"""Pictures of masks: exactly the hidden tokens are dimmed, and the heat map follows the attention."""

import numpy as np
import pytest
import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_umt.token_selection_umt import attention_token_selection, draw_masks
from umt_training.pictures.drawing import save_picture
from umt_training.pictures.mask_pictures import clip_pixels, dim_hidden, draw_mask_strip, heat_over, hidden_tokens

CASES = [  # frames, height, width, grid
    (1, 32, 32, (4, 4)),
    (8, 32, 32, (4, 4)),
    (3, 32, 48, (2, 3)),
    (12, 64, 64, (4, 4)),
    (8, 224, 224, (14, 14)),
]


def some_clip(frames: int, height: int, width: int) -> torch.Tensor:
    """A clip without dark pixels, so that dimming is detectable."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(100, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def some_attention(frames: int, grid: tuple[int, int]) -> torch.Tensor:
    return torch.rand(frames, grid[0] * grid[1], generator=torch.Generator().manual_seed(1))


def find(picture: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """(top, left) of every exact occurrence of an image in a picture."""
    height, width = image.shape[:2]
    rows, columns = np.nonzero((picture[: 1 - height or None, : 1 - width or None] == image[0, 0]).all(axis=-1))
    return [
        (top, left)
        for top, left in zip(rows.tolist(), columns.tolist(), strict=True)
        if np.array_equal(picture[top : top + height, left : left + width], image)
    ]


@pytest.mark.parametrize(("frames", "height", "width", "grid"), CASES)
def test_exactly_the_hidden_tokens_are_dimmed(frames, height, width, grid):
    pixels = clip_pixels(some_clip(frames, height, width))
    visible = attention_token_selection(some_attention(frames, grid)[None], 0.6)[0]
    drawn = dim_hidden(pixels, hidden_tokens(visible, frames, grid))
    patch = (height // grid[0], width // grid[1])
    for token in range(frames * grid[0] * grid[1]):
        frame, index = divmod(token, grid[0] * grid[1])
        row, column = divmod(index, grid[1])
        window = frame, slice(row * patch[0], (row + 1) * patch[0]), slice(column * patch[1], (column + 1) * patch[1])
        if token in visible.tolist():
            assert np.array_equal(drawn[window], pixels[window])
        else:
            assert (drawn[window] < 0.25 * pixels[window]).all()


def test_the_heat_map_is_brightest_at_the_highest_attention():
    """On a uniform grey clip, tokens have the same order by brightness as by attention, over all frames."""
    frames, grid = 3, (4, 4)
    attention = some_attention(frames, grid)
    heat = heat_over(np.full((frames, 32, 32, 3), 128, np.uint8), attention, grid)
    tokens = heat.reshape(frames, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(frames * 16, 64, 3).astype(int)
    assert (tokens == tokens[:, :1]).all()  # one colour per token
    brightness = tokens[:, 0] @ np.array([0.299, 0.587, 0.114])
    order = attention.flatten().argsort().numpy()
    assert (np.diff(brightness[order]) >= -1).all() and brightness[order[-1]] > brightness[order[0]] + 100
    # the frame stays visible under the heat map
    striped = np.full((1, 32, 32, 3), 40, np.uint8)
    striped[:, ::2] = 220
    bright, dark = heat_over(striped, torch.ones(1, 16), grid)[0, :2]
    assert (bright > dark).all()


@pytest.mark.parametrize(("frames", "height", "width", "grid"), CASES)
@pytest.mark.parametrize("num_masks", [1, 2])
def test_every_row_shows_every_frame(frames, height, width, grid, num_masks):
    clip, attention = some_clip(frames, height, width), some_attention(frames, grid)
    masks = draw_masks(attention_token_selection, attention[None], 0.6, torch.tensor([5]), num_masks)[0]
    picture = np.asarray(draw_mask_strip(clip, masks, attention, grid, title="A clip"))
    pixels = clip_pixels(clip)
    rows = [pixels, *(dim_hidden(pixels, hidden_tokens(mask, frames, grid)) for mask in masks)]
    rows.append(heat_over(pixels, attention, grid))
    factor = max(1, round(120 / height))
    for frame in {0, frames - 1}:
        found = [find(picture, row[frame].repeat(factor, axis=0).repeat(factor, axis=1)) for row in rows]
        assert [len(positions) for positions in found] == [1] * len(rows)
        tops, lefts = zip(*(positions[0] for positions in found), strict=True)
        assert len(set(lefts)) == 1 and list(tops) == sorted(set(tops))  # below each other, in this order


def test_normalised_clips_are_converted_back_to_their_pixels():
    clip = some_clip(2, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    normalised = (clip / 255 - mean) / std
    assert np.array_equal(clip_pixels(normalised), clip.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clip": torch.zeros(2, 32, 32, 3, dtype=torch.uint8)}, r"be \(frames, 3, height, width\), but its shape"),
        ({"visible_indices": torch.tensor([3, 32])}, "tokens from 3 to 32, but 2 steps of 4 x 4 tokens have 32"),
        ({"scores": torch.ones(2, 15)}, r"have shape \(2, 15\).* it must be \(2, 16\)"),
        ({"grid": (3, 5), "scores": torch.ones(2, 15)}, "do not divide into 3 x 5 tokens"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(changed, message):
    fitting = {
        "clip": some_clip(2, 32, 32),
        "visible_indices": torch.tensor([3, 20]),
        "scores": torch.ones(2, 16),
        "grid": (4, 4),
    }
    draw_mask_strip(**fitting)
    with pytest.raises(ValueError, match=message):
        draw_mask_strip(**fitting | changed)


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "new" / "mask.png"
    picture = draw_mask_strip(some_clip(1, 32, 32), torch.tensor([0]), torch.ones(1, 16), (4, 4))
    for _ in range(2):
        assert save_picture(picture, path) == path
        assert path.read_bytes().startswith(b"\x89PNG") and [file.name for file in path.parent.iterdir()] == [
            path.name
        ]
