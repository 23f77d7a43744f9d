"""The test battery: requirements on every model class. A new class is a new row of `CASES`.

A row describes how to build a tiny model, its inputs and its output shapes; the tests below are the same for all
classes. All weights are random (also where initial ones are zero), so that a missing term is detected.
"""

import copy
import functools
import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights, load_checkpoint_and_dispatch
from accelerate.utils import set_module_tensor_to_device
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import is_torchao_available, logging

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
    UMTConfig,
    UMTForActionDetection,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTForVideoClassification,
    UMTForVideoQuestionAnswering,
    UMTForVideoTextPreTraining,
    UMTImageTeacherConfig,
    UMTImageTeacherModel,
    UMTModel,
    UMTTeacherConfig,
    UMTTeacherModel,
    UMTVideoTextConfig,
    UMTVideoTextModel,
)

# --- rows -----------------------------------------------------------------------------------------------------------


def umt_config(**fields) -> UMTConfig:
    """4 frames of 64 x 64 pixels: 4 x 4 x 4 tokens, with a position table resized in space and in time."""
    defaults = {"image_size": 64, "num_frames": 4, "position_grid": [2, 3, 3], "num_labels": 5}
    defaults |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    defaults |= {"num_aligned_layers": 2, "target_dim": 24}
    return UMTConfig(**defaults | fields)


def clips(config: PreTrainedConfig, batch: int = 2, frames: int = 4, height: int = 64, width: int = 64) -> dict:
    """Seeded clips, (batch, frames, 3, height, width)."""
    generator = torch.Generator().manual_seed(frames * height + width)
    return {"pixel_values_videos": torch.randn(batch, frames, 3, height, width, generator=generator)}


