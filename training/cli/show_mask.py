"""`umt show-mask`: the tokens of a video that a stage-1 student would see, and the attention that selects them (arXiv
2303.16058, section 3.1).

Masks are made by the training code from a seed; frames are those of evaluation, without random sampling. Only the size
of the student's frames is required, not a student.
"""

import argparse
import os

from ..quiet_loading import quiet_loading
from .arguments import require_at_least

HELP = "draw the visible tokens of a video and the teacher's attention"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file or http(s) URL")
    parser.add_argument(
        "--teacher",
        required=True,
        help="Hub id or folder of a CLIP, SigLIP, DINOv2, DINOv3 or UMT teacher, or an official .pth file",
    )
    parser.add_argument(
        "--teacher-image-size",
        type=int,
        metavar="PIXELS",
        help="side of the teacher's frames (default: a saved UMT teacher's own, for others 14 patches)",
    )
    parser.add_argument(
        "--mask-type",
        choices=("attention", "clip_attention", "tube", "random"),
        default="attention",
        help="masking strategy",
    )
    parser.add_argument("--mask-ratio", type=float, default=0.8, metavar="RATIO", help="fraction of tokens to mask")
    parser.add_argument("--num-masks", type=int, default=1, metavar="N", help="number of masks")
    parser.add_argument("--num-frames", type=int, default=8, metavar="N", help="frames of the clip")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the student's frames (default: 16 for each of the teacher's tokens along a side)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the masks")
    parser.add_argument("--output", default="mask.png", metavar="FILE", help="PNG file to write")


def run(args: argparse.Namespace) -> int:
    """Write the picture and print its path.

    Raises:
        ValueError: the video can't be read, the checkpoint is not a teacher, or a size or ratio is out of range.
        OSError: the teacher does not exist.
    """
    require_at_least(args, num_masks=1, teacher_image_size=1)

    import torch

    from modeling_umt import UMTConfig
    from modeling_umt.token_selection_umt import draw_masks
    from processing_umt import UMTVideoProcessor

    from ..data.video_dataset import mask_seed
    from ..pictures.drawing import save_picture
    from ..pictures.mask_pictures import draw_mask_strip
    from ..trainers.teacher_student import TOKEN_SELECTIONS
    from ..trainers.teachers import load_teacher

    processor = UMTVideoProcessor(num_frames=args.num_frames)
    frames, _ = processor.fetch_videos(
        args.video, processor.sample_frames
    )  # (T, H, W, 3); before the teacher is loaded

    try:
        student = UMTConfig(num_aligned_layers=1)  # the features are not used
        with quiet_loading():
            teacher = load_teacher(args.teacher, student, args.teacher_image_size)
    except OSError as error:
        raise OSError(
            f"The teacher {args.teacher!r} does not exist: it is not a local folder or file, and the Hub does not "
            f"have it or cannot be reached. ({str(error).splitlines()[0]})"
        ) from error
    side = teacher.config.image_size // teacher.config.patch_size
    size = args.image_size or 16 * side
    if size < side or size % side:
        raise ValueError(
            f"Frames of {size} x {size} pixels do not divide into the teacher's {side} x {side} tokens; give an "
            f"--image-size that is a multiple of {side}."
        )
    crop = {"size": {"shortest_edge": size}, "crop_size": size}
    clip = processor(frames, return_tensors="pt", **crop)["pixel_values_videos"]  # (1, T, 3, size, size)
    with torch.inference_mode():
        cls_attention = teacher(clip).cls_attention  # (1, T, S)
        seeds = torch.tensor([mask_seed(args.seed, 0, 0)])
        strategy = TOKEN_SELECTIONS[args.mask_type]
        masks = draw_masks(strategy, cls_attention, args.mask_ratio, seeds, args.num_masks)  # (1, M, V)

    name = os.path.basename(os.path.abspath(args.teacher)) if os.path.exists(args.teacher) else args.teacher
    title = f"{os.path.basename(args.video)} under {args.mask_type} masking; teacher: {name}"
    save_picture(draw_mask_strip(clip[0], masks[0], cls_attention[0], (side, side), title), args.output)
    print(f"{args.output}: {masks.shape[2]} of {cls_attention.numel()} tokens are visible")
    return 0
