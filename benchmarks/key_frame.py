"""The cost of a key frame of action detection beside that of a view of classification.

A view is a crop of 224 x 224 pixels; a key frame is a whole frame with a shorter side of 256 pixels, padded to
multiples of 16, of a 4:3 or a 16:9 video. FLOPs are counted on PyTorch's meta device, two per multiply-add, and
include the head; boxes are pooled outside of matrix products, and their cost is measured: a key frame of 50 persons
beside one of 3. Models have random weights.

    python -m benchmarks.key_frame --size b16 [--device cuda] [--dtype float32]
"""

from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from modeling_umt import UMTConfig, UMTForActionDetection, UMTForVideoClassification

from . import sizes
from .harness import Contender, as_markdown, environment, measure, measurement_parser, write

# name → height and width of the input in patches, number of boxes; None for a view of classification
INPUTS = {
    "view": (14, 14, None),
    "key frame 4:3, 3 persons": (16, 22, 3),
    "key frame 16:9, 3 persons": (16, 29, 3),
    "key frame 16:9, 50 persons": (16, 29, 50),
}


def make_inputs(config: UMTConfig, name: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Inputs of the model for one clip of noise; boxes of a third of the frame's height and a ninth of its width."""
    rows, columns, num_boxes = INPUTS[name]
    height, width = rows * config.patch_size, columns * config.patch_size
    clip = torch.randn(1, config.num_frames, config.num_channels, height, width, device=device)
    if num_boxes is None:
        return {"pixel_values_videos": clip}
    corners = torch.rand(1, num_boxes, 2, device=device) * torch.tensor([width * 8 / 9, height * 2 / 3], device=device)
    sides = torch.tensor([width / 9, height / 3], device=device)
    return {"pixel_values_videos": clip, "boxes": torch.cat([corners, corners + sides], dim=2)}


def make_models(size: str) -> dict[bool, torch.nn.Module]:
    """The models with boxes (True) and without."""
    config = UMTConfig(**sizes.ENCODERS[size], num_labels=80)
    return {True: UMTForActionDetection(config).eval(), False: UMTForVideoClassification(config).eval()}


def count_flops(size: str, name: str) -> int:
    """FLOPs of a forward pass on one clip; the pooling of boxes is not a matrix product and is not counted."""
    with torch.device("meta"):
        model = make_models(size)[INPUTS[name][2] is not None]
        model.set_attn_implementation("eager")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**make_inputs(model.config, name, torch.device("meta")))
    return counter.get_total_flops()


@torch.no_grad()
def forward(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    model(**inputs)


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes.ENCODERS, default="b16")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    models = {has_boxes: model.to(device, dtype) for has_boxes, model in make_models(options.size).items()}
    flops = {name: count_flops(options.size, name) for name in INPUTS}
    contenders = {}
    for name, (_, _, num_boxes) in INPUTS.items():
        model = models[num_boxes is not None]
        inputs = make_inputs(model.config, name, device)
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
        contenders[name] = Contender(partial(forward, model, inputs), 1, flops[name], dtype)
    results = {
        "environment": environment(device),
        "remarks": {f"multiply-adds of a {name}, in 10^9": round(count / 2e9, 1) for name, count in flops.items()},
        "contenders": measure(contenders, device, options.rounds, options.warmup, options.matmul_side),
    }
    title = f"A key frame of action detection and a view of classification, {options.size}, {options.dtype}"
    page = as_markdown(title, results, "clips", "view")
    write(options.output, f"key_frame_{options.size}_{options.dtype}_{device.type}{options.tag}", results, page)
    return results


if __name__ == "__main__":
    main()
