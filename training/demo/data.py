"""The clips of `umt demo`: video files of its own making or of the user's, read once, dealt out to splits.

Every clip is a file, and what training sees was read from it by the package's video processor. Frames this small are
then kept in one array on disk, which all processes map: decoding a clip again in each of ten epochs would take longer
than training on it.

Controls (`repeat_one_frame`, `shuffle_frames`) take away what only a video has, and leave every frame's content.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from processing_umt import UMTVideoProcessor, VideoDecodeError
from processing_umt.augmentation_umt import augment_for_finetuning, augment_for_pretraining

from ..data.video_records import load_video_records
from .motion_clips import NUM_FRAMES, SIZE, MotionClipDataset, roll_and_jitter, write_motion_clip
from .tiny_runs import labelled_motion_clips

# Seeds of the generated splits; labelled clips have `LABELLED` plus the run's own. Not those on which the defaults of
# the demo were chosen (0, 1000 and 1001).
UNLABELLED, VALIDATION, TEST, LABELLED = 1000, 2001, 2002, 3000
REAL_SIZE = 64  # pixels that frames of real clips are brought to
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15  # of real clips, in each class


@dataclass(frozen=True)
class DemoClips:
    """All clips of a run and who sees them.

    Args:
        class_names: By number.
        paths: Files, `(clips,)`.
        labels: int64 `(clips,)`.
        splits: `unlabelled`, `labelled-0`, `labelled-1` ..., `validation`, `test` → numbers of clips.
        frames_file: The frames, uint8 `(clips, NUM_FRAMES, side, side, 3)`, as `.npy`.
        generated: Whether the clips are `umt_training.demo.motion_clips`, which a roll leaves in their class.
    """

    class_names: list[str]
    paths: list[str]
    labels: np.ndarray
    splits: dict[str, list[int]]
    frames_file: Path
    generated: bool

    @property
    def side(self) -> int:
        return SIZE if self.generated else REAL_SIZE

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames `(clips, NUM_FRAMES, side, side, 3)` and labels of a split."""
        chosen = self.splits[split]
        return np.load(self.frames_file, mmap_mode="r")[chosen], self.labels[chosen]

    def for_pretraining(self, seed: int) -> Dataset:
        frames, _ = self.read("unlabelled")
        augment = roll_and_jitter if self.generated else partial(augment_for_pretraining, size=REAL_SIZE)
        return MotionClipDataset(frames, transform=augment, seed=seed)

    def for_finetuning(self, seed: int) -> Dataset:
        """The labelled clips of a seed; none is mirrored, as left and right may make the class."""
        frames, labels = self.read(f"labelled-{seed}")
        if self.generated:
            return labelled_motion_clips(frames, labels, seed)
        augment = partial(augment_for_finetuning, size=REAL_SIZE, flip=False, num_ops=0, scale=(0.5, 1.0))
        return MotionClipDataset(frames, labels, augment, seed=seed)

    def for_evaluation(self, split: str, control: Callable[[np.ndarray], np.ndarray] | None = None) -> Dataset:
        frames, labels = self.read(split)
        return MotionClipDataset(frames if control is None else control(frames), labels)


def demo_processor(side: int) -> UMTVideoProcessor:
    """The processor that all clips go through; a video of eight frames gives all eight."""
    return UMTVideoProcessor(
        num_frames=NUM_FRAMES,
        sampling="segments",
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )


# --- which files, and who sees them ----------------------------------------------------------------------------------


def plan_motion_clips(sizes: dict[str, tuple[int, int]]) -> tuple[list[tuple[str, int, int]], dict[str, list[int]]]:
    """Which clips to generate for splits of given (seed, number of clips).

    Returns:
        (split, seed, index) of every clip, and the splits as numbers of clips.
    """
    plan: list[tuple[str, int, int]] = []
    splits = {}
    for split, (seed, number) in sizes.items():
        splits[split] = list(range(len(plan), len(plan) + number))
        plan += [(split, seed, index) for index in range(number)]
    return plan, splits


def make_clips(
    plan: Sequence[tuple[str, int, int]], first: int, folder: Path, frames_file: Path, on_step: Callable[..., None]
) -> list[str]:
    """Write generated clips as files into a folder for each split, and read them back; a task of a worker.

    Args:
        plan: (split, seed, index) of each.
        first: Row of `frames_file` that the first of them is for.

    Returns:
        The paths.
    """
    paths = []
    for number, (split, seed, index) in enumerate(plan, 1):
        paths.append(str(write_motion_clip(folder / split, seed, index)))
        on_step(number, 2 * len(plan))
    broken = read_clips(paths, first, frames_file, SIZE, lambda number, _: on_step(len(plan) + number, 2 * len(plan)))
    if broken:
        raise ValueError(f"{len(broken)} of the videos just written can't be read, first: {broken[0][1]}")
    return paths


