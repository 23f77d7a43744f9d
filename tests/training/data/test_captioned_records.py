"""Captioned corpora as pairs: annotation files, tables, several captions, positives, streams."""

import json
import tarfile

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from video_files import write_tar, write_video

from processing_umt import VideoDecodeError
from umt_training.data.captioned_records import CaptionedRecords, load_captioned_records, name_id
from umt_training.data.video_dataset import VideoClipDataset, collate_clips


def all_frames(num_video_frames, num_frames, generator):
    return np.arange(num_frames) % num_video_frames


def as_tensor(frames, generator):
    frames = torch.as_tensor(frames)
    return frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2)


def write_json(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


@pytest.fixture
def corpora(tmp_path):
    """Two annotation files in the official format with their roots; the second has several captions per video."""
    for folder in ("web", "cooking"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            write_video(tmp_path / folder / f"{number}.mp4", 4, colour=50 * number)
    first = [{"video": f"{number}.mp4", "caption": f"web {number}"} for number in range(3)]
    second = [{"video": "0.mp4", "caption": ["a", "web 1"]}, {"video": "2.mp4", "caption": ["b"]}]
    lists = [write_json(tmp_path / "web.json", first), write_json(tmp_path / "cooking.json", second)]
    return lists, [tmp_path / "web", tmp_path / "cooking"]


def ids_of(records):
    return [record["match_id"] for record in records]


def test_annotation_files_with_one_root_each(corpora):
    lists, roots = corpora
    records = load_captioned_records(lists, roots)
    expected = [(f"{roots[0]}/{number}.mp4", f"web {number}") for number in range(3)]
    expected += [(f"{roots[1]}/0.mp4", "a"), (f"{roots[1]}/0.mp4", "web 1"), (f"{roots[1]}/2.mp4", "b")]
    assert [(record["video"], record["caption"]) for record in records] == expected
    assert len(records) == 6 and records[5] == list(records)[5]
    with pytest.raises(IndexError):
        records[6]


@pytest.mark.parametrize(
    ("positives", "expected"),
    [
        ("row", [{3, 4}]),
        ("video", [{0, 6}, {3, 4}]),
        ("caption", [{1, 4}]),  # across corpora, and not the two captions of a video
    ],
)
def test_positives_have_equal_match_ids(corpora, positives, expected):
    """Pair 6 is the video of pair 0 with another caption."""
    lists, roots = corpora
    again = Dataset.from_dict({"video": [f"{roots[0]}/0.mp4"], "caption": ["other words"]})
    records = load_captioned_records([*lists, again], [*roots, None], positives=positives)
    ids = ids_of(records)
    groups = [{index for index, other in enumerate(ids) if other == match_id} for match_id in dict.fromkeys(ids)]
    assert [group for group in groups if len(group) > 1] == expected
    assert all(0 <= match_id < 2**63 for match_id in ids)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "datasets"])
def test_plain_tables(tmp_path, kind):
    path = write_video(tmp_path / "0.mp4", 4)
    source = tmp_path / f"list.{kind}"
    table = Dataset.from_dict({"video": [str(path)], "caption": ["a dog, a cat"], "label": [3]})
    if kind == "csv":
        source.write_text('video,caption\n0.mp4,"a dog, a cat"\n')
    elif kind == "jsonl":
        source.write_text(json.dumps({"video": "0.mp4", "caption": "a dog, a cat"}))
    elif kind == "parquet":
        table.to_parquet(source)
    records = load_captioned_records([table if kind == "datasets" else source])
    assert list(records) == [{"video": str(path), "caption": "a dog, a cat", "match_id": 0}]