def umt_grid(config: PreTrainedConfig, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Tokens along frames, rows and columns."""
    return frames // vision(config).tubelet_size, height // 16, width // 16


def encoder_shapes(config, batch, grid, visible):
    return {"last_hidden_state": (batch, visible, config.hidden_size), "pooler_output": (batch, config.hidden_size)}


def classifier_shapes(config, batch, grid, visible):
    return {"logits": (batch, config.num_labels)}


def student_shapes(config, batch, grid, visible):
    return {"student_features": (batch, config.num_aligned_layers, visible, config.target_dim)}


def class_labels(config, batch, grid, visible):
    return {"labels": torch.arange(batch) % config.num_labels}


def clips_with_boxes(config: PreTrainedConfig, batch: int = 2, height: int = 64, width: int = 64, **sizes) -> dict:
    """Clips with three boxes each, of which the last is padding in every second clip."""
    generator = torch.Generator().manual_seed(8)
    corners = torch.rand(batch, 3, 4, generator=generator).sort(dim=-1).values[..., [0, 1, 3, 2]]  # x1, y1, x2, y2
    boxes = corners * torch.tensor([width, height, width, height])
    box_mask = (torch.arange(3) < 2) | (torch.arange(batch)[:, None] % 2 == 1)
    return clips(config, batch, height=height, width=width, **sizes) | {"boxes": boxes, "box_mask": box_mask}


def detection_shapes(config, batch, grid, visible):
    return {"logits": (batch, 3, config.num_labels)}


def actions(config, batch, grid, visible):
    generator = torch.Generator().manual_seed(9)
    return {"labels": (torch.rand(batch, 3, config.num_labels, generator=generator) < 0.4).float()}


def masked_config(**fields) -> UMTConfig:
    """The features of a teacher and the pixels as targets, a space-time table, decoders smaller than the encoder."""
    targets = {"image": 24, "pixels": 768 * fields.get("tubelet_size", 1)}
    positions = {"position_type": "space_time", "position_grid": None}
    decoders = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    return umt_config(**{"masked_targets": targets, **positions, **decoders, **fields})


def clips_with_masks(config: PreTrainedConfig, batch: int = 2, **sizes) -> dict:
    """Clips of which five tokens are visible and six of the others predicted."""
    inputs = clips(config, batch, **sizes)
    num_tokens = math.prod(umt_grid(config, *(inputs["pixel_values_videos"].shape[i] for i in (1, 3, 4))))
    order = torch.rand(batch, num_tokens, generator=torch.Generator().manual_seed(10)).argsort(dim=1)
    indices = {"visible_indices": order[:, :5], "target_indices": order[:, 5:11]}
    return inputs | {name: tensor.sort().values for name, tensor in indices.items()}


def prediction_shapes(config, batch, grid, visible):
    return {f"predictions.{name}": (batch, 6, dim) for name, dim in config.masked_targets.items()}


def masked_features(config, batch, grid, visible):
    generator = torch.Generator().manual_seed(11)
    return {"target_features": {"image": torch.randn(batch, 6, config.masked_targets["image"], generator=generator)}}


def several_labels(config, batch, grid, visible):
    return {"labels": (torch.arange(config.num_labels) <= torch.arange(batch)[:, None]).float()}


def teacher_features(config, batch, grid, visible):
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(batch, config.num_aligned_layers, visible, config.target_dim, generator=generator)
    return {"target_features": features / features.norm(dim=-1, keepdim=True)}


def teacher_config(**fields) -> UMTTeacherConfig:
    """Frames of 64 x 64 pixels: 4 x 4 tokens and a class token each."""
    defaults = {"image_size": 64, "patch_size": 16, "num_aligned_layers": 2, "projection_dim": 24}
    defaults |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    return UMTTeacherConfig(**defaults | fields)


def teacher_shapes(config, batch, grid, visible):
    features = (batch, config.num_aligned_layers, visible, config.projection_dim)
    return {"features": features, "cls_attention": (batch, grid[0], grid[1] * grid[2])}


def image_teacher_config(**fields) -> UMTImageTeacherConfig:
    """Frames of 64 x 64 pixels: 4 x 4 tokens and a class token each."""
    defaults = {"image_size": 64, "patch_size": 16, "intermediate_size": 64}
    defaults |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    return UMTImageTeacherConfig(**defaults | fields)


def internvideo2_config(**fields) -> InternVideo2Config:
    """4 frames of 64 x 64 pixels: 4 x 4 x 4 tokens and a class token."""
    defaults = {"image_size": 64, "patch_size": 16, "num_frames": 4, "num_labels": 5, "intermediate_size": 64}
    defaults |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_pooling_heads": 2}
    defaults |= {"pooled_size": 24, "num_aligned_layers": 2, "target_dim": 24, "final_target_dim": 20}
    defaults |= {"num_second_layers": 1, "second_target_dim": 12}
    return InternVideo2Config(**defaults | fields)


def internvideo2_shapes(config, batch, grid, visible):
    return {
        "last_hidden_state": (batch, 1 + visible, config.hidden_size),
        "pooler_output": (batch, config.pooled_size),
    }


def internvideo2_student_shapes(config, batch, grid, visible):
    return {
        "student_features": (batch, config.num_aligned_layers, 1 + visible, config.target_dim),
        "final_features": (batch, config.final_target_dim),
        "second_features": (batch, config.num_second_layers, visible, config.second_target_dim),
    }


def features_of_two_teachers(config, batch, grid, visible):
    generator, targets = torch.Generator().manual_seed(12), ("target_features", "target_final", "target_second")
    shapes = internvideo2_student_shapes(config, batch, grid, visible).values()
    return {
        name: torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
        for name, shape in zip(targets, shapes, strict=True)
    }


def video_text_config(**fields) -> UMTVideoTextConfig:
    """The video encoder of `umt_config`, to which `fields` belong, with a BERT of two text and two fusion layers."""
    text = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "fusion_layer": 2}
    text |= {"intermediate_size": 64, "max_position_embeddings": 12, "cls_token_id": 2, "mask_token_id": 3}
    text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    joint = {"projection_dim": 16, "keep_temporal": fields.pop("keep_temporal", True)}
    return UMTVideoTextConfig(vision_config=umt_config(**fields).to_dict(), text_config=text, **joint)


def clips_and_texts(config: UMTVideoTextConfig, batch: int = 2, **sizes) -> dict:
    """Clips and seeded texts (batch, 8), the last tokens padded."""
    generator = torch.Generator().manual_seed(5)
    texts = torch.randint(5, 50, (batch, 8), generator=generator)
    padded = torch.arange(8) >= torch.tensor([5 + i % 4 for i in range(batch)])[:, None]
    return clips(config, batch, **sizes) | {
        "input_ids": texts.masked_fill(padded, 0),
        "attention_mask": (~padded).long(),
    }


def clips_and_masked_texts(config: UMTVideoTextConfig, batch: int = 2, **sizes) -> dict:
    """The same with masked tokens, so that nothing is random for a batch of two clips."""
    inputs = clips_and_texts(config, batch, **sizes)
    masked = inputs["attention_mask"].bool() & (torch.arange(8) % 3 == 1)
    mlm_input_ids = inputs["input_ids"].masked_fill(masked, 3)
    return inputs | {"mlm_input_ids": mlm_input_ids, "mlm_labels": inputs["input_ids"].masked_fill(~masked, -100)}


def short_answers(config, batch, *shape) -> dict:
    """Answers (batch, 5) of one to three words, padded."""
    words = torch.randint(5, 50, (batch, 3), generator=torch.Generator().manual_seed(6))
    counts = 1 + torch.arange(batch)[:, None] % 3
    answers = torch.zeros(batch, 5, dtype=torch.int64)
    answers[:, 0], answers[:, 1:4] = 2, words.masked_fill(torch.arange(3) >= counts, 0)
    return {"labels": answers.scatter(1, counts + 1, 4)}


def clips_and_questions(config: UMTVideoTextConfig, batch: int = 2, **sizes) -> dict:
    return clips_and_texts(config, batch, **sizes) | short_answers(config, batch)


def answer_shapes(config, batch, grid, visible):
    question = (batch, 8, config.text_config.hidden_size)
    logits = (batch, 5, config.text_config.vocab_size)
    return {"logits": logits, "answer_losses": (batch,), "encoder_last_hidden_state": question}


def joint_shapes(config, batch, grid, visible):
    return {"video_embeds": (batch, config.projection_dim), "text_embeds": (batch, config.projection_dim)}


def video_text_student_shapes(config, batch, grid, visible):
    return student_shapes(config.vision_config, batch, grid, visible) | joint_shapes(config, batch, grid, visible)


def every_output(outputs) -> dict[str, torch.Tensor]:
    """All tensors of an output, those of its tuples and dictionaries included."""
    tensors = {}
    for name, value in outputs.items():
        parts = value if isinstance(value, dict) else dict(enumerate(value if isinstance(value, tuple) else (value,)))
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return tensors


def without_mask(inputs: dict) -> dict:
    return {name: tensor for name, tensor in inputs.items() if name != "visible_indices"}


def vision(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the video encoder."""
    return getattr(config, "vision_config", config)


@dataclass(frozen=True)
class Case:
    """One row.

    `shapes` and `targets` are functions of (config, batch, token grid, visible tokens): the outputs that are compared,
    with their shapes, and the inputs with which the model returns a `loss` (None: it has none).
    `sequence` gives (sequences, their length) of hidden states, by default the clips and their visible tokens.
    `masks`: "hide" if the model does not compute hidden tokens, "select" if they are only left out of the outputs.
    `resizes`: clips of any size are resized to `image_size` before they are cut into patches.
    `requires_mask`: `inputs` include a mask.
    `fixed_frames`: clips must have exactly `num_frames` frames.
    `least_steps`: clips must have at least so many time steps.
    `unused`: pattern of the parameters that `forward` does not use.
    `learns_positions`: a model created for another size has a position table of its own.
    """

    name: str
    model_class: type[PreTrainedModel]
    shapes: Callable[..., dict[str, tuple[int, ...]]]
    targets: Callable[..., dict[str, torch.Tensor]] | None = None
    masks: str | None = None
    requires_mask: bool = False
    resizes: bool = False
    fixed_frames: bool = False
    least_steps: int = 1
    config: Callable[..., PreTrainedConfig] = umt_config
    config_fields: dict = field(default_factory=dict)
    grid: Callable[..., tuple[int, int, int]] = umt_grid
    inputs: Callable[..., dict[str, torch.Tensor]] = clips
    sequence: Callable[..., tuple[int, int]] = lambda config, batch, grid, visible: (batch, visible)
    lora_modules: tuple[str, ...] = ("q_proj", "v_proj", "fc1")
    unused: str = r"$^"
    learns_positions: bool = False
    gradient_tolerance: float = 1e-5

    def build(self, **fields) -> PreTrainedModel:
        """A seeded model in eval mode, all weights random except scalars (a random temperature may be negative)."""
        torch.manual_seed(0)
        model = self.model_class(self.config(**{**self.config_fields, **fields})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 0:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    def batch(self, model: PreTrainedModel, visible: int | None = None, targets: bool = False, **sizes) -> dict:
        """Inputs of `model`; with `visible`, a mask with so many visible tokens; with `targets`, those of the loss."""
        inputs = self.inputs(model.config, **sizes)
        clip = inputs["pixel_values_videos"]
        grid = self.grid(model.config, clip.shape[1], *clip.shape[3:])
        num_tokens = grid[0] * grid[1] * grid[2]
        if visible is not None:
            scores = torch.rand(clip.shape[0], num_tokens, generator=torch.Generator().manual_seed(1))
            inputs["visible_indices"] = scores.topk(visible).indices.sort().values
        if targets and self.targets:
            inputs |= self.targets(model.config, clip.shape[0], grid, visible or num_tokens)
        return inputs

    def select_outputs(self, outputs) -> dict[str, torch.Tensor]:
        """The compared outputs; "predictions.image" is an entry of the dictionary `predictions`."""
        config = self.config(**self.config_fields)
        paths = {name: name.split(".") for name in self.shapes(config, 1, (1, 1, 1), 1)}
        return {name: functools.reduce(operator.getitem, path, outputs) for name, path in paths.items()}

    def scalar(self, outputs) -> torch.Tensor:
        """The loss, or a weighted sum of all outputs for models without one."""
        if self.targets:
            return outputs.loss
        return sum(
            (t * torch.linspace(-1, 1, t.numel()).view_as(t)).mean() for t in self.select_outputs(outputs).values()
        )

    def run(self, model: PreTrainedModel, inputs: dict, **kwargs) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return self.select_outputs(model(**inputs, **kwargs))

    def gradients(self, model: PreTrainedModel, inputs: dict) -> dict[str, torch.Tensor]:
        model.zero_grad()
        self.scalar(model(**inputs)).backward()
        used = [item for item in model.named_parameters() if not re.search(self.unused, item[0])]
        return {name: parameter.grad.clone() for name, parameter in used}


CASES = [
    Case("encoder", UMTModel, encoder_shapes, masks="hide"),
    Case("pooled-encoder", UMTModel, encoder_shapes, masks="hide", config_fields={"final_norm": "pooled"}),
    Case(
        "raw-encoder",
        UMTModel,
        encoder_shapes,
        masks="hide",
        config_fields={"final_norm": "none", "position_type": "space_time", "position_grid": None},
    ),
    Case("classifier", UMTForVideoClassification, classifier_shapes, targets=class_labels),
    Case(
        "attentive-classifier",
        UMTForVideoClassification,
        classifier_shapes,
        targets=class_labels,
        config_fields={"pooling": "attention"},
    ),
    Case(
        "frame-order-classifier",
        UMTForVideoClassification,
        classifier_shapes,
        targets=class_labels,
        fixed_frames=True,
        config_fields={"pooling": "frames"},
    ),
    Case(
        "motion-classifier",
        UMTForVideoClassification,
        classifier_shapes,
        targets=class_labels,
        config_fields={"pooling": "attention", "motion_drop_ratio": 0.4},
        least_steps=2,
        sequence=lambda config, batch, grid, visible: (batch, 38),  # of 64 tokens
    ),
    Case(
        "action-detection",
        UMTForActionDetection,
        detection_shapes,
        targets=actions,
        inputs=clips_with_boxes,
    ),
    Case(
        "masked-student",
        UMTForMaskedModeling,
        prediction_shapes,
        targets=masked_features,
        masks="hide",
        requires_mask=True,
        inputs=clips_with_masks,
        config=masked_config,
    ),
    Case("student", UMTForPreTraining, student_shapes, targets=teacher_features, masks="hide"),
    Case(
        "teacher",
        UMTTeacherModel,
        teacher_shapes,
        masks="select",
        resizes=True,
        config=teacher_config,
        grid=lambda config, frames, height, width: (frames, 4, 4),
        sequence=lambda config, batch, grid, visible: (batch * grid[0], 1 + grid[1] * grid[2]),
    ),
    Case(
        "image-teacher",
        UMTImageTeacherModel,
        lambda config, batch, grid, visible: {"last_hidden_state": (batch, visible, config.hidden_size)},
        config=image_teacher_config,
        grid=lambda config, frames, height, width: (frames, height // 16, width // 16),
        sequence=lambda config, batch, grid, visible: (batch * grid[0], 1 + grid[1] * grid[2]),
    ),
    Case(
        "video-text",
        UMTVideoTextModel,
        joint_shapes,
        config=video_text_config,
        inputs=clips_and_texts,
        unused=r"layer\.[23]\.|matching_head|^temperature",
    ),
    Case(
        "motion-video-text",
        UMTVideoTextModel,
        joint_shapes,
        config=video_text_config,
        config_fields={"motion_drop_ratio": 0.4},
        least_steps=2,
        sequence=lambda config, batch, grid, visible: (batch, 38),
        inputs=clips_and_texts,
        unused=r"layer\.[23]\.|matching_head|^temperature",
    ),
    Case(
        "video-text-student",
        UMTForVideoTextPreTraining,
        video_text_student_shapes,
        targets=lambda config, *shape: teacher_features(config.vision_config, *shape),
        masks="hide",
        config=video_text_config,
        config_fields={"keep_temporal": False},  # otherwise a mask without hidden tokens would differ from no mask
        inputs=clips_and_masked_texts,
        gradient_tolerance=1e-4,  # similarities are divided by the temperature
    ),
    Case(
        "question-answering",
        UMTForVideoQuestionAnswering,
        answer_shapes,
        targets=short_answers,
        config=video_text_config,
        inputs=clips_and_questions,
    ),
    *(
        Case(
            name,
            model_class,
            shapes,
            targets=targets,
            masks=masks,
            config=internvideo2_config,
            sequence=lambda config, batch, grid, visible: (batch, 1 + visible),
            learns_positions=True,
        )
        for name, model_class, shapes, targets, masks in (
            ("internvideo2", InternVideo2Model, internvideo2_shapes, None, "hide"),
            (
                "internvideo2-classifier",
                InternVideo2ForVideoClassification,
                classifier_shapes,
                class_labels,
                None,
            ),
            (
                "internvideo2-student",
                InternVideo2ForPreTraining,
                internvideo2_student_shapes,
                features_of_two_teachers,
                "hide",
            ),
        )
    ),
    Case(
        "motion-internvideo2-classifier",
        InternVideo2ForVideoClassification,
        classifier_shapes,
        targets=class_labels,
        config=internvideo2_config,
        config_fields={"motion_drop_ratio": 0.4},
        least_steps=2,
        sequence=lambda config, batch, grid, visible: (batch, 1 + 38),  # of 64 patches
        learns_positions=True,
    ),
]


def cases(condition: Callable[[Case], bool] = lambda case: True):
    """Parametrise a test over the rows that satisfy `condition`."""
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES if condition(c)])


takes_masks = cases(lambda case: case.masks)
hides_tokens = cases(lambda case: case.masks == "hide")
cuts_patches = cases(lambda case: not case.resizes)
computes_positions = cases(lambda case: not case.resizes and not case.learns_positions)
has_loss = cases(lambda case: case.targets)
drops_paths = cases(lambda case: hasattr(vision(case.config()), "drop_path_rate"))
takes_tubelets = cases(lambda case: hasattr(vision(case.config()), "tubelet_size"))


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0):
    assert actual.keys() == expected.keys() and expected
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def relative_error(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(((actual[n].float() - t).norm() / t.norm()).item() for n, t in expected.items())


def remote_code(model: PreTrainedModel) -> dict[str, str]:
    """The `auto_map` of a saved repository."""
    return type(model).remote_code


# --- saving and loading ---------------------------------------------------------------------------------------------


@cases()
def test_save_and_load_loses_nothing(case, tmp_path):
    model = case.build()
    inputs = case.batch(model)
    model.save_pretrained(tmp_path)
    loaded, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)

    assert (tmp_path / "model.safetensors").exists()
    assert not any(info.values()), info
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == remote_code(model)
    # buffers too: no file contains the position table, and loading must compute it again
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert_same({**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}, tensors)
    assert_same(case.run(loaded, inputs), case.run(model, inputs))


