"""The test-time transform of UMT (arXiv 2303.16058, section 4) as a video processor of Transformers.

The steps for each video: sample frame indices (`frame_sampling_umt`), decode these frames in one read
(`video_decoding_umt`), resize (`resize_umt`), crop (`crop_positions_umt`), rescale and normalise. Videos are processed
one after another, so only one is held at its full size.

Unusual for Transformers: a video may become several *views* (clips in time x crops in space), which are stacked along
the batch dimension and averaged by `fold_views`; every video of a batch is processed separately, so that files and
arrays, layouts and sizes may be mixed; and a broken video may be skipped and reported instead of failing the batch.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from transformers import PreTrainedConfig
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
    pil_torch_interpolation_mapping,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .crop_positions_umt import center_crop, resized_size, test_crops
from .frame_sampling_umt import sample_clips
from .image_frames_umt import AnimationFrame, animation_frames, is_image
from .resize_umt import RESIZE_KERNELS, resize_frames
from .video_decoding_umt import VideoReader
from .video_features_umt import UMTVideoFeatures, UMTVideoMetadata, view_metadata
from .video_inputs_umt import is_decoder, is_file, list_videos, read_frames
from .video_source_umt import VideoDecodeError

# The keywords with which Transformers' `VideoClassificationPipeline` calls a processor for one video.
_PIPELINE_CALL = {"num_frames", "do_sample_frames", "return_tensors"}


class UMTVideoProcessorKwargs(VideosKwargs, total=False):
    """Options that [`UMTVideoProcessor`] adds to those of Transformers; documented there."""

    sampling: str | None
    frame_stride: int | None
    num_clips: int | None
    num_crops: int | None
    resize_kernel: str | None
    on_error: str | None


class UMTVideoProcessor(BaseVideoProcessor):
    r"""Converts videos to the `pixel_values_videos` of the UMT models.

    Options in addition to those of Transformers; each is saved, and can be overridden in a call:
        num_frames (`int`, defaults to 8): Number of frames of a clip.
        sampling (`str`, defaults to `"sparse"`): Frame sampling rule: `"sparse"` (Kinetics, Moments in Time),
            `"segments"` (Something-Something), `"middle"` (retrieval, question answering) or `"dense"`; see
            `sample_clips`.
        frame_stride (`int`, defaults to 1): Distance between the frames of a dense clip.
        num_clips (`int`, defaults to 1): Number of clips sampled from a video.
        num_crops (`int`, defaults to 1): Number of crops of a clip, spaced evenly along the longer side.
        resize_kernel (`str`, defaults to `"antialias"`): `"antialias"` filters with `resample`; the official results
            were measured with `"opencv_bilinear"` (classification) and `"bicubic_no_antialias"` (stage 2).
        on_error (`str`, defaults to `"raise"`): Handling of a video that cannot be read: `"raise"`, or `"skip"` to
            leave it out and report it in `errors` of the output.

    `size` is `{"shortest_edge": 224}`, or `{"height", "width"}` to resize without keeping the aspect ratio (the
    transform of stage 2). A single view uses the official validation crop, several views the official test crops.

    Transformers' `fps` is rejected: clips have a fixed number of frames. `do_sample_frames=False` uses all frames.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = 224
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 8
    sampling = "sparse"
    frame_stride = 1
    num_clips = 1
    num_crops = 1
    resize_kernel = "antialias"
    on_error = "raise"
    valid_kwargs = UMTVideoProcessorKwargs
    model_input_names = ["pixel_values_videos"]

    def __init__(self, **kwargs: Unpack[UMTVideoProcessorKwargs]):
        kwargs = _plain_options(kwargs)
        # a saved configuration names its type; entries that another version or tool wrote are kept
        if not kwargs.keys() & {"video_processor_type", "image_processor_type", "feature_extractor_type"}:
            unknown = sorted(kwargs.keys() - self.valid_kwargs.__annotations__.keys() - set(dir(self)))
            if unknown:
                raise ValueError(f"UMTVideoProcessor has no option {', '.join(unknown)}; see its documentation.")
        super().__init__(**kwargs)
        _check_options(vars(self), given={"frame_stride": self.frame_stride})

    @classmethod
    def for_config(cls, config: PreTrainedConfig) -> "UMTVideoProcessor":
        """The processor for clips of `config.num_frames` frames of `config.image_size` pixels (side length, or height
        and width); other options keep their defaults."""
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return cls(
            num_frames=config.num_frames,
            size={"shortest_edge": min(height, width)} if height == width else {"height": height, "width": width},
            crop_size={"height": height, "width": width},
        )

    def __call__(self, videos, **kwargs: Unpack[UMTVideoProcessorKwargs]) -> UMTVideoFeatures:
        """See [`~UMTVideoProcessor.preprocess`]."""
        return self.preprocess(videos, **kwargs)

    def preprocess(self, videos, **kwargs: Unpack[UMTVideoProcessorKwargs]) -> UMTVideoFeatures:
        """Reads, samples, resizes, crops and normalises videos.

        Args:
            videos: one video or a list of videos: path, `Path`, URL, bytes, file object, array or tensor
                `(T, H, W, C)` or `(T, C, H, W)`, list of frames (images, arrays, names of image files). Files and
                frames in memory may be mixed. Exactly `num_frames` frames in memory are not resampled; with
                `num_clips` above 1 every clip contains the same frames, so that all videos have equally many views.
            video_metadata: `VideoMetadata` or dict, one per video: `fps` of frames in memory, for their timestamps.
            return_tensors: `"pt"` or `"np"`; if None, `pixel_values_videos` is a list of views.
            return_metadata: adds `video_metadata`, one [`UMTVideoMetadata`] per view.
            device: device on which the frames are resized and normalised.
            kwargs: any option of the class.

        Returns:
            `pixel_values_videos` float32 `(views, frames, channels, height, width)`, video-major, then clip, then
            crop; `video_indices` and `errors` as attributes. Called with exactly the keywords `num_frames`,
            `do_sample_frames` and `return_tensors`, as `pipeline("video-classification")` does, several views are
            grouped: `(videos, views, frames, channels, height, width)`, and the model averages them.

        Raises:
            ValueError: invalid options or inputs, frames smaller than the crop, views of unequal sizes.
            VideoDecodeError: a video cannot be read, or, with `on_error="skip"`, none of the videos.
        """
        kwargs = _plain_options(kwargs)
        own = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        options = own | {name: value for name, value in kwargs.items() if value is not None}
        _check_options(options, given=kwargs)
        validate_typed_dict(self.valid_kwargs, kwargs)
        options = self._standardize_kwargs(**options)
        self._validate_preprocess_kwargs(**options)

        videos = list_videos(videos)
        given_metadata = _metadata_per_video(options["video_metadata"], len(videos))
        pixel_values, metadata, video_indices, errors, first_error = [], [], [], [], None
        for index, video in enumerate(videos):
            try:
                frames, frames_metadata = self._read_clips(video, given_metadata[index], options)
            except VideoDecodeError as error:
                if options["on_error"] == "raise":
                    raise
                errors.append((index, str(error)))
                first_error = first_error or error
                continue
            views = self._make_views(frames, options)  # (clips * crops, frames, channels, height, width)
            pixel_values.append(views)
            metadata.extend(view_metadata(frames_metadata, index, options["num_clips"], options["num_crops"]))
            video_indices.append(index)
        if not video_indices:
            name = f"None of the {len(errors)} videos can be read; the first, {first_error.video}"
            raise VideoDecodeError(name, first_error.reason, first_error.detail)

        num_views = options["num_clips"] * options["num_crops"]
        if options["return_tensors"] is None:
            data = {"pixel_values_videos": [view for views in pixel_values for view in views]}
        else:
            data = {"pixel_values_videos": _concatenate(pixel_values, video_indices)}
            if num_views > 1 and kwargs.keys() == _PIPELINE_CALL:
                # the pipeline scores the first row of the logits only; of grouped views the model averages all
                data["pixel_values_videos"] = data["pixel_values_videos"].unflatten(0, (-1, num_views))
        features = UMTVideoFeatures(data, options["return_tensors"], video_indices, errors)
        if options["return_metadata"]:
            features["video_metadata"] = metadata
        return features

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        sampling: str | None = None,
        num_clips: int | None = None,
        frame_stride: int | None = None,
        fps: float | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Frame indices of all clips of a video of `metadata.total_num_frames` frames, clip after clip: int64
        `(num_clips * num_frames,)`. Arguments default to the processor's options; `fps` is an error as in a call, and
        other options of a call, which do not concern sampling, are ignored."""
        _check_fps(fps)
        return sample_clips(
            metadata.total_num_frames,
            num_frames or self.num_frames,
            sampling=sampling or self.sampling,
            num_clips=num_clips or self.num_clips,
            frame_stride=frame_stride or self.frame_stride,
        ).reshape(-1)

    def fetch_videos(
        self, video_url_or_urls: Any, sample_indices_fn: Callable[..., np.ndarray] | None = None
    ) -> tuple[Any, Any]:
        """Decodes a video file, or a list of video files, with PyAV.

        Args:
            video_url_or_urls: path, URL, bytes or file object, or a list of these.
            sample_indices_fn: `metadata -> frame indices`, called with the keyword `metadata`; None: all frames.

        Returns:
            frames uint8 `(n, H, W, 3)` and their [`UMTVideoMetadata`]; for a list, a list of each.
        """
        if isinstance(video_url_or_urls, list):
            pairs = [self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]
            return [frames for frames, _ in pairs], [metadata for _, metadata in pairs]
        with VideoReader(video_url_or_urls) as reader:
            metadata = UMTVideoMetadata(
                total_num_frames=reader.num_frames,
                fps=reader.fps,
                duration=reader.duration,
                video_backend="pyav",
            )
            if sample_indices_fn is None:
                indices = np.arange(reader.num_frames)
            else:
                indices = np.asarray(sample_indices_fn(metadata=metadata))
            frames = reader.read(indices)  # all clips in one read; a frame of several clips is decoded once
            metadata.height, metadata.width = frames.shape[1:3]
            metadata.frames_indices = indices.tolist()
            metadata.frame_timestamps = reader.timestamps[indices].tolist()
        return frames, metadata

    def _read_clips(
        self, video: Any, given_metadata: Mapping[str, Any], options: dict[str, Any]
    ) -> tuple[torch.Tensor, UMTVideoMetadata]:
        """The frames of all clips of one video, `(clips * frames, channels, H, W)`, and their metadata."""
        sample = partial(self.sample_frames, **options) if options["do_sample_frames"] else None
        if is_file(video):
            frames, metadata = self.fetch_videos(video, sample)
            frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        elif is_decoder(video):
            frames, metadata = _read_from_decoder(video, sample)
        else:
            if isinstance(video, list) and len(video) == 1 and is_image(video[0]):
                video = animation_frames(video[0])
            if len(video) == 0:
                raise ValueError("A video has zero frames; expected at least one.")
            is_clip = len(video) == options["num_frames"] and not isinstance(video[0], AnimationFrame)
            fps = given_metadata.get("fps")
            duration = len(video) / fps if fps else None
            metadata = UMTVideoMetadata(total_num_frames=len(video), fps=fps, duration=duration)
            if sample is None:
                indices = np.arange(len(video))
            elif is_clip:
                indices = np.tile(np.arange(len(video)), options["num_clips"])
            else:
                indices = sample(metadata=metadata)
            frames = read_frames(video, indices, options["input_data_format"])
            metadata.height, metadata.width = frames.shape[-2:]
            metadata.frames_indices = indices.tolist()
        if options["device"] is not None:
            frames = frames.to(options["device"])
        if options["do_convert_rgb"]:
            frames = self.convert_to_rgb(frames)
        return frames, metadata

    def convert_to_rgb(self, video: torch.Tensor) -> torch.Tensor:
        """Converts `(T, 1, 3 or 4, H, W)` to `(T, 3, H, W)` as Pillow does: repeats grey, drops an alpha channel."""
        return video.expand(-1, 3, -1, -1) if video.shape[1] == 1 else video[:, :3]

    def _make_views(self, frames: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """Resizes, crops and normalises `(clips * frames, channels, H, W)` to `(clips * crops, frames, channels,
        height, width)`."""
        if frames.is_floating_point():
            frames = frames.float()
            if options["do_rescale"] and frames.max() <= 1:
                warnings.warn(
                    "Frames with values from 0 to 1 are rescaled again: the processor expects values from 0 to 255. "
                    "Pass such values, or do_rescale=False.",
                    stacklevel=4,  # the caller of the processor
                )
        if options["do_resize"]:
            size = _target_size(frames.shape[-2], frames.shape[-1], options["size"])
            interpolation = pil_torch_interpolation_mapping.get(options["resample"], options["resample"])
            frames = resize_frames(frames, *size, options["resize_kernel"], interpolation)
        crops = [frames]
        if options["do_center_crop"]:
            height, width = options["crop_size"].height, options["crop_size"].width
            num_views = options["num_clips"] * options["num_crops"]
            corners = _crop_corners(frames.shape[-2:], (height, width), options["num_crops"], num_views)
            crops = [frames[..., top : top + height, left : left + width] for top, left in corners]
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        crops = [self.rescale_and_normalize(crop, **{name: options[name] for name in names}) for crop in crops]
        # each (clips * frames, channels, height, width) to (clips, frames, channels, height, width)
        clips = [crop.unflatten(0, (options["num_clips"], -1)) for crop in crops]
        return torch.stack(clips, dim=1).flatten(0, 1)


def fold_views(logits: torch.Tensor, num_views: int) -> torch.Tensor:
    """Averages the class probabilities of the views of each video, as the official evaluation does.

    Args:
        logits: `(videos * num_views, classes)`, video-major as returned for the views of the processor.
        num_views: `num_clips * num_crops` of the processor.

    Returns:
        probabilities `(videos, classes)`, at least float32.

    Raises:
        ValueError: the number of rows is not a multiple of `num_views`.
    """
    if logits.ndim != 2 or num_views < 1 or len(logits) % num_views:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} cannot be folded by num_views={num_views}; expected "
            "(videos * num_views, classes), where num_views is num_clips * num_crops."
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits.softmax(dim=-1).unflatten(0, (-1, num_views)).mean(dim=1)


def _plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options with NumPy numbers and arrays as those of Python, which Transformers checks and saves."""

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value

    return {name: plain(value) for name, value in options.items()}


