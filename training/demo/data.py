"""The clips of `umt demo`: generated video files or the user's own, read once and split.

Every clip is a file, and the package's video processor reads it. The small frames are then kept in one memory-mapped
array shared by all processes: decoding each clip again in every epoch would take longer than training on it.

The controls (`repeat_one_frame`, `shuffle_frames`) remove the temporal information and keep the content of the frames.
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

# Seeds of the generated splits; labelled clips use `LABELLED` plus the run's seed. Labelled, validation and test clips
# are not those on which the demo's defaults were chosen (seeds 0, 1000 and 1001).
UNLABELLED, VALIDATION, TEST, LABELLED = 1000, 2001, 2002, 3000
REAL_SIZE = 64  # pixels per side to which frames of real clips are resized
TEST_FRACTION, VALIDATION_FRACTION = 0.25, 0.15  # of the real clips of each class


@dataclass(frozen=True)
class DemoClips:
    """All clips of a run and their splits.

    Args:
        class_names: Names of the classes, by label.
        paths: Video files, `(clips,)`.
        labels: int64 `(clips,)`.
        splits: `unlabelled`, `labelled-0`, `labelled-1` ..., `validation`, `test` → indices of clips.
        frames_file: `.npy` file of the frames, uint8 `(clips, NUM_FRAMES, side, side, 3)`.
        generated: Whether these are the clips of `umt_training.demo.motion_clips`, whose class a roll preserves.
    """

    class_names: list[str]
    paths: list[str]
    labels: np.ndarray
    splits: dict[str, list[int]]
    frames_file: Path
    generated: bool

    @property
    def side(self) -> int:
        """Pixels per side of a frame."""
        return SIZE if self.generated else REAL_SIZE

    @property
    def description(self) -> str:
        """The training data as a model card names it."""
        return "generated motion clips" if self.generated else "a folder of videos"

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Frames `(clips, NUM_FRAMES, side, side, 3)` and labels of a split."""
        chosen = self.splits[split]
        return np.load(self.frames_file, mmap_mode="r")[chosen], self.labels[chosen]

    def for_pretraining(self, seed: int) -> Dataset:
        frames, _ = self.read("unlabelled")
        augment = roll_and_jitter if self.generated else partial(augment_for_pretraining, size=REAL_SIZE)
        return MotionClipDataset(frames, transform=augment, seed=seed)

    def for_finetuning(self, seed: int) -> Dataset:
        """The labelled clips of a seed. No flips: left and right may distinguish classes."""
        frames, labels = self.read(f"labelled-{seed}")
        if self.generated:
            return labelled_motion_clips(frames, labels, seed)
        augment = partial(augment_for_finetuning, size=REAL_SIZE, flip=False, num_ops=0, scale=(0.5, 1.0))
        return MotionClipDataset(frames, labels, augment, seed=seed)

    def for_evaluation(self, split: str, control: Callable[[np.ndarray], np.ndarray] | None = None) -> Dataset:
        frames, labels = self.read(split)
        return MotionClipDataset(frames if control is None else control(frames), labels)


def demo_processor(side: int) -> UMTVideoProcessor:
    """The video processor of all clips; a video of eight frames yields all eight."""
    return UMTVideoProcessor(
        num_frames=NUM_FRAMES,
        sampling="segments",
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )


# --- files and splits ------------------------------------------------------------------------------------------------


def plan_motion_clips(sizes: dict[str, tuple[int, int]]) -> tuple[list[tuple[str, int, int]], dict[str, list[int]]]:
    """The clips to generate for splits given as name → (seed, number of clips).

    Returns:
        (split, seed, index) of every clip, and the splits as indices of clips.
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
    """Write generated clips as video files, one folder per split, and read them back; a task of a worker.

    Args:
        plan: (split, seed, index) of each clip.
        first: Row of `frames_file` for the first clip.

    Returns:
        The paths.
    """
    paths = []
    for number, (split, seed, index) in enumerate(plan, 1):
        paths.append(str(write_motion_clip(folder / split, seed, index)))
        on_step(number, 2 * len(plan))
    broken = read_clips(paths, first, frames_file, SIZE, lambda number, _: on_step(len(plan) + number, 2 * len(plan)))
    if broken:
        raise ValueError(f"{len(broken)} of the videos just written can't be read, the first: {broken[0][1]}")
    return paths


def list_real_clips(folder: Path) -> tuple[list[str], list[int], list[str]]:
    """Paths, labels and class names of a folder of class folders.

    Raises:
        ValueError: if the folder does not exist, or contains no video or fewer than two classes.
    """
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} does not exist; give one with a sub-folder of videos per class.")
    records = load_video_records(folder)
    if "label" not in (records.column_names or []):
        raise ValueError(f"The videos in {folder} have no classes; move them into one sub-folder per class.")
    class_names = records.features["label"].names
    if len(class_names) < 2:
        raise ValueError(f"{folder} has only the class {class_names[0]!r}; at least two sub-folders are needed.")
    return list(records["video"]), list(records["label"]), class_names


def split_real_clips(
    labels: np.ndarray, readable: Sequence[int], class_names: Sequence[str], num_labelled: int, seeds: Sequence[int]
) -> dict[str, list[int]]:
    """Splits of real clips: of each class 25 % for the test, 15 % for validation, the rest for training. All training
    clips are used without labels, and up to `num_labelled` per class with labels.

    Raises:
        ValueError: if a class has fewer than four readable clips.
    """
    splits: dict[str, list[int]] = {name: [] for name in ("unlabelled", "validation", "test")}
    splits |= {f"labelled-{seed}": [] for seed in seeds}
    generator = np.random.default_rng(0)
    for label, name in enumerate(class_names):
        clips = generator.permutation([index for index in readable if labels[index] == label]).tolist()
        if len(clips) < 4:
            raise ValueError(
                f"The class {name!r} has {len(clips)} readable videos; at least 4 are needed, for training, "
                "validation and test. Add some, or remove its folder."
            )
        num_test = max(1, round(TEST_FRACTION * len(clips)))
        num_validation = max(1, round(VALIDATION_FRACTION * len(clips)))
        splits["test"] += clips[:num_test]
        splits["validation"] += clips[num_test : num_test + num_validation]
        training = clips[num_test + num_validation :]
        splits["unlabelled"] += training
        for seed in seeds:
            splits[f"labelled-{seed}"] += (
                np.random.default_rng((1, seed, label)).permutation(training)[:num_labelled].tolist()
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
        (index of the clip, error message) of each unreadable video.
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
    """Write the files of each split as JSON."""
    listed = {split: [clips.paths[index] for index in chosen] for split, chosen in clips.splits.items()}
    path.write_text(json.dumps(listed, indent=1))


# --- controls --------------------------------------------------------------------------------------------------------


def repeat_one_frame(frames: np.ndarray) -> np.ndarray:
    """Clips (clips, T, H, W, 3) with all frames replaced by the middle one: tests what a single frame reveals."""
    return np.repeat(frames[:, NUM_FRAMES // 2, None], frames.shape[1], axis=1)


def shuffle_frames(frames: np.ndarray) -> np.ndarray:
    """Clips (clips, T, H, W, 3) with shuffled frames, never in the true order: tests what unordered frames reveal."""
    generator = np.random.default_rng(0)
    shuffled = np.empty_like(frames)
    for index, clip in enumerate(frames):
        order = generator.permutation(len(clip))
        while (order == np.arange(len(clip))).all():
            order = generator.permutation(len(clip))
        shuffled[index] = clip[order]
    return shuffled
