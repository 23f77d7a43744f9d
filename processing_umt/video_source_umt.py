"""Opens a path, URL, bytes or file object as an FFmpeg container, and defines the error raised for broken videos.

FFmpeg never opens a file or address itself: local files and downloads are opened by Python and passed as file objects,
all protocols are disabled, and only formats that store a complete video in one file are allowed. Thus a playlist, a
concat script or a QuickTime reference movie can't make FFmpeg read another file or address.
"""

import io
import math
import os
import re
import stat
from typing import BinaryIO

from transformers.utils import is_av_available

from .container_ends_umt import ends_early
from .video_download_umt import DownloadError, download

if is_av_available():
    import av

# Formats that store a complete video in one file. The last three are audio formats, listed so that the error says so.
_FORMATS = "mov,matroska,webm,mpegts,mpeg,flv,asf,ogg,nut,ivf,mxf,gif,avi,rm,h264,hevc,m4v,mpegvideo,obu,wav,flac,mp3"
# raw streams: FFmpeg finds their start codes also within a file whose container has lost its header
_STREAMS_OF_START_CODES = ("h264", "hevc", "m4v", "mpegvideo")
_START_CODE = re.compile(rb"\x00{2,}\x01")

MAX_PIXELS = 8192 * 4352  # of a frame: the highest levels of H.264, VP9 and AV1, so that 8K is readable
# FLV and MPEG program streams. FFmpeg finds their streams while it decodes, where options do not reach the decoders
_STREAMS_AFTER_THE_HEADER = (b"FLV\1", b"\0\0\1\xba")

_EXPLANATIONS = {
    "missing": ("the file does not exist", "Check the path; only http and https URLs are downloaded"),
    "unreadable": ("it can't be opened", "Check that it is a file and that you have read permission"),
    "network": ("it can't be downloaded", "Check the URL, or download it yourself and pass the file"),
    "empty": ("the file is empty", "Export or download it again, or leave it out"),
    "not_a_video": (
        "it is not in a supported video format",
        "Playlists, scripts, images and text are not videos: pass the video file itself",
    ),
    "no_video_stream": ("it has no video stream (is it audio only?)", "Pass a file with video, or leave it out"),
    "no_frames": ("its video stream contains no decodable frame", "Export it again, or leave it out"),
    "too_large": ("its frames are too large", "Reduce its resolution, or leave it out"),
    "truncated": ("it ends too early", "Download or copy it again, or leave it out"),
    "decode": ("it can't be decoded", "The file is damaged or uses an unknown codec: re-encode it, or leave it out"),
}


USER_AND_PASSWORD = re.compile(r"(?<=://)[^/\s]*@")  # of a URL


class VideoDecodeError(ValueError):
    """A video can't be read. One class for all reasons, so that a batch can skip and report. The message contains no
    user name and no password of a URL.

    Attributes:
        video (`str`): name of the file, URL without user name and password, or a description of the bytes or file
            object.
        reason (`str`): stable category: "missing", "unreadable", "network", "empty", "not_a_video",
            "no_video_stream", "no_frames", "too_large", "truncated" or "decode".
    """

    def __init__(self, video: str, reason: str, detail: str = ""):
        what, advice = _EXPLANATIONS[reason]
        message = f"{video}: {what}{f' ({detail})' if detail else ''}. {advice}."
        super().__init__(USER_AND_PASSWORD.sub("", message))
        self.video, self.reason, self.detail = USER_AND_PASSWORD.sub("", video), reason, detail

    def __reduce__(self):  # pickled by its arguments, to be sent from data loader workers
        return type(self), (self.video, self.reason, self.detail)


