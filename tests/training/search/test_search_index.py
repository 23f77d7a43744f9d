"""The index of `umt search`: its content, updates, interruptions, and the models that may use it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from tiny_classifier import save_noise
from tiny_pretraining import python_environment
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model

from modeling_umt.modeling_umt_video_text import mean_of_unit_vectors
from processing_umt import UMTProcessor
from umt_training.search import indexing, search_index
from umt_training.search.indexing import fingerprint, update
from umt_training.search.search import search
from umt_training.search.search_index import IndexModel, SearchIndex
from umt_training.search.windows import read_windows


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_retrieval_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def processor(model_folder) -> UMTProcessor:
    return UMTProcessor.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def model():
    return tiny_retrieval_model()


def noise(path: Path, seed: int, num_frames: int = 12) -> Path:
    """10 frames a second."""
    return save_noise(path, seed, num_frames=num_frames, height=32, width=48)


@pytest.fixture
def videos(tmp_path) -> Path:
    """Five files: one in a sub-folder, one with 25 frames, two broken."""
    folder = tmp_path / "videos"
    for number in range(2):
        noise(folder / f"clip{number}.mp4", number)
    noise(folder / "below" / "long.mp4", 7, num_frames=25)
    (folder / "text.mp4").write_bytes(b"no video")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    return folder


def make_index(videos: Path, model, processor) -> SearchIndex:
    identity = IndexModel("tiny", None, fingerprint(model, processor))
    return SearchIndex.create(videos / search_index.FOLDER, videos, identity, window=1.0)


def spans(index: SearchIndex) -> list[tuple[str, float, float]]:
    table = index.table
    return sorted(zip(table["video"], table["start"], table["end"], strict=True))


SPANS = [
    ("below/long.mp4", 0.0, 1.0), ("below/long.mp4", 1.0, 2.0), ("below/long.mp4", 2.0, 2.5),
    ("clip0.mp4", 0.0, 1.0), ("clip0.mp4", 1.0, 1.2), ("clip1.mp4", 0.0, 1.0), ("clip1.mp4", 1.0, 1.2),
]  # fmt: skip


def test_windows_and_vectors(videos, model, processor):
    index = make_index(videos, model, processor)
    num_done, broken = update(index, model, processor, batch_size=2)
    assert num_done == 5 and {video: facts.reason for video, facts in broken.items()} == {
        "text.mp4": "not_a_video",
        "dangling.mp4": "missing",
    }
    assert spans(index) == SPANS and index.manifest.parts == ["part-000001"]
    assert spans(SearchIndex(index.folder)) == SPANS and SearchIndex(index.folder).manifest.broken == broken
    for row in load_from_disk(str(index.folder / "part-000001")):
        path = videos / row["video"]
        assert (row["size"], row["modified"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        windows = read_windows(str(path), processor.video_processor, 1.0, 1.0)
        clip = next(clip for window, clip in windows if window["start"] == row["start"])
        with torch.no_grad():
            expected = mean_of_unit_vectors(model.get_video_features(clip).pooler_output)[0]
        np.testing.assert_allclose(row["embedding"], expected, atol=1e-5)


def test_workers_change_nothing(videos, model, processor, tmp_path):
    index = make_index(videos, model, processor)
    update(index, model, processor)
    alone = index.table.sort(["video", "start"]).to_list()
    other = SearchIndex.create(tmp_path / "other", videos, index.manifest.model, window=1.0)
    update(other, model, processor, num_workers=2, batch_size=3)
    rows = other.table.sort(["video", "start"]).to_list()
    assert other.manifest.broken == index.manifest.broken
    for row, expected in zip(rows, alone, strict=True):
        np.testing.assert_allclose(row.pop("embedding"), expected.pop("embedding"), atol=1e-5)
        assert row == expected


def test_updates_follow_the_folder(videos, model, processor, monkeypatch):
    """Only new and changed files are read; a broken file only if it changes."""
    index = make_index(videos, model, processor)
    update(index, model, processor)
    read = []
    stream = indexing.WindowStream.__init__
    monkeypatch.setattr(
        indexing.WindowStream,
        "__init__",
        lambda self, folder, files, *rest: read.extend(files) or stream(self, folder, files, *rest),
    )
    assert update(index, model, processor) == (0, {}) and read == []

    (videos / "clip0.mp4").unlink()
    noise(videos / "clip1.mp4", 9, num_frames=8)
    noise(videos / "clip2.mp4", 3, num_frames=5)
    noise(videos / "text.mp4", 4, num_frames=6)
    (videos / "dangling.mp4").unlink()
    (videos / "empty.mp4").write_bytes(b"")
    num_done, broken = update(index, model, processor)
    assert sorted(read) == ["clip1.mp4", "clip2.mp4", "empty.mp4", "text.mp4"] and num_done == 4
    assert list(broken) == ["empty.mp4"] and list(index.manifest.broken) == ["empty.mp4"]
    expected = [*SPANS[:3], ("clip1.mp4", 0.0, 0.8), ("clip2.mp4", 0.0, 0.5), ("text.mp4", 0.0, 0.6)]
    assert spans(index) == expected
    assert len(index.manifest.parts) == 1
    assert sorted(path.name for path in index.folder.iterdir()) == ["index.json", "lock", *index.manifest.parts]

    for path in videos.rglob("*.mp4"):
        path.unlink()
    (videos / "empty.mp4").write_bytes(b"")
    os.utime(videos / "empty.mp4", ns=(1, 1))
    update(index, model, processor)
    assert index.table is None and index.nearest(np.zeros(16, np.float32), 3) == []


def test_a_truncated_file_keeps_its_windows(videos, model, processor):
    path = noise(videos / "cut.mkv", 5, num_frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    index = make_index(videos, model, processor)
    _, broken = update(index, model, processor)
    assert broken["cut.mkv"].reason == "truncated"
    assert 1 <= sum(video == "cut.mkv" for video, *_ in spans(index)) < 6
    assert update(index, model, processor) == (0, {})


@pytest.mark.parametrize("stop", ["save", "manifest", "drop", "compact"])
def test_interruption_at_any_moment(videos, model, processor, monkeypatch, stop):
    """Whatever was being written, the index is consistent, and the next update completes it."""
    index = make_index(videos, model, processor)
    monkeypatch.setattr(indexing, "_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(indexing, "_COMMIT_SHARE", 0.0)

    class Killed(BaseException):
        pass

    def killing(calls: int, function):
        count = iter(range(calls))

        def wrapper(*args):
            result = function(*args)
            if next(count, None) is None:
                raise Killed
            return result

        return wrapper

    if stop == "drop":
        update(index, model, processor)
        (videos / "clip0.mp4").unlink()
    with monkeypatch.context() as patch:
        if stop == "manifest":
            patch.setattr(search_index, "_write_manifest", killing(1, search_index._write_manifest))
        elif stop == "save":
            patch.setattr(SearchIndex, "_save", killing(1, SearchIndex._save))
        else:
            patch.setattr(SearchIndex, "_replace", killing(0, lambda self, table: self._save(table)))
        with pytest.raises(Killed):
            update(index, model, processor)
    index = SearchIndex(index.folder)
    expected = [span for span in SPANS if stop != "drop" or span[0] != "clip0.mp4"]
    found = spans(index)
    assert len(found) == len(set(found)) and set(found) <= set(SPANS)
    update(index, model, processor)
    assert spans(index) == expected and set(index.manifest.broken) == {"text.mp4", "dangling.mp4"}
    assert sorted(path.name for path in index.folder.iterdir()) == ["index.json", "lock", *index.manifest.parts]


def test_two_updates_at_once(videos, model, processor):
    from filelock import FileLock

    index = make_index(videos, model, processor)
    with FileLock(index.folder / "lock"), pytest.raises(ValueError, match="Another process"):
        update(index, model, processor)


def test_only_the_model_of_the_index_is_accepted(videos, model, processor, model_folder):
    index = make_index(videos, model, processor)
    index.require_model(IndexModel("elsewhere", None, fingerprint(tiny_retrieval_model(), processor)))
    with pytest.raises(ValueError, match="was created with tiny"):
        index.require_model(IndexModel("tiny", None, fingerprint(tiny_retrieval_model(seed=1), processor)))
    other = UMTProcessor.from_pretrained(model_folder)
    other.video_processor.num_frames = 3
    assert fingerprint(model, other) != fingerprint(model, processor)
    from modeling_umt import UMTVideoTextModel

    loaded = UMTVideoTextModel.from_pretrained(model_folder)
    assert fingerprint(loaded, processor) == fingerprint(model, processor)


def test_folders_that_are_not_an_index_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not an index of"):
        SearchIndex(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        SearchIndex(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1]",
        lambda text: text.replace('"window": 1.0', '"window": -1'),
        lambda text: text.replace('"fingerprint"', '"print"'),
        lambda text: text.replace('"broken": {', '"broken": {"a.mp4": 3, '),
        lambda text: text.replace('"parts"', '"pieces"'),
        lambda text: text.replace('"parts": []', '"parts": ["../elsewhere"]'),
    ],
    ids=["cut", "empty", "a list", "window", "model", "broken", "fields", "parts"],
)
def test_a_damaged_index_is_named(videos, model, processor, change):
    file = make_index(videos, model, processor).folder / "index.json"
    assert change(file.read_text()) != file.read_text()
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=r"index\.json is (damaged|not valid JSON)"):
        SearchIndex(file.parent)


@pytest.mark.parametrize("place", ["videos/.umt-index", "elsewhere", "link/index"])
def test_an_index_stores_relative_paths(place, videos, model, processor, tmp_path):
    """So a folder that contains models, videos and index can be moved, and no path of the machine is in it."""
    root = tmp_path / "data"
    root.mkdir()
    shutil.move(videos, root / "videos")
    (root / "model").mkdir()
    (root / "far" / "away").mkdir(parents=True)
    (root / "link").symlink_to(Path("far", "away"))
    identity = IndexModel(str(root / "model"), None, fingerprint(model, processor))
    index = SearchIndex.create(root / place, root / "videos", identity, window=1.0)
    update(index, model, processor)
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in index.folder.rglob("*") if file.is_file())
    root.rename(tmp_path / "moved")
    moved = SearchIndex(tmp_path / "moved" / place)
    assert os.path.samefile(moved.model, tmp_path / "moved" / "model")
    assert os.path.samefile(moved.videos, tmp_path / "moved" / "videos")
    assert update(moved, model, processor)[0] == 0


# search


def plain_scores(query: str, videos: Path, model, processor) -> dict[tuple[str, float], tuple[float, float]]:
    """Similarity and probability of a match of every window, one at a time."""
    scores = {}
    inputs = processor(text=query, return_tensors="pt")
    for name in ("below/long.mp4", "clip0.mp4", "clip1.mp4"):
        for window, clip in read_windows(str(videos / name), processor.video_processor, 1.0, 1.0):
            with torch.no_grad():
                output = model(pixel_values_videos=clip, **inputs)
                tokens = model.get_video_features(clip).last_hidden_state
                text = model.get_text_features(**inputs).last_hidden_state
                match = model.match(text, inputs["attention_mask"], tokens).softmax(-1)[0, 1]
            similarity = output.video_embeds @ output.text_embeds.T
            scores[str(videos / name), window["start"]] = float(similarity), float(match)
    return scores


@pytest.mark.parametrize("num_reranked", [0, 3, 32])
def test_search(videos, model, processor, num_reranked):
    index = make_index(videos, model, processor)
    update(index, model, processor)
    moments = search(index, model, processor, "a dog runs", top_k=6, num_reranked=num_reranked, batch_size=2)
    scores = plain_scores("a dog runs", videos, model, processor)
    nearest = sorted(scores, key=lambda window: -scores[window][0])
    best = sorted(nearest[:num_reranked], key=lambda window: -scores[window][1])
    assert [(moment.video, moment.start) for moment in moments] == (best + nearest[num_reranked:])[:6]
    for number, moment in enumerate(moments):
        similarity, match = scores[moment.video, moment.start]
        assert moment.similarity == pytest.approx(similarity, abs=1e-5)
        assert moment.match == (pytest.approx(match, abs=1e-5) if number < num_reranked else None)


def test_search_leaves_out_deleted_files(videos, model, processor, capsys):
    index = make_index(videos, model, processor)
    update(index, model, processor)
    (videos / "clip0.mp4").unlink()
    moments = search(index, model, processor, "a dog runs")
    assert {os.path.basename(moment.video) for moment in moments} == {"long.mp4", "clip1.mp4"}
    assert "clip0.mp4" in capsys.readouterr().err


def test_index_and_videos_move_together(videos, model, processor):
    update(make_index(videos, model, processor), model, processor)
    moved = videos.rename(videos.parent / "moved")
    index = SearchIndex(moved / search_index.FOLDER)
    assert update(index, model, processor)[0] <= 1  # the dangling link, whose target has moved
    assert all(moment.video.startswith(str(moved)) for moment in search(index, model, processor, "a cat"))


def test_faiss_finds_what_the_matrix_finds(videos, model, processor, monkeypatch):
    pytest.importorskip("faiss")
    index = make_index(videos, model, processor)
    update(index, model, processor)
    query = np.random.default_rng(0).normal(size=16).astype(np.float32)
    expected = index.nearest(query, 7)
    monkeypatch.setattr(search_index, "MATRIX_ROWS", 3)
    for _ in range(2):  # created, then loaded
        found = index.nearest(query, 7)
        assert found
        for row in found:
            [same] = [other for other in expected if (other["video"], other["start"]) == (row["video"], row["start"])]
            assert row.pop("similarity") == pytest.approx(same["similarity"], abs=1e-5)
            assert row == {name: value for name, value in same.items() if name != "similarity"}
        assert (index.folder / "part-000001.faiss").exists()
    noise(videos / "new.mp4", 8)
    update(index, model, processor)
    assert not (index.folder / "part-000001.faiss").exists()


KILLED = """
import sys, torch
from pathlib import Path
from tiny_video_text_retrieval import tiny_retrieval_model
from processing_umt import UMTProcessor
from umt_training.search import indexing
from umt_training.search.search_index import SearchIndex
indexing._COMMIT_SECONDS = indexing._COMMIT_SHARE = 0.0
original_add = SearchIndex.add
def add(self, *args):
    original_add(self, *args)
    print("added", flush=True)
