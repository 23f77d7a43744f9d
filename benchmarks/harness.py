"""The clock of the speed benchmarks: contenders side by side in one run, medians, memory, and where they were run.

Contenders take turns step by step, and the order turns with every round, so that a busy neighbour, a hot processor or
a growing cache meets all of them alike: only the ratios within one run mean anything. A large matrix product is one
more contender, and its rate the yardstick: a share is what a contender's useful arithmetic would take at that rate
over what it took, in the same run.

Unusual: on a CPU the process's own CPU seconds are reported beside wall seconds, because the wall suffers from
neighbours on a shared machine. Peak memory is measured in one more step, which is not timed: on a GPU what the
allocator gave out, on a CPU the resident memory, both beyond what was there before the step.
"""

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
    """One way to do a step.

    Args:
        run: Does a step, and may return before the device is done.
        units: How many things a step does, e.g. clips.
        flops: Useful floating point operations of a step, a multiply-add being two; the same for all who do the same.
        dtype: Of the arithmetic; says which rate of the device `flops` are compared with.
    """

    run: Callable[[], object]
    units: float = 1
    flops: float = 0
    dtype: torch.dtype = torch.float32


def measure(
    contenders: dict[str, Contender], device: torch.device, rounds: int = 10, warmup: int = 2, matmul_side: int = 0
) -> dict[str, dict[str, float]]:
    """Time contenders in turns.

    Args:
        contenders: By name.
        device: Where they run.
        rounds (`int`, defaults to 10): Timed steps of each.
        warmup (`int`, defaults to 2): Steps of each before, not timed.
        matmul_side (`int`, defaults to 8192 on a GPU and 2048 on a CPU): Side of the square matrices of the yardstick.

    Returns:
        For every contender and, by name "matrix product <dtype>", every yardstick: `median_seconds`, `best_seconds`,
        `cpu_seconds` (median), `units_per_second`, `peak_bytes` and, where FLOPs are known, `flops_per_second` and
        `share_of_matmul_rate`.
    """
    side = matmul_side or (8192 if device.type == "cuda" else 2048)
    everyone = dict(contenders)
    for dtype in {contender.dtype for contender in contenders.values()}:
        everyone[f"{MATMUL} {short(dtype)}"] = matrix_product(side, dtype, device)
    for name, contender in everyone.items():
        for _ in range(warmup):
            contender.run()
        wait(device)
        print(f"warm: {name}", flush=True)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in everyone}
    for number in range(rounds):
        turn = number % len(everyone)
        for name in [*everyone][turn:] + [*everyone][:turn]:
            wall, cpu = time.perf_counter(), time.process_time()
            everyone[name].run()
            wait(device)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        print(f"round {number + 1} of {rounds}", flush=True)
    results = {}
    for name, contender in everyone.items():
        seconds = statistics.median(wall for wall, _ in times[name])
        results[name] = {
            "median_seconds": seconds,
            "best_seconds": min(wall for wall, _ in times[name]),
            "cpu_seconds": statistics.median(cpu for _, cpu in times[name]),
            "units_per_second": contender.units / seconds,
            "peak_bytes": peak_memory(contender.run, device),
            "rounds": rounds,
        }
    for name, contender in everyone.items():
        if contender.flops:
            rate = contender.flops / results[name]["median_seconds"]
            yardstick = everyone[f"{MATMUL} {short(contender.dtype)}"].flops
            best = yardstick / results[f"{MATMUL} {short(contender.dtype)}"]["median_seconds"]
            results[name] |= {"flops_per_second": rate, "share_of_matmul_rate": rate / best}
    return results


def matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> Contender:
    """The product of two square matrices, the shape that a device likes best."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return Contender(lambda: left @ right, flops=2 * side**3, dtype=dtype)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that a step needs beyond what is there before it; on a CPU without Linux's counters 0."""
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
    ctypes.CDLL(None).malloc_trim(0)  # what earlier steps freed is given back, or this one would take it unseen
    reset.write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    run()
    return max(resident("VmHWM") - before, 0)


def resident(counter: str) -> int:
    """Bytes of a counter of Linux's for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(counter))


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def environment(device: torch.device) -> dict[str, object]:
    """Machine, versions, command and date; `load` is what the machine's processors had to do beside this."""
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
    """How this run was started."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = f"-m {module.name}" if module else sys.argv[0]
    return f"python {name} {shlex.join(sys.argv[1:])}".strip()


def as_markdown(title: str, results: dict, unit: str = "clips", baseline: str | None = None) -> str:
    """A page of one run: environment, a row for every contender, remarks."""
    rows = results["contenders"]
    lines = [f"# {title}", "", ", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += [f"{key}: {value}" for key, value in results.get("remarks", {}).items()]
    ratio = f" {baseline} = 1 |" if baseline else ""
    lines += ["", f"| way | seconds, median (best) | CPU seconds | {unit}/s |{ratio} TFLOP/s | share | peak GiB |"]
    lines += ["|" + "---|" * (lines[-1].count("|") - 1)]
    for name, row in rows.items():
        cells = [f"{row['median_seconds']:.4g} ({row['best_seconds']:.4g})", f"{row['cpu_seconds']:.4g}"]
        cells.append("" if name.startswith(MATMUL) else f"{row['units_per_second']:.4g}")
        if baseline:
            is_other = name.startswith(MATMUL)
            cells.append("" if is_other else f"{row['units_per_second'] / rows[baseline]['units_per_second']:.2f}")
        rate, share = row.get("flops_per_second"), row.get("share_of_matmul_rate")
        cells += ["" if rate is None else f"{rate / 1e12:.3g}", "" if share is None else f"{share:.0%}"]
        cells.append(f"{row['peak_bytes'] / 2**30:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, results: dict, page: str) -> None:
    """`<name>.json` and `<name>.md` in a folder, whole or not at all."""
    for suffix, text in ((".json", json.dumps(results, indent=1) + "\n"), (".md", page)):
        with atomic_write(folder / f"{name}{suffix}") as temporary:
            temporary.write_text(text)
    print(page)
