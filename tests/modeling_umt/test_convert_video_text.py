"""Conversion of multi-modality files: stage 2, retrieval, question answering, and their parts."""

import hashlib

import pytest
import torch
from recorded import load_recorded
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForVisualQuestionAnswering, AutoProcessor

from modeling_umt import (
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
    UMTVideoTextConfig,
    UMTVideoTextModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from umt_training.cli import main

VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"intermediate_size": 48, "num_aligned_layers": 2, "target_dim": 12}
TEXT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "fusion_layer": 1}
TEXT |= {"intermediate_size": 48, "max_position_embeddings": 16}
TEACHER = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEACHER |= {"intermediate_size": 24, "projection_dim": 12, "num_aligned_layers": 2}

# kind of file: class, and the prefix of each text model
KINDS = {
    "pretrain": (UMTForVideoTextPreTraining, ["text_encoder.bert."]),
    "retrieval": (UMTVideoTextModel, ["text_encoder."]),
    "vqa": (UMTForVideoQuestionAnswering, ["text_encoder.", "text_decoder.bert."]),
}


def small_config(**fields) -> UMTVideoTextConfig:
    return UMTVideoTextConfig(vision_config=VISION, text_config=TEXT, projection_dim=12, **fields)


def small_state(kind: str) -> dict[str, torch.Tensor]:
    """A file of small sizes in the official layout; its keys are tested against the recorded lists."""
    model_class, prefixes = KINDS[kind]
    torch.manual_seed(0)
    state = official_state_dict(model_class(small_config()))
    state |= {f"{prefix}embeddings.position_ids": torch.arange(16)[None] for prefix in prefixes}
    if kind == "pretrain":
        teacher = official_state_dict(UMTTeacherModel(UMTTeacherConfig(**TEACHER)))
        state |= {f"clip_teacher.{key}": tensor for key, tensor in teacher.items()}
        state["clip_teacher.conv1.weight"] = state["clip_teacher.conv1.weight"].unsqueeze(2)
    return state


def recorded_model(kind: str, size: str) -> dict:
    return load_recorded("full_size_keys")[0]["models"][f"multimodal_{kind}_{size}"]


def full_size_state(kind: str, size: str) -> dict[str, torch.Tensor]:
    """The recorded keys and shapes, without values."""
    state = {key: torch.empty(shape, device="meta") for key, shape in recorded_model(kind, size)["keys"].items()}
    return state | {key: torch.arange(512)[None] for key in state if key.endswith("position_ids")}


@pytest.fixture
def until_loading(monkeypatch):
    """Conversions stop before loading and return `(class, config, tensors under our names)`."""

    def loaded(cls, path, config, state_dict, dtype):
        return cls, config, state_dict

    for model_class in (*(model_class for model_class, _ in KINDS.values()), UMTModel, UMTTeacherModel):
        monkeypatch.setattr(model_class, "from_pretrained", classmethod(loaded))
    # tensors without values can't be compared
    monkeypatch.setattr(torch, "equal", lambda one, other: one.shape == other.shape)


@pytest.mark.parametrize("size", ["b16", "l16"])
@pytest.mark.parametrize("kind", KINDS)
def test_published_keys_convert_with_nothing_left_over(until_loading, kind, size):
    model_class, config, ours = convert_umt_checkpoint(full_size_state(kind, size))
    assert model_class is KINDS[kind][0]
    with torch.device("meta"):
        model = model_class(config)
    assert {key: tensor.shape for key, tensor in ours.items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()
    }
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == recorded_model(kind, size)["parameters_without_teacher"]
    )
    wide = size == "l16"
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_attention_heads) == ((1024, 16) if wide else (768, 12))
    assert (text.num_hidden_layers, text.fusion_layer, text.num_attention_heads) == (
        (24, 19, 16) if wide else (12, 9, 12)
    )
    assert (vision.position_grid, vision.final_norm, vision.decoder_layer_norm_eps) == (None, "tokens", 1e-5)
    assert config.num_frames == (4 if kind == "pretrain" else 12)
    if kind == "pretrain":
        assert (config.projection_dim, vision.num_aligned_layers) == (768 if wide else 512, 6)


@pytest.mark.parametrize("size", ["b16", "l16"])
def test_parts_of_published_files(until_loading, size):
    state = full_size_state("pretrain", size)
    model_class, config, ours = convert_umt_checkpoint(state, part="teacher")
    assert model_class is UMTTeacherModel and config.image_size == {"b16": 224, "l16": 196}[size]
    for kind in KINDS:
        model_class, config, ours = convert_umt_checkpoint(full_size_state(kind, size), part="video")
        assert model_class is UMTModel and config.num_frames == (4 if kind == "pretrain" else 12)
        with torch.device("meta"):
            assert ours.keys() == model_class(config).state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_conversion_is_reversible(kind):
    state = small_state(kind)
    model = convert_umt_checkpoint({"model": state}, small_config())
    assert type(model) is KINDS[kind][0] and not model.training
    back = official_state_dict(model)
    learned = {key for key in state if "position_ids" not in key and not key.startswith("clip_teacher.")}
    assert back.keys() == learned and all(torch.equal(back[key], state[key]) for key in learned)


