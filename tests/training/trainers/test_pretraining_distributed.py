"""Stage 1 on two gloo processes equals stage 1 on one: DDP in the trainer, manual FSDP2, non-finite losses, streams.

One launch trains all cases (`tests/helpers/tiny_pretraining.py`), because starting Python costs more than training.
"""

import json
from pathlib import Path

import pytest
import torch
from tiny_pretraining import (
    CASES,
    GLOBAL_BATCH,
    REPOSITORY,
    PoisonedClips,
    make_student,
    run_case,
    some_clips,
    step_loss,
    write_videos,
)
from video_files import write_tar
from warm_python import launch

from umt_training.data.video_records import load_video_records
from umt_training.data.video_stream import name_hash


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = write_videos(tmp_path_factory.mktemp("videos"))
    (folder / "shards").mkdir()
    for shard in range(4):
        paths = sorted(folder.glob("*.mp4"))[shard::4]
        write_tar(folder / "shards" / f"s-{shard}.tar", [(path.name, path.read_bytes()) for path in paths])
    return folder


@pytest.fixture(scope="module")
def two_processes(videos, tmp_path_factory):
    """The folder with the results of two processes for every case."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(
        str(REPOSITORY / "tests" / "helpers" / "tiny_pretraining.py"), str(videos), str(folder), *CASES, "sharded"
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


def results(folder: Path, case: str) -> list[dict]:
    return [json.loads((folder / case / f"result-{process}.json").read_text()) for process in range(2)]


@pytest.mark.parametrize("case", [case for case in CASES if case != "stream"])
def test_two_processes_train_as_one(case, videos, two_processes, tmp_path):
    """The same global batch: losses of every step and the final weights, with and without accumulation."""
    alone = run_case(case, videos, tmp_path, num_processes=1)
    first, second = results(two_processes, case)
    assert (alone["wrapped"], first["wrapped"]) == ("UMTForPreTraining", "DistributedDataParallel")
    assert len(alone["losses"]) == 4 and (None in alone["losses"]) == (case == "poisoned")
    for loss, expected in zip(first["losses"], alone["losses"], strict=True):
        assert expected is None or loss == pytest.approx(expected, rel=1e-5)
    # every clip once, with the same clips in each optimiser step
    for start in range(0, 16, GLOBAL_BATCH):
        mine = slice(start // 2, (start + GLOBAL_BATCH) // 2)
        assert sorted(first["seen"][mine] + second["seen"][mine]) == sorted(
            alone["seen"][start : start + GLOBAL_BATCH]
        )
    paths = [two_processes / case / f"weights-{process}.pt" for process in range(2)]
    weights = [torch.load(path, weights_only=True) for path in paths]
    expected = torch.load(tmp_path / "weights-0.pt", weights_only=True)
    start = make_student().state_dict()
    for name, tensor in expected.items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-4, atol=2e-5)
        assert not torch.equal(tensor, start[name])


def test_a_non_finite_loss_on_one_process_skips_the_step_on_both(two_processes):
    first, second = results(two_processes, "poisoned")
    assert first["skipped"] == second["skipped"] == 1
    bad = PoisonedClips.poisoned[0]
    assert (bad in first["seen"]) != (bad in second["seen"])
    # the log line of that step has the loss of the other process
    assert all(loss is not None and 0.5 < loss < 3 for loss in first["losses"])


def test_processes_have_different_seeds_for_stochastic_depth(two_processes):
    first, second = results(two_processes, "plain")
    assert (first["seed"], second["seed"]) == (42, 43)


def test_streams_are_sharded_across_processes(videos, two_processes, tmp_path):
    """Two processes read different videos in an epoch; the sixth step of four clips starts a second epoch."""
    first, second = results(two_processes, "stream")
    assert len(first["losses"]) == 5 and all(0.1 < loss < 3 for loss in first["losses"])
    assert len(first["seen"]) == len(second["seen"]) == 10
    names = {name_hash(record["video"]) for record in load_video_records(f"{videos}/shards/s-{{0..3}}.tar")}
    assert set(first["seen"][:8]) | set(second["seen"][:8]) == names and len(names) == 16
    assert not set(first["seen"][:8]) & set(second["seen"][:8])
    alone = run_case("stream", videos, tmp_path, num_processes=1)
    assert len(alone["losses"]) == 5 and set(alone["seen"][:16]) == names


def test_sharded_parameters_give_the_same_step(two_processes, tmp_path):
    """FSDP2 by `fully_shard` on a CPU mesh; the worker asserts that all parameters are DTensors."""
    both = results(two_processes, "sharded")
    assert both[0]["kinds"] == ["DTensor"]
    student = make_student()
    loss = step_loss(student, some_clips(GLOBAL_BATCH), torch.arange(GLOBAL_BATCH), tmp_path)
    assert (both[0]["losses"][0] + both[1]["losses"][0]) / 2 == pytest.approx(loss, rel=1e-5)
    for process in range(2):
        gradients = torch.load(two_processes / "sharded" / f"gradients-{process}.pt", weights_only=True)
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_there_are_no_warnings(two_processes):
    """Except for PyTorch's and torchao's own start-up lines."""
    lines = (two_processes / "stderr.txt").read_text().splitlines()
    ours = [line for line in lines if "warn" in line.lower() and "register_constant" not in line]
    assert not ours, ours
