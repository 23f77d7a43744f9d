"""Lists, tables, tar shards, image files and folders from elsewhere, with random damage or made with bad intent.

Damaged lists must be read as Python's own `csv` and `json` modules read them, tables as pyarrow does, images as Pillow
does, and every undamaged file of a shard as it was written; or else be refused in one line that names the file.
"""

import csv
import functools
import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from processing_umt.image_frames_umt import animation_frames
from processing_umt.video_decoding_umt import VideoDecodeError
from processing_umt.video_inputs_umt import read_frames
from umt_training.cli.errors import user_message
from umt_training.data.video_checks import check_videos
from umt_training.data.video_records import load_video_records
from umt_training.data.video_shards import read_shards

from ..robustness_cases import Case, Wrong
from .noise import write_noise

_NUM_ROWS = 40


def build(folder: Path, seed: int) -> list[Case]:
    """Makes the corpus in folder and returns the cases."""
    generator = random.Random(seed)
    cases = []

    def add(kind: str, name: str, run: Callable[[Path], str]) -> None:
        cases.append(Case(f"{kind} {name}", kind, run))

    for number in range(80):
        suffix = (".csv", ".jsonl", ".json", ".tsv")[number % 4]
        text = _list(suffix)
        damaged = damage(text, generator, first=text.index(b"\n") + 1 if suffix in (".csv", ".tsv") else 0)
        add("lists", f"{number}{suffix}", functools.partial(_run_list, damaged, suffix))
    for number in range(30):
        damaged = damage(_parquet(), generator)
        add("tables", f"{number}.parquet", functools.partial(_run_parquet, damaged))
    videos = [write_noise(folder / f"{key}.mp4", seed + key, 2, 16, 16).read_bytes() for key in range(5)]
    for number in range(80):
        shard, places = _shard(videos)
        mode, start, damaged = _damage_in_place(shard, generator)
        add("shards", f"{number} {mode}", functools.partial(_run_shard, damaged, start, shard, places))
    for name, (make, is_compressed) in BOMBS.items():
        add("archive bombs", name, functools.partial(_run_bomb, make, is_compressed))
    for number in range(40):
        suffix = (".png", ".jpg", ".gif", ".webp", ".tif")[number % 5]
        damaged = damage(_image(suffix, seed), generator)
        add("images", f"{number}{suffix}", functools.partial(_run_image, damaged, suffix))
    for name, make, wanted in HOSTILE:
        add("hostile folders", name, functools.partial(_run_folder, make, wanted))
    return cases


def damage(data: bytes, generator: random.Random, first: int = 0) -> bytes:
    """Changes, removes, repeats or inserts one to four pieces of `data`, from byte `first` on."""
    changed = bytearray(data)
    odd = (b"\0", b'"', b"\n", b"[" * 2000, b"{" * 2000, b"\xff", b"9" * 5000, rb"\ud800", b",", b"\x1b[31m", b"../")
    for _ in range(generator.randint(1, 4)):
        position = generator.randrange(min(first, len(changed) - 1), len(changed))
        match generator.randrange(5):
            case 0:
                changed[position] ^= 1 << generator.randrange(8)
            case 1:
                del changed[position : position + generator.randint(1, 30)]
            case 2:
                changed[position:position] = changed[position : position + generator.randint(1, 200)]
            case 3:
                changed[position:position] = generator.choice(odd)
            case 4:
                del changed[max(first + 1, position) :]
    return bytes(changed)


# --- lists and tables -----------------------------------------------------------------------------------------------


def _rows() -> list[dict[str, object]]:
    return [{"video": f"clips/{row:03} é.mp4", "label": row % 3, "caption": f"a, b {row}"} for row in range(_NUM_ROWS)]


def _list(suffix: str) -> bytes:
    if suffix == ".json":
        return json.dumps(_rows(), ensure_ascii=False).encode()
    if suffix == ".jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in _rows()).encode()
    file = io.StringIO()
    writer = csv.DictWriter(file, ["video", "label", "caption"], delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(_rows())
    return file.getvalue().encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(_rows()), file)
    return file.getvalue()


def refusal(error: Exception, path: Path) -> str:
    """ "refused" for an error that `umt` reports in one line and that names the file; otherwise raises it."""
    message = user_message(error)
    if message is None or path.name not in message:
        raise error
    return "refused"


