"""Names of the files that are written for several videos."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_training.detection.output_names import extension, output_names


@pytest.mark.parametrize(
    ("videos", "names"),
    [
        (["a/clip.mp4", "b/other.avi"], ["clip", "other"]),
        (["a/clip.mp4", "b/clip.mp4", "clip.avi"], ["clip", "clip_2", "clip_3"]),
        (["a/clip.mp4", "b/clip.mp4", "clip_2.mp4"], ["clip", "clip_3", "clip_2"]),
        (["a/Clip.mp4", "a/clip.mp4"], ["Clip", "clip_2"]),
        (["a/v1.2.mp4"], ["v1.2"]),
        (["https://host/a%20b/my%20clip.mp4?token=1#t=3"], ["my clip"]),
        (["https://host/"], ["video"]),
    ],
)
def test_names_are_those_of_the_files_and_differ(videos, names):
    assert output_names(videos) == names


@given(st.lists(st.sampled_from(["c", "C", "c_2", "c_3", "d"]).map(lambda name: f"{name}.mp4"), max_size=8))
def test_all_names_differ_also_without_regard_to_case(videos):
    names = output_names(videos)
    assert len({name.casefold() for name in names}) == len(videos)


def test_extension_of_a_path_and_of_a_url():
    assert [extension(video) for video in ("a/b.MP4", "https://host/clip.webm?x=.y", "clip")] == [".MP4", ".webm", ""]
