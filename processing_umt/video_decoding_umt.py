"""Exactly the frames asked for, out of a video file or stream, with PyAV (input of UMT, arXiv 2303.16058).

A video is opened, its packets are scanned once without decoding for presentation times and keyframes, and `read`
decodes as little as it can: it starts at the last keyframe from which a wanted frame can be reached, jumps only where
a later keyframe is nearer, leaves out non-reference frames that nobody asked for, and drains the decoder instead of
feeding it more packets. The frames are those that decoding the whole file in order shows, bit for bit.

What surprises: frames are counted in presentation order; packets that an edit list hides are decoded but have no
index; leading pictures of an open group need the keyframe before theirs; and where a container stores no usable
presentation times (AVI with reordered frames, raw streams, field-coded pictures …) the frames are counted by decoding
once, for nothing else tells how many there are. One FFmpeg thread: data loaders run many readers side by side.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from transformers.utils import is_av_available

from .video_source_umt import VideoDecodeError, VideoSource

if is_av_available():
    import av

_KEPT_BYTES = 32 << 20  # packets of smaller videos stay in memory between scan and decoding
_MAX_EMPTY_VOP = 19  # MPEG-4 part 2: a packet up to this size may stand for a frame that is not shown
_NEAR = 64  # packets: reading on over so many is cheaper than a seek
_MAX_REORDERED = 16  # no codec holds more frames back than this


class VideoReader:
    """Random access to the frames of one video. A context manager; not to be shared between threads.

    Args:
        video: path (`str` or `Path`), http(s) URL, `bytes`, or a seekable binary file object.

    Attributes:
        num_frames (`int`): number of frames that decoding in order shows; for a truncated file, the number it had.
        fps (`float`): average frame rate, per second.
        duration (`float`): `num_frames / fps`, seconds.
        timestamps (`np.ndarray`): float64 `(num_frames,)`, presentation time of each frame in seconds, as stored (the
            first need not be 0); NaN for the frames that a truncated file has lost.
        height, width (`int`): size of a frame in pixels as displayed, that is after rotation.

    Raises:
        VideoDecodeError: if the video can't be opened or has no frames; also raised by `read`.
    """

    def __init__(self, video: str | os.PathLike | bytes | BinaryIO):
        self._source = VideoSource(video)
        self._container = None
        self._reformatter = av.video.reformatter.VideoReformatter()
        try:
            self._open()
            self._scan()
        except (av.error.FFmpegError, EOFError) as error:
            self.close()
            raise VideoDecodeError(self._source.name, "decode", str(error)) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        self._packets = None
        if self._container is not None:
            self._container.close()
        self._source.close()

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames at `indices`, in the order given.

        Args:
            indices: frame numbers in `[0, num_frames)`, in any order, repeats allowed.

        Returns:
            uint8 `(len(indices), height, width, 3)`, RGB, rotated as the file asks for.

        Raises:
            ValueError: for an index outside the video.
            VideoDecodeError: "truncated" or "decode", if a wanted frame is not readable.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        if indices.size and (indices.min() < 0 or indices.max() >= self.num_frames):
            raise ValueError(
                f"{self._source.name}: frames {indices.min()} to {indices.max()} are asked for, but the video has "
                f"frames 0 to {self.num_frames - 1}."
            )
        wanted = np.unique(indices)
        lost = wanted[wanted >= self._num_readable]
        if lost.size:
            raise VideoDecodeError(
                self._source.name,
                "truncated",
                f"frames from {lost[0]} on are wanted, {self._num_readable} are readable",
            )
        slots = {int(index): np.flatnonzero(indices == index) for index in wanted}
        frames = None
        for index, frame in self._decode(wanted):
            image = self._to_rgb(frame)
            if frames is None:
                frames = np.empty((len(indices), *image.shape), dtype=np.uint8)
            frames[slots[index]] = image
        if frames is None:
            return np.empty((0, *self._displayed_size, 3), dtype=np.uint8)
        self._displayed_size = frames.shape[1:3]
        return frames

    @property
    def height(self) -> int:
        return self._displayed_size[0]

    @property
    def width(self) -> int:
        return self._displayed_size[1]

    @functools.cached_property
    def _displayed_size(self) -> tuple[int, int]:
        return self.read([0]).shape[1:3]

    def _open(self) -> None:
        """(Re)opens the container at its beginning, with a fresh decoder."""
        if self._container is not None:
            self._container.close()
        self._container = self._source.open_container()
        pictures = av.stream.Disposition.attached_pic  # cover art is no video
        streams = [stream for stream in self._container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise VideoDecodeError(self._source.name, "truncated" if self._source.is_cut() else "no_video_stream")
        self._stream = streams[0]
        for stream in self._container.streams:
            if stream is not self._stream:
                stream.discard = av.stream.Discard.all
        self._codec = self._stream.codec_context
        if self._codec is None:
            raise VideoDecodeError(self._source.name, "decode", "there is no decoder for its codec")
        self._codec.thread_count = 1
        self._size = self._codec.height, self._codec.width
        self._demuxer, self._position = self._container.demux(self._stream), 0

    def _scan(self) -> None:
        """Reads all packets once and lays out the table of frames."""
        packets, pts, dts, keys, hidden = [], [], [], [], []
        kept_bytes, smallest, is_corrupt, has_one_setup = 0, 1 << 62, False, True
        try:
            for packet in self._demuxer:
                if (size := packet.size) == 0:  # the end marker, or an empty chunk for a dropped frame
                    continue
                pts.append(packet.pts)
                dts.append(packet.dts)
                keys.append(packet.is_keyframe)
                hidden.append(packet.is_discard)
                is_corrupt = packet.is_corrupt
                if len(pts) > 1 and packet.has_sidedata("new_extradata"):
                    has_one_setup = False
                smallest = min(smallest, size)
                kept_bytes += size
                if kept_bytes <= _KEPT_BYTES:
                    packets.append(packet)
        except av.error.FFmpegError:
            pass  # the rest of the file can't be read: as if it ended here
        # the file ends in the middle of this packet (in a transport stream, it may just have been received badly)
        ends_corrupt = is_corrupt and self._container.format.name != "mpegts"
        if ends_corrupt:
            for column in (pts, dts, keys, hidden):
                column.pop()
        is_cut = ends_corrupt or self._source.is_cut()
        if not pts:
            raise VideoDecodeError(self._source.name, "truncated" if is_cut else "no_frames")
        self._num_packets = self._position = len(pts)
        # a decoder that has seen a second set-up must be made anew, which reading from the file again does
        self._packets = packets[: len(pts)] if kept_bytes <= _KEPT_BYTES and has_one_setup else None
        self._can_skip = _non_reference_frames_can_be_skipped(self._codec)
        num_lost = self._num_lost(is_cut)

        shown = np.flatnonzero(~np.array(hidden))
        if self._times_are_reliable(pts, dts, keys, shown, smallest):
            # a new set-up of the decoder must not be jumped over
            self._keys = np.flatnonzero(keys) if has_one_setup else np.array([0])
            self._pts, self._dts = np.array(pts), dts
            self._order = shown[np.argsort(self._pts[shown])]  # index of a frame -> number of its packet
            times = self._pts[self._order]
        else:
            self._order = None
            times = [frame.pts for frame in self._all_frames()]
        if len(times) == 0:
            raise VideoDecodeError(self._source.name, "no_frames")
        self.num_frames, self._num_readable = len(times) + num_lost, len(times)
        if num_lost and self._order is not None and dts[-1] is not None:
            # the frame of a lost packet is shown after the decoding time of the last packet there is
            self._num_readable = int((times <= dts[-1]).sum())
        elif num_lost and self._codec.has_b_frames:
            self._num_readable = max(len(times) - _MAX_REORDERED, 0)
        self._set_clock(times)

    def _num_lost(self, is_cut: bool) -> int:
        """Number of frames that a truncated file has lost: known for MP4 and AVI, else estimated from the duration."""
        if self._container.format.name.startswith("mov"):
            entries = self._stream.index_entries
            is_complete = len(entries) <= self._num_packets
            return 0 if is_complete else max(sum(entry.size > 0 for entry in entries) - self._num_packets, 0)
        if not is_cut:
            return 0
        seconds = (self._container.duration or 0) / av.time_base
        expected = self._stream.frames or round(seconds * (self._stream.average_rate or 0))
        return max(expected - self._num_packets, 1)

    def _times_are_reliable(self, pts: list, dts: list, keys: list, shown: np.ndarray, smallest: int) -> bool:
        """Whether every packet that is not hidden is one frame, and their presentation times are its order."""
        codec, reorders = self._codec.name, self._codec.has_b_frames
        if None in pts or len(set(pts)) < len(pts):
            return False  # AVI with reordered frames, raw streams
        if reorders and all(earlier < later for earlier, later in itertools.pairwise(pts)):
            return False  # a careless muxer stored the order of decoding, unless nothing is reordered after all
        known = [time for time in dts if time is not None]
        if any(later < earlier for earlier, later in itertools.pairwise(known)):
            return False  # joined recordings
        if not keys[0] or any(pts[packet] < pts[0] for packet in shown):
            return False  # begins in the middle of a group: the decoder shows what it can
        if codec in ("h264", "hevc") and self._codec.field_order > 1:
            return False  # a packet may be a single field
        if codec == "mpeg4":
            return smallest > _MAX_EMPTY_VOP
        return codec != "vp8"  # which has packets of frames that are never shown

    def _set_clock(self, times: Sequence[int | None]) -> None:
        """Sets `fps`, `duration` and `timestamps` from presentation times in units of the stream's time base."""
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 1)
        if None not in times and all(earlier < later for earlier, later in itertools.pairwise(times)):
            seconds = np.array(times) * float(self._stream.time_base)
            if len(times) > 1:
                measured = (len(times) - 1) / (seconds[-1] - seconds[0])
                # the stated rate is exact where times are rounded, but wrong where the frame rate varies
                rate = rate if abs(rate / measured - 1) < 0.01 else measured
        else:
            seconds = np.arange(len(times)) / rate
        self.fps, self.duration = float(rate), float(self.num_frames / rate)
        self.timestamps = np.full(self.num_frames, np.nan)
        self.timestamps[: len(times)] = seconds

    def _decode(self, wanted: np.ndarray) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """The frames at the ascending indices `wanted`, in any order."""
        missing = {int(index) for index in wanted}
        if self._order is None:
            for index, frame in enumerate(self._all_frames() if missing else ()):
                if index in missing:
                    missing.remove(index)
                    yield index, frame
                if not missing:
                    break
        else:
            groups: dict[int, list[int]] = {}
            for index in missing:
                groups.setdefault(self._entry(index), []).append(index)
            for entry, group in sorted(groups.items()):
                for index, frame in self._decode_group(entry, group, self._can_skip):
                    missing.remove(index)
                    yield index, frame
            if missing:  # a keyframe that is none (gradual refresh): from the beginning and with every frame
                for index, frame in self._decode_group(0, sorted(missing), False):
                    missing.remove(index)
                    yield index, frame
        if missing:
            raise VideoDecodeError(self._source.name, "decode", f"no picture comes out for frame {min(missing)}")

    def _entry(self, index: int) -> int:
        """Number of the last keyframe packet from which the frame can be decoded: not after it in decoding order, and
        not shown after it either, for a leading picture of an open group needs the group before."""
        packet = self._order[index]
        keys = self._keys[: np.searchsorted(self._keys, packet, side="right")]
        return int(keys[self._pts[keys] <= self._pts[packet]][-1])

    def _decode_group(self, entry: int, indices: list[int], skip: bool) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """Decodes from packet `entry` to the last packet that `indices` need. With `skip`, non-reference frames are
        decoded only if they are wanted."""
        indices_by_time = {int(self._pts[self._order[index]]): index for index in indices}
        last = int(self._order[indices].max())
        self._codec.flush_buffers()
        self._codec.skip_frame = "DEFAULT"
        for number, packet in self._packets_from(entry):
            if skip:
                self._codec.skip_frame = "DEFAULT" if packet.pts in indices_by_time else "NONREF"
            frames = self._decode_packet(packet)
            if number == last:
                frames += self._decode_packet(None)
            for frame in frames:
                index = indices_by_time.pop(frame.pts, None)
                if index is not None:
                    yield index, frame
            if number == last:
                break

    def _all_frames(self) -> Iterator["av.VideoFrame"]:
        """All frames in the order in which the decoder shows them."""
        self._codec.flush_buffers()
        for _, packet in self._packets_from(0):
            yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: "av.Packet | None") -> list["av.VideoFrame"]:
        try:
            return self._codec.decode(packet)
        except av.error.FFmpegError:
            return []  # damaged: what is missing in the end is reported by frame

    def _packets_from(self, start: int) -> Iterator[tuple[int, "av.Packet"]]:
        """Numbers and packets from number `start` on: from memory, or else from the file."""
        if self._packets is not None:
            yield from enumerate(itertools.islice(self._packets, start, None), start)
            return
        if not self._position <= start <= self._position + _NEAR:
            self._seek(start)
        for packet in self._demuxer:
            if packet.size == 0:
                continue
            number, self._position = self._position, self._position + 1
            if number >= self._num_packets:
                break
            if number >= start:
                yield number, packet

    def _seek(self, start: int) -> None:
        """Moves the demuxer to packet `start` or before; to the beginning where the container can't do better."""
        if start > 0:
            # MPEG streams have no index: FFmpeg searches them by decoding time
            by_decoding = self._container.format.name.startswith("mpeg") and self._dts[start] is not None
            time = self._dts[start] if by_decoding else self._pts[start]
            try:
                self._container.seek(int(time), stream=self._stream)
                demuxer = self._container.demux(self._stream)
                first = next(packet for packet in demuxer if packet.size or packet.pts is None)
            except av.error.FFmpegError:
                first = None
            landed = np.flatnonzero(self._pts[: start + 1] == first.pts) if first is not None else ()
            if len(landed):
                self._demuxer, self._position = itertools.chain([first], demuxer), int(landed[0])
                return
        self._open()

    def _to_rgb(self, frame: "av.VideoFrame") -> np.ndarray:
        """uint8 (height, width, 3), upright. A frame of another size than the stream's is scaled to it."""
        height, width = self._size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        image = (
            np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, : 3 * width].reshape(height, width, 3)
        )
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return image if matrix is None else _turn_upright(image, np.frombuffer(matrix, np.int32))


def _turn_upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies the mirroring and the multiples of 90 degrees of a display matrix, nine fixed-point numbers that map
    (x, y) to (a x + c y, b x + d y): `image` is (height, width, 3) and so is the result."""
    a, b, _, c, d = matrix[:5].tolist()
    if abs(a) >= abs(b):
        columns, rows = a, d
    else:
        image, columns, rows = image.swapaxes(0, 1), c, b
    return image[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]


def _non_reference_frames_can_be_skipped(codec: "av.VideoCodecContext") -> bool:
    """Whether the decoder can tell frames that no other frame needs, and leave them out packet by packet."""
    if codec.name == "hevc":
        # such frames may serve higher temporal layers, so there must be one layer: five bits into byte 21 of hvcC
        extradata = codec.extradata or b""
        return len(extradata) > 22 and extradata[0] == 1 and extradata[21] >> 3 & 7 == 1
    return codec.name in ("h264", "mpeg4", "mpeg2video")
