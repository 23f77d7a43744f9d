"""Video files of every encoder and container at hand, made with PyAV, and their frames in order, the reference."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

NUM_FRAMES, SIZE = 30, (64, 96)  # height, width
_IRREGULAR = np.cumsum(np.random.default_rng(0).integers(20, 200, NUM_FRAMES)).tolist()  # ms


class Clip(NamedTuple):
    """How a clip is encoded.

    Args:
        codec: name of the encoder.
        options, mux: of the encoder and of the container.
        times: presentation times in ms; by default 25 frames per second.
        shift: offset of all times in frames; the frames before time 0 are hidden by an edit list.
        extra: "audio", "cover" or "second video", a stream beside it.
    """

    codec: str = "libx264"
    options: dict[str, str] = {}
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = SIZE
    frames: int = NUM_FRAMES
    mux: dict[str, str] = {}
    times: list[int] | None = None
    shift: int = 0
    rotation: int = 0
    extra: str = ""


def x264(*parameters: str, bf: int = 3, **settings) -> Clip:
    options = {"bf": str(bf), "g": "12", "x264-params": ":".join(parameters), "preset": "veryfast"}
    return Clip(options=options, **settings)


def x265(*parameters: str, **settings) -> Clip:
    parameters = ("log-level=none", "pools=none", "frame-threads=1", "keyint=12", "min-keyint=12", *parameters)
    return Clip("libx265", {"x265-params": ":".join(parameters), "preset": "superfast"}, **settings)


_VPX = {"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}
_AV1 = {"g": "12", "preset": "11", "svtav1-params": "lp=1"}
_B, _P = {"bf": "2", "g": "12"}, {"bf": "0", "g": "12"}
_H263 = {"options": {"g": "12"}, "size": (144, 176)}
_CUT = {"shift": -10, "mux": {"avoid_negative_ts": "disabled"}}


def _each(name: str, extensions: str, clip: Clip) -> dict[str, Clip]:
    return {f"{name}.{extension}": clip for extension in extensions.split()}


_RGB = {"options": {"g": "12"}, "pix_fmt": "rgb24"}
# encoder and container
PAIRS: dict[str, Clip] = {
    **_each("h264", "mp4 mov mkv avi ts flv nut wmv 3gp m4v f4v ismv mpg h264", x264()),
    **_each("h264-no-b", "mp4 mkv avi ts flv nut wmv", x264(bf=0)),
    **_each("hevc", "mp4 mov mkv ts flv nut hevc", x265()),
    **_each("vp8", "webm mkv avi ogv nut ivf", Clip("libvpx", _VPX)),
    **_each("vp9", "webm mkv mp4 avi nut ivf flv", Clip("libvpx-vp9", _VPX)),
    **_each("av1", "webm mkv mp4 avi ivf obu flv", Clip("libsvtav1", _AV1)),
    **_each("mpeg4", "mp4 mov mkv avi nut wmv 3gp m4v", Clip("mpeg4", _B)),
    **_each("mpeg4-no-b", "mp4 avi", Clip("mpeg4", _P)),
    **_each("mpeg2", "ts mpg vob mxf mkv mp4 mov avi nut m2v", Clip("mpeg2video", _B)),
    **_each("mpeg1", "mpg mkv mp4 avi ts", Clip("mpeg1video", _B)),
    **_each("mjpeg", "mp4 mov mkv avi nut wmv", Clip("mjpeg", pix_fmt="yuvj420p")),
    **_each("png", "mov mp4 avi nut", Clip("png", **_RGB)),
    **_each("ffv1", "mkv avi nut mp4", Clip("ffv1", {"g": "12"})),
    **_each("wmv2", "wmv avi nut", Clip("wmv2", _P)),
    **_each("wmv1", "wmv avi", Clip("wmv1", _P)),
    **_each("msmpeg4", "avi wmv mkv mov", Clip("msmpeg4", _P)),
    **_each("flv1", "flv", Clip("flv", _P)),
    **_each("h261", "avi nut", Clip("h261", **_H263)),
    **_each("h263", "avi mov 3gp nut", Clip("h263", **_H263)),
    **_each("rv20", "rm", Clip("rv20", **_H263)),
    **_each("rv10", "rm", Clip("rv10", **_H263)),
    **_each("prores", "mov mkv mxf", Clip("prores_ks", pix_fmt="yuv422p10le")),
    **_each("qtrle", "mov", Clip("qtrle", **_RGB)),
    **_each("cinepak", "avi mov", Clip("cinepak", **_RGB)),
    **_each("rpza", "mov", Clip("rpza", {"g": "12"}, "rgb555le")),
    **_each("svq1", "mov avi", Clip("svq1", {"g": "12"}, "yuv410p")),
    **_each("huffyuv", "avi nut", Clip("huffyuv", pix_fmt="yuv422p")),
    **_each("utvideo", "avi", Clip("utvideo", pix_fmt="yuv420p")),
    **_each("zmbv", "avi", Clip("zmbv", {"g": "12"}, "bgr0")),
    **_each("msvideo1", "avi", Clip("msvideo1", {"g": "12"}, "rgb555le")),
    **_each("flashsv", "flv avi", Clip("flashsv", {"g": "12"}, "bgr24")),
    **_each("magicyuv", "avi mov", Clip("magicyuv", pix_fmt="yuv420p")),
    **_each("jpeg2000", "mp4 mkv avi mxf", Clip("jpeg2000", pix_fmt="yuv420p")),
    **_each("raw", "avi mkv nut", Clip("rawvideo")),
    **_each("snow", "mkv avi nut", Clip("snow", {"g": "12"})),
    **_each("gif", "gif", Clip("gif", pix_fmt="rgb8")),
}

VARIANTS: dict[str, Clip] = {
    **_each("h264-open", "mp4 mkv ts flv", x264("open-gop=1")),
    **_each("h264-pyramid", "mp4 mkv ts", x264("b-adapt=0", "b-pyramid=normal", "ref=8", bf=8)),
    **_each("h264-interlaced", "mp4 ts", x264("tff=1")),
    **_each("h264-fragments", "mp4", x264(mux={"movflags": "frag_keyframe+empty_moov"})),
    **_each("h264-front", "mp4", x264(mux={"movflags": "faststart"})),
    **_each("h264-10-bit", "mp4 mkv", x264(pix_fmt="yuv420p10le")),
    **_each("h264-odd", "mp4 mkv avi", x264(pix_fmt="yuv444p", size=(49, 65))),
    **_each("h264-late", "ts mkv", x264(shift=25)),
    **_each("h264-uneven", "mp4 mkv wmv", x264(times=_IRREGULAR)),
    **_each("h264-cut", "mp4 mov", x264(**_CUT)),
    **_each("h264-cut-open", "mp4", x264("open-gop=1", **_CUT)),
    **_each("h264-one", "mp4 mkv avi ts flv nut wmv", x264(frames=1)),
    **_each("h264-two", "mp4 mkv", x264(frames=2)),
    **_each("h264-sparse", "mp4 mkv ts", Clip(options={"g": "1000", "bf": "2"})),
    **_each("h264-intra", "mp4 avi ts", Clip(options={"g": "1"})),
    **_each("h264-audio", "mp4 mkv ts", x264(extra="audio")),
    **_each("h264-cover", "mp4", x264(extra="cover")),
    **_each("h264-second", "mp4 mkv ts nut", x264(extra="second video")),
    **{f"h264-turned-{angle}.mp4": x264(rotation=angle) for angle in (90, 180, 270)},
    **_each("hevc-open", "mkv mp4", x265("open-gop=1")),
    **_each("hevc-layers", "mp4", x265("temporal-layers=3", "b-adapt=0", "bframes=7")),
    **_each("hevc-10-bit", "mp4", x265(pix_fmt="yuv420p10le")),
    **_each("hevc-cut", "mp4", x265(**_CUT)),
    **_each("vp9-odd", "webm", Clip("libvpx-vp9", _VPX, size=(47, 63))),
    **_each("vp9-uneven", "webm", Clip("libvpx-vp9", _VPX, times=_IRREGULAR)),
    **_each("vp9-one", "webm ivf", Clip("libvpx-vp9", _VPX, frames=1)),
    **_each("av1-10-bit", "mp4", Clip("libsvtav1", _AV1, "yuv420p10le")),
    **_each("av1-open", "mkv", Clip("libsvtav1", {**_AV1, "svtav1-params": "lp=1:irefresh-type=1"})),
    **_each("mpeg4-odd", "mp4 avi", Clip("mpeg4", _B, size=(47, 63))),
    **_each("mpeg4-uneven", "mkv", Clip("mpeg4", _B, times=_IRREGULAR)),
    **_each("gif-one", "gif", Clip("gif", pix_fmt="rgb8", frames=1)),
    **_each("live", "mkv", x264(mux={"live": "1"})),
}

REFRESH: dict[str, Clip] = {
    **_each("x264", "mp4 mkv ts avi flv nut mov", x264("intra-refresh=1", bf=0)),
    **_each("x264-b", "mp4 mkv ts avi flv", x264("intra-refresh=1", "keyint=8", bf=2)),
    **_each("x264-long", "mp4 mkv ts", x264("intra-refresh=1", "keyint=25", bf=0)),
    **_each("x264-refs", "mp4 mkv", x264("intra-refresh=1", "keyint=10", "ref=4", bf=0)),
    **_each("x264-wide", "mp4 ts", x264("intra-refresh=1", "keyint=20", bf=0, size=(48, 320))),
    **_each("x264-cavlc", "mp4", x264("intra-refresh=1", "cabac=0", bf=0)),
    **_each("x265", "mp4 mkv ts", x265("bframes=0", "intra-refresh=1")),
    **_each("x265-long", "mp4 mkv", x265("bframes=0", "intra-refresh=1", "keyint=25")),
    **_each("vp9", "webm", Clip("libvpx-vp9", {**_VPX, "lag-in-frames": "0", "aq-mode": "3", "g": "1000"})),
    **_each("vp8", "webm", Clip("libvpx", {**_VPX, "lag-in-frames": "0", "error-resilient": "1", "g": "1000"})),
    **_each("mpeg2", "ts mpg", Clip("mpeg2video", {"g": "300", "bf": "0", "intra_vlc": "1"})),
    **_each("mpeg4", "mp4", Clip("mpeg4", {"g": "300", "bf": "0", "mbd": "rd"})),
}


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Frame `number`, uint8 `(height, width, 3)`: a texture that moves, a square that jumps, noise."""
    height, width = size
    texture = np.random.default_rng(7).integers(0, 256, (height // 4 + 2, width // 4 + 40, 3), np.uint8)
    image = texture.repeat(4, 0).repeat(4, 1)[:height, 2 * (number % 60) : 2 * (number % 60) + width].astype(np.int16)
    top, left = 7 * number % (height - 12), 11 * number % (width - 12)
    image[top : top + 12, left : left + 12] = 37 * number % 256, 91 * number % 256, 255 - 37 * number % 256
    return np.clip(image + np.random.default_rng(number).integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


def write(path: Path, clip: Clip) -> Path:
    """Encodes a clip; the container is that of the extension."""
    with av.open(str(path), "w", options=dict(clip.mux)) as container:
        stream = _add_stream(container, clip.codec, clip.pix_fmt, clip.size, clip.options)
        time_base = Fraction(1, 25 if clip.times is None else 1000)
        stream.codec_context.time_base = time_base
        if clip.rotation:
            stream.set_display_rotation(clip.rotation)
        beside = _packets_beside(container, clip)
        packets = []
        for number in range(clip.frames):
            frame = av.VideoFrame.from_ndarray(picture(number, clip.size), format="rgb24")
            frame.pts, frame.time_base = number if clip.times is None else clip.times[number], time_base
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            offset = round(clip.shift / (25 * packet.time_base))
            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
            container.mux(packet)
            container.mux(beside.pop(0) if beside else [])
        container.mux(beside)
    return path


def _add_stream(container, codec: str, pix_fmt: str, size: tuple[int, int], options: dict[str, str]):
    stream = container.add_stream(codec, rate=25, options=dict(options))
    (stream.height, stream.width), stream.pix_fmt = size, pix_fmt
    stream.codec_context.thread_count = 1
    return stream


def _packets_beside(container, clip: Clip) -> list:
    """The packets of the stream beside the video."""
    if clip.extra == "audio":
        stream = container.add_stream("mp2" if container.format.name == "mpegts" else "aac", rate=44100, layout="mono")
        stream.codec_context.open()
        length, packets = stream.codec_context.frame_size, []
        for number in range(20):
            sound = np.zeros((1, length), np.float32 if stream.codec_context.format.name == "fltp" else np.int16)
            frame = av.AudioFrame.from_ndarray(sound, format=stream.codec_context.format.name, layout="mono")
            frame.rate, frame.pts = 44100, length * number
            packets += stream.encode(frame)
        return packets + stream.encode()
    if clip.extra:
        codec, frames = ("mjpeg", 1) if clip.extra == "cover" else ("mpeg4", clip.frames - 10)
        stream = _add_stream(container, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p", (32, 32), {})
        if clip.extra == "cover":
            stream.disposition = av.stream.Disposition.attached_pic
        packets = []
        for number in range(frames):
            packets += stream.encode(av.VideoFrame.from_ndarray(picture(number, (32, 32)), format="rgb24"))
        return packets + stream.encode()
    return []


class Decoded(NamedTuple):
    """Frames of plain decoding in order.

    Args:
        frames: uint8 `(height, width, 3)`, upright.
        times: in seconds, None if not stated.
        noticed: whether FFmpeg reported an error, or marked a frame as corrupt, since the keyframe before this frame.
    """

    frames: list[np.ndarray]
    times: list[float | None]
    noticed: list[bool]


def decode_in_order(path: Path, options: dict[str, str] | None = None, restarts: bool = False) -> Decoded:
    """Decodes FFmpeg's best stream; errors are passed over, as FFmpeg's own program does.

    Args:
        options: of the decoder.
        restarts: after an error, empty the decoder at the next keyframe of the container, without which some decoders
            show nothing more.
    """
    frames, times = [], []
    origins, keys, restart = [], [], 0  # number of the packet of each frame, and of its key frame
    packet_times, errors = [], set()
    for number, packet_time, decoded, has_error, is_restart in _decoded_packets(path, options or {}, restarts):
        packet_times.append(packet_time)
        errors |= {number} if has_error else set()
        restart = number if is_restart else restart
        for frame, image, time in decoded:
            times.append(time)
            frames.append(image)
            # without times, the frames are in the order of the packets but for the delay of reordering
            is_known = time is not None and time in packet_times
            origins.append(packet_times.index(time) if is_known else min(number, len(frames) - 1))
            key = origins[-1] if frame.key_frame or not keys else keys[-1]
            keys.append(max(key, min(restart, origins[-1])))
            errors |= {origins[-1]} if frame.is_corrupt else set()
    # an error in a frame that no other one refers to concerns this frame alone
    needed = _decoded_packets(path, options or {}, restarts, skip="NONREF")
    lasting = {number for number, _, _, has_error, _ in needed if has_error}
    noticed = []
    for key, origin in zip(keys, origins, strict=True):
        way = {error for error in errors & (lasting | {origin}) if key <= error <= origin}
        if None not in packet_times[:-1] and packet_times[origin] >= packet_times[key]:
            way = {error for error in way if packet_times[error] >= packet_times[key]}  # not a leading picture
        noticed.append(bool(way))
    return Decoded(frames, times, noticed)


def _decoded_packets(path: Path, options: dict[str, str], restarts: bool, skip: str = "DEFAULT"):
    """Number and time of each packet, the frames that it completes with their pictures and times, whether FFmpeg
    reports an error, and whether the decoder was emptied before it."""
    with av.open(str(path), metadata_errors="replace") as container:
        pictures = [stream for stream in container.streams.video if not stream.disposition & _COVER]
        best = container.streams.best("video")
        stream = best if best in pictures else pictures[0]
        codec, packets = stream.codec_context, container.demux(stream)
        codec.thread_count, codec.options, codec.skip_frame = 1, options, skip
        failed = False
        for number in itertools.count():
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return
            if is_restart := restarts and failed and packet.is_keyframe and packet.size > 0:
                codec.flush_buffers()
                failed = False
            decoded, has_error = [], packet.is_corrupt
            try:
                decoded = codec.decode(packet if packet.size else None)
            except av.error.EOFError:
                pass
            except av.error.FFmpegError:
                has_error = True
            failed = failed or has_error
            images = [_picture(frame, stream) for frame in decoded]
            yield number, _seconds(packet, stream), images, has_error, is_restart


def _picture(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[av.VideoFrame, np.ndarray, float | None]:
    # one scaling thread: by default every frame starts a thread pool
    image = frame.reformat(stream.width, stream.height, "rgb24", threads=1).to_ndarray()
    return frame, np.rot90(image, frame.rotation // 90), _seconds(frame, stream)


def _seconds(timed: av.Packet | av.VideoFrame, stream: av.VideoStream) -> float | None:
    return None if timed.pts is None else float(timed.pts * stream.time_base)


_COVER = av.stream.Disposition.attached_pic
