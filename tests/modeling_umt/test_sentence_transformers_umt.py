"""Saved models as models of sentence-transformers: their vectors are the model's own, and what has none is refused."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub_server import USER, LoopbackHub
from peft import LoraConfig, get_peft_model
from PIL import Image
from recorded import REPOSITORY
from sentence_transformers import SentenceTransformer
from subprocess_tools import complaints, run_clean
from tiny_classifier import save_noise, save_tiny_classifier, tiny_classifier, tiny_processor
from tiny_detection import save_tiny_action_detector
from tiny_pretraining import make_teacher
from tiny_question_answering import save_tiny, tiny_answerer, tiny_stage2
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model
from transformers import AutoModel, AutoProcessor

from modeling_umt import (
    InternVideo2Config,
    InternVideo2ForPreTraining,
    InternVideo2ForVideoClassification,
    InternVideo2Model,
    UMTForMaskedModeling,
    UMTForPreTraining,
    UMTModel,
)
from processing_umt import VideoDecodeError

FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
TEXTS = ["a man runs", "a dog on the bike!", "cat"]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SimpleNamespace:
    """A saved retrieval model, loaded by both libraries, and inputs in memory and in files."""
    root = tmp_path_factory.mktemp("sentence_transformers")
    folder = save_tiny_retrieval_model(root / "retrieval")
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, (length, 40, 50, 3), dtype=np.uint8) for length in (2, 5, 9)]
    images = [Image.fromarray(array[0]) for array in arrays]
    for number, image in enumerate(images):
        image.save(root / f"{number}.png")
    (root / "broken.mp4").write_bytes(b"not a video")
    return SimpleNamespace(
        root=root,
        folder=folder,
        model=AutoModel.from_pretrained(folder).eval(),
        processor=AutoProcessor.from_pretrained(folder),
        loaded=SentenceTransformer(str(folder)),
        videos=[str(save_noise(root / f"{seed}.mp4", seed, num_frames=6 + seed)) for seed in range(3)],
        webm=[str(save_noise(root / f"{seed}.mkv", seed).rename(root / f"{seed}.webm")) for seed in range(3)],
        arrays=arrays,
        images=images,
    )


def own_vectors(world: SimpleNamespace, text=None, **media) -> np.ndarray:
    """`text_embeds` or `video_embeds` of the model's forward pass, one input after another."""
    vectors = []
    name, values = next(iter(media.items())) if media else ("text", text)
    for value in values:
        inputs = {"text": "a", "videos": world.videos[0]} | {name: value}
        if name == "images":
            inputs.pop("videos")
        with torch.no_grad():
            outputs = world.model(**world.processor(**inputs, return_tensors="pt"))
        vectors.append((outputs.text_embeds if name == "text" else outputs.video_embeds)[0].numpy())
    return np.stack(vectors)


# what `encode` gets for a value that the processor gets
FORMS = {
    "path": ("videos", lambda path: path),
    "path in a dict": ("videos", lambda path: {"video": path}),
    "Path": ("videos", lambda path: {"video": Path(path)}),
    "bytes": ("videos", lambda path: {"video": Path(path).read_bytes()}),
    "extension unknown to sentence-transformers": ("webm", lambda path: {"video": path}),
    "array": ("arrays", lambda array: array),
    "array with its rate": ("arrays", lambda array: {"array": array, "video_metadata": {"fps": 10}}),
    "tensor, channels first": ("arrays", lambda array: torch.from_numpy(array).permute(0, 3, 1, 2)),
    "frames": ("arrays", lambda array: {"video": [Image.fromarray(frame) for frame in array]}),
    "image": ("images", lambda image: image),
    "image as array": ("images", np.asarray),
}


@pytest.mark.parametrize("form", FORMS)
def test_vectors_of_videos_are_video_embeds(world, form):
    source, make = FORMS[form]
    values = getattr(world, source)
    expected = own_vectors(world, **{"images" if source == "images" else "videos": values})
    vectors = world.loaded.encode([make(value) for value in values])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(world.loaded.encode(make(values[0])), expected[0], rtol=0, atol=TOLERANCE)


def test_image_files_are_images(world):
    vectors = world.loaded.encode([str(world.root / f"{number}.png") for number in range(3)])
    np.testing.assert_allclose(vectors, own_vectors(world, images=world.images), rtol=0, atol=TOLERANCE)


def test_vectors_of_texts_are_text_embeds(world):
    vectors = world.loaded.encode(TEXTS)
    np.testing.assert_allclose(vectors, own_vectors(world, text=TEXTS), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=TOLERANCE)
    for encode in (world.loaded.encode_query, world.loaded.encode_document):
        np.testing.assert_array_equal(encode(TEXTS), vectors)
    np.testing.assert_array_equal(world.loaded.encode("dog", prompt="a "), world.loaded.encode("a dog"))


