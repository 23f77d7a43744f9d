"""The speed benchmarks at tiny size: plain and fast implementations agree, and every script writes its results. Times
are not tested."""

import argparse
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from same_process import SameProcess
from tiny_pretraining import make_student, make_teacher

from benchmarks import all as all_benchmarks
from benchmarks import (
    data_loop,
    encoder,
    harness,
    largest_batch,
    motion_drop,
    pretraining_memory,
    pretraining_methods,
    rerank,
    sizes,
    stage1,
    training_steps,
)
from benchmarks.plain import PlainStageOne
from modeling_umt.token_selection_umt import mask_from_visible_indices

SMALL = ["--rounds=2", "--warmup=1", "--matmul-side=32"]


def with_uneven_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms that are neither 0 nor 1, so that a missing one is noticed."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def clip_and_mask():
    torch.manual_seed(0)
    clip = torch.randn(3, 2, 3, 64, 64)
    visible_indices = torch.stack([torch.randperm(32)[:8].sort().values for _ in range(3)])
    return clip, visible_indices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_plain_and_fast_steps_agree(dtype, clip_and_mask):
    clip, visible_indices = clip_and_mask
    student = with_uneven_weights(make_student()).train()
    teacher = with_uneven_weights(make_teacher()).requires_grad_(False)
    autocast = None if dtype == torch.float32 else dtype
    plain = PlainStageOne(student, teacher, autocast)
    plain_loss = plain.step(clip.transpose(1, 2), mask=mask_from_visible_indices(visible_indices, 32))

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
        targets = teacher.to(dtype)(clip, visible_indices=visible_indices)
        loss = student(clip, visible_indices=visible_indices, target_features=targets.features).loss
    loss.backward()
    features, attention = plain.teacher(clip.transpose(1, 2))
    theirs = dict(plain.student.named_parameters())
    pairs = {
        "loss": (loss.detach(), torch.tensor(plain_loss)),
        "attention": (targets.cls_attention.flatten(0, 1), attention),
        "patches": (
            student.umt.embeddings.patch_embeddings.weight.grad,
            theirs["patch_embed.weight"].grad.flatten(1),
        ),
        "keys": (student.umt.layers[1].attention.k_proj.weight.grad, theirs["blocks.1.attn.qkv.weight"].grad[32:64]),
        "values": (student.umt.layers[2].attention.v_proj.bias.grad, theirs["blocks.2.attn.v_bias"].grad),
        "decoder": (student.decoders[0].projection.weight.grad, theirs["decoders.0.0.weight"].grad),
    }
    for name, (ours, plains) in pairs.items():
        difference = ((ours - plains).norm() / plains.norm()).item()
        print(f"{name} in {dtype}: relative difference {difference:.2g}")
        assert difference < (1e-5 if dtype == torch.float32 else 0.05), name
    if dtype == torch.float32:
        everything = teacher(clip).features.transpose(0, 1)
        torch.testing.assert_close(features, everything, rtol=0, atol=1e-5)


def test_the_plain_mask_hides_the_same_number_of_tokens_in_every_frame(clip_and_mask):
    plain = PlainStageOne(make_student(), make_teacher(), None)
    targets, mask = plain.compute_targets(clip_and_mask[0].transpose(1, 2), 0.75)
    assert mask.shape == (3, 32) and mask.device.type == "cpu"
    assert (~mask).view(3, 2, 16).sum(dim=-1).unique().tolist() == [4]
    assert targets.shape == (2, 3, 8, 16)


def test_contenders_take_turns_and_are_compared_with_the_matrix_product():
    calls = []
    contenders = {
        name: harness.Contender(lambda name=name: calls.append(name), units=3, flops=1e6) for name in ("one", "two")
    }
    results = harness.measure(contenders, torch.device("cpu"), rounds=3, warmup=1, matmul_side=16)
    # warm-up, three rounds with rotating order, the step in which memory is measured
    assert calls == ["one", "two", "one", "two", "two", "one", "one", "two", "one", "two"]
    row, product = results["one"], results["matrix product float32"]
    assert row["units_per_second"] == pytest.approx(3 / row["median_seconds"])
    matmul_rate = 2 * 16**3 / product["median_seconds"]
    assert row["share_of_matmul_rate"] == pytest.approx(1e6 / row["median_seconds"] / matmul_rate)