def on_meta_device(case: Case, **fields) -> PreTrainedModel:
    with torch.device("meta"):
        return case.model_class(case.config(**{**case.config_fields, **fields}))


def emptied(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    made = on_meta_device(case).to_empty(device="cpu")
    made.load_state_dict(model.state_dict())
    return made


def emptied_in_parts(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """As FSDP does."""
    made = on_meta_device(case)
    for part in made.modules():
        part.to_empty(device="cpu", recurse=False)
    made.load_state_dict(model.state_dict())
    return made


def emptied_again(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    made = case.model_class(model.config).to_empty(device="cpu")
    made.load_state_dict(model.state_dict())
    return made


def assigned(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    made = on_meta_device(case)
    made.load_state_dict(model.state_dict(), assign=True)
    return made.to("cpu")  # which fails where a tensor was left on the meta device


def assigned_to_emptied(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    made = on_meta_device(case).to_empty(device="cpu")
    made.load_state_dict(model.state_dict(), assign=True)
    return copy.deepcopy(made)


def set_one_by_one(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    made = on_meta_device(case)
    for name, tensor in model.state_dict().items():
        set_module_tensor_to_device(made, name, "cpu", value=tensor)
    return made


def dispatched(case: Case, model: PreTrainedModel, folder: Path, include_buffers: bool = False) -> PreTrainedModel:
    model.save_pretrained(folder)
    with init_empty_weights(include_buffers=include_buffers):
        made = case.model_class(model.config)
    made.tie_weights()
    return load_checkpoint_and_dispatch(made, folder, device_map={"": "cpu"})


def through_half_precision(case: Case, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    made = case.model_class(model.config).half().to(torch.bfloat16).float()
    made.load_state_dict(model.state_dict())
    return made


EMPTY_MODELS = {
    "to_empty": emptied,
    "to_empty of parts": emptied_in_parts,
    "to_empty of a complete model": emptied_again,
    "assign": assigned,
    "to_empty and assign": assigned_to_emptied,
    "one tensor at a time": set_one_by_one,
    "dispatched": dispatched,
    "dispatched with buffers": partial(dispatched, include_buffers=True),
    "half precision and back": through_half_precision,
}


@cases()
@pytest.mark.parametrize("way", EMPTY_MODELS)
def test_weights_put_into_an_empty_model_give_the_same_results(case, way, tmp_path):
    """What no state dict contains is computed again, however the model got its tensors."""
    model = case.build()
    inputs = case.batch(model)
    made = EMPTY_MODELS[way](case, model, tmp_path).eval()
    assert_same(case.run(made, inputs), case.run(model, inputs))


@cases()
def test_device_map_offloads_to_disk(case, tmp_path):
    model = case.build()
    inputs = case.batch(model)
    model.save_pretrained(tmp_path / "model")
    most_of_it = int(0.8 * sum(parameter.nbytes for parameter in model.parameters()))
    offloaded = case.model_class.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": most_of_it}, offload_folder=tmp_path / "disk"
    )
    assert set(offloaded.hf_device_map.values()) == {"cpu", "disk"}
    assert_same(case.run(offloaded, inputs), case.run(model, inputs))


@cases()
@pytest.mark.skipif(not is_torchao_available(), reason="torchao is not installed")
def test_int8_weights_are_close(case, tmp_path):
    from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    model = case.build()
    inputs = case.batch(model)
    model.save_pretrained(tmp_path)
    config = TorchAoConfig(Int8WeightOnlyConfig())
    quantized = case.model_class.from_pretrained(tmp_path, quantization_config=config)
    assert sum(isinstance(parameter, Int8Tensor) for parameter in quantized.parameters()) >= 6 * 3
    assert 0 < relative_error(case.run(quantized, inputs), case.run(model, inputs)) < 0.03


@cases()
def test_lora_trains_saves_loads_and_merges(case, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = case.build()
    inputs = case.batch(base, targets=True)
    adapted = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=list(case.lora_modules)))
    assert_same(case.select_outputs(adapted(**inputs)), case.run(base, inputs))  # fresh adapters add nothing

    trainable = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    before = case.scalar(adapted(**inputs))
    for _ in range(3):
        optimizer.zero_grad()
        case.scalar(adapted(**inputs)).backward()
        optimizer.step()
    trained = case.run(adapted.eval(), inputs)
    assert case.scalar(adapted(**inputs)) < before

    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert_same(case.run(loaded, inputs), trained)
    merged = adapted.merge_and_unload()
    assert type(merged) is case.model_class
    assert_same(case.run(merged, inputs), trained, tolerance=1e-5)


@cases()
@pytest.mark.parametrize("task_type", ["FEATURE_EXTRACTION", "SEQ_CLS"])
def test_task_types_of_peft(case, task_type):
    """PEFT passes the inputs of a text model to every model, as None."""
    from peft import LoraConfig, get_peft_model

    base = case.build()
    if task_type == "SEQ_CLS" and not isinstance(base, UMTForVideoClassification | InternVideo2ForVideoClassification):
        pytest.skip("not a classifier")
    inputs = case.batch(base, targets=task_type == "SEQ_CLS")
    config = LoraConfig(r=2, target_modules=list(case.lora_modules), task_type=task_type)
    adapted = get_peft_model(copy.deepcopy(base), config)
    assert_same(case.select_outputs(adapted(**inputs)), case.run(base, inputs))
    if task_type == "SEQ_CLS":
        adapted(**inputs).loss.backward()
        trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
        assert any("lora_" in name for name in trained) and any("classifier" in name for name in trained)
        assert all("lora_" in name or "modules_to_save" in name for name in trained)


class _Clips(Dataset):
    """The samples of a batch of six."""

    def __init__(self, case: Case, model: PreTrainedModel):
        self.rows = case.batch(model, visible=16 if case.masks else None, targets=True, batch=6)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.utils._pytree.tree_map(lambda tensor: tensor[index], self.rows)


@has_loss
def test_plain_trainer_trains_and_saves_weights_with_code(case, tmp_path):
    model = case.build()
    start = copy.deepcopy(model.state_dict())
    samples = _Clips(case, model)
    arguments = TrainingArguments(
        tmp_path,
        per_device_train_batch_size=3,
        per_device_eval_batch_size=4,
        max_steps=2,
        save_steps=2,
        label_names=list(case.targets(model.config, 6, (4, 4, 4), 16)),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=samples, data_collator=default_collate)
    assert trainer.train().training_loss > 0
    assert any(not torch.equal(tensor, start[name]) for name, tensor in model.state_dict().items())

    predicted = trainer.predict(samples)  # two batches, concatenated along their first axis
    assert predicted.metrics["test_loss"] > 0
    shapes = case.shapes(model.config, 6, (4, 4, 4), 16).values()
    predictions = torch.utils._pytree.tree_leaves(predicted.predictions)[-len(shapes) :]  # after parts of the loss
    assert [prediction.shape for prediction in predictions] == list(shapes)

    saved = tmp_path / "checkpoint-2"
    config = json.loads((saved / "config.json").read_text())
    assert config["auto_map"] == remote_code(model)
    for target in config["auto_map"].values():
        assert (saved / f"{target.split('.')[0]}.py").exists()
    loaded = case.model_class.from_pretrained(saved)
    assert_same(dict(loaded.named_parameters()), dict(model.named_parameters()))


MULTI_LABEL = Case("multi-label", UMTForVideoClassification, classifier_shapes, targets=several_labels)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name) for c in [*(case for case in CASES if case.targets), MULTI_LABEL]]
)
def test_plain_trainer_accumulates_means(case, tmp_path):
    """Two accumulated copies of a batch give the step of one, whatever Trainer counts in its labels."""

    def trained(accumulation_steps: int) -> dict[str, torch.Tensor]:
        model = case.build()
        arguments = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=accumulation_steps,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        # one sample, so that all batches are the same
        samples = [_Clips(case, model)[0]] * 6
        Trainer(model, arguments, train_dataset=samples, data_collator=default_collate).train()
        return dict(model.named_parameters())

    assert_same(trained(2), trained(1), tolerance=case.gradient_tolerance)


# --- precision ------------------------------------------------------------------------------------------------------


@cases()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_loads_and_runs(case, dtype, tmp_path):
    model = case.build()
    inputs = case.batch(model)
    expected = case.run(model, inputs)
    model.save_pretrained(tmp_path)
    half = case.model_class.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    for clip in (inputs["pixel_values_videos"], inputs["pixel_values_videos"].to(dtype)):
        actual = case.run(half, {**inputs, "pixel_values_videos": clip})
        assert next(iter(actual.values())).dtype == dtype
        assert relative_error(actual, expected) < 0.03

    half.save_pretrained(tmp_path / "half")
    assert case.model_class.from_pretrained(tmp_path / "half").dtype == dtype


@cases()
def test_autocast_bfloat16_trains(case):
    model = case.build()
    inputs = case.batch(model, targets=True)
    expected = case.run(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**inputs)
        loss = case.scalar(outputs)
    assert relative_error(case.select_outputs(outputs), expected) < 0.03
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in model.named_parameters():
        if re.search(case.unused, name):
            continue
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


# --- attention and recorded outputs ---------------------------------------------------------------------------------


@cases()
def test_eager_equals_sdpa_in_outputs_and_gradients(case):
    model = case.build()
    visible = 24 if case.masks else None
    inputs = case.batch(model, visible=visible, targets=True)
    results = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        results[implementation] = case.run(model, inputs), case.gradients(model, inputs)
    assert_same(results["sdpa"][0], results["eager"][0], tolerance=1e-5)
    assert_same(results["sdpa"][1], results["eager"][1], tolerance=case.gradient_tolerance)


@cases()
def test_eager_equals_sdpa_in_every_output_after_loading(case, tmp_path):
    """Of all parts: the outputs above are those of the video encoder alone in some classes."""
    case.build().save_pretrained(tmp_path)
    outputs = {}
    for implementation in ("eager", "sdpa"):
        model = case.model_class.from_pretrained(tmp_path, attn_implementation=implementation)
        inputs = case.batch(model, visible=24 if case.masks else None, targets=True)
        with torch.no_grad():
            outputs[implementation] = every_output(model(**inputs, output_hidden_states=True))
    assert len(outputs["eager"]) > len(case.shapes(model.config, 2, (4, 4, 4), 64))
    assert_same(outputs["sdpa"], outputs["eager"], tolerance=case.gradient_tolerance)


@cases()
def test_the_attention_implementation_of_loading_is_that_of_every_part(case, tmp_path):
    case.build().save_pretrained(tmp_path)
    model = case.model_class.from_pretrained(tmp_path, attn_implementation="eager")
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    assert {part.config._attn_implementation for part in parts} == {"eager"}


@cases()
def test_flash_attention_is_refused_for_text_models(case):
    """It would silently apply the mask of the cross-attention's keys to the queries."""
    for part in case.build().modules():
        if not isinstance(part, PreTrainedModel):
            continue
        if "text" not in part.input_modalities:
            assert part._supports_flash_attn
            continue
        with pytest.raises(ValueError, match="does not support Flash Attention"):
            part.set_attn_implementation("flash_attention_2")


@cases()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_eager(case):
    model = case.build()
    inputs = case.batch(model)
    model.set_attn_implementation("eager")
    expected = case.run(model, inputs)
    model.set_attn_implementation("flex_attention")
    # uncompiled: half a minute of C++ compilation would test PyTorch, not the model
    with torch.compiler.set_stance("force_eager"):
        assert_same(case.run(model, inputs), expected, tolerance=1e-5)


@cases()
def test_hidden_states_and_attentions(case):
    model = case.build()
    model.set_attn_implementation("eager")
    visible = 24 if case.masks else None
    inputs = case.batch(model, visible=visible)
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    config = vision(model.config)
    sequences, length = case.sequence(config, 2, (4, 4, 4), visible or 64)
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(sequences, length, config.hidden_size)] * 4
    assert [tuple(weights.shape) for weights in outputs.attentions] == [
        (sequences, config.num_attention_heads, length, length)
    ] * 3
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert len({state.sum().item() for state in outputs.hidden_states}) == 4
    assert_same(case.select_outputs(outputs), case.run(model, inputs))  # recording changes no output
    assert model(**inputs).hidden_states is None and model(**inputs).attentions is None


@cases()
def test_tuples_instead_of_model_outputs(case):
    model = case.build()
    inputs = case.batch(model, targets=True)
    with torch.no_grad():
        named, plain = model(**inputs), model(**inputs, return_dict=False)
        model.config.return_dict = vision(model.config).return_dict = False
        configured = model(**inputs)
    for values in (plain, configured):
        assert isinstance(values, tuple)
        leaves = torch.utils._pytree.tree_leaves
        for actual, expected in zip(leaves(values), leaves(named.to_tuple()), strict=True):
            assert torch.equal(actual, expected)


# --- graphs ---------------------------------------------------------------------------------------------------------


@cases()
def test_compiles_into_one_graph(case):
    torch.compiler.reset()
    model = case.build(num_hidden_layers=2)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    batches = [case.batch(model)] + ([case.batch(model, visible=24)] if case.masks else [])
    for inputs in batches:
        assert_same(case.run(compiled, inputs), case.run(model, inputs), tolerance=1e-6)
    with torch.no_grad():
        # eager first: Transformers hooks the layers at the first request, under a lock that can't be traced
        expected = model(**inputs, output_hidden_states=True).hidden_states
        states = compiled(**inputs, output_hidden_states=True).hidden_states
    assert_same(dict(enumerate(states)), dict(enumerate(expected)), tolerance=1e-6)


@cases()
def test_compiled_gradients_equal_eager_ones(case):
    torch.compiler.reset()
    model = case.build(num_hidden_layers=2).train()
    inputs = case.batch(model, visible=24 if case.masks else None, targets=True)
    expected = case.gradients(model, inputs)
    model.zero_grad()
    case.scalar(torch.compile(model, fullgraph=True, backend="eager")(**inputs)).backward()
    actual = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_same(actual, expected, tolerance=case.gradient_tolerance / 10)


@cases()
def test_exports_for_any_batch(case):
    model = case.build()
    inputs = case.batch(model, visible=24 if case.masks else None)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})
    assert_same(case.run(program.module(), inputs), case.run(model, inputs), tolerance=1e-6)
    more = case.batch(model, visible=24 if case.masks else None, batch=3)
    assert_same(case.run(program.module(), more), case.run(model, more), tolerance=1e-6)


