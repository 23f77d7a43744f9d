"""`umt check-videos`: lists the videos of a data set that can't be read, and why, before a run fails on them."""

import argparse
import collections
import csv
import os
import sys
from pathlib import Path

from ..atomic_files import atomic_write
from ..terminal import printable
from .arguments import require_at_least

HELP = "list the videos of a data set that can't be read, with the reason"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="video, folder, list file, tar shards, or a data set's id on the Hub")
    parser.add_argument("--root", help="folder that the paths of a list are relative to (default: the list's own)")
    parser.add_argument("--split", help="split of the data set")
    parser.add_argument("--full", action="store_true", help="decode every frame instead of eight per video")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="decoding processes; 0 decodes in the main process"
    )
    parser.add_argument(
        "--output", type=Path, help="CSV file of the broken videos, with columns video, reason, message"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the broken videos and a summary. Returns 1 if there are broken videos."""
    require_at_least(args, workers=0)

    from tqdm import tqdm

    from ..data.video_checks import check_videos
    from ..data.video_records import load_video_records

    records = load_video_records(args.source, root=args.root, split=args.split, with_labels=False, reads=())
    checks, num_videos = check_videos(records, full=args.full, num_workers=args.workers)
    broken, num_checked = [], 0
    with tqdm(checks, total=num_videos, unit=" videos", disable=None) as progress:
        for check in progress:
            num_checked += 1
            if check.reason:
                broken.append(check)
                progress.set_postfix(broken=len(broken))
                progress.write(f"{check.reason}\t{printable(check.message)}", file=sys.stdout)
    if args.output is not None:
        write_csv(args.output, broken)
    reasons = collections.Counter(check.reason for check in broken)
    details = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    print(f"{num_checked} videos checked, {len(broken)} can't be read{f': {details}' if broken else ''}")
    return 1 if broken else 0


def write_csv(path: Path, broken: list[tuple[str, str, str]]) -> None:
    """Writes (video, reason, message) of broken videos, atomically."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "reason", "message"))
        writer.writerows(broken)
