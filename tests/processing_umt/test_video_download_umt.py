"""Downloads of videos and images: every answer of a server is the file or an error of reason "network", in time."""

import base64
import errno
import gzip
import itertools
import re
import socket
import time

import numpy as np
import pytest
from PIL import Image
from video_files import write_video

from benchmarks.robustness_parts.http_answers import (
    HEADER_TIMEOUT,
    TIMEOUT,
    bad_answers,
    good_answers,
    ok,
    redirect,
    sized,
)  # fmt: skip
from benchmarks.robustness_parts.raw_server import RawServer, drip
from processing_umt import video_download_umt
from processing_umt.image_frames_umt import open_image
from processing_umt.video_decoding_umt import VideoDecodeError, VideoReader
from processing_umt.video_download_umt import DownloadError, download

SECRET = "se@cret"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    return write_video(tmp_path_factory.mktemp("download") / "clip.mp4").read_bytes()


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(video_download_umt, "_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(video_download_umt, "_HEADER_TIMEOUT", HEADER_TIMEOUT)


@pytest.fixture(scope="module")
def server(video):
    answers = good_answers(video) | {path: answer for path, (answer, _) in bad_answers(video).items()}
    with RawServer(answers | {"*": sized(video)}) as running:
        yield running


@pytest.mark.parametrize("path", good_answers(b""))
def test_complete_answers_are_read(path, server, video):
    with download(server.address + path) as file:
        assert file.read() == video


@pytest.mark.parametrize("path", bad_answers(b"."))
def test_other_answers_are_errors_in_one_line(path, server, video):
    began = time.monotonic()
    with pytest.raises(VideoDecodeError) as caught:
        VideoReader(server.address + path)
    assert time.monotonic() - began < 3
    assert caught.value.reason == "network" and "\n" not in str(caught.value) and path in str(caught.value)
    assert "cret" not in str(caught.value) and len(str(caught.value)) < 500
    assert re.search(bad_answers(video)[path][1], caught.value.detail)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[bad/a.mp4",
        "http://127.0.0.1:port/a.mp4",
        "http://127.0.0.1:99999/a.mp4",
        "http://127.0.0.1:1/clip.mp4",
        "http://a..b/a.mp4",
        "http:///a.mp4",
        "http://\n/",
        f"http://{'a' * 300}/a.mp4",
        f"http://me:{SECRET}@[bad/a.mp4",
        f"http://me:{SECRET}@127.0.0.1:port/a.mp4",
        f"http://me:{SECRET}@127.0.0.1:1/a.mp4",
    ],
)
def test_urls_that_cannot_be_opened_are_errors_without_their_password(url):
    with pytest.raises(VideoDecodeError) as caught:
        VideoReader(url)
    assert caught.value.reason == "network"
    assert "cret" not in str(caught.value) + caught.value.video + caught.value.detail


def test_a_host_without_address_is_an_error(monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match=r"^\[Errno -2\] Name or service not known$"):
        download("http://host.invalid/a.mp4")


@pytest.mark.parametrize(
    "name", ["a clip.mp4", "видео.mp4", "a%20clip.mp4", "clip.mp4?sign=a b&c=é", "clip.mp4#t=3", "100%.mp4", "a+b.mp4"]
)
def test_urls_are_escaped_as_browsers_do(name, server, video):
    with download(f"{server.address}/{name}") as file:
        assert file.read() == video
    path = server.requests[-1].split(b" ")[1]
    assert path.isascii() and b"#" not in path and b"%2520" not in path


def test_a_user_and_password_are_sent_to_their_host_only(server, video):
    for path in ("/sized", "/redirect"):
        url = server.address.replace("//", f"//me:{SECRET.replace('@', '%40')}@") + path
        with download(url) as file:
            assert file.read() == video
    authorization = f"Authorization: Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}".encode()
    assert [authorization in request for request in server.requests[-3:]] == [True, True, False]


@pytest.mark.parametrize("path", ["/sized", "/until-closed", "/chunked", "/gzip"])
def test_the_size_is_limited(path, server, video, monkeypatch):
    monkeypatch.setattr(video_download_umt, "MAX_DOWNLOAD_BYTES", len(video))
    download(server.address + path).close()
    monkeypatch.setattr(video_download_umt, "MAX_DOWNLOAD_BYTES", len(video) - 1)
    with pytest.raises(DownloadError, match="the limit of a download"):
        download(server.address + path)


