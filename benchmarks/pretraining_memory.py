"""Memory and time of a pre-training step of EVEREST (arXiv 2211.10636), of VideoMAE (arXiv 2203.12602), and of
VideoMAE in Transformers, with models of the same size and random weights.

A step is token selection, forward and backward pass in float32; both libraries use PyTorch's fused attention. Clips
have 16 frames of 224 x 224 pixels. VideoMAE hides 0.9 of the tokens by a tube mask and predicts all of them; EVEREST
keeps 0.3 of the tokens by motion, encodes a third of these and predicts the others.

Every model is measured in a process of its own. Memory is the peak during a step beyond the memory before it, resident
memory on a CPU and memory of PyTorch's allocator on a GPU; gradients are included, weights and the moments of an
optimiser are not.

    python -m benchmarks.pretraining_memory [--size b16] [--batches 1 2] [--device cuda]
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from modeling_umt.token_selection_umt import mask_from_visible_indices, tube_token_selection
from umt_training.trainers.masked_tokens import select_masked_tokens

from .harness import RESULTS, environment, peak_memory, wait, write
from .pretraining_methods import ENCODERS, make_models

MODELS = {
    "everest": "EVEREST, this package",
    "videomae": "VideoMAE, this package",
    "transformers": "VideoMAE, Transformers",
}
MASK_RATIO, KEEP_RATIO = 0.9, 0.3


def transformers_videomae(size: str) -> VideoMAEForPreTraining:
    """VideoMAE of the same size in Transformers, in training mode."""
    ours = make_models("videomae", size)[0].config
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=ours.image_height_width[0],
        num_frames=ours.num_frames,
        tubelet_size=ours.tubelet_size,
        hidden_size=ours.hidden_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        intermediate_size=ours.intermediate_size,
        decoder_hidden_size=ours.decoder_hidden_size,
        decoder_num_attention_heads=ours.decoder_num_attention_heads,
        decoder_num_hidden_layers=ours.decoder_num_hidden_layers,
        decoder_intermediate_size=4 * ours.decoder_hidden_size,
        norm_pix_loss=True,
    )
    return VideoMAEForPreTraining(config).train()


def make_step(name: str, size: str, batch: int, device: torch.device) -> tuple[Callable[[], torch.Tensor], int]:
    """The step of a model: a function without arguments that returns the loss, and the number of its parameters."""
    ours = make_models("videomae", size)[0]
    config = ours.config
    frames, rows, columns = config.token_grid
    clips = torch.randn(batch, config.num_frames, 3, *config.image_height_width, device=device)
    seeds = torch.arange(batch, device=device)
    model = (transformers_videomae(size) if name == "transformers" else ours).to(device)

    def step() -> torch.Tensor:
        if name == "transformers":
            grid = clips.new_zeros(batch, frames, rows * columns)
            visible = tube_token_selection(grid, MASK_RATIO, sample_seeds=seeds)
            loss = model(clips, bool_masked_pos=mask_from_visible_indices(visible, frames * rows * columns)).loss
        else:
            keep, selection = (KEEP_RATIO, None) if name == "everest" else (None, tube_token_selection)
            visible, targets = select_masked_tokens(model.umt, clips, seeds, MASK_RATIO, keep, selection)
            loss = model(clips, visible_indices=visible, target_indices=targets).loss
        loss.backward()
        model.zero_grad(set_to_none=True)  # the memory before a step is without gradients
        return loss.detach()

    return step, sum(parameter.numel() for parameter in model.parameters())


def measure_model(name: str, size: str, batch: int, device: str, rounds: int, threads: int) -> dict[str, float]:
    """Peak memory and seconds of a step of one model; a task of a process of its own."""
    torch.set_num_threads(threads)
    step, num_parameters = make_step(name, size, batch, torch.device(device))
    losses, seconds = [step().item()], []
    peak = peak_memory(step, torch.device(device))
    for _ in range(rounds):
        started = time.process_time() if device == "cpu" else time.perf_counter()
        step()
        wait(torch.device(device))
        seconds.append((time.process_time() if device == "cpu" else time.perf_counter()) - started)
    return {
        "parameters": num_parameters,
        "batch": batch,
        "peak_bytes": peak,
        "seconds": statistics.median(seconds),
        "loss": losses[0],
    }


def as_markdown(results: dict) -> str:
    kind = "CPU seconds" if results["device"] == "cpu" else "seconds"
    lines = [f"# Memory of a pre-training step, {results['size']}", ""]
    lines += [", ".join(f"{key} {value}" for key, value in results["environment"].items()), ""]
    lines += [
        "Peak memory of a step beyond the memory before it, in GiB: forward and backward pass in float32, gradients "
        "included, each model in a process of its own.",
        "",
        f"| model | parameters | clips | GiB | of Transformers' VideoMAE | {kind} | of Transformers' VideoMAE |",
        "|---|---|---|---|---|---|---|",
    ]
    for batch in results["batches"]:
        reference = results["rows"][f"transformers {batch}"]
        for name, text in MODELS.items():
            row = results["rows"][f"{name} {batch}"]
            cells = (
                text,
                f"{row['parameters']:,}",
                f"{batch}",
                f"{row['peak_bytes'] / 2**30:.2f}",
                f"{row['peak_bytes'] / max(reference['peak_bytes'], 1):.2f}",
                f"{row['seconds']:.2f}",
                f"{row['seconds'] / reference['seconds']:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=ENCODERS, default="b16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = {}
    for batch in options.batches:
        for name in MODELS:
            task = partial(
                measure_model,
                size=options.size,
                batch=batch,
                device=options.device,
                rounds=options.rounds,
                threads=options.threads,
            )
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # a new one for every model
                (rows[f"{name} {batch}"],) = pool.map(task, [name])
            print(name, rows[f"{name} {batch}"], flush=True)
    results = {
        "environment": environment(torch.device(options.device)),
        "size": options.size,
        "device": options.device,
        "batches": options.batches,
        "rows": rows,
    }
    write(options.output, f"pretraining_memory_{options.size}_{options.device}", results, as_markdown(results))
    return results


if __name__ == "__main__":
    main()
