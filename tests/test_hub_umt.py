"""UMT models through files and a Hub, loaded in fresh interpreters with and without the package.

Three users: an author with the package saves, pushes, trains and converts; a user without it loads the folders;
another loads by repository id and pushes copies. All must get the author's outputs, without a warning.
"""

import io
import json
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import USER, LoopbackHub
from subprocess_tools import complaints, run_clean

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTImageTeacherConfig,
    UMTImageTeacherModel,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "num_frames": 4,
    "num_aligned_layers": 2,
    "target_dim": 8,
}
TEACHER_SIZES = {
    **{name: SIZES[name] for name in SIZES if name not in ("num_frames", "target_dim")},
    "patch_size": 16,
    "projection_dim": 8,
}
IMAGE_TEACHER_SIZES = {
    name: TEACHER_SIZES[name] for name in TEACHER_SIZES if name not in ("num_aligned_layers", "projection_dim")
}
INTERNVIDEO2_SIZES = SIZES | {"patch_size": 16, "num_pooling_heads": 2, "pooled_size": 8, "final_target_dim": 8}
# The kinds of repository, and the Auto classes that must load each completely.
KINDS = {
    "base": ["AutoModel"],
    "classifier": ["AutoModel", "AutoModelForVideoClassification"],
    "detection": ["AutoModel", "AutoModelForObjectDetection"],
    "pretraining": ["AutoModel", "AutoModelForPreTraining"],
    "masked": ["AutoModel", "AutoModelForPreTraining"],
    "teacher": ["AutoModel"],
    "image_teacher": ["AutoModel"],
    "internvideo2": ["AutoModel", "AutoModelForVideoClassification"],
    "internvideo2_student": ["AutoModel", "AutoModelForPreTraining"],
}
# of which an official file is on the Hub, under its name
OFFICIAL_FILES = {"classifier": "classifier.pth", "pretraining": "b16_ptk710_f8_res224.pth"}
PAIRS = [(kind, auto) for kind, autos in KINDS.items() for auto in autos]
AUTO_MAP = {
    "AutoConfig": "configuration_umt.UMTConfig",
    "AutoModel": "modeling_umt.UMTModel",
    "AutoModelForVideoClassification": "modeling_umt.UMTForVideoClassification",
    "AutoModelForPreTraining": "modeling_umt.UMTForPreTraining",
}
DETECTION_AUTO_MAP = AUTO_MAP | {"AutoModelForObjectDetection": "modeling_umt_action_detection.UMTForActionDetection"}
MASKED_AUTO_MAP = AUTO_MAP | {"AutoModelForPreTraining": "modeling_umt_masked_modeling.UMTForMaskedModeling"}
TEACHER_AUTO_MAP = {
    "AutoConfig": "configuration_umt.UMTTeacherConfig",
    "AutoModel": "modeling_umt_teacher.UMTTeacherModel",
}
IMAGE_TEACHER_AUTO_MAP = {
    "AutoConfig": "configuration_umt_image_teacher.UMTImageTeacherConfig",
    "AutoModel": "modeling_umt_image_teacher.UMTImageTeacherModel",
}
INTERNVIDEO2_AUTO_MAP = {
    "AutoConfig": "configuration_internvideo2_umt.InternVideo2Config",
    "AutoModel": "modeling_internvideo2_umt.InternVideo2Model",
    "AutoModelForVideoClassification": "modeling_internvideo2_umt.InternVideo2ForVideoClassification",
    "AutoModelForPreTraining": "modeling_internvideo2_umt.InternVideo2ForPreTraining",
}
CODE = {
    "alignment_umt.py",
    "configuration_umt.py",
    "modeling_umt.py",
    "objectives_umt.py",
    "pooling_heads_umt.py",
    "position_embeddings_umt.py",
    "remote_code_umt.py",
    "token_selection_umt.py",
    "transformer_block_umt.py",
}
TEACHER_CODE = {
    "configuration_umt.py",
    "modeling_umt_teacher.py",
    "position_embeddings_umt.py",
    "remote_code_umt.py",
    "teacher_forward_umt.py",
    "token_selection_umt.py",
    "transformer_block_umt.py",
    "video_embeddings_umt.py",
}
IMAGE_TEACHER_CODE = {
    "configuration_umt.py",
    "configuration_umt_image_teacher.py",
    "modeling_umt_image_teacher.py",
    "position_embeddings_umt.py",
    "remote_code_umt.py",
    "transformer_block_umt.py",
    "video_embeddings_umt.py",
}
INTERNVIDEO2_CODE = {
    "alignment_umt.py",
    "configuration_internvideo2_umt.py",
    "configuration_umt.py",
    "layers_internvideo2_umt.py",
    "modeling_internvideo2_umt.py",
    "position_embeddings_umt.py",
    "transformer_block_umt.py",
    "video_embeddings_umt.py",
}
CODE_OF = {"teacher": TEACHER_CODE, "image_teacher": IMAGE_TEACHER_CODE}
CODE_OF |= dict.fromkeys(("internvideo2", "internvideo2_student"), INTERNVIDEO2_CODE)
AUTO_MAP_OF = {
    "detection": DETECTION_AUTO_MAP,
    "masked": MASKED_AUTO_MAP,
    "teacher": TEACHER_AUTO_MAP,
    "image_teacher": IMAGE_TEACHER_AUTO_MAP,
    "internvideo2": INTERNVIDEO2_AUTO_MAP,
    "internvideo2_student": INTERNVIDEO2_AUTO_MAP,
}
SHARED_CODE = f"""
import json, torch, transformers
KINDS, USER = {KINDS!r}, {USER!r}

def output(model):
    clip = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = {{"pixel_values_videos": clip}}
    if type(model).__name__ == "UMTForActionDetection":
        inputs["boxes"] = torch.tensor([[[2.0, 3.0, 20.0, 30.0]]] * 2)
    if type(model).__name__ == "UMTForMaskedModeling":
        inputs["visible_indices"] = torch.tensor([[0, 2, 5]] * 2)
    with torch.no_grad():
        result = model.eval()(**inputs)
    if "predictions" in result:
        return result["predictions"]["image"].tolist()
    outputs = ("logits", "student_features", "last_hidden_state", "features")
    return next(result[key] for key in outputs if key in result).tolist()

def load(source, auto, **kwargs):
    config = transformers.AutoConfig.from_pretrained(source, **kwargs)
    model, info = getattr(transformers, auto).from_pretrained(source, output_loading_info=True, **kwargs)
    assert type(config).__name__ == type(model.config).__name__ in (
        "UMTConfig", "UMTTeacherConfig", "UMTImageTeacherConfig", "InternVideo2Config")
    problems = {{key: sorted(map(str, value)) for key, value in info.items() if value}}
    kind = {{"module": type(model).__module__, "class": type(model).__name__, "labels": config.id2label}}
    return model, {{"output": output(model), "problems": problems, **kind}}
"""


