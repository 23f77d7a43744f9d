"""`umt publish`: tiny checkpoints of every kind are uploaded by the real client to a loopback Hub and loaded by their
ids, with and without the package; a file that does not fit its row is rejected before anything is uploaded."""

import dataclasses
import io
import json
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import USER, LoopbackHub
from subprocess_tools import run_clean
from tiny_registry import (
    STAND_INS,
    files_of,
    official_state,
    tiny_bert,
    tiny_clip,
    use_registry,
    write_tiny_registry,
)
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForVideoClassification, AutoVideoProcessor
from video_files import write_video

from modeling_umt import convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.labels_umt import load_labels
from umt_training.cards.card_template import CARDS_FOLDER
from umt_training.cards.checkpoint_registry import (
    INTERNVIDEO2_KINDS,
    VIDEO_TEXT_KINDS,
    checkpoint_row,
    read_registry,
    row_config,
)
from umt_training.cards.publishing import build_repository
from umt_training.cli import main

OFFICIAL = f"{USER}/official"
# Auto classes of each kind, that of the row's class first. AutoModel needs projections, which answering has not.
AUTO_CLASSES = {
    "teacher": ["AutoModel"],
    "stage1": ["AutoModelForPreTraining", "AutoModel"],
    "classification": ["AutoModelForVideoClassification", "AutoModel"],
    "detection": ["AutoModelForObjectDetection", "AutoModel"],
    "stage2": ["AutoModelForPreTraining", "AutoModel"],
    "retrieval": ["AutoModel"],
    "question_answering": ["AutoModelForVisualQuestionAnswering"],
    "internvideo2_student": ["AutoModelForPreTraining", "AutoModel"],
    "internvideo2_classification": ["AutoModelForVideoClassification", "AutoModel"],
}
# of the weights for which none is stated
LICENCE = ["--license", "other"]
PUBLISH = """
from pathlib import Path
import umt_training.cards.checkpoint_registry as registry
import umt_training.cards.publishing as publishing
from umt_training.cli import main

registry.CARDS_FOLDER = Path({folder!r})
publishing.MAX_SHARD_SIZE = {shards!r}
"""
OUTPUTS = """
import json, torch, transformers

def outputs(model):
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(2, 4, 3, 32, 32, generator=generator)
    tokens = torch.tensor([[101, 104, 105, 0], [101, 106, 107, 108]])
    options = {"input_ids": tokens, "attention_mask": (tokens > 0).long()} if "text_config" in model.config else {}
    if type(model).__name__ == "UMTForActionDetection":
        options = {"boxes": torch.tensor([[[2.0, 3.0, 20.0, 30.0], [9.0, 1.0, 31.0, 18.0]]] * 2)}
    if type(model).__name__ == "UMTForVideoQuestionAnswering":
        answers = torch.tensor([[101, 104, 102], [101, 105, 102]])
        return model.rank_answers(**options, pixel_values_videos=clip, candidate_ids=answers)[1]
    if type(model).__name__ == "UMTForVideoTextPreTraining":
        model = model.video_text
    with torch.no_grad():
        result = model.eval()(pixel_values_videos=clip, **options)
    names = ("logits", "student_features", "features", "logits_per_video", "last_hidden_state")
    return next(result[name] for name in names if name in result)

def load(source, auto, **kwargs):
    model, info = getattr(transformers, auto).from_pretrained(source, output_loading_info=True, **kwargs)
    problems = {key: sorted(map(str, value)) for key, value in info.items() if value}
    return {"class": type(model).__name__, "problems": problems, "outputs": outputs(model.eval()).tolist()}
"""


def publish(hub: LoopbackHub, folder: Path, cwd: Path, commands: list[list[str]], shards: str = "1GB"):
    """Run `umt publish` with each list of arguments in one new process, which prints the exit codes last."""
    code = PUBLISH.format(folder=str(folder), shards=shards) + textwrap.dedent(
        f"""
        import json
        print(json.dumps([main(["publish", *arguments]) for arguments in {commands!r}]))
        """
    )
    cwd.mkdir(parents=True, exist_ok=True)
    return run_clean(code, cwd=cwd, env=hub.env(), allow_umt=True)


