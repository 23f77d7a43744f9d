"""Stage-2 runs from a recipe: the published recipes, a tiny run with its output, resume, errors."""

import json
import re
import shutil

import pytest
import torch
import yaml
from bert_vocabulary import WORDS, write_vocabulary
from subprocess_tools import complaints, run_clean
from tiny_pretraining import make_teacher
from tiny_video_text import TEXT, VISION, caption, make_model, write_media
from transformers import BertConfig, BertForMaskedLM
from video_files import write_tar

from modeling_umt import UMTConfig, UMTForPreTraining, UMTForVideoTextPreTraining, UMTVideoTextConfig
from umt_training import pretrain
from umt_training.cli import main
from umt_training.data.alternating_clips import AlternatingClips, AlternatingStreams
from umt_training.data.video_stream import StreamedClipDataset
from umt_training.runs.recipes import parse_recipe, read_recipe
from umt_training.runs.video_text_run import (
    VideoTextRun,
    load_training_clips,
    load_video_text_model,
    run_facts,
)
from umt_training.trainers.video_text import UMTVideoTextArguments

PUBLISHED = [f"umt_{size}_{corpus}_stage2" for size in ("b16", "l16") for corpus in ("5m", "17m", "25m")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name, tmp_path):
    """The official scripts' values."""
    overrides = ["--output_dir", str(tmp_path)]
    run, args = parse_recipe(read_recipe(name), overrides, VideoTextRun, UMTVideoTextArguments)
    is_base = "b16" in name
    vision = UMTConfig(**run.vision)
    assert vision.hidden_size == (768 if is_base else 1024)
    assert (vision.drop_path_rate, vision.target_dim) == ((0.1, 512) if is_base else (0.2, 768))
    assert run.model["projection_dim"] == (512 if is_base else 768)
    assert {run.model[f"{loss}_weight"] for loss in ("vtc", "vtm", "mlm", "uta")} == {1}
    assert UMTVideoTextConfig().vtm_hard_negatives and UMTVideoTextConfig().temperature_init_value == 0.07
    assert run.text == f"google-bert/bert-{'base' if is_base else 'large'}-uncased"
    assert run.teacher == f"openai/clip-vit-{'base-patch16' if is_base else 'large-patch14'}"
    assert run.teacher_image_size == (224 if is_base else 196)
    assert (run.num_frames, run.max_text_length, run.positives) == (4, 32, "row")
    assert (args.learning_rate, args.learning_rate_floor, args.weight_decay) == (1e-4, 0.01, 0.02)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.999, 1e-8, 0)
    assert (args.num_train_epochs, args.warmup_epochs, args.per_device_train_batch_size) == (10, 1, 128)
    assert (args.mask_type, args.mask_ratio, args.image_mask_ratio) == ("attention", 0.8, 0.5)
    assert (args.seed, args.bf16, args.checkpoint_text, args.dataloader_num_workers) == (42, True, True, 12)
    assert args.contrastive_gradients == "global"


