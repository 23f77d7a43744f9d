"""The folder of a Space on the Hub that shows the page of `umt app`.

It contains `app.py`, which gives the command again, `requirements.txt`, the card `README.md` with the Space's
metadata, and copies of local models and videos. Models on the Hub are named.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..atomic_files import atomic_write

DISTRIBUTION = "unmasked-teacher"
TITLE = "Unmasked Teacher"
_GIT = "git+"
_APP = '''"""The page of `umt app`, on a Space of the Hub."""

from umt_training.cli import main

if __name__ == "__main__":
    raise SystemExit(main({arguments}))
'''
_CARD = """# {title}

The page of `umt app`: {tabs}. Upload a video, record one, or choose an example.

{models}

The page runs the package [unmasked-teacher]({url}), an implementation of
[Unmasked Teacher](https://arxiv.org/abs/2303.16058) for Transformers. The licence above is that of the package; the
weights have their own, which their cards state.
"""


@dataclass(frozen=True)
class SpaceFiles:
    """What the page of a Space shows; paths are local, all other names are ids on the Hub.

    Args:
        models: names of models given as such.
        options: further options of `umt app` that name a model, such as `("--teacher", name)`.
        folders: further options that name a folder of videos, such as `("--videos", folder)`.
        clips: name and path of videos of which a folder of examples is made; instead of `--examples` among `folders`.
        switches: further arguments, which are not names.
    """

    models: Sequence[str]
    options: Sequence[tuple[str, str]] = ()
    folders: Sequence[tuple[str, str]] = ()
    clips: Sequence[tuple[str, Path]] = ()
    switches: Sequence[str] = ()


def package_requirement(package: str | None) -> str:
    """The line of requirements.txt that installs this package with its extra `app`.

    Args:
        package: a URL for Git, with or without `git+`; default: the repository and commit that the package was
            installed from.

    Raises:
        ValueError: it is not a URL, or not given and not known.
    """
    if package is None:
        source = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        facts = json.loads(source) if source else {}
        if "vcs_info" not in facts:
            raise ValueError(
                "The Git URL of this package is not known, because it was not installed from one; give it: --package "
                "https://github.com/OWNER/unmasked-teacher"
            )
        package = f"{facts['url']}@{facts['vcs_info']['commit_id']}"
    url = package.removeprefix(_GIT)
    if not url.startswith(("https://", "http://", "ssh://")) or any(char.isspace() for char in url):
        raise ValueError(f"--package is {package!r}; expected the URL of a Git repository, https://...")
    return f"{DISTRIBUTION}[app] @ {_GIT}{url}"


def write_space(folder: Path, files: SpaceFiles, tabs: Sequence[str], requirement: str) -> Path:
    """Writes the Space.

    Args:
        folder: new or empty.
        files: what the page shows.
        tabs: names of the tabs, for the card.
        requirement: see `package_requirement`.

    Raises:
        ValueError: the folder is not empty, or two local models have the same name.
        OSError: it can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a new folder for --export-space.")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["app", *(_model(folder, name) for name in files.models)]
    for option, name in files.options:
        arguments += [option, _model(folder, name)]
    for option, path in files.folders:
        name = option.removeprefix("--")
        shutil.copytree(path, folder / name, symlinks=True)
        arguments += [option, name]
    if files.clips:
        (folder / "examples").mkdir()
        for name, clip in files.clips:
            shutil.copyfile(clip, folder / "examples" / f"{name}{clip.suffix}")
        arguments += ["--examples", "examples"]
    arguments += [*files.switches, "--host", "0.0.0.0", "--port", "7860"]
    names = [*files.models, *(name for _, name in files.options)]
    on_hub = [name for name in names if not Path(name).is_dir()]
    _write(folder / "app.py", _APP.format(arguments=_python(arguments)))
    _write(folder / "requirements.txt", f"{requirement}\n")
    _write(folder / "README.md", _card(on_hub, [name for name in names if name not in on_hub], tabs, requirement))
    return folder


def _model(folder: Path, name: str) -> str:
    """The name of a model in the Space: that on the Hub, or the folder of its copy."""
    if not Path(name).is_dir():
        return name
    copy = Path("models", Path(name).resolve().name)
    if (folder / copy).exists():
        raise ValueError(f"Two models are called {copy.name}; rename one of the folders.")
    shutil.copytree(name, folder / copy, ignore=shutil.ignore_patterns("checkpoint-*", "pictures", "__pycache__"))
    return copy.as_posix()


def _card(on_hub: Sequence[str], copied: Sequence[str], tabs: Sequence[str], requirement: str) -> str:
    metadata = {
        "title": TITLE,
        "emoji": "🎬",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio"),  # which this command was run with
        "python_version": "3.11",
        "app_file": "app.py",
        "license": "apache-2.0",
        "short_description": "Video models of Unmasked Teacher",
        "tags": ["video", "unmasked-teacher"],
    }
    if on_hub:
        metadata["models"] = list(on_hub)
    lines = [f"- [{name}](https://huggingface.co/{name})" for name in on_hub]
    lines += [f"- {Path(name).resolve().name}, in the folder `models`" for name in copied]
    url = requirement.partition(_GIT)[2]
    body = _CARD.format(title=TITLE, tabs=", ".join(tabs), models="\n".join(["Models:", "", *lines]), url=url)
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n{body}"


def _python(arguments: Sequence[str]) -> str:
    """A list of strings as Python code."""
    return json.dumps(list(arguments), ensure_ascii=False)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
