"""A tiny question-answering model with its processor, and questions about clips of noise, one of them broken."""

import json
from pathlib import Path

import torch
from bert_vocabulary import write_vocabulary
from tiny_classifier import save_noise

from modeling_umt import UMTForVideoQuestionAnswering, UMTForVideoTextPreTraining, UMTVideoTextConfig
from processing_umt import UMTProcessor

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
ANSWERS = ["yes", "no", "two", "a dog", "a man"]


def tiny_stage2(seed: int = 0) -> UMTForVideoTextPreTraining:
    torch.manual_seed(seed)
    config = UMTVideoTextConfig(
        vision_config={"image_size": 32, "num_frames": 2, "num_aligned_layers": 1, **SIZES},
        text_config={"vocab_size": 123, "max_position_embeddings": 24, "fusion_layer": 1, **SIZES},
        projection_dim=16,
    )
    return UMTForVideoTextPreTraining(config)


def tiny_answerer(seed: int = 1) -> UMTForVideoQuestionAnswering:
    """A model whose answers differ between questions and between clips."""
    model = UMTForVideoQuestionAnswering.from_video_text(tiny_stage2(seed))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_tiny(model, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    vocabulary = write_vocabulary(folder)
    processor = UMTProcessor.from_bert(vocabulary, image_size=32, num_frames=2, max_text_length=8)
    processor.save_pretrained(folder)
    return folder


def write_questions(folder: Path, num_videos: int = 5) -> Path:
    """Two questions about each video, one about the last; the second video is broken."""
    rows, questions = [], ("What's the man doing?", "Is a dog on the bike?")
    for index in range(num_videos):
        save_noise(folder / f"clip{index}.mp4", index, num_frames=6, height=32, width=48)
        for number in range(2 if index < num_videos - 1 else 1):
            rows.append(
                {
                    "video": f"clip{index}.mp4",
                    "question": questions[number],
                    "answer": ANSWERS[(index + number) % 3],
                    "question_id": f"q{len(rows)}",
                    "type": 3 * number,
                }
            )
    (folder / "clip1.mp4").write_bytes(b"no video")
    (folder / "questions.json").write_text(json.dumps(rows))
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    return folder
