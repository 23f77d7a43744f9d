"""Routes of the page's server: the videos that it shows, and a refusal to fetch URLs.

A video is readable only after the page has shown it, under a random address.
"""

import secrets
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

_FETCH = "/gradio_api/file=http{rest:path}"  # Gradio would fetch the URL from the network


class ServedVideos:
    """Addresses of the files that the page has shown."""

    def __init__(self):
        self._paths: dict[str, Path] = {}
        self._tokens: dict[Path, str] = {}

    def address(self, path: Path) -> str:
        """Address of a file, relative to the page; the same for every call."""
        path = path.resolve()
        if path not in self._tokens:
            token = secrets.token_urlsafe(16)
            self._tokens[path], self._paths[token] = token, path
        return f"videos/{self._tokens[path]}{path.suffix.lower()}"

    def routes(self) -> list[Route]:
        """Routes that precede those of Gradio."""
        return [Route("/videos/{name}", self._serve), Route(_FETCH, _refuse)]

    async def _serve(self, request: Request) -> Response:
        path = self._paths.get(request.path_params["name"].partition(".")[0])
        if path is None or not path.is_file():
            return PlainTextResponse("This video is not shown on the page.", status_code=404)
        return FileResponse(path, headers={"X-Content-Type-Options": "nosniff"}, content_disposition_type="inline")


async def _refuse(request: Request) -> Response:
    return PlainTextResponse("This page reads no URLs; upload the file.", status_code=403)
