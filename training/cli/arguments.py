"""Command-line arguments that several commands share, and loading of the model and processor that they name."""

import argparse
import math
import os
import sys
from typing import Any

from ..model_sources import (
    PROCESSORS,
    VIDEO_ENCODERS,
    VIDEO_TEXT,
    describe_model,
    has_file,
    read_model_config,
    require_architecture,
)
from ..processes import COUNTS, is_main_process
from ..quiet_loading import quiet_loading

ANSWERER = ("UMTForVideoQuestionAnswering",)
ACTION_DETECTOR = ("UMTForActionDetection",)
TOKENIZERS = ("tokenizer.json", "vocab.txt")
VIDEOS_HELP = (
    "video, folder that is searched for videos, pattern, list or table of videos (.csv, .txt, .json, .parquet ...), "
    "or URL: http(s), hf, s3 ..."
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that run a model on videos: the videos, the model, and how to run it."""
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help=VIDEOS_HELP)
    parser.add_argument("--model", required=True, help="model folder, or its id on the Hub")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="clips per batch")
    add_motion_argument(parser)
    add_loading_arguments(parser)


def add_motion_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--motion-drop-ratio",
        type=float,
        metavar="R",
        help="fraction of the tokens that the model drops, those of least motion: 0.4 takes about half of the time "
        "(default: as saved)",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: the accelerator if there is one)")


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that determine how the model is loaded."""
    add_device_argument(parser)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="data type of the weights (default: as saved)"
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code from the model's repository, for models other than UMT",
    )


def require_at_least(args: argparse.Namespace, **least: int) -> None:
    """Raise a ValueError if an option is below its least value; options without a value are not checked."""
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and not value >= bound:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least {bound}.")


def require_positive_seconds(args: argparse.Namespace, *names: str) -> None:
    """Raise a ValueError if an option is not a finite number above 0; options without a value are not checked."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected more than 0 seconds.")


def require_all_processes() -> None:
    """Raise a ValueError if `accelerate launch` was given several processes but has started one.

    On a CPU it starts others only through MPI, and one process would train alone with another effective batch.
    """
    launched_by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched_by_accelerate and not any(name in os.environ for name in COUNTS):
        raise ValueError(
            "accelerate launch was given several processes, but on a CPU it starts only one without MPI; use "
            "torchrun --nproc-per-node N -m umt_training.cli ..."
        )


def select_device(name: str | None) -> Any:
    """The `torch.device` of a `--device`; by default the accelerator if there is one, or else the CPU.

    Raises:
        ValueError: the name is not a device of PyTorch, or this machine does not have the device.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return accelerator or torch.device("cpu")
    present = ["cpu"]
    if accelerator is not None:
        present += [accelerator.type, *(f"{accelerator.type}:{n}" for n in range(torch.accelerator.device_count()))]
    if name not in present:
        raise ValueError(f"--device is {name!r}, which this machine does not have; it has {', '.join(present)}.")
    return torch.device(name)


def load_model(auto_class: Any, args: argparse.Namespace, suitable: tuple[str, ...], purpose: str) -> Any:
    """The model `args.model` in evaluation mode, on its device.

    Args:
        auto_class: an auto class of Transformers such as `AutoModel`.
        args: parsed arguments of `add_loading_arguments`, and `model`. A `motion_drop_ratio` is set in the model's
            configuration.
        suitable: the UMT classes that the command can use; models of other families are decided by `auto_class`.
        purpose: what the command does with the model, for the error message.

    Raises:
        OSError: the model does not exist, or its weights are damaged.
        ValueError: the device or the model does not exist, the model is of another kind or can't drop tokens, or
            weights are missing.
    """
    import torch
    from safetensors import SafetensorError

    device = select_device(args.device)
    config = read_model_config(args.model)
    require_architecture(args.model, config, suitable, purpose)
    fields = motion_fields(args, config)
    try:
        with quiet_loading():
            model, report = auto_class.from_pretrained(
                args.model,
                dtype=getattr(torch, args.dtype) if args.dtype else "auto",
                trust_remote_code=args.trust_remote_code,
                output_loading_info=True,
                **fields,
            )
    except SafetensorError as error:
        raise OSError(f"The weights of {args.model} are damaged ({error}); download or save them again.") from error
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(
            f"{args.model} cannot {purpose}: it is {describe_model(config)} of the type {config.get('model_type')!r}, "
            f"which {auto_class.__name__} does not load."
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"{args.model} cannot {purpose}: it is {describe_model(config)}, saved without {', '.join(missing[:4])}"
            f"{' ...' if len(missing) > 4 else ''}. A model that was trained for this task is needed."
        )
    return model.to(device).eval()


