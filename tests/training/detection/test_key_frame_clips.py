"""Key frames and their clips, read in one pass."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_files import write_noise

from processing_umt.frame_sampling_umt import sample_key_frame
from processing_umt.video_decoding_umt import VideoReader
from umt_training.detection.key_frame_clips import read_key_frames

NUM_FRAMES = 40


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("videos") / "clip.mp4", 0, NUM_FRAMES)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(0, NUM_FRAMES - 1), max_size=6).map(sorted),
    st.integers(1, 8),
    st.integers(1, 12),
    st.booleans(),
)
def test_key_frames_and_clips_are_the_frames_of_the_reader(video, key_frames, num_frames, stride, has_clips):
    with VideoReader(video) as reader:
        times = reader.timestamps
        clips = [sample_key_frame(frame, times, num_frames, stride, 25.0) for frame in key_frames]
        if not has_clips:
            clips = [clip[:0] for clip in clips]
        pairs = list(read_key_frames(reader, key_frames, clips))
        assert len(pairs) == len(key_frames)
        for (image, clip), key_frame, indices in zip(pairs, key_frames, clips, strict=True):
            assert np.array_equal(image, reader.read([key_frame])[0])
            assert clip.shape == (len(indices), *image.shape)
            assert np.array_equal(clip, reader.read(indices))


def test_frames_are_decoded_once_and_kept_only_while_a_clip_needs_them(video):
    with VideoReader(video) as reader:
        key_frames = list(range(4, 40, 4))
        clips = [np.arange(frame - 3, frame) for frame in key_frames]
        decoded, iterate = [], reader.iterate

        def counted(indices):
            for index, frame in iterate(indices):
                decoded.append(index)
                yield index, frame

        reader.iterate = counted
        for number, _ in enumerate(read_key_frames(reader, key_frames, clips)):
            assert decoded[-1] == key_frames[number]  # nothing is read ahead
        assert decoded == sorted(set(decoded))
