"""`umt search` from a folder of videos to results and a page, with a tiny model."""

import argparse
import html as html_module
import json
import os
import re
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from huggingface_hub import constants
from PIL import Image
from tiny_classifier import save_noise, save_tiny_classifier
from tiny_video_text_retrieval import save_tiny_retrieval_model

from umt_training import cli
from umt_training.cli import search as cli_search
from umt_training.search import search_index


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Of the user whose indices are own ones."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two files, with one and two windows, and a broken one."""
    folder = tmp_path / "clips & more"
    save_noise(folder / "short.mp4", 0, num_frames=8, height=32, width=48)
    save_noise(folder / "below" / "<long>.mp4", 1, num_frames=15, height=32, width=48)
    (folder / "text.mp4").write_bytes(b"no video")
    return folder


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    cli_search.add_arguments(parser)
    return cli_search.run(parser.parse_args([str(word) for word in (*argv, "--device", "cpu", "--num-workers", 0)]))


def test_an_index_that_the_main_process_created_on_another_machine_is_missed(videos, model, monkeypatch):
    state = SimpleNamespace(is_main_process=False, wait_for_everyone=lambda: None, main_process_first=nullcontext)
    monkeypatch.setattr(cli_search, "join_for_corpus", lambda args: state)
    with pytest.raises(
        ValueError, match=r"has created the index .*\.umt-index, but .* a folder of the index that they"
    ):
        run("a dog runs", videos, "--model", model)
    assert not (videos / search_index.FOLDER).exists()


def test_index_then_search(videos, model, capsys):
    assert run("a dog runs", videos, "--model", model, "--window", 1) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert len(lines) == 3 and [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert {" ".join(line.split(maxsplit=4)[3:]) for line in lines} == {
        f"0:00.0-0:00.8 {videos}/short.mp4",
        f"0:00.0-0:01.0 {videos}/below/<long>.mp4",
        f"0:01.0-0:01.5 {videos}/below/<long>.mp4",
    }
    assert "text.mp4" in output.err and "indexed 3 videos, 1 of them broken (not_a_video 1)" in output.err

    # the model is that of the index, nothing is read again, and the broken file is not reported again
    assert run("a dog runs", videos) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == lines and "text.mp4" not in output.err and "indexed" not in output.err
    # the index is given instead of the folder
    assert run("a dog runs", videos / search_index.FOLDER, "--json", "--top-k", 1) == 0
    [moment] = json.loads(capsys.readouterr().out)
    assert moment["video"] == lines[0].split(maxsplit=4)[4] and 0 < moment["match"] < 1


def test_an_index_that_is_given_is_not_updated(videos, model, capsys):
    run("a dog", videos, "--model", model)
    save_noise(videos / "new.mp4", 5, num_frames=8, height=32, width=48)
    capsys.readouterr()
    assert run("a dog", videos / search_index.FOLDER) == 0
    assert "new.mp4" not in capsys.readouterr().out
    assert run("a dog", videos) == 0
    assert "new.mp4" in capsys.readouterr().out


def test_page(videos, model, tmp_path):
    page = tmp_path / "out" / "found.html"
    assert run("a <dog> & cat", videos, "--model", model, "--window", 1, "--html", page, "--rerank", 2) == 0
    html = page.read_text(encoding="utf-8")
    assert "a &lt;dog&gt; &amp; cat" in html and "<dog>" not in html and "&lt;long&gt;.mp4" in html
    pictures = sorted((tmp_path / "out" / "found_pictures").iterdir())
    assert [picture.name for picture in pictures] == ["001.jpg", "002.jpg", "003.jpg"]
    for picture in pictures:
        assert f'src="found_pictures/{picture.name}"' in html
        assert Image.open(picture).size == (4 * 240 + 3 * 4, 160)
    # every link leads from the page's folder to a file; those of videos start at the moment
    links = [unquote(html_module.unescape(link)) for link in re.findall(r'<a href="([^"]+)"', html)]
    targets = {(page.parent / link.partition("#")[0]).resolve() for link in links}
    assert targets == {(videos / "short.mp4").resolve(), (videos / "below" / "<long>.mp4").resolve()}
    assert sorted(link.partition("#")[2] for link in links) == sorted(2 * ["t=0,0.8", "t=0,1", "t=1,1.5"])


def test_an_index_in_another_folder(videos, model, tmp_path, capsys):
    assert run("a dog", videos, "--model", model, "--index", tmp_path / "kept") == 0
    assert not (videos / search_index.FOLDER).exists()
    assert run("a dog", tmp_path / "kept") == 0
    assert str(videos) in capsys.readouterr().out


def test_an_index_is_searched_as_it_is_on_request(videos, model, capsys):
    with pytest.raises(ValueError, match="is not an index of `umt search`; leave --no-update out to create it"):
        run("a dog", videos, "--model", model, "--no-update")
    run("a dog", videos, "--model", model)
    save_noise(videos / "new.mp4", 5, num_frames=8, height=32, width=48)
    capsys.readouterr()
    assert run("a dog", videos, "--no-update") == 0
    assert "new.mp4" not in capsys.readouterr().out


def test_an_index_in_object_storage(videos, model, tmp_path, capsys):
    """A scheme of LanceDB that keeps its objects in a folder."""
    uri = f"file-object-store://{tmp_path}/store/index"
    assert run("a dog", videos, "--model", model, "--index", uri) == 0
    assert f"in {uri}" in capsys.readouterr().err and not (videos / search_index.FOLDER).exists()
    moved = videos.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="its model is not loaded without being named"):
        run("a dog", moved, "--index", uri)
    assert run("a dog", moved, "--index", uri, "--model", model, "--no-update") == 0
    assert str(moved) in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"The folder {uri} does not exist"):
        run("a dog", uri, "--model", model)


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """The models that are loaded."""
    names, load = [], cli_search.load_video_text_model
    monkeypatch.setattr(
        cli_search, "load_video_text_model", lambda args, purpose: names.append(str(args.model)) or load(args, purpose)
    )
    return names