@takes_masks
def test_a_mask_of_booleans_is_not_exported(case):
    model = case.build()
    inputs = without_mask(case.batch(model)) | {"bool_masked_pos": _hidden(40, 40)}
    with pytest.raises(ValueError, match=r"can't be exported.*Export with `visible_indices`"):
        torch.export.export(model, (), inputs, strict=False)


# --- training -------------------------------------------------------------------------------------------------------


@cases()
def test_every_parameter_gets_a_gradient(case):
    model = case.build().train()
    for name, gradient in case.gradients(model, case.batch(model, targets=True)).items():
        # a bias of the keys does not change the softmax
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0 or name.endswith(("k_proj.bias", "key.bias")), name


@cases()
def test_a_forward_pass_changes_no_parameter_or_buffer(case):
    model = case.build()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for training in (True, False):
        case.gradients(model.train(training), case.batch(model, targets=True))
        assert_same({name: tensor.detach() for name, tensor in tensors.items()}, before)


@cases()
def test_activation_checkpointing_recomputes_the_same_gradients(case):
    # with drop path, the recomputation must drop the same branches again
    fields = {"drop_path_rate": 0.5} if hasattr(vision(case.config()), "drop_path_rate") else {}
    model = case.build(**fields).train()
    inputs = case.batch(model, targets=True, batch=4)
    forwards = []
    handles = [
        module.register_forward_hook(lambda *_: forwards.append(1))
        for name, module in model.named_modules()
        if re.search(r"layers\.\d\.norm2$|layer\.\d\.intermediate$", name) and not re.search(case.unused, name)
    ]
    torch.manual_seed(3)
    expected, plain_forwards = case.gradients(model, inputs), len(forwards)
    # the second is the name in older versions of Transformers
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    torch.manual_seed(3)
    actual = case.gradients(model, inputs)
    assert len(handles) >= 3 and len(forwards) == 3 * plain_forwards
    assert_same(actual, expected, tolerance=1e-6)


