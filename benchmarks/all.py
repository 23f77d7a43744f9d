"""Run all speed benchmarks of a device, one process each; benchmarks that already have a result are skipped.

    python -m benchmarks.all --device cuda      # a Hopper GPU, about 25 minutes
    python -m benchmarks.all --device cpu       # two cores with bf16 instructions, about an hour

Each run takes less than ten minutes. `--list` prints the commands; `--only` selects names that contain a word.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from .harness import RESULTS

RUNS = {  # device → name of the result → arguments
    "cpu": {
        "stage1_b16_cpu": "stage1 --size b16 --batch 2 --only plain_bfloat16 plain_bfloat16_teacher fast_bfloat16 "
        "fast_bfloat16_teacher fast_bfloat16_2masks fast_bfloat16_4masks",
        "stage1_l16_cpu": "stage1 --size l16 --batch 1 --only plain_bfloat16 plain_bfloat16_teacher fast_bfloat16 "
        "fast_bfloat16_teacher fast_bfloat16_2masks",
        "stage1_b16_cpu_float32": "stage1 --size b16 --batch 2 --only plain_float32 fast_float32 fast_bfloat16 "
        "--tag _float32",
        "stage1_l16_cpu_float32": "stage1 --size l16 --batch 1 --only plain_float32 fast_bfloat16 --tag _float32",
        "stage1_b16_cpu_compiled": "stage1 --size b16 --batch 2 --only plain_bfloat16 fast_bfloat16 "
        "fast_bfloat16_compiled adamw_loop adamw_fused --tag _compiled",
        "encoder_l16_224_bfloat16_cpu": "encoder --size l16 --frames 8 16",
        "encoder_l16_224_float32_cpu": "encoder --size l16 --frames 8 --dtype float32",
        "encoder_b16_384_bfloat16_cpu": "encoder --size b16 --frames 8 --image-size 384",
        "finetuning_b16_cpu": "training_steps --task finetuning --size b16 --batch 2",
        "stage2_b16_cpu": "training_steps --task stage2 --size b16 --batch 4",
        "pretraining_methods_narrow_float32_cpu": "pretraining_methods",
        "rerank_l16_bfloat16_cpu": "rerank --size l16 --texts 16 --videos 1",
        "rerank_l16_float32_cpu": "rerank --size l16 --texts 16 --videos 1 --dtype float32",
        "largest_batch_b16_bfloat16_cpu": "largest_batch --size b16 --batches 4 8",
        "data_loop": "data_loop",
        "motion_drop_b16_float32_cpu": "motion_drop --size b16",
        "motion_drop_l16_float32_cpu": "motion_drop --size l16 --rounds 3 --warmup 1",
    },
    "cuda": {
        "stage1_l16_cuda": "stage1 --size l16 --batch 48 --rounds 20 --device cuda",
        "stage1_b16_cuda": "stage1 --size b16 --batch 96 --rounds 20 --device cuda",
        "largest_batch_l16_bfloat16_cuda": "largest_batch --size l16 --device cuda",
        "largest_batch_b16_bfloat16_cuda": "largest_batch --size b16 --device cuda",
        "encoder_l16_224_bfloat16_cuda": "encoder --size l16 --frames 8 16 32 64 --batch 8 --rounds 20 --device cuda",
        "encoder_l16_224_bfloat16_cuda_compiled": "encoder --size l16 --frames 8 16 32 64 --batch 8 --rounds 20 "
        "--device cuda --compile --tag _compiled",
        "encoder_l16_384_bfloat16_cuda": "encoder --size l16 --frames 8 16 32 --image-size 384 --batch 4 --rounds 20 "
        "--device cuda",
        "finetuning_l16_cuda": "training_steps --task finetuning --size l16 --batch 16 --rounds 20 --device cuda "
        "--precision bfloat16 --compile",
        "stage2_l16_cuda": "training_steps --task stage2 --size l16 --batch 64 --rounds 20 --device cuda "
        "--precision bfloat16 --compile",
        "pretraining_methods_b16_bfloat16_cuda": "pretraining_methods --size b16 --batch 32 --rounds 20 "
        "--dtype bfloat16 --device cuda",
        "rerank_l16_bfloat16_cuda": "rerank --size l16 --texts 128 --videos 4 --rounds 20 --device cuda",
        "motion_drop_l16_bfloat16_cuda": "motion_drop --size l16 --batch 8 --rounds 20 --device cuda --dtype bfloat16",
    },
}


def commands(device: str, folder: Path, only: list[str]) -> dict[str, list[str]]:
    """The commands still to be run, by the name of their result."""
    output = [] if folder == RESULTS else ["--output", str(folder)]  # results contain the command, without the default
    return {
        name: [sys.executable, "-m", *shlex.split(f"benchmarks.{arguments}"), *output]
        for name, arguments in RUNS[device].items()
        if not (folder / f"{name}.json").exists() and (not only or any(word in name for word in only))
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=RUNS, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    failed = []
    for name, command in commands(options.device, options.output, options.only).items():
        print(f"--- {name}: {shlex.join(command)}", flush=True)
        if not options.list and subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
