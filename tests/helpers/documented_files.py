"""The files that the documentation names, as tiny ones: model folders, official checkpoints, videos, lists of data
sets and the Hub's cache.

Clips have the published frames, size and patches, so that the shapes that the documentation states are those of the
tiny models too; only their width and depth are small.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from bert_vocabulary import WORDS, bert_words, write_vocabulary
from PIL import Image
from tiny_classifier import save_noise
from tiny_detection import save_tiny_person_detector
from tiny_registry import STAND_INS, official_state, tiny_bert, tiny_clip, use_registry, write_tiny_registry
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    VideoMAEConfig,
    VideoMAEModel,
    ViTMAEConfig,
    ViTMAEModel,
)

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForVideoClassification,
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTVideoTextConfig,
    UMTVideoTextModel,
    official_configuration_umt,
    official_internvideo2_umt,
    official_tower_umt,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.labels_umt import id2label_for, load_labels
from modeling_umt.position_embeddings_umt import plane_position_table
from processing_umt import UMTProcessor, UMTVideoProcessor
from umt_training.cards.checkpoint_registry import checkpoint_row

WIDTH, HEADS, DEPTH = 32, 2, 2
SIZES = {
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 2 * WIDTH
}  # fmt: skip
# six aligned layers, as published, need as many layers
DEEP = SIZES | {"num_hidden_layers": 6}
MASKED = DEEP | {
    "num_frames": 16, "tubelet_size": 2, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1,
}  # fmt: skip
MORE_WORDS = (
    "catch", "##es", "##er", "frisbee", "sleep", "shake", "hands", "people", "goal", "playing", "tennis", "riding",
    "horse", "video", "of", "someone", "is", "what", "dancing", "running", "singing", "##hes",
)  # fmt: skip
VOCABULARY = (*WORDS, *MORE_WORDS)
TEXT = SIZES | {"vocab_size": len(bert_words(VOCABULARY)), "max_position_embeddings": 64}
ANSWERS = ("dancing", "running", "singing")
CAPTIONS = ("a dog runs", "a cat sleeps", "playing tennis", "riding a horse", "two people shake hands", "a man")
CLASSES = ("archery", "bowling")  # of Kinetics-400
OFFICIAL = "OpenGVLab/UMT"
OWNER = "me"  # of the registry of tiny rows


def named_classes(names: Mapping[int, str]) -> dict:
    return {"id2label": dict(names), "label2id": {name: index for index, name in names.items()}}


def kinetics(num_labels: int) -> dict:
    return named_classes(id2label_for(num_labels))


def video_text_config(fusion_layer: int = 1) -> UMTVideoTextConfig:
    vision = DEEP | {"num_frames": 4, "target_dim": 768, "position_grid": None}
    return UMTVideoTextConfig(vision_config=vision, text_config=TEXT | {"fusion_layer": fusion_layer})


def seeded(make, *arguments):
    """A model with seeded weights whose outputs differ between videos."""
    torch.manual_seed(0)
    model = make(*arguments).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def make_models() -> dict[str, torch.nn.Module]:
    """A model for each kind of folder."""
    deep = UMTConfig(**DEEP)
    base = UMTConfig(**DEEP, target_dim=512)
    pixels = {"masked_targets": {"pixels": 1536}, "masked_loss": "mse", "normalize_targets": True}
    internvideo2 = InternVideo2Config(
        **SIZES, num_frames=8, patch_size=14, num_pooling_heads=16, pooled_size=768, num_aligned_layers=2,
        target_dim=32, final_target_dim=32, **kinetics(400),
    )  # fmt: skip
    return {
        "umt-b16-k400": seeded(UMTForVideoClassification, UMTConfig(**SIZES, **kinetics(400))),
        "umt-l16-k710": seeded(UMTForVideoClassification, UMTConfig(**SIZES, **kinetics(710))),
        "umt-l16-k710-stage1": seeded(UMTForPreTraining, deep),
        "umt-b16-k710-stage1": seeded(UMTForPreTraining, base),
        "umt-b16-ava": seeded(
            UMTForActionDetection, UMTConfig(**SIZES, **named_classes(dict(enumerate(load_labels("ava")))))
        ),
        "everest": seeded(
            UMTForMaskedModeling, UMTConfig(**MASKED, **pixels, position_grid=None, decoder_projection_bias=False)
        ),
        "s14-k400": seeded(InternVideo2ForVideoClassification, internvideo2),
        "stage2": seeded(UMTForVideoTextPreTraining, video_text_config()),
        "umt-b16-msrvtt": seeded(UMTVideoTextModel, video_text_config()),
        "umt-b16-msrvtt-qa": UMTForVideoQuestionAnswering.from_video_text(
            seeded(UMTForVideoTextPreTraining, video_text_config())
        ),
    }


# further names of the same folders
COPIES = {
    "run1": "umt-l16-k710-stage1",
    "retrieval-model": "umt-b16-msrvtt",
    "umt-b-msrvtt-qa": "umt-b16-msrvtt-qa",
    "umt-b-anet-qa": "umt-b16-msrvtt-qa",
    "path/to/stage-2": "stage2",
    "my-model": "umt-b16-k400",
}
# official files: repository, or none for a local one → path → model
FILES = {
    OFFICIAL: {
        "single_modality/b16_ptk710_ftk710_ftk400_f8_res224.pth": "umt-b16-k400",
        "single_modality/l16_ptk710_ftk710_f8_res224.pth": "umt-l16-k710",
        "single_modality/b16_ptk710_ftk710_f8_res224.pth": "umt-l16-k710",
        "single_modality/b16_ptk710_ftk710_ftava_f8_res224.pth": "umt-b16-ava",
        "single_modality/l16_ptk710_f8_res224.pth": "umt-l16-k710-stage1",
        "single_modality/b16_ptk710_f8_res224.pth": "umt-b16-k710-stage1",
        "multi_modality/ret_msrvtt_b16_25m.pth": "umt-b16-msrvtt",
        "multi_modality/qa_msrvtt_b16_25m.pth": "umt-b16-msrvtt-qa",
        "multi_modality/l16_25m.pth": "stage2",
        "multi_modality/b16_25m.pth": "stage2",
    },
    "OpenGVLab/InternVideo2_distillation_models": {
        "stage1/S14/S14_ft_k710_ft_k400_f8/pytorch_model.bin": "s14-k400",
    },
    "OpenGVLab/Video_Encoders_for_Training_VideoChat-Flash": {"UMT-L_f4_vision.pt": "tower"},
    None: {
        "l16_ptk710_ftk710_f8_res224.pth": "umt-l16-k710",
        "l16_25m.pth": "stage2",
        "mvd_b_k400.pth": "two-frame-tokens",
        "videomae_b_k400.pth": "two-frame-tokens",
    },
}


def count_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the tiny width one of the published ones, from which the number of heads of official files follows."""
    for module in (official_configuration_umt, official_internvideo2_umt):
        monkeypatch.setitem(module.PUBLISHED_HEADS, WIDTH, HEADS)
    monkeypatch.setitem(official_configuration_umt.MASKED_MODELING_HEADS, WIDTH, HEADS)
    monkeypatch.setitem(official_tower_umt.PUBLISHED_DEPTHS, WIDTH, DEEP["num_hidden_layers"])