@drops_paths
def test_drop_path_is_seeded_in_training_and_off_in_evaluation(case):
    model = case.build(drop_path_rate=0.5)
    inputs = case.batch(model, batch=4)
    assert_same(case.run(model, inputs), case.run(case.build(), inputs))

    def trained(seed):
        torch.manual_seed(seed)
        return case.run(model.train(), inputs)

    assert_same(trained(0), trained(0))
    assert relative_error(trained(0), trained(1)) > 1e-3
    assert relative_error(trained(0), case.run(model.eval(), inputs)) > 1e-3


# --- masks ----------------------------------------------------------------------------------------------------------


@takes_masks
def test_both_forms_of_a_mask_are_equivalent(case):
    model = case.build()
    inputs = case.batch(model, visible=24)
    hidden = torch.ones(2, 64, dtype=torch.bool).scatter(1, inputs["visible_indices"], False)
    actual = case.run(model, without_mask(inputs) | {"bool_masked_pos": hidden})
    assert_same(actual, case.run(model, inputs))
    for name, shape in case.shapes(model.config, 2, (4, 4, 4), 24).items():
        assert actual[name].shape == shape


@cases(lambda case: case.masks and not case.requires_mask)
def test_a_mask_without_hidden_tokens_equals_no_mask(case):
    model = case.build()
    inputs = case.batch(model)
    nothing = torch.zeros(2, 64, dtype=torch.bool)
    assert_same(case.run(model, {**inputs, "bool_masked_pos": nothing}), case.run(model, inputs), tolerance=1e-6)


