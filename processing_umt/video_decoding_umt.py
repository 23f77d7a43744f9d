"""Exact random access to the frames of a video file or stream with PyAV.

A video is opened and its packets are scanned once, without decoding, for presentation times and entries (keyframes
from which decoding is exact). `read` then decodes as little as possible: it starts at the last entry from which a
requested frame can be decoded, seeks only if a later entry is nearer, skips non-reference frames that were not
requested, and drains the decoder instead of feeding it more packets. The frames are bit for bit those of decoding the
complete file in order.

Damage is never concealed: a frame is an error if the decoder reports an error in it or in a packet decoded on the way
to it. Damage that no decoder can detect remains undetected, such as a flipped bit in the entropy-coded data of VP9.

Unusual: frames are counted in presentation order; packets hidden by an edit list are decoded but have no index;
leading pictures of an open GOP need the keyframe before theirs; of several streams, FFmpeg's best one is read, never
cover art; and where a container does not store usable presentation times (AVI with reordered frames, raw streams,
field-coded pictures …) the frames are counted by decoding them once, since nothing else gives their number. Decoding
uses one FFmpeg thread, because data loaders run many readers in parallel.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from transformers.utils import is_av_available

from .random_access_umt import (
    is_entry,
    keyframes_are_unknown,
    non_reference_frames_can_be_skipped,
    times_are_reliable,
)
from .video_source_umt import MAX_PIXELS, VideoDecodeError, VideoSource, best_stream

if is_av_available():
    import av

_KEPT_BYTES = 32 << 20  # packets of smaller videos are kept in memory between scan and decoding
_NEAR = 64  # packets: reading over this many is cheaper than a seek
_MAX_REORDERED = 16  # the largest reordering delay of any codec, in frames
# report errors that FFmpeg would decode around: in checksums, in the length of the data, in syntax. The decoder of
# H.264 marks concealed frames instead, and strictly it would reject a reference that is absent after random access.
_STRICT = {"err_detect": "crccheck+buffer+explode"}
_MIN_FRAME_BYTES = 16  # with the header of its packet; bounds the number of frames that a header may state
_NUM_SAMPLED_GROUPS = 4  # groups that decide whether a stream breaks its format everywhere


class VideoReader:
    """Random access to the frames of one video. A context manager; not thread-safe.

    Args:
        video: path (`str` or `Path`), http(s) URL, `bytes`, or a seekable binary file object.

    Attributes:
        num_frames (`int`): number of frames that decoding in order yields; for a truncated file, that of the complete
            video.
        fps (`float`): average frame rate in frames per second.
        duration (`float`): `num_frames / fps`, in seconds.
        timestamps (`np.ndarray`): float64 `(num_frames,)`, presentation time of each frame in seconds, as stored (the
            first may differ from 0); NaN for the frames missing from a truncated file.
        height, width (`int`): size of a displayed frame in pixels, that is after rotation.

    Raises:
        VideoDecodeError: if the video can't be opened or has no frames; also raised by `read`.
    """

    def __init__(self, video: str | os.PathLike | bytes | BinaryIO):
        self._source = VideoSource(video)
        self._container = None
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._is_strict = True
        try:
            self._open()
            self._scan()
        except (av.error.FFmpegError, OSError) as error:
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
            indices: frame indices in `[0, num_frames)`, in any order, repeats allowed.

        Returns:
            uint8 `(len(indices), height, width, 3)`, RGB, rotated as the file specifies.

        Raises:
            ValueError: for an index outside the video.
            VideoDecodeError: "truncated" or "decode", if a requested frame is not readable.
        """
        indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        requested = self._requested(indices)
        slots = {int(index): np.flatnonzero(indices == index) for index in requested}
        frames = None
        try:
            for index, frame in self._decode(requested):
                image = self._to_rgb(frame)
                if frames is None:
                    frames = np.empty((len(indices), *image.shape), dtype=np.uint8)
                frames[slots[index]] = image
        except (av.error.FFmpegError, OSError) as error:  # the file can't be read or decoded further
            raise VideoDecodeError(self._source.name, "decode", str(error)) from error
        if frames is None:
            return np.empty((0, *self._displayed_size, 3), dtype=np.uint8)
        self._displayed_size = frames.shape[1:3]
        return frames

    def iterate(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The frames at `indices` one after the other, in ascending order and each once, decoded in a single pass.

        Only the frame that is yielded is in memory. Nothing else may be read from this reader during the iteration.

        Args:
            indices: frame indices in `[0, num_frames)`, in any order.

        Yields:
            Index and frame, uint8 `(height, width, 3)`, as `read` returns it.

        Raises:
            ValueError: for an index outside the video.
            VideoDecodeError: as `read`; damage may be reported only after frames that it concerns.
        """
        remaining = self._requested(np.asarray(indices, dtype=np.int64).reshape(-1))
        try:
            if self._order is not None and self._codec.name != "h264":
                self._breaks_its_format()  # decides how to decode, which must not change after the first frames
            while remaining.size:
                for index, frame in self._decode(remaining):
                    if index != remaining[0]:
                        break  # one that only decoding from the beginning yields
                    yield index, self._to_rgb(frame).copy()
                    remaining = remaining[1:]
                if remaining.size:
                    yield int(remaining[0]), self.read(remaining[:1])[0]
                    remaining = remaining[1:]
        except (av.error.FFmpegError, OSError) as error:
            raise VideoDecodeError(self._source.name, "decode", str(error)) from error

    def _requested(self, indices: np.ndarray) -> np.ndarray:
        """The indices ascending and each once, which must be readable."""
        if indices.size and (indices.min() < 0 or indices.max() >= self.num_frames):
            raise ValueError(
                f"{self._source.name}: frames {indices.min()} to {indices.max()} were requested, but the video has "
                f"frames 0 to {self.num_frames - 1}."
            )
        requested = np.unique(indices)
        lost = requested[requested >= self._num_readable]
        if lost.size:
            raise VideoDecodeError(
                self._source.name,
                "truncated",
                f"frame {lost[0]} was requested, the first {self._num_readable} frames are readable",
            )
        return requested

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
        self._stream = best_stream(self._container)
        if self._stream is None:
            reason = "truncated" if self._source.is_truncated() else "no_video_stream"
            raise VideoDecodeError(self._source.name, reason)
        for stream in self._container.streams:
            if stream is not self._stream:
                stream.discard = av.stream.Discard.all
        self._codec = self._stream.codec_context
        if self._codec is None:
            raise VideoDecodeError(self._source.name, "decode", "its codec has no decoder")
        self._codec.thread_count = 1
        strict = _STRICT if self._is_strict and self._codec.name != "h264" else {}
        self._codec.options = {"max_pixels": str(MAX_PIXELS), **strict}
        self._size = self._codec.height, self._codec.width
        self._demuxer, self._position = self._container.demux(self._stream), 0

    def _scan(self) -> None:
        """Reads all packets once and builds the table of frames."""
        packets, pts, dts, entries, hidden, marked = [], [], [], [], [], []
        kept_bytes, smallest, has_one_setup = 0, 1 << 62, True
        codec, extradata = self._codec.name, self._codec.extradata or b""
        try:
            for packet in self._demuxer:
                if (size := packet.size) == 0:  # the end marker, or an empty chunk for a dropped frame
                    continue
                pts.append(packet.pts)
                dts.append(packet.dts)
                entries.append(packet.is_keyframe and is_entry(codec, extradata, bytes(packet)))
                hidden.append(packet.is_discard)
                marked.append(packet.is_corrupt)
                if len(pts) > 1 and packet.has_sidedata("new_extradata"):
                    has_one_setup = False
                smallest = min(smallest, size)
                kept_bytes += size
                if kept_bytes <= _KEPT_BYTES:
                    packets.append(packet)
        except (av.error.FFmpegError, OSError):
            pass  # the rest can't be read: treated as the end of the file
        # the file ends within this packet (in a transport stream, it may be a transmission error)
        ends_corrupt = bool(marked) and marked[-1] and self._container.format.name != "mpegts"
        is_truncated = ends_corrupt or self._source.is_truncated()
        # in GIF and NUT, FFmpeg does not mark the last packet, which may be incomplete
        if pts and (ends_corrupt or (is_truncated and self._container.format.name in ("gif", "nut"))):
            for column in (pts, dts, entries, hidden, marked):
                column.pop()
        if not pts:
            raise VideoDecodeError(self._source.name, "truncated" if is_truncated else "no_frames")
        self._num_packets = self._position = len(pts)
        # a decoder that has seen new parameter sets must be created again, which reading from the file does
        self._packets = packets[: len(pts)] if kept_bytes <= _KEPT_BYTES and has_one_setup else None
        self._can_skip = non_reference_frames_can_be_skipped(codec, extradata)
        is_unknown = keyframes_are_unknown(codec, self._codec.codec.intra_only, entries)
        self._entries = np.array([0]) if is_unknown else np.union1d([0], np.flatnonzero(entries))
        self._starts_with_entry = bool(entries[0])
        self._lost = self._first_lost(np.flatnonzero(marked))
        self._has_one_setup = has_one_setup
        num_lost = self._num_lost(is_truncated)

        shown = np.flatnonzero(~np.array(hidden))
        reorders, has_fields = bool(self._codec.has_b_frames), self._codec.field_order > 1
        if times_are_reliable(pts, dts, entries, shown, smallest, codec, reorders, has_fields):
            self._pts, self._dts = np.array(pts), dts
            self._order = shown[np.argsort(self._pts[shown])]  # frame index -> packet index
            times = self._pts[self._order]
        else:
            self._order = None
            times = self._count()
        if len(times) == 0:
            raise VideoDecodeError(self._source.name, "no_frames")
        self.num_frames, self._num_readable = len(times) + num_lost, len(times)
        if num_lost and self._order is not None and dts[-1] is not None:
            # the frame of a lost packet is shown after the decoding time of the last packet present
            self._num_readable = int((times <= dts[-1]).sum())
        elif num_lost and self._codec.has_b_frames:
            self._num_readable = max(len(times) - _MAX_REORDERED, 0)
        self._set_clock(times)

    def _num_lost(self, is_truncated: bool) -> int:
        """Number of frames missing from a truncated file: known for MP4 and AVI, else estimated from the duration."""
        if self._container.format.name.startswith("mov"):
            entries = self._stream.index_entries
            is_complete = len(entries) <= self._num_packets
            return 0 if is_complete else max(sum(entry.size > 0 for entry in entries) - self._num_packets, 0)
        if not is_truncated:
            return 0
        seconds = (self._container.duration or 0) / av.time_base
        expected = self._stream.frames or round(seconds * (self._stream.average_rate or 0))
        # a header may state anything
        return max(min(expected, self._source.size // _MIN_FRAME_BYTES) - self._num_packets, 1)

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

    def _decode(self, indices: np.ndarray) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """Pairs of index and frame for the ascending `indices`, in any order."""
        missing = {int(index) for index in indices}
        if self._order is None:
            if (broken := indices[self._is_broken[indices]]).size:
                raise self._damage(int(broken[0]))
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
                    missing.discard(index)  # a group is decoded twice if the stream breaks its format everywhere
                    yield index, frame
            if missing:  # a false keyframe: decode every frame from the beginning
                for index, frame in self._decode_group(0, sorted(missing), False):
                    missing.discard(index)
                    yield index, frame
        if missing:
            raise VideoDecodeError(self._source.name, "decode", f"the decoder returned no frame {min(missing)}")

    def _damage(self, index: int) -> VideoDecodeError:
        return VideoDecodeError(self._source.name, "decode", f"the data of frame {index} are damaged")

    def _entry(self, index: int) -> int:
        """Index of the packet at which decoding starts for a frame."""
        # new parameter sets must not be skipped
        return self._last_entry(self._order[index]) if self._has_one_setup else 0

    def _last_entry(self, packet: int) -> int:
        """Index of the last entry from which a packet can be decoded. It is neither decoded nor shown after the
        packet: a leading picture of an open GOP needs the previous GOP."""
        entries = self._entries[: np.searchsorted(self._entries, packet, side="right")]
        return int(entries[self._pts[entries] <= self._pts[packet]][-1])

    def _decode_group(self, entry: int, indices: list[int], skip: bool) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """Decodes from packet `entry` to the last packet needed for `indices`. With `skip`, non-reference frames are
        decoded only if requested. Raises the error of a damaged frame after the frames, as the decoder reports damage
        with the frame, which it may show after others that refer to it."""
        indices_by_time = {int(self._pts[self._order[index]]): index for index in indices}
        last, damaged = int(self._order[indices].max()), []
        self._codec.flush_buffers()
        self._codec.skip_frame = "DEFAULT"
        for number, packet in self._packets_from(entry):
            if skip:
                self._codec.skip_frame = "DEFAULT" if packet.pts in indices_by_time else "NONREF"
            frames, has_error = self._decode_packet(packet)
            if has_error or number in self._lost:
                damaged.append(number)
            if number == last:
                drained, has_error = self._decode_packet(None)
                frames += drained
                if has_error:
                    damaged.append(last)
            for frame in frames:
                if frame.is_corrupt:
                    damaged += np.flatnonzero(self._pts == frame.pts).tolist()
                index = indices_by_time.pop(frame.pts, None)
                if index is not None:
                    yield index, frame
            if number == last:
                break
        broken = [index for index in indices if self._depends_on(self._order[index], damaged)]
        if broken and self._breaks_its_format():
            yield from self._decode_group(entry, indices, skip)
        elif broken:
            raise self._damage(min(broken))

    def _depends_on(self, packet: int, damaged: list[int]) -> bool:
        """Whether a damaged packet is decoded on the way to `packet`. Leading pictures of the entry are not."""
        entry = self._last_entry(packet)
        return any(entry <= other <= packet and self._pts[other] >= self._pts[entry] for other in damaged)

    def _first_lost(self, marked: np.ndarray) -> set[int]:
        """The first packets that lost data may affect, from those that the demuxer marks."""
        if self._container.format.name != "mpegts":
            return {int(number) for number in marked}
        # found while the next packet is assembled. Where recordings are joined, that one is complete and an entry
        # follows; else the decoder reports what is missing in it
        return {int(number) + 1 for number in marked if number + 2 not in self._entries}

    def _breaks_its_format(self) -> bool:
        """Whether the errors are a property of the stream: strict decoding fails in every group. The stream is then
        decoded as FFmpeg decodes it by default."""
        if not self._is_strict or len(self._entries) == 1:
            return False
        sample = self._entries[np.linspace(0, len(self._entries) - 1, _NUM_SAMPLED_GROUPS).astype(int)]
        for entry in np.unique(sample):
            self._codec.flush_buffers()
            self._codec.skip_frame = "DEFAULT"
            position = np.searchsorted(self._entries, entry, side="right")
            end = self._entries[position] if position < len(self._entries) else self._num_packets
            if not any(
                self._decode_packet(packet)[1]
                for _, packet in itertools.islice(self._packets_from(int(entry)), int(end - entry))
            ):
                return False
        self._is_strict = False
        self._open()
        return True

    def _count(self) -> list[int | None]:
        """Decodes all frames once, for their number and times, and marks those that damage may have changed."""
        times, shown_before, errors, corrupt, keys = self._decode_all()
        if errors:  # strict decoding drops frames, which would shift the indices of those after them
            is_property, self._is_strict = self._breaks_its_format(), False
            self._open()
            times, shown_before, tolerated, corrupt, keys = self._decode_all()
            errors = tolerated if is_property else [*errors, *tolerated]
        # the packet of a corrupt frame is uncertain by the reordering delay
        delay = min(max(number - shown for number, shown in enumerate(shown_before)), _MAX_REORDERED)
        is_complete = len(times) == self._num_packets
        damaged = [(number, number) for number in errors] + [(index - delay, index + delay) for index in corrupt]
        self._is_broken = np.zeros(len(times), dtype=bool)
        for earliest, latest in damaged:
            later = self._entries[self._entries > latest]
            # the frame of the next entry ends the damage, as leading pictures before it need the damaged group; but if
            # a frame is lost, the indices after it are uncertain
            ends = [index for index in keys if later.size and is_complete and index >= later[0]]
            self._is_broken[shown_before[max(earliest, 0)] : ends[0] if ends else len(times)] = True
        return times

    def _decode_all(self) -> tuple[list[int | None], list[int], list[int], list[int], list[int]]:
        """Times of all frames, number of frames shown before each packet, packets with errors, corrupt frames, key
        frames. In a stream that starts within a group, the errors before its first frame are not damage."""
        times, shown_before, errors, corrupt, keys = [], [], [], [], []
        self._codec.flush_buffers()
        for number, packet in itertools.chain(self._packets_from(0), [(self._num_packets, None)]):
            shown_before.append(len(times))
            frames, has_error = self._decode_packet(packet)
            if times or frames or self._starts_with_entry:
                errors += [number] if has_error or number in self._lost else []
                corrupt += [len(times) + position for position, frame in enumerate(frames) if frame.is_corrupt]
            keys += [len(times) + position for position, frame in enumerate(frames) if frame.key_frame]
            times += [frame.pts for frame in frames]
        return times, shown_before, errors, corrupt, keys

    def _all_frames(self) -> Iterator["av.VideoFrame"]:
        """All frames in the order in which a new decoder shows them."""
        self._open()
        for _, packet in self._packets_from(0):
            yield from self._decode_packet(packet)[0]
        yield from self._decode_packet(None)[0]

    def _decode_packet(self, packet: "av.Packet | None") -> tuple[list["av.VideoFrame"], bool]:
        """The frames that a packet completes, and whether the decoder reports an error."""
        try:
            return self._codec.decode(packet), False
        except av.error.FFmpegError:
            return [], True

    def _packets_from(self, start: int) -> Iterator[tuple[int, "av.Packet"]]:
        """Pairs of index and packet from packet `start` on, read from memory or from the file."""
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
        """Moves the demuxer to packet `start` or an earlier one; to the beginning if the container can't seek."""
        if start > 0:
            # MPEG streams have no index; FFmpeg searches them by decoding time
            by_decoding = self._container.format.name.startswith("mpeg") and self._dts[start] is not None
            time = self._dts[start] if by_decoding else self._pts[start]
            try:
                self._container.seek(int(time), stream=self._stream)
                demuxer = self._container.demux(self._stream)
                first = next(packet for packet in demuxer if packet.size or packet.pts is None)
            except (av.error.FFmpegError, OSError):
                first = None
            landed = np.flatnonzero(self._pts[: start + 1] == first.pts) if first is not None else ()
            if len(landed):
                self._demuxer, self._position = itertools.chain([first], demuxer), int(landed[0])
                return
        self._open()

    def _to_rgb(self, frame: "av.VideoFrame") -> np.ndarray:
        """The upright frame, uint8 `(height, width, 3)`, scaled to the size of the stream if it differs."""
        height, width = self._size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
        plane = rgb.planes[0]
        image = (
            np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, : 3 * width].reshape(height, width, 3)
        )
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return image if matrix is None else _turn_upright(image, np.frombuffer(matrix, np.int32))


def _turn_upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Applies the mirroring and the rotation by multiples of 90 degrees of a display matrix to `image (height, width,
    3)`. The matrix consists of nine fixed-point numbers and maps (x, y) to (a x + c y, b x + d y)."""
    a, b, _, c, d = matrix[:5].tolist()
    if abs(a) >= abs(b):
        columns, rows = a, d
    else:
        image, columns, rows = image.swapaxes(0, 1), c, b
    return image[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]
