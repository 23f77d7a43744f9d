"""The index of `umt search`: its content, updates, interruptions, and the models that may use it."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from index_rows import RANDOM, index_of_rows, window_rows
from tiny_classifier import save_noise
from tiny_video_text_retrieval import save_tiny_retrieval_model, tiny_retrieval_model
from warm_python import packages
from without_lancedb import WithoutLanceDB

from modeling_umt.modeling_umt_video_text import mean_of_unit_vectors
from processing_umt import UMTProcessor
from umt_training.search import indexing, search_index
from umt_training.search.fingerprint import fingerprint
from umt_training.search.indexing import update
from umt_training.search.search import search
from umt_training.search.search_index import IndexModel, SearchIndex
from umt_training.search.windows import read_windows


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


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
    return SearchIndex.create(videos / search_index.FOLDER, videos, identity, window=1.0, dimension=16)


def rows_of(index: SearchIndex) -> list[dict]:
    """The windows, sorted."""
    rows = index.table.search().where("vector IS NOT NULL").to_arrow().to_pylist()
    return sorted(rows, key=lambda row: (row["video"], row["start"]))


def spans(index: SearchIndex) -> list[tuple[str, float, float]]:
    return [(row["video"], row["start"], row["end"]) for row in rows_of(index)]


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
    assert spans(index) == SPANS and index.broken() == broken
    again = SearchIndex(index.uri)
    assert spans(again) == SPANS and again.broken() == broken and again.known() == index.known()
    for row in rows_of(index):
        path = videos / row["video"]
        assert (row["size"], row["modified"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        windows = read_windows(str(path), processor.video_processor, 1.0, 1.0)
        clip = next(clip for window, clip in windows if window["start"] == row["start"])
        with torch.no_grad():
            expected = mean_of_unit_vectors(model.get_video_features(clip).pooler_output)[0]
        np.testing.assert_allclose(row["vector"], expected, atol=1e-5)


def test_workers_change_nothing_and_are_not_forked_from_a_process_with_lancedb(
    videos, model, processor, model_folder, tmp_path, monkeypatch
):
    index = make_index(videos, model, processor)
    update(index, model, processor)
    other = make_at(tmp_path / "other", videos)
    monkeypatch.setattr(indexing, "_FEW_BYTES", 0)
    strict = UMTProcessor.from_pretrained(model_folder)
    strict.video_processor.__class__ = WithoutLanceDB
    assert update(other, model, strict, num_workers=2, batch_size=3)[0] == 5
    assert other.broken() == index.broken()
    for row, expected in zip(rows_of(other), rows_of(index), strict=True):
        np.testing.assert_allclose(row.pop("vector"), expected.pop("vector"), atol=1e-5)
        assert row == expected


def test_updates_follow_the_folder(videos, model, processor, monkeypatch):
    """Only new and changed files are read; a broken file only if it changes."""
    index = make_index(videos, model, processor)
    update(index, model, processor)
    read = []
    encode = indexing.window_vectors
    monkeypatch.setattr(
        indexing,
        "window_vectors",
        lambda files, *rest, **options: (
            read.extend(os.path.basename(file) for file in files) or encode(files, *rest, **options)
        ),
    )
    version = index.table.version
    assert update(index, model, processor) == (0, {}) and read == [] and index.table.version == version

    (videos / "clip0.mp4").unlink()
    noise(videos / "clip1.mp4", 9, num_frames=8)
    noise(videos / "clip2.mp4", 3, num_frames=5)
    noise(videos / "text.mp4", 4, num_frames=6)
    (videos / "dangling.mp4").unlink()
    (videos / "empty.mp4").write_bytes(b"")
    num_done, broken = update(index, model, processor)
    assert sorted(read) == ["clip1.mp4", "clip2.mp4", "empty.mp4", "text.mp4"] and num_done == 4
    assert list(broken) == ["empty.mp4"] and list(index.broken()) == ["empty.mp4"]
    expected = [*SPANS[:3], ("clip1.mp4", 0.0, 0.8), ("clip2.mp4", 0.0, 0.5), ("text.mp4", 0.0, 0.6)]
    assert spans(index) == expected
    assert sorted(os.listdir(index.uri)) == ["lock", "windows.lance"]

    for path in videos.rglob("*.mp4"):
        path.unlink()
    (videos / "empty.mp4").write_bytes(b"")
    os.utime(videos / "empty.mp4", ns=(1, 1))
    update(index, model, processor)
    assert spans(index) == [] and index.nearest(np.zeros(16, np.float32), 3) == []


@pytest.mark.parametrize("name", ["it's", 'a "quoted"\nname', "a\\b", "' OR '1' = '1", "%_", "ä", "𝄞"])
def test_any_name_of_a_video_is_removed_alone(name, tmp_path):
    index = index_of_rows(tmp_path, window_rows([f"{name}.mp4", "other.mp4"], RANDOM))
    index.drop([f"{name}.mp4"])
    assert list(index.known()) == ["other.mp4"]


def test_a_name_that_is_not_utf8_is_named(videos, model, processor):
    noise(videos / os.fsdecode(b"\xff.mp4"), 1)
    with pytest.raises(ValueError, match=r"\\udcff\.mp4 is not UTF-8; rename"):
        update(make_index(videos, model, processor), model, processor)


def test_a_vector_that_is_not_finite_is_not_added(tmp_path):
    index = index_of_rows(tmp_path, [])
    [row] = window_rows(["clip.mp4"], RANDOM)
    with pytest.raises(ValueError, match=r"clip.mp4: the vector of the window at 0 s is not finite"):
        index.add([row | {"vector": np.full(16, np.inf, np.float32)}], {})
    assert index.table.count_rows() == 0


def test_a_truncated_file_keeps_its_windows(videos, model, processor):
    path = noise(videos / "cut.mkv", 5, num_frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    index = make_index(videos, model, processor)
    _, broken = update(index, model, processor)
    assert broken["cut.mkv"].reason == "truncated"
    assert 1 <= sum(video == "cut.mkv" for video, *_ in spans(index)) < 6
    assert update(index, model, processor) == (0, {})


@pytest.mark.parametrize("stop", ["add", "drop", "optimize"])
def test_interruption_at_any_moment(videos, model, processor, monkeypatch, stop):
    """Whatever was being written, the index is consistent, and the next update completes it."""
    index = make_index(videos, model, processor)
    monkeypatch.setattr(indexing, "_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(indexing, "_COMMIT_SHARE", 0.0)
    if stop == "drop":
        update(index, model, processor)
        (videos / "clip0.mp4").unlink()
        noise(videos / "clip1.mp4", 1, num_frames=11)

    class Killed(BaseException):
        pass

    original = getattr(SearchIndex, stop)

    def killed(self, *arguments):
        if stop != "optimize":
            original(self, *arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SearchIndex, stop, killed)
        with pytest.raises(Killed):
            update(index, model, processor)
    index = SearchIndex(index.uri)
    assert len(spans(index)) == len(set(spans(index))) and set(spans(index)) <= set(SPANS)
    update(index, model, processor)
    changed = [*SPANS[:3], ("clip1.mp4", 0.0, 1.0), ("clip1.mp4", 1.0, 1.1)]
    assert spans(index) == (changed if stop == "drop" else SPANS)
    assert set(index.broken()) == {"text.mp4", "dangling.mp4"}
    assert index.table.stats()["fragment_stats"]["num_small_fragments"] == 1


@pytest.mark.parametrize("left", ["windows.lance/data", "windows.lance/_transactions", "windows.lance/_versions"])
def test_an_interrupted_creation_is_repeated(left, videos, model, processor):
    (videos / search_index.FOLDER / left).mkdir(parents=True)
    assert not SearchIndex.exists(videos / search_index.FOLDER)
    assert update(make_index(videos, model, processor), model, processor)[0] == 5


def test_two_updates_at_once(videos, model, processor):
    from filelock import FileLock

    index = make_index(videos, model, processor)
    with FileLock(Path(index.uri, "lock")), pytest.raises(ValueError, match="Another process"):
        update(index, model, processor)


def test_videos_that_two_processes_added_are_read_again(videos, model, processor):
    """Object storage has no lock."""
    index = make_index(videos, model, processor)
    update(index, model, processor)
    index.add([row for row in rows_of(index) if row["video"] == "clip1.mp4"], {})
    assert [video for video, stamp in index.known().items() if stamp is None] == ["clip1.mp4"]
    assert update(index, model, processor) == (1, {}) and spans(index) == SPANS


@pytest.mark.parametrize("scheme", ["", "file-object-store://"])
def test_commits_at_the_same_time_lose_and_double_no_row(scheme, videos, tmp_path):
    """As those of the processes of a launcher, of which each has an index of its own."""
    uri, num_writers, num_commits = f"{scheme}{tmp_path}/index", 6, 4
    make_at(uri, videos)
    start = Barrier(num_writers)

    def write(number: int) -> None:
        index = SearchIndex(uri, videos)
        start.wait()
        for commit in range(num_commits):
            index.add(window_rows([f"{number}-{commit}.mp4"], RANDOM), {})

    with ThreadPoolExecutor(num_writers) as pool:
        list(pool.map(write, range(num_writers)))
    known = SearchIndex(uri, videos).known()
    assert len(known) == num_writers * num_commits and None not in known.values()


def test_rows_of_a_process_with_another_index_are_missed(videos, model, processor, monkeypatch):
    """On a machine without the folder of the others."""
    index = make_index(videos, model, processor)
    monkeypatch.setattr(indexing, "gather_object", lambda parts: [*parts, (3, {})])
    with pytest.raises(ValueError, match=r"has 9 rows, but the processes have added up to 12; .* that they share"):
        update(index, model, processor)


def test_only_the_model_of_the_index_is_accepted(videos, model, processor):
    index = make_index(videos, model, processor)
    index.require_model(IndexModel("elsewhere", None, fingerprint(tiny_retrieval_model(), processor)))
    with pytest.raises(ValueError, match="was created with tiny"):
        index.require_model(IndexModel("tiny", None, fingerprint(tiny_retrieval_model(seed=1), processor)))


def test_folders_that_are_not_an_index_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not an index of"):
        SearchIndex(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for uri in ("db://team", "file:///tmp/index"):
        with pytest.raises(ValueError, match="expected the path of a folder, or object storage"):
            SearchIndex(uri)


def test_an_index_of_an_earlier_version_is_refused_with_the_command_that_builds_it_again(tmp_path):
    folder = tmp_path / "my videos" / search_index.FOLDER
    folder.mkdir(parents=True)
    model = {"name": "umt-b16", "revision": None, "fingerprint": "0"}
    stored = {"format": 1, "videos": "./..", "model": model, "window": 10.0, "parts": [], "broken": {}}
    (folder / "index.json").write_text(json.dumps(stored))
    command = f"rm -r '{folder}' && umt search TEXT '{tmp_path / 'my videos'}' --model umt-b16"
    for use in (lambda: SearchIndex(folder), lambda: make_at(folder, tmp_path)):
        with pytest.raises(ValueError, match="an index of an earlier version") as caught:
            use()
        assert str(caught.value).endswith(command)


def make_at(place: str | Path, videos: Path, name: str = "tiny") -> SearchIndex:
    return SearchIndex.create(place, videos, IndexModel(name, None, "0"), window=1.0, dimension=16)


def all_bytes(folder: str | Path) -> bytes:
    return b"".join(file.read_bytes() for file in Path(folder).rglob("*") if file.is_file())


@pytest.mark.parametrize("place", ["videos/.umt-index", "elsewhere", "link/index"])
def test_an_index_stores_relative_paths(place, videos, model, processor, tmp_path):
    """So a folder that contains models, videos and index can be moved, and no path of the machine is in it."""
    root = tmp_path / "data"
    root.mkdir()
    shutil.move(videos, root / "videos")
    (root / "model").mkdir()
    (root / "far" / "away").mkdir(parents=True)
    (root / "link").symlink_to(Path("far", "away"))
    index = make_at(root / place, root / "videos", str(root / "model"))
    update(index, model, processor)
    assert not any(
        str(tmp_path).encode() in file.read_bytes() for file in Path(index.uri).rglob("*") if file.is_file()
    )
    root.rename(tmp_path / "moved")
    moved = SearchIndex(tmp_path / "moved" / place)
    assert os.path.samefile(moved.model, tmp_path / "moved" / "model")
    assert os.path.samefile(moved.videos, tmp_path / "moved" / "videos")
    assert moved.is_own and update(moved, model, processor)[0] == 0


def test_an_index_of_other_videos_is_not_updated(videos, model, processor, tmp_path):
    other = noise(tmp_path / "other" / "new.mp4", 1).parent
    index = make_at(tmp_path / "index", videos)
    update(index, model, processor)
    with pytest.raises(ValueError, match=f"the index of the videos in {videos}, not in {other}"):
        SearchIndex(index.uri, other)
    moved = videos.rename(tmp_path / "moved")
    assert update(SearchIndex(index.uri, moved), model, processor)[0] <= 1  # the dangling link, which leads elsewhere
    with pytest.raises(ValueError, match=f"None of the 5 videos of the index .* is in {other}"):
        update(SearchIndex(index.uri, other), model, processor)


def test_an_index_in_object_storage(videos, model, processor, tmp_path):
    """A scheme of LanceDB that keeps its objects in a folder."""
    uri = f"file-object-store://{tmp_path}/store/index"
    assert not SearchIndex.exists(uri)
    index = make_at(uri, videos, str(tmp_path))
    assert update(index, model, processor)[0] == 5 and spans(SearchIndex(uri, videos)) == SPANS
    assert str(tmp_path).encode() not in all_bytes(tmp_path / "store")
    assert not index.is_own and index.model == f"./{tmp_path.name}"
    with pytest.raises(ValueError, match="states no folder of videos; give it too"):
        SearchIndex(uri)
    moved = videos.rename(tmp_path / "moved")  # on another machine
    assert update(SearchIndex(uri, moved), model, processor)[0] <= 1


def test_storage_that_cannot_be_reached_is_named():
    with pytest.raises(OSError, match=r"The index nowhere://bucket/index can't be read or written: .*nowhere"):
        SearchIndex.exists("nowhere://bucket/index")


def clustered_vectors(number: int) -> np.ndarray:
    """Unit vectors of clusters of 65."""
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(20, 256))
    vectors = (np.tile(centres, (number // 20, 1)) + 0.5 * generator.normal(size=(number, 256))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_large_table_is_searched_approximately_and_rows_added_later_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(search_index, "EXACT_ROWS", 1000)
    vectors, queries = np.split(clustered_vectors(1320), [1300])
    rows = window_rows([f"{number}.mp4" for number in range(1300)], vectors)
    index = index_of_rows(tmp_path, rows[:900], dimension=256)
    index.optimize()
    assert not index.is_approximate
    for last, covered in ((1000, 1000), (1050, 1050), (1300, 1300)):
        index.add(rows[index.table.count_rows() : last], {})
        assert index.nearest(vectors[last - 1], 1)[0]["video"] == f"{last - 1}.mp4"  # before the update of the index
        index.optimize()
        [approximate] = index.table.list_indices()
        assert approximate.num_indexed_rows == covered
        assert index.nearest(vectors[last - 1], 1)[0]["video"] == f"{last - 1}.mp4"
    found = []
    for query in queries:
        exact = np.argsort(-(vectors @ query))[:10]
        moments = index.nearest(query, 10)
        found.append(len({moment["video"] for moment in moments} & {f"{row}.mp4" for row in exact}))
        for moment in moments:
            similarity = vectors[int(moment["video"].split(".")[0])] @ query
            assert moment["similarity"] == pytest.approx(similarity, abs=1e-6)
    assert np.mean(found) >= 9.5


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


KILLED = """
import sys
from tiny_video_text_retrieval import tiny_retrieval_model
from processing_umt import UMTProcessor
from umt_training.search import indexing
from umt_training.search.search_index import SearchIndex
indexing._COMMIT_SECONDS = indexing._COMMIT_SHARE = 0.0
indexing.update(
    SearchIndex(sys.argv[1]), tiny_retrieval_model(), UMTProcessor.from_pretrained(sys.argv[2]), batch_size=1
)
"""


def test_a_kill_loses_and_doubles_nothing(tmp_path, model, processor, model_folder):
    videos = tmp_path / "videos"
    for number in range(30):
        noise(videos / f"{number:02}.mp4", number)
    index = make_index(videos, model, processor)
    child = packages.start(["-c", KILLED, index.uri, str(model_folder)])
    while len(SearchIndex(index.uri).known()) < 3:
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    index = SearchIndex(index.uri)
    num_found = len(index.known())
    assert 3 <= num_found < 30 and len(set(spans(index))) == len(spans(index)) == 2 * num_found
    assert update(index, model, processor) == (30 - num_found, {})
    assert len(index.known()) == 30 and len(set(spans(index))) == len(spans(index)) == 60


def test_a_folder_that_is_given_may_be_a_link(videos, model, processor, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "index").symlink_to(tmp_path / "disk")
    index = make_at(tmp_path / "index", videos)
    assert update(index, model, processor)[0] == 5