@hides_tokens
def test_hidden_pixels_change_nothing_and_visible_ones_do(case):
    model = case.build()
    inputs = case.batch(model, visible=24)
    expected = case.run(model, inputs)
    visible = torch.zeros(2, 64).scatter(1, inputs["visible_indices"], 1.0).view(2, 4, 1, 4, 4)
    visible = visible.repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2).bool()  # per pixel
    clip = inputs["pixel_values_videos"]
    noise = torch.full_like(clip, float("nan"))
    assert_same(case.run(model, {**inputs, "pixel_values_videos": torch.where(visible, clip, noise)}), expected)
    other = case.run(model, {**inputs, "pixel_values_videos": torch.where(visible, clip + 1, clip)})
    assert relative_error(other, expected) > 1e-3


# --- sizes ----------------------------------------------------------------------------------------------------------

SIZES = [(1, 64, 64), (4, 64, 64), (8, 64, 64), (16, 32, 32), (12, 48, 80), (2, 80, 48), (2, 224, 224), (1, 288, 288)]


@cases()
@pytest.mark.parametrize("frames, height, width", SIZES, ids=str)
def test_any_size_without_rebuilding(case, frames, height, width):
    frames = 4 if case.fixed_frames else max(frames, case.least_steps)
    model = case.build()
    actual = case.run(model, case.batch(model, frames=frames, height=height, width=width))
    grid = case.grid(model.config, frames, height, width)
    for name, shape in case.shapes(model.config, 2, grid, grid[0] * grid[1] * grid[2]).items():
        assert actual[name].shape == shape and actual[name].isfinite().all()


