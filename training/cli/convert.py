"""`umt convert`: an official `.pth` file to a folder that Transformers loads, or back.

The folder of a video-text model also needs BERT's vocabulary, which official files do not contain.
"""

import argparse
import os
import tempfile
from pathlib import Path

from ..atomic_files import atomic_write
from ..model_sources import WITHOUT_PROCESSOR, read_model_config
from ..quiet_loading import quiet_loading

HELP = "convert an official UMT checkpoint to a folder that Transformers loads, or back"

NUM_SSV2_LABELS = 174


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="official .pth file, repo_id:filename of one on the Hub, or with --to-official a model folder",
    )
    parser.add_argument("output", type=Path, help="folder to create; with --to-official the .pth file to write")
    parser.add_argument("--config", help="folder or Hub id with a config.json, for sizes other than B/16 and L/16")
    parser.add_argument(
        "--labels",
        help="label list of the head: k400, k600, k700, k710, ssv2 (official order), ava (by id), k400_alphabetical "
        "and its siblings (sorted by name), or mitv1 (order not verified); by default the official list of its size",
    )
    parser.add_argument(
        "--position-type",
        choices=("flat", "space_time"),
        help="position table of a classifier whose file has none and whose tokens cover several frames: space_time "
        "for MVD, flat for VideoMAE and EVEREST",
    )
    parser.add_argument(
        "--part",
        choices=("all", "teacher", "video", "tower"),
        default="all",
        help="part of a multi-modality file to convert; video: its encoder, also of a VideoMAE file; tower: the "
        "vision tower of VideoChat, of a stage-1 or stage-2 file and of UMT-L_f4_vision.pt",
    )
    parser.add_argument(
        "--vocabulary",
        default="google-bert/bert-base-uncased",
        help="Hub id or folder of a BERT, or its vocab.txt, for the processor of a video-text model",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="data type of the saved weights"
    )
    parser.add_argument("--to-official", action="store_true", help="convert back: write the official layout")


def run(args: argparse.Namespace) -> int:
    import torch
    from transformers import AutoConfig

    from modeling_umt import convert_umt_checkpoint
    from modeling_umt.vocabulary_umt import record_vocabulary
    from processing_umt import UMTProcessor, UMTVideoProcessor

    from ..cards.checkpoint_registry import licence_of_files

    check_direction(args)
    dtype = getattr(torch, args.dtype)
    if args.to_official:
        return write_official(args.checkpoint, args.output, dtype)
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ValueError(f"{args.output} exists already; give a folder that does not exist or is empty.")

    if args.config and args.position_type:
        raise ValueError("--position-type has no effect with --config, whose `position_type` is used; leave one out.")
    config = AutoConfig.from_pretrained(args.config) if args.config else None
    model = convert_umt_checkpoint(
        args.checkpoint, config=config, part=args.part, labels=args.labels, position_type=args.position_type
    )
    config = model.config
    vision = getattr(config, "vision_config", config)
    if config.model_type in WITHOUT_PROCESSOR:
        processor, clip = None, f"frames of {config.image_size} pixels"
    else:
        clip = f"{vision.num_frames} frames of {' x '.join(map(str, vision.image_height_width))} pixels"
        if config.model_type == "umt_video_text":
            sizes = {"num_frames": vision.num_frames, "image_size": vision.image_size}
            processor = UMTProcessor.from_bert(args.vocabulary, **sizes)
            record_vocabulary(config, processor.tokenizer, args.checkpoint, args.vocabulary)
        elif type(model).__name__ == "UMTForActionDetection":
            processor = UMTVideoProcessor.for_action_detection(config)
        else:
            processor = UMTVideoProcessor.for_config(config)
            processor.sampling, processor.frame_stride = official_sampling(config)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # written beside the output and renamed: an interrupted conversion does not leave a folder that looks complete
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=f".{args.output.name}-") as building:
        building = Path(building) / "model"
        model.to(dtype).save_pretrained(building)
        if processor is not None:
            processor.save_pretrained(building)
        os.replace(building, args.output)
    print(f"{args.output}: {type(model).__name__}, {model.num_parameters():,} parameters, {args.dtype}, {clip}")
    if licence := licence_of_files(args.checkpoint, model):
        print(licence)
    return 0


def official_sampling(config) -> tuple[str, int]:
    """Frame sampling and stride of the official tests, which a file does not contain.

    Tokens of two frames are those of MVD, VideoMAE and EVEREST.
    """
    if config.num_labels == NUM_SSV2_LABELS:
        return "uniform" if config.position_type == "space_time" else "segments", 1
    return ("strided", 4) if config.tubelet_size == 2 else ("sparse", 1)


def check_direction(args: argparse.Namespace) -> None:
    """Raise a ValueError if input and output do not fit the direction, or an option has no effect in it.

    Raises:
        OSError: the model folder to convert back does not exist.
    """
    is_file = args.output.suffix in (".pth", ".pt")
    if not args.to_official:
        if os.path.isdir(args.checkpoint):
            advice = "add --to-official" if is_file else f"to convert it back: --to-official and {args.output}.pth"
            raise ValueError(f"{args.checkpoint} is a folder, but an official .pth file is converted; {advice}.")
        if is_file:
            raise ValueError(
                f"{args.output} is named like a file, but a folder is created; give the name of a folder."
            )
        return
    if not is_file or args.output.is_dir():
        raise ValueError(f"--to-official writes a file; {args.output} must be the name of a .pth file.")
    options = {"--config": args.config, "--labels": args.labels, "--part": args.part != "all"}
    options["--position-type"] = args.position_type
    if given := [name for name, value in options.items() if value]:
        raise ValueError(f"{given[0]} has no effect with --to-official, which writes the entire model; leave it out.")
    read_model_config(args.checkpoint)


def write_official(model_path: str, output: Path, dtype) -> int:
    import torch
    from transformers import AutoConfig

    import modeling_umt
    from modeling_umt.convert_umt_checkpoints import UnsupportedCheckpointError, official_state_dict

    architectures = AutoConfig.from_pretrained(model_path).architectures or ["unknown"]
    model_class = getattr(modeling_umt, architectures[0], None)
    if model_class is None:
        raise UnsupportedCheckpointError(
            f"{model_path} contains {architectures[0]}, which is not a class of this package."
        )
    with quiet_loading():
        model = model_class.from_pretrained(model_path, dtype=dtype)
    state = official_state_dict(model)
    with atomic_write(output) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
    print(f"{output}: {len(state)} tensors in the official layout, {dtype}")
    return 0
