"""Frame sampling: the frame indices of a clip, without pixels (UMT, arXiv 2303.16058, appendix "Implementation
Details": sparse sampling as in TSN; MVD, arXiv 2212.04500, and EVEREST, arXiv 2211.10636; the exact rules are those of
the official code).

Six rules, each with a test-time variant (`sample_clips`) and a training variant (`sample_training_clip`):

| `sampling` | used for | test-time views | training |
|---|---|---|---|
| "sparse" | Kinetics, Moments in Time | interior points of F segments of (L-1)/F frames | any frame of a segment |
| "segments" | stage 1; Something-Something V2 | starts and middles of F segments of L/F frames | the same |
| "middle" | stage 2, retrieval, question answering | middle frame of F intervals | any but an interval's last frame |
| "dense" | MVD: training on Kinetics | windows spread evenly over the video | one window anywhere |
| "strided" | MVD, EVEREST: pre-training, tests on Kinetics | F consecutive of every r-th frame | one window anywhere |
| "uniform" | MVD: Something-Something V2 | middles of F·S pieces, every S-th from c in view c | that of "sparse" |

"dense" and "strided" have a frame stride r; a window spans F·r frames. One more rule, "key_frame" (action detection;
`sample_key_frame`), takes the frames around one frame of the video, the same in training and at test time.

Unusual: "sparse" and "uniform" round half to even, and their views may repeat a frame of a short video; stage 1
repeats frame 0 for a video shorter than the clip; the training rule of "middle" never returns the last frame of an
interval, and becomes a sorted random subset as soon as one interval has a single frame. Training windows of "dense"
have neighbours F·r/(F-1) frames apart and never contain the last frame of a video; those of "strided" have exact
strides.

Left out, because no published recipe uses it: the official dense validation window (it ends where it should start and
wraps around to the end of short videos), the raw-frame Something-Something V2 reader, stage 1 with a single segment
and a stride, more than two views of "segments" (the official reader then returns too many frames), and the `fps…` and
`fix_start` modes of the multi-modality reader (varying numbers of frames, indices beyond the end).
"""

from collections.abc import Sequence

import numpy as np

SAMPLING_RULES = ("sparse", "segments", "middle", "dense", "strided", "uniform")
RULES_WITH_STRIDE = ("dense", "strided")

_SAME_TIME = 1e-6  # seconds: rounding errors of times do not decide between two frames


