"""An index from a stranger: nothing is read or written elsewhere, and no content is used unchecked."""

import itertools
import json
import os
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import constants
from index_rows import DIMENSION, RANDOM, index_of_rows, window_rows

from umt_training.search.index_checks import require_video, schema_of
from umt_training.search.index_facts import METADATA_KEY, IndexFacts, IndexModel, read_facts
from umt_training.search.search_index import TABLE, SearchIndex

FACTS = IndexFacts("./..", IndexModel("./../../model", None, "0a"), 1.0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def unchecked_writer(monkeypatch):
    """A stranger's writer does not check vectors as that of LanceDB does."""
    monkeypatch.setattr(lancedb.table, "_handle_bad_vectors", lambda reader, **options: reader)


def make_table(folder: Path, schema: pa.Schema, rows: list[dict]) -> Path:
    """A table of the usual name with any schema."""
    (folder / "videos").mkdir(exist_ok=True)
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    database = lancedb.connect(folder / "videos" / ".umt-index")
    database.create_table(TABLE, pa.table(columns, schema=schema) if rows else None, schema=schema)
    return Path(database.uri)


def schema(**metadata: object) -> pa.Schema:
    return schema_of(DIMENSION, FACTS.to_metadata() | {key.encode(): value for key, value in metadata.items()})


NAMES = ["../a.mp4", "/etc/a.mp4", "a/../../b.mp4", "", ".", "a//b.mp4", "./a.mp4", "a\0.mp4", "a/"]


@pytest.mark.parametrize("name", NAMES)
def test_videos_outside_the_folder_are_refused(name, tmp_path):
    folder = make_table(tmp_path, schema(), window_rows([name, "good.mp4"], RANDOM))
    index = SearchIndex(folder)
    for use in (index.known, lambda: index.nearest(RANDOM[0], 2)):
        with pytest.raises(ValueError, match=r"The index .* is damaged: a video has the path .*; delete it"):
            use()


def test_a_path_is_accepted_if_it_stays_inside():
    parts = ("..", ".", "", "a", "b.mp4", "...")
    for name in ("/".join(some) for length in range(1, 5) for some in itertools.product(parts, repeat=length)):
        if os.path.normpath(name) == name and not os.path.isabs(name) and name.split("/")[0] not in ("..", "."):
            require_video(name)
        else:
            with pytest.raises(ValueError, match="a video has the path"):
                require_video(name)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1.01])
@pytest.mark.parametrize("place", [0, 7])
def test_vectors_that_no_model_returns_are_refused(value, place, tmp_path):
    vectors = RANDOM.copy()
    vectors[place] *= value
    folder = make_table(tmp_path, schema(), window_rows([f"{number}.mp4" for number in range(8)], vectors))
    with pytest.raises(ValueError, match="damaged: a vector is not finite, or longer than 1"):
        SearchIndex(folder).nearest(RANDOM[0], 1)