def test_images_are_clips_of_one_frame(tmp_path):
    """Images by name, and as bytes without a name, which only the flag distinguishes from a video."""
    picture = np.full((10, 12, 3), 77, np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    lists = write_json(tmp_path / "cc.json", [{"image": "a.png", "caption": "grey"}])
    content = (tmp_path / "a.png").read_bytes()
    for source in (lists, Dataset.from_dict({"video": [{"bytes": content, "path": None}], "caption": ["grey"]})):
        dataset = VideoClipDataset(load_captioned_records([source]), 1, all_frames, as_tensor, images=True)
        sample = dataset[0]
        assert sample["pixel_values_videos"].shape == (1, 3, 10, 12) and (sample["pixel_values_videos"] == 77).all()
        assert (sample["caption"], sample["match_id"]) == ("grey", 0)


def test_a_broken_video_is_replaced_by_another_with_its_own_caption_and_match_id(corpora):
    lists, roots = corpora
    (roots[0] / "1.mp4").write_bytes(b"no video")
    records = load_captioned_records(lists, roots, positives="video")
    dataset = VideoClipDataset(records, 2, all_frames, as_tensor, seed=3)
    samples = [dataset[0, index] for index in range(6)]
    broken = samples[1]
    assert [name for name, _ in broken["broken"]] == [f"{roots[0]}/1.mp4"]
    replacement = records[broken["video_index"]]
    assert broken["video_index"] != 1
    assert (broken["caption"], broken["match_id"]) == (replacement["caption"], replacement["match_id"])
    assert torch.equal(broken["pixel_values_videos"], dataset[0, broken["video_index"]]["pixel_values_videos"])
    batch = collate_clips(samples)
    assert batch["match_ids"].dtype == torch.int64
    assert batch["match_ids"].tolist() == [sample["match_id"] for sample in samples]
    assert batch["caption"][1] == replacement["caption"] and len(batch["broken"]) == 1


@pytest.mark.parametrize(
    ("rows", "roots", "options", "message"),
    [
        ([{"video": "0.mp4"}], [], {}, "no column of captions"),
        ([{"video": "0.mp4", "caption": "a"}, {"video": "1.mp4", "caption": None}], [], {}, "1.mp4, row 1.*no capt"),
        ([{"video": "0.mp4", "caption": ["a"]}, {"video": "1.mp4", "caption": []}], [], {}, "1.mp4, row 1.*no capt"),
        ([{"video": "0.mp4", "caption": 5}], [], {}, "expected texts"),
        ([{"video": "0.mp4", "caption": "a"}], ["a", "b"], {}, "2 roots were given for 1"),
        ([{"video": "0.mp4", "caption": "a"}], [], {"positives": "rows"}, "choose one of row, video, caption"),
    ],
)
def test_invalid_corpora_are_reported(tmp_path, rows, roots, options, message):
    (tmp_path / "0.mp4").touch()
    with pytest.raises(ValueError, match=message):
        load_captioned_records([write_json(tmp_path / "list.json", rows)], roots, **options)
    with pytest.raises(ValueError, match="No captioned videos"):
        load_captioned_records([])


def test_shards_give_the_same_pairs(tmp_path):
    """A `.txt` next to a video is its caption, a `.json` may contain several."""
    content = write_video(tmp_path / "v.mp4", 4).read_bytes()
    captions = json.dumps({"caption": ["two", "three"]}).encode()
    write_tar(tmp_path / "s.tar", [("0.mp4", content), ("0.txt", b"one"), ("1.mp4", content), ("1.json", captions)])
    records = load_captioned_records([tmp_path / "s.tar"], positives="video")
    assert isinstance(records, IterableDataset)
    found = list(records)
    assert [record["caption"] for record in found] == ["one", "two", "three"]
    assert ids_of(found) == [name_id(f"{tmp_path}/s.tar/0.mp4")] + [name_id(f"{tmp_path}/s.tar/1.mp4")] * 2
    assert found[2]["video"]["bytes"] == content
    write_tar(tmp_path / "t.tar", [("0.mp4", content)])
    with pytest.raises(ValueError, match=r"0\.mp4 has no caption .* Its columns are .*video"):
        list(load_captioned_records([tmp_path / "t.tar"]))
    with pytest.raises(ValueError, match="can't be streamed together"):
        load_captioned_records([tmp_path / "s.tar", tmp_path / "t.tar"])


def test_a_damaged_shard_is_a_broken_video_and_not_a_missing_caption(tmp_path):
    content = write_video(tmp_path / "v.mp4", 4).read_bytes()
    shard = tmp_path / "s.tar"
    write_tar(shard, [("0.mp4", content), ("0.txt", b"one"), ("1.mp4", content), ("1.txt", b"two")])
    with tarfile.open(shard) as tar:
        second = tar.getmember("1.mp4").offset_data
    shard.write_bytes(shard.read_bytes()[: second + 100])
    good, *broken = load_captioned_records([shard])
    assert good["caption"] == "one"
    assert broken and all(isinstance(record["video"], VideoDecodeError) for record in broken)
    assert "s.tar" in str(broken[0]["video"])


def test_images_that_are_flat_or_too_large(tmp_path, monkeypatch):
    """Three rows of pixels are not treated as channels; a decompression bomb is too large."""
    Image.fromarray(np.full((3, 12, 3), 77, np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for video in (str(tmp_path / "a.png"), {"bytes": content, "path": "a.png"}):
        records = load_captioned_records([Dataset.from_dict({"video": [video], "caption": ["flat"]})])
        dataset = VideoClipDataset(records, 1, all_frames, as_tensor, images=True)
        assert dataset[0]["pixel_values_videos"].shape == (1, 3, 3, 12)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
            with pytest.raises(ValueError, match=r"None of .*a\.png \(too_large\)"):
                dataset[0]


def test_pairs_of_many_rows(tmp_path):
    """The row and the caption of a pair are computed from its index."""
    table = Dataset.from_dict({"video": ["v"] * 1000, "caption": [["a"] * (row % 3 + 1) for row in range(1000)]})
    records = CaptionedRecords([table, table], "row")
    assert len(records) == 2 * sum(row % 3 + 1 for row in range(1000))
    ids = ids_of(records)
    assert ids == sorted(ids) and len(set(ids)) == 2000
