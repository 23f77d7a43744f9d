"""The pre-training recipes of MVD and EVEREST compared with the published values: sizes, rates, schedules, masks."""

import re

import pytest

from modeling_umt import UMTConfig
from umt_training.runs.masked_modeling_run import MaskedModelingRun
from umt_training.runs.recipes import RECIPES_FOLDER, parse_recipe, read_recipe, recipe_names
from umt_training.runs.tasks import estimate
from umt_training.trainers.masked_modeling import UMTMaskedModelingArguments
from umt_training.trainers.optimization import scaled_learning_rate

# hidden size, blocks, heads, hidden size of the MLP
ENCODERS = {
    "s16": (384, 12, 6, 1536),
    "b16": (768, 12, 12, 3072),
    "l16": (1024, 24, 16, 4096),
    "h16": (1280, 32, 16, 5120),
}
VIDEOMAE_HUGE = "k400_videomae_pretrain_huge_patch16_224_frame_16x4_tube_mask_ratio_0.9_e1600.pth"
TEACHERS = {
    "b16": ("facebook/vit-mae-base", "MCG-NJU/videomae-base", 768),
    "l16": ("facebook/vit-mae-large", "MCG-NJU/videomae-large", 1024),
    "h16": ("facebook/vit-mae-huge", VIDEOMAE_HUGE, 1280),
}
# Of a run on 32 GPUs: student, teachers, epochs, batch per GPU, accumulation, effective learning rate and its minimum,
# drop path, blocks, hidden size and heads of a decoder.
# fmt: off
MVD = {
    "mvd_s16_from_b16": ("s16", "b16", 401, 16, 2, 6e-4, 4e-4, 0.1, (2, 384, 6)),
    "mvd_s16_from_l16": ("s16", "l16", 401, 16, 2, 6e-4, 4e-4, 0.1, (2, 384, 6)),
    "mvd_b16_from_b16": ("b16", "b16", 401, 16, 2, 6e-4, 4e-4, 0.1, (2, 768, 12)),
    "mvd_b16_from_l16": ("b16", "l16", 401, 8, 4, 6e-4, 4e-4, 0.1, (2, 768, 12)),
    "mvd_l16_from_l16": ("l16", "l16", 401, 8, 2, 3e-4, 2e-4, 0.1, (4, 512, 8)),
    "mvd_l16_from_l16_800": ("l16", "l16", 801, 8, 2, 3e-4, 2e-5, 0.1, (4, 512, 8)),
    "mvd_h16_from_h16_800": ("h16", "h16", 801, 8, 2, 3e-4, 2e-5, 0.2, (8, 640, 8)),
}
# Of a run of EVEREST: size, hidden size and heads of the decoder, epochs, warm-up, batch, learning rate for 256 clips,
# stride, fraction of kept tokens, flip, top-1 after fine-tuning in percent.
EVEREST = {
    "everest_s16_k400_pretraining": ("s16", (4, 192, 3), 200, 40, 1024, 1.5e-4, 4, 0.3, False, 75.9),
    "everest_b16_k400_pretraining": ("b16", (4, 384, 6), 200, 40, 1024, 3e-4, 4, 0.3, False, 79.2),
    "everest_l16_k400_pretraining": ("l16", (4, 512, 8), 200, 40, 512, 1.5e-4, 4, 0.3, False, 82.1),
    "everest_b16_ssv2_pretraining": ("b16", (4, 384, 6), 200, 40, 256, 1.5e-4, 2, 0.3, False, 64.6),
    "everest_b16_ucf101_pretraining": ("b16", (4, 384, 6), 3200, 40, 192, 1e-3, 4, 0.3, False, 93.4),
    "everest_b16_hmdb51_pretraining": ("b16", (4, 384, 6), 4800, 40, 192, 1e-3, 2, 0.3, False, 68.1),
    "everest_b16_oscc_pretraining": ("b16", (4, 384, 6), 400, 20, 256, 1e-3, 4, 0.5, True, 76.2),
}
# fmt: on


