"""The time of a classifier per clip when it drops tokens by motion (`UMTConfig.motion_drop_ratio`).

FLOPs are counted on PyTorch's meta device and include the embedding of all patches, which the selection requires; the
importance and the sorting of the tokens are not matrix products, and are a part of the measured time. On a machine
that others use too, the ratio of the CPU seconds is the one to read. Models have random weights, clips are noise: the
number of kept tokens does not depend on either.

    OMP_NUM_THREADS=1 python -m benchmarks.motion_drop --size b16

With one thread the CPU seconds contain no waiting of threads for each other. On a GPU: `--device cuda --dtype
bfloat16`.
"""

from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_umt import UMTConfig, UMTForVideoClassification

from . import sizes
from .harness import MATMUL, Contender, as_markdown, environment, measure, measurement_parser, write

ALL_TOKENS = "all tokens"


def way(ratio: float) -> str:
    """The name of a fraction of dropped tokens."""
    return f"{ratio:g} dropped" if ratio else ALL_TOKENS


@torch.no_grad()
def forward(model: UMTForVideoClassification, clips: torch.Tensor, ratio: float) -> None:
    model.config.motion_drop_ratio = ratio
    model(clips)


def count_flops(config: UMTConfig, shape: tuple[int, ...], ratio: float) -> int:
    with torch.device("meta"):
        model = UMTForVideoClassification(config).eval()
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            forward(model, torch.empty(shape), ratio)
    return counter.get_total_flops()


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes.ENCODERS, default="b16")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.4, 0.7])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    config = UMTConfig(**sizes.ENCODERS[options.size], num_labels=400)
    model = UMTForVideoClassification(config).eval().to(device, dtype)
    clips = torch.randn(options.batch, config.num_frames, 3, *config.image_height_width, device=device).to(dtype)
    ratios = {way(ratio): ratio for ratio in (0.0, *options.ratios)}
    flops = {name: count_flops(config, clips.shape, ratio) for name, ratio in ratios.items()}
    contenders = {
        name: Contender(partial(forward, model, clips, ratio), options.batch, flops[name], dtype)
        for name, ratio in ratios.items()
    }
    measured = measure(contenders, device, options.rounds, options.warmup, options.matmul_side)
    remarks = {"batch": options.batch, "tokens of a clip": torch.Size(config.token_grid).numel()}
    for name, row in measured.items():
        if not name.startswith(MATMUL):
            row["relative_flops"] = flops[name] / flops[ALL_TOKENS]
            row["relative_cpu_seconds"] = row["cpu_seconds"] / measured[ALL_TOKENS]["cpu_seconds"]
            remarks[f"{name}: FLOPs, CPU seconds of all tokens' = 1"] = (
                f"{row['relative_flops']:.3f}, {row['relative_cpu_seconds']:.3f}"
            )
    results = {"environment": environment(device), "remarks": remarks, "contenders": measured}
    title = f"Tokens dropped by motion, {options.size}, {options.dtype}, {device.type}"
    page = as_markdown(title, results, "clips", ALL_TOKENS)
    write(options.output, f"motion_drop_{options.size}_{options.dtype}_{device.type}{options.tag}", results, page)
    return results


if __name__ == "__main__":
    main()
