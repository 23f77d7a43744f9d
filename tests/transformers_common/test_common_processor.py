"""Transformers' common tests of processors, with a small vocabulary."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

from bert_vocabulary import write_vocabulary
from transformers_mixins import common

from processing_umt import UMTProcessor, UMTVideoProcessor

WORDS = ("lower", "newer", "upper", "older")


class UMTProcessorTest(common("test_processing_common").ProcessorTesterMixin, unittest.TestCase):
    processor_class = UMTProcessor

    @classmethod
    def _setup_tokenizer(cls):
        with tempfile.TemporaryDirectory() as folder:
            return UMTProcessor.from_bert(write_vocabulary(Path(folder), WORDS)).tokenizer

    @classmethod
    def _setup_video_processor(cls):
        return UMTVideoProcessor(size={"shortest_edge": 20}, crop_size={"height": 18, "width": 18})

    def prepare_images_inputs(self, batch_size=None, nested=False):
        """None: images and videos are separate batches, and a call with both is refused."""
        return None

    # saving a processor of custom code adds an `auto_map` to the object in memory, which a loaded one lacks
    @mock.patch.object(UMTVideoProcessor, "_auto_class", None)
    @mock.patch.object(UMTProcessor, "_auto_class", None)
    def test_processor_from_and_save_pretrained(self):
        super().test_processor_from_and_save_pretrained()

    @mock.patch.object(UMTVideoProcessor, "_auto_class", None)
    @mock.patch.object(UMTProcessor, "_auto_class", None)
    def test_processor_from_and_save_pretrained_as_nested_dict(self):
        super().test_processor_from_and_save_pretrained_as_nested_dict()

    @unittest.skip("a `cls_token` other than the one that starts the tokenizer's texts is refused")
    def test_save_load_pretrained_additional_features(self):
        pass

    @unittest.skip("texts are padded to the processor's `max_text_length`, not to the tokenizer's own length")
    def test_subprocessor_defaults_0_text(self):
        pass

    @unittest.skip("texts are padded to the processor's `max_text_length`, not to the tokenizer's own length")
    def test_subprocessor_defaults_preserved_by_kwargs_1_videos(self):
        pass