def sample_clips(
    num_video_frames: int, num_frames: int, sampling: str = "sparse", num_clips: int = 1, frame_stride: int = 1
) -> np.ndarray:
    """Frame indices of the test-time views of a video.

    Args:
        num_video_frames: length L of the video in frames, at least 1.
        num_frames: frames F of one clip, at least 1.
        sampling: one of `SAMPLING_RULES`, "sparse" by default; see the table of this module.
        num_clips: number S of views, any but for two rules: "middle" has one view, "segments" one (the middles: the
            validation clip) or two (starts, then middles). One sparse view is the validation clip. The official tests
            have two views of "uniform"; other numbers, which the official reader gets wrong, follow the same formula.
        frame_stride: distance in frames between neighbouring frames of a dense or strided clip; ignored by the other
            rules. One view of these is the centred window; the official rules divide by S-1 and do not define it.

    Returns:
        int64 `(num_clips, num_frames)`, each row ascending (frames repeat where the video is too short) and within
        `[0, num_video_frames)`.

    Raises:
        ValueError: for an unknown rule, a count or stride below 1, or an unsupported number of views.
    """
    _check(num_video_frames, num_frames, sampling, frame_stride)
    if num_clips < 1:
        raise ValueError(f"num_clips is {num_clips}; expected at least 1.")
    if sampling == "sparse":
        return _sparse_views(num_video_frames, num_frames, num_clips)
    if sampling == "dense":
        return _dense_views(num_video_frames, num_frames, num_clips, frame_stride)
    if sampling == "middle":
        if num_clips != 1:
            raise ValueError(f'num_clips is {num_clips}, but sampling="middle" has one view; use "sparse" for more.')
        bounds = _interval_bounds(num_video_frames, num_frames)
        return _pad_with_last((bounds[:-1] + bounds[1:] - 1) // 2, num_frames)[None]
    if sampling == "strided":
        return _strided_views(num_video_frames, num_frames, num_clips, frame_stride)
    if sampling == "uniform":
        return _uniform_views(num_video_frames, num_frames, num_clips)
    if num_clips > 2:
        raise ValueError(f'num_clips is {num_clips}, but sampling="segments" has at most two views (starts, middles).')
    return _segment_views(num_video_frames, num_frames, num_clips)


def sample_training_clip(
    num_video_frames: int,
    num_frames: int,
    sampling: str,
    generator: np.random.Generator,
    frame_stride: int = 1,
) -> np.ndarray:
    """Frame indices of one randomly sampled training clip.

    Args:
        num_video_frames: length L of the video in frames, at least 1.
        num_frames: frames F of the clip, at least 1.
        sampling: one of `SAMPLING_RULES`; see the table of this module.
        generator: random generator of the sample.
        frame_stride: distance in frames between neighbouring frames of a dense or strided clip; ignored by the other
            rules.

    Returns:
        int64 `(num_frames,)`, ascending and within `[0, num_video_frames)`.

    Raises:
        ValueError: for an unknown rule, or a count or stride below 1.
    """
    _check(num_video_frames, num_frames, sampling, frame_stride)
    if sampling in ("sparse", "uniform"):
        edges = _rounded_edges(num_video_frames, num_frames)
        return generator.integers(edges[:-1], edges[1:], endpoint=True)
    if sampling == "segments":
        width = num_video_frames // num_frames
        if width == 0:
            return np.zeros(num_frames, dtype=np.int64)
        return np.arange(num_frames) * width + generator.integers(width, size=num_frames)
    if sampling == "middle":
        bounds = _interval_bounds(num_video_frames, num_frames)
        if (np.diff(bounds) >= 2).all():
            return generator.integers(bounds[:-1], bounds[1:] - 1)
        subset = np.sort(generator.permutation(num_video_frames)[: len(bounds) - 1])
        return _pad_with_last(subset, num_frames)
    if sampling == "strided":
        return _strided_training_clip(num_video_frames, num_frames, frame_stride, generator)
    return _dense_training_clip(num_video_frames, num_frames, frame_stride, generator)


def sample_key_frame(
    key_frame: int,
    times: np.ndarray,
    num_frames: int,
    frame_stride: int = 8,
    sampling_fps: float | None = 25.0,
) -> np.ndarray:
    """Frame indices of the clip around a key frame: F times at a stride of r frames, the key frame in their middle.

    The published models see a window of 64 frames at 25 frames per second, eight of them at a stride of 8: the key
    frame's time and (-29, -21, -13, -5, 3, 11, 19, 27) / 25 seconds. In a video of another frame rate the frames
    nearest to the same times are taken. Before the first frame and after the last one, these two are repeated. The key
    frame itself is not among the frames.

    Args:
        key_frame: index of the key frame.
        times: float `(L,)`, presentation time of each frame of the video in seconds, ascending.
        num_frames: frames F of the clip, at least 1.
        frame_stride: distance r between neighbouring frames of the clip, in frames of `sampling_fps`.
        sampling_fps: frames per second by which the stride is counted; None: the stride counts frames of the video.

    Returns:
        int64 `(num_frames,)`, ascending and within `[0, L)`.

    Raises:
        ValueError: for a key frame outside of the video, or a count, stride or rate that is not positive.
    """
    _check(len(times), num_frames, "dense", frame_stride)
    if not 0 <= key_frame < len(times):
        raise ValueError(f"The key frame is {key_frame}, but the video has the frames 0 to {len(times) - 1}.")
    offsets = frame_stride * np.arange(num_frames) - num_frames * frame_stride // 2 + (frame_stride - 1) // 2
    if sampling_fps is None:
        return np.clip(key_frame + offsets, 0, len(times) - 1)
    if sampling_fps <= 0:
        raise ValueError(f"sampling_fps is {sampling_fps}; expected more than 0 frames per second.")
    return nearest_frames(times[key_frame] + offsets / sampling_fps, times)


def nearest_frames(seconds: Sequence[float] | np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the frame nearest to each of the `seconds`, int64; of two that are equally near, the earlier one.

    `times`, float `(L,)`, are the presentation times of the frames, ascending.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    after = np.clip(np.searchsorted(times, seconds), min(1, len(times) - 1), len(times) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(seconds - times[before] <= times[after] - seconds + _SAME_TIME, before, after)


def trimmed_length(num_video_frames: int, fps: float, seconds: float = 30.0) -> int:
    """Length in frames, at least 1, of a video cut after `seconds`: the `trimmed30` rule of the DiDeMo recipes, which
    sample from these first frames only. `fps` is the average frame rate of the video."""
    if num_video_frames < 1 or fps <= 0 or seconds <= 0:
        raise ValueError(
            f"A video of {num_video_frames} frames at {fps} frames per second can't be cut after {seconds} s; all "
            "three values must be positive."
        )
    return max(1, int(seconds * fps)) if num_video_frames / fps > seconds else num_video_frames


def _check(num_video_frames: int, num_frames: int, sampling: str, frame_stride: int) -> None:
    if sampling == "key_frame":
        raise ValueError('sampling is "key_frame", which takes the frames around a given one: use sample_key_frame.')
    if sampling not in SAMPLING_RULES:
        choices = ", ".join(f'"{rule}"' for rule in SAMPLING_RULES)
        raise ValueError(
            f'sampling is {sampling!r}; choose one of {choices}, or "key_frame" for the frames around a given one.'
        )
    if num_video_frames < 1:
        raise ValueError(f"The video has {num_video_frames} frames; expected at least 1.")
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; expected at least 1.")
    if frame_stride < 1:
        raise ValueError(f"frame_stride is {frame_stride}; expected at least 1.")


def _rounded_edges(length: int, num_segments: int) -> np.ndarray:
    """The n+1 rounded edges of n segments of (L-1)/n frames; the last one is L-1."""
    segment = (length - 1) / num_segments
    return np.round(segment * np.arange(num_segments + 1)).astype(np.int64)


def _sparse_views(length: int, num_frames: int, num_clips: int) -> np.ndarray:
    segment = (length - 1) / num_frames
    # view k of S is shifted by (k+1)/(S+1) of a segment, truncated; one view by half a segment
    shifts = (segment / (num_clips + 1) * np.arange(1, num_clips + 1)).astype(np.int64)
    return np.minimum(_rounded_edges(length, num_frames)[:-1] + shifts[:, None], length - 1)


def _segment_views(length: int, num_frames: int, num_clips: int) -> np.ndarray:
    segment = length / num_frames
    starts = (segment * np.arange(num_frames)).astype(np.int64)
    middles = (segment / 2 + segment * np.arange(num_frames)).astype(np.int64)
    return middles[None] if num_clips == 1 else np.stack([starts, middles])


def _interval_bounds(length: int, num_frames: int) -> np.ndarray:
    """Bounds of min(F, L) intervals: interval j contains the frames bounds[j] to bounds[j+1] - 1."""
    return np.linspace(0, length, min(num_frames, length) + 1).astype(np.int64)


def _dense_views(length: int, num_frames: int, num_clips: int, stride: int) -> np.ndarray:
    room = max(length - num_frames * stride, 0)
    if num_clips == 1:
        starts = np.array([room // 2])
    else:
        starts = (np.arange(num_clips) * (room / (num_clips - 1))).astype(np.int64)
    clips = starts[:, None] + stride * np.arange(num_frames)
    # a video shorter than the window repeats its last frame at a multiple of the stride
    last = starts + (length - 1 - starts) // stride * stride
    return np.minimum(clips, last[:, None])


def _strided_views(length: int, num_frames: int, num_clips: int, stride: int) -> np.ndarray:
    frames = np.arange(0, length, stride)
    room = max(len(frames) - num_frames, 0)
    starts = np.array([room // 2])
    if num_clips > 1:
        starts = (np.arange(num_clips) * room / (num_clips - 1)).astype(np.int64)
    # a video with fewer frames repeats the last of them
    return frames[np.minimum(starts[:, None] + np.arange(num_frames), len(frames) - 1)]


def _strided_training_clip(length: int, num_frames: int, stride: int, generator: np.random.Generator) -> np.ndarray:
    clip = stride * np.arange(num_frames)
    room = length - num_frames * stride
    if room >= 0:
        return clip + generator.integers(room, endpoint=True)
    # the official reader repeats a frame as soon as the next one would be the last of the video or lie behind it
    return np.minimum(clip, max(length - 2, 0) // stride * stride)


def _uniform_views(length: int, num_frames: int, num_clips: int) -> np.ndarray:
    edges = _rounded_edges(length, num_frames * num_clips)
    return ((edges[:-1] + edges[1:]) // 2).reshape(num_frames, num_clips).T


def _dense_training_clip(length: int, num_frames: int, stride: int, generator: np.random.Generator) -> np.ndarray:
    window = num_frames * stride
    if length <= window:
        points = np.linspace(0, length, length // stride)
        return np.clip(_pad_with(points, num_frames, length), 0, length - 1).astype(np.int64)
    end = int(generator.integers(window, length))
    start = end - window
    return np.clip(np.linspace(start, end, num_frames), start, end - 1).astype(np.int64)


def _pad_with(values: np.ndarray, length: int, value: float) -> np.ndarray:
    return np.concatenate([values, np.full(length - len(values), value, dtype=values.dtype)])


def _pad_with_last(indices: np.ndarray, length: int) -> np.ndarray:
    return _pad_with(indices, length, indices[-1])
