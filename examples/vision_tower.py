"""Features of a video as a language model takes them: the tokens of the vision tower of VideoChat2 and -Flash.

The tower is UMT-L/16 after stage 2 without its last block. Convert it once (1.2 GB):

    umt convert OpenGVLab/Video_Encoders_for_Training_VideoChat-Flash:UMT-L_f4_vision.pt umt-l16-tower
    python examples/vision_tower.py video.mp4 --model umt-l16-tower --frames 16

The video is cut into clips of four frames, each of which is encoded by itself, as in VideoChat-Flash. The result has
196 tokens for each frame, (1, frames * 196, 1024). Merging of tokens and the projection into the space of the language
model belong to the language model.
"""

import argparse

import torch

from modeling_umt import UMTModel
from processing_umt import UMTVideoProcessor

CLIP_FRAMES = 4


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("video", help="video file, URL, or image")
    parser.add_argument("--model", required=True, help="folder of the converted tower")
    parser.add_argument("--frames", type=int, default=16, help="frames of the video, 1 or a multiple of 4")
    parser.add_argument("--output", help="file to save the features to (torch.save)")
    args = parser.parse_args(argv)

    model = UMTModel.from_pretrained(args.model).eval()
    processor = UMTVideoProcessor.from_pretrained(args.model)
    features = video_features(model, processor, args.video, args.frames)
    print(f"{args.video}: features {tuple(features.shape)}, {features.dtype}")
    if args.output:
        torch.save(features, args.output)


@torch.inference_mode()
def video_features(model: UMTModel, processor: UMTVideoProcessor, video: str, num_frames: int) -> torch.Tensor:
    """The tokens of a video, (1, num_frames * tokens per frame, hidden size), ordered by frame, row and column.

    Raises:
        ValueError: if `num_frames` is neither 1 nor a multiple of four.
    """
    if num_frames != 1 and (num_frames < 1 or num_frames % CLIP_FRAMES):
        raise ValueError(f"--frames is {num_frames}; expected 1 or a multiple of {CLIP_FRAMES}.")
    frames = processor(video, num_frames=num_frames, return_tensors="pt").pixel_values_videos  # (1, T, 3, H, W)
    clips = frames.unflatten(1, (-1, min(CLIP_FRAMES, num_frames))).flatten(0, 1)  # (clips, 4, 3, H, W)
    tokens = model(clips.to(model.device, model.dtype)).last_hidden_state  # (clips, 4 * S, D)
    return tokens.flatten(0, 1)[None]


if __name__ == "__main__":
    main()
