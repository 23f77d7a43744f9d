"""Measurement for the speed benchmarks: contenders compared within one run, medians, peak memory, environment.

Contenders take turns step by step, and the order rotates with every round, so that load, temperature and caches affect
all of them equally; only ratios within one run are meaningful. A large matrix product is measured as one more
contender. A contender's fraction of the matrix product's rate is its rate of useful FLOPs over that of the product in
the same run.

CPU seconds of the process are reported beside wall seconds, which depend on the load of a shared machine. Peak memory
is measured in an additional, untimed step, as the increase over the memory before the step: memory of PyTorch's
allocator on a GPU, resident memory on a CPU.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

from umt_training.atomic_files import atomic_write

RESULTS = Path(__file__).parent / "results"
MATMUL = "matrix product"


@dataclass
class Contender:
    """One implementation of a step.

    Args:
        run: Runs a step; may return before the device has finished.
        units: Number of items processed in a step, e.g. clips.
        flops: Useful floating-point operations of a step, two per multiply-add; equal for contenders of the same task.
        dtype: Data type of the arithmetic; selects the matrix product that `flops` are compared with.
    """

    run: Callable[[], object]
    units: float = 1
    flops: float = 0
    dtype: torch.dtype = torch.float32


def measurement_parser(description: str) -> argparse.ArgumentParser:
    """The options that all scripts with `measure` have: its arguments, the device, and the files of the results."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--matmul-side", type=int, default=0)
    parser.add_argument("--tag", default="", help="added to the names of the result files")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def measure(
    contenders: dict[str, Contender], device: torch.device, rounds: int = 10, warmup: int = 2, matmul_side: int = 0
) -> dict[str, dict[str, float]]:
    """Time contenders in turns.

    Args:
        contenders: Contenders by name.
        device: Device they run on.
        rounds (`int`, defaults to 10): Timed steps per contender.
        warmup (`int`, defaults to 2): Untimed steps per contender before the timed ones.
        matmul_side (`int`, defaults to 8192 on a GPU and 2048 on a CPU): Side of the square matrices of the product.

    Returns:
        For every contender and for the matrix product of every data type, named "matrix product <dtype>":
        `median_seconds`, `best_seconds`, `cpu_seconds` (median), `units_per_second`, `peak_bytes` and, where FLOPs are
        known, `flops_per_second` and `share_of_matmul_rate`.
    """
    side = matmul_side or (8192 if device.type == "cuda" else 2048)
    all_contenders = dict(contenders)
    for dtype in {contender.dtype for contender in contenders.values()}:
        all_contenders[f"{MATMUL} {short(dtype)}"] = matrix_product(side, dtype, device)
    for name, contender in all_contenders.items():
        for _ in range(warmup):
            contender.run()
        wait(device)
        print(f"warm-up finished: {name}", flush=True)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in all_contenders}
    for number in range(rounds):
        first = number % len(all_contenders)
        for name in [*all_contenders][first:] + [*all_contenders][:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            all_contenders[name].run()
            wait(device)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        print(f"round {number + 1} of {rounds}", flush=True)
    results = {}
    for name, contender in all_contenders.items():
        seconds = statistics.median(wall for wall, _ in times[name])
        results[name] = {
            "median_seconds": seconds,
            "best_seconds": min(wall for wall, _ in times[name]),
            "cpu_seconds": statistics.median(cpu for _, cpu in times[name]),
            "units_per_second": contender.units / seconds,
            "peak_bytes": peak_memory(contender.run, device),
            "rounds": rounds,
        }
    for name, contender in all_contenders.items():
        if contender.flops:
            rate = contender.flops / results[name]["median_seconds"]
            product = f"{MATMUL} {short(contender.dtype)}"
            matmul_rate = all_contenders[product].flops / results[product]["median_seconds"]
            results[name] |= {"flops_per_second": rate, "share_of_matmul_rate": rate / matmul_rate}
    return results


def matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> Contender:
    """The product of two square matrices, as a measure of the device's attainable rate."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return Contender(lambda: left @ right, flops=2 * side**3, dtype=dtype)


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Peak memory of a step in bytes, beyond the memory before it; 0 on a CPU without Linux's counters."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system, or the step would reuse it uncounted
    reset.write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    run()
    return max(resident("VmHWM") - before, 0)


def resident(counter: str) -> int:
    """Value in bytes of one of Linux's memory counters of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(counter))


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def environment(device: torch.device) -> dict[str, object]:
    """Machine, versions, command and date; `load` is the machine's load average."""
    found: dict[str, object] = {"date": date.today().isoformat(), "command": command()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    flags = ""
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text().splitlines()
        found["cpu"] = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
        flags = next((line for line in info if line.startswith("flags")), "")
    found |= {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "bf16_instructions": "avx512_bf16" in flags}
    found |= {"load": round(os.getloadavg()[0], 1), "python": platform.python_version()}
    for package in ("torch", "transformers", "accelerate", "timm", "av", "torchao"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command of this run."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = f"-m {module.name}" if module else sys.argv[0]
    return f"python {name} {shlex.join(sys.argv[1:])}".strip()


def as_markdown(title: str, results: dict, unit: str = "clips", baseline: str | None = None) -> str:
    """Markdown page of a run: environment, remarks, and a row per contender."""
    rows = results["contenders"]
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += [f"{key}: {value}" for key, value in results.get("remarks", {}).items()]
    ratio = f" {baseline} = 1 |" if baseline else ""
    header = f"| way | seconds, median (best) | CPU seconds | {unit}/s |{ratio} TFLOP/s | of matmul rate | peak GiB |"
    lines += ["", header]
    lines += ["|" + "---|" * (lines[-1].count("|") - 1)]
    for name, row in rows.items():
        cells = [f"{row['median_seconds']:.4g} ({row['best_seconds']:.4g})", f"{row['cpu_seconds']:.4g}"]
        cells.append("" if name.startswith(MATMUL) else f"{row['units_per_second']:.4g}")
        if baseline:
            is_product = name.startswith(MATMUL)
            cells.append("" if is_product else f"{row['units_per_second'] / rows[baseline]['units_per_second']:.2f}")
        rate, fraction = row.get("flops_per_second"), row.get("share_of_matmul_rate")
        cells += ["" if rate is None else f"{rate / 1e12:.3g}", "" if fraction is None else f"{fraction:.0%}"]
        cells.append(f"{row['peak_bytes'] / 2**30:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, results: dict, page: str) -> None:
    """Write `<name>.json` and `<name>.md` atomically to a folder, and print the page."""
    for suffix, text in ((".json", json.dumps(results, indent=1) + "\n"), (".md", page)):
        with atomic_write(folder / f"{name}{suffix}") as temporary:
            temporary.write_text(text)
    print(page)