def test_a_stated_size_over_the_limit_is_not_downloaded():
    with RawServer({"/": lambda: [ok(b"", f"Content-Length: {5 << 30}"), 5.0]}) as server:
        began = time.monotonic()
        with pytest.raises(DownloadError, match="larger than 4,294,967,296 bytes"):
            download(server.address + "/")
        assert time.monotonic() - began < 0.2


def test_what_gzip_expands_to_is_limited(monkeypatch):
    bomb = gzip.compress(bytes(64 << 20))
    monkeypatch.setattr(video_download_umt, "MAX_DOWNLOAD_BYTES", 1 << 20)
    with (
        RawServer({"/": sized(bomb, "Content-Encoding: gzip")}) as server,
        pytest.raises(DownloadError, match="limit"),
    ):
        download(server.address + "/")


def test_the_whole_time_is_limited(video, monkeypatch):
    monkeypatch.setattr(video_download_umt, "_CHUNK_SIZE", 10)  # so that it is not too slow
    monkeypatch.setattr(video_download_umt, "MAX_DOWNLOAD_SECONDS", 0.5)
    with RawServer({"/": lambda: drip(sized(bytes(9999)), 0.02, 50)}) as server:
        began = time.monotonic()
        with pytest.raises(DownloadError, match=r"took more than 0\.5 s"):
            download(server.address + "/")
        assert time.monotonic() - began < 1


def test_the_body_of_a_redirect_is_not_read(video):
    endless = itertools.chain([redirect("/file")], itertools.repeat(bytes(1 << 20)))
    with RawServer({"/": lambda: endless, "/file": sized(video)}) as server, download(server.address + "/") as file:
        assert file.read() == video


def test_a_full_disk_is_an_error_of_the_video(server, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")  # written again when it is closed

    monkeypatch.setattr(video_download_umt.tempfile, "SpooledTemporaryFile", lambda max_size: Full())
    with pytest.raises(VideoDecodeError, match="free some space, or set TMPDIR") as caught:
        VideoReader(server.address + "/sized")
    assert caught.value.reason == "network"


def test_https_to_a_server_without_tls_is_an_error(server):
    with pytest.raises(DownloadError, match=r"(?i)ssl|closed|reset"):
        download(server.address.replace("http", "https") + "/sized")


def test_a_listener_that_does_not_accept_is_an_error_in_time():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.create_connection(("127.0.0.1", port))]  # fills the queue of the listener
        began = time.monotonic()
        with pytest.raises(DownloadError, match=r"timed out|nothing was received"):
            download(f"http://127.0.0.1:{port}/a.mp4")
        assert time.monotonic() - began < 2
        waiting[0].close()


def test_videos_and_images_have_the_errors_of_their_content(video, tmp_path):
    page = b"<!DOCTYPE html><html><body>Log in</body></html>"
    picture = tmp_path / "a.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(picture)
    answers = {
        "/page": sized(page),
        "/empty": sized(b""),
        "/a.png": sized(picture.read_bytes()),
        "/loop": redirect("/loop"),
    }
    with RawServer(answers) as server:
        for path, reason in (("/page", "not_a_video"), ("/empty", "empty"), ("/loop", "network")):
            with pytest.raises(VideoDecodeError) as caught:
                VideoReader(server.address + path)
            assert caught.value.reason == reason
        for path, reason in (("/page", "unreadable"), ("/empty", "unreadable"), ("/loop", "network")):
            with pytest.raises(VideoDecodeError) as caught:
                open_image(server.address + path)
            assert caught.value.reason == reason
        assert np.asarray(open_image(server.address + "/a.png")).ravel().tolist() == list(range(48))


def test_an_image_has_a_lower_limit(video):
    stated = RawServer({"/a.png": lambda: [ok(b"", f"Content-Length: {1 << 30}"), 5.0]})
    with stated, pytest.raises(VideoDecodeError, match="larger than 268,435,456 bytes"):
        open_image(stated.address + "/a.png")
