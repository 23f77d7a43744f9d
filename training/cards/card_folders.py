"""Building the files that are generated from the registry, and checking that they are up to date.

The files are a folder for every checkpoint and their list in `model_cards/`, and `docs/reproducibility.md`. JSON files
are compared by value, so that their layout does not matter.
"""

import json
from pathlib import Path

from ..atomic_files import atomic_write
from .card_template import CARDS_FOLDER, table
from .checkpoint_registry import CheckpointRow, checkpoint_row, count_parameters, read_registry, row_config, row_names
from .published_card import repository_files
from .published_results import published_scores
from .reproducibility import reproducibility_page

LIST_HEAD = """\
# Published checkpoints

All checkpoints of the official model zoos of UMT, its CLIP teachers, the students of MVD, whose licence is CC BY-NC \
4.0, the models of EVEREST, the vision tower of VideoChat, and the video models of InternVideo2. For the weights of \
EVEREST and InternVideo2 no licence is stated: `umt publish` requires `--license` for them. `umt card build` \
generates the table and the folders from `registry.yaml` and `results.yaml`; `umt card check` lists the files that \
are out of date.

A folder contains the files specific to a checkpoint: card, `config.json`, processor settings, and the published \
results in the form of the Hub's `.eval_results/` if the data set is on the Hub. `umt publish ROW --repo-id \
owner/name` adds the weights, the model code and BERT's vocabulary; with `--dry-run` it creates the complete folder \
and uploads nothing.

Sizes and parameters are computed from the configurations. None of the scores has been measured again.
"""


def written_files() -> dict[str, str]:
    """The files that `umt card build` writes, as path in the repository → text."""
    files = {"model_cards/README.md": checkpoint_list(), "docs/reproducibility.md": reproducibility_page()}
    for name in row_names():
        for file, text in repository_files(checkpoint_row(name)).items():
            files[f"model_cards/{name}/{file}"] = text
    return files


def checkpoint_list() -> str:
    rows = []
    for name in row_names():
        row = checkpoint_row(name)
        kind = row.shared["name"]
        rows.append((f"[{name}]({name}/README.md)", kind, row.size, shape(row), parameters(row), score(row)))
    header = ("checkpoint", "kind", "size", "frames x pixels", "parameters", "published")
    return f"{LIST_HEAD}\n{table(header, rows)}\n"


def shape(row: CheckpointRow) -> str:
    return f"{row.frames} x {row.resolution}"


def parameters(row: CheckpointRow) -> str:
    return f"{count_parameters(row_config(row), row.model_class):,}"


def score(row: CheckpointRow) -> str:
    """The first published result of a row."""
    scores = published_scores(row)
    if not scores:
        return ""
    dataset, _, _, metric, value = scores[0]
    return f"{read_registry()['datasets'][dataset]['name']}: {value:.1f} {metric.split(' (')[0]}"


def build_cards(root: Path) -> list[str]:
    """Write the files that are out of date, remove those of no row, and return their paths."""
    stale = stale_files(root)
    files = written_files()
    for name in stale:
        path = root / name
        if name not in files:
            path.unlink()
            continue
        with atomic_write(path) as temporary:
            temporary.write_text(files[name], encoding="utf-8")
    return stale


def stale_files(root: Path) -> list[str]:
    """Paths of the files in `root` that are missing, out of date, or of no row of the registry.

    Raises:
        ValueError: if `root` is not a checkout of this repository.
    """
    cards = root / "model_cards"
    if not (cards / "registry.yaml").is_file() or not (root / "pyproject.toml").is_file():
        raise ValueError(
            f"{root} is not a checkout of the repository, which contains the cards; give a checkout as --root."
        )
    files = written_files()
    present = {path.relative_to(root).as_posix() for path in cards.glob("*/**/*") if path.is_file()}
    return sorted((present - files.keys()) | {name for name, text in files.items() if differs(root / name, text)})


def differs(path: Path, text: str) -> bool:
    if not path.is_file():
        return True
    found = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            return json.loads(found) != json.loads(text)
        except ValueError:
            return True
    return found != text


def checkout() -> Path:
    """The repository that this package runs from."""
    return CARDS_FOLDER.parent