@pytest.mark.parametrize("mlm_weight, uta_weight", [(0, 0), (1, 0), (0, 1)])
def test_the_conversion_without_a_head_is_reversible(mlm_weight, uta_weight):
    """Without the heads of both objectives the model and its file are those of retrieval."""
    torch.manual_seed(0)
    model = UMTForVideoTextPreTraining(small_config(mlm_weight=mlm_weight, uta_weight=uta_weight))
    back = convert_umt_checkpoint(official_state_dict(model), model.config)
    if mlm_weight == uta_weight == 0:
        assert type(back) is UMTVideoTextModel
        model = model.video_text
    state = model.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_video_part_is_the_encoder_of_the_complete_model(kind):
    state, config = small_state(kind), small_config()
    model, part = convert_umt_checkpoint(state, config), convert_umt_checkpoint(state, config.vision_config, "video")
    encoder = model.video_text.vision_model if kind == "pretrain" else model.vision_model
    clip = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(part(clip).last_hidden_state, encoder(clip).last_hidden_state)


def test_the_teacher_part():
    teacher = convert_umt_checkpoint(small_state("pretrain"), UMTTeacherConfig(**TEACHER), part="teacher")
    assert isinstance(teacher, UMTTeacherModel)


@pytest.mark.parametrize("kind", ["retrieval", "vqa"])
def test_only_stage2_files_have_a_teacher(kind):
    with pytest.raises(ValueError, match="has no part 'teacher'"):
        convert_umt_checkpoint(small_state(kind), small_config(), part="teacher")


def test_unpublished_sizes_require_a_configuration():
    with pytest.raises(ValueError, match="hidden size 32 was never published"):
        convert_umt_checkpoint(small_state("retrieval"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_or_unexpected_key_is_an_error(kind):
    state = small_state(kind)
    lost = "text_encoder.bert." if kind == "pretrain" else "text_encoder."
    lost += "encoder.layer.2.crossattention.self.key.bias"
    with pytest.raises(ValueError, match=rf"Missing keys \(1\): {lost}\."):
        convert_umt_checkpoint({key: tensor for key, tensor in state.items() if key != lost}, small_config())
    with pytest.raises(ValueError, match=r"Unexpected keys \(1\): text_encoder\.pooler\.weight\."):
        convert_umt_checkpoint(state | {"text_encoder.pooler.weight": torch.zeros(1)}, small_config())


def test_a_stage2_file_with_missing_parts_is_an_error():
    """Without projections, matching head and teacher, as the official `b16_25m` once was."""
    state = small_state("pretrain")
    for key in list(state):
        if key.startswith(("vision_proj", "text_proj", "itm_head", "clip_teacher")):
            del state[key]
    with pytest.raises(ValueError, match=r"Missing keys.*itm_head\.weight.*vision_proj\.weight"):
        convert_umt_checkpoint(state, small_config())


@pytest.mark.parametrize(
    "kind, key, message",
    [
        ("pretrain", "text_encoder.cls.predictions.bias", "are one tensor in the model"),
        ("pretrain", "text_encoder.cls.predictions.decoder.weight", "are one tensor in the model"),
        ("vqa", "text_decoder.cls.predictions.decoder.bias", "are one tensor in the model"),
        ("retrieval", "text_encoder.embeddings.position_ids", "no other order of positions"),
    ],
)
def test_the_two_copies_of_a_tensor_must_agree(kind, key, message):
    state = small_state(kind)
    state[key] = state[key] + 1
    with pytest.raises(ValueError, match=message):
        convert_umt_checkpoint(state, small_config())


def test_a_table_for_another_number_of_frames_is_kept():
    grid = [3, 4, 4]
    vision = VISION | {"position_grid": grid}
    config = UMTVideoTextConfig(vision_config=vision, text_config=TEXT, projection_dim=12)
    assert convert_umt_checkpoint(small_state("retrieval"), config).config.vision_config.position_grid == grid
    vision["position_grid"] = [8, 14, 14]  # the default of UMTConfig
    config = UMTVideoTextConfig(vision_config=vision, text_config=TEXT, projection_dim=12)
    assert convert_umt_checkpoint(small_state("retrieval"), config).config.vision_config.position_grid is None


@pytest.mark.parametrize("kind", KINDS)
def test_command_writes_a_folder_that_transformers_loads_and_converts_back(kind, tmp_path, capsys):
    state = small_state(kind)
    torch.save(state, tmp_path / "official.pth")
    small_config().save_pretrained(tmp_path / "config")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]
    words += [f"[unused{number}]" for number in range(TEXT["vocab_size"] - len(words))]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    options = ["--config", str(tmp_path / "config"), "--vocabulary", str(tmp_path / "vocab.txt")]
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "model"), *options]) == 0
    assert KINDS[kind][0].__name__ in capsys.readouterr().out

    auto_class = {"pretrain": AutoModelForPreTraining, "retrieval": AutoModel}
    auto_class = auto_class.get(kind, AutoModelForVisualQuestionAnswering)
    model, report = auto_class.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(model) is KINDS[kind][0] and not any(report.values())
    assert model.config.vocabulary_hash == hashlib.sha256((tmp_path / "vocab.txt").read_bytes()).hexdigest()
    inputs = AutoProcessor.from_pretrained(tmp_path / "model")(
        text="a dog", videos=torch.zeros(4, 3, 40, 60, dtype=torch.uint8), return_tensors="pt"
    )
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 32, 32)
    assert inputs["input_ids"][0, :4].tolist() == [2, 5, 6, 0]

    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "back.pth"), "--to-official"]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items()) and len(back) > 60

    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words[:-1]))
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "other"), *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "vocab.txt has 39 tokens, but the embedding table of" in error and "official.pth has 40" in error
    assert not (tmp_path / "other").exists()
