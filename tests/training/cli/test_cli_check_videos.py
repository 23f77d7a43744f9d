"""`umt check-videos` finds every broken file, and prints no more than that."""

import argparse
import csv

import av
import pytest
from PIL import Image
from video_files import write_broken_videos, write_tar, write_video

from processing_umt import video_download_umt
from umt_training.cli import check_videos as cli_check_videos
from umt_training.cli import main
from umt_training.data.video_checks import check_video, check_videos
from umt_training.data.video_records import load_video_records


def check(*arguments):
    parser = argparse.ArgumentParser()
    cli_check_videos.add_arguments(parser)
    return cli_check_videos.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.mark.parametrize("options", [("--workers", 0), ("--workers", 2), ("--workers", 0, "--full")])
def test_ten_kinds_of_broken_files(tmp_path, capsys, options):
    expected = write_broken_videos(tmp_path)
    for name in ("good.mp4", "good.mkv", "good.avi"):
        write_video(tmp_path / name)
    output = tmp_path / "lists" / "broken.csv"
    assert check(tmp_path, "--output", output, *options) == 1
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["video"]: row["reason"] for row in rows} == expected
    assert all(row["video"] in row["message"] for row in rows)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("13 videos checked, 10 can't be read: not_a_video 4, ")
    assert [line.split("\t")[0] for line in printed[:-1]] == [row["reason"] for row in rows]
    assert not list(tmp_path.rglob("*.tmp"))


def test_no_broken_videos(tmp_path, capsys):
    write_video(tmp_path / "good.mp4")
    (tmp_path / "val.csv").write_text("good 0\ngood 1\n")
    assert check(tmp_path / "val.csv", "--root", tmp_path, "--workers", 0, "--output", tmp_path / "b.csv") == 0
    # a video that is listed twice is read once
    assert capsys.readouterr().out == "1 videos checked, 0 can't be read\n"
    assert (tmp_path / "b.csv").read_text() == "video,reason,message\n"


def test_only_the_full_check_finds_a_damaged_frame(tmp_path):
    """A frame among two hundred that decodes to nothing."""
    path = write_video(tmp_path / "long.avi", num_frames=200)
    content = bytearray(path.read_bytes())
    chunk = -1
    for _ in range(91):  # chunk 90 lies between the frames that the quick check reads
        chunk = content.index(b"00dc", chunk + 1)
    size = int.from_bytes(content[chunk + 4 : chunk + 8], "little")
    content[chunk + 8 : chunk + 8 + size] = bytes(size)
    path.write_bytes(content)
    records = load_video_records(path)
    (quick,), (full,) = (list(check_videos(records, full)[0]) for full in (False, True))
    assert (quick.reason, full.reason) == ("", "decode")


def test_the_quick_check_finds_a_missing_end(tmp_path):
    path = write_video(tmp_path / "long.avi", num_frames=40)
    path.write_bytes(path.read_bytes()[:-2000])
    (found,) = check_videos(load_video_records(path))[0]
    assert found.reason == "truncated"


def test_frames_are_decoded_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("umt_training.data.video_checks._CHUNK_BYTES", 48 * 64 * 3 * 5)
    records = load_video_records(write_video(tmp_path / "good.mp4", num_frames=12))
    assert [check.reason for check in check_videos(records, full=True)[0]] == [""]


def test_shards_bytes_and_images(tmp_path, capsys):
    from PIL import Image

    good = write_video(tmp_path / "good.mp4").read_bytes()
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    picture = (tmp_path / "x.png").read_bytes()
    files = [("a.mp4", good), ("b.mp4", good[:300]), ("c.png", picture), ("d.jpg", b"no image")]
    write_tar(tmp_path / "s.tar", files)
    for workers in (0, 2):
        assert check(tmp_path / "s.tar", "--workers", workers) == 1
        *lines, total = capsys.readouterr().out.splitlines()
        assert total == "4 videos checked, 2 can't be read: truncated 1, unreadable 1"
        assert "s.tar/d.jpg" in lines[1]


def test_a_folder_without_videos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="contains no video files"):
        check(tmp_path, "--workers", 0)


def test_a_frame_that_the_decoder_would_conceal_is_damage(tmp_path):
    path = write_video(tmp_path / "clip.mp4", num_frames=30)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content, packet = path.read_bytes(), packets[14]
    damaged = packet[: len(packet) // 2] + bytes(len(packet) - len(packet) // 2)
    path.write_bytes(content.replace(packet, damaged))
    (result,) = check_videos(load_video_records(path), full=True)[0]
    assert result.reason == "decode" and "damaged" in result.message


def test_every_frame_of_an_animation_is_read(tmp_path):
    colours = [Image.new("RGB", (16, 16), (40 * number, 9, 9)) for number in range(4)]
    path = tmp_path / "a.webp"
    colours[0].save(path, save_all=True, append_images=colours[1:], lossless=True)
    assert check_video(str(path), "record 0").reason == ""
    path.write_bytes(path.read_bytes()[:-30])
    assert check_video(str(path), "record 0").reason == "unreadable"


def test_the_largest_download_is_an_option_of_all_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(video_download_umt, "MAX_DOWNLOAD_BYTES", 4 << 30)
    write_video(tmp_path / "good.mp4")
    assert main(["--max-download", "0.5", "check-videos", str(tmp_path), "--workers", "0"]) == 0
    assert video_download_umt.MAX_DOWNLOAD_BYTES == 1 << 29
    for value in ("0", "-1", "nan"):
        with pytest.raises(SystemExit):
            main([f"--max-download={value}", "check-videos", str(tmp_path)])
        assert "expected a number of GiB above 0" in capsys.readouterr().err
