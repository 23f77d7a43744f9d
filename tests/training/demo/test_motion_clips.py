"""The generated motion clips: balanced, reproducible, solvable from two frames but not from one, lossless on disk."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from processing_umt.video_decoding_umt import VideoReader
from umt_training.data.video_dataset import collate_clips
from umt_training.data.video_records import load_video_records
from umt_training.demo.motion_clips import (
    COLUMNS,
    DIRECTIONS,
    NUM_FRAMES,
    RADII,
    ROWS,
    SIZE,
    SPEEDS,
    MotionClipDataset,
    draw_motion_clip,
    render_motion_clips,
    roll_and_jitter,
    write_motion_clips,
)

NUM_CLASSES = len(DIRECTIONS)


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    """Positions (clips, NUM_FRAMES, 2) and labels of many clips, whose frames are not rendered."""
    clips = [draw_motion_clip(5, index) for index in range(8000)]
    return np.stack([clip.positions for clip in clips]), np.array([clip.label for clip in clips])


# --- a function of (seed, index) -------------------------------------------------------------------------------------


def test_a_clip_is_a_function_of_seed_and_index():
    again = render_motion_clips(3, 20)
    frames, labels = render_motion_clips(3, 40)
    assert (frames[:20] == again[0]).all() and (labels[:20] == again[1]).all()
    assert (frames[17] == draw_motion_clip(3, 17).frames()).all()
    assert frames.dtype == np.uint8 and frames.shape == (40, NUM_FRAMES, SIZE, SIZE, 3)
    assert len({clip.tobytes() for clip in frames}) == 40
    assert not (frames == render_motion_clips(4, 40)[0]).all(axis=(1, 2, 3, 4)).any()


def test_global_random_state_is_unchanged():
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    render_motion_clips(0, 4)
    assert (np.random.get_state()[1] == state[0]).all() and (torch.random.get_rng_state() == state[1]).all()


@given(num_clips=st.integers(0, 40))
@settings(max_examples=10, deadline=None)
def test_classes_are_balanced(num_clips):
    counts = Counter(draw_motion_clip(1, index).label for index in range(num_clips))
    sizes = [counts[label] for label in range(NUM_CLASSES)]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == num_clips


# --- a single frame does not show the class --------------------------------------------------------------------------


def test_position_is_uniform_in_every_frame_for_every_class(many):
    positions, labels = many
    cells = (positions * 4 // SIZE).astype(int)
    assert cells.min() >= 0 and cells.max() <= 3
    for label in range(NUM_CLASSES):
        for frame in range(NUM_FRAMES):
            column, row = cells[labels == label, frame].T
            observed = np.bincount(4 * row + column, minlength=16)
            expected = observed.sum() / 16
            # 64 tests with 15 degrees of freedom: the largest statistic exceeds 50 for one seed in a thousand
            assert ((observed - expected) ** 2 / expected).sum() < 50


def test_all_other_parameters_have_the_same_distribution_in_every_class():
    clips = [draw_motion_clip(6, index) for index in range(4000)]
    for field in ("shape", "colour", "background", "pattern", "stripe_axis", "stripe_phase"):
        values = sorted({getattr(clip, field) for clip in clips})
        table = np.zeros((NUM_CLASSES, len(values)))
        for clip in clips:
            table[clip.label, values.index(getattr(clip, field))] += 1
        expected = 4000 / table.size
        assert ((table - expected) ** 2 / expected).sum() < table.size + 6 * (2 * table.size) ** 0.5, field
    for field, (low, high) in (("speed", SPEEDS), ("radius", RADII), ("angle", (0, 2 * np.pi))):
        for label in range(NUM_CLASSES):
            values = np.array([getattr(clip, field) for clip in clips if clip.label == label])
            assert low <= values.min() and values.max() <= high
            assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / (12 * len(values)) ** 0.5
    assert all(clip.colour != clip.background for clip in clips)


@pytest.fixture(scope="module")
def rendered() -> tuple[torch.Tensor, torch.Tensor]:
    """Float clips (1600, NUM_FRAMES, 3 * 16 * 16), downscaled by two and with zero mean, and labels."""
    frames, labels = render_motion_clips(11, 1600)
    clips = torch.from_numpy(frames).float().unflatten(2, (SIZE // 2, 2)).unflatten(4, (SIZE // 2, 2)).mean((3, 5))
    clips = clips.flatten(2)
    return clips - clips.mean(0), torch.from_numpy(labels)


def ridge_accuracy(features: torch.Tensor, labels: torch.Tensor, num_train: int) -> float:
    """Accuracy in percent of ridge regression onto one-hot labels, on the clips after the first `num_train`."""
    targets = torch.nn.functional.one_hot(labels[:num_train]).double()
    train = features[:num_train].double()
    gram = train @ train.T
    dual = torch.linalg.solve(gram + 0.01 * gram.diagonal().mean() * torch.eye(num_train), targets)
    scores = features[num_train:].double() @ (train.T @ dual)
    return 100 * (scores.argmax(1) == labels[num_train:]).double().mean().item()


def nearest_accuracy(features: torch.Tensor, labels: torch.Tensor, num_train: int) -> float:
    """Accuracy in percent of the nearest training clip, on the clips after the first `num_train`."""
    nearest = torch.cdist(features[num_train:], features[:num_train]).argmin(1)
    return 100 * (labels[:num_train][nearest] == labels[num_train:]).double().mean().item()


@pytest.mark.parametrize("probe", [ridge_accuracy, nearest_accuracy])
@pytest.mark.parametrize("frame", [0, NUM_FRAMES - 1])
def test_probes_of_a_single_frame_are_at_chance(rendered, probe, frame):
    clips, labels = rendered
    accuracy = probe(clips[:, frame], labels, num_train=1000)
    assert abs(accuracy - 12.5) < 5.4  # four standard deviations of chance over 600 clips


def test_unordered_frames_do_not_distinguish_a_direction_from_its_opposite(rendered):
    """The mean frame is blurred along the axis of the motion; a clip and its reverse are equally likely."""
    clips, labels = rendered
    mean_frames = clips.mean(1)
    spectra = torch.fft.fft2(mean_frames.unflatten(1, (SIZE // 2, SIZE // 2, 3)), dim=(1, 2)).abs().flatten(1).log1p()
    assert ridge_accuracy(spectra - spectra.mean(0), labels % 4, num_train=1000) > 60  # four axes
    for features in (mean_frames, spectra - spectra.mean(0)):
        assert abs(ridge_accuracy(features, labels // 4, num_train=1000) - 50) < 8.2


# --- two frames show the class ---------------------------------------------------------------------------------------


def test_two_frames_determine_the_direction():
    """It follows from the shift with the largest cross-correlation between the objects of two frames."""
    correct = 0
    for index in range(160):
        clip = draw_motion_clip(9, index)
        first, second = (np.abs(frame - clip.still_background()).sum(-1) for frame in clip.frames()[:2].astype(float))
        correlation = np.fft.ifft2(np.fft.fft2(first).conj() * np.fft.fft2(second)).real
        shift = np.array(np.unravel_index(correlation.argmax(), correlation.shape))
        down, east = (shift + SIZE // 2) % SIZE - SIZE // 2
        correct += round(np.arctan2(east, -down) / (np.pi / 4)) % NUM_CLASSES == clip.label
    assert correct >= 158  # rounding to integer shifts can fail for the slowest diagonal motion


def test_speed_and_heading(many):
    positions, labels = many
    steps = (np.diff(positions, axis=1) + SIZE / 2) % SIZE - SIZE / 2  # (clips, NUM_FRAMES - 1, 2)
    speeds = np.linalg.norm(steps, axis=-1)
    assert SPEEDS[0] - 1e-9 <= speeds.min() and speeds.max() <= SPEEDS[1] + 1e-9
    heading = np.arctan2(steps[..., 0], -steps[..., 1]) / (np.pi / 4)
    assert np.allclose((heading - labels[:, None] + 4) % 8, 4)
    names = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
    for name, (x, y) in names.items():
        mean = steps[labels == DIRECTIONS.index(name)].mean((0, 1))
        assert np.allclose(np.sign(mean.round(6)), (x, y))


def test_the_object_is_at_its_position():
    for index in range(64):
        clip = draw_motion_clip(2, index)
        for frame, (x, y) in zip(clip.frames(), clip.positions, strict=True):
            mass = np.abs(frame - clip.still_background()).sum(-1)
            angles = 2 * np.pi * (np.arange(SIZE) + 0.5) / SIZE  # circular mean: centre of mass on a torus
            centre_x = np.angle((mass.sum(0) * np.exp(1j * angles)).sum()) * SIZE / (2 * np.pi)
            centre_y = np.angle((mass.sum(1) * np.exp(1j * angles)).sum()) * SIZE / (2 * np.pi)
            offset = (np.array([centre_x - x, centre_y - y]) + SIZE / 2) % SIZE - SIZE / 2
            assert np.abs(offset).max() < 3  # the object's two tones have different weights


def test_captions_name_the_object_the_background_and_the_position():
    for index in range(64):
        clip = draw_motion_clip(8, index)
        for frame, (x, y) in enumerate(clip.positions):
            words = clip.caption(frame).replace(",", "").split()
            assert words[:5] == [clip.colour, clip.shape, clip.pattern, clip.background, "background"]
            assert COLUMNS.index(words[5]) == x // 8 and ROWS.index(words[6]) == y // 8
        assert not any(word in clip.caption(0) for word in DIRECTIONS)


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_decode_to_the_same_frames_in_class_folders(tmp_path):
    paths = write_motion_clips(tmp_path, 24, seed=3)
    frames, labels = render_motion_clips(3, 24)
    for path, clip, label in zip(paths, frames, labels, strict=True):
        assert path.parent.name == DIRECTIONS[label]
        with VideoReader(str(path)) as reader:
            assert reader.num_frames == NUM_FRAMES and reader.fps == 8
            assert (np.asarray(reader.read(np.arange(NUM_FRAMES))) == clip).all()
    assert sum(path.stat().st_size for path in paths) < 24 * 8000
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths), "temporary files remain"
    records = load_video_records(str(tmp_path))
    assert Counter(records["label"]) == dict.fromkeys(range(NUM_CLASSES), 3)


def test_seeds_share_a_folder_and_a_second_run_changes_nothing(tmp_path):
    first = write_motion_clips(tmp_path, 8, seed=0)
    content = [path.read_bytes() for path in first]
    assert not set(first) & set(write_motion_clips(tmp_path, 8, seed=1))
    assert write_motion_clips(tmp_path, 8, seed=0) == first
    assert [path.read_bytes() for path in first] == content


# --- samples for the trainers ----------------------------------------------------------------------------------------


def test_a_roll_moves_all_frames_together():
    clip = draw_motion_clip(0, 3).frames()
    rolled = roll_and_jitter(clip, np.random.default_rng(0)).permute(0, 2, 3, 1).numpy()
    matches = [
        (down, right)
        for down in range(SIZE)
        for right in range(SIZE)
        if (np.roll(clip, (down, right), axis=(1, 2)) == rolled).all()
    ]
    assert len(matches) >= 1 and matches[0] != (0, 0)


def test_jitter_scales_a_channel_equally_in_all_frames():
    clip = np.full((NUM_FRAMES, SIZE, SIZE, 3), 200, np.uint8)
    jittered = roll_and_jitter(clip, np.random.default_rng(2), jitter=0.2)
    assert jittered.dtype == torch.uint8 and (jittered == jittered[:1, :, :1, :1]).all()
    values = jittered[0, :, 0, 0].tolist()
    assert len(set(values)) == 3 and all(160 <= value <= 240 for value in values)


def test_samples_are_a_function_of_seed_epoch_and_index():
    frames, labels = render_motion_clips(0, 8)

    def sample(index: int, epoch: int = 0, seed: int = 0):
        dataset = MotionClipDataset(frames, labels, partial(roll_and_jitter, jitter=0.2), seed=seed)
        dataset.set_epoch(epoch)
        return dataset[index]

    def same(one, other) -> bool:
        return one["sample_seed"] == other["sample_seed"] and bool(
            (one["pixel_values_videos"] == other["pixel_values_videos"]).all()
        )

    assert same(sample(3), sample(3))
    for other in (sample(3, epoch=1), sample(3, seed=1), sample(4)):
        assert not same(sample(3), other)
    batch = collate_clips([sample(index) for index in range(8)])
    assert batch["pixel_values_videos"].shape == (8, NUM_FRAMES, 3, SIZE, SIZE)
    assert batch["labels"].tolist() == labels.tolist() and len(set(batch["sample_seeds"].tolist())) == 8
    assert "labels" not in MotionClipDataset(frames)[0]
    assert (MotionClipDataset(frames)[0]["pixel_values_videos"].permute(0, 2, 3, 1).numpy() == frames[0]).all()
