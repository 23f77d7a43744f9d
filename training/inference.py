"""What the commands that run a finished model have in common: which videos, which model, on which device.

Not of the paper. Unusual: a model folder without a processor file gets the processor that its configuration implies,
and a broken video is reported and counted, but never ends a run.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# What a file in a folder is taken for a video by; of training data too.
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".flv", ".gif", ".ivf", ".m2ts", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogv", ".rm", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every such command has: the videos, the model, and how to run it."""
    parser.add_argument(
        "videos", metavar="VIDEO", nargs="+", help="video file, http(s) URL, or folder that is searched for videos"
    )
    parser.add_argument("--model", required=True, help="model folder, or its id on the Hub")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="clips that pass the model at once")
    add_loading_arguments(parser)


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how the model is loaded."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the accelerator if there is one)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the weights (default: as they are saved)"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code from the model's repository, if it is no UMT model"
    )


def list_video_files(paths: Iterable[str]) -> list[str]:
    """Files and URLs as given, and instead of a folder the videos in it and below it, sorted by name.

    A file that is named is taken whatever its name ends in; in a folder the ending decides (`VIDEO_SUFFIXES`).

    Raises:
        ValueError: a folder without videos.
    """
    files = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        if not inside:
            raise ValueError(f"{path} holds no videos; looked for files that end in {', '.join(VIDEO_SUFFIXES)}.")
        files.extend(inside)
    return files


def load_model(auto_class: Any, args: argparse.Namespace, purpose: str) -> Any:
    """The model `args.model` in evaluation mode, on its device.

    Args:
        auto_class: `AutoModel` or one of its kin.
        args: parsed arguments of `add_loading_arguments`, and `model`.
        purpose: what the command does with the model, for the error.

    Raises:
        OSError: no such model.
        ValueError: weights are missing, such as the classifier of a model that was only pre-trained.
    """
    import torch

    model, report = auto_class.from_pretrained(
        args.model,
        dtype=getattr(torch, args.dtype) if args.dtype else "auto",
        trust_remote_code=args.trust_remote_code,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:4])
        raise ValueError(
            f"{args.model} cannot {purpose}: it was saved without {missing}. Its config names the architecture "
            f"{model.config.architectures}; a model that was trained for the purpose is needed."
        )
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(args.device or accelerator or "cpu").eval()


def load_video_text_model(args: argparse.Namespace, purpose: str) -> tuple[Any, Any]:
    """The video-text model `args.model` as `load_model` loads it, and its `UMTProcessor`.

    Raises:
        OSError: no such model, or no processor beside it.
        ValueError: weights are missing, or the model is of another type than `umt_video_text`.
    """
    from transformers import AutoModel, AutoProcessor

    import modeling_umt  # noqa: F401 (registers the models)

    model = load_model(AutoModel, args, purpose)
    if model.config.model_type != "umt_video_text":
        raise ValueError(
            f"{args.model} is a {model.config.model_type} model and cannot {purpose}; a umt_video_text model is "
            "needed."
        )
    return model, AutoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)


def load_processor(config: Any, args: argparse.Namespace) -> Any:
    """The video processor of `args.model`, or, if the folder has none, the one that its configuration implies."""
    from transformers import AutoVideoProcessor

    try:
        return AutoVideoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    except OSError:
        if config.model_type != "umt":
            raise
        print(f"note: {args.model} has no video processor; using the one of its configuration", file=sys.stderr)
        return processor_of_config(config)


def processor_of_config(config: Any) -> Any:
    """A `UMTVideoProcessor` for clips of `config.num_frames` frames of `config.image_size` pixels."""
    from processing_umt import UMTVideoProcessor

    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return UMTVideoProcessor(
        num_frames=config.num_frames,
        size={"shortest_edge": min(height, width)} if height == width else {"height": height, "width": width},
        crop_size={"height": height, "width": width},
    )


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of `size`; the last may be shorter.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"The batch size is {size}; expected at least 1.")
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
