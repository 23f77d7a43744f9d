"""Memory of a stage-1 step: the largest batch that fits on a GPU, or the memory of given batch sizes on a CPU.

    python -m benchmarks.largest_batch --size l16 --device cuda
    python -m benchmarks.largest_batch --size b16 --batches 4 8

Implementations: `plain`, that of the official code; `fast`, that of the trainer, which decodes and compares one
aligned layer at a time; `fast_at_once`, which keeps all aligned layers for the backward pass. On a GPU the two moments
of AdamW are allocated too, and the largest batch is found by doubling and bisection; memory is that of PyTorch's
allocator.

A CPU is not filled up, because the kernel would kill a process. Each step runs in its own process, so that it can't
reuse freed memory. Memory is the resident memory beyond that before the step: activations and gradients, not weights.
Choose batches so large that the activations at the start of the backward pass outweigh the gradients at its end.
"""

import argparse
import gc
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from . import sizes
from .harness import RESULTS, environment, peak_memory, write
from .plain import PlainStageOne
from .stage1 import AtOnceTrainer, FastStep, UMTPreTrainingTrainer, plain_step

WAYS = ("plain", "fast", "fast_at_once")


def make_step(way: str, size: str, dtype: torch.dtype, device: torch.device, folder: str) -> Callable[[int], object]:
    """A step as a function of the batch size; it clears the gradients at its end."""
    student = sizes.student(size).to(device)
    if way == "plain":
        plain = PlainStageOne(student, sizes.teacher(size), None if dtype == torch.float32 else dtype).to(device)

        def step(batch: int) -> None:
            clips = sizes.clips(batch, student.config).transpose(1, 2) / 255 - 0.5  # normalised by the data loader
            plain_step(plain, clips, device)
            plain.student.zero_grad()

        return step

    trainer = AtOnceTrainer if way == "fast_at_once" else UMTPreTrainingTrainer
    one = sizes.clips(1, student.config)
    fast = FastStep(student, sizes.teacher(size), one, dtype, device, folder, trainer_class=trainer)

    def step(batch: int) -> None:
        fast.set_clips(sizes.clips(batch, student.config))
        fast.step()
        fast.trainer.model.zero_grad()

    return step


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` that fits, by doubling and bisection; 0 if none fits."""
    known, tried = 0, 1
    while tried <= limit and fits(tried):
        known, tried = tried, 2 * tried
    too_large = min(tried, limit + 1)
    while too_large - known > 1:
        tried = (known + too_large) // 2
        if fits(tried):
            known = tried
        else:
            too_large = tried
    return known


def largest_batch(
    way: str, size: str, dtype: torch.dtype, device: torch.device, folder: str, limit: int
) -> dict[str, int]:
    """The largest batch that fits on a GPU, at most `limit`, and its total peak memory in bytes."""
    step = make_step(way, size, dtype, device, folder)
    # the moments of AdamW; the optimiser's step needs less temporary memory than the backward pass
    weights = sizes.student(size).parameters()
    moments = [torch.zeros_like(weight, device=device) for weight in weights for _ in range(2)]

    def fits(batch: int) -> bool:
        try:
            step(batch)
            step(batch)  # with the memory that the first step keeps
        except torch.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    batch = largest(fits, limit)
    found = {"largest_batch": batch}
    if batch and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step(batch)
        torch.cuda.synchronize(device)
        found |= {"peak_bytes": torch.cuda.max_memory_allocated(device)}
        found |= {"device_bytes": torch.cuda.get_device_properties(device).total_memory}
    del moments
    return found


def peak_of(way: str, size: str, dtype: torch.dtype, batch: int) -> int:
    """Peak memory of a step on a CPU in bytes, in a process that has run nothing else; 0 without Linux's counters."""
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        step = make_step(way, size, dtype, device, folder)
        step(1)  # one-time allocations of PyTorch
        return peak_memory(lambda: step(batch), device)


def in_new_process(function: Callable, *arguments: object) -> object:
    # glibc of the new process returns the memory of freed tensors to the system at once
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes.ENCODERS, default="b16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8], help="batch sizes measured on a CPU")
    parser.add_argument("--limit", type=int, default=2048, help="largest batch size tried on a GPU")
    parser.add_argument("--tag", default="", help="added to the names of the result files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    ways: dict[str, dict[str, float]] = {}
    for way in options.ways:
        if device.type == "cuda":
            with tempfile.TemporaryDirectory() as folder:
                ways[way] = largest_batch(way, options.size, dtype, device, folder, options.limit)
        else:
            peaks = {batch: in_new_process(peak_of, way, options.size, dtype, batch) for batch in options.batches}
            ways[way] = {f"peak_bytes_of_{batch}": peak for batch, peak in peaks.items()}
            fewest, most = min(peaks), max(peaks)
            if most > fewest:
                ways[way]["bytes_per_clip"] = round((peaks[most] - peaks[fewest]) / (most - fewest))
        print(way, ways[way], flush=True)
    results = {"environment": environment(device), "ways": ways}
    title = f"Memory of a stage-1 step, {options.size}, {options.dtype}, {device.type}"
    name = f"largest_batch_{options.size}_{options.dtype}_{device.type}{options.tag}"
    write(options.output, name, results, as_page(title, results))
    return results


def as_page(title: str, results: dict) -> str:
    """Markdown page: environment and a row per implementation; bytes are shown in MiB."""
    columns = list(next(iter(results["ways"].values())))
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines.append(
        "| way | " + " | ".join(column.replace("_", " ").replace("bytes", "MiB") for column in columns) + " |"
    )
    lines.append("|---" * (len(columns) + 1) + "|")
    for way, row in results["ways"].items():
        cells = (f"{row[c] / 2**20:.1f}" if "bytes" in c else str(row[c]) for c in columns)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