def _run_list(content: bytes, suffix: str, folder: Path) -> str:
    path = folder / f"list{suffix}"
    path.write_bytes(content)
    _touch_videos(folder)
    try:
        records = load_video_records(path, with_labels=False, root=None)
    except Exception as error:
        return refusal(error, path)
    text = content.decode()
    if suffix == ".json":
        rows = json.loads(text)
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
        first, *others = [[cell.strip() for cell in line] for line in lines]
        rows = [dict(zip(first, line, strict=True)) for line in others if any(line)]
    videos = [str(row.get("video", row.get("path"))) for row in rows]
    if not all(map(_is_video, records["video"], videos, [folder] * len(videos))):
        raise Wrong("the videos differ from those of the list")
    captions = [row.get("caption") for row in rows]
    is_read = "caption" in records.column_names and isinstance(records["caption"][0], str | None)
    if is_read and records["caption"] != captions:
        raise Wrong("the captions differ from those of the list")
    return "right"


def _touch_videos(folder: Path) -> None:
    """The files of `_rows`, empty: a list none of whose files exists is refused without being compared."""
    (folder / "clips").mkdir()
    for row in _rows():
        (folder / str(row["video"])).touch()


def _is_video(found: str, written: str, folder: Path) -> bool:
    """Whether a path is the one that is written in a list, in any spelling, or as an id the path of its file."""
    expected = written if "://" in written else os.path.join(folder, written)
    same = [os.path.normpath(found), os.path.splitext(os.path.normpath(found))[0]]
    return found == expected or os.path.normpath(expected) in same


def _run_parquet(content: bytes, folder: Path) -> str:
    path = folder / "list.parquet"
    path.write_bytes(content)
    _touch_videos(folder)
    try:
        records = load_video_records(path, with_labels=False)
    except Exception as error:
        return refusal(error, path)
    expected = pa.parquet.read_table(path).to_pylist()
    if not all(_is_video(video, row["video"], folder) for video, row in zip(records["video"], expected, strict=True)):
        raise Wrong("the videos differ from those of the table")
    return "right"


# --- shards ---------------------------------------------------------------------------------------------------------


def _shard(videos: list[bytes]) -> tuple[bytes, list[tuple[int, int, int]]]:
    """A tar file, and for every video the place of its header, its content and its end."""
    file, places = io.BytesIO(), []
    with tarfile.open(fileobj=file, mode="w") as tar:
        for key, video in enumerate(videos):
            for name, content in ((f"{key}.mp4", video), (f"{key}.json", json.dumps({"label": key}).encode())):
                info, start = tarfile.TarInfo(name), file.tell()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                if name.endswith(".mp4"):
                    places.append((start, start + 512, start + 512 + len(content)))
    return file.getvalue(), places


def _damage_in_place(shard: bytes, generator: random.Random) -> tuple[str, int, bytes]:
    """Kind of the damage, its first byte, and the damaged shard, in which nothing is moved."""
    start = generator.randrange(len(shard) - 1024)
    if generator.randrange(2):
        start -= start % 512  # within a header, often
    mode = generator.choice(("cut", "zeros", "noise", "bit"))
    damaged = bytearray(shard)
    if mode == "cut":
        del damaged[start:]
    elif mode == "bit":
        damaged[start] ^= 1 << generator.randrange(8)
    else:
        length = generator.randint(1, 1500)
        noise = bytes(length) if mode == "zeros" else generator.randbytes(length)
        damaged[start : start + length] = noise[: len(shard) - start]
    return mode, start, bytes(damaged)


def _run_shard(content: bytes, start: int, shard: bytes, places: list[tuple[int, int, int]], folder: Path) -> str:
    path = folder / "a.tar"
    path.write_bytes(content)
    records = list(read_shards([str(path)]))
    found = {
        record["video"]["path"]: record["video"]["bytes"] for record in records if isinstance(record["video"], dict)
    }
    errors = [record["video"] for record in records if isinstance(record["video"], VideoDecodeError)]
    if any(path.name not in str(error) for error in errors):
        raise AssertionError(f"an error does not name the shard: {errors}")
    for key, (header, begin, end) in enumerate(places):
        name = f"{path}/{key}.mp4"
        if end <= start and name not in found and not any(f"{key}.json" in error.video for error in errors):
            raise Wrong(f"video {key}, before the damage at {start}, is missing")
        if name in found and found[name] != content[begin:end] and content[header:begin] == shard[header:begin]:
            raise Wrong(f"video {key} differs from its bytes in the shard")
    if len(found) < len(places) and not errors:
        raise Wrong(f"{len(found)} of {len(places)} videos and no error")
    return "refused" if errors else "right"


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


