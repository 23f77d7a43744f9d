"""`umt search`: finds moments of videos by a text with a video-text model (UMT, arXiv 2303.16058, section 3.3).

The first search indexes the folder. Later searches update the index: only new and changed files are read, and an
interrupted update is resumed. The index is a LanceDB table in the folder itself, in `.umt-index`, unless `--index` is
given: another folder, or object storage.

An index that another user wrote is not trusted with names: its model is loaded, and videos elsewhere are read, only if
the command line names them.

Processes of a launcher share the videos that are read; the main process searches.

Unreadable videos are reported once, and again only if the file changes; they do not change the exit code.
"""

import argparse
import collections
import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from ..clock import clock
from ..terminal import printable
from .arguments import (
    add_loading_arguments,
    add_motion_argument,
    load_video_text_model,
    require_at_least,
    require_positive_seconds,
)
from .corpus_common import add_worker_argument, default_workers, join_for_corpus

HELP = "find moments of videos by a text"
DEFAULT_WINDOW = 10.0  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="TEXT", help="text to search for, such as 'a dog catches a frisbee'")
    parser.add_argument(
        "videos", metavar="DIR_OR_INDEX", help="folder of videos; or a folder that is an index, which is not updated"
    )
    parser.add_argument(
        "--model", help="video-text model: folder, or id on the Hub (default: the model of the existing index)"
    )
    parser.add_argument("--top-k", type=int, default=10, metavar="K", help="moments to print")
    parser.add_argument(
        "--rerank", type=int, default=32, metavar="N", help="nearest windows that the cross-encoder re-ranks"
    )
    parser.add_argument(
        "--window",
        type=float,
        metavar="SECONDS",
        help=f"length of the windows of a new index (default: {DEFAULT_WINDOW:g})",
    )
    parser.add_argument(
        "--index",
        metavar="DIR_OR_URI",
        help="folder of the index, or object storage such as s3://bucket/index (default: DIR/.umt-index)",
    )
    parser.add_argument("--no-update", action="store_true", help="search the index as it is")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write an HTML page with pictures of the results and links to the videos",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="windows per batch")
    add_worker_argument(parser)
    add_motion_argument(parser)
    add_loading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the moments, best first: rank, probability of a match, similarity, time, file. Returns 1 if nothing was
    found. Other processes than the main one only update the index."""
    require_at_least(args, top_k=1, rerank=0, batch_size=1, num_workers=0)
    require_positive_seconds(args, "window")
    if not args.query.strip():
        raise ValueError("The text to search for is empty.")
    if not os.path.isdir(args.videos):
        raise ValueError(f"The folder {args.videos} does not exist.")

    state = join_for_corpus(args)

    from ..data.text_columns import note_texts

    index, model, processor = load_search_model(args)

    from ..search.search import search, write_search_page

    note_texts(processor.inspect_texts(args.query), "the text to search for", state.is_main_process)
    index = open_index(index, args, model, processor, state)
    if not args.no_update:
        update_index(index, args, model, processor, state.is_main_process)
    state.wait_for_everyone()
    state.destroy_process_group()
    if not state.is_main_process:
        return 0
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
            print(f"{rank:3}  {match}  {moment.similarity:6.3f}  {span:<17}  {printable(moment.video)}")
    if args.html is not None:
        write_search_page(args.html, args.query, moments, index, processor)
        print(f"page: {args.html}", file=sys.stderr)
    return 0 if moments else 1


def load_search_model(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The index that the arguments name, None if it does not exist yet; and the model and processor to search it with.

    Raises:
        ValueError: see `find_index`, `check_fits` and `load_video_text_model`.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings of small clusters are not for users
    index = find_index(args)
    check_fits(args, index)
    if index is not None:
        args.motion_drop_ratio = index.facts.model.motion_drop_ratio
    if args.model is None:
        args.model = index.model
    return index, *load_video_text_model(args, "search")


def find_index(args: argparse.Namespace) -> Any:
    """The index that the arguments name; None if it does not exist yet. Where `args.videos` is an index, it is not
    updated.

    Raises:
        ValueError: `--index` was given with an index, or an index that another user wrote states a folder of videos
            that does not contain it.
    """
    from ..search.search_index import FOLDER, SearchIndex

    if not SearchIndex.exists(args.videos):
        args.index = args.index or os.path.join(args.videos, FOLDER)
        return SearchIndex(args.index, args.videos) if SearchIndex.exists(args.index) else None
    if args.index is not None:
        raise ValueError(f"{args.videos} is an index itself; leave --index out.")
    args.index, args.no_update = args.videos, True
    index = SearchIndex(args.index)
    if not (index.is_own or index.is_in_videos):
        raise ValueError(
            f"The index {args.index} was not created by this user on this machine, and its videos are in another "
            f"folder. To read them: umt search TEXT {shlex.quote(str(index.videos))} --index "
            f"{shlex.quote(args.index)} --no-update"
        )
    return index


def check_fits(args: argparse.Namespace, index: Any) -> None:
    """Raises a ValueError if the arguments do not fit to the index, or do not name a model that must be named."""
    if index is None:
        if args.no_update:
            raise ValueError(f"{args.index} is not an index of `umt search`; leave --no-update out to create it.")
        if args.model is None:
            raise ValueError(f"{args.videos} has no index yet; give the model to index it with: --model ...")
        return
    if args.window not in (None, index.facts.window):
        raise ValueError(
            f"The index {index.uri} has windows of {index.facts.window:g} s, not {args.window:g} s; leave "
            "--window out, delete the index, or keep another one elsewhere (--index)."
        )
    ratio = index.facts.model.motion_drop_ratio
    if args.motion_drop_ratio not in (None, ratio):
        raise ValueError(
            f"The index {index.uri} was created with --motion-drop-ratio {ratio:g}, not {args.motion_drop_ratio:g}; "
            "leave the option out, delete the index, or keep another one elsewhere (--index)."
        )
    if args.model is None and not index.is_own:
        raise ValueError(
            f"The index {index.uri} was not created by this user on this machine, so that its model is not loaded "
            f"without being named. To load it: --model {shlex.quote(index.model)}"
        )


def open_index(index: Any, args: argparse.Namespace, model: Any, processor: Any, state: Any) -> Any:
    """The index, which the main process creates if it does not exist.

    Raises:
        ValueError: the index was created with another model, or the main process created it where this process does
            not find it.
    """
    from ..search.fingerprint import fingerprint
    from ..search.search_index import IndexModel, SearchIndex

    identity = IndexModel(
        args.model,
        getattr(model.config, "_commit_hash", None),
        fingerprint(model, processor),
        model.config.vision_config.motion_drop_ratio,
    )
    state.wait_for_everyone()  # a process that looks for the index must not find it half created
    with state.main_process_first():
        if index is None and state.is_main_process:
            window, dimension = args.window or DEFAULT_WINDOW, model.config.projection_dim
            index = SearchIndex.create(args.index, args.videos, identity, window, dimension)
        elif index is None:
            index = find_index(args)
    if index is None:
        raise ValueError(
            f"The main process has created the index {args.index}, but it is not on this machine; processes of "
            "several machines need a folder of the index that they share."
        )
    index.require_model(identity)
    return index


def update_index(index: Any, args: argparse.Namespace, model: Any, processor: Any, is_main_process: bool) -> None:
    """Updates the index; the main process reports the files that were read on stderr."""
    from ..search.indexing import update

    num_workers = default_workers(args)
    num_done, broken = update(index, model, processor, batch_size=args.batch_size, num_workers=num_workers)
    if not is_main_process:
        return
    for facts in broken.values():
        print(f"umt search: {printable(facts.message)}", file=sys.stderr)
    if num_done:
        videos = f"{num_done} video{'s' * (num_done > 1)}{describe_broken(broken)}"
        print(f"indexed {videos} in {index.uri}", file=sys.stderr)


def describe_broken(broken: dict) -> str:
    """`, 3 of them broken (no_index 2, empty 1)`; empty if no video is broken."""
    if not broken:
        return ""
    reasons = collections.Counter(facts.reason for facts in broken.values()).most_common()
    return f", {len(broken)} of them broken ({', '.join(f'{reason} {count}' for reason, count in reasons)})"