@pytest.mark.parametrize("where", ["folder", "index"])
def test_the_model_of_an_index_from_a_stranger_is_loaded_only_if_it_is_named(
    where, videos, model, tmp_path, monkeypatch, loaded, capsys
):
    run("a dog", videos, "--model", model)
    place = videos if where == "folder" else videos / search_index.FOLDER
    assert run("a dog", place) == 0 and loaded == 2 * [str(model)]
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home of another user"))
    with pytest.raises(ValueError, match="its model is not loaded without being named") as caught:
        run("a dog", place)
    assert len(loaded) == 2
    named = str(caught.value).rpartition("--model ")[2]
    assert os.path.samefile(named, model) and run("a dog", place, "--model", named) == 0


def test_videos_elsewhere_of_an_index_from_a_stranger_are_read_only_if_they_are_named(
    videos, model, tmp_path, monkeypatch, loaded, capsys
):
    run("a dog", videos, "--model", model, "--index", tmp_path / "kept")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home of another user"))
    with pytest.raises(ValueError, match="its videos are in another folder") as caught:
        run("a dog", tmp_path / "kept", "--model", model)
    assert len(loaded) == 1
    words = shlex.split(str(caught.value).partition("umt search TEXT ")[2])
    assert words == [str(videos), "--index", str(tmp_path / "kept"), "--no-update"]
    assert run("a dog", *words, "--model", model) == 0
    assert str(videos) in capsys.readouterr().out


def test_an_index_of_an_earlier_version_is_refused(videos, model, capsys):
    folder = videos / search_index.FOLDER
    folder.mkdir()
    stored = {"format": 1, "videos": "./..", "model": {"name": "umt"}, "window": 10.0, "parts": [], "broken": {}}
    (folder / "index.json").write_text(json.dumps(stored))
    command = f"rm -r '{folder}' && umt search TEXT '{videos}' --model umt"
    for arguments in ([videos], [videos, "--model", model], [folder]):
        with pytest.raises(ValueError, match="an index of an earlier version") as caught:
            run("a dog", *arguments)
        assert str(caught.value).endswith(command)


def test_refusals(videos, model, tmp_path):
    with pytest.raises(ValueError, match="no index yet"):
        run("a dog", videos)
    with pytest.raises(ValueError, match="nowhere does not exist"):
        run("a dog", tmp_path / "nowhere", "--model", model)
    with pytest.raises(ValueError, match="--top-k is 0"):
        run("a dog", videos, "--model", model, "--top-k", 0)
    with pytest.raises(ValueError, match="empty"):
        run("  ", videos, "--model", model)
    with pytest.raises(ValueError, match="--window is -1"):
        run("a dog", videos, "--model", model, "--window", -1)
    with pytest.raises(
        ValueError,
        match=r"cannot search: it is a classifier \(UMTForVideoClassification\), and a model of videos and texts",
    ):
        run("a dog", videos, "--model", save_tiny_classifier(tmp_path / "classifier"))
    run("a dog", videos, "--model", model, "--window", 1)
    with pytest.raises(ValueError, match="windows of 1 s, not 2 s"):
        run("a dog", videos, "--window", 2)
    other = save_tiny_retrieval_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="was created with"):
        run("a dog", videos, "--model", other)
    with pytest.raises(ValueError, match="an index itself"):
        run("a dog", videos / search_index.FOLDER, "--index", tmp_path / "kept")


def test_no_videos(tmp_path, model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no videos"):
        run("a dog", tmp_path / "empty", "--model", model)


def test_command_line(videos, model, capsys):
    assert cli.main(["search", "a dog", str(videos), "--model", str(model), "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    shutil.rmtree(videos / search_index.FOLDER)
    assert cli.main(["search", "a dog", str(videos)]) == 1
    assert "give the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "message"), [("?!", "nothing is left without punctuation"), ("xyzzy", "no word is in")]
)
def test_a_text_without_a_known_word_is_refused_before_the_folder_is_indexed(query, message, videos, model, tmp_path):
    with pytest.raises(ValueError, match=f"the text to search for: {message}"):
        run(query, videos, "--model", model, "--index", tmp_path / "index")
    assert not (tmp_path / "index").exists()
