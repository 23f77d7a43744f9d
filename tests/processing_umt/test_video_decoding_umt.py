"""The reader against plain sequential decoding, frame by frame and bit for bit, on clips of many formats; broken
files; files that refer FFmpeg to other files."""

import contextlib
import io
import itertools
import pickle
import struct
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warm_python import packages

from processing_umt import video_decoding_umt
from processing_umt.video_decoding_umt import VideoDecodeError, VideoReader

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64
ROOT = Path(__file__).resolve().parents[2]


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Frame `number` of a test clip, `(height, width, 3)`: a moving texture, a jumping square and slight noise."""
    rng = np.random.default_rng(7)
    texture = rng.integers(0, 256, (height // 4 + 2, width // 4 + 40, 3)).repeat(4, 0).repeat(4, 1)
    image = texture[:height, 2 * (number % 60) : 2 * (number % 60) + width].astype(np.int16)
    top, left = (7 * number) % (height - 12), (11 * number) % (width - 12)
    image[top : top + 12, left : left + 12] = (37 * number % 256, 91 * number % 256, 255 - 37 * number % 256)
    grain = np.random.default_rng(number).integers(-6, 7, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def write_clip(
    path,
    codec: str = "libx264",
    frames: int = 40,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: list[int] | None = None,
    rotation: int = 0,
    mux: dict[str, str] | None = None,
    shift: int = 0,
    file_format: str | None = None,
):
    """Encodes a clip at 25 frames per second. `times`: presentation times in ms instead; `shift`: offset of all packet
    times in frames; `mux`: options of the container."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    with av.open(path, "w", format=file_format, options=mux or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        (stream.height, stream.width), stream.pix_fmt = size, pix_fmt
        stream.codec_context.thread_count = 1
        time_base = Fraction(1, 25 if times is None else 1000)
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        packets = []
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = time_base
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            offset = round(shift / (25 * packet.time_base))
            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            container.mux(packet)
    return path


