"""Answers of a server to a request for a file: complete in every form that HTTP allows, or wrong, slow or endless."""

import gzip
import itertools

from .raw_server import drip

TIMEOUT, HEADER_TIMEOUT = 0.25, 0.6  # limits for which the slow answers are too slow


def ok(data: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode("latin-1") + data


def sized(data: bytes, *headers: str, extra: int = 0) -> bytes:
    return ok(data, f"Content-Length: {len(data) + extra}", *headers)


def chunked(data: bytes, size: int = 500) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: yes\r\n\r\n"


def redirect(location: str, status: str = "302 Found") -> bytes:
    return ok(b"moved", f"Location: {location}", status=status)


def good_answers(file: bytes) -> dict[str, object]:
    return {
        "/sized": sized(file),
        "/until-closed": ok(file),
        "/http-1.0": ok(file).replace(b"HTTP/1.1", b"HTTP/1.0"),
        "/chunked": ok(chunked(file), "Transfer-Encoding: chunked"),
        # RFC 9112, section 6.3: the transfer encoding overrides the length
        "/chunked-with-length": ok(chunked(file), "Transfer-Encoding: chunked", "Content-Length: 9"),
        "/gzip": sized(gzip.compress(file), "Content-Encoding: gzip"),
        "/gzip-chunked": ok(chunked(gzip.compress(file)), "Transfer-Encoding: chunked", "Content-Encoding: x-gzip"),
        "/identity": sized(file, "Content-Encoding: identity"),
        "/equal-lengths": sized(file, f"Content-Length: {len(file)}"),
        "/longer": sized(file) + b"HTTP/1.1 200 OK\r\n\r\n",
        "/continued": b"HTTP/1.1 100 Continue\r\n\r\n" + sized(file),
        "/not-authoritative": ok(file, status="203 Non-Authoritative Information"),
        "/redirect": redirect("/sized"),
        "/redirects": redirect("/redirect", "308 Permanent Redirect"),
        "/slow": lambda: drip(sized(file), 0.02, len(file) // 6),
    }


def bad_answers(file: bytes) -> dict[str, tuple[object, str]]:
    """Path → answer, and what the error states."""
    endless = lambda data: lambda: itertools.cycle([data])  # noqa: E731
    return {
        "/nothing": (b"", "closed connection"),
        "/garbage": (b"GARBAGE\r\n\r\n", "GARBAGE"),
        "/status": (b"HTTP/1.1 2OO OK\r\n\r\n" + file, "2OO"),
        "/version": (b"HTTP/9 200 OK\r\n\r\n" + file, "HTTP/9"),
        "/long-header": (ok(file, "X: " + "a" * 70_000), "header line"),
        "/many-headers": (ok(file, *(f"X{number}: a" for number in range(200))), "100 headers"),
        "/endless-header": (endless(b"HTTP/1.1 200 OK\r\nX: a" + bytes(1000)), "100 headers"),
        "/endless-continue": (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), "did not answer completely in 0.6 s"),
        "/length-text": (ok(file, "Content-Length: many"), "'many', not one number"),
        "/length-negative": (ok(file, "Content-Length: -5"), "'-5', not one number"),
        "/length-twice": (sized(file, "Content-Length: 5"), "not one number"),
        "/length-huge": (ok(file, "Content-Length: " + "9" * 300), "larger than 4,294,967,296 bytes"),
        "/short": (sized(file, extra=1), f"after {len(file)} of {len(file) + 1} bytes"),
        "/short-reset": (sized(file[:1000], extra=9), "broke|reset"),
        "/chunk-short": (ok(b"3e8\r\n" + file[:500], "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/chunk-size": (ok(b"zz\r\n" + file, "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/chunk-negative": (ok(b"-5\r\n" + file, "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/chunk-damaged": (ok(chunked(file).replace(b"\r\n1f4", b"\r\n1f3", 1), "Transfer-Encoding: chunked"), "In"),
        "/chunk-no-end": (ok(chunked(file)[:-20], "Transfer-Encoding: chunked"), "IncompleteRead"),
        "/transfer-gzip": (ok(gzip.compress(file), "Transfer-Encoding: gzip, chunked"), "'gzip, chunked'"),
        "/brotli": (sized(file, "Content-Encoding: br"), "'br' is not supported"),
        "/gzip-plain": (sized(file, "Content-Encoding: gzip"), "incorrect header check"),
        "/gzip-cut": (sized(gzip.compress(file)[:-9], "Content-Encoding: gzip"), "gzip encoding ends too early"),
        "/gzip-damaged": (sized(gzip.compress(file)[:-8] + bytes(8), "Content-Encoding: gzip"), "data check"),
        "/gzip-longer": (sized(gzip.compress(file) + b"more", "Content-Encoding: gzip"), "followed by other data"),
        "/no-content": (ok(b"", status="204 No Content"), "204 No Content"),
        "/partial": (ok(file, status="206 Partial Content"), "206 Partial Content"),
        "/not-modified": (ok(b"", status="304 Not Modified"), "304"),
        "/forbidden": (ok(b"no", status="403 Forbidden"), "403"),
        "/missing": (ok(file, status="404 Not Found"), "404"),
        "/too-many": (ok(b"", status="429 Too Many Requests"), "429"),
        "/broken": (ok(b"", status="500 Broken"), "500"),
        "/unknown": (ok(file, status="999 What"), "999"),
        "/loop": (redirect("/loop"), "infinite loop"),
        "/redirect-local": (redirect("file:///etc/passwd"), "not allowed"),
        "/redirect-ftp": (redirect("ftp://127.0.0.1/a.mp4"), "ftp"),
        "/redirect-nowhere": (ok(b"", status="302 Found"), "302"),
        "/redirect-host": (redirect("http://[bad/"), "IPv6"),
        "/redirect-port": (redirect("http://127.0.0.1:port/"), "port"),
        "/redirect-high-port": (redirect("http://127.0.0.1:99999/"), "refused|port"),
        "/redirect-user": (redirect("http://me:se@cret@127.0.0.1/"), "user name"),
        "/silent": (lambda: [5.0], "timed out|nothing was received in 0.25 s"),
        "/slow-header": (lambda: drip(ok(file, "X: " + "a" * 900), 0.1), "did not answer completely in 0.6 s"),
        "/slow-redirects": (lambda: [0.2, redirect("/slow-redirects?again")], "did not answer|infinite loop"),
        "/slow-file": (lambda: drip(sized(file), 0.1, 150), "fewer than"),
        "/slow-chunk-size": (
            lambda: itertools.chain([ok(b"", "Transfer-Encoding: chunked")], drip(b"5;" + b"a" * 900, 0.1)),
            "fewer than",
        ),
    }
