"""Transformers' common tests of models, on every class with a tiny configuration."""

import unittest
from unittest import mock

import torch
from torch import nn
from transformers_mixins import common

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
    UMTTextConfig,
    UMTTextModel,
    UMTVideoTextConfig,
    UMTVideoTextModel,
)

ModelTesterMixin = common("test_modeling_common").ModelTesterMixin
GenerationTesterMixin = common("test_modeling_common").GenerationTesterMixin
ConfigTester = common("test_configuration_common").ConfigTester

VISION = {"image_size": 16, "patch_size": 8, "num_frames": 2, "hidden_size": 16, "num_hidden_layers": 2}
VISION |= {"num_attention_heads": 2, "intermediate_size": 32, "position_grid": [2, 2, 2]}
VISION |= {"num_aligned_layers": 1, "target_dim": 8}
TEACHER = {name: VISION[name] for name in ("image_size", "patch_size", "hidden_size", "num_hidden_layers")}
TEACHER |= {"num_attention_heads": 2, "intermediate_size": 32, "num_aligned_layers": 1, "projection_dim": 8}
IMAGE_TEACHER = {
    name: value for name, value in TEACHER.items() if name not in ("num_aligned_layers", "projection_dim")
}
INTERNVIDEO2 = {name: value for name, value in VISION.items() if name != "position_grid"}
INTERNVIDEO2 |= {"num_pooling_heads": 2, "pooled_size": 8, "final_target_dim": 8, "num_second_layers": 1}
INTERNVIDEO2 |= {"second_target_dim": 8}
TEXT = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "fusion_layer": 1}
TEXT |= {"intermediate_size": 32, "max_position_embeddings": 16, "encoder_width": 16}
TEXT |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TEXT |= {"cls_token_id": 1, "sep_token_id": 2, "mask_token_id": 3}
VIDEO_TEXT = {"vision_config": VISION, "text_config": TEXT, "projection_dim": 8}
BATCH, FRAMES, LENGTH = 3, 2, 7
VIDEO_TOKENS = 8  # 2 frames of 2 x 2 patches


class ModelTester:
    """What the mixins ask for: a configuration, inputs, and the numbers by which they check shapes."""

    batch_size = BATCH
    num_hidden_layers = 2
    num_attention_heads = 2
    hidden_size = 16
    is_training = True
    mask_length = VIDEO_TOKENS
    num_masks = 4

    def __init__(self, test: "CommonTests"):
        self.test = test
        self.seq_length = test.seq_length

    def get_config(self):
        return self.test.config_class(**self.test.fields)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), self.test.inputs()


def clips() -> dict[str, torch.Tensor]:
    return {"pixel_values_videos": torch.rand(BATCH, FRAMES, 3, 16, 16)}


def texts() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 99, (BATCH, LENGTH))
    ids[:, 0] = 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class CommonTests(ModelTesterMixin):
    """The settings that all classes share, and the exceptions.

    `with_loss`: the classes that return a loss. The others are left out of the tests of training, which the mixins do
    for the bare models of Transformers by name.
    """

    # of Transformers' exporters, whose mixin the source distribution lacks; `torch.export` is in the battery
    test_torch_exportable = False
    test_resize_embeddings = False
    config_class = None
    with_loss = ()
    fields: dict = {}
    config_fields: dict | None = None  # of the configuration's own tests, by default `fields`
    seq_length = VIDEO_TOKENS
    has_text_modality = False

    def setUp(self):
        torch.manual_seed(0)
        self.model_tester = ModelTester(self)
        fields = self.fields if self.config_fields is None else self.config_fields
        self.config_tester = ConfigTester(self, self.config_class, self.has_text_modality, **fields)

    def inputs(self) -> dict[str, torch.Tensor]:
        return clips()

    def test_config(self):
        self.config_tester.run_common_tests()

    def only_classes_with_loss(self):
        if not self.with_loss:
            self.skipTest("these models return no loss")
        return mock.patch.object(type(self), "all_model_classes", self.with_loss)

    def test_training(self):
        with self.only_classes_with_loss():
            super().test_training()

    def check_training_gradient_checkpointing(self, **kwargs):
        with self.only_classes_with_loss():
            super().check_training_gradient_checkpointing(**kwargs)


class PatchEmbeddings:
    """For models whose input embeddings are a projection of patches, which the mixin expects to be of tokens."""

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), nn.Linear)
            self.assertIsNone(model.get_output_embeddings())


class UMTModelsTest(PatchEmbeddings, CommonTests, unittest.TestCase):
    all_model_classes = (UMTModel, UMTForVideoClassification, UMTForPreTraining)
    with_loss = (UMTForVideoClassification, UMTForPreTraining)
    config_class, fields = UMTConfig, VISION

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels and model_class is UMTForVideoClassification:
            inputs["labels"] = torch.zeros(BATCH, dtype=torch.int64)
        if return_labels and model_class is UMTForPreTraining:
            inputs["target_features"] = torch.ones(BATCH, 1, VIDEO_TOKENS, 8)
        return inputs