@computes_positions
@pytest.mark.parametrize("frames, height, width", SIZES, ids=str)
def test_another_size_gives_the_result_of_a_model_created_for_it(case, frames, height, width):
    frames = 4 if case.fixed_frames else max(frames, case.least_steps)
    model, specialised = case.build(), case.build(num_frames=frames, image_size=[height, width])
    inputs = case.batch(model, frames=frames, height=height, width=width)
    assert_same(case.run(model, inputs), case.run(specialised, inputs), tolerance=1e-6)


@takes_tubelets
def test_tubelets_of_two_frames(case):
    model = case.build(tubelet_size=2)
    for frames, grid in ((4, (2, 4, 4)), (8, (4, 4, 4)), (2, (1, 4, 4)))[: 1 if case.fixed_frames else 3]:
        if grid[0] < case.least_steps:
            continue
        inputs = case.batch(model, frames=frames, visible=7 if case.masks else None)
        for name, shape in case.shapes(model.config, 2, grid, 7 if case.masks else 16 * grid[0]).items():
            assert case.run(model, inputs)[name].shape == shape


@cases()
def test_samples_of_a_batch_are_independent(case):
    model = case.build()
    inputs = case.batch(model)
    alone = case.run(model, {name: tensor[1:] for name, tensor in inputs.items()})
    assert_same(alone, {name: t[1:] for name, t in case.run(model, inputs).items()}, tolerance=1e-5)