SearchIndex.add = add
indexing.update(
    SearchIndex(Path(sys.argv[1])), tiny_retrieval_model(),
    UMTProcessor.from_pretrained(sys.argv[2]), num_workers=1, batch_size=1,
)
"""


def test_sigkill(tmp_path, model, processor, model_folder):
    videos = tmp_path / "videos"
    for number in range(30):
        noise(videos / f"{number:02}.mp4", number)
    index = make_index(videos, model, processor)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(index.folder), str(model_folder)],
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        assert child.stdout.readline() == "added\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(0.1)
    index = SearchIndex(index.folder)
    num_found = len(index.known())
    assert 3 <= num_found < 30
    assert update(index, model, processor) == (30 - num_found, {})
    assert len(index.known()) == 30 and len(index.table) == 60


@pytest.mark.parametrize("kind", ["folder", "dangling folder", "lock", "index.json"])
def test_nothing_is_written_through_links_of_a_folder_from_elsewhere(kind, videos, model, processor, tmp_path):
    target = tmp_path / "target"
    folder = videos / search_index.FOLDER
    if "folder" in kind:
        if kind == "folder":
            target.mkdir()
        folder.symlink_to(target)
    else:
        make_index(videos, model, processor)
        (folder / kind).unlink(missing_ok=True)
        target.write_text("own")
        (folder / kind).symlink_to(target)
    with pytest.raises(ValueError, match="is a link, through which"):
        make_index(videos, model, processor)
    if kind in ("lock", "index.json"):
        with pytest.raises(ValueError, match="is a link, through which"):
            SearchIndex(folder)
        assert target.read_text() == "own"
    else:
        assert not target.exists() or not list(target.iterdir())


def test_a_folder_that_is_given_may_be_a_link(videos, model, processor, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "index").symlink_to(tmp_path / "disk")
    identity = IndexModel("tiny", None, fingerprint(model, processor))
    index = SearchIndex.create(tmp_path / "index", videos, identity, window=1.0)
    assert update(index, model, processor)[0] == 5


def test_names_of_parts_do_not_lead_elsewhere(videos, model, processor):
    folder = make_index(videos, model, processor).folder
    manifest = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(manifest | {"parts": ["../../part-000001"]}))
    with pytest.raises(ValueError, match=r"index\.json is damaged \(a part has the name"):
        SearchIndex(folder)
