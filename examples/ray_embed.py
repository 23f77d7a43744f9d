"""Embeds a folder of videos on a cluster of Ray: readers on the CPUs, a model in each actor, results as Parquet.

Without an address, a local cluster is started on this machine. If an actor dies, Ray starts another one and gives it
the batch again.

    pip install 'unmasked-teacher[ray]'
    python examples/ray_embed.py videos/ --model umt-b16-k400 --output vectors --actors 8 --gpus-per-actor 1
"""

import argparse
from pathlib import Path

import ray

from umt_training import UMTBatchEmbedder
from umt_training.corpus.listing import list_videos


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", nargs="+", help="folders, patterns, lists or URLs, which all machines can read")
    parser.add_argument("--model", required=True, help="model folder, which all machines can read, or Hub id")
    parser.add_argument("--output", type=Path, required=True, help="folder of the Parquet files")
    parser.add_argument("--actors", type=int, default=2, help="processes with a model")
    parser.add_argument("--gpus-per-actor", type=float, default=0)
    parser.add_argument("--batch-size", type=int, default=64, help="videos that an actor is given at once")
    args = parser.parse_args(argv)

    paths = list_videos(args.videos)
    num_blocks = max(args.actors, len(paths) // args.batch_size)  # of a batch each
    videos = ray.data.from_items([{"video": path} for path in paths], override_num_blocks=num_blocks)
    vectors = videos.map_batches(
        UMTBatchEmbedder,
        fn_constructor_args=[args.model],
        batch_size=args.batch_size,
        concurrency=args.actors,
        num_gpus=args.gpus_per_actor,
    )
    vectors.write_parquet(str(args.output.absolute()))


if __name__ == "__main__":
    main()