BOMBS: dict[str, tuple[Callable[[], bytes], bool]] = {  # header, and whether zeros follow in a compressed file
    "1 TB stated": (lambda: _header("b.mp4", 10**12), False),
    "8 EB stated": (lambda: _header("b.mp4", 2**63 - 1), False),
    "negative size": (lambda: _header("b.mp4", -512), False),
    "long name": (lambda: _header("b", 2**33, tarfile.GNUTYPE_LONGNAME), True),
    "long link": (lambda: _header("b", 2**33, tarfile.GNUTYPE_LONGLINK), True),
    "extended header": (lambda: _header("b", 2**33, tarfile.XHDTYPE), True),
    "global header": (lambda: _header("b", 2**33, tarfile.XGLTYPE), True),
    "zeros": (lambda: _header("b.mp4", 2**31), True),
    "zeros of a text": (lambda: _header("b.json", 2**31), True),
    "zeros that are not read": (lambda: _header("b.bin", 2**31), True),
}


def _run_bomb(make: Callable[[], bytes], is_compressed: bool, folder: Path) -> str:
    video, path = write_noise(folder / "a.mp4", 1, 2, 16, 16).read_bytes(), folder / "a.tar"
    with gzip.open(path, "wb", 1) if is_compressed else open(path, "wb") as file:
        file.write(_header("a.mp4", len(video)) + video + bytes(-len(video) % 512) + make())
        for _ in range(2048 if is_compressed else 0):
            file.write(bytes(1 << 20))
    first, *others = [record["video"] for record in read_shards([str(path)])]
    if first["bytes"] != video:
        raise Wrong("the video before the bomb differs")
    if not any(isinstance(other, VideoDecodeError) for other in others):
        raise Wrong("no error")
    return "refused"


# --- images ---------------------------------------------------------------------------------------------------------


