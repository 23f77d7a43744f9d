"""The vision tower of VideoChat2 and VideoChat-Flash: recorded values, the parts of files, and files that can't be
distinguished."""

import logging

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, sub_state

from modeling_umt import UMTConfig, UMTForPreTraining, UMTModel, convert_umt_checkpoint
from modeling_umt.convert_umt_checkpoints import TOWER, UnsupportedCheckpointError, official_state_dict
from modeling_umt.official_layout_umt import official_tensors, require_exact_fit
from modeling_umt.official_tower_umt import tower_part
from processing_umt import UMTVideoProcessor

RECORDED = ["f4_224", "f8_224", "f4_288", "image_224", "image_336"]


def file_config(recorded: dict, **fields) -> UMTConfig:
    """The configuration of the file, with all its blocks."""
    return UMTConfig(
        **encoder_sizes(recorded),
        num_frames=recorded["num_frames"],
        num_aligned_layers=recorded["decoders_in_file"],
        target_dim=768,
        **fields,
    )


def as_stage2(state: dict) -> dict:
    """The encoder under the names of a stage-2 file, with what tells the kind."""
    encoder = {f"vision_encoder.{key}": tensor for key, tensor in state.items() if key.startswith("encoder.")}
    return encoder | {"text_encoder.bert.embeddings.word_embeddings.weight": torch.zeros(4, 4)}


@pytest.fixture
def messages():
    """What the package's loggers report, as a list."""

    class Recorder(logging.Handler):
        def __init__(self):
            super().__init__()
            self.texts = []

        def emit(self, record):
            self.texts.append(record.getMessage())

    recorder, logger = Recorder(), logging.getLogger("modeling_umt")
    logger.addHandler(recorder)
    yield recorder.texts
    logger.removeHandler(recorder)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("layout", ["stage1", "stage2"])
@pytest.mark.parametrize("name", RECORDED)
def test_the_tower_gives_the_recorded_tokens(name, layout, implementation):
    description, tensors = load_recorded(f"umt_tower_{name}")
    state = sub_state(tensors)
    file = state if layout == "stage1" else as_stage2(state)
    model = convert_umt_checkpoint(file, file_config(description["constructor"]), part="tower")
    assert type(model) is UMTModel and model.config.num_hidden_layers == description["blocks_run"]
    model.set_attn_implementation(implementation)
    clip, rows = tensors["input/video"].transpose(1, 2), tensors["input/rows"]
    before_norm = []
    model.norm.register_forward_pre_hook(lambda module, inputs: before_norm.append(inputs[0]))
    with torch.no_grad():
        tokens = model(clip).last_hidden_state
    torch.testing.assert_close(tokens, tensors["expected/tokens"], rtol=0, atol=1e-5)
    torch.testing.assert_close(before_norm[0][:, rows], tensors["expected/last_block_rows"], rtol=0, atol=1e-5)
    table = model.embeddings.positions_of(model.embeddings.token_grid(clip), clip.device)
    torch.testing.assert_close(table[rows], tensors["expected/pos_embed_rows"].view(len(rows), -1), rtol=0, atol=1e-6)
    if "expected/tokens_float64" in tensors:
        expected = tensors["expected/tokens_float64"]
        with torch.no_grad():
            tokens = model.double()(clip.double()).last_hidden_state[:, : expected.shape[1]]
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-8)


def test_a_saved_tower_is_the_same(tmp_path):
    description, tensors = load_recorded("umt_tower_image_224")
    config = file_config(description["constructor"])
    convert_umt_checkpoint(sub_state(tensors), config, part="tower").save_pretrained(tmp_path)
    model = UMTModel.from_pretrained(tmp_path)
    with torch.no_grad():
        tokens = model(tensors["input/video"].transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(tokens, tensors["expected/tokens"], rtol=0, atol=1e-5)
    processor = UMTVideoProcessor.for_config(model.config)
    assert dict(processor.size) == {"height": 224, "width": 224} and not processor.do_center_crop
    inputs = processor(torch.zeros(4, 3, 60, 90, dtype=torch.uint8), return_tensors="pt")
    assert inputs.pixel_values_videos.shape == (1, 4, 3, 224, 224)
    with pytest.raises(UnsupportedCheckpointError, match="UMTModel has no official layout"):
        official_state_dict(model)  # its last block is not known


@pytest.mark.parametrize(
    ("file_name", "model_class", "warned"),
    [
        ("UMT-L_f4_vision.pt", UMTModel, False),
        ("l16_ptk710_f8_res224.pth", UMTForPreTraining, False),
        ("vision.pth", UMTForPreTraining, True),
        (None, UMTForPreTraining, True),
    ],
)
def test_a_file_with_the_names_of_stage1_is_known_by_its_name_or_reported(
    file_name, model_class, warned, tmp_path, messages
):
    description, tensors = load_recorded("umt_tower_f4_224")
    state, config = sub_state(tensors), file_config(description["constructor"])
    config.target_dim = state["clip_decoder.0.head.weight"].shape[0]
    file = state
    if file_name is not None:
        file = tmp_path / file_name
        torch.save({"model": state}, file)
    model = convert_umt_checkpoint(file, config)
    assert type(model) is model_class
    assert model.config.num_hidden_layers == (3 if model_class is UMTModel else 4)
    assert any('part="tower"' in text for text in messages) is warned
    messages.clear()
    assert type(convert_umt_checkpoint(file, config, part="tower")) is UMTModel
    assert not messages


def test_the_full_size_file_fits_and_one_that_is_cut_already_is_refused():
    recorded, _ = load_recorded("umt_tower_full_size_keys")
    shapes = recorded["keys"] | recorded["decoders"]
    for i in range(recorded["blocks"]):
        shapes |= {f"encoder.blocks.{i}.{key}": shape for key, shape in recorded["every_block"].items()}
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
    assert sum(tensor.numel() for tensor in state.values()) == recorded["parameters"]["with six decoders"]
    file = tower_part(state)
    config = TOWER.infer_config(file, None)
    kept = TOWER.prepare(file, config)
    require_exact_fit(kept, UMTModel, config, TOWER.key_map(config))
    with torch.device("meta"):
        model = UMTModel(config)
    assert model.num_parameters() == recorded["parameters"]["used (23 blocks and norm)"]
    assert official_tensors(model, TOWER.key_map(config)).keys() == kept.keys()

    cut = {key: tensor for key, tensor in state.items() if not key.startswith("encoder.blocks.23.")}
    with pytest.raises(ValueError, match="contains 23 blocks of dimension 1024, but the tower is made from all 24"):
        convert_umt_checkpoint(cut, part="tower")


@pytest.mark.parametrize("name", ["classifier_f8_224", "clip_teacher_l2"])
def test_other_files_have_no_tower(name):
    with pytest.raises(ValueError, match="has no part 'tower'"):
        convert_umt_checkpoint(sub_state(load_recorded(name)[1]), part="tower")