def motion_fields(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model's configuration that `--motion-drop-ratio` changes; none without the option.

    Raises:
        ValueError: the ratio is out of range, or the model is of another family.
    """
    ratio = vars(args).get("motion_drop_ratio")
    if ratio is None:
        return {}
    if not 0 <= ratio < 1:
        raise ValueError(f"--motion-drop-ratio is {ratio}; expected a fraction of at least 0 and less than 1.")
    fields = {"motion_drop_ratio": ratio}
    places = dict.fromkeys(VIDEO_ENCODERS, fields) | {"umt_video_text": {"vision_config": fields}}
    if config.get("model_type") not in places:
        raise ValueError(
            f"--motion-drop-ratio is for UMT and InternVideo2 models; {args.model} is {describe_model(config)} of the "
            f"type {config.get('model_type')!r}."
        )
    return places[config["model_type"]]


def load_video_text_model(args: argparse.Namespace, purpose: str) -> tuple[Any, Any]:
    """The video-text model `args.model`, loaded by `load_model`, and its `UMTProcessor`.

    Raises:
        OSError: the model or its processor does not exist.
        ValueError: weights are missing, the model is not of type `umt_video_text`, or its processor has another
            vocabulary.
    """
    from transformers import AutoModel

    import modeling_umt  # noqa: F401 (registers the models)

    model = load_model(AutoModel, args, VIDEO_TEXT, purpose)
    if model.config.model_type != "umt_video_text":
        raise ValueError(
            f"{args.model} is a {model.config.model_type} model and cannot {purpose}; a umt_video_text model is "
            "needed."
        )
    return model, load_text_processor(model.config, args)


def load_answerer(args: argparse.Namespace) -> tuple[Any, Any]:
    """The question-answering model `args.model`, loaded by `load_model`, and its processor.

    Raises:
        OSError: the model or its processor does not exist.
        ValueError: see `load_model`, or the processor has another vocabulary.
    """
    from transformers import AutoModelForVisualQuestionAnswering

    import modeling_umt  # noqa: F401 (registers the models)

    model = load_model(AutoModelForVisualQuestionAnswering, args, ANSWERER, "answer questions")
    return model, load_text_processor(model.config, args)


def load_text_processor(config: Any, args: argparse.Namespace) -> Any:
    """The processor of videos and texts of `args.model`.

    Raises:
        OSError: the model has no processor.
        ValueError: the vocabulary is not that of the model.
    """
    from transformers import AutoProcessor

    from modeling_umt.vocabulary_umt import require_vocabulary

    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    if config.model_type == "umt_video_text":
        require_vocabulary(config, processor.tokenizer, f"the model {args.model}", "its processor")
    return processor


def load_processor(config: Any, args: argparse.Namespace) -> Any:
    """The video processor of `args.model`; if the folder has none, the default processor for the configuration.

    Raises:
        OSError: the processor is damaged, or a model that is not a video encoder has none.
        ValueError: a video-text model and its tokenizer have different vocabularies: the vectors of its videos are
            compared with those of texts.
    """
    from transformers import AutoVideoProcessor

    from processing_umt import UMTVideoProcessor

    if config.model_type == "umt_video_text" and has_file(args.model, *TOKENIZERS):
        return load_text_processor(config, args).video_processor
    try:
        return AutoVideoProcessor.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    except OSError as error:
        if has_file(args.model, *PROCESSORS):
            raise OSError(f"The video processor of {args.model} is damaged; save it again. ({error})") from error
        if config.model_type not in VIDEO_ENCODERS:
            raise OSError(
                f"{args.model} has no video processor; save one beside the model, for example with processor."
                "save_pretrained()."
            ) from error
        if is_main_process():
            print(
                f"note: {args.model} has no video processor; using the default for its configuration", file=sys.stderr
            )
        return UMTVideoProcessor.for_config(config)