def exit_codes(result) -> list[int]:
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The Hub after every tiny checkpoint was published, and the official weights of each."""
    root = tmp_path_factory.mktemp("publishing")
    folder = write_tiny_registry(root / "registry", USER)
    with pytest.MonkeyPatch.context() as patch:
        use_registry(patch, folder)
        official, files = {}, {}
        for kind, name in STAND_INS.items():
            if kind == "teacher":
                continue
            official[name] = official_state(name)
            buffer = io.BytesIO()
            torch.save({"model": official[name]} if kind == "question_answering" else official[name], buffer)
            files[checkpoint_row(name).official_file] = buffer.getvalue()
    with LoopbackHub() as hub:
        hub.create_repo(OFFICIAL, files)
        hub.create_repo(f"{USER}/clip", files_of(tiny_clip(root / "clip")))
        hub.create_repo(f"{USER}/bert", files_of(tiny_bert(root / "bert")))
        commands = [
            [name, "--repo-id", f"{USER}/{name}", *(LICENCE if kind in INTERNVIDEO2_KINDS else [])]
            for kind, name in STAND_INS.items()
        ]
        result = publish(hub, folder, root / "author", commands)
        assert result.returncode == 0, result.stderr
        assert exit_codes(result) == [0] * len(commands), result.stderr
        yield SimpleNamespace(hub=hub, root=root, folder=folder, official=official, result=result)


# --- published repositories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STAND_INS)
def test_a_repository_is_complete_and_uploaded_in_one_commit(world, kind):
    name = STAND_INS[kind]
    files = world.hub.files(f"{USER}/{name}")
    titles = [commit.title for commit in world.hub.commits(f"{USER}/{name}")]
    assert titles == ["initial commit", f"{name}, converted from the official checkpoint"]
    models = {"teacher": "modeling_umt_teacher.py"} | dict.fromkeys(INTERNVIDEO2_KINDS, "modeling_internvideo2_umt.py")
    code = {"configuration_umt.py", models.get(kind, "modeling_umt.py")}
    assert code | {"README.md", "config.json", "model.safetensors"} <= files.keys()
    built = {path.relative_to(CARDS_FOLDER / name).as_posix() for path in (CARDS_FOLDER / name).rglob("*.*")}
    assert {path for path in built if (CARDS_FOLDER / name / path).is_file()} <= files.keys()
    card = files["README.md"].decode()
    assert f'"{USER}/{name}"' in card and "your-name" not in card
    assert "Converted" in card and re.search(r"\| torch \| \d", card)
    if kind != "teacher":
        sha256 = re.search(r"with the SHA-256 `(\w{64})`", card)[1]
        assert f"SHA-256 {sha256} (not checked: the registry does not contain it)" in world.result.stdout
    if kind in VIDEO_TEXT_KINDS:
        assert {"tokenizer.json", "processor_config.json", "processing_umt.py"} <= files.keys()
    has_vectors = kind not in ("teacher", "detection", "question_answering")
    assert has_vectors == ("sentence_bert_config.json" in files) == ("modules.json" in files)


@pytest.fixture(scope="module")
def loaded(world, tmp_path_factory) -> dict:
    """Outputs of the published repositories loaded by their ids, with (True) and without (False) the package, and the
    output of the code on their cards without the package."""
    answers = {}
    for with_package in (True, False):
        code = OUTPUTS + textwrap.dedent(
            f"""
            options = {{}} if {with_package} else {{"trust_remote_code": True}}
            if {with_package}:
                import modeling_umt
            answer = {{}}
            for kind, name in {STAND_INS!r}.items():
                for auto in {AUTO_CLASSES!r}[kind]:
                    answer[f"{{kind}} {{auto}}"] = load(f"{USER}/{{name}}", auto, **options)
            print(json.dumps(answer))
            """
        )
        if not with_package:
            cards = (world.hub.files(f"{USER}/{name}")["README.md"].decode() for name in STAND_INS.values())
            code += "\n".join(map(snippet, cards))
        cwd = tmp_path_factory.mktemp("user")
        write_video(cwd / "clip.mp4")
        result = run_clean(code, cwd=cwd, env=world.hub.env(), allow_umt=with_package)
        assert result.returncode == 0, result.stderr
        line, *printed = [line for line in result.stdout.splitlines() if line]
        answers[with_package] = json.loads(line)
    return answers | {"printed": "\n".join(printed)}


@pytest.mark.parametrize("kind", STAND_INS)
def test_a_repository_loads_completely_with_and_without_the_package(world, loaded, kind, monkeypatch):
    """The outputs are equal, and equal to those of the official weights."""
    for auto in AUTO_CLASSES[kind]:
        ours, theirs = (loaded[with_package][f"{kind} {auto}"] for with_package in (True, False))
        assert ours["class"] == theirs["class"] and ours["outputs"] == theirs["outputs"]
        # AutoModel ignores a head
        assert {"missing_keys", "mismatched_keys"}.isdisjoint(ours["problems"] | theirs["problems"])
    ours = loaded[True][f"{kind} {AUTO_CLASSES[kind][0]}"]
    assert ours["class"] == checkpoint_row(STAND_INS[kind]).model_class.__name__ and ours["problems"] == {}
    if kind != "teacher":
        use_registry(monkeypatch, world.folder)
        expected = expected_outputs(world.official[STAND_INS[kind]], STAND_INS[kind])
        torch.testing.assert_close(torch.tensor(ours["outputs"]), expected, rtol=0, atol=1e-5)


def expected_outputs(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Outputs of a model that this process converts from the official weights."""
    scope: dict = {}
    exec(OUTPUTS, scope)
    return scope["outputs"](convert_umt_checkpoint(state, config=row_config(checkpoint_row(name))).eval())