def test_similarity_is_the_mean_of_cosines(world):
    videos, texts = world.loaded.encode(world.videos), world.loaded.encode(TEXTS)
    assert np.linalg.norm(videos, axis=1).max() < 1 - 1e-3  # means of unit vectors are not normalised again
    with torch.no_grad():
        inputs = world.processor(text=TEXTS, videos=world.videos, return_tensors="pt")
        expected = world.model(**inputs).logits_per_video * world.model.temperature
    torch.testing.assert_close(world.loaded.similarity(videos, texts), expected, rtol=0, atol=TOLERANCE)
    assert world.loaded.get_embedding_dimension() == 16


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_and_their_order_do_not_matter(world, batch_size):
    inputs = [world.arrays[2], world.videos[0], world.arrays[0], {"video": world.videos[1]}]
    expected = own_vectors(world, videos=[world.arrays[2], world.videos[0], world.arrays[0], world.videos[1]])
    vectors = world.loaded.encode(inputs, batch_size=batch_size)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=TOLERANCE)
    assert world.loaded.encode([], batch_size=batch_size).shape == (0,)


def test_half_precision(world):
    loaded = SentenceTransformer(str(world.folder), model_kwargs={"dtype": "bfloat16"})
    assert loaded.dtype == torch.bfloat16
    np.testing.assert_allclose(loaded.encode(world.videos), world.loaded.encode(world.videos), rtol=0, atol=0.02)
    np.testing.assert_allclose(loaded.encode(TEXTS), world.loaded.encode(TEXTS), rtol=0, atol=0.02)


def test_saved_by_sentence_transformers_and_reloaded(world, tmp_path):
    changed = SentenceTransformer(str(world.folder), prompts={"query": "a "}, similarity_fn_name="cosine")
    changed.save_pretrained(str(tmp_path), create_model_card=False)
    again = SentenceTransformer(str(tmp_path))
    assert (again.prompts["query"], again.similarity_fn_name) == ("a ", "cosine")
    np.testing.assert_array_equal(again.encode_query("dog"), world.loaded.encode("a dog"))
    np.testing.assert_array_equal(again.encode(world.videos), world.loaded.encode(world.videos))
    for name in FILES[:2]:
        assert json.loads((tmp_path / name).read_text()) == json.loads((world.folder / name).read_text())


def test_adapters(world, tmp_path):
    base = AutoModel.from_pretrained(world.folder)
    torch.manual_seed(0)
    config = LoraConfig(target_modules=["query", "value", "q_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        outputs = adapted(**world.processor(text=TEXTS, videos=world.videos, return_tensors="pt"))
    loaded = SentenceTransformer(str(world.folder))
    loaded.load_adapter(str(tmp_path / "adapter"))
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    world.processor.save_pretrained(tmp_path / "merged")
    for encoder in (loaded, SentenceTransformer(str(tmp_path / "merged"))):
        np.testing.assert_allclose(encoder.encode(TEXTS), outputs.text_embeds, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(encoder.encode(world.videos), outputs.video_embeds, rtol=0, atol=TOLERANCE)
    assert np.abs(loaded.encode(world.videos) - world.loaded.encode(world.videos)).max() > 1e-3


# --- other models ---------------------------------------------------------------------------------------------------


MASKED = {"hidden_size": 32, "position_type": "space_time", "position_grid": None, "masked_targets": {"image": 8}}
INTERNVIDEO2 = {"image_size": 32, "patch_size": 16, "num_frames": 4, "hidden_size": 32, "num_hidden_layers": 2}
INTERNVIDEO2 |= {"num_attention_heads": 2, "intermediate_size": 64, "num_pooling_heads": 2, "pooled_size": 24}
INTERNVIDEO2 |= {"num_aligned_layers": 1}
ENCODERS = {
    "encoder": lambda: UMTModel(tiny_classifier().config),
    "stage 1": lambda: UMTForPreTraining(tiny_classifier().config),
    "masked modelling": lambda: UMTForMaskedModeling(tiny_classifier(**MASKED).config),
    "classifier": tiny_classifier,
    "InternVideo2": lambda: InternVideo2Model(InternVideo2Config(**INTERNVIDEO2)),
    "InternVideo2 student": lambda: InternVideo2ForPreTraining(InternVideo2Config(**INTERNVIDEO2)),
    "InternVideo2 classifier": lambda: InternVideo2ForVideoClassification(InternVideo2Config(**INTERNVIDEO2)),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_has_vectors_of_videos(world, tmp_path, kind):
    torch.manual_seed(0)
    ENCODERS[kind]().save_pretrained(tmp_path)
    processor = tiny_processor(num_clips=2, num_crops=3, on_error="skip")  # as for an evaluation
    processor.save_pretrained(tmp_path)
    loaded, model = SentenceTransformer(str(tmp_path)), AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        clips = processor([*world.videos, *world.arrays], num_clips=1, num_crops=1, return_tensors="pt")
        expected = model(**clips).pooler_output
    vectors = loaded.encode([*world.videos, *world.arrays])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=TOLERANCE)
    assert (loaded.similarity_fn_name, loaded.get_embedding_dimension()) == ("cosine", vectors.shape[1])
    for not_a_video in ("a dog runs", str(world.root / "absent.mp4"), world.images[0]):
        with pytest.raises(ValueError, match="not supported by this SentenceTransformer"):
            loaded.encode([not_a_video])
    loaded.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path / "again")).encode(world.videos), vectors[:3])


