"""Stage 2 on two gloo processes equals stage 2 on one: contrast and its gradients, alternation, official scaling.

One launch trains all cases (`tests/helpers/tiny_video_text.py`), because starting Python costs more than training.
"""

import json

import pytest
import torch
from tiny_pretraining import REPOSITORY
from tiny_video_text import CASES, GLOBAL_BATCH, run_case, write_media
from warm_python import launch


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def two_processes(media, tmp_path_factory):
    """The folder with the results of two processes for every case."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(str(REPOSITORY / "tests" / "helpers" / "tiny_video_text.py"), str(media), str(folder), *CASES)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


def load(folder, case, process):
    parts = {
        kind: torch.load(folder / case / f"{kind}-{process}.pt", weights_only=True)
        for kind in ("weights", "gradients")
    }
    return json.loads((folder / case / f"result-{process}.json").read_text()), parts["weights"], parts["gradients"]


def assert_close(gradient, expected):
    """Compare to five digits of the largest entry; the gradient of a key bias is zero up to rounding."""
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item() + 1e-8)


@pytest.mark.parametrize("case", ["contrast", "aligned"])
def test_two_processes_train_as_one(case, media, two_processes, tmp_path):
    """Contrast alone, and with alignment on alternating images and videos. Matching has no equivalent in one process:
    as in the official code, its negatives are sampled from the process's own half of the batch."""
    alone = run_case(case, media, tmp_path, num_processes=1)
    gradients = torch.load(tmp_path / "gradients-0.pt", weights_only=True)
    weights = torch.load(tmp_path / "weights-0.pt", weights_only=True)
    (first, weights_0, gradients_0), (second, weights_1, _) = (load(two_processes, case, rank) for rank in range(2))

    assert len(first["lines"]) == len(alone["lines"]) == (8 if case == "aligned" else 4)
    for line, expected in zip(first["lines"], alone["lines"], strict=True):
        assert set(line) == set(expected)
        for name in ("loss", "loss_vtc", "temperature", *(["loss_uta"] if case == "aligned" else [])):
            assert line[name] == pytest.approx(expected[name], rel=2e-5), name
    for start in range(0, len(alone["seen"]), GLOBAL_BATCH):
        mine = slice(start // 2, (start + GLOBAL_BATCH) // 2)
        together = sorted(map(tuple, first["seen"][mine] + second["seen"][mine]))
        assert together == sorted(alone["seen"][start : start + GLOBAL_BATCH])
    assert set(gradients_0) == set(gradients) and "video_text.temperature" in gradients
    for name, expected in gradients.items():
        assert_close(gradients_0[name], expected)
    for name, expected in weights.items():
        assert torch.equal(weights_0[name], weights_1[name])
        torch.testing.assert_close(weights_0[name], expected, rtol=1e-3, atol=1e-4)
    recalls = [name for name in alone["evaluation"] if "_r" in name and "runtime" not in name]
    assert len(recalls) == 8
    assert all(first["evaluation"][name] == second["evaluation"][name] for name in recalls)
    assert first["evaluation"]["eval_chance_r1"] == pytest.approx(100 / 7, abs=0.01)  # seven pairs, none repeated


def test_the_official_gradients_are_halved_by_two_processes_but_for_the_temperature(media, two_processes, tmp_path):
    run_case("official", media, tmp_path, num_processes=1)
    alone = torch.load(tmp_path / "gradients-0.pt", weights_only=True)
    (result, _, official), _ = (load(two_processes, "official", rank) for rank in range(2))
    (summed, _, exact), _ = (load(two_processes, "contrast", rank) for rank in range(2))
    assert result["lines"][0]["loss_vtc"] == summed["lines"][0]["loss_vtc"]
    for name, gradient in official.items():
        scale = 1 if name == "video_text.temperature" else 0.5
        assert_close(gradient, scale * exact[name])
        assert_close(alone[name], exact[name])  # nothing is scaled in one process


def test_all_objectives_keep_the_weights_of_processes_equal(two_processes):
    (first, weights_0, _), (second, weights_1, _) = (load(two_processes, "all", rank) for rank in range(2))
    assert all(torch.equal(weights_0[name], weights_1[name]) for name in weights_0)
    assert {frames for frames, _ in first["seen"]} == {1, 2}
    assert [frames for frames, _ in first["seen"]] == [frames for frames, _ in second["seen"]]
    assert first["lines"] and all(
        {"loss_vtc", "loss_vtm", "loss_mlm", "loss_uta", "temperature"} <= set(line) for line in first["lines"]
    )


def test_there_are_no_warnings(two_processes):
    """Except for PyTorch's and torchao's own start-up lines."""
    lines = (two_processes / "stderr.txt").read_text().splitlines()
    ours = [line for line in lines if "warn" in line.lower() and "register_constant" not in line]
    assert not ours, ours