class InternVideo2ModelsTest(PatchEmbeddings, CommonTests, unittest.TestCase):
    all_model_classes = (InternVideo2Model, InternVideo2ForVideoClassification, InternVideo2ForPreTraining)
    with_loss = (InternVideo2ForVideoClassification, InternVideo2ForPreTraining)
    config_class, fields = InternVideo2Config, INTERNVIDEO2
    seq_length = 1 + VIDEO_TOKENS  # the class token first

    def setUp(self):
        super().setUp()

        def set_norm_eps(config):
            config.rms_norm_eps = config.layer_norm_eps = 1.0

        # the mixin's own function takes `decoder`, here a string, for the configuration of a decoder
        patched = mock.patch.object(common("test_modeling_common"), "set_config_for_less_flaky_test", set_norm_eps)
        patched.start()
        self.addCleanup(patched.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels and model_class is InternVideo2ForVideoClassification:
            inputs["labels"] = torch.zeros(BATCH, dtype=torch.int64)
        if return_labels and model_class is InternVideo2ForPreTraining:
            inputs["target_features"] = torch.ones(BATCH, 1, 1 + VIDEO_TOKENS, 8)
            inputs["target_final"] = torch.ones(BATCH, 8)
            inputs["target_second"] = torch.ones(BATCH, 1, VIDEO_TOKENS, 8)
        return inputs


class UMTActionDetectionTest(PatchEmbeddings, CommonTests, unittest.TestCase):
    all_model_classes = with_loss = (UMTForActionDetection,)
    config_class, fields = UMTConfig, VISION
    additional_model_inputs = ("boxes",)  # the mixin can't extend the booleans of `box_mask`

    def inputs(self) -> dict[str, torch.Tensor]:
        boxes = torch.tensor([[0.0, 1.0, 9.0, 15.0], [4.0, 2.0, 13.0, 7.0]]).repeat(BATCH, 1, 1)
        return clips() | {"boxes": boxes, "box_mask": torch.tensor([[True, False]] * BATCH)}

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels:
            inputs["labels"] = torch.ones(BATCH, 2, 2)
        return inputs


class UMTMaskedModelingTest(PatchEmbeddings, CommonTests, unittest.TestCase):
    """With pixels as target, so that the first output is a tensor, the loss, and not the dictionary of predictions."""

    all_model_classes = with_loss = (UMTForMaskedModeling,)
    config_class, fields = UMTConfig, VISION | {"masked_targets": {"pixels": 192}}
    seq_length = 4  # visible tokens

    def inputs(self) -> dict[str, torch.Tensor]:
        hidden = torch.arange(VIDEO_TOKENS) < VIDEO_TOKENS - self.seq_length
        return clips() | {"bool_masked_pos": hidden.expand(BATCH, -1)}


class UMTTeacherTest(PatchEmbeddings, CommonTests, unittest.TestCase):
    all_model_classes = (UMTTeacherModel,)
    config_class, fields = UMTTeacherConfig, TEACHER
    seq_length = 5  # of a frame, with its class token


class UMTImageTeacherTest(PatchEmbeddings, CommonTests, unittest.TestCase):
    all_model_classes = (UMTImageTeacherModel,)
    config_class, fields = UMTImageTeacherConfig, IMAGE_TEACHER
    seq_length = 5  # of a frame, with its class token


class UMTTextTest(CommonTests, unittest.TestCase):
    all_model_classes = (UMTTextModel,)
    config_class, fields = UMTTextConfig, TEXT
    seq_length = LENGTH
    has_text_modality = True
    test_resize_embeddings = True
    additional_model_inputs = ("encoder_hidden_states",)

    def inputs(self) -> dict[str, torch.Tensor]:
        return texts() | {"encoder_hidden_states": torch.rand(BATCH, VIDEO_TOKENS, 16)}


class UMTVideoTextTest(CommonTests, unittest.TestCase):
    all_model_classes = (UMTVideoTextModel, UMTForVideoTextPreTraining)
    with_loss = (UMTForVideoTextPreTraining,)
    config_class, fields, config_fields = UMTVideoTextConfig, VIDEO_TEXT, {"projection_dim": 8}
    _is_composite = True
    test_resize_embeddings = True
    additional_model_inputs = ("pixel_values_videos",)

    def inputs(self) -> dict[str, torch.Tensor]:
        return texts() | clips()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Pre-training samples what it is not given, so masked texts and negatives are given here."""
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if model_class is UMTForVideoTextPreTraining:
            ids = inputs["input_ids"]
            others = torch.arange(len(ids)).roll(1)
            inputs |= {"negative_video_indices": others, "negative_text_indices": others}
            inputs |= {"mlm_input_ids": ids.index_fill(1, torch.tensor([2]), 3), "mlm_labels": ids}
            if return_labels:
                inputs["target_features"] = torch.ones(BATCH, 1, VIDEO_TOKENS, 8)
        return inputs

    def _text_features_get_expected_num_hidden_states(self, model_tester=None):
        return TEXT["fusion_layer"] + 1  # texts alone pass the layers below

    def _text_features_get_expected_num_attentions(self, model_tester=None):
        return TEXT["fusion_layer"]

    def test_batching_equivalence(self):
        # in pre-training, the other samples of a batch are the negatives
        with mock.patch.object(type(self), "all_model_classes", (UMTVideoTextModel,)):
            super().test_batching_equivalence()


class UMTQuestionAnsweringTest(CommonTests, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (UMTForVideoQuestionAnswering,)
    with_loss = all_model_classes
    config_class, config_fields = UMTVideoTextConfig, {"projection_dim": 8}
    # a decoder of as many layers as the encoder, as the mixin expects
    fields = VIDEO_TEXT | {"text_config": TEXT | {"fusion_layer": 0}, "is_encoder_decoder": True}
    seq_length = LENGTH
    _is_composite = True
    is_encoder_decoder = True
    test_resize_embeddings = True
    additional_model_inputs = ("pixel_values_videos",)

    def inputs(self) -> dict[str, torch.Tensor]:
        return texts() | clips() | {"decoder_input_ids": texts()["input_ids"]}

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels:
            inputs["labels"] = inputs.pop("decoder_input_ids")
        return inputs

    @unittest.skip("it has two encoders and a decoder, and no model that is its base")
    def test_model_base_model_prefix(self):
        pass

    @unittest.skip("the video encoder's attentions are returned too; tests/modeling_umt checks the shapes of all")
    def test_attention_outputs(self):
        pass
