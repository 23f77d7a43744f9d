"""The files of movies in every form, and the frames around a key frame."""

import numpy as np
import pytest
from key_frame_files import frame_numbers, write_numbered_video
from video_files import write_broken_videos

from processing_umt import VideoDecodeError
from umt_training.data.key_frame_clips import KeyFrameClips, check_key_times
from umt_training.data.key_frames import KeyFrame
from umt_training.data.movie_files import describe_missing, find_movies, present_key_frames

OFFSETS = np.array([-29, -21, -13, -5, 3, 11, 19, 27])  # of the official clip, at 25 frames per second


def key_frame(video="m", time=2.0, place="ava.csv, line 7"):
    return KeyFrame(video, time, np.array([[0.1, 0.1, 0.9, 0.9]]), True, ((0,),), (-1,), None, place)


def read_key_frame(frame, movie, *arguments, **options):
    clips = KeyFrameClips({frame.video: movie}, *arguments, **options)
    frames = clips.read(frame)
    clips.close()
    return frames


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """A movie of 6 seconds at 25 frames per second that begins at second 900, in three forms, a clip of Kinetics, and
    a movie of 10 frames per second."""
    root = tmp_path_factory.mktemp("movies")
    write_numbered_video(root / "cut" / "m.mp4", 150)
    for second in range(6):
        write_numbered_video(root / "seconds" / "trainval" / "m" / f"{900 + second}.mp4", 25, first=25 * second)
    write_numbered_video(root / "kinetics" / "sit" / "-a_b_000020_000026.mp4", 150)
    write_numbered_video(root / "kinetics" / "stand" / "-a_b_000024_000030.mp4", 150, first=200)
    write_numbered_video(root / "slow" / "m.avi", 60, rate=10)
    return root


@pytest.mark.parametrize("key", [2, 3, 4.2])
@pytest.mark.parametrize(
    ("folder", "video", "start", "shift"),
    [
        ("cut", "m", 0, 0),
        ("cut", "m.mp4", 0, 0),
        ("cut", "m", 900, 900),
        ("seconds", "m", 0, 900),
        ("kinetics", "-a_b", 0, 20),
    ],
)
def test_every_form_of_a_movie_has_the_official_frames(movies, folder, video, start, shift, key):
    frame = key_frame(video, key + shift)
    found = find_movies([video], movies / folder, start)
    frames = read_key_frame(frame, found[video], 8)
    assert frames.shape == (8, 48, 64, 3) and frames.dtype == np.uint8
    assert frame_numbers(frames) == (round(25 * key) + OFFSETS).tolist()


@pytest.mark.parametrize(("folder", "shift"), [("cut", 0), ("seconds", 900)])
def test_clips_at_the_ends_of_a_movie_repeat_its_first_and_last_frame(movies, folder, shift):
    movie = find_movies(["m"], movies / folder)["m"]
    for key in (0, 0.4, 5.6):
        frames = read_key_frame(key_frame(time=key + shift), movie, 8)
        assert frame_numbers(frames) == np.clip(round(25 * key) + OFFSETS, 0, 149).tolist()


def test_another_frame_rate_has_the_frames_at_the_same_times(movies):
    movie = find_movies(["m"], movies / "slow")["m"]
    numbers = frame_numbers(read_key_frame(key_frame(time=3), movie, 8))
    assert np.abs(np.array(numbers) / 10 - (3 + OFFSETS / 25)).max() <= 0.05 + 1e-9
    assert frame_numbers(read_key_frame(key_frame(time=3), movie, 4, 2, None)) == [26, 28, 30, 32]


def test_of_two_clips_of_kinetics_the_one_that_contains_more_of_the_surroundings_is_read(movies):
    movie = find_movies(["-a_b"], movies / "kinetics")["-a_b"]
    assert frame_numbers(read_key_frame(key_frame("-a_b", 24.5), movie, 8))[4] < 200
    assert frame_numbers(read_key_frame(key_frame("-a_b", 25.5), movie, 8))[4] >= 200
    assert movie.part_at(31) is None


