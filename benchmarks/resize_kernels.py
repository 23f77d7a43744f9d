"""Effect of the resize kernel on a classifier's logits: the official OpenCV kernel beside the default.

    python -m benchmarks.resize_kernels [VIDEO ...] [--model MODEL]

The official evaluation resizes decoded frames with OpenCV's bilinear kernel, which does not antialias; the default of
this package is the antialiased kernel of Transformers. The difference is reported relative to the norm of the logits,
beside the distance between two videos. Without `--model` the weights are random (UMT-B/16, seed 0).
"""

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np
import torch

from modeling_umt import UMTConfig, UMTForVideoClassification
from processing_umt import UMTVideoProcessor

KERNELS = ("antialias", "opencv_bilinear")
VIT_B16 = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", help="video files (default: two generated ones, 340 x 256)")
    parser.add_argument("--model", help="model folder or Hub id (default: UMT-B/16 with random weights)")
    args = parser.parse_args()
    if args.model:
        model = UMTForVideoClassification.from_pretrained(args.model).eval()
    else:
        torch.manual_seed(0)
        model = UMTForVideoClassification(UMTConfig(**VIT_B16, num_labels=400)).eval()
        # a newly initialised head returns logits near 0; relative figures do not depend on its scale
        model.classifier.weight.data.mul_(1000)

    with tempfile.TemporaryDirectory() as folder:
        videos = args.videos or [write_video(Path(folder) / f"video{seed}.mp4", seed) for seed in (0, 1)]
        logits = {kernel: [classify(model, video, kernel) for video in videos] for kernel in KERNELS}

    print("| video | difference between kernels, relative L2 | same top-1 |\n|---|---|---|")
    for number, video in enumerate(videos):
        ours, official = (logits[kernel][number] for kernel in KERNELS)
        same = bool(ours.argmax() == official.argmax())
        print(f"| {Path(video).name} | {relative(ours, official):.5f} | {'yes' if same else 'no'} |")
    if len(videos) > 1:
        print(f"| (two videos, for comparison) | {relative(*logits['antialias'][:2]):.5f} | |")


def classify(model: UMTForVideoClassification, video: Path | str, kernel: str) -> torch.Tensor:
    processor = UMTVideoProcessor(num_frames=model.config.num_frames, resize_kernel=kernel)
    with torch.inference_mode():
        return model(**processor(str(video), return_tensors="pt")).logits[0]


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / one.norm()).item()


def write_video(path: Path, seed: int, num_frames: int = 60) -> Path:
    """Write a video of drifting texture at several scales, 340 x 256, 30 frames per second."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:256, :340]
    waves = generator.uniform(-0.6, 0.6, (24, 2)), generator.uniform(-0.4, 0.4, 24), generator.uniform(0, 1, (24, 3))
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 340, 256, "yuv420p", 4_000_000
        for t in range(num_frames):
            image = np.full((256, 340, 3), 8.0)
            for (dy, dx), speed, colour in zip(*waves, strict=True):
                image += np.sin(dy * rows + dx * columns + speed * t)[..., None] * colour
            image = np.clip(image * 16, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
