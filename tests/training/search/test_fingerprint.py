"""The fingerprint of a model: what changes it, and what does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model

from modeling_umt import UMTVideoTextModel
from modeling_umt.vocabulary_umt import record_vocabulary
from processing_umt import UMTProcessor
from umt_training.search.fingerprint import fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "tiny")


def last_weight(name: str) -> Callable:
    """Changes the last value of a tensor, as little as float32 can represent."""

    def change(model: UMTVideoTextModel, processor: UMTProcessor) -> None:
        values = model.state_dict()[name].view(-1)
        values[-1] = torch.nextafter(values[-1], torch.tensor(torch.inf))

    return change


def add_word(model: UMTVideoTextModel, processor: UMTProcessor) -> None:
    """Replaces a token that is not used."""
    tokens = processor.tokenizer.get_vocab()
    first, second = "[unused0]", "[unused1]"
    state = processor.tokenizer.backend_tokenizer.to_str()
    swapped = state.replace(f'"{first}":{tokens[first]}', f'"{first}":{tokens[second]}', 1)
    swapped = swapped.replace(f'"{second}":{tokens[second]}', f'"{second}":{tokens[first]}', 1)
    processor.tokenizer._tokenizer = type(processor.tokenizer.backend_tokenizer).from_str(swapped)


def set_config(part: str | None, name: str, value: object) -> Callable:
    return lambda model, processor: setattr(getattr(model.config, part) if part else model.config, name, value)


def set_option(name: str, value: object) -> Callable:
    return lambda model, processor: setattr(processor.video_processor, name, value)


CHANGES = {
    "a weight behind the first 1024": last_weight("text_model.embeddings.word_embeddings.weight"),
    "a weight of the video encoder": last_weight("vision_model.layers.1.mlp.fc1.weight"),
    "the number of heads": set_config("vision_config", "num_attention_heads", 4),
    "a field of a later version": set_config("vision_config", "motion_drop_ratio", 0.5),
    "a field of the text encoder": set_config("text_config", "hidden_act", "relu"),
    "a field of the model": set_config(None, "keep_temporal", False),
    "the number of frames": set_option("num_frames", 3),
    "the sampling": set_option("sampling", "sparse"),
    "the mean": set_option("image_mean", (0.5, 0.5, 0.5)),
    "the padding of frames": set_option("size_divisor", 16),
    "the length of texts": lambda model, processor: setattr(processor, "max_text_length", 9),
    "the vocabulary": add_word,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_model_and_processor_changes_it(change, folder):
    model, processor = tiny_retrieval_model(), UMTProcessor.from_pretrained(folder)
    before = fingerprint(model, processor)
    change(model, processor)
    assert fingerprint(model, processor) != before


def test_saving_loading_and_use_do_not_change_it(folder, tmp_path):
    model, processor = tiny_retrieval_model(), UMTProcessor.from_pretrained(folder)
    before = fingerprint(model, processor)
    assert len(before) == 32
    processor(text=["a dog", "a dog runs"], return_tensors="pt")  # sets truncation and padding of the tokenizer
    assert fingerprint(model, processor) == before
    record_vocabulary(model.config, processor.tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = UMTVideoTextModel.from_pretrained(tmp_path), UMTProcessor.from_pretrained(tmp_path)
    assert loaded[0].config.vocabulary_hash and fingerprint(*loaded) == before


def test_a_model_in_bfloat16_has_the_same_one_as_its_values_in_float32(folder):
    processor = UMTProcessor.from_pretrained(folder)
    half = tiny_retrieval_model().bfloat16()
    same = fingerprint(half, processor)
    assert fingerprint(half.float(), processor) == same != fingerprint(tiny_retrieval_model(), processor)