def _check_fps(fps: float | None) -> None:
    if fps is not None:
        raise ValueError(
            f"fps is {fps!r}, but a clip has num_frames frames; for a fixed distance between them use "
            'sampling="dense" with frame_stride.'
        )


def _check_options(options: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Raises a ValueError for invalid options and combinations, and for a `given` option that has no effect."""
    for name, choices in (("resize_kernel", RESIZE_KERNELS), ("on_error", ("raise", "skip"))):
        if options[name] not in choices:
            raise ValueError(f"{name} is {options[name]!r}; choose one of {', '.join(map(repr, choices))}.")
    for name in ("num_frames", "num_clips", "num_crops", "frame_stride"):
        if not isinstance(options[name], int) or isinstance(options[name], bool) or options[name] < 1:
            raise ValueError(f"{name} is {options[name]!r}; expected an integer of at least 1.")
    _check_fps(options["fps"])
    layout = options["input_data_format"]
    if layout not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format is {layout!r}; choose 'channels_first' or 'channels_last'.")
    if options["data_format"] not in (None, "channels_first"):
        raise ValueError(f"data_format is {str(options['data_format'])!r}; only 'channels_first' is returned.")
    if options["do_pad"]:
        raise ValueError("do_pad is True, but videos are resized and cropped to one size, never padded; leave it out.")
    if given.get("frame_stride", 1) not in (None, 1) and options["sampling"] != "dense":
        raise ValueError(
            f"frame_stride is {given['frame_stride']}, but sampling={options['sampling']!r} has no stride; use "
            'sampling="dense", or frame_stride=1.'
        )
    if given.get("resample") is not None and options["resize_kernel"] != "antialias":
        raise ValueError(
            f"resample is the filter of resize_kernel='antialias' and has no effect on {options['resize_kernel']!r}; "
            "leave it out."
        )
    # a video of one frame is enough for the check of the rule's name and its number of clips
    sample_clips(1, 1, sampling=options["sampling"], num_clips=options["num_clips"])
    if options["num_clips"] > 1 and not options["do_sample_frames"]:
        raise ValueError(f"num_clips is {options['num_clips']}, but do_sample_frames=False uses every frame once.")
    if options["num_crops"] > 1 and not options["do_center_crop"]:
        raise ValueError(f"num_crops is {options['num_crops']}, but do_center_crop=False does not crop.")


def _metadata_per_video(metadata: Any, num_videos: int) -> list[Mapping[str, Any]]:
    """The caller's metadata as one mapping per video, empty without metadata."""
    if metadata is None:
        return [{}] * num_videos
    entries = _flatten(metadata) if isinstance(metadata, list) else [metadata]
    if len(entries) != num_videos:
        raise ValueError(f"{len(entries)} video_metadata were given for {num_videos} videos; expected one per video.")
    return entries


def _flatten(entries: list[Any]) -> list[Mapping[str, Any]]:
    """Metadata nested as the videos of a batch, `[[metadata], [metadata]]`, as a list."""
    return [item for entry in entries for item in (_flatten(entry) if isinstance(entry, list) else [entry])]


def _read_from_decoder(
    decoder: Any, sample_indices_fn: Callable[..., np.ndarray] | None
) -> tuple[torch.Tensor, UMTVideoMetadata]:
    """Frames `(n, C, H, W)` of a `VideoDecoder` of torchcodec, and their metadata."""
    facts = decoder.metadata
    metadata = UMTVideoMetadata(
        total_num_frames=facts.num_frames,
        fps=facts.average_fps,
        duration=facts.duration_seconds,
        video_backend="torchcodec",
    )
    if not facts.num_frames:
        raise VideoDecodeError("<VideoDecoder>", "no_frames")
    indices = np.arange(facts.num_frames) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
    try:
        batch = decoder.get_frames_at(indices.tolist())
    except (RuntimeError, ValueError, IndexError) as error:
        raise VideoDecodeError("<VideoDecoder>", "decode", " ".join(str(error).split())) from error
    frames = read_frames(batch.data, np.arange(len(indices)))
    metadata.height, metadata.width = frames.shape[-2:]
    metadata.frames_indices = indices.tolist()
    metadata.frame_timestamps = batch.pts_seconds.tolist()
    return frames, metadata


def _target_size(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """(height, width) of the resized frame."""
    keys = set(dict(size))
    if keys == {"shortest_edge"}:
        return resized_size(height, width, size.shortest_edge)
    if keys == {"height", "width"}:
        return size.height, size.width
    raise ValueError(f"size is {dict(size)}; expected the key 'shortest_edge', or 'height' and 'width'.")


def _crop_corners(
    frame_size: tuple[int, int], crop_size: tuple[int, int], num_crops: int, num_views: int
) -> list[tuple[int, int]]:
    """(top, left) of the crops of a frame; all sizes are (height, width).

    A single view is the official validation view, whose margin is rounded half to even; several views are the official
    test views, whose margin is rounded down, also with a single crop. Test crops are centred along the shorter side,
    which the official code does not define: its crops are as large as that side.
    """
    height, width = frame_size
    crop_height, crop_width = crop_size
    if crop_height > height or crop_width > width:
        raise ValueError(
            f"A crop of {crop_height}x{crop_width} does not fit frames of {height}x{width}; resize them first "
            "(do_resize, size) or use a smaller crop (crop_size)."
        )
    centre = (center_crop(height, height, crop_height)[0], center_crop(width, width, crop_width)[0])
    if num_views == 1:
        return [centre]
    if crop_height != crop_width:
        raise ValueError(f"Several views need a square crop_size; {crop_height}x{crop_width} was given.")
    corners = test_crops(height, width, crop_height, num_crops)
    return [(top, centre[1]) if height >= width else (centre[0], left) for top, left in corners]


def _concatenate(pixel_values: list[torch.Tensor], video_indices: list[int]) -> torch.Tensor:
    """Concatenates the views `(views, frames, channels, height, width)` of several videos to one tensor."""
    shapes = {tuple(views.shape[1:]): index for views, index in zip(pixel_values, video_indices, strict=True)}
    if len(shapes) > 1:
        listed = ", ".join(f"{shape} (such as video {index})" for shape, index in shapes.items())
        raise ValueError(
            f"Views of unequal sizes cannot be concatenated: {listed}. Resize and crop (do_resize, do_center_crop), "
            "sample frames (do_sample_frames), process the videos one by one, or pass return_tensors=None for a list."
        )
    return torch.cat(pixel_values)