class VideoSource:
    """A video as a seekable binary file with a name; `open_container` opens it as an FFmpeg container.

    Args:
        video: `str` or `Path` of a local file, http(s) URL (downloaded first, with time limits), `bytes`, or a binary
            file object, which is read from its beginning and not closed.

    Raises:
        VideoDecodeError: "missing", "unreadable", "network" or "empty".
        ValueError: for any other type.
        ImportError: PyAV is missing or older than 17.1.
    """

    def __init__(self, video: str | os.PathLike | bytes | BinaryIO):
        if not is_av_available() or tuple(map(int, av.__version__.split(".")[:2])) < (17, 1):
            raise ImportError("Reading video files requires PyAV 17.1 or newer: pip install --upgrade av")
        self._owned = True
        if isinstance(video, (bytes, bytearray, memoryview)):
            self.name = f"<{len(video)} bytes>"
            self.file: BinaryIO = io.BytesIO(video)
        elif isinstance(video, (str, os.PathLike)):
            self.name = os.fsdecode(video)
            self.file = open_file(self.name)
        elif hasattr(video, "read") and not isinstance(video, io.TextIOBase):
            self.name = str(getattr(video, "name", None) or f"<{type(video).__name__}>")
            self._owned = not (hasattr(video, "seekable") and video.seekable())
            self.file = io.BytesIO(video.read()) if self._owned else video
        else:
            raise ValueError(
                f"A video was given as {type(video).__name__}; pass a path, an http(s) URL, bytes or a binary file."
            )
        self.size = self.file.seek(0, io.SEEK_END)
        if self.size == 0:
            self.close()
            raise VideoDecodeError(self.name, "empty")

    def open_container(self) -> "av.container.InputContainer":
        """Opens a container at the beginning of the file. Only one may be in use, as containers share the file."""
        head = self.read_at(0, 1024)
        if head[:4] in _STREAMS_AFTER_THE_HEADER:
            self._check_size(*self._stated_size())
        try:
            container = self._open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if head[4:8] in (b"ftyp", b"mdat", b"wide", b"free", b"skip"):
                raise VideoDecodeError(self.name, "truncated", "it has no index (moov)") from error
            raise VideoDecodeError(self.name, "truncated" if self.is_truncated() else "not_a_video") from error
        if not _size(container)[0]:  # the decoder may have refused it
            container.close()
            self._check_size(*self._stated_size())
            container = self._open()
        self._check_size(*_size(container))
        kind = container.format.name
        if kind in _STREAMS_OF_START_CODES and not _START_CODE.match(head):
            container.close()
            raise VideoDecodeError(
                self.name, "not_a_video", f"it contains {kind} but does not begin with a start code"
            )
        # FFmpeg would generate missing presentation times
        container.flags &= ~av.container.Flags.gen_pts.value
        return container

    def _open(self, **options: str) -> "av.container.InputContainer":
        self.file.seek(0)
        options |= {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "max_pixels": str(MAX_PIXELS)}
        return av.open(_SeekableFile(self.file), mode="r", options=options, metadata_errors="replace")

    def _stated_size(self) -> tuple[int, int]:
        """Width and height as the headers state them, without a decoder; 0 if unknown."""
        try:
            with self._open(codec_whitelist="none") as container:
                return _size(container)
        except (av.error.FFmpegError, OSError, ValueError):
            return 0, 0

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise VideoDecodeError(self.name, "too_large", f"{width} × {height}; at most {MAX_PIXELS} pixels are read")

    def read_at(self, offset: int, count: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(count)

    def is_truncated(self) -> bool:
        """Whether the file ends before the end that it states (see `ends_early`)."""
        return ends_early(self.read_at, self.size)

    def close(self) -> None:
        if self._owned:
            self.file.close()


def best_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The video stream that FFmpeg ranks first (default, most frames, highest bit rate), or the next one if that is
    cover art; None without video."""
    best = container.streams.best("video")
    pictures = av.stream.Disposition.attached_pic
    others = [stream for stream in container.streams.video if not stream.disposition & pictures]
    return best if best in others else max(others, key=lambda stream: stream.frames, default=None)


def _size(container: "av.container.InputContainer") -> tuple[int, int]:
    """Width and height of the best video stream; 0 if unknown."""
    stream = best_stream(container)
    return (0, 0) if stream is None or stream.codec_context is None else (stream.width, stream.height)


class _SeekableFile:
    """A file as FFmpeg reads it: a position before its beginning, which a damaged header may state, is an error code,
    as of FFmpeg's own files, and not an exception."""

    def __init__(self, file: BinaryIO):
        self.read, self.tell, self._seek = file.read, file.tell, file.seek

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError):
            return -1


def open_file(name: str, max_download: float = math.inf) -> BinaryIO:
    """Opens a local file, or downloads an http(s) URL, within the limits of `video_download_umt`.

    Args:
        max_download: largest size in bytes of a download, where it is below `MAX_DOWNLOAD_BYTES`.

    Raises:
        VideoDecodeError: "missing", "unreadable" or "network".
    """
    if not name.lower().startswith(("http://", "https://")):
        return _open_local_file(name)
    try:
        return download(name, max_download)
    except DownloadError as error:
        raise VideoDecodeError(name, "network", str(error)) from error


def _open_local_file(path: str) -> BinaryIO:
    try:
        # a pipe without a writer would block forever, a device might never end
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        file = open(path, "rb", buffering=0) if is_regular else None  # noqa: SIM115 (closed by its owner)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise VideoDecodeError(path, "missing") from error
    except OSError as error:
        raise VideoDecodeError(path, "unreadable", error.strerror) from error
    if file is None:
        raise VideoDecodeError(path, "unreadable", "not a regular file")
    return file
