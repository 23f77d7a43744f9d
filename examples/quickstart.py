"""From an official checkpoint file to labels, without network: convert, load, classify a tensor, then a video file.

The checkpoint is created here, in the official layout of UMT-B/16 fine-tuned on Kinetics-400, with random weights
instead of downloaded ones, so the printed labels are random. All other steps are those for
`b16_ptk710_ftk710_ftk400_f8_res224.pth`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from transformers import AutoModel, AutoModelForVideoClassification

import modeling_umt  # noqa: F401  (registers the models with the Auto classes)
from modeling_umt import UMTConfig, UMTForVideoClassification
from modeling_umt.convert_umt_checkpoints import official_state_dict


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, model_folder, video = (Path(folder) / name for name in ("official.pth", "umt-b16", "ball.mp4"))
        write_official_checkpoint(checkpoint)
        umt("convert", checkpoint, model_folder)

        clip = torch.randn(1, 8, 3, 224, 224)  # (batch, frames, channels, height, width), ImageNet-normalised
        with torch.inference_mode():
            logits = AutoModelForVideoClassification.from_pretrained(model_folder)(clip).logits
            features = AutoModel.from_pretrained(model_folder)(clip).pooler_output
        print(f"a clip in memory: logits {tuple(logits.shape)}, features {tuple(features.shape)}")

        write_video(video)
        umt("classify", video, "--model", model_folder, "--top-k", "3")


def write_official_checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    model = UMTForVideoClassification(UMTConfig(**size, final_norm="pooled", num_labels=400))
    torch.save(official_state_dict(model), path)


def write_video(path: Path, num_frames: int = 90, fps: int = 30) -> None:
    """Write a video of a bright ball that crosses a dark frame of 320 x 240 pixels."""
    rows, columns = np.mgrid[:240, :320]
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for t in range(num_frames):
            ball = (rows - 120) ** 2 + (columns - 320 * t / num_frames) ** 2 < 30**2
            image = np.where(ball[..., None], 230, 40).astype(np.uint8).repeat(3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


def umt(*arguments: object) -> None:
    """Run a command of the command line."""
    command = [str(argument) for argument in arguments]
    print("$ umt", *command, flush=True)
    subprocess.run([Path(sys.executable).with_name("umt"), *command], check=True)


if __name__ == "__main__":
    main()
