"""The models and test clips of a finished `umt demo`, and the settings of a short one."""

import json
from pathlib import Path
from typing import NamedTuple

from .demo import DemoSettings

_MODELS = ("teacher", "student", "umt")
_NUM_EXAMPLES = 8
# one seed and one learning rate of the full run: the same teacher, student and classifier, with no long comparison
SHORT = DemoSettings(seeds=1, long_seeds=0, test=160, validation=160, rates=(1e-3,))


class DemoModels(NamedTuple):
    """Folders of the teacher, the student and the classifier of a run, and test clips with the name of their class,
    one of each."""

    teacher: Path
    student: Path
    classifier: Path
    clips: list[tuple[str, Path]]


def demo_models(folder: Path) -> DemoModels:
    """The models in the folder of a finished demo with generated clips or the user's.

    Raises:
        ValueError: the folder is not that of a finished demo, or it was run with a given teacher.
    """
    results = folder / "results.json"
    if not is_finished(folder):
        raise ValueError(f"{folder} is not the folder of a finished `umt demo`: it has no {results.name}.")
    missing = [name for name in _MODELS if not (folder / name / "config.json").is_file()]
    if missing:
        raise ValueError(f"The demo in {folder} has no model {', '.join(missing)}; run it without --teacher.")
    return DemoModels(*(folder / name for name in _MODELS), _test_clips(folder))


def is_finished(folder: Path) -> bool:
    """Whether a folder is that of a finished demo."""
    return (folder / "results.json").is_file()


def _test_clips(folder: Path) -> list[tuple[str, Path]]:
    """One test clip of each class. The list states the paths of the directory in which the demo was started."""
    listed = [Path(path) for path in json.loads((folder / "splits.json").read_text())["test"]]
    paths = {}
    for path in listed:
        here = folder.joinpath("videos", *path.parts[-3:])
        found = here if here.is_file() else path
        if found.is_file():
            paths.setdefault(path.parent.name, found)
    return list(paths.items())[:_NUM_EXAMPLES]
