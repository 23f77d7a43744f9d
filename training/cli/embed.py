"""`umt embed`: a vector per video, or per window of time, for search, clustering and linear probes.

The vector of a video encoder (UMT, arXiv 2303.16058) is `pooler_output`: the mean of its tokens, with the model's
final norm before or after the mean. That of a video-text model is `video_embeds`, as in the index of `umt search`,
whose dot product with a text's vector is their similarity.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ..data.batching import batches
from ..data.video_files import list_video_files
from ..terminal import printable
from .arguments import (
    ENCODERS,
    add_model_arguments,
    load_model,
    load_processor,
    require_at_least,
    require_positive_seconds,
)

HELP = "compute a vector per video, or per window of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="vectors.parquet (columns video, start, end, embedding), or vectors.npy with a description of its rows "
        "in vectors.json",
    )
    parser.add_argument(
        "--window", type=float, metavar="SECONDS", help="length of a window (default: the entire video)"
    )
    parser.add_argument(
        "--stride", type=float, metavar="SECONDS", help="time between the starts of two windows (default: --window)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the vectors. Returns 1 if a video is broken; its windows before the error are kept."""
    from ..search.vector_files import require_writable_vectors, write_vectors

    require_writable_vectors(args.output)
    if args.stride is not None and args.window is None:
        raise ValueError("--stride was given without --window; add the length of a window.")
    require_at_least(args, batch_size=1)
    require_positive_seconds(args, "window", "stride")
    files = list_video_files(args.videos)

    import numpy as np
    import torch
    from tqdm import tqdm
    from transformers import AutoModel

    import modeling_umt  # noqa: F401 (registers the models)
    from processing_umt import VideoDecodeError

    from ..corpus.clip_vectors import clip_vectors
    from ..search.windows import read_windows

    model = load_model(AutoModel, args, ENCODERS, "embed")
    processor = load_processor(model.config, args)
    if type(processor).__name__ != "UMTVideoProcessor":  # also that of a repository's own code
        raise ValueError(
            f"{args.model} cannot embed: windows are read by a UMTVideoProcessor, and this model has a "
            f"{type(processor).__name__}."
        )
    errors = []
    with tqdm(unit="clip", delay=1, file=sys.stderr, leave=False) as progress:

        def clips() -> Iterator[tuple[dict, torch.Tensor]]:
            for file in files:
                try:
                    yield from read_windows(file, processor, args.window, args.stride or args.window)
                except VideoDecodeError as error:
                    errors.append(error)
                    progress.write(f"umt embed: {printable(str(error))}", file=sys.stderr)

        def embedded() -> Iterator[tuple[list[dict], np.ndarray]]:
            num_rows = 0
            for batch in batches(clips(), args.batch_size):
                pixel_values_videos = torch.cat([clip for _, clip in batch]).to(model.device, model.dtype)
                with torch.inference_mode():
                    vectors = clip_vectors(model, pixel_values_videos).cpu()
                for (row, _), vector in zip(batch, vectors, strict=True):
                    if not vector.isfinite().all():
                        raise ValueError(
                            f"{row['video']}: the vector of the window at {row['start']:g} s is not finite in "
                            f"{model.dtype}; use --dtype float32, or check the weights. Nothing was written."
                        )
                yield [row for row, _ in batch], vectors.numpy()
                num_rows += len(batch)
                progress.update(len(batch))
            if num_rows == 0:
                raise ValueError(f"None of the {len(files)} videos could be read; nothing was written.")

        number, dimension = write_vectors(args.output, embedded())
    print(f"{args.output}: {number} vectors of dimension {dimension}")
    return 1 if errors else 0