def parse(name: str) -> tuple[MaskedModelingRun, UMTMaskedModelingArguments]:
    return parse_recipe(read_recipe(name), ["--output_dir", "unused"], MaskedModelingRun, UMTMaskedModelingArguments)


def head(name: str) -> str:
    """The comment at the head of a recipe in one line."""
    lines = (RECIPES_FOLDER / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.strip("# \\") for line in lines if line.startswith("#"))


def encoder_sizes(config: UMTConfig) -> tuple[int, ...]:
    return config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size


def decoder_sizes(config: UMTConfig) -> tuple[int, ...]:
    return config.decoder_num_hidden_layers, *config.decoder_sizes


def test_there_is_a_recipe_for_every_run():
    masked_modeling = {name for name in recipe_names() if read_recipe(name)["task"] == "masked_modeling"}
    assert masked_modeling == {*MVD, *EVEREST}
    assert len(MVD) == len(EVEREST) == 7


@pytest.mark.parametrize("name", MVD)
def test_the_effective_learning_rate_of_mvd(name):
    _, _, _, per_device, accumulation, rate, minimum, *_ = MVD[name]
    run, args = parse(name)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (per_device, accumulation)
    batch = run.num_devices * args.effective_batch_size
    assert batch == 32 * per_device * accumulation
    assert scaled_learning_rate(args.base_learning_rate, batch) == pytest.approx(rate, rel=1e-12)
    assert scaled_learning_rate(args.base_min_learning_rate, batch) == pytest.approx(minimum, rel=1e-12)
    assert args.base_warmup_learning_rate == 0


@pytest.mark.parametrize("name", MVD)
def test_values_of_mvd(name):
    student, teachers, epochs, _, _, _, _, drop_path, decoder = MVD[name]
    run, args = parse(name)
    config, (image, video, dim) = UMTConfig(**run.model), TEACHERS[teachers]
    assert run.teachers == {"image": image, "video": video} and config.masked_targets == {"image": dim, "video": dim}
    assert encoder_sizes(config) == ENCODERS[student] and decoder_sizes(config) == decoder
    assert (config.num_frames, config.image_size, config.tubelet_size, config.patch_size) == (16, 224, 2, 16)
    assert (config.position_type, config.position_grid, config.drop_path_rate) == ("space_time", None, drop_path)
    assert (config.masked_loss, config.masked_target_weights, config.normalize_targets) == ("smooth_l1", None, False)
    assert config.decoder_projection_bias
    assert (run.sampling, run.frame_stride, run.flip, run.init_from) == ("strided", 4, False, None)
    assert (args.mask_type, args.mask_ratio) == ("tube", 0.9)
    assert (args.num_train_epochs, args.warmup_epochs, args.weight_decay) == (epochs, 40, 0.05)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.95, 1e-8, 0)
    assert (args.layer_decay, args.seed, args.bf16) == (1.0, 0, True)
    assert args.activation_checkpointing == (student == "h16")


@pytest.mark.parametrize("name", MVD)
def test_a_recipe_of_mvd_begins_with_results_hardware_command_and_departures(name):
    student, _, _, per_device, accumulation, *_ = MVD[name]
    comment = head(name)
    finetuned = f"mvd_{student}_800" if name.endswith("_800") else f"mvd_{student}"
    results = re.search(
        rf"reach (\S+) % top-1 on Kinetics-400 \(16 frames x 3 crops x 5 clips; {finetuned}_k400\) and "
        rf"(\S+) % on Something-Something V2 \(16 frames x 3 crops x 2 clips; {finetuned}_ssv2\)\.",
        comment,
    )
    for data, top1 in zip(("k400", "ssv2"), results.groups(), strict=True):
        assert re.search(
            rf"(Expected: |, ){top1} %( top-1)? and \S+ %( top-5)? from {name}\b", head(f"{finetuned}_{data}")
        )
    assert "Hardware: 32 V100" in comment and "--num_processes 32 " in comment
    assert f"{32 * per_device * accumulation} here" in comment and "Departures: bf16" in comment
    assert f"umt) pretrain --config {name} --data k400_train.csv " in comment