@pytest.mark.parametrize(("name", "parameters"), [("umt_b16_5m_stage2", 205_402_429), ("umt_l16_5m_stage2", None)])
def test_an_estimate_needs_no_weights(name, parameters, capsys):
    """By hand, a clip of 160 tokens costs 6 FLOP per weight and token."""
    assert (
        main(["pretrain", "--config", name, "--estimate", "--output_dir", "none", "--videos_per_epoch", "1000"]) == 0
    )
    printed = capsys.readouterr().out
    assert "with 160 visible tokens" in printed and "with 98 visible tokens" in printed
    assert "(1,000 videos + 2,500,000 images) x 10 epochs" in printed
    if parameters is not None:
        assert f"model {parameters:,} parameters, teacher 86,192,640" in printed
        flops, teacher = re.search(
            r"a video and its caption: ([\d.]+) TFLOP, of which the teacher's ([\d.]+)", printed
        ).groups()
        encoder = 6 * 160 * 85.6e6 / 1e12  # forward and backward of twelve layers
        # five texts of 32 tokens: two through nine layers, four through three with cross-attention
        texts = 6 * 32 * (2 * 9 * 7.1e6 + 4 * 3 * 9.4e6) / 1e12
        assert float(flops) - float(teacher) == pytest.approx(encoder + texts, rel=0.2)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with media, annotation files, a BERT, a teacher and a stage-1 student."""
    folder = tmp_path_factory.mktemp("parts")
    write_media(folder, 8)
    for kind, suffix in (("video", "mp4"), ("image", "png")):
        rows = [{kind: f"{index:02}.{suffix}", "caption": caption(index)} for index in range(8)]
        (folder / f"{kind}s.json").write_text(json.dumps(rows))
    torch.manual_seed(0)
    sizes = {name: TEXT[name] for name in TEXT if name != "fusion_layer"}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder / "bert")
    write_vocabulary(folder / "bert")
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder / "other")  # with another vocabulary than its own
    write_vocabulary(folder / "other", WORDS[:-1])
    make_teacher().save_pretrained(folder / "teacher")
    UMTForPreTraining(UMTConfig(**VISION)).save_pretrained(folder / "student")
    return folder


def recipe_of(parts, output_dir, **changes):
    """The path of a tiny recipe."""
    recipe = {
        "task": "stage2",
        "text": str(parts / "bert"),
        "teacher": str(parts / "teacher"),
        "init_from": str(parts / "student"),
        "num_frames": 2,
        "max_text_length": 8,
        "model": {"text_config": {"fusion_layer": 2}},
        "video_data": [str(parts / "videos.json")],
        "image_data": [str(parts / "images.json")],
        "output_dir": str(output_dir),
        "mask_ratio": 0.75,
        "learning_rate": 1.0e-3,
        "num_train_epochs": 2,
        "warmup_epochs": 0,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    }
    path = output_dir.parent / f"{output_dir.name}.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return str(path)


def lines_of(trainer):
    return [line for line in trainer.state.log_history if "loss_vtc" in line]


def test_a_run_to_its_end(parts, tmp_path):
    """From the command line; its output loads without the package."""
    recipe = recipe_of(parts, tmp_path / "run")
    assert main(["pretrain", "--config", recipe, "--eval_data", str(parts / "videos.json")]) == 0
    card = (tmp_path / "run" / "README.md").read_text()
    for words in ("text to video, R@1", "12.5", "`videos.json`, `images.json`", "16 captioned"):
        assert words in card, words
    code = f"""
        import numpy as np, torch
        from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, AutoVideoProcessor

        folder, clip = {str(tmp_path / "run")!r}, np.zeros((9, 70, 60, 3), np.uint8)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert (processor.video_processor.num_frames, processor.max_text_length) == (2, 8)
        assert AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True).sampling == "middle"
        options = dict(trust_remote_code=True, output_loading_info=True)
        model, report = AutoModel.from_pretrained(folder, **options)
        assert not report["missing_keys"] and not report["unexpected_keys"], report
        inputs = processor(text=["a dog runs", "a cat"], videos=clip, return_tensors="pt")
        print(model.eval()(**inputs).logits_per_video.shape)
        whole, report = AutoModelForPreTraining.from_pretrained(folder, **options)
        assert not report["missing_keys"], report
    """
    done = run_clean(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torch.Size([1, 2])" in done.stdout and not complaints(done.stderr), done.stderr


def test_a_resumed_run_is_the_uninterrupted_one(parts, tmp_path):
    """Interrupted within an epoch of alternating images and videos: equal losses, random sampling and weights."""
    whole = pretrain(recipe_of(parts, tmp_path / "whole", save_strategy="steps", save_steps=3), [])
    assert len(lines_of(whole)) == 8
    (tmp_path / "half").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "half" / "checkpoint-3")
    half = pretrain(recipe_of(parts, tmp_path / "half"), [])
    for line, expected in zip(lines_of(half)[3:], lines_of(whole)[3:], strict=True):
        for name in ("loss", "loss_vtc", "loss_vtm", "loss_mlm", "loss_uta", "temperature"):
            assert line[name] == expected[name], name
    state = whole.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in half.model.state_dict().items())


@pytest.mark.parametrize("start", ["stage1", "nothing", "stage2"])
def test_where_a_model_comes_from(parts, tmp_path, start):
    fields = {"vtm_hard_negatives": False, "text_config": {"fusion_layer": 2}}
    run = VideoTextRun(text=str(parts / "bert"), num_frames=2, model=fields)
    if start == "stage1":
        run.init_from = str(parts / "student")
    elif start == "nothing":
        run.vision = VISION
    else:
        source = make_model()
        source.save_pretrained(tmp_path / "model")
        run.init_from, run.model = str(tmp_path / "model"), {"vtm_hard_negatives": False}
    model = load_video_text_model(run)
    assert not model.config.vtm_hard_negatives
    weight = model.video_text.vision_model.layers[0].mlp.fc1.weight
    if start == "stage1":
        student = UMTForPreTraining.from_pretrained(parts / "student")
        assert torch.equal(weight, student.umt.layers[0].mlp.fc1.weight)
    if start == "stage2":
        assert torch.equal(weight, source.video_text.vision_model.layers[0].mlp.fc1.weight)
    else:
        bert = BertForMaskedLM.from_pretrained(parts / "bert")
        ours = model.video_text.text_model.embeddings.word_embeddings.weight
        assert torch.equal(ours, bert.bert.embeddings.word_embeddings.weight)
    assert isinstance(model, UMTForVideoTextPreTraining) and model.dtype == torch.float32


def test_the_data_of_a_run(parts, tmp_path):
    args = UMTVideoTextArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2)
    both = VideoTextRun(video_data=[str(parts / "videos.json")], image_data=[str(parts / "images.json")], num_frames=2)
    clips = load_training_clips(both, args, 32)
    assert isinstance(clips, AlternatingClips) and len(clips) == 16
    assert [clips[0, index]["pixel_values_videos"].shape[0] for index in (0, 8)] == [1, 2]
    assert clips.parts[0].seed != clips.parts[1].seed
    alone = load_training_clips(VideoTextRun(video_data=both.video_data, num_frames=2), args, 32)
    assert len(alone) == 8 and alone[0, 0]["pixel_values_videos"].shape == (2, 3, 32, 32)


def test_shards_of_both_kinds_alternate(parts, tmp_path):
    for kind, suffix in (("videos", "mp4"), ("images", "png")):
        files = []
        for index in range(8):
            files.append((f"{index:02}.{suffix}", (parts / f"{index:02}.{suffix}").read_bytes()))
            files.append((f"{index:02}.txt", caption(index).encode()))
        write_tar(tmp_path / f"{kind}.tar", files)
    shards = {"video_data": [f"{tmp_path}/videos.tar"], "image_data": [f"{tmp_path}/images.tar"]}
    recipe = recipe_of(parts, tmp_path / "run", videos_per_epoch=8, images_per_epoch=8, **shards)
    trainer = pretrain(recipe, [])
    assert isinstance(trainer.train_dataset, AlternatingStreams) and len(lines_of(trainer)) == 8
    args = UMTVideoTextArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2)
    one = load_training_clips(VideoTextRun(video_data=shards["video_data"], videos_per_epoch=8), args, 32)
    assert isinstance(one, StreamedClipDataset)
    with pytest.raises(ValueError, match="can't alternate"):
        mixed = VideoTextRun(video_data=shards["video_data"], image_data=[str(parts / "images.json")])
        load_training_clips(mixed, args, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_data": None, "image_data": None}, "No data given"),
        ({"image_root": ["a", "b"]}, "2 roots were given for 1"),
        ({"vision": {"depth": 3}}, "`vision` names depth, which UMTConfig does not have"),
        ({"model": {"mlm_wait": 1}}, "`model` names mlm_wait"),
        ({"base_learning_rate": 1.0}, "give `learning_rate`"),
        ({"contrastive_gradients": "half"}, "`contrastive_gradients` must be one of global, official"),
        ({"num_masks_per_clip": 2}, "num_masks_per_clip"),
        ({"text": "other"}, "vocabulary of .*other has 122 tokens, but the embedding table of the model"),
    ],
)
def test_mistakes_are_reported_before_training(parts, tmp_path, changes, message):
    if "text" in changes:
        changes = {"text": str(parts / changes["text"])}
    with pytest.raises(ValueError, match=message):
        pretrain(recipe_of(parts, tmp_path / "run", **changes), [])


def test_facts_for_the_card(parts):
    videos = str(parts / "videos.json")
    run = VideoTextRun(
        video_data=[videos], image_data=["someone/images"], eval_data=videos, text="bert", license="mit"
    )
    facts = run_facts(run, uses_teacher=True)
    assert facts.data == (videos, "someone/images") and facts.eval_data == "videos.json"
    assert (facts.starts, facts.license) == (("bert",), "mit")
    assert facts.settings == {
        "started from": None,
        "text encoder": "bert",
        "teacher": "openai/clip-vit-large-patch14",
        "pairs that belong together": "of one row",
    }
    facts = run_facts(VideoTextRun(init_from="stage1", text="bert"), uses_teacher=False)
    assert (facts.starts, facts.eval_data, facts.settings["teacher"]) == (("stage1", "bert"), None, None)
