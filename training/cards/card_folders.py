"""The files that are written from the registry: a folder for every checkpoint and their list in `model_cards/`, and
`docs/reproducibility.md`; and whether those that are there are still the ones that would be written.

Not of the paper. Unusual: JSON files are compared by their values, which no change of layout makes stale.
"""

import json
from pathlib import Path

from ..atomic_files import atomic_write
from .card_template import CARDS_FOLDER, table
from .checkpoint_registry import CheckpointRow, checkpoint_row, count_parameters, read_registry, row_config, row_names
from .published_card import published_scores, repository_files
from .reproducibility import reproducibility_page

LIST_HEAD = """\
# Published checkpoints

Every checkpoint of the official model zoos, and the CLIP teachers. The table and the folders are written by \
`umt card build` from `registry.yaml` and `results.yaml`; `umt card check` tells when they are stale.

A folder holds what is the checkpoint's own: card, `config.json`, processor settings, and published results in the \
form of the Hub's `.eval_results/` where a copy of the data set is on the Hub. `umt publish ROW --repo-id owner/name` \
adds what all of them share, the model code and BERT's vocabulary, and the weights; with `--dry-run` it makes the \
complete folder and uploads nothing.

Sizes and parameters follow from the configurations; none of the scores has been measured again.
"""


def written_files() -> dict[str, str]:
    """Path below the repository → text of everything that `umt card build` writes."""
    files = {"model_cards/README.md": checkpoint_list(), "docs/reproducibility.md": reproducibility_page()}
    for name in row_names():
        for file, text in repository_files(checkpoint_row(name)).items():
            files[f"model_cards/{name}/{file}"] = text
    return files


def checkpoint_list() -> str:
    rows = []
    for name in row_names():
        row = checkpoint_row(name)
        rows.append((f"[{name}]({name}/README.md)", row.kind, row.size, shape(row), parameters(row), score(row)))
    header = ("checkpoint", "kind", "size", "frames x pixels", "parameters", "published")
    return f"{LIST_HEAD}\n{table(header, rows)}\n"


def shape(row: CheckpointRow) -> str:
    return f"{row.frames} x {row.resolution}" if row.resolution else f"{row.frames}"


def parameters(row: CheckpointRow) -> str:
    return f"{count_parameters(row_config(row), row.model_class):,}" if row.has_model else "no model yet"


def score(row: CheckpointRow) -> str:
    """The first published number of a row."""
    scores = published_scores(row)
    if not scores:
        return ""
    dataset, _, _, words, value = scores[0]
    return f"{read_registry()['datasets'][dataset]['name']}: {value:.1f} {words.split(' (')[0]}"


def build_cards(root: Path) -> list[str]:
    """Write what is stale, remove what no row speaks of, and return the paths that were changed."""
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
    """Paths below `root` that are not there, differ from what would be written, or belong to no row.

    Raises:
        ValueError: if `root` is no checkout of this repository.
    """
    cards = root / "model_cards"
    if not (cards / "registry.yaml").is_file() or not (root / "pyproject.toml").is_file():
        raise ValueError(
            f"{root} is no checkout of the repository, which is where cards are kept; give one as --root."
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
    """The repository that this package is run from."""
    return CARDS_FOLDER.parent