def test_peak_memory_is_that_of_the_step():
    def step():
        return torch.ones(64, 2**20).sum()  # 256 MiB

    peak = harness.peak_memory(step, torch.device("cpu"))
    assert peak == 0 or 200 * 2**20 < peak < 400 * 2**20  # 0 where the system has no counter


def run(module, folder, *arguments):
    """Results of a script, and the JSON and the page that it wrote."""
    results = module.main([*arguments, "--output", str(folder)])
    (page,), (data,) = folder.glob("*.md"), folder.glob("*.json")
    assert len(list(folder.iterdir())) == 2
    text = page.read_text()
    for key in ("torch", "transformers", "cores", "date"):
        assert re.search(rf"\b{key} ", text), key
    return results, json.loads(data.read_text()), text


def test_stage1(tmp_path):
    names = [name for name in stage1.CONTENDERS if "compiled" not in name]
    results, saved, text = run(stage1, tmp_path, "--size=tiny", *SMALL, "--only", *names)
    assert set(saved["contenders"]) == {*names, "matrix product float32", "matrix product bfloat16"}
    agreement = results["remarks"]["plain = fast"]
    print(agreement)
    assert agreement["float32"]["fast_loss"] == pytest.approx(agreement["float32"]["plain_loss"], rel=1e-5)
    assert agreement["float32"]["relative_gradient_difference"] < 1e-4
    assert agreement["bfloat16"]["fast_loss"] == pytest.approx(agreement["bfloat16"]["plain_loss"], rel=0.01)
    assert agreement["bfloat16"]["relative_gradient_difference"] < 0.05
    for name, tolerance in (("float32", 1e-5), ("bfloat16", 0.01)):  # layer by layer and all at once agree
        found = agreement[name]
        assert found["at_once_loss"] == pytest.approx(found["fast_loss"], rel=1e-6)
        assert found["largest_relative_gradient_difference_at_once"] < tolerance
    assert all(f"| {name} |" in text for name in saved["contenders"])


def test_the_fast_steps_of_one_run_have_independent_precisions(tmp_path):
    names = ["fast_float32", "fast_bfloat16"]
    contenders, _ = stage1.make_contenders("tiny", 1, torch.device("cpu"), names, str(tmp_path))
    for name in names:
        dtypes = []
        fc1 = contenders[name].run.__self__.model.umt.layers[0].mlp.fc1
        fc1.register_forward_hook(lambda module, inputs, output, dtypes=dtypes: dtypes.append(output.dtype))
        contenders[name].run()
        assert dtypes == [contenders[name].dtype]


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_doubling_and_bisection_find_the_largest_that_fits(threshold, limit):
    tried = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= threshold

    assert largest_batch.largest(fits, limit) == min(threshold, limit)
    assert len(tried) == len(set(tried)) <= 2 * limit.bit_length() and all(0 < number <= limit for number in tried)


@pytest.mark.parametrize("way", largest_batch.WAYS)
def test_the_largest_batch_is_the_last_that_fits(way, tmp_path, monkeypatch):
    clips = sizes.clips

    def clips_up_to_ten(batch, config):
        if batch > 10:
            raise torch.OutOfMemoryError
        return clips(batch, config)

    monkeypatch.setattr(sizes, "clips", clips_up_to_ten)
    found = largest_batch.largest_batch(way, "tiny", torch.bfloat16, torch.device("cpu"), str(tmp_path), limit=64)
    assert found == {"largest_batch": 10}