def save_model(model, folder: Path) -> None:
    model.save_pretrained(folder)
    config = model.config
    if config.model_type == "umt_video_text":
        vocabulary = write_vocabulary(folder, VOCABULARY)
        UMTProcessor.from_bert(vocabulary, image_size=224, num_frames=4, max_text_length=32).save_pretrained(folder)
    elif isinstance(model, UMTForActionDetection):
        UMTVideoProcessor.for_action_detection(config).save_pretrained(folder)
    else:
        UMTVideoProcessor.for_config(config).save_pretrained(folder)


def write_cached(cache: Path, repository: str, write) -> None:
    """A repository in the Hub's cache, whose files `write(folder)` writes."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    write(snapshot)


def write_cache(cache: Path, models: Mapping[str, torch.nn.Module]) -> None:
    """The repositories of the Hub that the documentation names."""

    def save_files(repository):
        def write(folder: Path) -> None:
            for name, model in FILES[repository].items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                torch.save(official_state_dict(models[model]), folder / name)

        return write

    def save_clip(patch_size: int, projection_dim: int):
        torch.manual_seed(0)
        vision = DEEP | {"image_size": 224, "patch_size": patch_size}
        config = CLIPConfig(vision_config=vision, text_config=DEEP, projection_dim=projection_dim)
        return CLIPModel(config).save_pretrained

    def save_bert(folder: Path) -> None:
        write_vocabulary(folder, VOCABULARY)
        BertForMaskedLM(BertConfig(**TEXT)).save_pretrained(folder)

    def save_mae(folder: Path) -> None:
        model = ViTMAEModel(ViTMAEConfig(**SIZES, image_size=224, patch_size=16, mask_ratio=0.0))
        # published repositories contain the table; Transformers initialises it with zeros
        model.embeddings.position_embeddings.data[0, 1:] = plane_position_table((14, 14), WIDTH)
        model.save_pretrained(folder)

    def save_siglip(folder: Path) -> None:
        SiglipModel(
            SiglipConfig(vision_config=DEEP | {"image_size": 256, "patch_size": 16}, text_config=DEEP)
        ).save_pretrained(folder)

    video_mae = VideoMAEModel(VideoMAEConfig(**SIZES, image_size=224, num_frames=16, tubelet_size=2))
    for repository in FILES:
        if repository is not None:
            write_cached(cache, repository, save_files(repository))
    write_cached(cache, "openai/clip-vit-large-patch14", save_clip(14, 768))
    write_cached(cache, "openai/clip-vit-base-patch16", save_clip(16, 512))
    write_cached(cache, "google/siglip2-large-patch16-256", save_siglip)
    for size in ("base", "large"):
        write_cached(cache, f"google-bert/bert-{size}-uncased", save_bert)
        write_cached(cache, f"facebook/vit-mae-{size}", save_mae)
        write_cached(cache, f"MCG-NJU/videomae-{size}", video_mae.save_pretrained)
    for name in ("PekingU/rtdetr_r18vd", "PekingU/rtdetr_r50vd"):
        write_cached(cache, name, save_tiny_person_detector)
    write_cached(cache, "me/my-model", lambda folder: save_model(models["umt-b16-k400"], folder))
    # what `umt publish` reads for the rows of the tiny registry
    write_cached(cache, f"{OWNER}/clip", tiny_clip)
    write_cached(cache, f"{OWNER}/bert", tiny_bert)

    def save_rows(folder: Path) -> None:
        for name in (STAND_INS["classification"], "l16_25m"):
            (folder / checkpoint_row(name).official_file).parent.mkdir(parents=True, exist_ok=True)
            torch.save(official_state(name), folder / checkpoint_row(name).official_file)

    write_cached(cache, f"{OWNER}/official", save_rows)


def write_videos(folder: Path) -> None:
    save_noise(folder / "clip.mp4", 1, num_frames=52, height=352, width=416)
    for seed, name in enumerate(("other.mp4", "new.mp4", "video.mp4", "videos/a.mp4", "videos/b.mp4", "videos/c.mp4")):
        save_noise(folder / name, seed, num_frames=18)
    (folder / "broken.mp4").write_bytes(b"no video")
    for number in range(4):
        save_noise(folder / "clips" / CLASSES[number % 2] / f"{number}.mp4", 20 + number)
    for number in range(2):
        save_noise(folder / "test_clips" / CLASSES[number % 2] / f"{number}.mp4", 30 + number)
    for number in range(6):
        save_noise(folder / "test_videos" / f"{number}.mp4", 40 + number, num_frames=15, height=96, width=96)
    save_noise(folder / "movies" / "m.mp4", 60, num_frames=60, height=96, width=96)
    (folder / "images").mkdir()
    Image.new("RGB", (64, 48), (13, 40, 200)).save(folder / "images" / "still.png")


def write_lists(folder: Path) -> None:
    """Annotations of captioned videos, questions and persons."""
    videos = [f"{name}.mp4" for name in "abc"]
    captioned = [{"video": video, "caption": caption} for video, caption in zip(videos, CAPTIONS, strict=False)]
    asked = [
        {"video": video, "question": "what is the man doing?", "answer": answer, "question_id": f"q{number}"}
        for number, (video, answer) in enumerate(zip(videos, ANSWERS, strict=True))
    ]
    choices = [{"video": video, "caption": list(CAPTIONS[:3]), "answer": 1} for video in videos]
    stills = [{"image": "still.png", "caption": caption} for caption in CAPTIONS[:3]]
    lists = {
        "msrvtt_ret_train9k": captioned, "msrvtt_ret_test1k": captioned, "webvid_train": captioned,
        "msrvtt_qa_train": asked, "msrvtt_qa_test": asked, "anet_qa_test": asked, "msrvtt_mc_test": choices,
        "cc3m_train": stills, "msrvtt_qa_answer_list": ANSWERS, "anet_qa_answer_list": ANSWERS,
        "test_a": [row | {"type": number % 2} for number, row in enumerate(asked)],
    }  # fmt: skip
    for name, rows in lists.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    (folder / "answers.txt").write_text("\n".join(ANSWERS) + "\n")
    shutil.copytree(folder / "videos", folder / "msrvtt")
    clips = [f"clips/{CLASSES[number % 2]}/{number}.mp4,{number % 2}" for number in range(4)]
    rows = [f"{clip},{clip}" for clip in clips]
    (folder / "clips.csv").write_text("\n".join(["video,label,clip,title", *rows]) + "\n")
    (folder / "k400").mkdir()
    for split in ("train", "val", "test"):  # the authors' format: path and class index
        (folder / "k400" / f"{split}.csv").write_text(
            "".join(f"{name}.mp4,{index}\n" for index, name in enumerate("abc"))
        )
    write_action_lists(folder)


def write_action_lists(folder: Path) -> None:
    """Own key frames; AVA's annotations, detections and label maps for the movie `m`, which begins at second 900."""
    rows = [
        {"file_name": f"{video}.mp4", "time": 0.7, "objects": {"bbox": [[8, 8, 40, 60]], "categories": [[action]]}}
        for video, action in zip(range(6), ("sit", "talk") * 3, strict=True)
    ]
    (folder / "test_videos" / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    box = "0.1,0.2,0.5,0.9"
    truth = [f"m,{time},{box},{action},{person}" for time in (902, 903) for action, person in ((1, 0), (2, 0))]
    for name in ("ava_train_v2.2.csv", "ava_val_v2.2.csv"):
        (folder / name).write_text("\n".join(truth) + "\n")
    for name in ("detections.csv", "found.csv"):
        (folder / name).write_text("\n".join(f"m,{time},{box},1,0.9" for time in (902, 903)) + "\n")
    (folder / "ava_val_excluded_timestamps_v2.2.csv").write_text("m,903\n")
    persons = [f"{name},{time},{box},,0.95" for name, time in (("m", 902), ("m", 903), ("clip", 1), ("clip", 2))]
    (folder / "persons.csv").write_text("\n".join(persons) + "\n")
    names = load_labels("ava")[:4]
    for name in (
        "ava_action_list_v2.2.pbtxt", "ava_action_list_v2.2_for_activitynet_2019.pbtxt", "map.pbtxt",
    ):  # fmt: skip
        text = "".join(f'item {{ name: "{label}" id: {number} }}\n' for number, label in enumerate(names, 1))
        (folder / name).write_text(text)


def write_documented_files(folder: Path, cache: Path) -> None:
    """All files that the documentation names to `folder`, and the repositories that it names to the Hub's `cache`."""
    folder.mkdir()
    models = make_models()
    classifier = UMTConfig(**SIZES, num_frames=16, tubelet_size=2, position_grid=None, **kinetics(400))
    models["two-frame-tokens"] = seeded(UMTForVideoClassification, classifier)
    models["tower"] = models["umt-l16-k710-stage1"]
    for name in ("umt-b16-k400", "umt-l16-k710", "umt-l16-k710-stage1", "umt-b16-k710-stage1", "umt-b16-ava",
                 "everest", "s14-k400", "stage2", "umt-b16-msrvtt", "umt-b16-msrvtt-qa"):  # fmt: skip
        save_model(models[name], folder / name)
    for name, source in COPIES.items():
        shutil.copytree(folder / source, folder / name)
    for name, model in FILES[None].items():
        torch.save(official_state_dict(models[model]), folder / name)
    write_cache(cache, models)
    write_videos(folder)
    write_lists(folder)


__all__ = ["OWNER", "count_as_published", "use_registry", "write_documented_files", "write_tiny_registry"]
