"""Serves the page: where its files are, and what a browser may read.

Gradio serves uploaded files and those that the page has made, from a temporary folder of this process. No other folder
is allowed to it; the videos of an index are served by `ServedVideos`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .page import STYLE, AppModels, build_page, theme
from .served_files import ServedVideos
from .video_input import Surroundings

_LOCAL = "127.0.0.1,localhost"


@contextmanager
def served_page(
    models: AppModels,
    examples: Sequence[tuple[str, Path]],
    describe_error: Callable[[Exception], str | None],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    max_upload: float = 200,
) -> Iterator[str]:
    """Context manager that serves the page and yields its address, with `share` the public one.

    Args:
        models: see `build_page`.
        examples: name and path of videos to choose from.
        describe_error: the message of an error that a user can fix, in one line; None for a bug.
        host: address of the network interface; default: this machine alone can open the page.
        port: default: the first free one from 7860.
        share: ask Gradio's service for a public address; default False.
        max_upload: largest uploaded file in MiB; default 200.

    Raises:
        ValueError: see `build_page`, or Gradio's service gives no public address.
        OSError: the port is in use.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="umt-app-"))
        stack.enter_context(_environment(Path(folder)))
        shared, served = Surroundings(Path(folder), examples, describe_error), ServedVideos()
        page = build_page(models, served, shared)
        try:
            _, local, public = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                max_file_size=round(max_upload * (1 << 20)),
                app_kwargs={"routes": served.routes(), "docs_url": None, "redoc_url": None, "openapi_url": None},
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                enable_monitoring=False,
                mcp_server=False,
                pwa=False,
                footer_links=[],
                theme=theme(),
                css=STYLE,
            )
            if share and not public:
                raise ValueError("Gradio's service gave no public address; try again, or leave --share out.")
            yield public or local
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Context manager of the variables that Gradio reads: it sends nothing, and keeps its files in a folder."""
    values: dict[str, str | None] = dict.fromkeys(("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_ROOT_PATH"))
    values |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)}
    values["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
    for name in ("no_proxy", "NO_PROXY"):  # Gradio opens its own page once, which no proxy would reach
        values[name] = ",".join(filter(None, (os.environ.get(name), _LOCAL)))
    before = {name: os.environ.get(name) for name in values}
    _update_environment(values)
    try:
        yield
    finally:
        _update_environment(before)


def _update_environment(values: Mapping[str, str | None]) -> None:
    """Sets variables; None removes one."""
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
