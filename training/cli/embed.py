"""`umt embed`: a vector per video, or per window of time, for search, clustering and linear probes.

The vector of a video encoder (UMT, arXiv 2303.16058) is `pooler_output`: the mean of its tokens, with the model's
final norm before or after the mean. That of a video-text model is `video_embeds`, as in the index of `umt search`,
whose dot product with a text's vector is their similarity.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..model_sources import ENCODERS
from .arguments import (
    add_model_arguments,
    load_model,
    load_processor,
    require_at_least,
    require_positive_seconds,
)
from .corpus_common import (
    add_worker_argument,
    default_workers,
    join_for_corpus,
    progress_bar,
    report,
    write_corpus,
)

HELP = "compute a vector per video, or per window of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_worker_argument(parser)
    parser.add_argument(
        "--output",
        required=True,
        help="a folder, DIR/, for a Parquet data set (columns video, start, end, embedding), with which an "
        "interrupted command resumes and processes of a launcher share the videos; or one file, vectors.parquet, or "
        "vectors.npy with a description of its rows in vectors.json",
    )
    parser.add_argument(
        "--window", type=float, metavar="SECONDS", help="length of a window (default: the entire video)"
    )
    parser.add_argument(
        "--stride", type=float, metavar="SECONDS", help="time between the starts of two windows (default: --window)"
    )


def shares_work(args: argparse.Namespace) -> bool:
    return is_folder(args.output)


def is_folder(output: str) -> bool:
    """Whether an output is a folder: it ends with a slash, has no extension, or exists as a folder with another
    extension than those of files of vectors."""
    suffix = Path(output).suffix
    return output.endswith(os.sep) or not suffix or (os.path.isdir(output) and suffix not in (".npy", ".parquet"))


def run(args: argparse.Namespace) -> int:
    """Writes the vectors. Returns 1 if a video is broken; its windows before the error are kept."""
    to_folder, output = is_folder(args.output), Path(args.output)
    if not to_folder:
        from ..search.vector_files import require_writable_vectors

        require_writable_vectors(output)
    if args.stride is not None and args.window is None:
        raise ValueError("--stride was given without --window; add the length of a window.")
    require_at_least(args, batch_size=1, num_workers=0)
    require_positive_seconds(args, "window", "stride")

    from transformers import AutoModel

    import modeling_umt  # noqa: F401 (registers the models)

    from ..corpus.listing import list_videos
    from ..search.window_vectors import vector_dimension, window_vectors

    videos = list_videos(args.videos)
    state = join_for_corpus(args) if to_folder else None
    model = load_model(AutoModel, args, ENCODERS, "embed")
    processor = load_processor(model.config, args)
    if type(processor).__name__ != "UMTVideoProcessor":  # also that of a repository's own code
        raise ValueError(
            f"{args.model} cannot embed: windows are read by a UMTVideoProcessor, and this model has a "
            f"{type(processor).__name__}."
        )
    process = partial(
        window_vectors,
        model=model,
        video_processor=processor,
        window=args.window,
        stride=args.stride,
        batch_size=args.batch_size,
        num_workers=default_workers(args),
    )
    if not to_folder:
        return write_one_file(output, videos, process, str(model.dtype))

    from ..corpus.fingerprints import fingerprint
    from ..corpus.parts import CorpusFolder
    from ..corpus.tables import vector_table

    settings = {"command": "umt embed", "model": args.model, "fingerprint": fingerprint(model, processor, {})}
    settings |= {"--window": args.window, "--stride": args.stride or args.window}
    return write_corpus(
        "embed",
        output,
        state,
        CorpusFolder(output, videos, settings, args.batch_size),
        videos,
        lambda videos, parts: process(videos, parts=parts),
        vector_table,
        dimension=vector_dimension(model, processor),
        dtype=str(model.dtype),
        row="vector",
    )


def write_one_file(output: Path, videos: list[str], process: Callable, dtype: str) -> int:
    """Writes the vectors of all videos, in their order, to a file; after an error there is none."""
    import numpy as np

    from ..corpus.runs import in_order
    from ..search.vector_files import write_vectors

    errors = []
    with progress_bar(len(videos)) as progress:

        def rows() -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
            num_rows = 0
            for video, result in zip(videos, in_order(process(videos)), strict=True):
                if result.error is not None:
                    errors.append(result.error)
                    report("embed", str(result.error), progress)
                finite = np.isfinite(result.outputs).all(axis=1)
                if not finite.all():
                    start = result.spans[finite.argmin()][0]
                    raise ValueError(
                        f"{video}: the vector of the window at {start:g} s is not finite in {dtype}; use --dtype "
                        "float32, or check the weights. Nothing was written."
                    )
                if result.spans:
                    num_rows += len(result.spans)
                    yield [{"video": video, "start": start, "end": end} for start, end in result.spans], result.outputs
                progress.update()
            if num_rows == 0:
                raise ValueError(f"None of the {len(videos)} videos could be read; nothing was written.")

        number, dimension = write_vectors(output, rows())
    print(f"{output}: {number} vector{'s' * (number != 1)} of dimension {dimension}")
    return 1 if errors else 0
