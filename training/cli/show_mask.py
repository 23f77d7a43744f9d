"""`umt show-mask`: what a student of stage 1 would see of a video, and why (arXiv 2303.16058, section 3.1).

Masks come from the code that trains and chance from a seed, so the picture shows what a run would do; frames are those
of evaluation, as nothing about them is to be drawn. Unusual: no student is needed, only the size of its frames.
"""

import argparse
import os

HELP = "draw what a mask leaves of a video, and where the teacher looks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="video file or http(s) URL")
    parser.add_argument(
        "--teacher", required=True, help="Hub id or folder of a CLIP, DINOv2 or UMT teacher, or an official .pth"
    )
    parser.add_argument(
        "--teacher-image-size",
        type=int,
        metavar="PIXELS",
        help="of the frames the teacher sees (default: a saved UMT teacher's own, of others 14 patches a side)",
    )
    parser.add_argument("--mask-type", choices=("attention", "tube", "random"), default="attention", help="strategy")
    parser.add_argument("--mask-ratio", type=float, default=0.8, metavar="SHARE", help="of the tokens that is hidden")
    parser.add_argument("--num-masks", type=int, default=1, metavar="N", help="masks to draw")
    parser.add_argument("--num-frames", type=int, default=8, metavar="N", help="frames of the clip")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="of the student's frames (default: 16 for each of the teacher's tokens along a side)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--output", default="mask.png", metavar="FILE", help="the picture, a PNG")


def run(args: argparse.Namespace) -> int:
    """Writes the picture and says where.

    Raises:
        ValueError: the video can't be read, the checkpoint is no teacher, or a size or share makes no sense.
        OSError: no such teacher.
    """
    if args.num_masks < 1:
        raise ValueError(f"--num-masks is {args.num_masks}; expected at least 1.")

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
    frames, _ = processor.fetch_videos(args.video, processor.sample_frames)  # (T, H, W, 3); a typo shows before a load

    try:
        student = UMTConfig(num_aligned_layers=1)  # the features are not used
        teacher = load_teacher(args.teacher, student, args.teacher_image_size)
    except OSError as error:
        raise OSError(
            f"There is no teacher {args.teacher!r}: it is no folder or file here, and the Hub does not have it or "
            f"cannot be reached. ({str(error).splitlines()[0]})"
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
