"""`umt card`: write the card of a model's folder; or build the cards of the published checkpoints from their registry,
or list those that are out of date."""

import argparse
from pathlib import Path

from ..atomic_files import atomic_write

HELP = "write the card of your model; or build, or check, the cards of the published checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="FOLDER|build|check",
        help="folder of a model: write its card, or update the one of its run; build: write the cards of the "
        "published checkpoints that are out of date; check: list them",
    )
    own = parser.add_argument_group("for a folder")
    own.add_argument("--repo-id", help="id on the Hub in the card's code: owner/name (default: the folder's name)")
    own.add_argument("--license", help="licence of the model, an identifier of the Hub such as apache-2.0")
    registry = parser.add_argument_group("for build and check")
    registry.add_argument(
        "--root", type=Path, help="checkout of the repository (default: the one this command runs from)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the card and prints its path.

    Raises:
        ValueError: an option of the other kind, a folder without a model, or, for `check`, files that are out of date.
        OSError: the folder does not exist.
    """
    if args.target not in ("build", "check"):
        if args.root is not None:
            raise ValueError(f"--root is for build and check, but {args.target} is a folder; leave it out.")
        return write_card(Path(args.target), args.repo_id, args.license)
    for name in ("repo_id", "license"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is for the folder of a model; leave it out.")

    from ..cards.card_folders import build_cards, checkout, stale_files
    from ..cards.checkpoint_registry import row_names

    root = args.root or checkout()
    if args.target == "build":
        changed = build_cards(root)
        print("\n".join([*changed, f"{len(row_names())} checkpoints: {len(changed)} files changed"]))
        return 0
    stale = stale_files(root)
    if stale:
        raise ValueError(f"{len(stale)} files differ from the registry; run `umt card build`: {', '.join(stale)}.")
    print(f"{len(row_names())} checkpoints: cards and reproducibility page are up to date")
    return 0


def write_card(folder: Path, repo_id: str | None, license: str | None) -> int:
    from ..cards.saved_model import CARD, saved_model_card

    card, path = saved_model_card(folder, repo_id, license), folder / CARD
    is_new = not path.is_file()
    if not is_new and path.read_text(encoding="utf-8") == str(card):
        print(f"{path}: up to date")
        return 0
    with atomic_write(path) as temporary:
        temporary.write_text(str(card), encoding="utf-8")
    print(f"{path}: {'written' if is_new else 'updated'}")
    return 0
