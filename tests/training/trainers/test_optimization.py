"""Parameter groups and schedules compared with recorded values, on the project's models; resuming with Trainer."""

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_models import masked_student_config
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_umt import UMTConfig, UMTForMaskedModeling, UMTForPreTraining, UMTForVideoClassification
from modeling_umt.official_masked_modeling_umt import mvd_key_map, videomae_key_map
from umt_training.trainers.optimization import (
    cosine_factor,
    cosine_schedule,
    floored_cosine_factor,
    floored_cosine_schedule,
    has_weight_decay,
    layer_id,
    parameter_groups,
    scaled_learning_rate,
)


def tiny_config(num_layers: int, **fields) -> UMTConfig:
    return UMTConfig(
        image_size=16, num_frames=1, hidden_size=8, num_hidden_layers=num_layers, num_attention_heads=2,
        intermediate_size=8, num_labels=3, num_aligned_layers=2, target_dim=4, **fields,
    )  # fmt: skip


def our_names(official: str) -> list[str]:
    """Our names of an official parameter; its fused qkv matrix is three matrices here."""
    name = re.sub(r"^(?:encoder\.)?(patch_embed|pos_embed|blocks|norm|fc_norm)\b", r"umt.\1", official)
    for pattern, ours in (
        (r"patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"pos_embed", "embeddings.position_embeddings"),
        (r"blocks\.", "layers."),
        (r"attn\.([qv])_bias", r"attention.\1_proj.bias"),
        (r"attn\.proj", "attention.o_proj"),
        (r"^head\.", "classifier."),
        (r"clip_decoder\.(\d+)\.head", r"decoders.\1.projection"),
        (r"clip_decoder\.", "decoders."),
    ):
        name = re.sub(pattern, ours, name)
    if name.endswith("attn.qkv.weight"):
        return [name.replace("attn.qkv", f"attention.{part}_proj") for part in "qkv"]
    return [name]


def settings_by_name(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    pairs = [(names[p], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(pairs) == len(dict(pairs)), "a parameter is in two groups"
    return dict(pairs)


@pytest.mark.parametrize(
    "case",
    [
        f"{model}_decay{decay}"
        for model in ("B16_depth12_f8_224", "B16_depth12_f16_224", "depth3_gamma_nopool")
        for decay in (0.75, 1.0)
    ],
)
def test_recorded_groups_of_the_classifier(recorded, case):
    expected = recorded("layer_decay")[0]["models"][case]
    model = UMTForVideoClassification(tiny_config(3 if case.startswith("depth3") else 12))
    peak = 2e-4
    groups = parameter_groups(model, peak, expected["weight_decay"], expected["layer_decay"])
    assert len(groups) == expected["param_groups"]
    ours = settings_by_name(model, groups)
    seen = set()
    for official, (_, scale, weight_decay) in expected["parameters"].items():
        if official == "pos_embed" or ".gamma_" in official:
            continue  # a buffer here; no recipe uses LayerScale
        for name in our_names(official):
            # without mean pooling the last norm is officially called `norm`
            name = name.replace("umt.norm.", "umt.fc_norm.")
            learning_rate, decay = ours[name]
            assert learning_rate == pytest.approx(peak * scale, rel=1e-12) and decay == weight_decay, name
            seen.add(name)
    assert seen == set(ours) == {name for name, _ in model.named_parameters()}


def test_recorded_groups_of_stage_1(recorded):
    expected = recorded("layer_decay")[0]["stage1_small"]["parameters"]
    model = UMTForPreTraining(tiny_config(2))
    groups = parameter_groups(model, 1.2e-3, 0.05)
    assert [group["name"] for group in groups] == ["all layers, no decay", "all layers"]
    ours = settings_by_name(model, groups)
    seen = {}
    for official, (scale, weight_decay) in expected.items():
        seen |= dict.fromkeys(our_names(official), (1.2e-3 * scale, weight_decay))
    assert seen == ours


@pytest.mark.parametrize("name", ["mvd_optimizer", "everest_optimizer"])
def test_recorded_groups_of_masked_modelling(recorded, name):
    """The mask tokens of feature targets are decayed, that of pixels is not."""
    description = recorded(name)[0]
    if name == "mvd_optimizer":
        config = masked_student_config(description["student"]["constructor"] | {"tubelet_size": 2})
        key_map, expected = mvd_key_map(config), description["student"]["parameters"]
    else:
        recorded_groups = description["groups"]["pretrain"]
        expected = {key: (scale, decay) for key, (_, scale, decay) in recorded_groups.items()}
        blocks = {key.split(".")[2] for key in expected if key.startswith("decoder.blocks.")}
        sizes = tiny_config(description["depth"]).to_diff_dict() | {"num_frames": 2, "tubelet_size": 2}
        config = UMTConfig.from_dict(
            sizes
            | {
                "masked_targets": {"pixels": 1536},
                "decoder_num_hidden_layers": len(blocks),
                "decoder_projection_bias": False,
            }
        )
        key_map = videomae_key_map(config)
    model = UMTForMaskedModeling(config)
    ours = settings_by_name(model, parameter_groups(model, 6e-4, 0.05))
    seen = {}
    for official, (scale, weight_decay) in expected.items():
        seen |= dict.fromkeys(key_map[official], (6e-4 * scale, weight_decay))
    assert seen == ours
    decays = {name: decay for name, (_, decay) in ours.items() if name.endswith("mask_token")}
    assert decays == (
        {"decoders.pixels.mask_token": 0.0}
        if name == "everest_optimizer"
        else {"decoders.image.mask_token": 0.05, "decoders.video.mask_token": 0.05}
    )


def test_recorded_layer_ids(recorded):
    description = recorded("layer_decay")[0]
    names = description["layer_id_of_names"]
    for official in (n for n in names["ids"] if re.match(r"patch_embed|pos_embed|blocks|norm|fc_norm|head", n)):
        for name in our_names(official):
            assert layer_id(name, names["depth"]) == names["ids"][official], name
    for case in description["models"].values():
        for official, (recorded_id, _, weight_decay) in case["parameters"].items():
            # the number of dimensions is not recorded, but follows from the official name
            vector = official.endswith(("bias", "gamma_1", "gamma_2")) or "norm" in official
            parameter = nn.Parameter(torch.empty((2,) if vector else (1, 2, 2), device="meta"))
            for name in our_names(official):
                assert has_weight_decay(name, parameter) == (weight_decay > 0), name
                if recorded_id is not None:
                    depth = len(case["scale_per_layer_id"]) - 2
                    assert layer_id(name, depth) == recorded_id, name


def test_recorded_multimodal_groups(recorded):
    """The rule applied to the official names; it only depends on dimensions and the suffix `.bias`."""
    expected = recorded("multimodal_optimizer")[0]["parameters"]
    for name, (_, weight_decay) in expected.items():
        # the number of dimensions is not recorded, but follows from PyTorch's and BERT's layer types
        if name == "temp":
            num_dims = 0
        elif re.search(r"bias$|norm\d?\.|LayerNorm|ln_\w+\.weight|class_embedding", name):
            num_dims = 1
        else:
            num_dims = 2
        parameter = nn.Parameter(torch.empty((2,) * num_dims, device="meta"))
        assert has_weight_decay(name, parameter) == (weight_decay > 0), name


def test_weight_decay_depends_on_dimensions_and_name():
    for shape in ((8, 3, 1, 16, 16), (8, 768)):
        assert has_weight_decay("umt.embeddings.patch_embeddings.weight", nn.Parameter(torch.empty(shape)))
    assert not has_weight_decay("umt.embeddings.position_embeddings", nn.Parameter(torch.empty(1, 4, 8)))
    assert not has_weight_decay("relative_position.bias", nn.Parameter(torch.empty(4, 8)))
    assert has_weight_decay("text.embeddings.position_embeddings.weight", nn.Parameter(torch.empty(4, 8)))  # BERT's


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.umt.layers.3.attention.q_proj.lora_A.default.weight", 4),
        ("_orig_mod.umt.layers.11._checkpoint_wrapped_module.mlp.fc1.weight", 12),
        ("module.umt.embeddings.patch_embeddings.weight", 0),
        ("layers.0.norm1.weight", 1),
        ("embeddings.patch_embeddings.bias", 0),
        ("base_model.model.classifier.modules_to_save.default.weight", 13),
    ],
)
def test_layer_ids_of_wrapped_names(name, expected):
    assert layer_id(name, 12) == expected


def test_learning_rate_scales_of_the_published_models():
    for depth, decay, first in ((12, 0.75, 0.023757), (24, 0.85, 0.017198)):
        model = UMTForVideoClassification(tiny_config(depth))
        rates = [group["lr"] for group in parameter_groups(model, 1.0, 0.05, decay)]
        assert min(rates) == pytest.approx(first, abs=5e-7) and max(rates) == 1.0
        assert decay in rates and len(rates) == 2 * (depth + 2)
        assert rates == sorted(rates)


def test_frozen_parameters_are_in_no_group():
    model = UMTForVideoClassification(tiny_config(3))
    model.umt.embeddings.requires_grad_(False)
    trained = settings_by_name(model, parameter_groups(model, 1.0, 0.05, 0.75))
    assert set(trained) == {name for name, _ in model.named_parameters() if "embeddings" not in name}
    model.umt.requires_grad_(False)
    assert set(settings_by_name(model, parameter_groups(model, 1.0, 0.05))) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ValueError, match=r"layer_decay=0\.75 found no trainable parameter in a layer"):
        parameter_groups(model, 1.0, 0.05, 0.75)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(model, 1.0, 0.05)


def test_a_layer_index_beyond_the_configuration_is_an_error():
    with pytest.raises(ValueError, match="layer 12, but the configuration has 12 layers"):
        layer_id("umt.layers.12.norm1.weight", 12)


@pytest.mark.parametrize(
    ("base", "batch", "scaled"),
    [
        (1.5e-4, 32 * 64, 1.2e-3),  # stage 1
        (1e-5, 32 * 64, 8e-5),  # its minimum
        (2e-4, 16 * 16 * 2, 4e-4),  # K710 fine-tuning, two views per video
        (1e-5, 16 * 8, 5e-6),  # MiT L/16 at 384
    ],
)
def test_published_learning_rates(base, batch, scaled):
    assert scaled_learning_rate(base, batch) == pytest.approx(scaled, rel=1e-12)


def learning_rates(scheduler, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return values


def one_parameter_optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.AdamW(groups)


def test_recorded_cosine_schedules(recorded):
    description = recorded("cosine_schedule")[0]
    checked = 0
    for schedule in description["schedules"]:
        if "error" in schedule:
            continue  # a combination of options that this package does not have
        arguments = schedule["args"]
        warmup_steps = arguments.get("warmup_steps", arguments.get("warmup_epochs", 0) * arguments["niter_per_ep"])
        scheduler = cosine_schedule(
            one_parameter_optimizer(arguments["base_value"]),
            total_steps=arguments["epochs"] * arguments["niter_per_ep"],
            warmup_steps=warmup_steps,
            learning_rate=arguments["base_value"],
            min_learning_rate=arguments["final_value"],
            warmup_learning_rate=arguments.get("start_warmup_value", 0.0),
        )
        values = learning_rates(scheduler, len(schedule["values"]))
        assert values == pytest.approx(schedule["values"], rel=1e-9, abs=0)
        checked += 1
    assert checked == 5


def test_recorded_floored_cosine_schedules(recorded):
    for schedule in recorded("multimodal_optimizer")[0]["scheduler"]:
        arguments, multipliers = schedule["args"], schedule["lr_multiplier"]
        scheduler = floored_cosine_schedule(
            one_parameter_optimizer(1e-4),
            total_steps=arguments["num_training_steps"],
            warmup_steps=arguments["num_warmup_steps"],
            floor=arguments["min_lr_multi"],
        )
        values = learning_rates(scheduler, len(multipliers))
        assert values == pytest.approx([1e-4 * multiplier for multiplier in multipliers], rel=1e-9, abs=0)


def test_groups_keep_their_ratio():
    scheduler = cosine_schedule(
        one_parameter_optimizer(4e-4, 3e-4, 1e-5),
        total_steps=9, warmup_steps=3, learning_rate=4e-4, min_learning_rate=2e-6, warmup_learning_rate=2e-6,
    )  # fmt: skip
    for _ in range(10):
        rates = scheduler.get_last_lr()
        assert rates == pytest.approx([rates[0], rates[0] * 0.75, rates[0] / 40], rel=1e-12)
        scheduler.optimizer.step()
        scheduler.step()


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(1, 200),
    warmup_fraction=st.floats(0, 1),
    start=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_schedules_rise_then_fall_and_stay_in_range(total, warmup_fraction, start, final):
    warmup = round(total * warmup_fraction)
    shifted = [
        cosine_factor(step, total_steps=total, warmup_steps=warmup, start_factor=start, final_factor=final)
        for step in range(total + 3)
    ]
    floored = [
        floored_cosine_factor(step, total_steps=total, warmup_steps=warmup, floor=final) for step in range(total + 3)
    ]
    for factors in (shifted, floored):
        rise, fall = factors[:warmup], factors[warmup:]
        assert all(a <= b + 1e-12 for a, b in pairwise(rise))
        assert all(a >= b - 1e-12 for a, b in pairwise(fall))
        assert fall[0] == pytest.approx(1.0)
        assert all(min(start, final) - 1e-12 <= factor <= 1 + 1e-12 for factor in factors)
    if warmup > 1:
        assert shifted[0] == start and shifted[warmup - 1] == pytest.approx(1.0, abs=1e-12)  # both ends included
    if warmup < total:
        assert shifted[total] == pytest.approx(final, abs=1e-12) and floored[total] == pytest.approx(final, abs=1e-12)


def test_invalid_schedules_are_errors():
    optimizer = one_parameter_optimizer(1e-3)
    with pytest.raises(ValueError, match="10 steps cannot have a warm-up of 11"):
        cosine_schedule(optimizer, total_steps=10, warmup_steps=11, learning_rate=1e-3, min_learning_rate=0.0)
    with pytest.raises(ValueError, match="10 steps cannot have a warm-up of -1"):
        floored_cosine_schedule(optimizer, total_steps=10, warmup_steps=-1)
    with pytest.raises(ValueError, match=r"positive; got 0\.0"):
        cosine_schedule(optimizer, total_steps=10, warmup_steps=2, learning_rate=0.0, min_learning_rate=0.0)


class LayerDecayTrainer(Trainer):
    """A trainer with these groups and this schedule."""

    def create_optimizer(self, model=None):
        self.optimizer = torch.optim.AdamW(parameter_groups(model or self.model, 1e-3, 0.05, 0.75))
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = cosine_schedule(
            optimizer or self.optimizer,
            total_steps=num_training_steps, warmup_steps=3, learning_rate=1e-3, min_learning_rate=1e-5,
            warmup_learning_rate=1e-5,
        )  # fmt: skip
        return self.lr_scheduler


def test_trainer_resumes_the_schedule_exactly(tmp_path):
    torch.manual_seed(0)
    clips = torch.randn(12, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values_videos": clip, "labels": i % 3} for i, clip in enumerate(clips)]
    initial = UMTForVideoClassification(tiny_config(3)).state_dict()

    def train(folder, resume=None):
        model = UMTForVideoClassification(tiny_config(3))
        model.load_state_dict(initial)
        rates = []

        class Recorder(LayerDecayTrainer):
            def training_step(self, *args, **kwargs):
                rates.append(self.lr_scheduler.get_last_lr())
                return super().training_step(*args, **kwargs)

        trainer = Recorder(
            model,
            TrainingArguments(
                str(folder), per_device_train_batch_size=2, max_steps=10, save_steps=4, report_to=[], use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=data,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return rates, model.state_dict()

    all_rates, all_weights = train(tmp_path / "uninterrupted")
    resumed_rates, resumed_weights = train(
        tmp_path / "resumed", resume=str(tmp_path / "uninterrupted" / "checkpoint-4")
    )
    assert len(all_rates) == 10 and resumed_rates == all_rates[4:]
    assert all_rates[0][-1] == pytest.approx(1e-5) and all_rates[2][-1] == all_rates[3][-1] == 1e-3
    for name, weight in all_weights.items():
        assert torch.equal(weight, resumed_weights[name]), name