def test_a_stage_2_model_is_a_dual_encoder(world, tmp_path):
    loaded = SentenceTransformer(str(save_tiny(tiny_stage2(), tmp_path)))
    model = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        inputs = world.processor(text=TEXTS, videos=world.videos, return_tensors="pt")
        outputs = model(**inputs)
    np.testing.assert_allclose(loaded.encode(TEXTS), outputs.text_embeds, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(loaded.encode(world.videos), outputs.video_embeds, rtol=0, atol=TOLERANCE)


def test_models_without_vectors_of_videos_have_no_such_files_and_are_refused(world, tmp_path):
    answerer = save_tiny(tiny_answerer(), tmp_path / "answerer")
    detector = save_tiny_action_detector(tmp_path / "detector")
    make_teacher().save_pretrained(tmp_path / "teacher")
    for folder in (answerer, detector, tmp_path / "teacher"):
        assert not any((folder / name).exists() for name in FILES)
    with pytest.raises(ValueError, match="answerer is a question-answering model, which has no joint space"):
        SentenceTransformer(str(answerer))
    with pytest.raises(ValueError, match="needs the key frame of each video"):
        SentenceTransformer(str(detector)).encode(world.videos)


# --- inputs that are refused ----------------------------------------------------------------------------------------

REFUSED = {
    "a text among videos": (lambda world: ["a dog", world.videos[0]], "mixes multiple modalities", {}),
    "a text and its video": (lambda world: [{"text": "a", "video": world.videos[0]}], "individually", {}),
    "a pair of texts": (lambda world: [("a dog", "a cat")], "Texts must be", {}),
    "a misspelt path": (lambda world: ["clips/absent.mp4"], "absent.mp4' was given as a text", {}),
    "an unknown extension": (lambda world: [world.webm[0]], "was given as a text", {}),
    "a page": (lambda world: ["https://example.com/clip"], "was given as a text", {}),
    "several videos in one": (lambda world: [{"video": world.videos}], "list of 1 contains 3 videos", {}),
    "a batch of videos": (lambda world: np.stack([world.arrays[0]] * 2), "list of 1 contains 2 videos", {}),
    "several views": (lambda world: world.videos, "num_clips is 2", {"video": {"num_clips": 2}}),
    "videos left out": (lambda world: world.videos, 'on_error is "skip"', {"video": {"on_error": "skip"}}),
    "a broken video": (lambda world: [*world.videos, str(world.root / "broken.mp4")], "broken.mp4: it is not", {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_vector_is_refused(world, case):
    make, message, options = REFUSED[case]
    with pytest.raises((ValueError, VideoDecodeError), match=message) as error:
        world.loaded.encode(make(world), processing_kwargs=options)
    assert "\n" not in str(error.value)


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_files_are_written_by_the_main_process_with_the_model_alone(tmp_path):
    tiny_retrieval_model().save_pretrained(tmp_path / "other", is_main_process=False)
    assert not any((tmp_path / "other" / name).exists() for name in FILES)
    tiny_retrieval_model().save_pretrained(tmp_path / "model")  # no processor
    assert all((tmp_path / "model" / name).exists() for name in FILES)


def test_without_the_package_from_a_folder_and_pushed_to_the_hub(world, tmp_path):
    classifier = save_tiny_classifier(tmp_path / "classifier")
    with LoopbackHub() as hub:
        result = run_clean(
            f"""
            import json
            from sentence_transformers import SentenceTransformer

            def vectors(source):
                encoder = SentenceTransformer(source, trust_remote_code=True)
                videos = encoder.encode({world.videos!r}).tolist()
                texts = encoder.encode({TEXTS!r}).tolist() if encoder.supports("text") else []
                return encoder, videos + texts

            encoder, answer = vectors("{world.folder}")
            encoder.save_pretrained("{tmp_path}/again", create_model_card=False)
            encoder[0].model.save_pretrained("{tmp_path}/pushed", push_to_hub=True, repo_id="{USER}/pushed")
            encoder.processor.push_to_hub("{USER}/pushed")
            print(json.dumps([answer, vectors("{tmp_path}/again")[1], vectors("{USER}/pushed")[1],
                              vectors("{classifier}")[1]]))
            """,
            cwd=tmp_path,
            env=hub.env(),
        )
        assert result.returncode == 0, result.stderr
        assert {*FILES, "model.safetensors"} <= hub.files(f"{USER}/pushed").keys()
    assert complaints(result.stderr) == []
    *copies, of_classifier = json.loads(result.stdout.splitlines()[-1])
    expected = np.concatenate([world.loaded.encode(world.videos), world.loaded.encode(TEXTS)])
    for copy in copies:
        np.testing.assert_allclose(copy, expected, rtol=0, atol=TOLERANCE)
    expected = SentenceTransformer(str(classifier)).encode(world.videos)
    np.testing.assert_allclose(of_classifier, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("package", ["modeling_umt", "processing_umt", "training"])
def test_a_package_does_not_import_sentence_transformers(package):
    imported = set()
    for file in (REPOSITORY / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    assert "torch" in imported and imported.isdisjoint({"sentence_transformers", "mteb"})
