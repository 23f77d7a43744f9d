"""Key frames of a video and the clips around them, read in one pass."""

from collections.abc import Iterator, Sequence

import numpy as np

from processing_umt.video_decoding_umt import VideoReader


def read_key_frames(
    reader: VideoReader, key_frames: Sequence[int], clips: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every key frame, uint8 `(height, width, 3)`, and its clip, uint8 `(frames, height, width, 3)`.

    Every frame is decoded once, and kept only as long as a clip needs it: memory depends on the length of the clips
    and not on that of the video.

    Args:
        reader: the video.
        key_frames: indices of the key frames, ascending.
        clips: for each the indices of the frames of its clip, none earlier than those of the clip before; empty
            without a clip.

    Raises:
        VideoDecodeError: a frame can't be read.
    """
    needed = [np.append(clip, key_frame) for key_frame, clip in zip(key_frames, clips, strict=True)]
    frames = reader.iterate(np.concatenate(needed)) if needed else iter(())
    held: dict[int, np.ndarray] = {}
    for key_frame, clip, indices in zip(key_frames, clips, needed, strict=True):
        held = {index: frame for index, frame in held.items() if index >= indices.min()}
        while indices.max() > max(held, default=-1):
            index, frame = next(frames)
            held[index] = frame
        shape = (len(clip), *held[key_frame].shape)
        yield held[key_frame], np.array([held[index] for index in clip.tolist()], np.uint8).reshape(shape)
