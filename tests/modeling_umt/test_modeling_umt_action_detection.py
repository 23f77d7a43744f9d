"""Action detection: values recorded from the official code, padded boxes, and weights of other repositories."""

import pytest
import torch
from recorded import load_recorded
from recorded_models import encoder_sizes, sub_state
from subprocess_tools import run_clean
from transformers import AutoModelForObjectDetection

from modeling_umt import (
    UMTConfig,
    UMTForActionDetection,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTModel,
    convert_umt_checkpoint,
)
from modeling_umt.convert_umt_checkpoints import official_state_dict
from modeling_umt.modeling_umt_action_detection import pool_boxes

TOLERANCE = {"rtol": 0, "atol": 1e-5}
SIZES = {"image_size": 32, "num_frames": 2, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "num_labels": 4}


def small_model(**fields) -> UMTForActionDetection:
    torch.manual_seed(0)
    model = UMTForActionDetection(UMTConfig(**SIZES | fields)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def small_inputs(num_boxes: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, num_boxes, 4, generator=generator).sort(dim=-1).values[..., [0, 1, 3, 2]]
    return {
        "pixel_values_videos": torch.randn(2, 2, 3, 48, 64, generator=generator),
        "boxes": corners * torch.tensor([64, 48, 64, 48]),
        "labels": (torch.rand(2, num_boxes, 4, generator=generator) < 0.5).float(),
    }


# --- recorded values ------------------------------------------------------------------------------------------------


@pytest.fixture
def official():
    """The recorded model, its tensors, the padded boxes given to it, and their mask."""
    recorded, tensors = load_recorded("ava_head_padded")
    constructor = recorded["constructor"]
    config = UMTConfig(**encoder_sizes(constructor), num_frames=constructor["all_frames"])
    model = convert_umt_checkpoint(sub_state(tensors), config)
    assert type(model) is UMTForActionDetection and model.config.num_labels == constructor["num_classes"]
    counts = tensors["input/boxes_per_clip"]
    box_mask = torch.arange(counts.max()) < counts[:, None]
    assert not box_mask.all() and not box_mask.any(dim=1).all()  # one clip has no box

    def padded(rows: torch.Tensor) -> torch.Tensor:
        result = torch.full((*box_mask.shape, rows.shape[-1]), 33.0)
        result[box_mask] = rows.float()
        return result

    return recorded, model, tensors, padded, box_mask


def test_recorded_logits_and_features(official):
    _, model, tensors, padded, box_mask = official
    clip, boxes = tensors["input/video"].transpose(1, 2), padded(tensors["expected/extended_boxes"])
    with torch.no_grad():
        logits = model(clip, boxes, box_mask).logits
        feature_map = model.umt.get_feature_map(clip).mean(dim=1).permute(0, 3, 1, 2)
        features = pool_boxes(feature_map, boxes, 16)[box_mask]
    torch.testing.assert_close(logits[box_mask], tensors["expected/logits"], **TOLERANCE)
    torch.testing.assert_close(features, tensors["expected/roi_features"], **TOLERANCE)
    scores = logits[box_mask].sigmoid() * tensors["input/box_scores"]
    torch.testing.assert_close(scores, tensors["expected/scores"], **TOLERANCE)


def test_recorded_loss_and_gradients(official):
    recorded, model, tensors, padded, box_mask = official
    boxes, labels = padded(tensors["input/boxes"]), padded(tensors["input/labels"])
    loss = model(tensors["input/video"].transpose(1, 2), boxes, box_mask, labels).loss
    torch.testing.assert_close(loss[None], tensors["expected/train_loss_no_jitter"], **TOLERANCE)
    loss.backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad
    gradients = official_state_dict(model)
    assert gradients.keys() == recorded["grad_norms_train_no_jitter"].keys()
    for key, norm in recorded["grad_norms_train_no_jitter"].items():
        assert gradients[key].norm().item() == pytest.approx(norm, rel=1e-4), key


# --- padded boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [0.0, -7.5, 1e30, float("inf"), float("nan")])
def test_the_content_of_padding_changes_nothing(content):
    model, inputs = small_model(), small_inputs()
    box_mask = torch.tensor([[True, False, True], [True, True, False]])

    def run(content: float):
        padding = ~box_mask[..., None]
        padded = {name: inputs[name].masked_fill(padding, content) for name in ("boxes", "labels")}
        model.zero_grad()
        outputs = model(**inputs | padded, box_mask=box_mask)
        outputs.loss.backward()
        return outputs, {name: parameter.grad for name, parameter in model.named_parameters()}

    expected, expected_gradients = run(5.0)
    actual, gradients = run(content)
    assert torch.equal(actual.logits, expected.logits) and torch.equal(actual.loss, expected.loss)
    for name, gradient in expected_gradients.items():
        assert torch.equal(gradients[name], gradient), name


def test_padding_equals_fewer_boxes():
    model, inputs = small_model(), small_inputs()
    with torch.no_grad():
        padded = model(**inputs, box_mask=torch.tensor([[True, True, False]] * 2))
        fewer = model(**inputs | {name: inputs[name][:, :2] for name in ("boxes", "labels")})
    torch.testing.assert_close(padded.logits[:, :2], fewer.logits)
    torch.testing.assert_close(padded.loss, fewer.loss)


def test_the_loss_is_a_sum_over_boxes():
    """Of the mean over classes: what a clip adds does not depend on the other clips."""
    model, inputs = small_model(), small_inputs()
    with torch.no_grad():
        loss = model(**inputs).loss
        alone = [model(**{name: tensor[i : i + 1] for name, tensor in inputs.items()}).loss for i in range(2)]
        logits = model(**inputs).logits
    torch.testing.assert_close(loss, sum(alone))
    probabilities = torch.where(inputs["labels"] == 1, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(loss, -probabilities.log().sum() / 4)


@pytest.mark.parametrize("num_boxes", [0, 2])
def test_the_loss_of_a_batch_without_boxes_is_zero(num_boxes):
    model, inputs = small_model(), small_inputs(num_boxes)
    outputs = model(**inputs, box_mask=torch.zeros(2, num_boxes, dtype=torch.bool))
    assert outputs.loss.item() == 0 and outputs.logits.shape == (2, num_boxes, 4)
    outputs.loss.backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_boxes_smaller_than_a_cell_or_beyond_the_clip_have_logits():
    model, inputs = small_model(), small_inputs()
    boxes = torch.tensor([[[0, 0, 0, 0], [63, 47, 63, 47], [-40.0, -40, 500, 500]]]).expand(2, -1, -1)
    with torch.no_grad():
        assert model(**inputs | {"boxes": boxes}).logits.isfinite().all()


# --- precision and graphs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_boxes_are_pooled_in_float32(dtype):
    """The half precision of a model rounds features, and no coordinate."""
    feature_map = torch.randn(1, 8, 16, 40, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[301.3, 100.7, 417.9, 200.2]]])
    expected = pool_boxes(feature_map, boxes, 16)
    model, inputs = small_model().to(dtype), small_inputs()
    tokens = []
    model.umt.register_forward_hook(lambda *call: tokens.append(call[-1].last_hidden_state))
    with torch.no_grad(), torch.autocast("cpu", dtype):
        torch.testing.assert_close(pool_boxes(feature_map, boxes, 16), expected)
        logits = model(**inputs).logits
    grid = tokens[0].float().unflatten(1, (2, 3, 4)).mean(dim=1).permute(0, 3, 1, 2)
    pooled = pool_boxes(grid, inputs["boxes"], 16).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(logits, model.classifier(pooled), rtol=2e-2, atol=2e-2)