def snippet(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def test_code_on_the_cards_runs_without_the_package(loaded):
    for text in ("torch.Size([1, 6, 16, 8])", "torch.Size([1, 16])", "\n(1, 16)\n", "'label'", "tensor([["):
        assert text in loaded["printed"]
    actions = re.findall(r"^[01]\.\d\d (.+)$", loaded["printed"], re.MULTILINE)
    assert len(actions) == 5 and set(actions) <= set(load_labels("ava"))
    assert re.search(r"^(dog|cat|guitar) 0\.\d", loaded["printed"], re.MULTILINE)


def test_every_card_has_the_code_that_was_run(world):
    run = {
        kind: snippet(world.hub.files(f"{USER}/{name}")["README.md"].decode()).replace(f"{USER}/{name}", "ID")
        for kind, name in STAND_INS.items()
    }
    run["mvd"] = run["everest"] = run["tower"] = run["stage1"]
    for name, row in ((name, checkpoint_row(name)) for name in read_registry()["checkpoints"]):
        card = (CARDS_FOLDER / name / "README.md").read_text()
        assert snippet(card).replace(f"your-name/{name}", "ID") == run[row.kind]


# --- the upload -----------------------------------------------------------------------------------------------------


def puts(hub: LoopbackHub, repo_id: str) -> list[tuple[str, int]]:
    return [(r.path, r.status) for r in hub.requests if r.method == "PUT" and f"/{repo_id}/" in r.path]


def test_an_interrupted_upload_resumes(world, tmp_path):
    """The third shard is refused and the process ends; the second run sends only the missing shards, in one commit."""
    repo_id, name = f"{USER}/interrupted", STAND_INS["question_answering"]
    world.hub.inject("PUT", "/lfs-storage/.*interrupted", 403, nth=3)
    command = [[name, "--repo-id", repo_id]]
    broken = publish(world.hub, world.folder, tmp_path / "first", command, shards="8KB")
    assert broken.returncode != 0 or exit_codes(broken) != [0]
    assert len(world.hub.commits(repo_id)) == 1 and world.hub.files(repo_id) == {}  # nothing is visible
    there = {path for path, status in puts(world.hub, repo_id) if status == 200}
    assert len(there) >= 2

    world.hub.requests.clear()
    again = publish(world.hub, world.folder, tmp_path / "second", command, shards="8KB")
    assert again.returncode == 0 and exit_codes(again) == [0], again.stderr
    sent = [path for path, status in puts(world.hub, repo_id)]
    shards = [path for path in world.hub.files(repo_id) if path.endswith(".safetensors")]
    assert len(shards) >= 4 and not there & set(sent)
    assert len(sent) == len(set(sent)) == len(shards) - len(there)
    assert len(world.hub.commits(repo_id)) == 2


@pytest.fixture(scope="module")
def uploads_nothing(world, tmp_path_factory) -> SimpleNamespace:
    """A dry run, a truncated file and an unknown row: none of them may write to the Hub."""
    cwd = tmp_path_factory.mktemp("uploads-nothing")
    damaged = cwd / "official.pth"
    damaged.write_bytes(world.hub.files(OFFICIAL)[checkpoint_row(STAND_INS["stage1"]).official_file])
    truncated(damaged)
    commands = [
        [STAND_INS["classification"], "--dry-run"],
        [STAND_INS["stage1"], "--checkpoint", str(damaged)],
        ["b16_99m"],
    ]
    before = len(world.hub.requests)
    result = publish(world.hub, world.folder, cwd, [[*command, "--repo-id", f"{USER}/never"] for command in commands])
    return SimpleNamespace(cwd=cwd, result=result, requests=world.hub.requests[before:])


def test_a_dry_run_creates_the_folder(world, uploads_nothing):
    name, printed = STAND_INS["classification"], uploads_nothing.result.stdout
    assert exit_codes(uploads_nothing.result)[0] == 0
    assert f"dry run, nothing was uploaded to {USER}/never" in printed
    assert "model.safetensors  " in printed and "README.md  " in printed
    created, published = files_of(uploads_nothing.cwd / name), world.hub.files(f"{USER}/{name}")
    assert created.keys() == published.keys()
    # the card contains the id of the repository
    assert {path for path in created if created[path] != published[path]} == {"README.md"}


def test_nothing_is_uploaded(uploads_nothing):
    assert exit_codes(uploads_nothing.result)[1:] == [1, 1]
    for message in ("truncated", "has no checkpoint 'b16_99m'"):
        assert message in uploads_nothing.result.stderr
    assert {request.method for request in uploads_nothing.requests} <= {"GET", "HEAD"}
    assert not any("never" in request.path for request in uploads_nothing.requests)


# --- rejected files -------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(world, monkeypatch):
    use_registry(monkeypatch, world.folder)
    return world


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def change(path: Path, spoil) -> None:
    state = torch.load(path, weights_only=True)
    spoil(state)
    torch.save(state, path)


def one_key_more(path: Path) -> None:
    change(path, lambda state: state.update(surplus=torch.zeros(1)))


def one_key_less(path: Path) -> None:
    change(path, lambda state: state.pop(next(key for key in state if key.endswith("norm2.bias"))))


def wrong_shape(path: Path) -> None:
    key = "blocks.0.mlp.fc1.bias"
    change(path, lambda state: state.update({next(k for k in state if k.endswith(key)): torch.zeros(33)}))


def not_finite(path: Path) -> None:
    change(
        path, lambda state: next(value for key, value in state.items() if "fc2.weight" in key)[0].fill_(float("nan"))
    )


FAULTS = {
    truncated: "was refused: .*truncated",
    one_key_more: r"Unexpected keys \(1\): surplus",
    one_key_less: r"Missing keys \(1\): .*norm2\.bias",
    wrong_shape: r"Misshaped keys \(1\): .*fc1\.bias \(33,\) instead of \(32,\)",
    not_finite: "non-finite weights in 1 tensors, among them .*mlp.fc2.weight",
}


@pytest.mark.parametrize("kind", ["stage1", "classification", "stage2"])
@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_damaged_file_is_rejected(tiny, tmp_path, kind, spoil):
    name = STAND_INS[kind]
    path = tmp_path / "official.pth"
    torch.save(tiny.official[name], path)
    spoil(path)
    with pytest.raises(ValueError, match=FAULTS[spoil]):
        build_repository(checkpoint_row(name), tmp_path / "folder", f"{USER}/x", str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["official.pth"]


def test_an_intact_file_of_another_row_is_rejected(tiny, tmp_path):
    path, folder = str(tmp_path / "official.pth"), tmp_path / "folder"

    def rejected(name: str, message: str, **row) -> None:
        with pytest.raises(ValueError, match=message):
            build_repository(dataclasses.replace(checkpoint_row(name), **row), folder, f"{USER}/x", path)
        assert not folder.exists()

    stage1, classifier = STAND_INS["stage1"], STAND_INS["classification"]
    torch.save(tiny.official[classifier], path)
    rejected(stage1, "another kind than b16_ptk710_f8_res224: it contains a UMTForVideoClassification")
    rejected(classifier, "does not fit the row .*: id2label is ", classes=700, labels=None)
    rejected(classifier, "does not fit its configuration.*Misshaped", config={"hidden_size": 32})
    rejected(classifier, "SHA-256 is [0-9a-f]{64}, the registry's 0000", sha256="0" * 64)
    rejected(STAND_INS["detection"], "another kind than .*ftava.*: it contains a UMTForVideoClassification")
    torch.save(tiny.official[STAND_INS["retrieval"]], path)
    rejected(STAND_INS["stage2"], "another kind than b16_25m: it contains a UMTVideoTextModel")
    with pytest.raises(FileNotFoundError, match=r"give the path of single_modality/b16_ptk710_f8_res224\.pth"):
        build_repository(checkpoint_row(stage1), folder, f"{USER}/x", str(tmp_path / "nothing.pth"))
    folder.mkdir()
    with pytest.raises(ValueError, match="exists already"):
        build_repository(checkpoint_row(stage1), folder, f"{USER}/x", path)


# --- checkpoints that are not on the Hub ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["everest_b16_ucf101", "everest_b16_ucf101_finetuned"])
def test_a_model_of_everest_is_published_from_a_local_file(name, tmp_path, monkeypatch, capsys):
    use_registry(monkeypatch, write_tiny_registry(tmp_path / "registry", USER))
    state = official_state(name)
    key = "model" if name == "everest_b16_ucf101" else "module"
    torch.save({key: state}, tmp_path / "checkpoint.pth")
    dry_run = ["publish", name, "--repo-id", f"{USER}/x", "--dry-run", "--output", str(tmp_path / "built")]
    dry_run += ["--checkpoint", str(tmp_path / "checkpoint.pth")]
    assert main(dry_run) == 1
    assert f"Licence of the weights of {name}: none stated. Publish them only if" in capsys.readouterr().err
    assert main([*dry_run, "--license", "other"]) == 0
    assert f"{name}: licence other" in capsys.readouterr().out
    auto_class = AutoModelForPreTraining if key == "model" else AutoModelForVideoClassification
    model, info = auto_class.from_pretrained(tmp_path / "built", output_loading_info=True)
    assert not any(info.values()) and model.config.motion_drop_ratio == (0.0 if key == "model" else 0.4)
    assert all(torch.equal(tensor, state[key]) for key, tensor in official_state_dict(model).items())
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "built")
    assert (processor.sampling, processor.frame_stride) == ("strided", 4)


def test_a_student_of_mvd_is_published_from_a_local_file_with_its_licence(tmp_path, monkeypatch, capsys):
    name = "mvd_s16_from_b16"
    use_registry(monkeypatch, write_tiny_registry(tmp_path / "registry", USER))
    dry_run = ["publish", name, "--repo-id", f"{USER}/x", "--dry-run", "--output", str(tmp_path / "built")]
    assert main(dry_run) == 1
    error = capsys.readouterr().err
    assert "is not on the Hub; download it from the page https://github.com/ruiwang2021/mvd" in error
    assert not (tmp_path / "built").exists()

    state = official_state(name)
    torch.save({"model": state, "epoch": 399}, tmp_path / "checkpoint-399.pth")
    assert main([*dry_run, "--checkpoint", str(tmp_path / "checkpoint-399.pth")]) == 0
    assert f"{name}: licence CC BY-NC 4.0 (no commercial use)" in capsys.readouterr().out
    card = (tmp_path / "built" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "CC BY-NC 4.0" in card and "arXiv 2212.04500" in card
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "built", output_loading_info=True)
    assert type(model).__name__ == "UMTForMaskedModeling" and not any(info.values())
    assert all(torch.equal(tensor, state[key]) for key, tensor in official_state_dict(model).items())
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "built")
    inputs = processor(torch.zeros(100, 3, 40, 48, dtype=torch.uint8), return_tensors="pt")
    encoder = AutoModel.from_pretrained(tmp_path / "built")  # as in the code of the card
    assert encoder(**inputs).pooler_output.shape == (1, 16)

    config = row_config(checkpoint_row(name))
    config.save_pretrained(tmp_path / "config")
    file, folder = tmp_path / "checkpoint-399.pth", tmp_path / "converted"
    assert main(["convert", str(file), str(folder), "--config", str(tmp_path / "config")]) == 0
    assert "the licence of MVD's official files is CC BY-NC 4.0" in capsys.readouterr().out