def test_memory_of_steps_on_a_cpu(tmp_path):
    arguments = ["--size=tiny", "--batches", "2", "40", "--ways", "fast"]
    results, saved, text = run(largest_batch, tmp_path, *arguments)
    row = results["ways"]["fast"]
    # 40 clips of 2 frames of 64 x 64 pixels in float32 are 4 MB, and activations come on top
    assert row["peak_bytes_of_40"] == 0 or row["peak_bytes_of_40"] > row["peak_bytes_of_2"] + 2 * 2**20
    assert row["bytes_per_clip"] == pytest.approx((row["peak_bytes_of_40"] - row["peak_bytes_of_2"]) / 38, abs=1)
    assert saved["ways"] == results["ways"] and "| fast |" in text and "MiB per clip" in text


def test_encoders_with_the_same_number_of_tokens(tmp_path):
    pytest.importorskip("timm")
    results, saved, text = run(encoder, tmp_path, "--size=tiny", "--frames", "2", "4", "--image-size=64", *SMALL)
    assert set(saved) == {"2", "4"} and set(results[2]["contenders"]) == {*encoder.PEERS, "matrix product bfloat16"}
    assert text.count("| videomae |") == 2


@pytest.mark.parametrize("peer", encoder.PEERS)
def test_a_peer_has_the_tokens_and_the_hidden_size_of_umt(peer):
    if peer == "timm":
        pytest.importorskip("timm")
    model, shape = encoder.make_model(peer, "tiny", 2, 64)
    input_sizes = {module.in_features for module in model.modules() if isinstance(module, torch.nn.Linear)}
    assert {32, 64} <= input_sizes
    outputs = model.eval()(torch.randn(shape))
    if peer == "timm":
        assert model.patch_embed.num_patches == 2 * 16 and outputs.shape == (1, 32)
    else:
        assert outputs.last_hidden_state.shape == (1, 2 * 16, 32)


