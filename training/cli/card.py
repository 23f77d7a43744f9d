"""`umt card`: build the cards of the published checkpoints from their registry, or list those that are out of date."""

import argparse
from pathlib import Path

HELP = "build the cards of the published checkpoints from their registry, or check that they are up to date"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("build", "check"), help="write the files that are out of date, or list them"
    )
    parser.add_argument(
        "--root", type=Path, help="checkout of the repository (default: the one this command runs from)"
    )


def run(args: argparse.Namespace) -> int:
    from ..cards.card_folders import build_cards, checkout, stale_files
    from ..cards.checkpoint_registry import row_names

    root = args.root or checkout()
    if args.action == "build":
        changed = build_cards(root)
        print("\n".join([*changed, f"{len(row_names())} checkpoints: {len(changed)} files changed"]))
        return 0
    stale = stale_files(root)
    if stale:
        listed = "\n  ".join(stale)
        raise ValueError(f"{len(stale)} files differ from the registry; run `umt card build`:\n  {listed}")
    print(f"{len(row_names())} checkpoints: cards and reproducibility page are up to date")
    return 0