def run(code: str, cwd: Path, **kwargs) -> dict:
    """Run `code` in a fresh interpreter; its last line is JSON."""
    result = run_clean(SHARED_CODE + textwrap.dedent(code), cwd=cwd, **kwargs)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]) | {"complaints": complaints(result.stderr)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SimpleNamespace:
    """The Hub after the author has saved, pushed, trained and converted; the folders are below `root`."""
    root = tmp_path_factory.mktemp("hub_umt")
    config = UMTConfig(**SIZES, id2label={0: "clap", 1: "jump", 2: "wave"})
    torch.manual_seed(0)
    models = {"base": UMTModel(config), "classifier": UMTForVideoClassification(config)}
    models["detection"] = UMTForActionDetection(config)
    # a converted stage-1 file has a position table over its own grid
    models["pretraining"] = UMTForPreTraining(UMTConfig(**SIZES, position_grid=[4, 2, 2]))
    targets = {"position_type": "space_time", "masked_targets": {"image": 8, "video": 4}}
    models["masked"] = UMTForMaskedModeling(UMTConfig(**SIZES, **targets))
    models["teacher"] = UMTTeacherModel(UMTTeacherConfig(**TEACHER_SIZES))
    models["image_teacher"] = UMTImageTeacherModel(UMTImageTeacherConfig(**IMAGE_TEACHER_SIZES))
    names = {0: "clap", 1: "jump", 2: "wave"}
    models["internvideo2"] = InternVideo2ForVideoClassification(
        InternVideo2Config(**INTERNVIDEO2_SIZES, id2label=names)
    )
    models["internvideo2_student"] = InternVideo2ForPreTraining(InternVideo2Config(**INTERNVIDEO2_SIZES))
    with torch.no_grad():
        for kind in ("classifier", "detection", "internvideo2"):
            models[kind].classifier.weight.normal_()
    for kind, model in models.items():
        model.save_pretrained(root / kind)
    official = {name: io.BytesIO() for name in OFFICIAL_FILES.values()}
    for kind, name in OFFICIAL_FILES.items():
        torch.save(official_state_dict(models[kind]), official[name])
    with LoopbackHub() as hub:
        hub.create_repo(f"{USER}/official", {name: buffer.getvalue() for name, buffer in official.items()})
        author = run(
            f"""
            from modeling_umt import UMTConfig, convert_umt_checkpoint
            from transformers import Trainer, TrainingArguments

            answer, official_files = {{}}, {OFFICIAL_FILES!r}
            for kind, autos in KINDS.items():
                for auto in autos:
                    model, answer[f"{{kind}} {{auto}}"] = load(f"{root}/{{kind}}", auto)
                model.push_to_hub(kind, commit_message="from the package")
                for auto in autos:
                    model, answer[f"pushed {{kind}} {{auto}}"] = load(f"{{USER}}/{{kind}}", auto)
                if kind in official_files:
                    config = UMTConfig(**{SIZES!r})
                    official = convert_umt_checkpoint(f"{{USER}}/official:{{official_files[kind]}}", config=config)
                    answer[f"official {{kind}}"] = output(official)
            model, _ = load(f"{root}/classifier", "AutoModelForVideoClassification")
            clip = {{"pixel_values_videos": torch.zeros(4, 3, 32, 32), "labels": 1}}
            arguments = TrainingArguments(output_dir="{root}/trained", max_steps=1, save_steps=1, report_to="none",
                                          use_cpu=True, disable_tqdm=True, push_to_hub=True, hub_strategy="end")
            trainer = Trainer(model, arguments, train_dataset=[clip, clip])
            trainer.train()
            trainer.push_to_hub()
            answer["trained"] = output(model)
            print(json.dumps(answer))
            """,
            tmp_path_factory.mktemp("author"),
            env=hub.env(),
            allow_umt=True,
        )
        yield SimpleNamespace(hub=hub, root=root, author=author)


def expected_output(world: SimpleNamespace, kind: str, auto: str) -> torch.Tensor:
    return torch.tensor(world.author[f"{kind} {auto}"]["output"])


def auto_map(kind: str) -> dict[str, str]:
    return AUTO_MAP_OF.get(kind, AUTO_MAP)


def check_loaded(world: SimpleNamespace, loaded: dict, kind: str, auto: str) -> None:
    assert loaded["problems"] == {}
    assert loaded["class"] == auto_map(kind)[auto].split(".")[1]
    if kind in ("classifier", "detection", "internvideo2"):
        assert loaded["labels"] == {"0": "clap", "1": "jump", "2": "wave"}
    torch.testing.assert_close(torch.tensor(loaded["output"]), expected_output(world, kind, auto), rtol=0, atol=1e-6)


def check_repository(files: dict[str, bytes], kind: str) -> None:
    """Weights, code and `auto_map` are complete; `architectures` names the head."""
    code = {target.split(".")[0] + ".py" for target in auto_map(kind).values()} | CODE_OF.get(kind, CODE)
    assert files.keys() >= code | {"config.json", "model.safetensors"}
    config = json.loads(files["config.json"])
    assert config["auto_map"] == auto_map(kind)
    model_types = {"teacher": "umt_teacher", "image_teacher": "umt_image_teacher"}
    model_types |= dict.fromkeys(("internvideo2", "internvideo2_student"), "internvideo2")
    assert config["model_type"] == model_types.get(kind, "umt")
    heads = {"base": "UMTModel", "classifier": "UMTForVideoClassification", "detection": "UMTForActionDetection"}
    heads |= {"pretraining": "UMTForPreTraining", "masked": "UMTForMaskedModeling", "teacher": "UMTTeacherModel"}
    heads |= {"image_teacher": "UMTImageTeacherModel", "internvideo2": "InternVideo2ForVideoClassification"}
    heads |= {"internvideo2_student": "InternVideo2ForPreTraining"}
    assert config["architectures"] == [heads[kind]]


def test_the_author_gets_no_warning(world):
    assert world.author["complaints"] == []


@pytest.mark.parametrize("kind, auto", PAIRS)
def test_with_the_package(world, kind, auto):
    folder, pushed = world.author[f"{kind} {auto}"], world.author[f"pushed {kind} {auto}"]
    check_loaded(world, folder, kind, auto)
    check_loaded(world, pushed, kind, auto)
    module = f"modeling_umt.{auto_map(kind)[auto].split('.')[0]}"  # local code takes precedence over the Hub's
    assert folder["module"] == pushed["module"] == module


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_saving_writes_the_code(world, kind):
    check_repository(files_of(world.root / kind), kind)
    check_repository(world.hub.files(f"{USER}/{kind}"), kind)
    assert [commit.title for commit in world.hub.commits(f"{USER}/{kind}")][1:] == ["from the package"]


def test_trainer_writes_the_code(world):
    check_repository(files_of(world.root / "trained" / "checkpoint-1"), "classifier")
    check_repository(world.hub.files(f"{USER}/trained"), "classifier")


@pytest.mark.parametrize("kind", OFFICIAL_FILES)
def test_official_file_from_the_hub(world, kind):
    converted = torch.tensor(world.author[f"official {kind}"])
    torch.testing.assert_close(converted, expected_output(world, kind, KINDS[kind][-1]), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def folder_user(world, tmp_path_factory) -> dict:
    """A user of the folders without the package and without a network."""
    return run(
        f"""
        answer = {{}}
        for kind, autos in KINDS.items():
            for auto in autos:
                model, answer[f"{{kind}} {{auto}}"] = load(f"{world.root}/{{kind}}", auto, trust_remote_code=True)
            model.save_pretrained(f"{world.root}/again/{{kind}}")
            for auto in autos:
                again, answer[f"again {{kind}} {{auto}}"] = load(
                    f"{world.root}/again/{{kind}}", auto, trust_remote_code=True)
        for source in ("{world.root}/trained/checkpoint-1", "{world.root}/trained"):
            _, answer[source] = load(source, "AutoModelForVideoClassification", trust_remote_code=True)
        print(json.dumps(answer))
        """,
        tmp_path_factory.mktemp("folder_user"),
    )


@pytest.mark.parametrize("kind, auto", PAIRS)
def test_folder_without_the_package(world, folder_user, kind, auto):
    for prefix in ("", "again "):
        check_loaded(world, folder_user[f"{prefix}{kind} {auto}"], kind, auto)
        assert folder_user[f"{prefix}{kind} {auto}"]["module"].startswith("transformers_modules.")
    check_repository(files_of(world.root / "again" / kind), kind)


def test_checkpoint_without_the_package(world, folder_user):
    for source in (f"{world.root}/trained/checkpoint-1", f"{world.root}/trained"):
        assert folder_user[source]["problems"] == {}
        trained = torch.tensor(world.author["trained"])
        torch.testing.assert_close(torch.tensor(folder_user[source]["output"]), trained, rtol=0, atol=1e-6)


def test_the_folder_user_gets_no_warning(folder_user):
    assert folder_user["complaints"] == []


@pytest.fixture(scope="module")
def hub_user(world, tmp_path_factory) -> dict:
    """A user of repository ids and pinned commits, who pushes the loaded models as copies and loads these."""
    commits = {kind: world.hub.commits(f"{USER}/{kind}")[-1].oid for kind in KINDS}
    return run(
        f"""
        answer = {{}}
        for kind, commit in {commits!r}.items():
            for auto in KINDS[kind]:
                model, answer[f"{{kind}} {{auto}}"] = load(
                    f"{{USER}}/{{kind}}", auto, trust_remote_code=True, revision=commit)
            model.push_to_hub(f"again-{{kind}}")
            for auto in KINDS[kind]:
                _, answer[f"again {{kind}} {{auto}}"] = load(
                    f"{{USER}}/again-{{kind}}", auto, trust_remote_code=True)
        print(json.dumps(answer))
        """,
        tmp_path_factory.mktemp("hub_user"),
        env=world.hub.env(),
    )


@pytest.mark.parametrize("kind, auto", PAIRS)
def test_hub_without_the_package(world, hub_user, kind, auto):
    for prefix, name in (("", kind), ("again ", f"again_hyphen_{kind}")):
        check_loaded(world, hub_user[f"{prefix}{kind} {auto}"], kind, auto)
        assert hub_user[f"{prefix}{kind} {auto}"]["module"].startswith(f"transformers_modules.{USER}.{name}.")
    check_repository(world.hub.files(f"{USER}/again-{kind}"), kind)


def test_hub_user_heard_no_complaint(hub_user):
    assert hub_user["complaints"] == []
