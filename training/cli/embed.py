"""`umt embed`: a vector per video, or per window of a long one, for search, clustering and linear probes.

The vector is `pooler_output` of the encoder (UMT, arXiv 2303.16058): the mean of its tokens, with the model's last
norm before or after.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.batching import batches
from ..data.video_files import list_video_files
from .arguments import add_model_arguments, load_model, load_processor

if TYPE_CHECKING:
    pass

HELP = "turn videos into vectors: one each, or one per window of time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="vectors.parquet (columns video, start, end, embedding), or vectors.npy with its rows named in "
        "vectors.json beside it",
    )
    parser.add_argument(
        "--window", type=float, metavar="SECONDS", help="length of a window (default: the whole video)"
    )
    parser.add_argument(
        "--stride", type=float, metavar="SECONDS", help="from one window's start to the next (default: --window)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the vectors. Returns 1 if a video was broken; its windows before the break are kept."""
    if args.output.suffix not in (".npy", ".parquet"):
        raise ValueError(f"--output is {args.output}; expected a name that ends in .npy or .parquet.")
    if args.stride is not None and args.window is None:
        raise ValueError("--stride was given without --window; say how long a window is.")
    for name in ("window", "stride"):
        if getattr(args, name) is not None and not getattr(args, name) > 0:
            raise ValueError(f"--{name} is {getattr(args, name)}; expected more than 0 seconds.")
    files = list_video_files(args.videos)

    import torch
    from tqdm import tqdm
    from transformers import AutoModel

    import modeling_umt  # noqa: F401 (registers the models)
    from processing_umt import VideoDecodeError

    from ..search.windows import read_windows

    model = load_model(AutoModel, args, "embed")
    processor = load_processor(model.config, args)
    rows, vectors, errors = [], [], []
    with tqdm(unit="clip", total=0, delay=1, file=sys.stderr, leave=False) as progress:

        def clips() -> Iterator[tuple[dict, torch.Tensor]]:
            for file in files:
                try:
                    yield from read_windows(file, processor, args.window, args.stride or args.window, announce)
                except VideoDecodeError as error:
                    errors.append(error)
                    progress.write(f"umt embed: {error}", file=sys.stderr)

        def announce(count: int) -> None:
            progress.total += count

        for batch in batches(clips(), args.batch_size):
            rows.extend(row for row, _ in batch)
            pixel_values_videos = torch.cat([clip for _, clip in batch]).to(model.device, model.dtype)
            with torch.inference_mode():
                vectors.append(model(pixel_values_videos).pooler_output.float().cpu().numpy())
            progress.update(len(batch))
    if not rows:
        raise ValueError(f"None of the {len(files)} videos could be read; nothing was written.")
    write_vectors(args.output, rows, np.concatenate(vectors))
    print(f"{args.output}: {len(rows)} vectors of {vectors[0].shape[1]} numbers")
    return 1 if errors else 0


def write_vectors(output: Path, rows: list[dict], vectors: np.ndarray) -> None:
    """Writes float32 `vectors` `(len(rows), dim)` with their rows; a file appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    if output.suffix == ".npy":
        temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, output.with_suffix(".json"))
        with temporary.open("wb") as file:
            np.save(file, vectors)
    else:
        import pyarrow
        from pyarrow import parquet

        columns = {name: [row[name] for row in rows] for name in ("video", "start", "end")}
        flat = pyarrow.array(vectors.reshape(-1))
        columns["embedding"] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        parquet.write_table(pyarrow.table(columns), temporary)
    os.replace(temporary, output)
