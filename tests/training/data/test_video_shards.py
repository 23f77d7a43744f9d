"""Tar shards from elsewhere: an odd record is a broken video, the others are read, and memory is limited."""

import gzip
import io
import json
import tarfile

import pytest
from video_files import write_tar, write_video
from warm_python import packages

from processing_umt.video_source_umt import VideoDecodeError
from umt_training.data.captioned_records import load_captioned_records
from umt_training.data.video_records import load_video_records
from umt_training.data.video_shards import read_shards
from umt_training.data.video_stream import name_hash


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("shards") / "a.mp4", 4).read_bytes()


DEEP = b"[" * 100_000
ODD_FILES = {  # extension and content of the file of a sample that is broken by it, and what the error states
    "deep list": (".json", DEEP, "nested too deeply"),
    "deep object": (".json", b'{"a":' * 100_000, "nested too deeply"),
    "cut": (".json", b'{"label": ', "Expecting value"),
    "empty": (".json", b"", "Expecting value"),
    "a list": (".json", b'["label"]', "not a JSON object"),
    "a list of pairs": (".json", b'[["label", 1]]', "not a JSON object"),
    "a number": (".json", b"3", "not a JSON object"),
    "null": (".json", b"null", "not a JSON object"),
    "repeated key": (".json", b'{"label": 1, "label": 2}', "'label' occurs twice"),
    "not UTF-8": (".json", b'{"label": "\xff"}', "not UTF-8"),
    "surrogate": (".json", rb'{"caption": "\ud800"}', "surrogate"),
    "surrogate in a list": (".json", rb'{"caption": ["a", "\ud800"]}', "surrogate"),
    "surrogate in a name": (".json", rb'{"\ud800": 1}', "surrogate"),
    "400 digits": (".json", b'{"label": 1' + b"0" * 400 + b"}", "its label has more than 64 bits"),
    "5000 digits": (".json", b'{"label": 1' + b"0" * 5000 + b"}", "digits"),
    "infinite": (".json", b'{"label": Infinity}', "its label is infinite"),
    "1e999": (".json", b'{"label": -1e999}', "its label is infinite"),
    "too large": (".json", b" " * (5 << 20), "more than the limit of 4,194,304"),
    "label of 400 digits": (".cls", b"1" + b"0" * 400, "its label has more than 64 bits"),
    "label of 5000 digits": (".cls", b"9" * 5000, "its label has more than 64 bits"),
    "second video": (".mp4", b"0", "contains it twice"),
}


@pytest.mark.parametrize("case", ODD_FILES)
def test_an_odd_file_breaks_its_own_record_only(case, video, tmp_path):
    extension, content, message = ODD_FILES[case]
    good = [("{}.mp4", video), ("{}.json", b'{"label": 1, "caption": "\xc3\xa9", "weight": NaN}')]
    odd = [("2.mp4", video), (f"2{extension}", content)]
    files = [*((name.format(key), data) for key in "1" for name, data in good), *odd]
    write_tar(tmp_path / "a.tar", [*files, *((name.format("3"), data) for name, data in good)])
    first, broken, last = read_shards([str(tmp_path / "a.tar")])
    assert isinstance(broken["video"], VideoDecodeError) and broken["video"].reason == "unreadable"
    assert broken["video"].video == f"{tmp_path}/a.tar/2{extension}"
    assert message in broken["video"].detail and "\n" not in str(broken["video"])
    for record, key in ((first, "1"), (last, "3")):
        assert record["video"] == {"path": f"{tmp_path}/a.tar/{key}.mp4", "bytes": video}
        assert record["label"] == 1 and record["caption"] == "é"


@pytest.mark.parametrize("case", ODD_FILES)
def test_odd_records_do_not_end_a_stream(case, video, tmp_path):
    """Also if the first record, which shows the columns, is broken."""
    extension, content, _ = ODD_FILES[case]
    good = [(f"{key}.{name}", data) for key in "12" for name, data in (("mp4", video), ("json", b'{"text": "a b"}'))]
    write_tar(tmp_path / "a.tar", [("0.mp4", video), (f"0{extension}", content), *good])
    records = list(load_captioned_records([str(tmp_path / "a.tar")], positives="caption"))
    assert [record["caption"] for record in records] == ["", "a b", "a b"]
    assert all(0 <= name_hash(record["video"]) < 1 << 32 for record in records)


