"""The weights that each preset trains: their number, and their change after a run."""

import pytest
import torch
from finetuning_tools import SIZES, changed, random_clip, state_of, tiny_classifier, tiny_trainer
from peft import PeftModel

from umt_training.trainers.optimization import layer_id
from umt_training.trainers.presets import LORA_TARGETS, PRESETS, apply_preset, preset_config

DIM, MLP, LAYERS, CLASSES, RANK = SIZES["hidden_size"], SIZES["intermediate_size"], 3, 3, 2
HEAD, NORM = DIM * CLASSES + CLASSES, 2 * DIM
# query; two norms; keys, values and output; MLP
ATTENTION_POOLING = DIM + 2 * NORM + 3 * (DIM**2 + DIM) + 2 * DIM * MLP + DIM + MLP
TRAINABLE = {
    "lora": LAYERS * RANK * (4 * 2 * DIM + 2 * (DIM + MLP)) + HEAD + NORM,
    "attentive": ATTENTION_POOLING + NORM + HEAD,
    "linear": HEAD,
}


def build(preset: str) -> torch.nn.Module:
    return apply_preset(tiny_classifier(**preset_config(preset)), preset, lora_rank=RANK)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_number_of_trainable_parameters(preset):
    model = build(preset)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in tiny_classifier().parameters())
    assert trainable == TRAINABLE.get(preset, total)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_changes_exactly_the_trainable_weights(preset, tmp_path):
    model = build(preset)
    before = state_of(model)
    trainer = tiny_trainer(tmp_path, model=model, max_steps=2, layer_decay=0.75 if preset in ("full", "lora") else 1.0)
    trainer.train()
    moved = changed(before, state_of(model))
    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # all trainable weights change, and no others; the gradient of a key bias is zero, as softmax is shift-invariant
    assert expected - moved <= {"attention_pooling.k_proj.bias"} and not moved - expected
    if preset in ("attentive", "linear"):
        assert not any(name.startswith(("umt.layers.", "umt.embeddings.")) for name in moved)


def test_lora_trains_every_matrix_of_a_layer_at_the_layers_learning_rate(tmp_path):
    trainer = tiny_trainer(tmp_path, model=build("lora"), layer_decay=0.5, weight_decay=0.1)
    trainer.create_optimizer()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = {names[p]: group for group in trainer.optimizer.param_groups for p in group["params"]}
    for layer in range(LAYERS):
        for target in LORA_TARGETS:
            for half in ("A", "B"):
                (name,) = [n for n in groups if f"layers.{layer}." in n and f"{target}.lora_{half}.default" in n]
                assert layer_id(name, LAYERS) == layer + 1
                assert groups[name]["lr"] == pytest.approx(0.01 * 0.5 ** (LAYERS - layer))
                assert groups[name]["weight_decay"] == 0.1
    rest = {name: group for name, group in groups.items() if "lora" not in name}
    assert {name.split(".")[-4] for name in rest} == {"fc_norm", "classifier"}
    assert all(group["lr"] == pytest.approx(0.01) for group in rest.values())
    decayed = {name for name, group in rest.items() if group["weight_decay"]}
    assert len(decayed) == 1 and "classifier" in next(iter(decayed))


def test_new_adapters_and_merging_do_not_change_the_outputs(tmp_path):
    plain, model = tiny_classifier(), build("lora")
    clip = random_clip()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clip).logits, plain.eval()(clip).logits, rtol=0, atol=1e-6)
    tiny_trainer(tmp_path, model=model, max_steps=2).train()
    assert isinstance(model, PeftModel)
    with torch.no_grad():
        adapted = model.eval()(clip).logits
        merged = model.merge_and_unload()(clip).logits
        assert not torch.allclose(adapted, plain(clip).logits, atol=1e-2)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)


def test_the_configuration_of_presets():
    assert preset_config("full") == preset_config("lora") == {}
    assert preset_config("attentive") == {"pooling": "attention", "drop_path_rate": 0.0}
    assert preset_config("linear") == {"pooling": "mean", "drop_path_rate": 0.0}
    with pytest.raises(ValueError, match="Unknown preset 'half'; choose one of full, lora, attentive, linear"):
        preset_config("half")


def test_probes_need_no_backward_pass_of_the_encoder():
    for preset in ("attentive", "linear"):
        model = build(preset).train()
        tokens = model.umt(random_clip()).last_hidden_state
        assert not tokens.requires_grad and tokens.grad_fn is None
        assert model(random_clip()).logits.requires_grad
