"""A server on the loopback interface whose answers are raw bytes, so that they may be wrong in any way."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

Answer = bytes | Callable[[], Iterable[bytes | float]]  # bytes, or bytes and pauses in seconds
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing resets the connection


def drip(data: bytes, seconds: float, size: int = 1) -> Iterator[bytes | float]:
    """`size` bytes at a time, with pauses."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
        yield seconds


class RawServer:
    """Serves `answers`: path of a request → everything that is sent, with the status line; then the connection is
    closed, or reset if the path contains `-reset`. Other paths get the answer of `*`. A context manager.

    Attributes:
        address (`str`): `http://127.0.0.1:port`.
        requests (`list[bytes]`): the requests with their headers.
    """

    def __init__(self, answers: Mapping[str, Answer]):
        self.answers, self.requests = answers, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self) -> "RawServer":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request and (received := connection.recv(65536)):
                request += received
            self.requests.append(request)
            path = request.split(b" ")[1].decode("latin-1") if request.count(b" ") > 1 else ""
            answer = self.answers.get(path.split("?")[0], self.answers.get("*", b""))
            try:
                for part in [answer] if isinstance(answer, bytes) else answer():
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        time.sleep(part)
            except OSError:  # the client has closed the connection
                return
            if "-reset" in path:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
