"""A registry of tiny checkpoints: rows of the real registry with a few thousand weights, in the official layout."""

import hashlib
from pathlib import Path

import torch
import yaml
from bert_vocabulary import bert_words
from transformers import BertTokenizer, CLIPConfig, CLIPModel

from modeling_umt.convert_umt_checkpoints import official_state_dict
from umt_training.cards.card_template import CARDS_FOLDER
from umt_training.cards.checkpoint_registry import checkpoint_row, row_config

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 6,  # the number of aligned layers
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {
    "vocab_size": len(bert_words()),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "fusion_layer": 2,
}
# A row of each kind with a model, under its real name.
STAND_INS = {
    "teacher": "clip_vit_b16",
    "stage1": "b16_ptk710_f8_res224",
    "classification": "b16_ptk710_ftk710_ftk400_f8_res224",
    "detection": "b16_ptk710_ftk710_ftava_f8_res224",
    "stage2": "b16_25m",
    "retrieval": "ret_msrvtt_b16_25m",
    "question_answering": "qa_msvd_b16_25m",
    "internvideo2_student": "internvideo2_s14",
    "internvideo2_classification": "internvideo2_s14_k400",
}


def write_tiny_registry(folder: Path, owner: str) -> Path:
    """Write a registry folder whose rows have 32 x 32 frames and files in the repository `owner/official`."""
    registry = yaml.safe_load((CARDS_FOLDER / "registry.yaml").read_text())
    vocabulary = hashlib.sha256("".join(f"{word}\n" for word in bert_words()).encode()).hexdigest()
    size = {"vision": VISION, "target_dim": 8, "text": TEXT, "bert": f"{owner}/bert", "vocabulary_hash": vocabulary}
    registry["sizes"] = dict.fromkeys(registry["sizes"], size)
    registry["source"]["hub"] = f"{owner}/official"
    for source in registry["sources"].values():
        if source.pop("revision", None):
            source["hub"] = f"{owner}/official"
    for row in registry["checkpoints"].values():
        row.update(frames=4, resolution=32)
        if row["kind"].startswith("internvideo2"):
            row["config"] = row.get("config", {}) | {"patch_size": 16, "num_aligned_layers": 6}
        row.pop("sha256", None)
        if row["kind"] == "teacher":
            row.update(config={"image_size": 28, "patch_size": 14, "projection_dim": 8}, clip=f"{owner}/clip")
    folder.mkdir(parents=True)
    (folder / "registry.yaml").write_text(yaml.safe_dump(registry, sort_keys=False))
    for name in ("results.yaml", "card_template.md"):
        (folder / name).write_bytes((CARDS_FOLDER / name).read_bytes())
    return folder


def use_registry(monkeypatch, folder: Path) -> None:
    """Make this process read the registry in `folder` until the end of the test."""
    monkeypatch.setattr("umt_training.cards.checkpoint_registry.CARDS_FOLDER", folder)


def official_state(name: str) -> dict[str, torch.Tensor]:
    """Seeded random weights of a row in the official layout."""
    row = checkpoint_row(name)
    torch.manual_seed(len(name))
    model = row.model_class(row_config(row))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return official_state_dict(model)


def tiny_clip(folder: Path) -> Path:
    """Save a CLIP of the tiny teacher's sizes in Transformers' layout."""
    torch.manual_seed(0)
    vision = {**VISION, "image_size": 28, "patch_size": 14}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=VISION, projection_dim=8)).save_pretrained(folder)
    return folder


def tiny_bert(folder: Path) -> Path:
    """Save a BERT tokenizer with a small vocabulary."""
    vocabulary = {word: index for index, word in enumerate(bert_words())}
    BertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
