"""`umt pretrain` from a recipe: interruption and resume, broken videos, shards, mistakes."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import transformers
from packaging import version
from safetensors.torch import load_file
from tiny_pretraining import STUDENT, make_student, make_teacher, write_videos
from video_files import write_broken_videos, write_tar
from warm_python import launch, packages

from umt_training.cli import main
from umt_training.runs.resume import last_checkpoint

STEPS = 24  # three epochs of eight steps


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Path of a tiny recipe with its teacher."""
    folder = tmp_path_factory.mktemp("recipe")
    make_teacher().save_pretrained(folder / "teacher")
    settings = {
        "task": "stage1",
        "teacher": str(folder / "teacher"),
        "model": STUDENT | {"drop_path_rate": 0.3},
        "mask_ratio": 0.75,
        "num_train_epochs": 3,
        "warmup_epochs": 1,
        "base_learning_rate": 0.05,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_steps": 4,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    (folder / "tiny.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return str(folder / "tiny.yaml")


def command(recipe, videos, output_dir, *overrides) -> list[str]:
    return ["pretrain", "--config", recipe, "--data", str(videos), "--output_dir", str(output_dir), *overrides]


def losses(output_dir: Path) -> dict[int, float]:
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    return {line["step"]: line["loss"] for line in history if "loss" in line}


@pytest.fixture(scope="module")
def uninterrupted(recipe, videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(command(recipe, videos, folder)) == 0
    assert losses(folder).keys() == set(range(1, STEPS + 1))
    return folder


@pytest.fixture(scope="module")
def killed(recipe, videos, tmp_path_factory):
    """Folders of two runs, with 0 and with 2 workers, that were killed after their second checkpoint."""
    folders = {workers: tmp_path_factory.mktemp(f"killed-{workers}") for workers in (0, 2)}
    runs = {}
    for workers, folder in folders.items():
        # enough epochs to be killed before the end; the schedule is that of the complete run
        arguments = command(recipe, videos, folder, "--dataloader_num_workers", str(workers))
        output = folder / "output.txt"
        runs[workers] = packages.start(["-m", "umt_training.cli", *arguments], stdout=output, stderr=output)
    limit = time.monotonic() + 200
    while runs:
        for workers, run in list(runs.items()):
            saved = last_checkpoint(str(folders[workers])) or "checkpoint-0"
            if int(saved.rpartition("-")[2]) >= 8:
                run.kill()
                assert run.wait() == -signal.SIGKILL
                del runs[workers]
            else:
                assert run.poll() is None and time.monotonic() < limit, (folders[workers] / "output.txt").read_text()
        time.sleep(0.002)
    for folder in folders.values():
        assert not (folder / "model.safetensors").exists() and not (folder / f"checkpoint-{STEPS}").exists()
        for checkpoint in folder.glob("checkpoint-*"):
            if int(checkpoint.name.partition("-")[2]) > 8:  # as if the signal had come earlier
                shutil.rmtree(checkpoint)
    return folders


def assert_same_run(folder: Path, uninterrupted: Path, rel: float = 1e-6) -> None:
    assert losses(folder) == pytest.approx(losses(uninterrupted), rel=rel)
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, uninterrupted))
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=rel * 100, atol=rel)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("last", [4, 8], ids=["mid-epoch", "between-epochs"])
def test_a_killed_run_resumes_as_if_it_had_not_been_interrupted(
    workers, last, recipe, videos, killed, uninterrupted, tmp_path, capsys
):
    """Equal at every step, stochastic depth included; an incomplete checkpoint is ignored."""
    folder = shutil.copytree(killed[workers], tmp_path / "run")
    if last == 4:
        state = folder / "checkpoint-8" / "trainer_state.json"
        state.write_text(state.read_text()[:50]) if workers else state.unlink()
        (folder / "checkpoint-8" / "optimizer.pt").write_bytes(b"half")
    assert main(command(recipe, videos, folder, "--dataloader_num_workers", str(workers))) == 0
    assert f"resuming from {folder / f'checkpoint-{last}'}\n" in capsys.readouterr().out
    assert_same_run(folder, uninterrupted)
    assert (folder / "README.md").exists() and (folder / "modeling_umt.py").exists()


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"),
    reason="older versions of Trainer cannot load an optimiser's state in several processes on a CPU",
)
def test_a_run_resumes_with_another_number_of_processes(recipe, videos, tmp_path):
    """Without stochastic depth, whose random generator belongs to a process."""
    steady = ("--model", '{"drop_path_rate": 0.0}')
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(command(recipe, videos, one, *steady)) == 0
    shutil.copytree(one / "checkpoint-12", two / "checkpoint-12")
    arguments = command(recipe, videos, two, *steady, "--per_device_train_batch_size", "1")
    done = launch("-m", "umt_training.cli", *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("resuming from") == 1 and "settings: batch 2 processes x 1 clips" in done.stdout
    assert_same_run(two, one, rel=1e-4)


def test_the_output(recipe, videos, tmp_path, capsys):
    assert main(command(recipe, videos, tmp_path, "--num_train_epochs", "1")) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    steps = [f"step {step}/8, epoch {step / 8:.2f}" for step in range(1, 9)]
    assert [line.partition(":")[0] for line in lines[:2]] == ["data", "settings"]
    assert lines.pop(2).startswith("the warm-up takes the whole run")
    assert [line.partition(":")[0] for line in lines[2:10]] == steps
    assert lines[2].startswith("step 1/8, epoch 0.12: loss ") and " left" in lines[2] and "left" not in lines[9]
    assert lines[10].startswith("done in 0:00:")
    assert lines[11:] == [
        f"saved to {tmp_path}: weights, processor, code, the model card {tmp_path / 'README.md'}, and the page "
        f"{tmp_path / 'index.html'}",
        f"next: umt finetune --data CLIPS --init-from {tmp_path} --output-dir NEW",
    ]
    for word in ("warn", "error", "deprecat"):
        assert word not in printed.out.lower() and word not in printed.err.lower(), printed.err


def test_a_fifth_of_the_videos_is_broken(recipe, tmp_path, capsys):
    """Ten kinds of broken files: each is reported with its reason, and with the default limit the run stops."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    expected = write_broken_videos(data)
    write_videos(data, 40)
    arguments = ["--num_train_epochs", "1", "--max_broken_share", "0.5", "--save_strategy", "no"]
    assert main(command(recipe, data, run, *arguments)) == 0
    printed = capsys.readouterr().out
    report = run / "broken_videos" / "epoch-1.jsonl"
    found = [json.loads(line) for line in report.read_text().splitlines()]
    assert {str(data / line["video"]): line["reason"] for line in found} == expected and len(expected) == 10
    attempts = sum(line["attempts"] for line in found)
    assert attempts >= 10 and f"epoch 1: {attempts} attempts to read a video failed and were replaced" in printed
    for reason in set(expected.values()):
        assert reason in printed
    assert len(losses(run)) == 25

    assert main(command(recipe, data, tmp_path / "strict", "--num_train_epochs", "1", "--save_strategy", "no")) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("umt pretrain: ") and "limit of 10%" in said and "umt check-videos" in said


def test_shards(recipe, videos, tmp_path, capsys):
    for shard in range(2):
        paths = sorted(videos.glob("*.mp4"))[shard::2]
        write_tar(tmp_path / f"s-{shard}.tar", [(path.name, path.read_bytes()) for path in paths])
    overrides = ["--samples_per_epoch", "16", "--num_train_epochs", "2", "--dataloader_num_workers", "2"]
    run = tmp_path / "run"
    assert main(command(recipe, f"{tmp_path}/s-{{0..1}}.tar", run, *overrides)) == 0
    assert "16 steps of which 8 warm-up" in capsys.readouterr().out
    whole = losses(run)
    assert whole.keys() == set(range(1, 17)) and all(0.1 < loss < 3 for loss in whole.values())
    # a stream is resumed, too
    for path in [run / "model.safetensors", *run.glob("checkpoint-1?")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "checkpoint-8" / "trainer_state.json").unlink()
    assert main(command(recipe, f"{tmp_path}/s-{{0..1}}.tar", run, *overrides)) == 0
    assert "checkpoint-4\n" in capsys.readouterr().out and losses(run) == pytest.approx(whole, rel=1e-6)


def test_a_run_from_another_model(recipe, videos, tmp_path):
    make_student().save_pretrained(tmp_path / "start")
    arguments = ("--init_from", str(tmp_path / "start"), "--max_steps", "1", "--base_learning_rate", "1e-9")
    assert main(command(recipe, videos, tmp_path / "run", *arguments)) == 0
    weights, start = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "start"))
    for name, tensor in start.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overridden", [False, True])
def test_bf16_of_a_recipe_is_for_accelerators(overridden, recipe, videos, tmp_path, capsys):
    settings = json.loads(Path(recipe).read_text()) | {"bf16": True, "max_steps": 2}
    (tmp_path / "bf16.yaml").write_text(json.dumps(settings))
    overrides = ["--bf16", "true"] if overridden else []
    assert main(command(str(tmp_path / "bf16.yaml"), videos, tmp_path / "run", *overrides)) == 0
    on_cpu = not torch.accelerator.is_available()
    expected = "float32" if on_cpu and not overridden else "bf16 with weights in float32"
    assert f", {expected} on " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--lerning_rate", "1"], "Unknown keys: lerning_rate."),
        (["--num_train_epochs", "many"], "`num_train_epochs` must be a number, but is 'many'"),
        (
            ["--mask_type", "stripes"],
            "`mask_type` must be one of attention, clip_attention, tube, random, motion, but is 'stripes'",
        ),
        (["--model", '{"target_dim": 24}'], "features have 16 channels, but the student's `target_dim` is 24"),
        (["--model", '{"image_size": [64, 32]}'], "square"),
        (["--model", "{image_size: wide}"], "`image_size` of `model` must be an integer or a list, but is 'wide'"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--per_device_train_batch_size", "17"], "16 videos"),
    ],
)
def test_mistakes_are_reported_in_one_line(overrides, message, recipe, videos, tmp_path, capsys):
    assert main(command(recipe, videos, tmp_path / "run", *overrides)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("umt pretrain: ") and message in said


def test_no_data_and_no_recipe(recipe, capsys):
    assert main(["pretrain", "--config", recipe]) == 1
    assert "No `data` given; add it to the recipe, or give --data VALUE." in capsys.readouterr().err
    assert main(["pretrain", "--config", "umt_xxl"]) == 1
    assert "The recipe 'umt_xxl' does not exist" in capsys.readouterr().err


def test_help_states_how_keys_are_given(capsys):
    assert main(["pretrain", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # lines are as wide as the terminal
    assert "--config" in printed and "--estimate" in printed and "--key value" in printed
