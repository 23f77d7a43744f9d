"""Masked modelling on two gloo processes equals one: DDP in the trainer, manual FSDP2.

One launch trains all cases (`tests/helpers/tiny_masked_modeling.py`): starting Python costs more than training them.
"""

import json

import pytest
import torch
from tiny_masked_modeling import CASES, PIXELS, make_student, run_case, some_batch, step_loss
from tiny_pretraining import GLOBAL_BATCH, REPOSITORY, write_videos
from warm_python import launch


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def two_processes(videos, tmp_path_factory):
    """The folder with the results of two processes for every case."""
    folder = tmp_path_factory.mktemp("two")
    script = REPOSITORY / "tests" / "helpers" / "tiny_masked_modeling.py"
    done = launch(str(script), str(videos), str(folder), *CASES, "sharded")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


def results(folder, case: str) -> list[dict]:
    return [json.loads((folder / case / f"result-{process}.json").read_text()) for process in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, videos, two_processes, tmp_path):
    """The same global batch: losses of every step with their parts, and the final weights."""
    alone = run_case(case, videos, tmp_path, num_processes=1)
    first, _ = results(two_processes, case)
    assert (alone["wrapped"], first["wrapped"]) == ("UMTForMaskedModeling", "DistributedDataParallel")
    assert len(alone["losses"]) == 4 and first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for ours, expected in zip(first["parts"], alone["parts"], strict=True):
        assert ours == pytest.approx(expected, rel=1e-5)
    weights = [torch.load(two_processes / case / f"weights-{process}.pt", weights_only=True) for process in range(2)]
    start = make_student(**PIXELS if case == "pixels" else {}).state_dict()
    for name, tensor in torch.load(tmp_path / "weights-0.pt", weights_only=True).items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-4, atol=2e-5)
        assert not torch.equal(tensor, start[name])


def test_sharded_parameters_give_the_same_step(two_processes, tmp_path):
    """FSDP2 by `fully_shard` on a CPU mesh; the worker asserts that all parameters are DTensors."""
    both = results(two_processes, "sharded")
    student = make_student()
    loss = step_loss(student, some_batch(GLOBAL_BATCH), tmp_path)
    assert (both[0]["losses"][0] + both[1]["losses"][0]) / 2 == pytest.approx(loss, rel=1e-5)
    for process in range(2):
        gradients = torch.load(two_processes / "sharded" / f"gradients-{process}.pt", weights_only=True)
        assert len(gradients) == len(list(student.parameters()))
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
