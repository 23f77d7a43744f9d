"""The processor of texts and videos: recorded cleaning, official token ids after saving, remote code, inputs."""

import json

import numpy as np
import pytest
import torch
from bert_vocabulary import WORDS, bert_words, write_vocabulary
from PIL import Image
from subprocess_tools import complaints, run_clean
from transformers import AutoProcessor, AutoTokenizer, AutoVideoProcessor, BertTokenizer

from processing_umt import UMTProcessor, UMTVideoProcessor, VideoDecodeError
from processing_umt.caption_cleaning_umt import clean_caption
from processing_umt.resize_umt import resize_bicubic_no_antialias

CAPTIONS = ["A man -- rides a BIKE/car, fast!!", "What's  the <person> doing?", "Café", "", "zzz dogs RUNNING"]
# [CLS] 101 without [SEP]; tokens from 104 on, [UNK] 100
IDS = [
    [101, *(104 + WORDS.index(word) for word in ("a", "man", "ride", "##s", "a", "bike", "car", "fast"))],
    [101, *(104 + WORDS.index(word) for word in ("whats", "the", "person", "doing"))],
    [101, 104 + WORDS.index("cafe")],
    [101],
    [101, 100, *(104 + WORDS.index(word) for word in ("dog", "##s", "run", "##ning"))],
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def processor(vocabulary):
    return UMTProcessor.from_bert(vocabulary, image_size=32, max_text_length=12)


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "processor"
    processor.save_pretrained(folder)
    return folder


def clip(count=9, height=20, width=30):
    generator = np.random.default_rng(count)
    return generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def padded(ids, length):
    return [row + [0] * (length - len(row)) for row in ids]


def test_captions_are_cleaned_as_recorded(recorded):
    description, _ = recorded("text_rules")
    assert len(description["pre_text"]) == 5
    for case in description["pre_text"]:
        assert clean_caption(case["input"]) == case["output"]
    assert clean_caption("A man's dog, running - fast!") == "a mans dog running fast"
    assert clean_caption("<person> is   cooking/eating; (outdoors)") == "person is cooking eating outdoors"


def reload_once(processor, folder):
    processor.save_pretrained(folder)
    return UMTProcessor.from_pretrained(folder, trust_remote_code=True)


def reload_twice(processor, folder):
    return reload_once(reload_once(processor, folder / "first"), folder / "second")


def reload_tokenizer(processor, folder):
    """Reloads only the tokenizer, with AutoTokenizer."""
    processor.tokenizer.save_pretrained(folder)
    return UMTProcessor(processor.video_processor, AutoTokenizer.from_pretrained(folder), max_text_length=12)


@pytest.mark.parametrize("route", [lambda processor, folder: processor, reload_once, reload_twice, reload_tokenizer])
def test_ids_are_the_official_ones_after_every_round_trip(processor, tmp_path, route):
    again = route(processor, tmp_path)
    texts = again(text=CAPTIONS)
    assert texts["input_ids"] == padded(IDS, 12)
    assert texts["attention_mask"] == padded([[1] * len(ids) for ids in IDS], 12)
    assert set(texts) == {"input_ids", "attention_mask"}
    assert again(text=CAPTIONS, max_length=4)["input_ids"] == [row[:4] for row in padded(IDS, 4)]
    # not cleaned, [SEP] 102, at most five tokens
    yes, dogs = 104 + WORDS.index("yes"), IDS[4][2:]
    assert again.encode_answers(["Yes", "dogs running"])["input_ids"] == [[101, yes, 102, 0, 0], [101, *dogs]]


@pytest.mark.parametrize("source", ["file", "folder", "tokenizer"])
def test_every_source_of_a_vocabulary(vocabulary, processor, tmp_path, source):
    bert = BertTokenizer(vocab={token: index for index, token in enumerate(bert_words())}, model_max_length=512)
    assert bert("a").input_ids[-1] == bert.sep_token_id  # which the processor must not add
    if source == "folder":
        bert.save_pretrained(tmp_path)
    created = UMTProcessor.from_bert({"file": vocabulary, "folder": tmp_path, "tokenizer": bert}[source])
    assert created(text=CAPTIONS, max_length=12)["input_ids"] == padded(IDS, 12)
    assert created(text="a")["input_ids"] == [[101, 104, *[0] * 30]]  # 32 by default
    assert created.tokenizer.model_max_length == 512
    with pytest.raises(ValueError, match=r"its cls_token \[CLS\].*without \[SEP\] at the end.*from_bert"):
        UMTProcessor(created.video_processor, bert)
    bert.cls_token, bert.sep_token = "a", "man"
    with pytest.raises(ValueError, match=r"its cls_token a and its tokens, without man at the end"):
        UMTProcessor(created.video_processor, bert)
    bert.sep_token = None
    with pytest.raises(ValueError, match=r"must have a cls_token and a sep_token; this one has 'a' and None"):
        UMTProcessor(created.video_processor, bert)


def test_videos_are_resized_to_a_square_and_sampled_in_the_middle(processor):
    """The official test transform: bicubic without antialias on uint8, without crop; middle frames of 4 intervals."""
    video = clip(13)
    outputs = processor(text=CAPTIONS, videos=[video, clip(30)], return_tensors="pt")
    assert outputs.pixel_values_videos.shape == (2, 4, 3, 32, 32)
    assert outputs.input_ids.shape == outputs.attention_mask.shape == (5, 12)
    assert outputs.video_indices == [0, 1] and outputs.errors == []
    frames = torch.from_numpy(video[[1, 4, 7, 10]]).permute(0, 3, 1, 2)  # 13 frames in 4 intervals
    resized = resize_bicubic_no_antialias(frames, 32, 32).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (resized - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(outputs.pixel_values_videos[0], expected, atol=1e-5, rtol=0)


def test_an_image_is_a_video_of_one_frame(processor):
    picture = Image.fromarray(clip(1)[0])
    one = processor(images=picture, return_tensors="pt").pixel_values_videos
    assert one.shape == (1, 1, 3, 32, 32)
    three = processor(images=[picture] * 3, text="a", return_tensors="pt")
    assert three.pixel_values_videos.shape == (3, 1, 3, 32, 32) and three.input_ids.shape == (1, 12)
    torch.testing.assert_close(three.pixel_values_videos, one.expand(3, -1, -1, -1, -1))
    # the same list as `videos` is one clip
    assert processor(videos=[picture] * 4, return_tensors="pt").pixel_values_videos.shape == (1, 4, 3, 32, 32)


def test_broken_videos_are_reported(processor, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [str(tmp_path / "broken.mp4"), clip()]
    with pytest.raises(VideoDecodeError, match=r"broken\.mp4"):
        processor(videos=videos)
    outputs = processor(videos=videos, on_error="skip", return_tensors="pt")
    assert outputs.video_indices == [1] and outputs.errors[0][0] == 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "without inputs"),
        ({"images": Image.new("RGB", (8, 8)), "videos": clip()}, "Both `images` and `videos`"),
        ({"text": []}, "at least one string"),
        ({"text": [["a"], ["b"]]}, "at least one string"),
        ({"text": "a", "max_lenght": 5}, "no option max_lenght"),
    ],
)
def test_invalid_inputs_are_reported(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_options_of_both_kinds(processor):
    outputs = processor(
        text="a man", videos=clip(), text_kwargs={"max_length": 7}, num_frames=2, return_tensors="np", padding=True
    )
    assert outputs.pixel_values_videos.shape == (1, 2, 3, 32, 32)
    assert isinstance(outputs.pixel_values_videos, np.ndarray) and outputs.input_ids.tolist() == [[101, 104, 105]]


def test_a_folder_contains_both_processors(processor, saved, tmp_path):
    files = {path.name for path in saved.iterdir()}
    assert {"processor_config.json", "tokenizer.json", "processing_umt.py", "caption_cleaning_umt.py"} <= files
    config = json.loads((saved / "processor_config.json").read_text())
    assert config["auto_map"]["AutoProcessor"] == "processing_umt.UMTProcessor"
    alone = AutoVideoProcessor.from_pretrained(saved, trust_remote_code=True)
    assert type(alone).__name__ == "UMTVideoProcessor" and alone.sampling == "middle"
    again = AutoProcessor.from_pretrained(saved, trust_remote_code=True)
    assert again.to_dict()["video_processor"] == processor.to_dict()["video_processor"]
    assert (again.max_text_length, again.max_answer_length) == (12, 5)
    # the text length is saved, too
    reload_once(UMTProcessor(alone, again.tokenizer, max_text_length=64), tmp_path)
    assert UMTProcessor.from_pretrained(tmp_path, trust_remote_code=True).max_text_length == 64
    assert isinstance(processor.video_processor, UMTVideoProcessor)


def test_installed_code_needs_no_trust(processor, saved):
    """AutoProcessor finds the registered class, as in a model repository."""
    again = AutoProcessor.from_pretrained(saved)
    assert type(again) is UMTProcessor and type(again.video_processor) is UMTVideoProcessor
    assert again(text=CAPTIONS)["input_ids"] == padded(IDS, 12)


def test_remote_code_needs_no_package(processor, saved, tmp_path):
    code = f"""
        import json, numpy as np
        from transformers import AutoProcessor, AutoVideoProcessor

        processor = AutoProcessor.from_pretrained({str(saved)!r}, trust_remote_code=True)
        assert type(processor).__module__.startswith("transformers_modules"), type(processor)
        outputs = processor(text={CAPTIONS!r}, videos=np.zeros((9, 20, 30, 3), np.uint8), return_tensors="pt")
        assert outputs.pixel_values_videos.shape == (1, 4, 3, 32, 32)
        assert AutoVideoProcessor.from_pretrained({str(saved)!r}, trust_remote_code=True).num_frames == 4
        processor.save_pretrained("again")
        again = AutoProcessor.from_pretrained("again", trust_remote_code=True)
        assert again(text={CAPTIONS!r}, return_tensors="pt").input_ids.equal(outputs.input_ids)
        print(json.dumps(outputs.input_ids.tolist()))
    """
    done = run_clean(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == padded(IDS, 12)
    assert not complaints(done.stderr), done.stderr
