"""Detects persons and their actions on the key frames of a video."""

from collections.abc import Callable, Sequence

import numpy as np

from processing_umt.video_decoding_umt import VideoReader
from processing_umt.video_source_umt import USER_AND_PASSWORD

from .actions import ActionRecognizer
from .detections import DetectedKeyFrame, DetectedVideo, PersonsOn
from .key_frame_clips import read_key_frames
from .tracks import link_tracks


def detect_in_video(
    video: str,
    reader: VideoReader,
    times: np.ndarray,
    key_frames: Sequence[tuple[float, int]],
    persons_on: PersonsOn,
    recognizer: ActionRecognizer | None = None,
    on_key_frame: Callable[[int, np.ndarray], object] | None = None,
) -> DetectedVideo:
    """The persons on each key frame of a video, linked into tracks, and their actions.

    Args:
        video: name of the video in the result; user name and password of a URL are left out.
        reader: the open video.
        times: its `frame_times`.
        key_frames: (time, index of the frame) of each key frame, ascending.
        persons_on: finds the persons on each key frame.
        recognizer: predicts the actions; without it, persons have none.
        on_key_frame: called with number and picture of each key frame when it is done.

    Raises:
        VideoDecodeError: a frame can't be read.
    """
    frames = [frame for _, frame in key_frames]
    no_clip = np.empty(0, dtype=np.int64)
    clips = [no_clip if recognizer is None else recognizer.clip_frames(frame, times) for frame in frames]
    found = []
    for number, (image, clip) in enumerate(read_key_frames(reader, frames, clips)):
        persons = persons_on(number, image)
        if recognizer is not None:
            recognizer.add_actions(clip, persons)
        found.append(DetectedKeyFrame(*key_frames[number], persons))
        if on_key_frame is not None:
            on_key_frame(number, image)
    link_tracks(found)
    return DetectedVideo(USER_AND_PASSWORD.sub("", video), reader.fps, reader.width, reader.height, found)
