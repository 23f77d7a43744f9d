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
    monkeypatch.setattr(video_download_umt, "_TIMEOUT", 0.25)
    monkeypatch.setattr(video_download_umt, "_HEADER_TIMEOUT", 0.6)


def ok(data: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode("latin-1") + data


def sized(data: bytes, *headers: str, extra: int = 0) -> bytes:
    return ok(data, f"Content-Length: {len(data) + extra}", *headers)


def chunked(data: bytes, size: int = 500) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: yes\r\n\r\n"


def redirect(location: str, status: str = "302 Found") -> bytes:
    return ok(b"moved", f"Location: {location}", status=status)


def good_answers(video: bytes) -> dict[str, object]:
    return {
        "/sized": sized(video),
        "/until-closed": ok(video),
        "/http-1.0": ok(video).replace(b"HTTP/1.1", b"HTTP/1.0"),
        "/chunked": ok(chunked(video), "Transfer-Encoding: chunked"),
        # RFC 9112, section 6.3: the transfer encoding overrides the length
        "/chunked-with-length": ok(chunked(video), "Transfer-Encoding: chunked", "Content-Length: 9"),
        "/gzip": sized(gzip.compress(video), "Content-Encoding: gzip"),
        "/gzip-chunked": ok(chunked(gzip.compress(video)), "Transfer-Encoding: chunked", "Content-Encoding: x-gzip"),
        "/identity": sized(video, "Content-Encoding: identity"),
        "/equal-lengths": sized(video, f"Content-Length: {len(video)}"),
        "/longer": sized(video) + b"HTTP/1.1 200 OK\r\n\r\n",
        "/continued": b"HTTP/1.1 100 Continue\r\n\r\n" + sized(video),
        "/not-authoritative": ok(video, status="203 Non-Authoritative Information"),
        "/redirect": redirect("/sized"),
        "/redirects": redirect("/redirect", "308 Permanent Redirect"),
        "/slow": lambda: drip(sized(video), 0.02, 500),
    }


def bad_answers(video: bytes) -> dict[str, tuple[object, str]]:
    """Path → answer, and what the error states."""
    endless = lambda data: lambda: itertools.cycle([data])  # noqa: E731
    return {
        "/nothing": (b"", "closed connection"),
        "/garbage": (b"GARBAGE\r\n\r\n", "GARBAGE"),
        "/status": (b"HTTP/1.1 2OO OK\r\n\r\n" + video, "2OO"),
        "/version": (b"HTTP/9 200 OK\r\n\r\n" + video, "HTTP/9"),
        "/long-header": (ok(video, "X: " + "a" * 70_000), "header line"),
        "/many-headers": (ok(video, *(f"X{number}: a" for number in range(200))), "100 headers"),
        "/endless-header": (endless(b"HTTP/1.1 200 OK\r\nX: a" + bytes(1000)), "100 headers"),
        "/endless-continue": (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), "did not answer completely in 0.6 s"),
        "/length-text": (ok(video, "Content-Length: many"), "'many', not one number"),
        "/length-negative": (ok(video, "Content-Length: -5"), "'-5', not one number"),
        "/length-twice": (sized(video, "Content-Length: 5"), "not one number"),
        "/length-huge": (ok(video, "Content-Length: " + "9" * 300), "larger than 4,294,967,296 bytes"),
        "/short": (sized(video, extra=1), f"after {len(video)} of {len(video) + 1} bytes"),
        "/short-reset": (sized(video[:1000], extra=9), "broke|reset"),
        "/chunk-short": (ok(b"3e8\r\n" + video[:500], "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/chunk-size": (ok(b"zz\r\n" + video, "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/chunk-negative": (ok(b"-5\r\n" + video, "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/chunk-damaged": (ok(chunked(video).replace(b"\r\n1f4", b"\r\n1f3", 1), "Transfer-Encoding: chunked"), "In"),
        "/chunk-no-end": (ok(chunked(video)[:-20], "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/transfer-gzip": (ok(gzip.compress(video), "Transfer-Encoding: gzip, chunked"), "'gzip, chunked'"),
        "/brotli": (sized(video, "Content-Encoding: br"), "'br' is not supported"),
        "/gzip-plain": (sized(video, "Content-Encoding: gzip"), "incorrect header check"),
        "/gzip-cut": (sized(gzip.compress(video)[:-9], "Content-Encoding: gzip"), "gzip encoding ends too early"),
        "/gzip-damaged": (sized(gzip.compress(video)[:-8] + bytes(8), "Content-Encoding: gzip"), "data check"),
        "/gzip-longer": (sized(gzip.compress(video) + b"more", "Content-Encoding: gzip"), "followed by other data"),
        "/no-content": (ok(b"", status="204 No Content"), "204 No Content"),
        "/partial": (ok(video, status="206 Partial Content"), "206 Partial Content"),
        "/not-modified": (ok(b"", status="304 Not Modified"), "304"),
        "/forbidden": (ok(b"no", status="403 Forbidden"), "403"),
        "/missing": (ok(video, status="404 Not Found"), "404"),
        "/too-many": (ok(b"", status="429 Too Many Requests"), "429"),
        "/broken": (ok(b"", status="500 Broken"), "500"),
        "/unknown": (ok(video, status="999 What"), "999"),
        "/loop": (redirect("/loop"), "infinite loop"),
        "/redirect-local": (redirect("file:///etc/passwd"), "not allowed"),
        "/redirect-ftp": (redirect("ftp://127.0.0.1/a.mp4"), "ftp"),
        "/redirect-nowhere": (ok(b"", status="302 Found"), "302"),
        "/redirect-host": (redirect("http://[bad/"), "IPv6"),
        "/redirect-port": (redirect("http://127.0.0.1:port/"), "port"),
        "/redirect-high-port": (redirect("http://127.0.0.1:99999/"), "refused|port"),
        "/redirect-user": (redirect("http://me:se@cret@127.0.0.1/"), "user name"),
        "/silent": (lambda: [5.0], "timed out|nothing was received in 0.25 s"),
        "/slow-header": (lambda: drip(ok(video, "X: " + "a" * 900), 0.1), "did not answer completely in 0.6 s"),
        "/slow-redirects": (lambda: [0.2, redirect("/slow-redirects?again")], "did not answer|infinite loop"),
        "/slow-file": (lambda: drip(sized(video), 0.1, 150), "fewer than"),
        "/slow-chunk-size": (
            lambda: itertools.chain([ok(b"", "Transfer-Encoding: chunked")], drip(b"5;" + b"a" * 900, 0.1)),
            "fewer than",
        ),
    }


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
