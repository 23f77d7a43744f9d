"""Cross-encoder re-ranking of the candidate texts of a video: the plain loop of the official code beside `match`.

The loop repeats a video's tokens for each text; `match` computes the keys and values of a video once for all texts.
Both get the same encoded texts and videos, with random weights, and must return the same logits.

    python -m benchmarks.rerank --size l16 --texts 16 --videos 2 --frames 12 [--device cuda] [--dtype float32]
"""

from functools import partial

import torch

from modeling_umt import UMTVideoTextConfig, UMTVideoTextModel

from . import sizes
from .harness import Contender, as_markdown, environment, measure, measurement_parser, write
from .plain import plain_rerank


@torch.no_grad()
def match_all(
    model: UMTVideoTextModel, text_states: torch.Tensor, text_mask: torch.Tensor, video_states: torch.Tensor
) -> torch.Tensor:
    """The match logits (M, N) of `plain_rerank`, computed by `match`."""
    rows = [model.match(text_states, text_mask, states[None])[:, 1] for states in video_states]
    return torch.stack(rows)


def main(arguments: list[str] | None = None) -> dict:
    parser = measurement_parser(__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sizes.ENCODERS, default="l16")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    vision = sizes.ENCODERS[options.size] | {"num_frames": options.frames, "position_grid": None}
    text = sizes.TEXTS[options.size] | {"encoder_width": vision["hidden_size"]}
    config = UMTVideoTextConfig(vision_config=vision, text_config=text)
    model = UMTVideoTextModel(config).eval().to(device, dtype)
    tokens = options.frames * (config.vision_config.image_size // 16) ** 2
    texts = torch.randn(options.texts, options.length, text["hidden_size"], device=device).to(dtype)
    videos = torch.randn(options.videos, tokens, vision["hidden_size"], device=device).to(dtype)
    mask = torch.ones(options.texts, options.length, dtype=torch.int64, device=device)
    ways = {"plain": plain_rerank, "match": match_all}
    logits = {name: way(model, texts, mask, videos) for name, way in ways.items()}
    pairs = options.texts * options.videos
    contenders = {
        name: Contender(partial(way, model, texts, mask, videos), pairs, dtype=dtype) for name, way in ways.items()
    }
    results = {
        "contenders": measure(contenders, device, options.rounds, options.warmup, options.matmul_side),
        "environment": environment(device),
        "remarks": {
            "texts": options.texts,
            "tokens of a text": options.length,
            "tokens of a video": tokens,
            "largest logit": logits["plain"].abs().max().item(),
            "largest difference": (logits["plain"] - logits["match"]).abs().max().item(),
        },
    }
    title = f"Re-ranking, {options.size}, {options.videos} videos x {options.texts} texts, {options.dtype}"
    page = as_markdown(title, results, "pairs", "plain")
    write(options.output, f"rerank_{options.size}_{options.dtype}_{device.type}{options.tag}", results, page)
    return results


if __name__ == "__main__":
    main()
