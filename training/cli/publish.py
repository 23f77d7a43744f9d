"""`umt publish`: upload a model to the Hub with its card and code: a published checkpoint, which is converted from the
official file, or the folder of one's own model."""

import argparse
import os
import tempfile
from pathlib import Path

from ..quiet_loading import quiet_loading
from ..suggestions import did_you_mean

HELP = "upload a model to the Hub with its card and code: your own, or an official checkpoint, which is converted"
ROW_OPTIONS = ("checkpoint", "vocabulary", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="FOLDER_OR_ROW",
        help="folder of your own model; or the name of a published checkpoint, as in model_cards/README.md: that of "
        "the official file without .pth",
    )
    parser.add_argument("--repo-id", required=True, help="repository to create or update: owner/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, list what would be uploaded, and stop"
    )
    own = parser.add_argument_group("for your own model")
    own.add_argument(
        "--license",
        help="licence of the model, an identifier of the Hub such as apache-2.0; also of an official checkpoint for "
        "which none is stated",
    )
    row = parser.add_argument_group("for an official checkpoint")
    row.add_argument("--checkpoint", help="path of the official file (default: downloaded from the Hub)")
    row.add_argument(
        "--vocabulary",
        help="Hub id or folder of a BERT, or its vocab.txt, for a video-text model (default: the row's)",
    )
    row.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to create and keep (default: ROW with --dry-run, else none)"
    )


def run(args: argparse.Namespace) -> int:
    """Uploads the model, or with `--dry-run` lists its files.

    Raises:
        ValueError: neither a folder nor a row, an option of the other kind, or an incomplete or damaged model.
        OSError: a file can't be found, downloaded or uploaded.
    """
    from ..cards.checkpoint_registry import checkpoint_row, row_names

    require_repo_id(args.repo_id)
    is_row = args.model in row_names()  # ./ROW is the folder of that name
    if not is_row and (os.path.isdir(args.model) or os.sep in args.model):
        if given := [name for name in ROW_OPTIONS if getattr(args, name) is not None]:
            raise ValueError(f"--{given[0]} is for official checkpoints, but {args.model} is a folder; leave it out.")
        return publish_folder(args)
    if not is_row:
        raise ValueError(
            f"The registry has no checkpoint {args.model!r}, and it is not a folder; model_cards/README.md lists the "
            f"checkpoints{did_you_mean(args.model, row_names()) or '.'}"
        )
    row = checkpoint_row(args.model)
    if args.license is not None and row.licence is not None:
        raise ValueError(
            f"--license is for your own model; the licence of {row.name} is that of its row, {row.licence}."
        )
    if args.license is None and row.licence is None:
        raise ValueError(
            f"Licence of the weights of {row.name}: {row.source['license_name']}. Publish them only if you may, and "
            "give the licence as --license."
        )
    return publish_row(args, row)


def require_repo_id(repo_id: str) -> None:
    """Raise a ValueError if this is not `owner/name`, before anything is built."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo-id is {repo_id!r}; expected owner/name. ({error})") from error
    if "/" not in repo_id:
        raise ValueError(f"--repo-id is {repo_id!r}; expected owner/name.")


def publish_folder(args: argparse.Namespace) -> int:
    from ..cards.saved_model import repository_contents, require_complete, upload_contents

    folder = Path(args.model)
    with quiet_loading():
        require_complete(folder)
    files = repository_contents(folder, args.repo_id, args.license)
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    print_files(sizes)
    summary = f"{len(files)} files, {sum(sizes.values()):,} bytes"
    if args.dry_run:
        print(f"{folder}: {summary}; dry run, nothing was uploaded to {args.repo_id}")
        return 0
    message = f"{folder.resolve().name}, uploaded by umt publish"
    print(f"{summary}: {upload_contents(files, args.repo_id, args.private, message)}")
    return 0


def publish_row(args: argparse.Namespace, row) -> int:
    from ..cards.publishing import build_repository, upload

    folder = args.output or (Path(row.name) if args.dry_run else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary, row.name)
        build_repository(row, folder, args.repo_id, args.checkpoint, args.vocabulary, args.license)
        print(f"{row.name}: licence {args.license or row.license or row.source['license_name']}")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        print_files(sizes)
        total = sum(sizes.values())
        if args.dry_run:
            print(f"{folder}: {len(files)} files, {total:,} bytes; dry run, nothing was uploaded to {args.repo_id}")
            return 0
        url = upload(folder, args.repo_id, args.private, f"{row.name}, converted from the official checkpoint")
        print(f"{len(files)} files, {total:,} bytes: {url}")
    return 0


def print_files(sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        print(f"  {name}  {size:,} bytes")
