"""`umt publish`: convert an official checkpoint and upload it to the Hub with its card and code."""

import argparse
import tempfile
from pathlib import Path

HELP = "convert an official checkpoint, check it, and upload it to the Hub with its card and code"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "row", help="name of the checkpoint, as in model_cards/README.md: that of the official file without .pth"
    )
    parser.add_argument("--repo-id", required=True, help="repository to create or update: owner/name")
    parser.add_argument("--checkpoint", help="path of the official file (default: downloaded from the Hub)")
    parser.add_argument(
        "--vocabulary",
        help="Hub id or folder of a BERT, or its vocab.txt, for a video-text model (default: the row's)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--dry-run", action="store_true", help="create the folder, list what would be uploaded, and stop"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to create and keep (default: ROW with --dry-run, else none)"
    )


def run(args: argparse.Namespace) -> int:
    from ..cards.checkpoint_registry import checkpoint_row
    from ..cards.publishing import build_repository, upload

    row = checkpoint_row(args.row)
    folder = args.output or (Path(row.name) if args.dry_run else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary, row.name)
        build_repository(row, folder, args.repo_id, args.checkpoint, args.vocabulary)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            print(f"  {path.relative_to(folder)}  {path.stat().st_size:,} bytes")
        total = sum(path.stat().st_size for path in files)
        if args.dry_run:
            print(f"{folder}: {len(files)} files, {total:,} bytes; dry run, nothing was uploaded to {args.repo_id}")
            return 0
        url = upload(folder, args.repo_id, args.private, f"{row.name}, converted from the official checkpoint")
        print(f"{len(files)} files, {total:,} bytes: {url}")
    return 0