@pytest.mark.parametrize("name", ["caf\udce9", "a\x1b[31mb", "a\nb", "日本", "a" * 300, "../../etc/x", "/etc/x"])
def test_odd_names_are_names_of_good_videos(name, video, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(f"{name}.mp4")
        info.size = len(video)
        tar.addfile(info, io.BytesIO(video))
    (record,) = load_video_records(tmp_path / "a.tar")
    assert record["video"]["bytes"] == video
    assert record["video"]["path"].encode().decode().endswith(f"/{name.replace(chr(0xDCE9), chr(92) + 'xe9')}.mp4")
    assert 0 <= name_hash(record["video"]) < 1 << 32


def test_a_video_comes_before_its_thumbnail(video, tmp_path):
    write_tar(tmp_path / "a.tar", [("1.avi", video), ("1.jpg", b"0"), ("2.jpg", b"0"), ("2.webm", video)])
    assert [record["video"]["path"][-5:] for record in read_shards([str(tmp_path / "a.tar")])] == ["1.avi", ".webm"]


def test_an_archive_that_does_not_end_properly_has_an_error(video, tmp_path):
    """Damaged headers and blocks of zeros end an archive for tarfile, without a word."""
    write_tar(tmp_path / "a.tar", [(f"{key}.mp4", video) for key in "123"])
    whole = (tmp_path / "a.tar").read_bytes()
    header = whole.index(b"3.mp4")
    for name, content, number, message in (
        ("cut", whole[:header], 2, "without the mark of its end"),
        ("cut in a header", whole[: header + 100], 2, ""),
        ("damaged", whole[:header] + b"X" + whole[header + 1 :], 2, "a header is damaged"),
        ("zeros", whole[:header] + bytes(512) + whole[header + 512 :], 2, "followed by other data"),
        ("two archives", whole + whole, 3, "followed by other data"),
    ):
        (tmp_path / "b.tar").write_bytes(content)
        *good, error = [record["video"] for record in read_shards([str(tmp_path / "b.tar")])]
        assert [found["bytes"] for found in good] == [video] * number, name
        assert isinstance(error, VideoDecodeError) and message in error.detail, name
    for padding in (0, 512, 1 << 20):
        (tmp_path / "b.tar").write_bytes(whole + bytes(padding))
        assert len(list(read_shards([str(tmp_path / "b.tar")]))) == 3


# --- sizes


def stated(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that states a size."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sample(name: str, video: bytes) -> bytes:
    return stated(name, len(video)) + video + bytes(-len(video) % 512)


def sparse(name: str, size: int) -> bytes:
    """A file of `size` zeros of which nothing is stored, as GNU tar writes it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = 0, tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


BOMBS = {  # the rest of a shard after a good video, the number of good videos, and what an error states
    "1 TB stated": (lambda: stated("2.mp4", 10**12), 1, "1,000,000,000,000 bytes, more than the limit"),
    "1 TB stated in compressed": (lambda: stated("2.mp4", 10**12), 1, "1,000,000,000,000 bytes, more than the limit"),
    "sparse": (lambda: sparse("2.mp4", 10**12), 2, "1,000,000,000,000 bytes, more than the limit"),
    "long name": (lambda: stated("2", 1 << 33, tarfile.GNUTYPE_LONGNAME), 1, "a header states a size"),
    "pax header": (lambda: stated("2", 1 << 33, tarfile.XHDTYPE), 1, "a header states a size"),
    "compressed": (lambda: stated("2.mp4", 5 << 27) + bytes(5 << 27), 2, "671,088,640 bytes, more than the limit"),
    "not read": (lambda: stated("2.bin", 5 << 27) + bytes(5 << 27), 2, "does not exist"),
}
COMPRESSED = ("1 TB stated in compressed", "compressed", "not read")


def test_bombs_are_errors_of_their_file_within_limits_of_memory(video, tmp_path):
    shards = {}
    for number, (case, (make, *_)) in enumerate(BOMBS.items()):
        shards[case] = path = str(tmp_path / f"{number}.tar")
        with gzip.open(path, "w", 1) if case in COMPRESSED else open(path, "wb") as file:
            file.writelines((sample("1.mp4", video), make(), sample("3.mp4", video), bytes(1024)))
    program = f"""
import json, resource
from umt_training.data.video_shards import read_shards
found = {{}}
for case, shard in {shards!r}.items():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    records = [record["video"] for record in read_shards([shard])]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found[case] = grown, sum(isinstance(record, dict) for record in records), [
        str(record) for record in records if not isinstance(record, dict)
    ]
print(json.dumps(found))
"""
    found = json.loads(packages.run(["-c", program]).stdout)
    for case, (_, number, message) in BOMBS.items():
        grown, num_good, errors = found[case]
        assert grown < 64 << 10, case  # KiB
        assert num_good == number and message in errors[0], case
