"""`umt card`: writes the cards of the published checkpoints from their registry, or tells which are stale."""

import argparse
from pathlib import Path

HELP = "write the cards of the published checkpoints from their registry, or check them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("build", "check"), help="write what is stale, or only tell")
    parser.add_argument(
        "--root", type=Path, help="checkout of the repository (default: the one this command runs from)"
    )


def run(args: argparse.Namespace) -> int:
    from ..cards.card_folders import build_cards, checkout, stale_files
    from ..cards.checkpoint_registry import row_names

    root = args.root or checkout()
    if args.action == "build":
        changed = build_cards(root)
        print("\n".join([*changed, f"{len(row_names())} checkpoints: {len(changed)} files written"]))
        return 0
    stale = stale_files(root)
    if stale:
        listed = "\n  ".join(stale)
        raise ValueError(f"{len(stale)} files are not what the registry says; run `umt card build`:\n  {listed}")
    print(f"{len(row_names())} checkpoints: cards and reproducibility page are up to date")
    return 0