def test_a_second_that_is_missing_within_a_movie_is_a_broken_video(tmp_path):
    for second in (900, 901, 903, 904, 905, 906, 908):
        write_numbered_video(tmp_path / "m" / f"{second}.mp4", 25)
    movie = find_movies(["m"], tmp_path)["m"]
    for time, missing in (
        (900, None),
        (901, "902.mp4"),
        (902, "902.mp4"),
        (903, "902.mp4"),
        (905, None),
        (906, "907.mp4"),
    ):
        if missing is None:
            assert len(read_key_frame(key_frame(time=time), movie, 8)) == 8
            continue
        with pytest.raises(VideoDecodeError, match=missing) as error:
            read_key_frame(key_frame(time=time), movie, 8)
        assert error.value.reason == "missing"


def test_missing_movies_are_counted_with_a_hint_at_the_start(movies):
    frames = [key_frame("m", 902), key_frame("m", 990), key_frame("n", 3), key_frame("n", 4)]
    found = find_movies(["m", "n"], movies / "seconds")
    present, missing = present_key_frames(frames, found, movies)
    assert present == frames[:1] and missing == {"m": 1, "n": 2}
    message = describe_missing(missing, movies)
    assert message.startswith("3 key frames of 2 videos have no file in") and "--start 900" in message
    with pytest.raises(ValueError, match=r"2 key frames of 1 videos have no file .*: n. .*--start 900"):
        present_key_frames(frames[2:], found, movies)


def test_key_times_outside_of_a_video_are_refused_with_their_line(movies):
    found = find_movies(["m"], movies / "cut")
    inside = [key_frame(time=time) for time in (0, 3, 5.96)]
    check_key_times(inside, found)
    message = r"ava.csv, line 7: the key frame m at 902 s is outside of .*m.mp4, .* from 0.00 to 6.00 s.*--start 900"
    with pytest.raises(ValueError, match=message):
        check_key_times([*inside, key_frame(time=902)], found)
    with pytest.raises(ValueError, match=message):
        read_key_frame(key_frame(time=902), found["m"], 8)
    with pytest.raises(ValueError, match=r"lasts from 900.00 to 906.00 s"):
        check_key_times([key_frame(time=3)], find_movies(["m"], movies / "cut", 900))


def test_broken_movies_are_passed_over_by_the_check_and_named_when_they_are_read(tmp_path):
    reasons = write_broken_videos(tmp_path)
    found = find_movies(["random.mp4", "empty"], tmp_path)
    frames = [key_frame(name) for name in found]
    check_key_times(frames, found)
    for frame in frames:
        with pytest.raises(VideoDecodeError) as error:
            read_key_frame(frame, found[frame.video], 8)
        assert error.value.reason == reasons[error.value.video]


@pytest.mark.parametrize(
    ("files", "video", "start", "message"),
    [
        (["x/m.mp4", "y/m.mkv"], "m", 0, "The video m has several files in .*: x/m.mp4 and y/m.mkv"),
        (["x/m/902.mp4", "y/m/902.mp4"], "m", 0, "has several files in .*: x/m and y/m"),
        (["m/902.mp4", "m.mp4"], "m", 0, "has several files in .*: m.mp4 and m"),
        (["m/902.mp4", "m/0902.mp4"], "m", 0, "has several files in"),
        (["m/902.mp4"], "m", 900, "start is 900, but the names of the files in .* state their seconds"),
        (["m.mp4"], "../m.mp4", 0, "The video ../m.mp4 is not in the folder"),
        (["m.mp4"], "/etc/passwd", 0, "The video /etc/passwd is not in the folder"),
    ],
)
def test_files_that_are_not_clear_are_refused(tmp_path, files, video, start, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=message):
        find_movies([video], tmp_path, start)
    with pytest.raises(ValueError, match="does not exist"):
        find_movies([video], tmp_path / "absent")


def test_files_of_a_second_need_the_frame_rate(movies):
    movie = find_movies(["m"], movies / "seconds")["m"]
    with pytest.raises(ValueError, match="Set sampling_fps"):
        read_key_frame(key_frame(time=902), movie, 8, sampling_fps=None)