def decode_in_order(video) -> list[np.ndarray]:
    """Plain sequential decoding: every frame of FFmpeg's best video stream, RGB, rotated as specified."""
    frames = []
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else str(video)) as container:
        for frame in container.decode(container.streams.best("video")):
            # one scaling thread: by default every frame starts a thread pool
            image = frame.reformat(format="rgb24", threads=1).to_ndarray()
            frames.append(np.rot90(image, frame.rotation // 90))
    return frames


IRREGULAR = [0, 20, 60, 150, 190, 390, 410, 430, 470, 560, 600, 620, 650, 850, 870, 960, 1000, 1020, 1220, 1260]
IRREGULAR += [1260 + time + 33 for time in IRREGULAR]
X265 = "log-level=none:pools=none:frame-threads=1:keyint=12:min-keyint=12"
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}
CUT = {"shift": -10, "mux": {"avoid_negative_ts": "disabled"}}  # ten frames before time 0: an edit list hides them


def x264(*parameters: str, bf: int = 3, **settings):
    return {"options": {"bf": str(bf), "g": "12", "x264-params": ":".join(parameters)}, **settings}


def x265(*parameters: str, **settings):
    return {"codec": "libx265", "options": {"x265-params": ":".join([X265, *parameters])}, **settings}


CLIPS = {
    **{f"h264.{ext}": x264() for ext in ("mp4", "mov", "mkv", "avi", "ts", "flv", "h264")},
    **{f"h264-no-b.{ext}": x264(bf=0) for ext in ("mp4", "mkv", "avi", "ts")},
    **{f"h264-open.{ext}": x264("open-gop=1") for ext in ("mp4", "mkv", "ts")},
    "h264-pyramid.mp4": x264("b-adapt=0", "b-pyramid=normal", "ref=16", bf=16),
    **{f"h264-refresh.{ext}": x264("intra-refresh=1", bf=0) for ext in ("mp4", "mkv", "ts", "avi")},
    "h264-refresh-b.mp4": x264("intra-refresh=1", "keyint=8", bf=2),
    "h264-interlaced.mp4": x264("tff=1"),
    "h264-fragments.mp4": x264(mux={"movflags": "frag_keyframe+empty_moov"}),
    "h264-10-bit.mp4": x264(pix_fmt="yuv420p10le"),
    "h264-odd.mp4": x264(pix_fmt="yuv444p", size=(49, 65)),
    "h264-late.ts": x264(shift=25),
    **{f"h264-vfr.{ext}": x264(times=IRREGULAR) for ext in ("mp4", "mkv")},
    **{f"h264-cut.{ext}": x264(**CUT) for ext in ("mp4", "mov")},
    "h264-cut-open.mp4": x264("open-gop=1", **CUT),
    **{f"h264-turned{angle}.mp4": x264(rotation=angle) for angle in (90, 180, 270)},
    "h264-turned90.mkv": x264(rotation=90),
    **{f"hevc-open.{ext}": x265() for ext in ("mp4", "mkv", "mov", "ts", "hevc")},
    **{f"hevc-closed.{ext}": x265("open-gop=0") for ext in ("mp4", "mkv")},
    "hevc-no-b.mp4": x265("bframes=0"),
    "hevc-refresh.mkv": x265("bframes=0", "intra-refresh=1"),
    "hevc-layers.mp4": x265("temporal-layers=3", "b-adapt=0", "bframes=7"),
    "hevc-10-bit.mp4": x265(pix_fmt="yuv420p10le"),
    "hevc-cut.mp4": x265(**CUT),
    **{f"vp9.{ext}": {"codec": "libvpx-vp9", "options": VP9} for ext in ("webm", "mkv", "mp4", "ivf")},
    "vp9-odd.webm": {"codec": "libvpx-vp9", "options": VP9, "size": (47, 63)},
    "vp9-vfr.webm": {"codec": "libvpx-vp9", "options": VP9, "times": IRREGULAR},
    **{f"av1.{ext}": {"codec": "libsvtav1", "options": {"g": "12", "preset": "11"}} for ext in ("webm", "mkv", "mp4")},
    "av1-open.mkv": {"codec": "libsvtav1", "options": {"g": "12", "preset": "11", "svtav1-params": "irefresh-type=1"}},
    "av1-10-bit.mp4": {"codec": "libsvtav1", "options": {"g": "12", "preset": "11"}, "pix_fmt": "yuv420p10le"},
    **{f"mpeg4.{ext}": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}} for ext in ("mp4", "mkv", "avi", "mov")},
    "mpeg4-no-b.avi": {"codec": "mpeg4", "options": {"bf": "0", "g": "12"}},
    "mpeg4-odd.mp4": {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}, "size": (47, 63)},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "mpeg1.mkv": {"codec": "mpeg1video", "options": {"bf": "2", "g": "12"}},
    # every packet is marked as a keyframe
    **{
        f"{codec}.avi": {"codec": codec, "options": {"g": "12"}, "size": (144, 176)}
        for codec in ("h261", "h263", "h263p")
    },
    "rpza.mov": {"codec": "rpza", "options": {"g": "12"}, "pix_fmt": "rgb555le"},
    "vp8.webm": {"codec": "libvpx", "options": VP9},
    "wmv2.asf": {"codec": "wmv2", "options": {"g": "12"}},
    "msmpeg4.avi": {"codec": "msmpeg4", "options": {"g": "12"}},
    "flv1.flv": {"codec": "flv", "options": {"g": "12"}},
    "rv20.rm": {"codec": "rv20", "options": {"g": "12"}, "size": (144, 176)},
    "ffv1.mkv": {"codec": "ffv1", "options": {"g": "12"}},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "qtrle.mov": {"codec": "qtrle", "options": {"g": "12"}, "pix_fmt": "rgb24"},
    "cinepak.avi": {"codec": "cinepak", "options": {"g": "12"}, "pix_fmt": "rgb24"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "animated.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}
REAL = ("arm_wrestling.mp4", "nasa_13013.mp4", "h265_video.mp4", "test.avi")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Function `name -> (path, sequentially decoded frames)` of a generated clip."""
    folder, cache = tmp_path_factory.mktemp("clips"), {}

    def make(name: str):
        if name not in cache:
            path = str(folder / name)
            write_clip(path, **CLIPS[name])
            cache[name] = path, decode_in_order(path)
        return cache[name]

    return make


@pytest.fixture(params=["packets in memory", "packets from the file"])
def storage(request, monkeypatch):
    """Packets of small videos stay in memory; long videos are read again with seeks. The frames must be equal."""
    if request.param == "packets from the file":
        monkeypatch.setattr(video_decoding_umt, "_KEPT_BYTES", 0)


def check_indices(reader: VideoReader, reference: list[np.ndarray], indices) -> None:
    """The frames equal the reference, and none was decoded again from the beginning of the file."""
    entries, decode_group = [], type(reader)._decode_group
    reader._decode_group = lambda entry, *rest: entries.append(entry) or decode_group(reader, entry, *rest)
    frames = reader.read(indices)
    del reader._decode_group
    if reader._order is not None:
        assert len(entries) == len({reader._entry(index) for index in indices}), "a second attempt was needed"
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), reader.height, reader.width, 3)
    for index, frame in zip(indices, frames, strict=True):
        assert np.array_equal(frame, reference[index]), f"frame {index} of {indices}"


@pytest.mark.parametrize("name", CLIPS)
def test_frames_equal_a_sequential_decode(name, clip, storage):
    path, reference = clip(name)
    hidden = 10 if "cut" in name else 0
    assert len(reference) == 40 - hidden
    assert len({frame.tobytes() for frame in reference}) == len(reference), "the test needs distinct frames"
    with VideoReader(path) as reader:
        assert reader.num_frames == len(reference)
        assert (reader.height, reader.width) == reference[0].shape[:2]
        for index in range(reader.num_frames):
            check_indices(reader, reference, [index])
        check_indices(reader, reference, list(range(reader.num_frames)))

        @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.integers(0, reader.num_frames - 1), min_size=1, max_size=12))
        def any_order_with_repeats(indices):
            check_indices(reader, reference, indices)

        any_order_with_repeats()


@pytest.mark.parametrize("name", CLIPS)
def test_iteration_yields_the_frames_of_a_sequential_decode_in_order(name, clip, storage):
    path, reference = clip(name)
    with VideoReader(path) as reader:
        for indices in (range(reader.num_frames), [20, 3, 7, 3, 29], []):
            frames = list(reader.iterate(indices))
            assert [index for index, _ in frames] == sorted(set(indices))
            assert all(np.array_equal(frame, reference[index]) for index, frame in frames)
        with pytest.raises(ValueError, match=f"frames 0 to {reader.num_frames - 1}"):
            next(reader.iterate([reader.num_frames]))


def test_iteration_stays_in_order_where_a_frame_comes_late(clip):
    """As after a false keyframe, where a second attempt decodes from the beginning."""
    path, reference = clip("h264.mp4")
    with VideoReader(path) as reader:
        decode = reader._decode

        def decode_late(indices):
            pairs = list(decode(indices))
            return iter(pairs[:5] + pairs[6:] + pairs[5:6])

        reader._decode = decode_late
        frames = list(reader.iterate(range(12)))
    assert [index for index, _ in frames] == list(range(12))
    assert all(np.array_equal(frame, reference[index]) for index, frame in frames)


@pytest.mark.parametrize("name", REAL)
def test_real_clips_equal_a_sequential_decode(name, shared_video, storage):
    path = shared_video(name)
    reference = decode_in_order(path)
    with VideoReader(path) as reader:
        assert reader.num_frames == len(reference)
        check_indices(reader, reference, np.linspace(0, len(reference) - 1, 8).astype(int).tolist())
        check_indices(reader, reference, np.random.default_rng(0).integers(0, len(reference), 20).tolist())
        check_indices(reader, reference, list(range(len(reference) - 1, -1, -3)))


def test_most_clips_are_read_by_presentation_times(clip):
    """Frames are counted by decoding only in the few clips without usable presentation times."""
    counted = set()
    for name in CLIPS:
        with VideoReader(clip(name)[0]) as reader:
            if reader._order is None:
                counted.add(name)
    assert counted == {
        "h264.avi", "h264-no-b.avi", "h264-refresh.avi", "h264.h264", "h264-interlaced.mp4", "hevc-open.hevc",
        "mpeg4.avi", "mpeg2.mpg", "vp8.webm",
    }  # fmt: skip


class Recorder:
    """Wraps the decoder of a reader and records the mode in which each packet is decoded."""

    def __init__(self, reader: VideoReader):
        self.codec, self.modes = reader._codec, []
        reader._codec = self

    def __getattr__(self, name):
        return getattr(self.codec, name)

    @property
    def skip_frame(self):
        return self.codec.skip_frame

    @skip_frame.setter
    def skip_frame(self, mode):
        self.codec.skip_frame = mode

    def decode(self, packet):
        if packet is not None:
            self.modes.append(self.codec.skip_frame)
        return self.codec.decode(packet)


def test_only_the_necessary_packets_are_decoded(clip):
    """A keyframe alone needs one packet, a distant frame is decoded from its own keyframe, and non-reference frames
    are decoded only if requested."""
    with VideoReader(clip("h264-no-b.mp4")[0]) as reader:
        recorder = Recorder(reader)
        reader.read([12])
        assert len(recorder.modes) == 1
        reader.read([2, 26])
        assert len(recorder.modes) == 1 + 3 + 3
    with VideoReader(clip("h264.mp4")[0]) as reader:
        recorder = Recorder(reader)
        reader.read([10])
        assert 1 < len(recorder.modes) <= 12 and recorder.modes.count("DEFAULT") == 1
    with VideoReader(clip("hevc-layers.mp4")[0]) as reader:  # other temporal layers may reference such frames
        recorder = Recorder(reader)
        reader.read([10])
        assert set(recorder.modes) == {"DEFAULT"}


def test_distant_frames_are_found_by_seeking(clip, monkeypatch):
    """If packets are not in memory, a distant frame is read without opening the file again."""
    monkeypatch.setattr(video_decoding_umt, "_KEPT_BYTES", 0)
    for name in ("h264.mp4", "h264.mkv", "h264.ts", "h264-open.ts", "hevc-open.mov", "vp9.webm", "mpeg4.mp4"):
        path, reference = clip(name)
        with VideoReader(path) as reader:
            reader._open = lambda: pytest.fail("the file was opened again")
            reader._seek(int(reader._entries[-1]))
            assert reader._position == reader._entries[-1]
            check_indices(reader, reference, [len(reference) - 1])


def test_frame_rate_duration_and_timestamps(clip):
    with VideoReader(clip("h264.mp4")[0]) as reader:
        assert (reader.fps, reader.duration) == (25.0, 1.6)
        assert np.allclose(reader.timestamps, np.arange(40) / 25)
        assert reader.timestamps.dtype == np.float64
    with VideoReader(clip("h264.mkv")[0]) as reader:
        assert (reader.fps, reader.duration) == (25.0, 1.6)
    for name in ("h264-vfr.mp4", "h264-vfr.mkv", "vp9-vfr.webm"):
        with VideoReader(clip(name)[0]) as reader:
            assert np.allclose(reader.timestamps, np.array(IRREGULAR) / 1000, atol=1e-3)
            assert reader.fps == pytest.approx(39 / (IRREGULAR[-1] / 1000), rel=0.02)
    with VideoReader(clip("h264-cut.mp4")[0]) as reader:
        assert np.allclose(reader.timestamps, np.arange(30) / 25)
    with VideoReader(clip("h264.avi")[0]) as reader:
        assert np.allclose(reader.timestamps, np.arange(40) / 25, atol=0.05)


def test_inputs_of_all_kinds(clip, tmp_path):
    path, reference = clip("h264.mp4")
    data = Path(path).read_bytes()

    class Pipe(io.RawIOBase):  # binary, not seekable
        def __init__(self):
            self.inner = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.inner.readinto(buffer)

    with open(path, "rb") as opened:
        opened.seek(100)  # still read from the beginning
        for video in (path, Path(path), data, bytearray(data), io.BytesIO(data), opened, Pipe()):
            with VideoReader(video) as reader:
                check_indices(reader, reference, [39, 0, 17])
        assert not opened.closed
    with VideoReader(data) as reader:
        assert reader.read([]).shape == (0, HEIGHT, WIDTH, 3)
        for indices in ([40], [-1], [0, 41]):
            with pytest.raises(ValueError, match="frames 0 to 39"):
                reader.read(indices)
    for video in (7, None, io.StringIO("text"), [data]):
        with pytest.raises(ValueError, match="path"):
            VideoReader(video)


# --- handmade files


def edit_box(data: bytes, path: list[bytes], change) -> bytes:
    """Replaces the contents of the box at `path` of an MP4 file by `change(contents)` and updates the sizes of its
    parents. The index follows the media data in these files, so no offset changes."""
    out, at = b"", 0
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        payload = data[at + 8 : at + size]
        if kind == path[0]:
            payload = change(payload) if len(path) == 1 else edit_box(payload, path[1:], change)
        out += struct.pack(">I", len(payload) + 8) + kind + payload
        at += size
    return out


def find_box(data: bytes, path: list[bytes]) -> bytes:
    found = []
    edit_box(data, path, lambda payload: found.append(payload) or payload)
    return found[0]


TABLE = [b"moov", b"trak", b"mdia", b"minf", b"stbl"]
EDITS = {  # (duration, start) of each part in ms; start None: an empty edit
    "middle": [(600, 500)],
    "tail hidden": [(1000, 0)],
    "two parts": [(400, 0), (400, 800)],
    "swapped": [(400, 800), (400, 0)],
    "repeated": [(400, 400), (400, 400)],
    "after a pause": [(200, None), (800, 400)],
    "three parts": [(200, 200), (200, 600), (200, 1000)],
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_lists(name, clip, storage):
    data = Path(clip("h264.mp4")[0]).read_bytes()
    with av.open(io.BytesIO(data)) as container:
        per_second = container.streams.video[0].time_base.denominator
    delay = struct.unpack(">i", find_box(data, [b"moov", b"trak", b"edts", b"elst"])[12:16])[0]
    parts = [(span, -1 if start is None else start * per_second // 1000 + delay) for span, start in EDITS[name]]
    entries = b"".join(struct.pack(">iihh", span, start, 1, 0) for span, start in parts)
    contents = bytes(4) + struct.pack(">I", len(parts)) + entries
    edited = edit_box(data, [b"moov", b"trak", b"edts", b"elst"], lambda _: contents)
    reference = decode_in_order(edited)
    assert len(reference) == sum(span for span, start in EDITS[name] if start is not None) // 40
    with VideoReader(edited) as reader:
        assert reader.num_frames == len(reference)
        for index in range(len(reference)):
            check_indices(reader, reference, [index])
        check_indices(reader, reference, list(range(len(reference))))


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_display_matrices(flip, transposed, clip):
    """All eight rotations and reflections, pixel by pixel from the definition of the matrix."""
    path, reference = clip("h264.mp4")
    first, second = flip
    a, b, c, d = (0, second, first, 0) if transposed else (first, 0, 0, second)
    matrix = struct.pack(">9i", *(value << 16 for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    data = Path(path).read_bytes()
    turned = edit_box(data, [b"moov", b"trak", b"tkhd"], lambda payload: payload[:40] + matrix + payload[76:])
    height, width = (WIDTH, HEIGHT) if transposed else (HEIGHT, WIDTH)
    expected = np.empty((height, width, 3), np.uint8)
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        expected[b * x + d * y - (b + d < 0), a * x + c * y - (a + c < 0)] = reference[3][y, x]
    with VideoReader(turned) as reader:
        assert (reader.height, reader.width) == (height, width)
        assert np.array_equal(reader.read([3])[0], expected)


def test_new_parameter_sets_are_not_skipped(tmp_path, storage):
    """Two recordings in one MP4, each with its own sample description: only one packet carries the parameter sets of
    the second one."""
    parts = []
    for number, parameters in enumerate((["cabac=1"], ["cabac=0", "8x8dct=0", "ref=2"])):
        path = write_clip(str(tmp_path / f"{number}.mp4"), **x264(*parameters, bf=0))
        parts.append(Path(path).read_bytes())
    samples, descriptions, sizes, keys = [], [], [], []
    for number, data in enumerate(parts):
        sizes.append(np.frombuffer(find_box(data, [*TABLE, b"stsz"])[12:], ">u4"))
        offset = int.from_bytes(find_box(data, [*TABLE, b"stco"])[8:12], "big")
        samples.append(data[offset : offset + sizes[-1].sum()])
        descriptions.append(find_box(data, [*TABLE, b"stsd"])[8:])
        keys.append(np.frombuffer(find_box(data, [*TABLE, b"stss"])[8:], ">u4") + 40 * number)
    head = parts[0][: parts[0].index(b"mdat") - 4]
    joined = head + struct.pack(">I", 8 + sum(map(len, samples))) + b"mdat" + b"".join(samples)
    offsets = len(head) + 8, len(head) + 8 + len(samples[0])

    def full(*numbers, count=None, tail=b""):
        return (
            bytes(4)
            + (b"" if count is None else struct.pack(">I", count))
            + struct.pack(f">{len(numbers)}I", *numbers)
            + tail
        )

    moov = parts[0][parts[0].rindex(b"moov") - 4 :]
    all_keys, all_sizes = np.concatenate(keys), np.concatenate(sizes)
    duration = int.from_bytes(find_box(moov, [*TABLE, b"stts"])[12:16], "big")
    for box, contents in {
        b"stsd": full(count=2, tail=b"".join(descriptions)),
        b"stts": full(80, duration, count=1),
        b"stss": full(*all_keys.tolist(), count=len(all_keys)),
        b"stsz": full(0, 80, *all_sizes.tolist()),
        b"stsc": full(1, 40, 1, 2, 40, 2, count=2),
        b"stco": full(*offsets, count=2),
    }.items():
        moov = edit_box(moov, [*TABLE, box], lambda _, contents=contents: contents)
    moov = edit_box(moov, [b"moov", b"trak"], lambda trak: trak.replace(b"edts", b"free"))
    reference = decode_in_order(joined + moov)
    assert len(reference) == 80
    with VideoReader(joined + moov) as reader:
        for indices in ([70], [5, 60], [60, 5], [79], [41]):
            check_indices(reader, reference, indices)


def test_joined_recordings(tmp_path):
    """The times of the second recording overlap with those of the first: sorted by time the two would alternate."""
    times = [[start + 40 * number for number in range(40)] for start in (0, 430)]
    paths = [write_clip(str(tmp_path / f"{number}.ts"), **x264(times=times[number])) for number in range(2)]
    joined = b"".join(Path(path).read_bytes() for path in paths)
    reference = decode_in_order(joined)
    assert len(reference) == 80
    with VideoReader(joined) as reader:
        assert reader.num_frames == 80
        check_indices(reader, reference, [0, 79, 39, 40, 5, 60])


def test_a_change_of_size(tmp_path):
    """Frames after a change of size are scaled to the size at the start of the video."""
    sizes = (HEIGHT, WIDTH), (HEIGHT + 16, WIDTH + 32)
    times = [[start + 40 * number for number in range(40)] for start in (0, 1600)]
    paths = [
        write_clip(str(tmp_path / f"{number}.ts"), **x264(size=sizes[number], times=times[number]))
        for number in (0, 1)
    ]
    joined = b"".join(Path(path).read_bytes() for path in paths)
    reference = []
    with av.open(io.BytesIO(joined)) as container:
        for frame in container.decode(video=0):
            reference.append(frame.reformat(WIDTH, HEIGHT, "rgb24", threads=1).to_ndarray())
    assert len(reference) == 80
    with VideoReader(joined) as reader:
        for indices in ([79, 0], [0, 79, 45], [60], [39, 40]):
            check_indices(reader, reference, indices)


def test_empty_samples_are_not_lost_frames(clip):
    """A sample without bytes is a dropped frame: the video has one frame less and is not truncated."""
    data = Path(clip("h264-no-b.mp4")[0]).read_bytes()
    dropped = edit_box(data, [*TABLE, b"stsz"], lambda payload: payload[:-4] + bytes(4))
    reference = clip("h264-no-b.mp4")[1][:39]
    with VideoReader(dropped) as reader:
        assert reader.num_frames == 39
        check_indices(reader, reference, [38, 0])


def test_equal_times(tmp_path):
    """Two packets with equal times (in Matroska: a frame rate above 1000) are still two frames."""
    path = str(tmp_path / "equal.mkv")
    with av.open(write_clip(str(tmp_path / "source.mkv"), **x264(bf=0))) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = stream, 40 * (number // 2), 40 * (number // 2)
            target.mux(packet)
    reference = decode_in_order(path)
    with VideoReader(path) as reader:
        assert reader.num_frames == len(reference) == 40
        for index in range(40):
            check_indices(reader, reference, [index])


@pytest.mark.parametrize("extension", ["avi", "mkv"])
def test_pictures_that_are_not_coded(extension, tmp_path):
    """MPEG-4 has packets for unchanged pictures; decoders return no frame for them."""
    path = str(tmp_path / f"still.{extension}")
    source_path = write_clip(str(tmp_path / "source.mkv"), codec="mpeg4", options={"g": "12"})
    nothing = b"\x00\x00\x01\xb6" + bytes([0b01_0_1_0000, 0b0_1_0_01111])  # a P picture with vop_coded = 0
    with av.open(source_path) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            copy = av.Packet(nothing) if number in (20, 21, 33) else packet
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            target.mux(copy)
    reference = decode_in_order(path)
    assert len(reference) == 37
    with VideoReader(path) as reader:
        assert reader.num_frames == 37
        for index in range(37):
            check_indices(reader, reference, [index])


def test_incorrect_presentation_times_are_not_used(tmp_path):
    """If a muxer stores decoding times as presentation times, order and count are those of the decoder."""
    path = str(tmp_path / "careless.mkv")
    with av.open(write_clip(str(tmp_path / "careful.mkv"), **x264())) as source, av.open(path, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = stream, 40 * number, 40 * number
            target.mux(packet)
    reference = decode_in_order(path)
    with VideoReader(path) as reader:
        assert reader.num_frames == len(reference) == 40
        for index in range(40):
            check_indices(reader, reference, [index])


# --- broken files


def reason_of(video) -> str:
    started = time.monotonic()
    with pytest.raises(VideoDecodeError) as caught, VideoReader(video) as reader:
        reader.read(np.linspace(0, reader.num_frames - 1, 8).astype(int))
    assert time.monotonic() - started < 5
    if isinstance(video, (str, Path)):
        assert caught.value.video == str(video) and str(video) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    return caught.value.reason


def test_errors_of_broken_files_name_file_and_reason(clip, tmp_path):
    data = Path(clip("h264.mp4")[0]).read_bytes()

    def file(name: str, contents: bytes) -> Path:
        (tmp_path / name).write_bytes(contents)
        return tmp_path / name

    assert reason_of(tmp_path / "nothing.mp4") == "missing"
    assert reason_of(file("a.mp4", data) / "inside.mp4") == "missing"
    assert reason_of("a\0b.mp4") == "missing"
    assert reason_of(tmp_path) == "unreadable"
    assert reason_of(file("empty.mp4", b"")) == "empty"
    assert reason_of(b"") == "empty"
    assert reason_of(file("text.mp4", b"It was a dark and stormy night.\n" * 50)) == "not_a_video"
    assert reason_of(file("zeros.mp4", bytes(5000))) == "not_a_video"
    assert reason_of(np.random.default_rng(0).bytes(5000)) == "not_a_video"
    assert reason_of(file("half.mp4", data[: len(data) // 2])) == "truncated"
    assert reason_of(data[:20]) == "truncated"
    # FFmpeg takes it for a raw stream, whose first packet contains the header
    mpeg4 = Path(clip("mpeg4.mp4")[0]).read_bytes()
    assert reason_of(file("shifted.mp4", mpeg4[:6] + bytes(20) + mpeg4)) == "not_a_video"


def test_a_pipe_does_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason_of(tmp_path / "pipe.mp4") == "unreadable"


def test_audio_and_cover_art_are_not_videos(tmp_path):
    path = str(tmp_path / "sound.mp4")
    for with_cover in (False, True):
        with av.open(path, "w") as container:
            stream = container.add_stream("aac", rate=44100, layout="mono")
            if with_cover:
                cover = container.add_stream("mjpeg")
                cover.height, cover.width, cover.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
                cover.disposition = av.stream.Disposition.attached_pic
                image = av.VideoFrame.from_ndarray(picture(0, HEIGHT, WIDTH), format="rgb24")
                picture_packets = cover.encode(image) + cover.encode()
            for number in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.rate, frame.pts = 44100, 1024 * number
                container.mux(stream.encode(frame))
            if with_cover:
                container.mux(picture_packets)
            container.mux(stream.encode())
        assert reason_of(path) == "no_video_stream"
    assert len(decode_in_order(path)) == 1
    sound = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 16036, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 16000
    )
    assert reason_of(sound + bytes(16000)) == "no_video_stream"


def test_no_frames(clip):
    data = Path(clip("h264.mp4")[0]).read_bytes()
    assert reason_of(edit_box(data, [*TABLE, b"stsz"], lambda _: bytes(12))) == "no_frames"
    index = data.rindex(b"moov") - 4
    start = data.index(b"mdat") + 4
    assert reason_of(data[:start] + bytes(index - start) + data[index:]) in ("decode", "no_frames")


@pytest.mark.parametrize(
    "name",
    [
        "h264-faststart.mp4",
        "h264-no-b-faststart.mp4",
        "h264.mkv",
        "h264.avi",
        "mpeg4.avi",
        "hevc-open.mkv",
        "vp9.webm",
    ],
)
@pytest.mark.parametrize("part", [0.6, 0.75, 0.95])
def test_readable_frames_of_truncated_files_are_returned(name, part, clip, tmp_path, storage):
    """Every frame read from a truncated file equals the frame with this index in the complete file; the other frames
    raise an error, and so does a clip over the full length."""
    if "faststart" in name:
        path = write_clip(str(tmp_path / name), **x264(bf=3 * ("no-b" not in name), mux={"movflags": "faststart"}))
        reference = decode_in_order(path)
    else:
        path, reference = clip(name)
    data = Path(path).read_bytes()
    given = []
    with VideoReader(data[: int(part * len(data))]) as reader:
        assert abs(reader.num_frames - 40) <= 1 and len(reader.timestamps) == reader.num_frames
        for index in range(reader.num_frames):
            try:
                frame = reader.read([index])[0]
            except VideoDecodeError as error:
                assert error.reason == "truncated"
            else:
                assert np.array_equal(frame, reference[index]), index
                given.append(index)
        with pytest.raises(VideoDecodeError, match="ends too early"):
            reader.read([0, reader.num_frames - 1])
    assert given == list(range(len(given)))
    if part > 0.5 and not name.endswith(".avi"):  # the order of the last 16 frames of an AVI file is uncertain
        assert len(given) >= 40 * part - 12


def damage_packet(data: bytes, number: int) -> bytes:
    """Overwrites the second half of a packet; the container stays intact."""
    with av.open(io.BytesIO(data)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    start = data.index(packets[number])
    half, end = start + len(packets[number]) // 2, start + len(packets[number])
    return data[:half] + bytes(end - half) + data[end:]


DAMAGED = {  # codecs whose decoders notice this damage; h264.avi is counted by decoding
    "h264.mp4": CLIPS["h264.mp4"],
    "h264.avi": CLIPS["h264.avi"],
    "h264-cavlc.mkv": x264("cabac=0"),
    "h264-open.mp4": CLIPS["h264-open.mp4"],
    "hevc-hash.mkv": x265("hash=1"),
    "mpeg4.mp4": CLIPS["mpeg4.mp4"],
    "mpeg1.mkv": CLIPS["mpeg1.mkv"],
    "mpeg2.mkv": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "flv1.flv": CLIPS["flv1.flv"],
    "msmpeg4.avi": CLIPS["msmpeg4.avi"],
    "wmv2.avi": CLIPS["wmv2.asf"],
    "mjpeg.avi": CLIPS["mjpeg.avi"],
    "png.mov": CLIPS["png.mov"],
    "prores.mov": CLIPS["prores.mov"],
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("place", ["entry", "after the entry"])
def test_an_error_on_the_way_to_a_frame_is_an_error_of_that_frame(name, place, tmp_path, storage):
    """Frames of the damaged group from the damage on are errors; all others equal those of the intact file."""
    path = write_clip(str(tmp_path / name), **DAMAGED[name])
    reference = decode_in_order(path)
    with VideoReader(path) as reader:
        number = int(reader._entries[len(reader._entries) // 2])
        is_counted = reader._order is None
        if place == "after the entry" and is_counted:
            number += 1
        elif place == "after the entry":  # not a leading picture
            number += 1 + int(np.flatnonzero(reader._pts[number + 1 :] > reader._pts[number])[0])
        if not is_counted:
            way = [(reader._last_entry(packet), packet) for packet in reader._order]
            broken = [index for index, (entry, packet) in enumerate(way) if entry <= number <= packet]
    with VideoReader(damage_packet(Path(path).read_bytes(), number)) as reader:
        assert reader.num_frames == len(reference)
        refused = []
        for index in range(reader.num_frames):
            try:
                assert np.array_equal(reader.read([index])[0], reference[index]), index
            except VideoDecodeError as error:
                assert error.reason == "decode"
                refused.append(index)
        assert 0 < len(refused) < 20 if is_counted else refused == broken
        with pytest.raises(VideoDecodeError, match=f"the data of frame {refused[0]} are damaged"):
            reader.read(range(reader.num_frames))
        with pytest.raises(VideoDecodeError, match=f"the data of frame {refused[0]} are damaged"):
            for index, frame in reader.iterate(range(reader.num_frames)):
                assert index in refused or np.array_equal(frame, reference[index])


def without_first_packets(path: str, shorter: str, count: int) -> str:
    """Copies a video without its first packets, as a recording of a broadcast starts."""
    with av.open(path) as source, av.open(shorter, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            if number >= count:
                packet.stream = stream
                target.mux(packet)
    return shorter


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264-open.mp4", "h264-refresh.mkv", "hevc-open.mkv", "mpeg1.mkv", "mpeg4.mkv"]
)
def test_a_start_within_a_group_is_no_damage(name, clip, tmp_path, storage):
    shorter = without_first_packets(clip(name)[0], str(tmp_path / "shorter.mkv"), 5)
    reference = decode_in_order(shorter)
    assert 20 < len(reference) < 40
    with VideoReader(shorter) as reader:
        assert reader.num_frames == len(reference)
        for _ in range(2):  # the decoder starts anew
            check_indices(reader, reference, range(len(reference)))


def test_lost_packets_of_a_transport_stream(tmp_path):
    """Without some transport packets, a frame is an error from the loss to the end of the group."""
    path = write_clip(str(tmp_path / "whole.ts"), codec="mpeg2video", options={"bf": "0", "g": "12", "b": "4000k"})
    reference, data = decode_in_order(path), Path(path).read_bytes()
    with av.open(path) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    lost = data[: positions[15]] + data[positions[16] :]  # the whole of frame 15
    with VideoReader(lost) as reader:
        assert np.array_equal(reader.read([12])[0], reference[12])
        assert np.array_equal(reader.read([30])[0], reference[31])
        with pytest.raises(VideoDecodeError, match="damaged"):
            reader.read([16])


@pytest.mark.parametrize("shift", range(-700, 300, 100))
def test_a_loss_at_the_beginning_of_a_group_of_a_transport_stream(clip, shift):
    """The demuxer marks a packet of the group before."""
    path, reference = clip("h264.ts")
    data = bytearray(Path(path).read_bytes())
    with av.open(path) as container:
        packets = [(packet.pos, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    keyframe = [number for number, (_, is_keyframe) in enumerate(packets) if is_keyframe][1]
    start = packets[keyframe + 1][0] + shift
    data[start : start + 400] = bytes(400)
    with VideoReader(bytes(data)) as reader:
        for index in range(reader.num_frames):
            try:
                frame = reader.read([index])[0]
            except VideoDecodeError as error:
                assert "damaged" in str(error)
            else:
                assert any(np.array_equal(frame, other) for other in reference)


def test_a_stream_that_breaks_its_format_everywhere_is_decoded_as_by_default(tmp_path):
    """Pictures with wrong checksums: no single one is damaged."""
    path = write_clip(str(tmp_path / "wrong.mov"), codec="png", pix_fmt="rgb24", frames=10)
    data = bytearray(Path(path).read_bytes())
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in packets:
        data[data.index(packet) + packet.rindex(b"IEND") - 5] ^= 1  # the checksum before it
    reference = decode_in_order(bytes(data))
    with VideoReader(bytes(data)) as reader:
        assert np.array_equal(reader.read([7, 3]), [reference[7], reference[3]])
        assert not reader._is_strict
    with VideoReader(bytes(data)) as reader:
        assert np.array_equal([frame for _, frame in reader.iterate(range(10))], reference)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts", "mpeg4.avi", "vp9.webm", "hevc-open.mov"])
def test_damaged_files_give_frames_or_a_video_decode_error(name, clip, storage):
    data = Path(clip(name)[0]).read_bytes()
    rng = np.random.default_rng(len(name))
    for number in range(16):
        damaged = bytearray(data)
        if number % 4 == 0:
            damaged = damaged[: rng.integers(1, len(data))]
        elif number % 4 == 1:
            start = int(rng.integers(len(data)))
            damaged[start : start + 300] = rng.bytes(300)
        else:
            for position in rng.integers(0, len(data), 3 ** (1 + number % 4)):
                damaged[position] = rng.integers(256)
        started = time.monotonic()
        try:
            with VideoReader(bytes(damaged)) as reader:
                for index in np.linspace(0, reader.num_frames - 1, 6).astype(int):
                    try:
                        assert reader.read([index]).shape[::3] == (1, 3)
                    except VideoDecodeError:
                        continue
        except VideoDecodeError:
            continue
        finally:
            assert time.monotonic() - started < 5


def test_the_stated_number_of_frames_is_bounded_by_the_size_of_the_file(clip):
    """A header that states 2^30 frames, in a file that is cut off."""
    data = bytearray(Path(clip("h264-no-b.avi")[0]).read_bytes())
    for marker, offset in ((b"avih", 24), (b"strh", 40)):
        data[data.index(marker) + offset : data.index(marker) + offset + 4] = struct.pack("<I", 1 << 30)
    with VideoReader(bytes(data[:-3000])) as reader:
        assert 40 < reader.num_frames <= len(data)
        assert np.array_equal(reader.read([20])[0], clip("h264-no-b.avi")[1][20])


ENDS = {  # formats that state their end
    "mpeg4.avi": CLIPS["mpeg4.avi"],
    "h264.mkv": CLIPS["h264.mkv"],
    "wmv2.asf": CLIPS["wmv2.asf"],
    "animated.gif": CLIPS["animated.gif"],
    "vp8.ogv": CLIPS["vp8.webm"],
    "rv20.rm": CLIPS["rv20.rm"],
    "flv1.flv": CLIPS["flv1.flv"],
    "mpeg2.mxf": CLIPS["mpeg2.ts"],
    "vp8.nut": CLIPS["vp8.webm"],
}


@pytest.mark.parametrize("name", ENDS)
def test_a_file_that_ends_before_its_stated_end_is_truncated(name, tmp_path, storage):
    path = write_clip(str(tmp_path / name), **ENDS[name])
    reference, data = decode_in_order(path), Path(path).read_bytes()
    for whole in (data, data + b"more" * 1000):
        with VideoReader(whole) as reader:
            assert reader.num_frames == reader._num_readable == len(reference)
    for part in (0.5, 0.7, 0.8):
        cut = data[: int(part * len(data))]
        with pytest.raises(VideoDecodeError, match="ends too early"), VideoReader(cut) as reader:
            given = []
            for index in range(reader.num_frames):
                with contextlib.suppress(VideoDecodeError):
                    assert np.array_equal(reader.read([index])[0], reference[index]), index
                    given.append(index)
            assert len(given) < len(reference)
            reader.read([reader.num_frames - 1])


def test_an_avi_file_without_its_index_is_complete(clip, storage):
    for name in ("h264-no-b.avi", "mpeg4.avi", "mjpeg.avi"):
        path, reference = clip(name)
        data = bytearray(Path(path).read_bytes())
        no_index = data[: data.rindex(b"idx1")]
        no_sizes = bytearray(no_index)
        no_sizes[4:8] = bytes(4)
        written_to_a_pipe = bytearray(no_index)
        written_to_a_pipe[4:8] = b"\xff" * 4
        for video in (
            no_index,
            no_index[:-4] + data[len(no_index) - 4 : len(no_index) + 6],
            no_sizes,
            written_to_a_pipe,
        ):
            with VideoReader(video) as reader:
                assert reader.num_frames == len(reference)
                check_indices(reader, reference, [39, 0, 17])


def test_an_index_that_is_cut_off_loses_no_frame(clip):
    data = Path(clip("h264.mkv")[0]).read_bytes()
    with VideoReader(data[: data.rindex(b"\x1c\x53\xbb\x6b") + 8]) as reader:
        check_indices(reader, clip("h264.mkv")[1], [39, 0])
        assert reader.num_frames == 40


def test_leading_pictures_after_a_damaged_group_are_errors(tmp_path):
    """In a stream without presentation times, the keyframe that follows them in presentation identifies them."""
    path = write_clip(str(tmp_path / "open.m2v"), codec="mpeg2video", options={"bf": "2", "g": "12"})
    reference, data = decode_in_order(path), Path(path).read_bytes()
    with av.open(path) as container:
        kinds = [frame.pict_type for frame in container.decode(video=0)]
    key = next(index for index in range(12, 40) if kinds[index] == av.video.frame.PictureType.I)
    with VideoReader(path) as reader:
        assert reader._order is None
        assert reader._entries[1] > 8
    refused = []
    with VideoReader(damage_packet(data, 4)) as reader:
        for index in range(reader.num_frames):
            try:
                assert np.array_equal(reader.read([index])[0], reference[index]), index
            except VideoDecodeError:
                refused.append(index)
    assert refused and refused[-1] == key - 1


def test_frames_that_are_too_large_are_refused(clip, tmp_path):
    gif = bytearray(Path(clip("animated.gif")[0]).read_bytes())
    movie = bytearray(Path(clip("qtrle.mov")[0]).read_bytes())
    list_file = bytearray(Path(clip("cinepak.avi")[0]).read_bytes())
    for width, height in ((6000, 6000), (12000, 12000), (16384, 16384)):
        struct.pack_into("<HH", gif, 6, width, height)
        struct.pack_into(">HH", movie, movie.index(b"stsd") + 44, width, height)
        struct.pack_into("<ii", list_file, list_file.index(b"strf") + 12, width, height)
        for video in (gif, movie, list_file):
            assert reason_of(bytes(video)) == "too_large"
    largest = str(tmp_path / "8k.mkv")
    with av.open(largest, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 7680, 4320
        for packet in [*stream.encode(av.VideoFrame(7680, 4320, "yuv420p")), *stream.encode()]:
            container.mux(packet)
    with VideoReader(largest) as reader:
        assert (reader.height, reader.width) == (4320, 7680)


def test_frames_that_become_too_large_are_errors(clip):
    """The limit also holds for the decoder."""
    path = clip("mjpeg.avi")[0]
    data = Path(path).read_bytes()
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    size = b"\x08" + struct.pack(">HH", HEIGHT, WIDTH)
    changed = data.replace(packets[20], packets[20].replace(size, b"\x08" + struct.pack(">HH", 9000, 9000)))
    assert changed != data
    with VideoReader(changed) as reader:
        assert np.array_equal(reader.read([19])[0], clip("mjpeg.avi")[1][19])
        with pytest.raises(VideoDecodeError, match="damaged"):
            reader.read([20])


def test_positions_before_the_file_are_errors_of_the_video(tmp_path, capfd):
    """FFmpeg searches a cut NUT file backwards, beyond its beginning."""
    data = Path(write_clip(str(tmp_path / "whole.nut"), codec="mpeg4")).read_bytes()
    reference = decode_in_order(data)
    for part in (0.6, 0.9):
        given = 0
        with VideoReader(data[: int(part * len(data))]) as reader:
            for index in range(reader.num_frames):
                with contextlib.suppress(VideoDecodeError):
                    assert np.array_equal(reader.read([index])[0], reference[index])
                    given += 1
        assert given >= 12
    assert "exception" not in capfd.readouterr().err


def test_a_message_contains_no_password():
    error = VideoDecodeError("https://me:se@cret@host:80/a@b.mp4", "network", "from ftp://me:secret@host/x")
    assert str(error).startswith("https://host:80/a@b.mp4: ") and "(from ftp://host/x)" in str(error)
    assert "cret" not in str(error) and error.video == "https://host:80/a@b.mp4"


def test_the_error_can_be_pickled():
    error = VideoDecodeError("clip.mp4", "truncated", "half of it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is VideoDecodeError
    assert (copy.video, copy.reason, str(copy)) == ("clip.mp4", "truncated", str(error))
    assert str(error).startswith("clip.mp4: it ends too early (half of it).")


# --- files that refer to other files


def playlists(target: str) -> dict[str, str]:
    hls = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.6,\n{target}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile '{target}'\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration='
        '"PT1.6S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="9"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period>'
        "</MPD>"
    )
    return {
        "list.m3u8": hls,
        "list.mp4": hls,
        "list.ffconcat": concat,
        "concat.mp4": concat,
        "list.mpd": dash,
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "list.xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track>'
        f"<location>file://{target}</location></track></trackList></playlist>",
        "list.asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "list.pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    }


def test_playlists_are_not_followed(clip, tmp_path):
    target = clip("h264.ts")[0]
    followed = 0
    for name, text in playlists(target).items():
        (tmp_path / name).write_text(text)
        assert reason_of(tmp_path / name) == "not_a_video", name
        assert reason_of(text.encode()) == "not_a_video", name
        options = {"safe": "0", "allowed_extensions": "ALL", "extension_picky": "0", "protocol_whitelist": "file"}
        try:
            with av.open(str(tmp_path / name), options=options) as container:
                followed += sum(1 for _ in container.decode(video=0)) == 40
        except (av.error.FFmpegError, IndexError):  # IndexError: opened, but nothing in it
            continue
    assert followed >= 2, "FFmpeg follows playlists by default; otherwise this test would be meaningless"
    for name in (f"concat:{target}|{target}", f"subfile,,start,0,end,0,,:{target}", f"file:{target}", "pipe:0"):
        assert reason_of(name) == "missing"


def test_reference_movies_are_not_followed(clip, tmp_path):
    """A QuickTime movie with its media data in another file (`dref`)."""
    path = clip("h264.mp4")[0]
    data = Path(path).read_bytes()
    name = path.encode() + b"\0" * (len(path) % 2)
    alias = bytes(10 + 1 + 27 + 12 + 1 + 63 + 16 + 4 + 16) + struct.pack(">HH", 2, len(path)) + name
    alias += struct.pack(">HH", 0xFFFF, 0)
    contents = bytes(4) + struct.pack(">II", 1, len(alias) + 12) + b"alis" + bytes(4) + alias
    movie = edit_box(data, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"], lambda _: contents)
    start, index = movie.index(b"mdat") + 4, movie.rindex(b"moov") - 4
    movie = movie[:start] + bytes(index - start) + movie[index:]  # remove its own media data
    (tmp_path / "movie.mov").write_bytes(movie)
    allowed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(tmp_path / "movie.mov"), options=allowed) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40  # FFmpeg follows it if allowed
    assert reason_of(tmp_path / "movie.mov") == "no_frames"


def test_nothing_is_logged(clip, tmp_path):
    """FFmpeg prints nothing for an intact, a damaged and an unreadable file."""
    data = bytearray(Path(clip("h264.mp4")[0]).read_bytes())
    data[300:900] = bytes(600)
    (tmp_path / "damaged.mp4").write_bytes(data)
    (tmp_path / "text.mp4").write_text("text" * 100)
    program = """
import sys
from processing_umt.video_decoding_umt import VideoDecodeError, VideoReader
print("begin", file=sys.stderr, flush=True)  # output of imports is ignored
for path in sys.argv[1:]:
    try:
        with VideoReader(path) as reader:
            reader.read(range(reader.num_frames))
    except VideoDecodeError:
        pass
"""
    paths = [clip("h264.mp4")[0], clip("hevc-open.mkv")[0], str(tmp_path / "damaged.mp4"), str(tmp_path / "text.mp4")]
    result = packages.run(["-c", program, *paths])
    assert result.returncode == 0
    assert result.stdout == ""
    assert "begin" in result.stderr and result.stderr.split("begin\n")[1] == ""
