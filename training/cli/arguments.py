"""Command-line arguments that several commands share, and loading of the model and processor that they name."""

import argparse
import sys
from typing import Any


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that run a model on videos: the videos, the model, and how to run it."""
    parser.add_argument(
        "videos", metavar="VIDEO", nargs="+", help="video file, http(s) URL, or folder that is searched for videos"
    )
    parser.add_argument("--model", required=True, help="model folder, or its id on the Hub")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="clips per batch")
    add_loading_arguments(parser)


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that determine how the model is loaded."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the accelerator if there is one)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="data type of the weights (default: as saved)"
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code from the model's repository, for models other than UMT",
    )


def load_model(auto_class: Any, args: argparse.Namespace, purpose: str) -> Any:
    """The model `args.model` in evaluation mode, on its device.

    Args:
        auto_class: an auto class of Transformers such as `AutoModel`.
        args: parsed arguments of `add_loading_arguments`, and `model`.
        purpose: what the command does with the model, for the error message.

    Raises:
        OSError: the model does not exist.
        ValueError: weights are missing, such as the classification head of a model that was only pre-trained.
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
            f"{model.config.architectures}; a model that was trained for this task is needed."
        )
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(args.device or accelerator or "cpu").eval()


def load_video_text_model(args: argparse.Namespace, purpose: str) -> tuple[Any, Any]:
    """The video-text model `args.model`, loaded by `load_model`, and its `UMTProcessor`.

    Raises:
        OSError: the model or its processor does not exist.
        ValueError: weights are missing, or the model is not of type `umt_video_text`.
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
    """The video processor of `args.model`; if the folder has none, the default processor for the configuration."""
    from transformers import AutoVideoProcessor

    from processing_umt import UMTVideoProcessor

    try:
        return AutoVideoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    except OSError:
        if config.model_type != "umt":
            raise
        print(f"note: {args.model} has no video processor; using the default for its configuration", file=sys.stderr)
        return UMTVideoProcessor.for_config(config)
