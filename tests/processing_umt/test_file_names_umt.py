"""Names of files where a text is expected."""

import pytest

from processing_umt.file_names_umt import VIDEO_SUFFIXES, require_no_file_names
from umt_training.data import video_files


@pytest.mark.parametrize(
    "text",
    ["clip.mp4", "clips/a.WEBM", " clip.mkv ", "picture.png", "http://host/stream", "https://host/a/b.mp4?token=1"],
)
def test_a_name_without_spaces_is_not_a_text(text):
    with pytest.raises(ValueError, match="was given as a text"):
        require_no_file_names(["a dog runs", text])


def test_a_name_with_spaces_is_not_a_text_if_the_file_exists(tmp_path):
    path = tmp_path / "my clip.webm"
    require_no_file_names([str(path).replace(str(tmp_path), "somewhere in")])
    path.touch()
    with pytest.raises(ValueError, match="was given as a text"):
        require_no_file_names([str(path)])


def test_texts_are_texts(tmp_path, monkeypatch):
    (tmp_path / "train").touch()
    monkeypatch.chdir(tmp_path)
    require_no_file_names(["train", "", "example.com", "a man opens clip.mp4", "he said: https://host", "3.5 dogs."])


def test_the_suffixes_are_those_of_videos_in_folders():
    assert VIDEO_SUFFIXES == video_files.VIDEO_SUFFIXES
