"""The video with the persons drawn on every frame."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_files import write_video

from processing_umt import VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader
from umt_training.detection.annotated_video import write_annotated_video
from umt_training.detection.detections import Action, Person
from umt_training.detection.drawing import COLOURS, draw_persons, label_lines
from umt_training.detection.key_times import frame_times


def annotate(video, path, persons_at=lambda time: []):
    done = []
    with VideoReader(video) as reader:
        write_annotated_video(path, reader, frame_times(str(video), reader), persons_at, lambda: done.append(1))
        assert len(done) == reader.num_frames
    return path


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 64), (48, 63), (45, 61)])
def test_all_frames_keep_size_time_and_content(height, width, tmp_path):
    video = write_video(tmp_path / "in.avi", num_frames=15, height=height, width=width)
    with VideoReader(video) as before, VideoReader(annotate(video, tmp_path / "out.mp4")) as after:
        assert (after.num_frames, after.height, after.width) == (15, height, width)
        assert after.fps == pytest.approx(before.fps, rel=1e-4)
        assert after.timestamps == pytest.approx(before.timestamps - before.timestamps[0], abs=1e-3)
        difference = after.read(range(15)).astype(int) - before.read(range(15))
        assert np.abs(difference).mean() < 4


def test_irregular_times_are_kept(tmp_path):
    milliseconds = [0, 20, 60, 150, 190, 390, 410, 1430, 1470, 1560]
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in milliseconds:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with VideoReader(annotate(tmp_path / "in.mkv", tmp_path / "out.mp4")) as reader:
        assert reader.timestamps == pytest.approx(np.array(milliseconds) / 1000, abs=1e-3)


def test_the_box_of_a_frame_is_that_of_its_time(tmp_path):
    video = write_video(tmp_path / "in.mp4", num_frames=12, height=96, width=128)

    def persons_at(time):
        return [Person(0, (20 + 50 * time, 30, 60 + 50 * time, 90), 1.0)]

    with VideoReader(annotate(video, tmp_path / "out.mp4", persons_at)) as reader:
        frames = reader.read(range(12)).astype(int)
    red = (frames[..., 0] - frames[..., 2] > 60)[:, 60:80].mean(axis=1) > 0.5  # (frames, width), below the label
    for number, columns in enumerate(red):
        first, last = np.flatnonzero(columns)[[0, -1]]
        assert (first, last) == pytest.approx((20 + 5 * number, 59 + 5 * number), abs=1.5)


def test_a_broken_video_leaves_no_file(tmp_path):
    video = write_video(tmp_path / "in.avi", num_frames=30)
    data = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    start = data.index(packets[20])
    data[start + 10 : start + len(packets[20])] = bytes(len(packets[20]) - 10)
    video.write_bytes(data)
    with pytest.raises(VideoDecodeError):
        annotate(video, tmp_path / "out" / "out.mp4")
    assert list((tmp_path / "out").iterdir()) == []


def test_labels_are_the_best_three_actions():
    actions = [Action("stand", 0.912), Action("x" * 40, 0.8), Action("sit", 0.7), Action("walk", 0.6)]
    person = Person(7, (0, 0, 9, 9), 1.0, actions)
    assert label_lines(person) == ["#7  stand 0.91", f"{'x' * 31}… 0.80", "sit 0.70"]
    assert label_lines(Person(7, (0, 0, 9, 9), 1.0)) == ["#7"]


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (400, 300)])
def test_boxes_and_labels_of_any_place_stay_within_the_picture(size):
    picture = Image.new("RGB", size)
    boxes = [(0, 0, *size), (size[0] - 4, size[1] - 4, *size), (-9, -9, 4, 4), (2.5, 2.5, 2.6, 2.6)]
    draw_persons(picture, [Person(track, box, 1.0, [Action("stand", 0.5)]) for track, box in enumerate(boxes)])
    assert picture.size == size


@pytest.mark.parametrize("box", [(100, 80, 200, 200), (0, 0, 400, 300), (380, 0, 400, 20)])
def test_labels_of_persons_in_one_place_do_not_cover_each_other(box):
    picture = Image.new("RGB", (400, 300))
    draw_persons(picture, [Person(track, box, 1.0, [Action("stand", 0.5)]) for track in range(5)])
    areas = {colour: count for count, colour in picture.getcolors(400 * 300)}
    labels = sorted(count for colour, count in areas.items() if colour in COLOURS[:5])
    assert len(labels) == 5 and labels[0] > 0.5 * labels[-2]