def _image(suffix: str, seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
    first, *others = map(Image.fromarray, pixels)
    more = {"save_all": True, "append_images": others} if suffix in (".gif", ".webp", ".tif") else {}
    formats = {".jpg": "JPEG", ".tif": "TIFF"}
    first.save(file, formats.get(suffix, suffix[1:].upper()), **more)
    return file.getvalue()


def _run_image(content: bytes, suffix: str, folder: Path) -> str:
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    try:
        frames = animation_frames(str(path))
        found = read_frames(frames, np.arange(len(frames))).permute(0, 2, 3, 1).numpy()
    except (VideoDecodeError, ValueError) as error:
        if isinstance(error, VideoDecodeError):
            return refusal(error, path)
        if user_message(error) is None:  # frames of several sizes
            raise
        return "refused"
    with Image.open(path) as image:
        for index, frame in enumerate(found):
            image.seek(index)
            if not np.array_equal(frame, np.asarray(image.convert("RGB"))):
                raise Wrong(f"frame {index} differs")
    return "right"


# --- folders --------------------------------------------------------------------------------------------------------


def _secret(folder: Path) -> Path:
    (folder / "secret.mp4").write_bytes(write_noise(folder / "secret.mp4", 1, 2, 16, 16).read_bytes())
    return folder / "secret.mp4"


def _fenced(path: str, link: str | None = None) -> Callable[[Path], None]:
    """A list with a path, read with a root; `link` is a link in the root."""

    def make(folder: Path) -> None:
        secret, root = _secret(folder), folder / "root"
        root.mkdir()
        if link is not None:
            (root / link).symlink_to(secret if link.endswith(".mp4") else folder)
        (folder / "list.jsonl").write_text(json.dumps({"video": path.format(folder)}) + "\n")
        load_video_records(folder / "list.jsonl", root=root)

    return make


def _metadata(path: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _secret(folder)
        (folder / "videos").mkdir()
        (folder / "videos" / "metadata.csv").write_text(f"file_name\n{path.format(folder)}\n")
        load_video_records(folder / "videos")

    return make


def _checked(fill: Callable[[Path], object]) -> Callable[[Path], None]:
    """A folder with one good video and whatever `fill` puts beside it; every other video must be broken."""

    def make(folder: Path) -> None:
        (folder / "videos").mkdir()
        write_noise(folder / "videos" / "good.mp4", 1, 2, 16, 16).read_bytes()
        fill(folder / "videos")
        checks = list(check_videos(load_video_records(folder / "videos"))[0])
        if [check.video for check in checks if not check.reason] != [str(folder / "videos" / "good.mp4")]:
            raise Wrong(f"of a folder with one good video: {checks}")

    return make


def _index(name: str) -> Callable[[Path], None]:
    """An index of `umt search` whose folder or file is a link to what must not change."""

    def make(folder: Path) -> None:
        from umt_training.search.search_index import IndexModel, SearchIndex  # only in the case: it loads LanceDB

        videos, own = folder / "videos", folder / "own"
        (videos / ".umt-index").mkdir(parents=True)
        own.write_text("own")
        if name:
            (videos / ".umt-index" / name).symlink_to(own)
        else:
            (videos / ".umt-index").rmdir()
            own.unlink()
            own.mkdir()
            (videos / ".umt-index").symlink_to(own)
        try:
            SearchIndex.create(videos / ".umt-index", videos, IndexModel("tiny", None, "0"), 1.0, dimension=16)
        finally:
            if own.read_text() != "own" if name else list(own.iterdir()):
                raise Wrong("the target of the link was changed")

    return make


def _saved(name: str, content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "saved").mkdir()
        (folder / "saved" / name).write_text(content)
        load_video_records(folder / "saved")

    return make


def _table(name: str, content: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_text(content)
        load_video_records(folder / name)

    return make


def _deep(folder: Path) -> None:
    for _ in range(300):
        folder = folder / "d"
        os.mkdir(folder)


def _not_utf8(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "caf\udce9.mp4").touch()
    load_video_records(folder / "videos")


HOSTILE: list[tuple[str, Callable[[Path], None], str]] = [
    *(
        (f"root {path}", _fenced(path, link), "refused")
        for path, link in (
            ("../secret.mp4", None), ("{}/secret.mp4", None), ("/etc/passwd", None), ("link.mp4", "link.mp4"),
            ("link/secret.mp4", "link"), ("link/../secret.mp4", "link"), ("file://{}/secret.mp4", None),
            ("local://{}/secret.mp4", None), ("FILE:///etc/passwd", None), ("simplecache::file:///etc/passwd", None),
            ("zip://a.mp4::file:///etc/x.zip", None), ("https://host/a.zip::file:///etc/passwd", None),
            ("a\0.mp4", None), ("memory://a.mp4", None),
        )
    ),
    *(
        (f"metadata {path}", _metadata(path), "refused")
        for path in ("../secret.mp4", "{}/secret.mp4", "file://{}/secret.mp4", "/etc/passwd", "a/../../secret.mp4")
    ),
    ("loop of links", _checked(lambda folder: (folder / "loop").symlink_to(folder)), "right"),
    ("link to itself", _checked(lambda folder: (folder / "self.mp4").symlink_to(folder / "self.mp4")), "right"),
    ("dangling link", _checked(lambda folder: (folder / "a.mp4").symlink_to("nowhere")), "right"),
    ("pipe", _checked(lambda folder: os.mkfifo(folder / "pipe.mp4")), "right"),
    ("endless device", _checked(lambda folder: (folder / "zero.mp4").symlink_to("/dev/zero")), "right"),
    ("folder of a video's name", _checked(lambda folder: (folder / "a.mp4").mkdir()), "right"),
    ("deep folders", _checked(_deep), "right"),
    ("control characters", _checked(lambda folder: (folder / "\x1b[31m\n.mp4").write_bytes(b"x")), "right"),
    ("many broken", _checked(lambda folder: [(folder / f"{n}.mp4").write_bytes(b"x") for n in range(300)]), "right"),
    ("name that is not UTF-8", _not_utf8, "refused"),
    *((f"index through {name or 'folder'}", _index(name), "refused") for name in ("", "windows.lance", "lock")),
    *(
        (f"saved data set {number}", _saved(name, content), "refused")
        for number, (name, content) in enumerate(
            (("state.json", "{}"), ("state.json", "["), ("dataset_dict.json", '{"splits": ["../.."]}'))
        )
    ),
    *(
        (f"list {number}", _table(name, content), "refused")
        for number, (name, content) in enumerate(
            (
                ("a.json", "[" * 10**6), ("a.jsonl", '{"a":' * 10**6), ("a.csv", "a" * 10**7), ("a.csv", "," * 10**6),
                ("a.json", '[{"video": "a.mp4", "label": ' + "9" * 10**6 + "}]"), ("a.txt", "\n" * 10**6),
                ("a.json", '[{"video": ' + "[" * 500 + "]" * 500 + "}]"), ("a.csv", "video,video\na,b\n"),
            )
        )
    ),
]  # fmt: skip


def _run_folder(make: Callable[[Path], None], wanted: str, folder: Path) -> str:
    try:
        make(folder)
    except Wrong:
        raise
    except Exception as error:
        if wanted == "refused" and str(folder) in (user_message(error) or ""):
            return "refused"
        raise
    if wanted == "refused":
        raise Wrong("it was read")
    return "right"