def test_exports_for_any_number_of_clips_and_boxes():
    model, inputs = small_model(), small_inputs()
    inputs = {name: inputs[name] for name in ("pixel_values_videos", "boxes")}
    inputs["box_mask"] = torch.tensor([[True, False, True], [True, True, False]])
    batch, boxes = torch.export.Dim("batch"), torch.export.Dim("boxes")
    shapes = {"pixel_values_videos": {0: batch}, "boxes": {0: batch, 1: boxes}, "box_mask": {0: batch, 1: boxes}}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    other = {"pixel_values_videos": inputs["pixel_values_videos"].repeat(2, 1, 1, 1, 1)}
    other["boxes"] = inputs["boxes"].repeat(2, 2, 1)[:, :5]
    other["box_mask"] = inputs["box_mask"].repeat(2, 2)[:, :5]
    for batch in (inputs, other):
        with torch.no_grad():
            torch.testing.assert_close(program(**batch).logits, model(**batch).logits, **TOLERANCE)


# --- weights of other repositories ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, lacks",
    [
        (UMTForVideoClassification, {"umt.norm.weight", "umt.norm.bias"}),
        (UMTForPreTraining, {"classifier.weight", "classifier.bias"}),
        (UMTModel, {"classifier.weight", "classifier.bias"}),
    ],
)
def test_every_encoder_of_the_family_starts_a_detection_model(source, lacks, tmp_path):
    """As officially, a Kinetics classifier lacks the norm on tokens, which starts as the identity."""
    torch.manual_seed(0)
    encoder = source(UMTConfig(**SIZES, position_grid=[8, 14, 14], num_aligned_layers=2, target_dim=8))
    encoder.save_pretrained(tmp_path)
    model, info = UMTForActionDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info.pop("missing_keys")) == lacks and not any(info.values()), info
    assert model.config.final_norm == "tokens" and list(model.config.position_grid) == [8, 14, 14]
    assert torch.equal(model.umt.norm.weight, torch.ones(16)) and not model.umt.norm.bias.any()
    if "classifier.weight" in lacks:
        assert not model.classifier.bias.any() and 0 < model.classifier.weight.std() < 1e-4
    source_weights = getattr(encoder, "umt", encoder).state_dict()
    for name, tensor in model.umt.state_dict().items():
        assert name.startswith("norm.") or torch.equal(tensor, source_weights[name]), name


