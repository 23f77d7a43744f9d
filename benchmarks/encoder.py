"""The encoder's forward pass beside those of its peers, with the same number of tokens and the same precision.

Peers: Transformers' VideoMAE and V-JEPA 2 with tubelets of one frame, and timm's ViT on an image with as many patches
as the clip. All are ViTs of the size of UMT-B/16 or L/16 with random weights, and use PyTorch's fused attention where
they support it. Weights are stored in the measured precision, as for inference.

    python -m benchmarks.encoder --size l16 --frames 8 16 32 64 --image-size 224 [--device cuda] [--compile]
"""

from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import VideoMAEConfig, VideoMAEModel, VJEPA2Config, VJEPA2Model

from modeling_umt import UMTConfig, UMTModel

from . import sizes
from .harness import Contender, as_markdown, environment, measure, measurement_parser, write

PEERS = ("umt", "videomae", "vjepa2", "timm")


def make_model(name: str, size: str, frames: int, image_size: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A model and the input shape of one clip."""
    fields = {key: value for key, value in sizes.ENCODERS[size].items() if key in sizes.TINY}
    clip = (1, frames, 3, image_size, image_size)
    if name == "umt":
        return UMTModel(UMTConfig(image_size=image_size, num_frames=frames, **fields)), clip
    if name == "videomae":
        return VideoMAEModel(VideoMAEConfig(image_size=image_size, num_frames=frames, tubelet_size=1, **fields)), clip
    if name == "vjepa2":
        fields["mlp_ratio"] = fields.pop("intermediate_size") / fields["hidden_size"]
        config = VJEPA2Config(crop_size=image_size, frames_per_clip=frames, tubelet_size=1, **fields)
        return EncoderAlone(VJEPA2Model(config)), clip
    from timm.models.vision_transformer import VisionTransformer  # of the extra `benchmark`

    vit = VisionTransformer(
        img_size=(image_size, frames * image_size),
        embed_dim=fields["hidden_size"],
        depth=fields["num_hidden_layers"],
        num_heads=fields["num_attention_heads"],
        mlp_ratio=fields["intermediate_size"] / fields["hidden_size"],
        class_token=False,
        global_pool="avg",
        num_classes=0,
    )
    return vit, (1, 3, image_size, frames * image_size)


class EncoderAlone(nn.Module):
    """V-JEPA 2 without its predictor."""

    def __init__(self, model: VJEPA2Model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor):
        return self.model(pixel_values_videos, skip_predictor=True)


def useful_flops(size: str, frames: int, image_size: int) -> int:
    """FLOPs of one clip, counted on UMT."""
    with torch.device("meta"):
        model, shape = make_model("umt", size, frames, image_size)
        model.set_attn_implementation("eager")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.empty(shape))
    return counter.get_total_flops()


@torch.no_grad()
def forward(model: nn.Module, inputs: torch.Tensor) -> None:
    model(inputs)


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes.ENCODERS, default="l16")
    parser.add_argument("--frames", type=int, nargs="+", default=[8])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile every contender")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    results, pages = {}, []
    for frames in options.frames:
        flops = options.batch * useful_flops(options.size, frames, options.image_size)
        contenders = {}
        for name in options.only:
            torch.manual_seed(0)
            model, shape = make_model(name, options.size, frames, options.image_size)
            model = model.eval().to(device, dtype)
            if options.compile:
                model.compile()
            inputs = torch.randn(options.batch, *shape[1:], device=device).to(dtype)
            contenders[name] = Contender(partial(forward, model, inputs), options.batch, flops, dtype)
        measured = measure(contenders, device, options.rounds, options.warmup, options.matmul_side)
        tokens = frames * (options.image_size // 16) ** 2
        results[frames] = {
            "environment": environment(device),
            "remarks": {"batch": options.batch, "tokens of a clip": tokens, "compiled": options.compile},
            "contenders": measured,
        }
        title = f"Encoder, {options.size}, {frames} frames of {options.image_size}, {options.dtype}, {device.type}"
        pages.append(as_markdown(title, results[frames], "clips", options.only[0]))
    name = f"encoder_{options.size}_{options.image_size}_{options.dtype}_{device.type}{options.tag}"
    write(options.output, name, results, "\n".join(pages))
    return results


if __name__ == "__main__":
    main()