def test_weights_without_a_stated_licence_are_published_only_with_one(tmp_path, monkeypatch, capsys):
    name, stated = STAND_INS["internvideo2_classification"], STAND_INS["stage1"]
    use_registry(monkeypatch, write_tiny_registry(tmp_path / "registry", USER))
    torch.save(official_state(name), tmp_path / "pytorch_model.bin")
    command = ["publish", name, "--repo-id", f"{USER}/x", "--dry-run", "--output", str(tmp_path / "built")]
    command += ["--checkpoint", str(tmp_path / "pytorch_model.bin")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"Licence of the weights of {name}: none stated" in error and "give the licence as --license" in error
    assert not (tmp_path / "built").exists()
    assert main([*command, "--license", "apache-2.0"]) == 0
    assert f"{name}: licence apache-2.0" in capsys.readouterr().out
    card = (tmp_path / "built" / "README.md").read_text()
    assert "license: apache-2.0" in card and "Published as `apache-2.0`" in card
    assert "None is stated for the weights" in card
    assert main(["publish", stated, "--repo-id", f"{USER}/x", "--dry-run", "--license", "mit"]) == 1
    assert f"the licence of {stated} is that of its row, mit" in capsys.readouterr().err

    config = row_config(checkpoint_row(name))
    config.save_pretrained(tmp_path / "config")
    command = ["convert", str(tmp_path / "pytorch_model.bin"), str(tmp_path / "converted")]
    assert main([*command, "--config", str(tmp_path / "config")]) == 0
    assert "the licence of InternVideo2's official files is none stated" in capsys.readouterr().out

    unknown = "internvideo2_1b_k700"  # the name of its file is not known
    assert main(["publish", unknown, "--repo-id", f"{USER}/x", "--dry-run", *LICENCE]) == 1
    assert f"The name of the file of {unknown} in OpenGVLab/InternVideo2" in capsys.readouterr().err


def test_the_vision_tower_is_published_from_a_file_with_all_blocks(tmp_path, monkeypatch, capsys):
    use_registry(monkeypatch, write_tiny_registry(tmp_path / "registry", USER))
    row = checkpoint_row("umt_l16_tower")
    rows = read_registry()["checkpoints"]
    rows[row.name]["config"] = {"num_hidden_layers": 5}
    stage1 = official_state(STAND_INS["stage1"])  # of six blocks
    torch.save(stage1, tmp_path / row.file)
    folder = tmp_path / "built"
    build_repository(checkpoint_row(row.name), folder, f"{USER}/x", str(tmp_path / row.file))
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "UMTModel" and len(model.layers) == 5 and not any(info.values())
    assert (model.config.single_frame, model.config.final_norm_eps) == ("first", 1e-12)
    assert torch.equal(model.norm.weight, stage1["encoder.norm.weight"])
    assert not AutoVideoProcessor.from_pretrained(folder).do_center_crop

    config = row_config(checkpoint_row(STAND_INS["stage1"]))
    config.save_pretrained(tmp_path / "config")
    command = ["convert", str(tmp_path / row.file), str(tmp_path / "x"), "--config", str(tmp_path / "config")]
    assert main(command) == 0
    assert "the licence of umt_l16_tower is Apache-2.0" in capsys.readouterr().out


def test_a_shortened_revision_is_resolved_to_the_commit(tmp_path):
    with LoopbackHub() as hub:
        commits = [hub.create_repo(OFFICIAL, {"a.bin": bytes([i])}) for i in range(2)]
        code = f"""
from umt_training.cards.publishing import full_revision

print(*[full_revision({OFFICIAL!r}, commit[:7]) for commit in {commits!r}])
full_revision({OFFICIAL!r}, "zzzzzzz")
"""
        result = run_clean(code, cwd=tmp_path, env=hub.env(), allow_umt=True)
    assert result.stdout.split() == commits
    assert f"ValueError: {OFFICIAL} has no commit zzzzzzz, to which the registry pins" in result.stderr
