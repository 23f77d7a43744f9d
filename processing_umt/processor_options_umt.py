"""Options of `UMTVideoProcessor`: what cannot be meant, or has no effect, is an error of one line."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .frame_sampling_umt import RULES_WITH_STRIDE, sample_clips
from .resize_umt import RESIZE_KERNELS

# of action detection: AVA's clips are 64 frames at 25 frames per second
KEY_FRAME_DEFAULTS = {"frame_stride": 8, "sampling_fps": 25}
# None is a value of these: in a call it turns off what is saved
MAY_BE_NONE = ("sampling_fps", "size_divisor", "box_extension")


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options with NumPy numbers and arrays as those of Python, which Transformers checks and saves."""

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value

    return {name: plain(value) for name, value in options.items()}


def check_fps(fps: float | None) -> None:
    if fps is not None:
        raise ValueError(
            f"fps is {fps!r}, but a clip has num_frames frames; for a fixed distance between them use "
            'sampling="strided" with frame_stride.'
        )


def check_options(options: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Raises a ValueError for invalid options and combinations, and for a `given` option that has no effect."""
    for name, choices in (("resize_kernel", RESIZE_KERNELS), ("on_error", ("raise", "skip"))):
        if options[name] not in choices:
            raise ValueError(f"{name} is {options[name]!r}; choose one of {', '.join(map(repr, choices))}.")
    for name in ("num_frames", "num_clips", "num_crops", "frame_stride"):
        if not isinstance(options[name], int) or isinstance(options[name], bool) or options[name] < 1:
            raise ValueError(f"{name} is {options[name]!r}; expected an integer of at least 1.")
    check_fps(options["fps"])
    layout = options["input_data_format"]
    if layout not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format is {layout!r}; choose 'channels_first' or 'channels_last'.")
    if options["data_format"] not in (None, "channels_first"):
        raise ValueError(f"data_format is {str(options['data_format'])!r}; only 'channels_first' is returned.")
    if options["do_pad"]:
        raise ValueError("do_pad is True, but videos are padded by size_divisor alone; leave do_pad out.")
    if given.get("frame_stride", 1) not in (None, 1) and options["sampling"] not in (*RULES_WITH_STRIDE, "key_frame"):
        raise ValueError(
            f"frame_stride is {given['frame_stride']}, but sampling={options['sampling']!r} has no stride; use "
            'sampling="strided" or "dense", or frame_stride=1.'
        )
    if given.get("sampling_fps") is not None and options["sampling"] != "key_frame":
        raise ValueError(
            f'sampling_fps is {given["sampling_fps"]}, but is the rate of sampling="key_frame", not of '
            f"{options['sampling']!r}; leave it out."
        )
    check_detection_options(options)
    if given.get("resample") is not None and options["resize_kernel"] != "antialias":
        raise ValueError(
            f"resample is the filter of resize_kernel='antialias' and has no effect on {options['resize_kernel']!r}; "
            "leave it out."
        )
    if options["sampling"] != "key_frame":
        # a video of one frame is enough for the check of the rule's name and its number of clips
        sample_clips(1, 1, sampling=options["sampling"], num_clips=options["num_clips"])
    elif options["num_clips"] > 1:
        raise ValueError(f'num_clips is {options["num_clips"]}, but sampling="key_frame" has one clip per key frame.')
    if options["num_clips"] > 1 and not options["do_sample_frames"]:
        raise ValueError(f"num_clips is {options['num_clips']}, but do_sample_frames=False uses every frame once.")
    if options["num_crops"] > 1 and not options["do_center_crop"]:
        raise ValueError(f"num_crops is {options['num_crops']}, but do_center_crop=False does not crop.")


def check_detection_options(options: Mapping[str, Any]) -> None:
    """Raises a ValueError for invalid values of the options of action detection; each may be None."""
    rate, divisor, extension = (options[name] for name in MAY_BE_NONE)
    if rate is not None and not (_is_number(rate) and rate > 0):
        raise ValueError(f"sampling_fps is {rate!r}; expected frames per second above 0, or None.")
    if divisor is not None and (not isinstance(divisor, int) or isinstance(divisor, bool) or divisor < 1):
        raise ValueError(f"size_divisor is {divisor!r}; expected an integer of at least 1, or None.")
    if extension is not None and not (
        isinstance(extension, (list, tuple))
        and len(extension) == 2
        and all(_is_number(fraction) and fraction >= 0 for fraction in extension)
    ):
        raise ValueError(
            f"box_extension is {extension!r}; expected the fractions [of the width, of the height], or None."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_boxes_and_key_frames(options: Mapping[str, Any], has_boxes: bool, has_key_frames: bool) -> None:
    """Raises a ValueError where boxes or key frames of a call would have no effect, or a wrong one."""
    if has_key_frames and not (options["sampling"] == "key_frame" and options["do_sample_frames"]):
        rule = repr(options["sampling"]) if options["do_sample_frames"] else "do_sample_frames=False"
        raise ValueError(f'Key frames were given, but they have no effect on {rule}; use sampling="key_frame".')
    if has_boxes and options["do_center_crop"]:
        raise ValueError("Boxes were given, but do_center_crop=True would cut persons off; use do_center_crop=False.")
    if has_boxes and options["num_clips"] > 1:
        raise ValueError(f"Boxes were given for a key frame, but num_clips is {options['num_clips']}; use one clip.")


def check_one_view_per_item(options: Mapping[str, Any], num_items: int, num_videos: int) -> None:
    """Raises a ValueError where `num_items` items of a list would not have one view each."""
    if options["num_clips"] * options["num_crops"] > 1:
        raise ValueError(
            f"num_clips is {options['num_clips']} and num_crops {options['num_crops']}, but one view of each video is "
            "expected here; leave them out."
        )
    if options["on_error"] == "skip":
        raise ValueError('on_error is "skip", but every video is expected to have a view here; leave it out.')
    if num_items != num_videos:
        raise ValueError(
            f"A list of {num_items} contains {num_videos} videos, but each of its items is expected to be one video "
            "here; give a list of videos, each a path, or an array (frames, height, width, channels)."
        )


def metadata_per_video(metadata: Any, num_videos: int) -> list[Mapping[str, Any]]:
    """The caller's metadata as one mapping per video, empty without metadata."""
    if metadata is None:
        return [{}] * num_videos
    entries = _flatten(metadata) if isinstance(metadata, list) else [metadata]
    if len(entries) != num_videos:
        raise ValueError(f"{len(entries)} video_metadata were given for {num_videos} videos; expected one per video.")
    return entries


def _flatten(entries: list[Any]) -> list[Mapping[str, Any]]:
    """Metadata nested as the videos of a batch, `[[metadata], [metadata]]`, as a list."""
    return [item for entry in entries for item in (_flatten(entry) if isinstance(entry, list) else [entry])]