# --- EVEREST ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVEREST)
def test_the_effective_learning_rate_of_everest(name):
    _, _, _, _, batch, base, *_ = EVEREST[name]
    run, args = parse(name)
    assert run.num_devices == int(re.search(r"--num_processes (\d+) ", head(name))[1])
    assert run.num_devices * args.effective_batch_size == batch
    assert scaled_learning_rate(args.base_learning_rate, batch) == pytest.approx(base * batch / 256, rel=1e-12)
    assert scaled_learning_rate(args.base_min_learning_rate, batch) == pytest.approx(1e-5 * batch / 256, rel=1e-12)
    assert args.base_warmup_learning_rate == 0


@pytest.mark.parametrize("name", EVEREST)
def test_values_of_everest(name):
    size, decoder, epochs, warmup, _, _, stride, kept, flip, _ = EVEREST[name]
    run, args = parse(name)
    config = UMTConfig(**run.model)
    assert run.teachers == {} and config.masked_targets == {"pixels": 2 * 16 * 16 * 3}
    assert encoder_sizes(config) == ENCODERS[size] and decoder_sizes(config) == decoder
    assert (config.num_frames, config.image_size, config.tubelet_size, config.patch_size) == (16, 224, 2, 16)
    assert (config.position_type, config.position_grid, config.drop_path_rate) == ("flat", None, 0)
    assert (config.masked_loss, config.normalize_targets, config.decoder_projection_bias) == ("mse", True, False)
    assert (run.sampling, run.frame_stride, run.flip, run.init_from) == ("strided", stride, flip, None)
    assert (args.mask_type, args.mask_ratio, args.keep_ratio) == ("motion", 0.9, kept)
    assert args.frame_pool_ratio == (1.5 if "oscc" in name else 1)
    assert (args.num_train_epochs, args.warmup_epochs, args.weight_decay) == (epochs, warmup, 0.05)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.9, 0.95, 1e-8, 0)
    assert (args.layer_decay, args.seed, args.bf16) == (1.0, 0, True)


@pytest.mark.parametrize("name", EVEREST)
def test_a_recipe_of_everest_begins_with_results_hardware_command_and_departures(name):
    _, _, _, _, batch, *_, top1 = EVEREST[name]
    comment, finetuned = head(name), name.removesuffix("_pretraining")
    assert f"Fine-tuned with {finetuned}, the authors' model reaches {top1} % top-1 (" in comment
    assert f"Expected: {top1} % top-1" in head(finetuned)
    views = r"16 frames x 3 crops x \d+ clips"
    assert re.search(views, comment)[0] == re.search(views, head(finetuned))[0]
    assert "Hardware: " in comment and f"effective batch size, {batch} here" in comment
    assert f"umt) pretrain --config {name} --data " in comment and "Departures: bf16" in comment
    folder = re.search(r"--output-dir (\S+)", comment)[1]
    assert f"--init-from {folder} " in head(finetuned)


# --- estimates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mvd_s16_from_b16", "mvd_b16_from_b16", "everest_s16_k400_pretraining", "everest_b16_ucf101_pretraining"]
)
def test_the_head_of_a_recipe_states_the_estimate_of_the_command(name):
    stated = re.search(r"`--estimate` gives ([\d.]+ hours on \d+ A100), with", head(name))[1]
    assert stated in estimate(name)


def test_twice_the_epochs_take_twice_the_hours():
    hours = [
        float(re.search(r"`--estimate` gives ([\d.]+) hours", head(f"mvd_l16_from_l16{end}"))[1])
        for end in ("", "_800")
    ]
    assert hours[1] / hours[0] == pytest.approx(801 / 401, rel=0.01)
