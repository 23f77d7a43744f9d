"""`umt search`: finds moments of videos by a text (UMT, arXiv 2303.16058, section 3.3), with a video-text model.

The folder is indexed by the first search and brought up to date by the next ones: only what is new or has changed is
read again, and an interrupted search goes on where it was. The index is kept in the folder itself, in `.umt-index`.

Unusual: videos that can't be read are told when they are met, and no more, until their files change; they do not
change the exit code.
"""

import argparse
import collections
import dataclasses
import json
import os
import sys
from pathlib import Path

from .arguments import add_loading_arguments, load_video_text_model

HELP = "find moments of videos by a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="TEXT", help="what to look for, such as 'a dog catches a frisbee'")
    parser.add_argument(
        "videos", metavar="DIR_OR_INDEX", type=Path, help="folder of videos; or an index, which is searched as it is"
    )
    parser.add_argument(
        "--model", help="video-text model: folder, or id on the Hub (default: the one that made the index)"
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="moments to show")
    parser.add_argument(
        "--rerank", type=int, default=32, metavar="N", help="nearest windows that the cross-encoder puts in order"
    )
    parser.add_argument(
        "--window", type=float, metavar="SECONDS", help="length of the windows of a new index (default: 10)"
    )
    parser.add_argument("--index", type=Path, metavar="DIR", help="where the index is kept (default: DIR/.umt-index)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures of what was found")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="windows that pass the model at once")
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="decoding processes (default: one per CPU core of the machine)"
    )
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the moments, best first: rank, probability of a match, similarity, time, file. Returns 1 if nothing was
    found."""
    for name, least in (("top_k", 1), ("rerank", 0), ("batch_size", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; expected at least {least}.")
    if args.window is not None and not args.window > 0:
        raise ValueError(f"--window is {args.window}; expected more than 0 seconds.")
    if not args.query.strip():
        raise ValueError("The text to look for is empty.")
    if not args.videos.is_dir():
        raise ValueError(f"There is no folder {args.videos}.")

    from datasets import disable_progress_bars

    from ..search import search_index
    from ..search.search import clock, search, write_search_page

    disable_progress_bars()  # of parts that are saved; the indexing has its own
    is_index = search_index.SearchIndex.exists(args.videos)
    if is_index and args.index is not None:
        raise ValueError(f"{args.videos} is an index itself; leave --index out.")
    folder = args.videos if is_index else args.index or args.videos / search_index.FOLDER
    index = search_index.SearchIndex(folder) if search_index.SearchIndex.exists(folder) else None
    check_fits(args, index)
    if args.model is None:
        args.model = index.manifest.model.name
    model, processor = load_video_text_model(args, "search")
    name = os.path.abspath(args.model) if os.path.isdir(args.model) else args.model
    identity = search_index.IndexModel(
        name, getattr(model.config, "_commit_hash", None), search_index.fingerprint(model, processor)
    )
    if index is None:
        index = search_index.SearchIndex.create(folder, args.videos, identity, args.window or 10.0)
    index.require_model(identity)
    if not is_index:
        num_done, broken = search_index.update(
            index,
            model,
            processor,
            batch_size=args.batch_size,
            num_workers=(os.cpu_count() or 1) if args.num_workers is None else args.num_workers,
        )
        for facts in broken.values():
            print(f"umt search: {facts.message}", file=sys.stderr)
        if num_done:
            print(f"indexed {num_done} video{'s' * (num_done > 1)}{told(broken)} in {folder}", file=sys.stderr)
    moments = search(
        index,
        model,
        processor,
        args.query,
        top_k=args.top_k,
        num_reranked=args.rerank,
        batch_size=args.batch_size,
    )
    if args.json:
        print(json.dumps([dataclasses.asdict(moment) for moment in moments], indent=2, ensure_ascii=False))
    else:
        for rank, moment in enumerate(moments, 1):
            match = "     " if moment.match is None else f"{moment.match:.3f}"
            span = f"{clock(moment.start)}-{clock(moment.end)}"
            print(f"{rank:3}  {match}  {moment.similarity:6.3f}  {span:<17}  {moment.video}")
    if args.html is not None:
        write_search_page(args.html, args.query, moments, index, processor)
        print(f"page: {args.html}", file=sys.stderr)
    return 0 if moments else 1


def check_fits(args: argparse.Namespace, index) -> None:
    """Raises a ValueError if there is no index and no model to make one, or the index has other windows."""
    if index is None and args.model is None:
        raise ValueError(f"{args.videos} has no index yet; say which model is to make it: --model ...")
    if index is not None and args.window not in (None, index.manifest.window):
        raise ValueError(
            f"The index {index.folder} has windows of {index.manifest.window:g} s, not {args.window:g} s; leave "
            "--window out, delete the folder, or keep another index elsewhere (--index)."
        )


def told(broken: dict) -> str:
    """`, 3 of them broken (no_index 2, empty 1)`; nothing if none is."""
    if not broken:
        return ""
    reasons = collections.Counter(facts.reason for facts in broken.values()).most_common()
    return f", {len(broken)} of them broken ({', '.join(f'{reason} {number}' for reason, number in reasons)})"
