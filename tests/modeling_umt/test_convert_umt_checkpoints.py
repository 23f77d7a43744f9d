"""Conversion of single-modality files: official layouts to models and back, complete or not at all."""

import argparse
import os
import pickle
import random

import pytest
import torch
from recorded import load_recorded
from recorded_models import sub_state
from transformers import (
    AutoModel,
    AutoModelForObjectDetection,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)

from modeling_umt import (
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import UnsupportedCheckpointError, official_state_dict
from modeling_umt.labels_umt import load_labels
from modeling_umt.position_embeddings_umt import position_table
from umt_training.cli import main

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def block_shapes(prefix: str, dim: int, depth: int, mlp: int) -> dict[str, tuple[int, ...]]:
    """Patch embedding and blocks under their official keys."""
    shapes = {f"{prefix}patch_embed.proj.weight": (dim, 3, 1, 16, 16), f"{prefix}patch_embed.proj.bias": (dim,)}
    for i in range(depth):
        block = f"{prefix}blocks.{i}"
        shapes |= {f"{block}.{norm}.{kind}": (dim,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        shapes |= {f"{block}.attn.q_bias": (dim,), f"{block}.attn.v_bias": (dim,)}
        shapes |= {f"{block}.attn.qkv.weight": (3 * dim, dim)}
        shapes |= {f"{block}.attn.proj.weight": (dim, dim), f"{block}.attn.proj.bias": (dim,)}
        shapes |= {f"{block}.mlp.fc1.weight": (mlp, dim), f"{block}.mlp.fc1.bias": (mlp,)}
        shapes |= {f"{block}.mlp.fc2.weight": (dim, mlp), f"{block}.mlp.fc2.bias": (dim,)}
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def classifier_state(classes: int = 5, dim: int = 32, depth: int = 2, mlp: int = 48, dtype=torch.float32) -> dict:
    shapes = block_shapes("", dim, depth, mlp) | {"fc_norm.weight": (dim,), "fc_norm.bias": (dim,)}
    return random_state(shapes | {"head.weight": (classes, dim), "head.bias": (classes,)}, dtype)


def detection_state(classes: int = 5, dim: int = 32, depth: int = 2, mlp: int = 48, dtype=torch.float32) -> dict:
    shapes = block_shapes("", dim, depth, mlp) | {"norm.weight": (dim,), "norm.bias": (dim,)}
    return random_state(shapes | {"head.weight": (classes, dim), "head.bias": (classes,)}, dtype)


def stage1_state(
    dim: int = 32, depth: int = 2, mlp: int = 48, decoders: int = 2, target: int = 12, dtype=None
) -> dict:
    shapes = block_shapes("encoder.", dim, depth, mlp)
    shapes |= {"encoder.norm.weight": (dim,), "encoder.norm.bias": (dim,)}
    for k in range(decoders):
        shapes |= {f"clip_decoder.{k}.head.weight": (target, dim), f"clip_decoder.{k}.head.bias": (target,)}
        shapes |= {f"clip_decoder.{k}.norm.weight": (target,), f"clip_decoder.{k}.norm.bias": (target,)}
    return random_state(shapes, dtype or torch.float32)


def mvd_state(dim: int = 32, depth: int = 2, mlp: int = 48, dtype: torch.dtype = torch.float32) -> dict:
    """A student of MVD without position tables, its decoders of one block."""
    shapes = block_shapes("", dim, depth, mlp) | {"norm.weight": (dim,), "norm.bias": (dim,)}
    for target, target_dim in (("img", 12), ("vid", 8)):
        decoder = f"decoder_{target}."
        blocks = block_shapes(decoder, dim, 1, 4 * dim)
        shapes |= {key: shape for key, shape in blocks.items() if "patch_embed" not in key}
        shapes |= {f"mask_token_{target}": (1, 1, dim)}
        shapes |= {f"down_{target}.weight": (dim, dim), f"down_{target}.bias": (dim,)}
        shapes |= {f"{decoder}norm.weight": (dim,), f"{decoder}norm.bias": (dim,)}
        shapes |= {f"{decoder}head.weight": (target_dim, dim), f"{decoder}head.bias": (target_dim,)}
    return random_state(shapes, dtype)


def teacher_state(dim: int = 32, depth: int = 2, mlp: int = 48, dtype: torch.dtype = torch.float32) -> dict:
    """An extracted CLIP tower of 4 x 4 patches."""
    shapes = {"class_embedding": (dim,), "positional_embedding": (17, dim), "proj": (dim, 12)}
    shapes |= {"conv1.weight": (dim, 3, 16, 16)}
    shapes |= {f"{norm}.{kind}": (dim,) for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    for i in range(depth):
        block = f"transformer.resblocks.{i}"
        shapes |= {f"{block}.{norm}.{kind}": (dim,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * dim, dim), f"{block}.attn.in_proj_bias": (3 * dim,)}
        shapes |= {f"{block}.attn.out_proj.weight": (dim, dim), f"{block}.attn.out_proj.bias": (dim,)}
        shapes |= {f"{block}.mlp.c_fc.weight": (mlp, dim), f"{block}.mlp.c_fc.bias": (mlp,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (dim, mlp), f"{block}.mlp.c_proj.bias": (dim,)}
    return random_state(shapes, dtype)


def stage1_config(**fields) -> UMTConfig:
    return UMTConfig(**SMALL, num_aligned_layers=2, target_dim=12, **fields)


def teacher_config(**fields) -> UMTTeacherConfig:
    sizes = {"image_size": 64, "patch_size": 16, "projection_dim": 12, "num_aligned_layers": 2}
    return UMTTeacherConfig(**SMALL, **sizes | fields)


KINDS = {
    "classification": (classifier_state, UMTConfig(**SMALL)),
    "detection": (detection_state, UMTConfig(**SMALL)),
    "mvd": (mvd_state, UMTConfig(**SMALL, decoder_num_hidden_layers=1)),
    "stage1": (stage1_state, stage1_config()),
    "teacher": (teacher_state, teacher_config()),
}


@pytest.fixture(params=KINDS)
def small(request):
    """`(state, config)` of each kind of file."""
    make, config = KINDS[request.param]
    return make(), config


# --- published sizes ------------------------------------------------------------------------------------------------


def recorded_shapes(name: str) -> dict:
    description, _ = load_recorded("full_size_keys")
    return description["models"][name]


def convert_shapes(monkeypatch, state: dict) -> tuple[type, UMTConfig, dict]:
    """A conversion without loading the weights: `(class, config, tensors under our names)`."""

    def loaded(cls, path, config, state_dict, dtype):
        return cls, config, state_dict

    for model_class in (UMTForPreTraining, UMTForVideoClassification, UMTForActionDetection, UMTTeacherModel):
        monkeypatch.setattr(model_class, "from_pretrained", classmethod(loaded))
    return convert_umt_checkpoint(state)


@pytest.mark.parametrize("size, target_dim", [("b16", 512), ("l16", 768)])
def test_published_stage1_keys_convert_with_nothing_left_over(monkeypatch, size, target_dim):
    recorded = recorded_shapes(f"stage1_{size}")
    state = {key: torch.empty(shape, device="meta") for key, shape in recorded["keys"].items()}
    model_class, config, ours = convert_shapes(monkeypatch, state)
    assert model_class is UMTForPreTraining
    assert sum(tensor.numel() for tensor in ours.values()) == recorded["parameters"]
    assert (config.num_aligned_layers, config.target_dim) == (6, target_dim)
    assert (config.num_frames, config.image_size, config.position_grid) == (8, 224, [8, 14, 14])
    assert_published_size(config, size)


def classifier_variants():
    sizes = [(size, f"{image}_f{frames}_c{classes}") for size in ("b16", "l16") for image in (224, 384)
             for frames in (8, 16) for classes in (400, 710, 174)]  # fmt: skip
    return pytest.mark.parametrize("size, variant", sizes)


@classifier_variants()
def test_published_classifier_keys_convert_with_nothing_left_over(monkeypatch, size, variant):
    recorded = recorded_shapes(f"classifier_{size}")
    differs = recorded["variants"][variant]
    state = {key: torch.empty(shape, device="meta") for key, shape in (recorded["keys"] | differs["differs"]).items()}
    image, frames, classes = (int(part.lstrip("fc")) for part in variant.split("_"))
    table_values = 0
    if "pos_embed" in state:
        grid, dim = (frames, image // 16, image // 16), state["head.weight"].shape[1]
        state["pos_embed"] = position_table(grid, dim, [8, 14, 14])[None]
        table_values = state["pos_embed"].numel()
    model_class, config, ours = convert_shapes(monkeypatch, state)
    assert model_class is UMTForVideoClassification
    assert sum(tensor.numel() for tensor in ours.values()) == differs["parameters"] - table_values
    assert (config.num_frames, config.image_size, config.num_labels) == (frames, image, classes)
    assert (list(config.position_grid), config.final_norm) == ([8, 14, 14], "pooled")
    assert_published_size(config, size)


@pytest.mark.parametrize("size", ["b16", "l16"])
def test_published_detection_keys_convert_with_nothing_left_over(monkeypatch, size):
    recorded = recorded_shapes(f"ava_{size}")
    state = {key: torch.empty(shape, device="meta") for key, shape in recorded["keys"].items()}
    model_class, config, ours = convert_shapes(monkeypatch, state)
    assert model_class is UMTForActionDetection
    assert sum(tensor.numel() for tensor in ours.values()) == recorded["parameters"]
    assert (config.num_frames, config.image_size, config.final_norm) == (8, 224, "tokens")
    assert list(config.position_grid) == [8, 14, 14]
    assert list(config.id2label.values()) == load_labels("ava")
    assert_published_size(config, size)


@pytest.mark.parametrize("flat_kernel", [True, False], ids=["as-extracted", "as-in-the-official-model"])
@pytest.mark.parametrize(
    "name, rows, image_size, patch_size, target_dim",
    [
        ("clip_b16_224", 197, 224, 16, 512),
        ("clip_l14_196", 197, 196, 14, 768),
        ("clip_l14_196", 257, 196, 14, 768),  # as in the file: 16 x 16, resized to the student's 14 x 14
        ("clip_l14_336_336", 577, 336, 14, 768),
    ],
)
def test_published_teacher_keys_convert_with_nothing_left_over(
    monkeypatch, name, rows, image_size, patch_size, target_dim, flat_kernel
):
    recorded = recorded_shapes(f"teacher_{name}")
    state = {key: torch.empty(shape, device="meta") for key, shape in recorded["keys"].items()}
    state["positional_embedding"] = torch.empty(rows, state["class_embedding"].shape[0], device="meta")
    if flat_kernel:
        state["conv1.weight"] = state["conv1.weight"].squeeze(2)
    model_class, config, ours = convert_shapes(monkeypatch, state)
    assert model_class is UMTTeacherModel
    with torch.device("meta"):
        expected = {key: tensor.shape for key, tensor in UMTTeacherModel(config).state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.items()} == expected
    assert sum(tensor.numel() for tensor in ours.values()) == recorded["parameters"]
    sizes = (config.image_size, config.patch_size, config.projection_dim, config.hidden_act, config.layer_norm_eps)
    assert sizes == (image_size, patch_size, target_dim, "quick_gelu", 1e-5)
    actual = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert actual == PUBLISHED_SIZES[name[5:8]]


PUBLISHED_SIZES = {"b16": (768, 12, 12, 3072), "l16": (1024, 24, 16, 4096), "l14": (1024, 24, 16, 4096)}


def assert_published_size(config: UMTConfig, size: str) -> None:
    actual = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert actual == PUBLISHED_SIZES[size]
    assert (config.patch_size, config.tubelet_size, config.num_channels) == (16, 1, 3)


@pytest.mark.parametrize("dim, heads, target_dim", [(768, 12, 512), (1024, 16, 768)])
def test_a_published_size_requires_no_configuration(dim, heads, target_dim):
    """A complete conversion with the published hidden size (fewer and narrower blocks)."""
    model = convert_umt_checkpoint(stage1_state(dim, 6, 8, decoders=6, target=target_dim, dtype=torch.float16))
    assert (model.config.num_attention_heads, model.config.target_dim) == (heads, target_dim)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32} and not model.training


# --- round trip -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_back_to_the_official_layout_bit_for_bit(kind, dtype):
    make, config = KINDS[kind]
    state = make(dtype=dtype)
    back = official_state_dict(convert_umt_checkpoint(state, config))
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert back[key].dtype == torch.float32 and torch.equal(back[key].to(dtype), tensor), key


def test_the_bare_encoder_has_no_official_layout():
    with pytest.raises(UnsupportedCheckpointError, match="UMTModel has no official layout"):
        official_state_dict(UMTModel(UMTConfig(**SMALL)))


@pytest.mark.parametrize(
    "pooling, weight", [("attention", r"attention_pooling\.query"), ("frames", r"frame_pooling\.fc1\.weight")]
)
def test_weights_without_an_official_key_are_an_error(pooling, weight):
    model = UMTForVideoClassification(UMTConfig(**SMALL, pooling=pooling))
    with pytest.raises(UnsupportedCheckpointError, match=f"no key for .*{weight}"):
        official_state_dict(model)


MASKED = {"masked_targets": {"image": 8}, "decoder_num_hidden_layers": 1}


@pytest.mark.parametrize(
    "model_class, fields, message",
    [
        (UMTForPreTraining, {"num_aligned_layers": 2}, "no official layout with `position_type` 'space_time'"),
        (UMTModel, {"final_norm": "none"}, "no official layout with `position_type` 'space_time'"),
        (UMTForMaskedModeling, MASKED | {"position_type": "flat"}, r"no key for decoders\.image\."),
        (UMTForMaskedModeling, MASKED | {"masked_targets": {"pixels": 768}}, r"no key for decoders\.pixels\."),
    ],
)
def test_models_that_a_layout_would_turn_into_others_are_refused(model_class, fields, message):
    """An official file does not contain its position table, so what reads it would compute another one."""
    model = model_class(UMTConfig(**SMALL, **{"position_type": "space_time", **fields}))
    with pytest.raises(UnsupportedCheckpointError, match=message):
        official_state_dict(model)


def test_every_weight_is_assigned_to_its_module():
    state = classifier_state()
    model = convert_umt_checkpoint(state, UMTConfig(**SMALL))
    attention = model.umt.layers[1].attention
    for i, projection in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
        assert torch.equal(projection.weight, state["blocks.1.attn.qkv.weight"][32 * i : 32 * (i + 1)])
    assert torch.equal(attention.v_proj.bias, state["blocks.1.attn.v_bias"]) and attention.k_proj.bias is None
    clip = torch.randn(1, 1, 3, 16, 16)
    convolved = torch.nn.functional.conv3d(
        clip.transpose(1, 2), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=(1, 16, 16)
    )
    patches = model.umt.embeddings.patch_embeddings(clip.flatten(2))
    torch.testing.assert_close(patches.flatten(), convolved.flatten(), rtol=1e-5, atol=1e-4)


def test_the_model_shares_no_memory_with_the_checkpoint(small, tmp_path):
    state, config = small
    before = {key: tensor.clone() for key, tensor in state.items()}
    torch.save(state, tmp_path / "file.pth")
    for checkpoint in (state, tmp_path / "file.pth"):
        model = convert_umt_checkpoint(checkpoint, config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
    size = (tmp_path / "file.pth").stat().st_size
    weights = [parameter.clone() for parameter in model.parameters()]
    with open(tmp_path / "file.pth", "r+b") as file:
        file.write(bytes(size))
    assert all(torch.equal(parameter, kept) for parameter, kept in zip(model.parameters(), weights, strict=True))


# --- containers and files -------------------------------------------------------------------------------------------

CONTAINERS = {
    "flat": lambda state: state,
    "training": lambda state: {
        "model": state,
        "optimizer": {"state": {}},
        "epoch": 3,
        "args": argparse.Namespace(a=1),
    },
    "deepspeed": lambda state: {"module": state, "epoch": 3, "lr_scheduler": None},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers(small, container, zipped, tmp_path):
    state, config = small
    wrapped = CONTAINERS[container](state)
    path = tmp_path / "file.pth"
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    for checkpoint in (wrapped, path, str(path)):
        back = official_state_dict(convert_umt_checkpoint(checkpoint, config))
        assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_with_code_is_refused_and_nothing_runs(small, zipped, tmp_path):
    state, config = small
    loot = tmp_path / "loot"
    contents = {"model": state, "args": argparse.Namespace(hidden=_Attack(loot))}
    torch.save(contents, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil.pth' was refused: it would call \w+\.mkdir.*no code"):
        convert_umt_checkpoint(tmp_path / "evil.pth", config)
    assert not loot.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)  # the attack works when code is allowed
    assert loot.exists()


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<!DOCTYPE html>",
        pickle.dumps({"model": {}}, protocol=2),
    ],
    ids=["empty", "lfs-pointer", "web-page", "pickle"],
)
def test_files_of_another_kind_are_refused(contents, tmp_path):
    path = tmp_path / "l16_ptk710_f8_res224.pth"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"f8_res224.pth' was refused.*truncated, or a file of another kind\?"):
        convert_umt_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damaged_files_are_refused_whatever_the_damage(zipped, tmp_path):
    path = tmp_path / "file.pth"
    contents = {"model": classifier_state(), "args": argparse.Namespace(a=1)}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    complete, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(complete[: rng.randrange(len(complete))])
        with pytest.raises(ValueError, match=r"file.pth' was refused.*truncated"):
            convert_umt_checkpoint(path, UMTConfig(**SMALL))


def test_a_file_that_does_not_exist_is_an_error(tmp_path):
    for missing in (tmp_path / "nothing.pth", tmp_path, "nothing.pth"):
        with pytest.raises(FileNotFoundError, match=r"checkpoint .* does not exist; give the path of a `.pth` file"):
            convert_umt_checkpoint(missing)


# --- keys that do not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [1, 5, -1])
def test_missing_unexpected_and_misshaped_keys_are_listed(small, position):
    state, config = small
    inner = [key for key in state if "blocks." in key]  # not the keys by which the kind is detected
    key = inner[position]
    without = {name: tensor for name, tensor in state.items() if name != key}
    with pytest.raises(ValueError, match=rf"Missing keys \(1\): {key}\. "):
        convert_umt_checkpoint(without, config)
    with pytest.raises(ValueError, match=rf"Missing keys \(1\): {key}\. Unexpected keys \(1\): {key}s\. "):
        convert_umt_checkpoint({**without, f"{key}s": state[key]}, config)
    with pytest.raises(ValueError, match=rf"Missing keys \(0\): -\. Unexpected keys \(1\): {key}s\. "):
        convert_umt_checkpoint({**state, f"{key}s": state[key]}, config)
    shape = tuple(state[key].shape)
    wrong = torch.zeros(shape[0] + 1, *shape[1:])
    with pytest.raises(ValueError) as error:
        convert_umt_checkpoint({**state, key: wrong}, config)
    assert f"Misshaped keys (1): {key} {tuple(wrong.shape)} instead of {shape}" in str(error.value)


def test_all_faults_are_listed_at_once():
    state = classifier_state()
    del state["blocks.0.norm1.bias"], state["fc_norm.bias"]
    state["blocks.1.attn.qkv.weight"] = torch.zeros(95, 32)
    state["blocks.0.gamma_1"] = torch.zeros(32)
    with pytest.raises(ValueError) as error:
        convert_umt_checkpoint(state, UMTConfig(**SMALL))
    assert "Missing keys (2): blocks.0.norm1.bias, fc_norm.bias." in str(error.value)
    assert "Unexpected keys (1): blocks.0.gamma_1." in str(error.value)
    assert "Misshaped keys (1): blocks.1.attn.qkv.weight (95, 32) instead of (96, 32)." in str(error.value)


def test_a_configuration_of_another_size_is_an_error(small):
    state, config = small
    deeper = type(config).from_dict({**config.to_dict(), "num_hidden_layers": 3})
    with pytest.raises(ValueError, match=r"Missing keys \(1[23]\): .*blocks\.2\.attn\.(out_)?proj\.bias"):
        convert_umt_checkpoint(state, deeper)
    with pytest.raises(ValueError, match=r"of hidden size 32 was never published.*Give `config`"):
        convert_umt_checkpoint(state)


def test_a_configuration_with_parts_that_no_file_contains_is_refused():
    with pytest.raises(ValueError, match=r"no official checkpoint contains: attention_pooling\.fc1\.bias, "):
        convert_umt_checkpoint(classifier_state(), UMTConfig(**SMALL, pooling="attention"))


def test_a_teacher_of_another_form_is_an_error():
    state, config = teacher_state(), teacher_config()
    with pytest.raises(ValueError, match=r"'conv1.weight' \(32, 3, 2, 16, 16\) spans several frames"):
        convert_umt_checkpoint({**state, "conv1.weight": torch.zeros(32, 3, 2, 16, 16)}, config)
    with pytest.raises(ValueError, match=r"positional_embedding \(19, 32\) instead of \(17, 32\)"):
        convert_umt_checkpoint({**state, "positional_embedding": torch.zeros(19, 32)}, config)  # not a square
    del state["proj"]
    with pytest.raises(ValueError, match=r"Missing keys: proj\. The checkpoint is not a complete CLIP vision tower"):
        convert_umt_checkpoint(state)


UNSUPPORTED = {
    "no-state-dict": ({"model": [1, 2]}, "a mapping from names to tensors was expected"),
    "optimizer": ({0: torch.zeros(1)}, "a mapping from names to tensors was expected"),
    "empty": ({}, "not those of a UMT checkpoint .*none"),
    "other-network": (
        {"layer1.0.conv1.weight": torch.zeros(1)},
        "not those of a UMT checkpoint .*layer1.0.conv1.weight",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_files_raise_a_named_error(name):
    state, message = UNSUPPORTED[name]
    with pytest.raises(UnsupportedCheckpointError, match=message):
        convert_umt_checkpoint(state)


def test_a_detection_file_has_the_table_of_its_own_grid_and_the_names_of_its_classes(tmp_path):
    """The official model computes the table for its frames and never resizes it in time."""
    clips = {"num_frames": 16, "tubelet_size": 1, "image_size": 48}
    config = UMTConfig(**SMALL, **clips, num_labels=3, id2label={0: "sit", 1: "talk", 2: "walk"})
    model = convert_umt_checkpoint(detection_state(classes=3), config)
    assert (list(model.config.position_grid), model.config.final_norm) == ([16, 3, 3], "tokens")
    assert model.config.id2label == {0: "sit", 1: "talk", 2: "walk"}
    assert convert_umt_checkpoint(detection_state(), config).config.id2label[4] == "LABEL_4"
    of_ava = convert_umt_checkpoint(detection_state(classes=80), config)
    assert of_ava.config.label2id["watch (a person)"] == 79 and of_ava.config.id2label[0] == "bend/bow (at the waist)"
    assert convert_umt_checkpoint(detection_state(classes=174), config).config.id2label[0] == "LABEL_0"
    named = convert_umt_checkpoint(detection_state(classes=174), config, labels="ssv2")
    assert named.config.id2label[0] == load_labels("ssv2")[0]
    with pytest.raises(ValueError, match="has 80 classes, but the checkpoint's head has 5"):
        convert_umt_checkpoint(detection_state(), config, labels="ava")
    for frames in (8, 16):
        path = tmp_path / f"b16_ptk710_ftk710_ftava_f{frames}_res224.pth"
        torch.save(detection_state(classes=80, dim=768, depth=1, mlp=8, dtype=torch.float16), path)
        published = convert_umt_checkpoint(path).config
        assert (published.num_frames, list(published.position_grid)) == (frames, [frames, 14, 14])


def test_a_norm_on_tokens_without_a_head_is_no_detection_file():
    state = detection_state()
    del state["head.weight"]
    with pytest.raises(ValueError, match=r"Missing key: head.weight. The checkpoint contains no head for actions"):
        convert_umt_checkpoint(state, UMTConfig(**SMALL))


def test_single_modality_files_have_no_parts(small):
    state, config = small
    for part in ("teacher", "video"):
        with pytest.raises(ValueError, match=f"has no part '{part}'"):
            convert_umt_checkpoint(state, config, part=part)


# --- position tables ------------------------------------------------------------------------------------------------


def f16_table(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return position_table((16, 3, 2), 32, [8, 14, 14]).to(dtype)[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_stored_table_that_equals_the_computed_one_is_dropped(dtype):
    config = UMTConfig(**SMALL, num_frames=16, image_size=[48, 32])
    state = classifier_state()
    model = convert_umt_checkpoint({**state, "pos_embed": f16_table(dtype)}, config)
    assert torch.equal(model.umt.embeddings.position_embeddings[None], f16_table())
    assert "pos_embed" not in official_state_dict(model)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table + 3e-5 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0)),
        lambda table: table.half() * 1.005,
        lambda table: table.flip(1),
        lambda table: table[:, :-6],
        lambda table: table * float("nan"),
    ],
    ids=["trained", "half", "order", "shape", "nan"],
)
def test_any_other_table_is_an_error(spoil):
    config = UMTConfig(**SMALL, num_frames=16, image_size=[48, 32])
    with pytest.raises(ValueError, match=r"'pos_embed' of shape .* computed for 16 frames of \[48, 32\] pixels"):
        convert_umt_checkpoint({**classifier_state(), "pos_embed": spoil(f16_table())}, config)


def test_the_recorded_perturbed_table_is_an_error():
    recorded, tensors = load_recorded("classifier_small_pos_perturbed")
    state = sub_state(tensors)
    sizes = {"hidden_size": 36, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 144}
    config = UMTConfig(**sizes, image_size=recorded["constructor"]["img_size"])
    with pytest.raises(ValueError, match=r"'pos_embed'.*is not the position table"):
        convert_umt_checkpoint(state, config)
    computed = tensors["expected/pos_embed_table"]
    assert convert_umt_checkpoint({**state, "pos_embed": computed}, config).config.image_size == 64


# --- clip sizes and names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, frames, size",
    [
        ("l16_ptk710_ftk710_ftk400_f16_res224.pth", 16, 224),
        ("b16_ptk710_ftk710_ftk400_ftmitv1_f8_res384.pth", 8, 384),
        ("checkpoint-best.pth", 8, 224),
    ],
)
def test_frames_and_resolution_follow_from_an_official_file_name(name, frames, size, tmp_path):
    torch.save(classifier_state(dim=768, depth=1, mlp=8), tmp_path / name)
    config = convert_umt_checkpoint(tmp_path / name).config
    assert (config.num_frames, config.image_size) == (frames, size)


def test_a_file_name_that_contradicts_the_table_is_an_error(tmp_path):
    state = classifier_state(dim=768, depth=1, mlp=8)
    state["pos_embed"] = position_table((16, 14, 14), 768, [8, 14, 14])[None]
    torch.save(state, tmp_path / "b16_ptk710_f8_res224.pth")
    with pytest.raises(ValueError, match=r"'pos_embed' of shape \(1, 3136, 768\).*8 frames of 224 pixels"):
        convert_umt_checkpoint(tmp_path / "b16_ptk710_f8_res224.pth")
    assert convert_umt_checkpoint(state).config.num_frames == 16


def test_a_given_configuration_overrides_sizes_only():
    config = stage1_config(num_frames=4, image_size=64, final_norm="pooled", position_grid=[1, 2, 3])
    model = convert_umt_checkpoint(stage1_state(), config)
    assert (model.config.num_frames, model.config.image_size) == (4, 64)
    assert (model.config.final_norm, list(model.config.position_grid)) == ("tokens", [4, 4, 4])
    assert model.config.decoder_layer_norm_eps == 1e-6

    config = UMTConfig(**SMALL, num_frames=4, image_size=64, position_grid=None, drop_path_rate=0.1)
    model = convert_umt_checkpoint(classifier_state(), config)
    assert (model.config.num_frames, model.config.image_size, model.config.drop_path_rate) == (4, 64, 0.1)
    assert (model.config.final_norm, list(model.config.position_grid)) == ("pooled", [8, 14, 14])
    assert (config.final_norm, config.position_grid) == ("tokens", None)  # the caller's object is unchanged


# --- class names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["k400", "k600", "k700", "k710"])
def test_kinetics_heads_have_the_recorded_official_names(name, recorded):
    names = recorded("internvideo2_class_orders")[0]["names"][name]
    for labels in (None, name):
        config = convert_umt_checkpoint(classifier_state(len(names)), UMTConfig(**SMALL), labels=labels).config
        assert [config.id2label[index] for index in range(len(names))] == names
        assert config.label2id[names[3]] == 3 and config.num_labels == len(names)


@pytest.mark.parametrize(
    "labels, name", [(None, "ssv2"), ("k400_alphabetical", "k400_alphabetical"), ("mitv1", "mitv1")]
)
def test_other_heads_have_the_names_of_their_list(labels, name):
    names = load_labels(name)
    config = convert_umt_checkpoint(classifier_state(len(names)), UMTConfig(**SMALL), labels=labels).config
    assert [config.id2label[index] for index in range(len(names))] == names


def test_a_head_of_unverified_order_gets_names_only_on_request():
    config = convert_umt_checkpoint(classifier_state(339), UMTConfig(**SMALL)).config
    assert config.id2label[0] == "LABEL_0" and config.num_labels == 339


def test_wrong_label_lists_are_refused():
    with pytest.raises(ValueError, match="'k600' has 600 classes, but the checkpoint's head has 5"):
        convert_umt_checkpoint(classifier_state(), UMTConfig(**SMALL), labels="k600")
    with pytest.raises(
        ValueError, match="Unknown label list 'k500'; choose one of ava, k400, k400_alphabetical, k600"
    ):
        convert_umt_checkpoint(classifier_state(), UMTConfig(**SMALL), labels="k500")
    with pytest.raises(ValueError, match="stage1 file"):
        convert_umt_checkpoint(stage1_state(), stage1_config(), labels="k400")


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def official_file(small, tmp_path):
    state, config = small
    torch.save(state, tmp_path / "official.pth")
    config.save_pretrained(tmp_path / "config")
    return tmp_path / "official.pth", state


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_command_writes_a_folder_that_transformers_loads_and_converts_back(official_file, tmp_path, capsys):
    path, state = official_file
    folder = tmp_path / "new" / "folder"
    assert run("convert", path, folder, "--config", tmp_path / "config") == 0
    output = capsys.readouterr().out
    class_name = output.split(": ")[1].split(",")[0]
    auto = {"UMTForPreTraining": AutoModelForPreTraining, "UMTForVideoClassification": AutoModelForVideoClassification}
    auto |= {"UMTForActionDetection": AutoModelForObjectDetection, "UMTForMaskedModeling": AutoModelForPreTraining}
    model, info = auto.get(class_name, AutoModel).from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == class_name
    assert not any(info.values()) and f"{model.num_parameters():,} parameters" in output
    assert all(torch.equal(tensor, state[key]) for key, tensor in official_state_dict(model).items())
    _, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]

    if class_name != "UMTTeacherModel":  # its clips are the student's
        processor = AutoVideoProcessor.from_pretrained(folder)
        frames = torch.zeros(8, 3, 240, 320, dtype=torch.uint8)
        clip = processor(frames, return_tensors="pt")["pixel_values_videos"]
        height, width = (256, 352) if class_name == "UMTForActionDetection" else (224, 224)
        assert clip.shape == (1, 8, 3, height, width)

    assert run("convert", folder, tmp_path / "back.pth", "--to-official") == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == state.keys() and all(torch.equal(back[key], tensor) for key, tensor in state.items())
    assert not [entry.name for entry in tmp_path.rglob("*") if entry.name.startswith(".") or entry.suffix == ".tmp"]


def test_command_saves_half_precision(official_file, tmp_path):
    path, state = official_file
    assert run("convert", path, tmp_path / "half", "--config", tmp_path / "config", "--dtype", "float16") == 0
    model = AutoModel.from_pretrained(tmp_path / "half")
    assert model.dtype == torch.float16
    assert run("convert", tmp_path / "half", tmp_path / "h.pth", "--to-official", "--dtype", "float16") == 0
    back = torch.load(tmp_path / "h.pth", weights_only=True)
    assert all(torch.equal(back[key], tensor.half()) for key, tensor in state.items())


def test_command_reports_errors_and_leaves_no_files(official_file, tmp_path, capsys):
    path, state = official_file
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("kept")
    assert run("convert", path, full, "--config", tmp_path / "config") == 1
    assert "exists already" in capsys.readouterr().err
    assert [entry.name for entry in full.iterdir()] == ["precious.txt"]

    assert run("convert", tmp_path / "nothing.pth", tmp_path / "out") == 1
    assert "does not exist" in capsys.readouterr().err
    assert run("convert", path, tmp_path / "out") == 1
    assert "Give `config`" in capsys.readouterr().err
    state.popitem()
    torch.save(state, path)
    assert run("convert", path, tmp_path / "out", "--config", tmp_path / "config") == 1
    assert "Missing keys (1)" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"official.pth", "config", "full"}
