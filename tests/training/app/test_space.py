"""The folder of a Space that `umt app --export-space` writes."""

import ast
import importlib.metadata
import json
from types import SimpleNamespace

import pytest
import yaml
from tiny_classifier import save_noise, save_tiny_classifier

from umt_training import cli
from umt_training.app import space

pytest.importorskip("gradio")
PACKAGE = "https://github.com/someone/unmasked-teacher"


def test_a_space_contains_the_command_the_package_the_card_and_local_files(tmp_path, capsys):
    model = save_tiny_classifier(tmp_path / "my classifier")
    save_noise(tmp_path / "clips" / "a.mp4", 0)
    words = ["app", str(model), "--examples", str(tmp_path / "clips"), "--package", PACKAGE]
    assert cli.main([*words, "--export-space", str(tmp_path / "space")]) == 0
    assert str(tmp_path / "space") in capsys.readouterr().out
    written = sorted(path.relative_to(tmp_path / "space").parts[0] for path in (tmp_path / "space").iterdir())
    assert written == ["README.md", "app.py", "examples", "models", "requirements.txt"]
    call = ast.parse((tmp_path / "space" / "app.py").read_text())
    (arguments,) = [ast.literal_eval(node) for node in ast.walk(call) if isinstance(node, ast.List)]
    expected = "app|models/my classifier|--examples|examples|--max-upload|200|--host|0.0.0.0|--port|7860"
    assert arguments == expected.split("|")
    assert (tmp_path / "space" / "models" / "my classifier" / "config.json").is_file()
    requirement = (tmp_path / "space" / "requirements.txt").read_text()
    assert requirement == f"unmasked-teacher[app] @ git+{PACKAGE}\n"
    _, metadata, body = (tmp_path / "space" / "README.md").read_text().split("---\n")
    card = yaml.safe_load(metadata)
    assert card["sdk"] == "gradio" and card["sdk_version"] == importlib.metadata.version("gradio")
    assert card["license"] == "apache-2.0" and card["app_file"] == "app.py" and "models" not in card
    assert "classify, tokens" in body and PACKAGE in body


def test_models_on_the_hub_are_named_in_the_card(tmp_path):
    files = space.SpaceFiles(["someone/umt"], [("--teacher", "openai/clip-vit-base-patch16")])
    folder = space.write_space(tmp_path / "space", files, ["classify"], f"unmasked-teacher[app] @ git+{PACKAGE}")
    card = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert card["models"] == ["someone/umt", "openai/clip-vit-base-patch16"]
    assert '"app", "someone/umt", "--teacher", "openai/clip-vit-base-patch16"' in (folder / "app.py").read_text()


def test_the_package_is_that_of_the_installation_or_must_be_given(monkeypatch):
    facts = json.dumps({"url": PACKAGE, "vcs_info": {"vcs": "git", "commit_id": "0123abc"}})
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: facts))
    assert space.package_requirement(None) == f"unmasked-teacher[app] @ git+{PACKAGE}@0123abc"
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: None))
    with pytest.raises(ValueError, match=r"Git URL of this package is not known.*--package"):
        space.package_requirement(None)
    for wrong in ("unmasked-teacher", "git+file:///etc", "https://a b", ""):
        with pytest.raises(ValueError, match="--package is"):
            space.package_requirement(wrong)


def test_a_space_does_not_replace_files_and_models_of_one_name_are_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        space.write_space(tmp_path / "full", space.SpaceFiles([]), [], "x")
    for parent in ("a", "b"):
        (tmp_path / parent / "model").mkdir(parents=True)
    with pytest.raises(ValueError, match="Two models are called model"):
        names = [str(tmp_path / parent / "model") for parent in ("a", "b")]
        space.write_space(tmp_path / "space", space.SpaceFiles(names), [], "x")
