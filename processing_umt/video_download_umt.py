"""Downloads a video or image from an http(s) URL to a temporary file, within limits of time and size.

The server is not trusted: whatever it sends, headers and redirects included, is read within the limits below, a
redirect leads to http or https only, and an answer that is not a complete file is an error. The two limits without an
underscore may be changed, like `MAX_IMAGE_PIXELS` of Pillow.
"""

import base64
import contextlib
import errno
import functools
import http.client
import io
import math
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from email.message import Message
from typing import Any, BinaryIO

MAX_DOWNLOAD_BYTES = 4 << 30  # of a file
MAX_DOWNLOAD_SECONDS = 1800.0  # for the whole download

_TIMEOUT = 10.0  # seconds: to connect to an address, for the next byte, and for the next _CHUNK_SIZE bytes of a file
_HEADER_TIMEOUT = 30.0  # seconds: from the beginning to the end of the headers, those of redirects included
_CHUNK_SIZE = 1 << 16
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DownloadError(OSError):
    """A URL can't be downloaded; the message states the reason, in one line."""


def download(url: str, max_bytes: float = math.inf) -> BinaryIO:
    """Downloads a URL to an anonymous temporary file, kept in memory up to 64 MiB.

    Args:
        url: http or https. Spaces and other characters are escaped as browsers do. A user name and a password are
            sent to this host as basic authentication, not to the target of a redirect.
        max_bytes: largest size of the file, where it is below `MAX_DOWNLOAD_BYTES`.

    Returns:
        The file at its beginning.

    Raises:
        DownloadError: the URL or the server's answer is not valid, a limit is exceeded, or the disk is full.
    """
    file = tempfile.SpooledTemporaryFile(max_size=64 << 20)  # noqa: SIM115 (closed by its owner)
    try:
        with _open(url) as response:
            _copy(response, file, min(MAX_DOWNLOAD_BYTES, max_bytes))
        file.seek(0)
    except (OSError, ValueError, OverflowError, http.client.HTTPException, zlib.error) as error:
        with contextlib.suppress(OSError):  # the disk is full
            file.close()
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DownloadError(_describe(error)) from error
    return file


