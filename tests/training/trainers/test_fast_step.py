"""What makes a step fast and must not change it: compiled blocks, and an optimiser that skips without the host."""

import pytest
import torch
from accelerate.utils import extract_model_from_parallel
from tiny_pretraining import (
    GLOBAL_BATCH,
    PoisonedClips,
    clip_options,
    losses_of,
    make_student,
    make_teacher,
    make_trainer,
    some_clips,
    write_videos,
)

from modeling_umt.transformer_block_umt import eager_attention_forward, prefers_unfused_attention
from umt_training.data.video_records import load_video_records
from umt_training.trainers.nonfinite_guard import NonFiniteLossError


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_video_records(str(write_videos(tmp_path_factory.mktemp("videos"))))


@pytest.fixture
def compile_settings(monkeypatch):
    """Transformers tells accelerate by environment variables, which would stay."""
    for name in ("BACKEND", "MODE", "USE_REGIONAL_COMPILATION"):
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "no")
        monkeypatch.delenv(f"ACCELERATE_DYNAMO_{name}")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(folder, **arguments) -> tuple[float, torch.Tensor, torch.nn.Module]:
    """Loss and a gradient of one step of twelve layers with stochastic depth, and the model as the step ran it."""
    student = make_student(num_hidden_layers=12, drop_path_rate=0.2)
    trainer = make_trainer(None, folder, student=student, teacher=make_teacher(num_hidden_layers=12), **arguments)
    trainer.current_gradient_accumulation_steps = 1
    model = trainer.accelerator.prepare(trainer.model)
    torch.manual_seed(5)
    batch = {name: torch.arange(GLOBAL_BATCH) for name in ("sample_seeds", "video_index")}
    loss = trainer.training_step(model, {"pixel_values_videos": some_clips(GLOBAL_BATCH)} | batch)
    return loss.item(), student.umt.layers[3].mlp.fc1.weight.grad, model


def test_compiled_blocks_are_the_same_step_in_few_graphs(tmp_path, compile_settings):
    loss, gradient, _ = step(tmp_path)
    torch._dynamo.utils.counters.clear()
    compiled_loss, compiled_gradient, model = step(tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    difference = (compiled_gradient - gradient).abs().max().item()
    print(f"loss {loss} and {compiled_loss}, largest difference of a gradient {difference:.2g}")
    assert compiled_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-4, atol=1e-7)
    assert type(model.umt.layers[0]).__name__ == "OptimizedModule"
    # a graph for each layer's rate of stochastic depth would be over PyTorch's limit, and the rest not compiled
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 12
    assert not torch._dynamo.utils.counters["graph_break"]
    assert set(extract_model_from_parallel(model, keep_torch_compile=False).state_dict()) == set(
        make_student(num_hidden_layers=12).state_dict()
    )


def test_a_flag_that_is_read_a_step_late_changes_no_weight(records, tmp_path):
    runs = []
    for lag in (0, 1):
        trainer = make_trainer(None, tmp_path, dataset=PoisonedClips(records, **clip_options()))
        assert trainer.args.optim == "adamw_torch_fused"
        trainer.guard.lag = lag
        trainer.train()
        runs.append((trainer.guard.num_skipped, losses_of(trainer), trainer.model.state_dict()))
    (skipped, losses, weights), (late_skipped, late_losses, late_weights) = runs
    assert skipped == late_skipped == 1 and losses == late_losses and losses.count(None) == 1
    for name, tensor in weights.items():
        assert tensor.isfinite().all() and torch.equal(tensor, late_weights[name]), name


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_optimisers_skip_alike(optim, records, tmp_path):
    trainer = make_trainer(None, tmp_path, dataset=PoisonedClips(records, **clip_options()), optim=optim)
    trainer.train()
    steps = {int(state["step"]) for state in trainer.optimizer.state_dict()["state"].values()}
    assert trainer.guard.num_skipped == 1 and steps == {3}  # of four


def test_the_last_step_counts_too(records, tmp_path):
    class AllPoison(PoisonedClips):
        poisoned = range(16)

    trainer = make_trainer(None, tmp_path, dataset=AllPoison(records, **clip_options()), max_nonfinite_steps=3)
    trainer.guard.lag = 1
    with pytest.raises(NonFiniteLossError, match="4 optimiser steps"):
        trainer.train()


def test_in_bf16_on_a_cpu_attention_goes_without_the_kernel():
    student = make_student()
    query, key, value = torch.randn(3, 2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not prefers_unfused_attention(student.config, query) and prefers_unfused_attention(
        student.config, query.bfloat16()
    )
    assert not prefers_unfused_attention(student.config, query.bfloat16().expand(2, 2, 16, 16).repeat(1, 1, 33, 1))
    # the softmax of 16-bit numbers is that of float32, rounded
    half = [tensor.bfloat16() for tensor in (query, key, value)]
    output, weights = eager_attention_forward(student, *half, None, scaling=0.25)
    in_float = ((half[0] * 0.25) @ half[1].transpose(-1, -2)).softmax(dim=-1, dtype=torch.float32).bfloat16()
    assert torch.equal(weights, in_float)
    fused = torch.nn.functional.scaled_dot_product_attention(*half, scale=0.25).transpose(1, 2)
    difference = (output - fused).abs().max().item()
    print(f"largest difference to the fused kernel in bf16: {difference:.2g}")
    assert difference < 0.03