# --- errors ---------------------------------------------------------------------------------------------------------

WRONG_CLIPS = {
    "bytes": (
        torch.zeros(2, 4, 3, 64, 64, dtype=torch.uint8),
        r"floating point .* is torch.uint8 \(2, 4, 3, 64, 64\)",
    ),
    "no batch": (torch.zeros(4, 3, 64, 64), r"\(batch, frames, 3 channels, height, width\).*\(4, 3, 64, 64\)"),
    "channels first": (torch.zeros(2, 3, 4, 64, 64), r"\(batch, frames, 3 channels.*\(2, 3, 4, 64, 64\)"),
    "no frames": (torch.zeros(2, 0, 3, 64, 64), r"0 frames|\(2, 0, 3, 64, 64\)"),
    "no pixels": (torch.zeros(2, 4, 3, 0, 64), r"0 x 64 pixels|\(2, 4, 3, 0, 64\)"),
}


@cases()
@pytest.mark.parametrize("wrong", WRONG_CLIPS)
def test_wrong_clips_are_refused(case, wrong):
    model = case.build()
    clip, message = WRONG_CLIPS[wrong]
    with pytest.raises(ValueError, match=message):
        model(**{**case.batch(model), "pixel_values_videos": clip})


@cuts_patches
@pytest.mark.parametrize("height, width", [(60, 64), (64, 72)])
def test_pixels_that_patches_do_not_divide_are_refused(case, height, width):
    model = case.build()
    with pytest.raises(ValueError, match=rf"{height} x {width} pixels.*multiples of the `patch_size` 16"):
        model(**case.inputs(model.config, height=height, width=width))


@takes_tubelets
def test_frames_that_tubelets_do_not_divide_are_refused(case):
    model = case.build(tubelet_size=2)
    with pytest.raises(ValueError, match=r"3 frames.*multiple of `tubelet_size` 2"):
        model(**case.inputs(model.config, frames=3))


@cases()
@pytest.mark.parametrize("name", ["is_causal", "position_ids", "pixel_value_videos", "output_hidden_state", "dropout"])
def test_unknown_keywords_with_a_meaning_are_refused(case, name):
    """Transformers' attention functions would act on some and ignore the others."""
    model = case.build()
    inputs = case.batch(model)
    with pytest.raises(
        TypeError, match=rf"{case.model_class.__name__}.forward\(\).*`{name}`; .*`pixel_values_videos`"
    ):
        model(**inputs, **{name: 1})
    assert_same(case.run(model, inputs, **{name: None}), case.run(model, inputs))


@cases()
def test_other_entries_of_a_batch_are_left_out_with_a_warning(case, caplog):
    model = case.build()
    inputs = case.batch(model)
    expected = case.run(model, inputs)
    logging.warning_once.cache_clear()  # it is of the process
    assert_same(case.run(model, inputs, video_index=torch.arange(2), use_cache=False), expected)
    assert f"{case.model_class.__name__}.forward() ignores the unknown argument `video_index`" in caplog.text
    assert "use_cache" not in caplog.text


def _hidden(*counts: int) -> torch.Tensor:
    return torch.stack([torch.arange(64) < count for count in counts])


WRONG_MASKS = {
    "unequal": ({"bool_masked_pos": _hidden(20, 21)}, ["[44, 43] visible of 64", "same number"]),
    "everything": ({"bool_masked_pos": _hidden(64, 64)}, ["[0, 0] visible of 64", "at least one"]),
    "integers": ({"bool_masked_pos": _hidden(20, 20).long()}, ["torch.int64 (2, 64)", "bool (batch 2, tokens 64)"]),
    "tokens": ({"bool_masked_pos": _hidden(20, 20)[:, :50]}, ["torch.bool (2, 50)", "tokens 64"]),
    "batch": ({"bool_masked_pos": _hidden(20, 20, 20)}, ["torch.bool (3, 64)", "batch 2"]),
    "both": (
        {"bool_masked_pos": _hidden(62, 62), "visible_indices": torch.tensor([[62, 63]] * 2)},
        ["`bool_masked_pos`", "`visible_indices`"],
    ),
    "int32": ({"visible_indices": torch.zeros(2, 4, dtype=torch.int32)}, ["torch.int32 (2, 4)", "int64 (batch 2"]),
    "indices' batch": ({"visible_indices": torch.zeros(3, 4, dtype=torch.int64)}, ["(3, 4)", "batch 2"]),
    "flat indices": ({"visible_indices": torch.arange(4)}, ["(4,)", "batch 2, 1 to 64 visible tokens"]),
    "too many": ({"visible_indices": torch.zeros(2, 65, dtype=torch.int64)}, ["(2, 65)", "1 to 64"]),
    "none": ({"visible_indices": torch.zeros(2, 0, dtype=torch.int64)}, ["(2, 0)", "1 to 64"]),
}


@takes_masks
@pytest.mark.parametrize("wrong", WRONG_MASKS)
def test_wrong_masks_are_refused(case, wrong):
    model = case.build()
    mask, words = WRONG_MASKS[wrong]
    with pytest.raises(ValueError) as error:
        model(**without_mask(case.batch(model)), **mask)
    for word in words:
        assert word in str(error.value)