def list_real_clips(folder: Path) -> tuple[list[str], list[int], list[str]]:
    """Paths, labels and class names of a folder of class folders.

    Raises:
        ValueError: if there is no such folder, no video in it, or fewer than two classes.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; give one that holds a sub-folder of videos for each class.")
    records = load_video_records(folder)
    if "label" not in (records.column_names or []):
        raise ValueError(f"The videos of {folder} have no classes; put them into a sub-folder for each class.")
    class_names = records.features["label"].names
    if len(class_names) < 2:
        raise ValueError(f"{folder} has the one class {class_names[0]!r}; there must be two sub-folders at least.")
    return list(records["video"]), list(records["label"]), class_names


def deal_out(
    labels: np.ndarray, readable: Sequence[int], class_names: Sequence[str], num_labelled: int, seeds: Sequence[int]
) -> dict[str, list[int]]:
    """Splits of real clips: of each class a quarter for the test, 15 % for validation, and the rest to learn from,
    all of it without labels and `num_labelled` of each class (or what there is) with them.

    Raises:
        ValueError: if a class has fewer than four clips that can be read.
    """
    splits: dict[str, list[int]] = {name: [] for name in ("unlabelled", "validation", "test")}
    splits |= {f"labelled-{seed}": [] for seed in seeds}
    generator = np.random.default_rng(0)
    for label, name in enumerate(class_names):
        clips = generator.permutation([index for index in readable if labels[index] == label]).tolist()
        if len(clips) < 4:
            raise ValueError(
                f"The class {name!r} has {len(clips)} videos that can be read; at least 4 are needed, for training, "
                "validation and test. Add some, or take its folder away."
            )
        num_test = max(1, round(TEST_SHARE * len(clips)))
        num_validation = max(1, round(VALIDATION_SHARE * len(clips)))
        splits["test"] += clips[:num_test]
        splits["validation"] += clips[num_test : num_test + num_validation]
        learning = clips[num_test + num_validation :]
        splits["unlabelled"] += learning
        for seed in seeds:
            splits[f"labelled-{seed}"] += (
                np.random.default_rng((1, seed, label)).permutation(learning)[:num_labelled].tolist()
            )
    return splits


# --- reading ---------------------------------------------------------------------------------------------------------


def new_frames_file(path: Path, num_clips: int, side: int) -> None:
    np.lib.format.open_memmap(path, "w+", np.uint8, (num_clips, NUM_FRAMES, side, side, 3))


def read_clips(
    paths: Sequence[str], first: int, frames_file: Path, side: int, on_step: Callable[..., None]
) -> list[tuple[int, str]]:
    """Read videos into the rows of `frames_file` from `first` on; a task of a worker.

    Returns:
        (number of the clip, what is wrong) of the videos that can't be read.
    """
    rows, processor, broken = np.load(frames_file, mmap_mode="r+"), demo_processor(side), []
    for number, path in enumerate(paths):
        try:
            clip = processor(path, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values_videos"]
            rows[first + number] = clip[0].transpose(0, 2, 3, 1)
        except VideoDecodeError as error:
            broken.append((first + number, str(error)))
        on_step(number + 1, len(paths))
    rows.flush()
    return broken


def write_splits(clips: DemoClips, path: Path) -> None:
    """Which file is in which split, as JSON."""
    listed = {split: [clips.paths[index] for index in chosen] for split, chosen in clips.splits.items()}
    path.write_text(json.dumps(listed, indent=1))


# --- controls --------------------------------------------------------------------------------------------------------


def repeat_one_frame(frames: np.ndarray) -> np.ndarray:
    """Clips (clips, T, H, W, 3) that show their middle frame all the time: what a still picture tells."""
    return np.repeat(frames[:, NUM_FRAMES // 2, None], frames.shape[1], axis=1)


def shuffle_frames(frames: np.ndarray) -> np.ndarray:
    """Clips (clips, T, H, W, 3) whose frames are in a random order, never the true one: what the set of them tells."""
    generator = np.random.default_rng(0)
    shuffled = np.empty_like(frames)
    for index, clip in enumerate(frames):
        order = generator.permutation(len(clip))
        while (order == np.arange(len(clip))).all():
            order = generator.permutation(len(clip))
        shuffled[index] = clip[order]
    return shuffled
