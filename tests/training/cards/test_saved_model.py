"""`umt card FOLDER` and `umt publish FOLDER`: one's own models on a loopback Hub, loaded from there without the
package; incomplete folders are refused."""

import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest
import torch
from finetuning_tools import SIZES, save_clips_of_classes, save_stage1
from hub_server import USER, LoopbackHub
from safetensors.torch import load_file, save_file
from subprocess_tools import run_clean
from tiny_pretraining import make_teacher
from tiny_question_answering import save_tiny, tiny_answerer
from tiny_video_text_retrieval import save_tiny_retrieval_model
from video_files import write_video

from modeling_umt import UMTConfig, UMTForActionDetection, UMTImageTeacherConfig, UMTImageTeacherModel
from processing_umt import UMTVideoProcessor
from umt_training.cli import main
from umt_training.runs.tasks import finetune


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Models of `umt finetune`, full and LoRA, and models that were only saved."""
    root = tmp_path_factory.mktemp("models")
    stage1, clips = save_stage1(root / "stage1"), save_clips_of_classes(root / "clips")
    for preset in ("full", "lora"):
        keys = ["--preset", preset, "--output_dir", str(root / preset), "--num_train_epochs", "1"]
        keys += ["--warmup_epochs", "0", "--eval_share", "0.25", "--dataloader_num_workers", "0"]
        keys += ["--per_device_train_batch_size", "2"]
        finetune("small_data", ["--data", str(clips), "--init_from", str(stage1), *keys])
    save_tiny_retrieval_model(root / "retrieval")
    save_tiny(tiny_answerer(), root / "answerer")
    make_teacher().save_pretrained(root / "teacher")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    UMTImageTeacherModel(UMTImageTeacherConfig(**sizes, image_size=64)).save_pretrained(root / "image_teacher")
    detector = UMTForActionDetection(UMTConfig(**SIZES, num_labels=5))
    detector.save_pretrained(root / "detector")
    UMTVideoProcessor.for_action_detection(detector.config).save_pretrained(root / "detector")
    return root


def own(models: Path, name: str, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(models / name, tmp_path / name)


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


# --- the card -------------------------------------------------------------------------------------------------------


def test_the_card_of_a_run_is_kept_but_for_id_and_licence(models, tmp_path, capsys):
    folder = own(models, "full", tmp_path)
    before = card(folder)
    assert main(["card", str(folder)]) == 0 and card(folder) == before
    assert capsys.readouterr().out == f"{folder / 'README.md'}: up to date\n"
    assert main(["card", str(folder), "--repo-id", "me/clips", "--license", "mit"]) == 0
    assert capsys.readouterr().out == f"{folder / 'README.md'}: updated\n"
    after = card(folder)
    assert 'model="full"' in before and 'model="me/clips"' in after and 'model="full"' not in after
    assert "\nlicense: mit\n" in after and "has not stated a licence" not in after and "\nmit. " in after
    for text in ("Trained on `clips`: 6 videos.", "| preset | full |", "top-1 accuracy, %", "name: full"):
        assert text in before and text in after
    assert main(["card", str(folder), "--repo-id", "me/clips", "--license", "mit"]) == 0 and card(folder) == after


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("full", ["a classifier", "pipeline(", "video-classification", "The evaluation at step 3", "| top1 |"]),
        ("lora", ["a classifier", "PeftModel", "library_name: peft"]),
        ("retrieval", ["a model of videos and texts", "logits_per_video"]),
        ("answerer", ["a question-answering model", "rank_answers", "visual-question-answering"]),
        ("detector", ["UMTForActionDetection", "post_process_action_detection"]),
        ("teacher", ["a teacher", "cls_attention", "single frames of"]),
        ("image_teacher", ["an image teacher of masked modelling", "every second frame", "single frames of 64 x 64"]),
        ("stage1", ["a stage-1 model", "pooler_output"]),
    ],
)
def test_a_model_without_a_card_gets_one(name, texts, models, tmp_path, capsys):
    folder = own(models, name, tmp_path)
    (folder / "README.md").unlink(missing_ok=True)
    assert main(["card", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'README.md'}: written\n"
    for text in [*texts, "The data are not recorded", "has not stated a licence"]:
        assert text in card(folder)
    assert main(["card", str(folder)]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_card_of_someone_else_is_not_changed(models, tmp_path, capsys):
    folder = own(models, "retrieval", tmp_path)
    (folder / "README.md").write_text("# My notes\n")
    assert main(["card", str(folder), "--repo-id", "me/x"]) == 1
    assert "was not written by this package" in capsys.readouterr().err and card(folder) == "# My notes\n"


# --- publishing -----------------------------------------------------------------------------------------------------

LOAD = {
    "full": """
        from transformers import pipeline
        print(pipeline("video-classification", model="REPO", trust_remote_code=True)("clip.mp4")[0]["label"])
    """,
    "lora": None,  # the code of its card
    "detector": None,
    "retrieval": """
        from sentence_transformers import SentenceTransformer
        encoder = SentenceTransformer("REPO", trust_remote_code=True)
        print(encoder.similarity(encoder.encode(["clip.mp4"]), encoder.encode(["a dog"])).shape)
    """,
}


@pytest.mark.parametrize("name", LOAD)
def test_a_published_folder_loads_from_the_hub_without_the_package(name, models, tmp_path):
    folder = own(models, name, tmp_path)
    if not (folder / "README.md").exists():
        assert main(["card", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    repo_id = f"{USER}/{name}"
    with LoopbackHub() as hub:
        code = f"""
        from umt_training.cli import main
        assert main(["publish", {str(folder)!r}, "--repo-id", {repo_id!r}, "--dry-run"]) == 0
        assert main(["publish", {str(folder)!r}, "--repo-id", {repo_id!r}]) == 0
        """
        done = run_clean(code, cwd=tmp_path, env=hub.env(), allow_umt=True)
        assert done.returncode == 0, done.stderr
        assert "dry run, nothing was uploaded" in done.stdout and len(hub.commits(repo_id)) == 2
        files = hub.files(repo_id)
        use = LOAD[name] or files["README.md"].decode().split("```python\n")[1].split("```")[0]
        write_video(tmp_path / "clip.mp4")
        loaded = run_clean(textwrap.dedent(use).replace("REPO", repo_id), cwd=tmp_path, env=hub.env())
        assert loaded.returncode == 0, loaded.stderr
        assert re.fullmatch(r"jump|run|torch\.Size\(\[1, 1\]\)|(0\.50 LABEL_\d\n?){5}", loaded.stdout.strip())
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert f'"{repo_id}"' in files["README.md"].decode()
    assert not any("checkpoint" in path or path.endswith((".bin", ".pt")) or "trainer" in path for path in files)
    local = str(models).encode()
    assert not any(local in content or str(tmp_path).encode() in content for content in files.values())


def spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def diverge(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    next(iter(state.values())).view(-1)[0] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def drop_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["classifier.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def drop_code_map(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))


def add_a_module(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_a_module, "further modules of sentence-transformers, such as 1_Normalize; publish it by Sentence"),
        (lambda folder: (folder / "README.md").unlink(), "it lacks README.md (write it by: umt card "),
        (lambda folder: (folder / "model.safetensors").unlink(), "it lacks model.safetensors."),
        (lambda folder: (folder / "video_preprocessor_config.json").unlink(), "it lacks a processor"),
        (lambda folder: (folder / "pooling_heads_umt.py").unlink(), "it lacks pooling_heads_umt.py."),
        (drop_code_map, "it lacks the model's code"),
        (spoil_weights, "are damaged"),
        (diverge, "non-finite weights in 1 tensors"),
        (drop_a_tensor, "lack 1 tensors, among them classifier.bias."),
    ],
)
def test_an_incomplete_folder_is_refused(spoil, message, models, tmp_path, capsys):
    folder = own(models, "full", tmp_path)
    spoil(folder)
    assert main(["publish", str(folder), "--repo-id", "me/x", "--dry-run"]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("umt publish: ") and message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "FULL", "--repo-id", "x"], "--repo-id is 'x'; expected owner/name."),
        (
            ["publish", "FULL", "--repo-id", "me/x", "--checkpoint", "y.pth"],
            "--checkpoint is for official checkpoints",
        ),
        (["publish", "b16_25m", "--repo-id", "me/x", "--license", "mit"], "--license is for your own model"),
        (["publish", "b16_25", "--repo-id", "me/x"], "did you mean b16_25m?"),
        (["publish", "./nowhere", "--repo-id", "me/x"], "The model folder nowhere does not exist"),
        (["card", "nowhere"], "The model folder nowhere does not exist"),
        (["card", "FULL", "--root", "."], "--root is for build and check"),
        (["card", "check", "--license", "mit"], "--license is for the folder of a model"),
    ],
)
def test_wrong_calls(arguments, message, models, capsys):
    assert main([word.replace("FULL", str(models / "full")) for word in arguments]) == 1
    assert message in capsys.readouterr().err
