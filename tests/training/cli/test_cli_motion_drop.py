"""`--motion-drop-ratio` of the commands: it reaches the model's configuration, or the command refuses it."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from tiny_classifier import (
    CLASSES,
    save_class_folders,
    save_noise,
    save_tiny_classifier,
    tiny_classifier,
    tiny_processor,
)
from tiny_video_text_retrieval import save_tiny_retrieval_model
from transformers import AutoModel, AutoModelForVideoClassification, ViTConfig, ViTForImageClassification

from umt_training import cli
from umt_training.cli import ask, classify, embed, evaluate, search
from umt_training.cli.arguments import load_model, load_video_text_model
from umt_training.model_sources import CLASSIFIER, ENCODERS


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_tiny_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "retrieval")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(2):
        save_noise(folder / f"{number}.mp4", number, 6, 32, 48)
    return folder


def loading_arguments(model: Path, ratio: float | None, **more) -> argparse.Namespace:
    options = {"device": "cpu", "dtype": None, "trust_remote_code": False, "motion_drop_ratio": ratio}
    return argparse.Namespace(model=str(model), **options | more)


@pytest.mark.parametrize("command", [classify, embed, evaluate, search, ask])
def test_commands_that_encode_videos_take_the_option(command):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    [option] = [action for action in parser._actions if action.dest == "motion_drop_ratio"]
    assert option.default is None and option.type is float


@pytest.mark.parametrize("ratio", [None, 0.0, 0.4])
def test_the_ratio_is_in_the_configuration_of_the_video_encoder(classifier, retrieval, ratio):
    model = load_model(AutoModelForVideoClassification, loading_arguments(classifier, ratio), CLASSIFIER, "classify")
    encoder = load_model(AutoModel, loading_arguments(classifier, ratio), ENCODERS, "embed")
    search_model, _ = load_video_text_model(loading_arguments(retrieval, ratio), "search")
    configs = [model.config, encoder.config, search_model.config.vision_config, search_model.vision_model.config]
    assert [config.motion_drop_ratio for config in configs] == [ratio or 0.0] * 4
    assert search_model.config.vision_config.num_frames == 2  # other fields are those of the file


def test_an_adapter_drops_tokens_of_its_base(classifier, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForVideoClassification.from_pretrained(classifier)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    model = load_model(AutoModelForVideoClassification, loading_arguments(tmp_path, 0.4), CLASSIFIER, "classify")
    assert model.config.motion_drop_ratio == 0.4
    assert model.umt(torch.randn(1, 4, 3, 32, 32)).last_hidden_state.shape[1] == 9  # of 16


def test_classify_prints_the_scores_of_fewer_tokens(classifier, videos, capsys):
    printed = {}
    for ratio in ("0", "0.6"):
        assert (
            cli.main(["classify", str(videos), "--model", str(classifier), "--json", "--motion-drop-ratio", ratio])
            == 0
        )
        printed[ratio] = json.loads(capsys.readouterr().out)
    model = tiny_classifier(motion_drop_ratio=0.6).eval()
    for result in printed["0.6"]:
        with torch.no_grad():
            clip = tiny_processor()(result["video"], return_tensors="pt")["pixel_values_videos"]
            best = model(clip).logits.softmax(-1)[0].topk(5)
        assert [entry["label"] for entry in result["predictions"]] == [CLASSES[index] for index in best.indices]
        scores = torch.tensor([entry["score"] for entry in result["predictions"]])
        torch.testing.assert_close(scores, best.values, rtol=1e-4, atol=1e-5)
    assert printed["0"] != printed["0.6"]


def test_evaluate_keeps_results_of_other_ratios_apart(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = save_class_folders(tmp_path / "data", num_videos=2)
    command = ["evaluate", "--model", str(classifier), "--data", str(data), "--clips", "1", "--crops", "1"]
    command += ["--num-workers", "0", "--device", "cpu"]
    for option in ([], ["--motion-drop-ratio", "0.4"]):
        assert cli.main([*command, *option]) == 0
    folders = sorted((tmp_path / "evaluation").iterdir())
    assert [folder.name for folder in folders] == ["classifier-data-1x1", "classifier-data-1x1-drop0.4"]
    models = [json.loads((folder / "results.json").read_text())["model"] for folder in folders]
    assert "motion_drop_ratio" not in models[0]
    assert (models[1]["motion_drop_ratio"], models[1]["motion_groups"]) == (0.4, 1)


def test_an_index_keeps_its_ratio(retrieval, videos, tmp_path, capsys):
    command = ["search", "a dog", str(videos), "--index", str(tmp_path / "index"), "--model", str(retrieval)]
    command += ["--num-workers", "0", "--device", "cpu", "--json"]
    assert cli.main([*command, "--motion-drop-ratio", "0.4"]) == 0
    first = capsys.readouterr()
    for options in (["--motion-drop-ratio", "0.4"], []):  # without the option, that of the index
        assert cli.main([*command, *options]) == 0
        again = capsys.readouterr()
        assert again.out == first.out and "indexed" not in again.err
    assert cli.main([*command, "--motion-drop-ratio", "0"]) == 1
    message = capsys.readouterr().err
    assert "created with --motion-drop-ratio 0.4, not 0;" in message and len(message.strip().splitlines()) == 1


@pytest.mark.parametrize("ratio", ["1", "-0.1", "nan", "40"])
def test_a_ratio_out_of_range_is_refused_in_one_line(classifier, videos, ratio, capsys):
    code = cli.main(["classify", str(videos), "--model", str(classifier), f"--motion-drop-ratio={ratio}"])
    message = capsys.readouterr().err.strip()
    assert code == 1 and len(message.splitlines()) == 1
    assert f"--motion-drop-ratio is {float(ratio)}; expected a fraction of at least 0 and less than 1." in message


def test_models_of_other_families_are_refused(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"--motion-drop-ratio is for UMT and InternVideo2 models; .* type 'vit'"):
        load_model(AutoModel, loading_arguments(tmp_path, 0.4), ENCODERS, "embed")


def test_a_model_that_needs_all_tokens_is_refused_before_videos_are_read(videos, tmp_path, capsys):
    save_tiny_classifier(tmp_path, pooling="frames")
    assert cli.main(["classify", str(videos), "--model", str(tmp_path), "--motion-drop-ratio", "0.4"]) == 1
    assert '`pooling="frames"` requires all tokens of a clip' in capsys.readouterr().err
    command = ["evaluate", "--task", "detection", "--data", str(videos), "--motion-drop-ratio", "0.4"]
    assert cli.main(command) == 1
    assert "--motion-drop-ratio is not for --task detection" in capsys.readouterr().err