def test_a_detection_repository_loads_with_its_auto_class_and_contains_a_complete_encoder(tmp_path):
    model, inputs = small_model(), small_inputs()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is UMTForActionDetection
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    encoder, info = UMTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    clip = inputs["pixel_values_videos"]
    with torch.no_grad():
        assert torch.equal(encoder(clip).last_hidden_state, model.umt(clip).last_hidden_state)


def test_the_callers_configuration_is_not_changed():
    config = UMTConfig(**SIZES, final_norm="pooled")
    assert UMTForActionDetection(config).config.final_norm == "tokens" and config.final_norm == "pooled"


def test_without_torchvision_the_other_models_work_and_this_one_names_what_is_missing(tmp_path):
    small_model().save_pretrained(tmp_path)
    result = run_clean(
        f"""
import sys
sys.modules["torchvision"] = None  # as if it were not installed
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.startswith("torchvision") else find_spec(name, *rest)
import torch
from transformers import AutoModel, AutoModelForObjectDetection
model = AutoModel.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
print(tuple(model(torch.zeros(1, 2, 3, 32, 32)).last_hidden_state.shape))
try:
    AutoModelForObjectDetection.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
except ImportError as error:
    print("UMTForActionDetection requires" in str(error) and "orchvision" in str(error))
""",
        cwd=tmp_path,
    )
    assert result.stdout.splitlines()[-2:] == ["(1, 8, 16)", "True"], result.stderr


# --- errors ---------------------------------------------------------------------------------------------------------

WRONG = {
    "flat boxes": ({"boxes": torch.zeros(3, 4)}, r"`boxes` must be \(batch 2, boxes, 4 corners\), but is \(3, 4\)"),
    "other batch": ({"boxes": torch.zeros(1, 3, 4)}, r"`boxes` must be \(batch 2.*\(1, 3, 4\)"),
    "rows of RoIAlign": ({"boxes": torch.zeros(2, 3, 5)}, r"4 corners\), but is \(2, 3, 5\)"),
    "mask of numbers": ({"box_mask": torch.ones(2, 3)}, r"`box_mask` must be bool .* \(2, 3\), but is torch.float32"),
    "mask's shape": ({"box_mask": torch.ones(2, 2, dtype=torch.bool)}, r"`box_mask` must be .* \(2, 2\)"),
    "indices": ({"labels": torch.zeros(2, 3, dtype=torch.int64)}, r"0 or 1 for every class.*\(2, 3, 4\).* \(2, 3\)"),
    "other classes": ({"labels": torch.zeros(2, 3, 5)}, r"num_labels\) = \(2, 3, 4\), but is \(2, 3, 5\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_boxes_masks_and_labels_that_do_not_fit_are_refused(wrong):
    changed, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        small_model()(**small_inputs() | changed)