def _describe(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if getattr(error, "errno", None) in _FULL_DISK:
        return "the disk of temporary files is full: free some space, or set TMPDIR to a folder on another disk"
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- the answer -----------------------------------------------------------------------------------------------------


def _copy(response: http.client.HTTPResponse, file: BinaryIO, max_bytes: float) -> None:
    """Copies the body of an answer to a file."""
    if response.status not in (200, 203):
        raise OSError(f"the server answered {response.status} {response.reason}, without the file")
    transfer = response.headers.get("Transfer-Encoding", "chunked")
    if transfer.lower() != "chunked":
        raise OSError(f"its transfer encoding {transfer!r} is not supported")
    length = None if response.chunked else _content_length(response.headers)
    _check_size(length or 0, max_bytes)
    write, finish = _decoder(response.headers.get("Content-Encoding", ""), file, max_bytes)
    received = 0
    while chunk := response.read1(_CHUNK_SIZE):
        received += len(chunk)
        _check_size(received, max_bytes)
        write(chunk)
    if length is not None and received < length:
        raise OSError(f"the connection broke after {received} of {length} bytes")
    finish()


def _content_length(headers: Message) -> int | None:
    lengths = {part.strip() for text in headers.get_all("Content-Length", []) for part in text.split(",")}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise OSError(f"its header Content-Length is {headers['Content-Length']!r:.60}, not one number of bytes")
    return int(length)


def _check_size(size: int, max_bytes: float) -> None:
    if size > max_bytes:
        raise OSError(f"it is larger than {max_bytes:,} bytes, the limit of a download")


def _decoder(encoding: str, file: BinaryIO, max_bytes: float) -> tuple[Callable[[bytes], Any], Callable[[], None]]:
    """A function that decodes and writes the next bytes, and one to be called at their end."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return file.write, lambda: None
    if encoding not in ("gzip", "x-gzip"):
        raise OSError(f"its content encoding {encoding!r:.60} is not supported")
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def write(chunk: bytes) -> None:
        while chunk:
            if gzip.eof:
                raise OSError("its gzip encoding is followed by other data")
            file.write(gzip.decompress(chunk, _CHUNK_SIZE))
            _check_size(file.tell(), max_bytes)
            chunk = gzip.unconsumed_tail or gzip.unused_data

    def finish() -> None:
        file.write(gzip.flush())
        if not gzip.eof:
            raise OSError("its gzip encoding ends too early")

    return write, finish


# --- the request ----------------------------------------------------------------------------------------------------


def _open(url: str) -> http.client.HTTPResponse:
    """The answer to a request, after redirects, before its body is read."""
    limits = _TimeLimits()
    opener = urllib.request.OpenerDirector()  # http and https only, also after a redirect
    for handler in (
        urllib.request.ProxyHandler(),
        _Handler(limits),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    response = opener.open(_request(url), timeout=_TIMEOUT)
    limits.begin_file()
    return response


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    host = host if host.isascii() else host.encode("idna").decode()
    # what is escaped already stays
    path, query = (urllib.parse.quote(part, safe="%/:;=@!$&'()*+,?~[]|") for part in (parts.path, parts.query))
    address = urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))
    request = urllib.request.Request(address, headers={"User-Agent": "umt"})
    if user:
        name, _, password = user.partition(":")
        credentials = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(credentials).decode()}")
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, message, headers, url):
        answer.close()  # urllib would read its body into memory, whatever its size
        if "@" in urllib.parse.urlsplit(url).netloc:
            raise OSError("it redirects to a URL with a user name")
        return super().redirect_request(request, answer, code, message, headers, url)


class _Handler(urllib.request.HTTPSHandler):
    """Opens http and https with connections whose answers are read within limits."""

    http_request = urllib.request.HTTPSHandler.https_request

    def __init__(self, limits: "_TimeLimits"):
        super().__init__()
        self.limits = limits

    def http_open(self, request):
        return self.do_open(functools.partial(self.connection, http.client.HTTPConnection), request)

    def https_open(self, request):
        return self.do_open(functools.partial(self.connection, http.client.HTTPSConnection), request)

    def connection(self, kind: type, host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.response_class = functools.partial(_Response, limits=self.limits)
        return connection


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, limits: "_TimeLimits", **options: Any):
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_LimitedReader(self.fp.detach(), sock, limits))


class _LimitedReader(io.RawIOBase):
    """What a socket receives, within limits of time. The timeout of a socket limits one operation only, so that a
    server could send a byte from time to time forever."""

    def __init__(self, raw: io.RawIOBase, sock: Any, limits: "_TimeLimits"):
        self.raw, self.sock, self.limits = raw, sock, limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.sock.settimeout(self.limits.left())
        began = time.monotonic()
        try:
            count = self.raw.readinto(buffer)
        except TimeoutError:
            self.limits.left()
            raise TimeoutError(f"nothing was received in {_TIMEOUT:g} s") from None
        self.limits.received(count, time.monotonic() - began)
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _TimeLimits:
    """The time limits of a download, which begins now."""

    def __init__(self):
        began = time.monotonic()
        self.end, self.seconds = began + MAX_DOWNLOAD_SECONDS, MAX_DOWNLOAD_SECONDS
        self.header_end = began + _HEADER_TIMEOUT
        self.num_bytes, self.waited = 0, 0.0

    def begin_file(self) -> None:
        """The headers have been received."""
        self.header_end = math.inf

    def left(self) -> float:
        """Seconds that the next operation may take.

        Raises:
            TimeoutError: the time for the headers or for the whole is over.
        """
        now = time.monotonic()
        if now >= self.end:
            raise TimeoutError(f"the download took more than {self.seconds:g} s")
        if now >= self.header_end:
            raise TimeoutError(f"the server did not answer completely in {_HEADER_TIMEOUT:g} s")
        return min(_TIMEOUT, self.end - now, self.header_end - now)

    def received(self, count: int, seconds: float) -> None:
        """Counts bytes and the time that they took; of a file, too few of them in `_TIMEOUT` are an error."""
        if self.header_end < math.inf:
            return
        self.num_bytes += count
        self.waited += seconds
        if self.num_bytes >= _CHUNK_SIZE:
            self.num_bytes, self.waited = 0, 0.0
        elif count and self.waited > _TIMEOUT:
            raise TimeoutError(f"fewer than {_CHUNK_SIZE} bytes were received in {_TIMEOUT:g} s")