@pytest.mark.parametrize("times", [(None, 1.0), (0.0, None), (2.0, 1.0), (-1.0, 1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_windows_without_a_time_are_refused(times, tmp_path):
    [row] = window_rows(["clip.mp4"], RANDOM)
    folder = make_table(tmp_path, schema(), [row | {"start": times[0], "end": times[1]}])
    with pytest.raises(ValueError, match=r"damaged: 'clip.mp4' has a window from"):
        SearchIndex(folder).nearest(RANDOM[0], 1)


def column_sets() -> dict[str, pa.Schema]:
    own = schema()
    position = own.get_field_index("vector")
    return {
        "a column more": own.append(pa.field("more", pa.binary())),
        "a column less": own.remove(0),
        "texts instead of vectors": own.set(position, pa.field("vector", pa.string())),
        "vectors of float64": own.set(position, pa.field("vector", pa.list_(pa.float64(), DIMENSION))),
        "vectors of any length": own.set(position, pa.field("vector", pa.list_(pa.float32()))),
        "another embedding function": schema(embedding_functions=b'[{"name": "openai", "model": {}}]'),
        "no metadata": own.remove_metadata(),
    }


@pytest.mark.parametrize("kind", column_sets())
def test_tables_of_another_schema_are_refused(kind, tmp_path):
    folder = make_table(tmp_path, column_sets()[kind], [])
    with pytest.raises(ValueError, match=r"is damaged: its (columns are|metadata has the keys)"):
        SearchIndex(folder)


def with_facts(**changes: object) -> str:
    fields = {"videos": "./..", "model": {"name": "m", "revision": None, "fingerprint": "0"}, "window": 1.0}
    return json.dumps(fields | changes)


def with_model(**changes: object) -> str:
    return with_facts(model={"name": "m", "revision": None, "fingerprint": "0"} | changes)


@pytest.mark.parametrize(
    "stored",
    [
        b"", b"[1]", b"{}", json.dumps({"format": 99, "facts": "{}"}).encode(),
        *(
            json.dumps({"format": 2, "facts": facts, "seal": None}).encode()
            for facts in (
                None, "", "[]", "{}", with_facts(more=1), with_facts(window=-1), with_facts(window="1"),
                with_facts(window=float("nan")), with_facts(window=1e400), with_facts(videos="/etc"),
                with_facts(videos=3), with_facts(videos="~"), with_facts(model="m"), with_model(name=""),
                with_model(name=3), with_model(name="a\x1b[2J"), with_model(name="/abs/model"), with_model(more=1),
                with_model(fingerprint="$(x)"), with_model(fingerprint=None), with_model(revision="; rm"),
            )
        ),
    ],
)  # fmt: skip
def test_facts_that_this_package_does_not_write_are_refused(stored):
    with pytest.raises(ValueError):
        read_facts({METADATA_KEY: stored})


def test_facts_are_read_as_written_and_recognised_as_own(home):
    for facts in (FACTS, IndexFacts("./a", IndexModel("owner/model", "0" * 40, "ff"), 2.5)):
        assert read_facts(facts.to_metadata()) == (facts, True)
    assert (home / "umt" / "index.key").stat().st_mode & 0o777 == 0o600
    shared = IndexFacts(None, IndexModel("owner/model", None, "0"), 1.0)
    assert read_facts(shared.to_metadata()) == (shared, False)


@pytest.mark.parametrize("seal", [None, "", "0" * 64, 7, ["0"], "ä"])
def test_facts_of_another_user_are_not_own(seal, home):
    metadata = FACTS.to_metadata()
    stored = json.loads(metadata[METADATA_KEY]) | {"seal": seal}
    assert read_facts({METADATA_KEY: json.dumps(stored).encode()}) == (FACTS, False)
    (home / "umt" / "index.key").unlink()
    assert read_facts({METADATA_KEY: json.dumps(stored).encode()}) == (FACTS, False)
    assert read_facts(metadata) == (FACTS, False)
    FACTS.to_metadata()  # a new key
    assert read_facts(metadata) == (FACTS, False)


@pytest.mark.parametrize("place", [".umt-index", "lock", "windows.lance/data/more.lance", "windows.lance"])
@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_read_or_written_through_links(place, exists, tmp_path):
    index = index_of_rows(tmp_path, window_rows(["a.mp4"], RANDOM))
    folder, target = Path(index.uri), tmp_path / "target"
    link = folder if place == ".umt-index" else folder / place
    if link.exists():
        link.rename(target)
    else:
        target.write_text("own")
    if not exists:
        target.rename(tmp_path / "away")
    link.symlink_to(target)
    content = sorted(tmp_path.rglob("*"))
    model = IndexModel("tiny", None, "0")
    for use in (
        lambda: SearchIndex(folder),
        lambda: SearchIndex.create(folder, tmp_path / "videos", model, 1.0, DIMENSION),
    ):
        with pytest.raises(ValueError, match="is a link, through which"):
            use()
    assert sorted(tmp_path.rglob("*")) == content


def test_devices_are_refused(tmp_path):
    index = index_of_rows(tmp_path, [])
    os.mkfifo(Path(index.uri, "windows.lance", "data"))
    with pytest.raises(ValueError, match="data is neither a file nor a folder; delete it"):
        SearchIndex(index.uri)


def test_a_table_with_data_in_another_folder_is_refused(tmp_path):
    """A shallow clone of LanceDB reads the files of its original."""
    original = index_of_rows(tmp_path, window_rows(["a.mp4"], RANDOM))
    source = Path(original.uri, f"{TABLE}.lance")
    database = lancedb.connect(tmp_path / "clones" / "videos" / ".umt-index")
    database.clone_table(TABLE, str(source))
    assert database.open_table(TABLE).count_rows() == 1
    with pytest.raises(ValueError, match=r"\.manifest refers to data outside of the index"):
        SearchIndex(database.uri)


def test_an_index_for_another_distance_is_refused(tmp_path):
    from lancedb.index import BTree

    index = index_of_rows(tmp_path, window_rows(["a.mp4"], RANDOM))
    index.table.create_index("video", config=BTree())
    with pytest.raises(ValueError, match="damaged: it has the index BTree"):
        SearchIndex(index.uri)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * 500])
@pytest.mark.parametrize("kind", ["*.manifest", "*.lance", "*.txn"])
def test_damaged_files_are_an_error_in_one_line_that_names_the_index(kind, damage, tmp_path):
    uri = index_of_rows(tmp_path, window_rows(["a.mp4", "b.mp4"], RANDOM)).uri
    for file in Path(uri).rglob(kind):
        if file.is_file():
            file.write_bytes(damage(file.read_bytes()))
    try:
        index = SearchIndex(uri)
        assert index.known() == {"a.mp4": (1, 2), "b.mp4": (1, 2)}
        assert len(index.nearest(RANDOM[0], 2)) == 2
        assert kind == "*.txn"  # not needed to read
    except (ValueError, OSError) as error:
        assert uri in str(error) and "\n" not in str(error)
