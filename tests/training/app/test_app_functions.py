"""The functions behind the tabs of `umt app`, without a browser and without Gradio."""

import json
from argparse import Namespace

import av
import pytest
import torch
from PIL import Image
from tiny_classifier import save_noise, save_tiny_classifier, tiny_processor
from tiny_detection import save_tiny_person_detector, tiny_action_detector
from tiny_pretraining import make_teacher
from video_files import write_broken_videos

from modeling_umt import UMTConfig, UMTModel
from processing_umt import UMTVideoProcessor, VideoDecodeError
from processing_umt.video_decoding_umt import VideoReader
from umt_training import cli
from umt_training.app.classify import Classifier
from umt_training.app.detect import ActionFinder, rows_of
from umt_training.app.preview import is_playable, write_preview
from umt_training.app.served_files import ServedVideos
from umt_training.app.tokens import TokenView
from umt_training.cli.app import list_examples
from umt_training.detection.persons import PersonDetector, load_detector
from umt_training.pictures.h264 import write_h264
from umt_training.trainers.scored_clip import TokenScorer


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_noise(tmp_path_factory.mktemp("clips") / "clip.mp4", 0, num_frames=25)


def test_labels_are_those_of_the_command_and_frames_those_of_the_processor(clip, tmp_path, capsys):
    from transformers import AutoModelForVideoClassification

    folder = save_tiny_classifier(tmp_path / "model")
    model = AutoModelForVideoClassification.from_pretrained(folder).eval()
    classifier = Classifier(model, tiny_processor(), "tiny")
    words = ["--model", str(folder), "--json", "--top-k", "3", "--num-workers", "0", "--device", "cpu"]
    assert cli.main(["classify", str(clip), *words]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    found = classifier.classify(str(clip), top_k=3)
    assert list(found) == [row["label"] for row in printed["predictions"]]
    assert list(found.values()) == pytest.approx([row["score"] for row in printed["predictions"]], abs=1e-6)

    frames = classifier.frames(str(clip))
    assert [time for _, time in frames] == ["0:00.3", "0:00.9", "0:01.5", "0:02.1"]
    assert all(picture.height % 48 == 0 and picture.height >= 144 for picture, _ in frames)


def test_a_link_out_of_the_folder_is_no_example(clip, tmp_path):
    folder = tmp_path / "examples"
    save_noise(folder / "own.mp4", 1, num_frames=3)
    (folder / "link.mp4").symlink_to(clip)
    (folder / "inside.mp4").symlink_to(folder / "own.mp4")
    assert [name for name, _ in list_examples(Namespace(examples=folder))] == ["inside", "own"]


def test_a_broken_video_is_an_error_that_names_it(tmp_path):
    classifier = Classifier(torch.nn.Linear(1, 1), tiny_processor(), "tiny")
    for path, reason in write_broken_videos(tmp_path).items():
        with pytest.raises(VideoDecodeError) as error:
            classifier.classify(path)
        assert error.value.reason == reason


def test_tokens_are_those_of_the_training_code_and_out_of_range_percentages_are_refused(clip):
    torch.manual_seed(0)
    student = UMTModel(UMTConfig(image_size=32, num_hidden_layers=1, num_aligned_layers=1, num_frames=4)).eval()
    teacher = make_teacher().eval()
    side = teacher.config.image_size // teacher.config.patch_size
    processor = UMTVideoProcessor(num_frames=4)
    view = TokenView(TokenScorer(teacher, processor, 16 * side, side), TokenScorer(student, processor, 32, 2))
    assert view.mask_types == ("attention", "clip_attention", "tube", "random", "motion")
    scored = view.score(str(clip))
    for mask_type, num_tokens in (("attention", 4 * side * side), ("motion", 16)):
        picture, line = view.draw(scored, mask_type, 50)
        assert isinstance(picture, Image.Image) and line == f"{num_tokens // 2} of {num_tokens} tokens are visible"
    for visible in (0, -1, 101, float("nan")):
        with pytest.raises(ValueError, match="more than 0 and at most 100"):
            view.draw(scored, "motion", visible)
    with pytest.raises(ValueError, match="'attention' are not shown here; expected motion"):
        TokenView(None, view.student).draw(scored, "attention", 50)


def test_detections_are_drawn_and_listed(clip, tmp_path):
    model = tiny_action_detector()
    detector = load_detector(str(save_tiny_person_detector(tmp_path / "persons")), "cpu")
    processor = UMTVideoProcessor.for_action_detection(model.config)
    finder, done = ActionFinder(model, processor, PersonDetector(detector), "tiny"), []
    found = finder.find(str(clip), tmp_path / "out.mp4", 0.0, lambda fraction, _: done.append(fraction))
    assert done == sorted(done) and done[-1] == pytest.approx(1.0)
    rows = rows_of(found)
    assert [row[:2] for row in rows] == [
        (time, person.track)
        for time, key_frame in zip(("0:00.5", "0:01.5", "0:02.5"), found.key_frames, strict=False)
        for person in key_frame.persons
    ]
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert (reader.num_frames, reader.width, reader.height) == (25, 80, 48)
    with pytest.raises(ValueError, match=r"threshold of actions is 1\.5"):
        finder.find(str(clip), tmp_path / "other.mp4", 1.5, lambda *_: None)
    assert not (tmp_path / "other.mp4").exists()


def test_a_video_that_browsers_do_not_play_is_converted_from_a_time_to_a_time(clip, tmp_path):
    assert not is_playable(clip)  # MPEG-4 part 2
    with VideoReader(clip) as reader:
        preview = write_preview(tmp_path / "preview.mp4", reader, 0.5, 1.5)
        with pytest.raises(ValueError, match="without frames"):
            write_preview(tmp_path / "none.mp4", reader, 90, 100)
    assert is_playable(preview) and not (tmp_path / "none.mp4").exists()
    with VideoReader(preview) as reader:
        assert (reader.num_frames, reader.height) == (10, 240)  # enlarged by an integer factor
        assert reader.timestamps[0] == 0


def test_playable_videos_are_told_from_others_by_codec_container_and_size(tmp_path):
    frames = [(index / 10, Image.new("RGB", (160, 128))) for index in range(3)]
    assert is_playable(write_h264(tmp_path / "even.mp4", frames, 10))
    odd = [(time, Image.new("RGB", (161, 128))) for time, _ in frames]
    assert not is_playable(write_h264(tmp_path / "odd.mp4", odd, 10))  # yuv444p
    (tmp_path / "even.avi").write_bytes((tmp_path / "even.mp4").read_bytes())
    assert not is_playable(tmp_path / "even.avi")
    small = [(time, Image.new("RGB", (32, 32))) for time, _ in frames]
    assert not is_playable(write_h264(tmp_path / "small.mp4", small, 10))
    with pytest.raises((OSError, av.FFmpegError)):
        is_playable(tmp_path / "missing.mp4")


def test_addresses_of_videos_cannot_be_guessed_and_are_stable(clip, tmp_path):
    served, other = ServedVideos(), ServedVideos()
    address = served.address(clip)
    assert address == served.address(clip) != other.address(clip)
    assert address.startswith("videos/") and address.endswith(".mp4") and len(address) > 30 and "clip" not in address
