"""`umt show-mask`: the tokens of a video that a stage-1 student would see, and what selects them: the attention of the
teacher (arXiv 2303.16058, section 3.1), or motion (arXiv 2211.10636, section 4.1).

Masks are made by the training code from a seed; frames are those of evaluation, without random sampling. Masks by
attention require only the size of the student's frames, masks by motion only the student's patch embedding.
"""

import argparse
import os
from typing import TYPE_CHECKING

from ..model_sources import VIDEO_ENCODERS, read_model_config
from ..quiet_loading import quiet_loading
from .arguments import require_at_least

if TYPE_CHECKING:
    from torch import nn

    from modeling_umt import InternVideo2Model, UMTModel

HELP = "draw the visible tokens of a video and the teacher's attention"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file or http(s) URL")
    parser.add_argument(
        "--teacher",
        help="Hub id or folder of a CLIP, SigLIP, DINOv2, DINOv3 or UMT teacher, or an official .pth file; required "
        "for all masks but those by motion, which have none",
    )
    parser.add_argument(
        "--teacher-image-size",
        type=int,
        metavar="PIXELS",
        help="side of the teacher's frames (default: a saved UMT teacher's own, for others 14 patches)",
    )
    parser.add_argument(
        "--student",
        help="masks by motion: Hub id or folder of a UMT or InternVideo2 model, whose patch embedding compares time "
        "steps (default: new weights for patches of 16 x 16 pixels, as at the start of a run)",
    )
    parser.add_argument(
        "--mask-type",
        choices=("attention", "clip_attention", "tube", "random", "motion"),
        default="attention",
        help="masking strategy",
    )
    parser.add_argument("--mask-ratio", type=float, default=0.8, metavar="RATIO", help="fraction of tokens to mask")
    parser.add_argument("--num-masks", type=int, default=1, metavar="N", help="number of masks")
    parser.add_argument(
        "--num-frames", type=int, metavar="N", help="frames of the clip (default: those of --student, or 8)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the student's frames (default: 16 for each of the teacher's tokens along a side; for masks by "
        "motion that of --student, or 224)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks")
    parser.add_argument("--output", default="mask.png", metavar="FILE", help="PNG file to write")


def run(args: argparse.Namespace) -> int:
    """Write the picture and print its path.

    Raises:
        ValueError: the video can't be read, the checkpoint is not a teacher or a video model, a size or ratio is out
            of range, or an option is not one of this type of masks.
        OSError: the teacher or the student does not exist.
    """
    require_at_least(args, num_masks=1, teacher_image_size=1)

    from processing_umt import UMTVideoProcessor

    from ..pictures.drawing import save_picture
    from ..trainers.scored_clip import TokenScorer, read_frames
    from ..trainers.teacher_student import MOTION

    is_motion = args.mask_type == MOTION
    require_options_of_type(args, is_motion)
    student = load_motion_student(args) if is_motion else None
    num_frames = 8 if student is None else student.config.num_frames
    processor = UMTVideoProcessor(num_frames=num_frames if args.num_frames is None else args.num_frames)
    frames = read_frames(args.video, processor)  # before the teacher is loaded
    teacher = None if is_motion else load_mask_teacher(args)
    size, side = student_frame(args, student) if teacher is None else teacher_frame(args, teacher)
    scored = TokenScorer(student or teacher, processor, size, side).score(frames)
    masks = scored.masks(args.mask_type, args.mask_ratio, args.seed, args.num_masks)

    name = args.student or "new weights" if teacher is None else args.teacher
    name = os.path.basename(os.path.abspath(name)) if os.path.exists(name) else name
    source = "student" if teacher is None else "teacher"
    title = f"{os.path.basename(args.video)} under {args.mask_type} masking; {source}: {name}"
    save_picture(scored.draw(masks, title), args.output)
    print(f"{args.output}: {masks.shape[1]} of {scored.num_tokens} tokens are visible")
    return 0


def require_options_of_type(args: argparse.Namespace, is_motion: bool) -> None:
    """Raise a ValueError if an option is given that this type of masks does not use, or its model is missing."""
    for name in ("teacher", "teacher_image_size") if is_motion else ("student",):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is not used by {args.mask_type} masks; leave it out.")
    if not is_motion and args.teacher is None:
        raise ValueError(f"{args.mask_type} masks are shown beside the attention of a teacher; give --teacher.")


def load_motion_student(args: argparse.Namespace) -> "UMTModel | InternVideo2Model":
    """The video encoder of `--student`, or a new one, whose patch embedding compares time steps."""
    import torch
    from transformers import AutoModel

    from modeling_umt import UMTConfig, UMTModel

    if args.student is None:
        torch.manual_seed(args.seed)
        return UMTModel(UMTConfig(num_hidden_layers=1, num_aligned_layers=1)).eval()
    if (family := read_model_config(args.student, "student").get("model_type")) not in VIDEO_ENCODERS:
        raise ValueError(
            f"{args.student!r} is a {family!r} model; a student is a saved video model of UMT or InternVideo2 "
            f"({', '.join(VIDEO_ENCODERS)})."
        )
    with quiet_loading():
        return AutoModel.from_pretrained(args.student).eval()


def student_frame(args: argparse.Namespace, student: "UMTModel | InternVideo2Model") -> tuple[int, int]:
    """Side of the frames of masks by motion, in pixels and in tokens."""
    height, width = student.config.image_height_width
    size, patch = height if args.image_size is None else args.image_size, student.config.patch_size
    if size < patch or size % patch or (args.image_size is None and height != width):
        raise ValueError(
            f"Frames of {size} x {size if args.image_size is not None else width} pixels are not squares of the "
            f"student's patches of {patch} x {patch}; give an --image-size that is a multiple of {patch}."
        )
    return size, size // patch


def load_mask_teacher(args: argparse.Namespace) -> "nn.Module":
    """The teacher whose attention is shown."""
    from modeling_umt import UMTConfig

    from ..trainers.teachers import load_teacher

    try:
        student = UMTConfig(num_aligned_layers=1)  # the features are not used
        with quiet_loading():
            return load_teacher(args.teacher, student, args.teacher_image_size)
    except OSError as error:
        raise OSError(
            f"The teacher {args.teacher!r} does not exist: it is not a local folder or file, and the Hub does not "
            f"have it or cannot be reached. ({str(error).splitlines()[0]})"
        ) from error


def teacher_frame(args: argparse.Namespace, teacher: "nn.Module") -> tuple[int, int]:
    """Side of the student's frames beside a teacher, in pixels and in tokens."""
    side = teacher.config.image_size // teacher.config.patch_size
    size = args.image_size or 16 * side
    if size < side or size % side:
        raise ValueError(
            f"Frames of {size} x {size} pixels do not divide into the teacher's {side} x {side} tokens; give an "
            f"--image-size that is a multiple of {side}."
        )
    return size, side