@pytest.mark.parametrize("task", training_steps.TASKS)
def test_training_steps(task, tmp_path):
    arguments = ["--task", task, "--size=tiny", "--batch=4", "--frames=2", *SMALL]
    results, saved, _ = run(training_steps, tmp_path, *arguments)
    losses = results["remarks"]["losses"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert saved["contenders"]["float32"]["share_of_matmul_rate"] > 0


def test_methods_of_pretraining(tmp_path):
    results, _, _ = run(pretraining_methods, tmp_path, "--size=tiny", *SMALL)
    rows, shares = results["contenders"], results["remarks"]["part of the teachers"]
    assert {"mvd", "mvd, teachers", "videomae", "stage1", "stage1, teachers"} < rows.keys()
    assert shares.keys() == {"mvd", "stage1"}
    assert all(0 < share["of FLOPs"] < 1 and share["of CPU seconds"] > 0 for share in shares.values())


@pytest.mark.parametrize(
    ("method", "step", "share"), [("mvd", 553, 0.58), ("videomae", 106, 0), ("stage1", 236, 0.61)]
)
def test_methods_of_pretraining_cost_what_is_derived_for_them(method, step, share):
    """Multiply-adds of a step of ViT-B in units of 10^9. The hidden tokens, which the official code embeds, are not
    embedded here."""
    flops, teacher_flops = pretraining_methods.cost_of_clip(method, "b16")
    assert flops / 2e9 == pytest.approx(step, rel=0.05)
    assert teacher_flops / flops == pytest.approx(share, abs=0.02)


def test_rerank(tmp_path):
    results, _, _ = run(rerank, tmp_path, "--size=tiny", "--texts=5", "--frames=2", "--dtype=float32", *SMALL)
    assert results["remarks"]["largest logit"] > 0.01 and results["remarks"]["largest difference"] < 1e-5
    assert results["contenders"]["match"]["units_per_second"] > 0


def test_tokens_dropped_by_motion(tmp_path):
    results, saved, text = run(motion_drop, tmp_path, "--size=tiny", "--ratios", "0.5", "0.9", *SMALL)
    rows = saved["contenders"]
    assert [*rows] == ["all tokens", "0.5 dropped", "0.9 dropped", "matrix product float32"]
    flops = [rows[name]["relative_flops"] for name in ("all tokens", "0.5 dropped", "0.9 dropped")]
    assert flops[0] == 1 > flops[1] > flops[2] > 0.1  # all patches are embedded
    assert results["remarks"]["tokens of a clip"] == 32 and "| 0.9 dropped |" in text


@pytest.mark.parametrize(("size", "expected"), [("b16", 0.54), ("l16", 0.55)])
def test_arithmetic_of_published_sizes_with_dropped_tokens(size, expected):
    config = sizes.UMTConfig(**sizes.ENCODERS[size], num_labels=400)
    all_tokens, fewer = (motion_drop.count_flops(config, (1, 8, 3, 224, 224), ratio) for ratio in (0.0, 0.4))
    assert fewer / all_tokens == pytest.approx(expected, abs=0.005)


def test_data_loop(tmp_path):
    arguments = ["--videos=2", "--seconds=1", "--rounds=2", "--step-clips=1e9"]
    results, _, text = run(data_loop, tmp_path, *arguments)
    steps = results["milliseconds_a_clip"]
    assert results["slowest"] in steps and all(value >= 0 for value in steps.values())
    parts = sum(value for name, value in steps.items() if not name.endswith("seconds"))
    assert parts == pytest.approx(steps["CPU seconds"], rel=0.5)
    assert "16 cores" in text and "it waits for data" in text


@pytest.mark.parametrize("size", ["b16", "l16"])
def test_published_sizes(size):
    """FLOPs per clip of the paper's models, in TFLOP (forward of the teacher, step of the student)."""
    cost = stage1.cost_of_clip(size)
    teacher, student = {"b16": (0.288, 0.184), "l16": (0.999, 0.626)}[size]
    assert cost.teacher_flops / 1e12 == pytest.approx(teacher, rel=0.08)
    assert cost.student_training_flops / 1e12 == pytest.approx(student, rel=0.03)
    assert sizes.clips(1, sizes.UMTConfig(**sizes.ENCODERS[size])).shape == (1, 8, 3, 224, 224)


@pytest.mark.parametrize("device", all_benchmarks.RUNS)
def test_every_command_of_all_benchmarks_is_valid(device, tmp_path, monkeypatch):
    """Its script parses it, and the name of its result is that of the file the script writes."""

    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, arguments):
        raise Parsed(parse(self, arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    modules = (data_loop, encoder, largest_batch, motion_drop, pretraining_methods, rerank, stage1, training_steps)
    scripts = {module.__name__: module for module in modules}
    to_do = all_benchmarks.commands(device, tmp_path, [])
    assert len(to_do) == len(all_benchmarks.RUNS[device])
    for name, (_, _, script, *arguments) in to_do.items():
        with pytest.raises(Parsed) as stopped:
            scripts[script].main(arguments)
        options = vars(stopped.value.args[0])
        kind = options.get("task", script.split(".")[1])
        parts = [kind, options.get("size"), "encoder" in name and options["image_size"], options.get("dtype")]
        expected = "_".join(str(part) for part in [*parts, options.get("device")] if part) + options.get("tag", "")
        assert name == expected

    (tmp_path / f"{name}.json").write_text("{}")
    assert set(to_do) - set(all_benchmarks.commands(device, tmp_path, [])) == {name}


def test_memory_of_pretraining(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining_memory, "ProcessPoolExecutor", SameProcess)
    small = ["--size=tiny", "--batches", "1", "--rounds=1", f"--threads={torch.get_num_threads()}"]
    results, saved, text = run(pretraining_memory, tmp_path, *small)
    rows = results["rows"]
    assert saved["rows"] == rows and [*rows] == ["everest 1", "videomae 1", "transformers 1"]
    # the losses of untrained models of normalised pixels, whose variance is 1
    assert all(row["loss"] == pytest.approx(1, abs=0.1) and row["peak_bytes"] >= 0 for row in rows.values())
    assert "| EVEREST, this package |" in text
