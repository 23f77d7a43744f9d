"""The test-time transform of UMT (arXiv 2303.16058, section 4) as a video processor of Transformers.

The steps for each video: sample frame indices (`frame_sampling_umt`), decode these frames in one read
(`video_decoding_umt`), resize (`resize_umt`), crop (`crop_positions_umt`), rescale and normalise. Videos are processed
one after another, so only one is held at its full size.

Unusual for Transformers: a video may become several *views* (clips in time x crops in space), which are stacked along
the batch dimension and averaged by `fold_views`; every video of a batch is processed separately, so that files and
arrays, layouts and sizes may be mixed; and a broken video may be skipped and reported instead of failing the batch.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
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
    pil_torch_interpolation_mapping,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .crop_positions_umt import target_size, view_corners
from .detection_boxes_umt import ActionDetectionPostProcessing, boxes_per_video, input_boxes, pad_boxes
from .frame_sampling_umt import sample_clips
from .image_frames_umt import AnimationFrame, animation_frames, is_image
from .key_frames_umt import KeyFrame, frames_around, key_frames_per_video
from .processor_options_umt import (
    KEY_FRAME_DEFAULTS,
    MAY_BE_NONE,
    check_boxes_and_key_frames,
    check_fps,
    check_one_view_per_item,
    check_options,
    metadata_per_video,
    plain_options,
)
from .resize_umt import resize_frames
from .video_decoding_umt import VideoReader
from .video_features_umt import UMTVideoFeatures, UMTVideoMetadata, view_metadata
from .video_inputs_umt import is_decoder, is_file, list_videos, read_frames, read_from_decoder
from .video_source_umt import VideoDecodeError
from .view_batches_umt import batch_views

# The keywords with which Transformers' `VideoClassificationPipeline` calls a processor for one video.
_PIPELINE_CALL = {"num_frames", "do_sample_frames", "return_tensors"}


class UMTVideoProcessorKwargs(VideosKwargs, total=False):
    """Options that [`UMTVideoProcessor`] adds to those of Transformers; documented there."""

    sampling: str | None
    frame_stride: int | None
    num_clips: int | None
    num_crops: int | None
    sampling_fps: float | int | None
    size_divisor: int | None
    box_extension: list[float | int] | tuple[float | int, ...] | None
    resize_kernel: str | None
    on_error: str | None
    one_view_per_item: bool | None


class UMTVideoProcessor(ActionDetectionPostProcessing, BaseVideoProcessor):
    r"""Converts videos to the `pixel_values_videos` of the UMT models.

    Options are those of Transformers and the following ones; each is saved, and can be overridden in a call.

    Args:
        num_frames (`int`, defaults to 8): Number of frames of a clip.
        sampling (`str`, defaults to `"sparse"`): Frame sampling rule: `"sparse"` (Kinetics, Moments in Time),
            `"segments"` (Something-Something), `"middle"` (retrieval, question answering), `"dense"` or `"strided"` (a
            fixed `frame_stride`; MVD and EVEREST on Kinetics) or `"uniform"` (MVD on Something-Something); see
            `sample_clips`. `"key_frame"` (action detection) takes the frames around a key frame that each call
            states; see `sample_key_frame`.
        frame_stride (`int`, defaults to 1, with `"key_frame"` to 8): Distance between the frames of a dense or strided
            clip or of one around a key frame.
        sampling_fps (`float`, defaults to 25 with `"key_frame"`): Frames per second by which the stride of
            `"key_frame"` is counted, whatever the frame rate of the video; None: it counts frames of the video.
        num_clips (`int`, defaults to 1): Number of clips sampled from a video.
        num_crops (`int`, defaults to 1): Number of crops of a clip, spaced evenly along the longer side.
        resize_kernel (`str`, defaults to `"antialias"`): `"antialias"` filters with `resample`; the official results
            were measured with `"opencv_bilinear"` (classification, action detection) and `"bicubic_no_antialias"`
            (stage 2).
        size_divisor (`int`, *optional*): Pads the normalised frames with zeros at the bottom and right up to a
            multiple of it, and to the largest video of a batch. Action detection: 16.
        box_extension (`[width, height]`, *optional*): Fractions by which boxes are enlarged, half on each side. Action
            detection: `[0.1, 0.05]`.
        on_error (`str`, defaults to `"raise"`): Handling of a video that cannot be read: `"raise"`, or `"skip"` to
            leave it out and report it in `errors` of the output.
        one_view_per_item (`bool`, *optional*): For callers that assume one row of the output for each item of their
            list: several views, skipped videos, lists of videos within the list and batches of videos are errors.

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
    sampling_fps = None
    size_divisor = None
    box_extension = None
    resize_kernel = "antialias"
    on_error = "raise"
    valid_kwargs = UMTVideoProcessorKwargs
    model_input_names = ["pixel_values_videos"]

    def __init__(self, **kwargs: Unpack[UMTVideoProcessorKwargs]):
        kwargs = plain_options(kwargs)
        if kwargs.get("sampling") == "key_frame":
            kwargs = KEY_FRAME_DEFAULTS | kwargs
        # a saved configuration names its type; entries that another version or tool wrote are kept
        if not kwargs.keys() & {"video_processor_type", "image_processor_type", "feature_extractor_type"}:
            unknown = sorted(kwargs.keys() - self.valid_kwargs.__annotations__.keys() - set(dir(self)))
            if unknown:
                raise ValueError(f"UMTVideoProcessor has no option {', '.join(unknown)}; see its documentation.")
        super().__init__(**kwargs)
        check_options(vars(self), given={"frame_stride": self.frame_stride, "sampling_fps": self.sampling_fps})

    def to_dict(self) -> dict[str, Any]:
        """Transformers' method, which leaves None out; a `sampling_fps` of None, which differs from the default of
        `sampling="key_frame"`, is kept."""
        rate = {"sampling_fps": self.sampling_fps} if self.sampling == "key_frame" else {}
        return super().to_dict() | rate

    @classmethod
    def for_config(cls, config: PreTrainedConfig) -> "UMTVideoProcessor":
        """The processor for clips of `config.num_frames` frames of `config.image_size` pixels (side length, or height
        and width); other options keep their defaults. The configuration of a saved action detection model gives that
        of `for_action_detection`. The vision tower of VideoChat gets entire frames, resized without keeping their
        aspect ratio, bicubically as in VideoChat."""
        if config.architectures == ["UMTForActionDetection"]:
            return cls.for_action_detection(config)
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if getattr(config, "single_frame", None) == "first":  # only the tower's
            return cls(
                num_frames=config.num_frames,
                size={"height": height, "width": width},
                do_center_crop=False,
                resample=PILImageResampling.BICUBIC,
            )
        return cls(
            num_frames=config.num_frames,
            size={"shortest_edge": min(height, width)} if height == width else {"height": height, "width": width},
            crop_size={"height": height, "width": width},
        )

    @classmethod
    def for_action_detection(cls, config: PreTrainedConfig) -> "UMTVideoProcessor":
        """The processor of an action detection model: clips of `config.num_frames` entire frames around a key frame,
        8/7 as large as the training crop (shorter side 256 for an `image_size` of 224), with the statistics of the
        official code (which are not those of ImageNet)."""
        size = config.image_size
        return cls(
            num_frames=config.num_frames,
            sampling="key_frame",
            size={"shortest_edge": 8 * (size if isinstance(size, int) else min(size)) // 7},
            do_center_crop=False,
            resize_kernel="opencv_bilinear",
            image_mean=[value / 255 for value in (122.7717, 115.9465, 102.9801)],
            image_std=[0.225] * 3,
            size_divisor=config.patch_size,
            box_extension=[0.1, 0.05],
        )

    def __call__(self, videos, **kwargs: Unpack[UMTVideoProcessorKwargs]) -> UMTVideoFeatures:
        """See [`~UMTVideoProcessor.preprocess`]."""
        return self.preprocess(videos, **kwargs)

    def preprocess(
        self,
        videos,
        boxes: Sequence[Any] | None = None,
        key_frames: Sequence[int | None] | None = None,
        key_times: Sequence[float | None] | None = None,
        **kwargs: Unpack[UMTVideoProcessorKwargs],
    ) -> UMTVideoFeatures:
        """Reads, samples, resizes, crops and normalises videos.

        Args:
            videos: one video or a list of videos: path, `Path`, URL, bytes, file object, array or tensor
                `(T, H, W, C)` or `(T, C, H, W)`, list of frames (images, arrays, names of image files). Files and
                frames in memory may be mixed. Exactly `num_frames` frames in memory are not resampled; with
                `num_clips` above 1 every clip contains the same frames, so that all videos have equally many views.
            boxes: for each video a list, array or tensor `(n, 4)` of boxes, inclusive corners x1, y1, x2, y2 in pixels
                of the displayed frame (`n` may be 0). They are scaled to the resized frames, enlarged by
                `box_extension` and clipped; none is dropped.
            key_frames, key_times: with `sampling="key_frame"` the key frame of each video, as index or in seconds
                since the first frame (the nearest frame). None for a clip in memory that is not sampled.
            video_metadata: `VideoMetadata` or dict, one per video: `fps` of frames in memory, for their timestamps and
                for `sampling_fps`, which without it has no effect on them: strides then count frames.
            return_tensors: `"pt"` or `"np"`; if None, `pixel_values_videos` is a list of views.
            return_metadata: adds `video_metadata`, one [`UMTVideoMetadata`] per view.
            device: device on which the frames are resized and normalised.
            kwargs: any option of the class. None means the saved value, but turns off `sampling_fps`, `size_divisor`
                and `box_extension`.

        Returns:
            `pixel_values_videos` float32 `(views, frames, channels, height, width)`, video-major, then clip, then
            crop; `video_indices` and `errors` as attributes. Called with exactly the keywords `num_frames`,
            `do_sample_frames` and `return_tensors`, as `pipeline("video-classification")` does, several views are
            grouped: `(videos, views, frames, channels, height, width)`, and the model averages them.

            With `boxes` also `boxes`, float32 `(videos, boxes, 4)` in pixels of the returned frames, padded with
            zeros, and `box_mask`, bool `(videos, boxes)`, True for a box. If `return_tensors` is None, `boxes` is a
            list of the boxes of each video, without `box_mask`.

        Raises:
            ValueError: invalid options or inputs, frames smaller than the crop, views of unequal sizes, boxes or key
                frames outside of their video.
            VideoDecodeError: a video cannot be read, or, with `on_error="skip"`, none of the videos.
        """
        kwargs = plain_options(kwargs)
        options = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__}
        if kwargs.get("sampling") == "key_frame" != self.sampling:
            options |= KEY_FRAME_DEFAULTS
        options |= {name: value for name, value in kwargs.items() if value is not None or name in MAY_BE_NONE}
        check_options(options, given=kwargs)
        validate_typed_dict(self.valid_kwargs, kwargs)
        options = self._standardize_kwargs(**options)
        self._validate_preprocess_kwargs(**options)

        num_items = len(videos) if isinstance(videos, (list, tuple)) else 1
        videos = list_videos(videos)
        if options["one_view_per_item"]:
            check_one_view_per_item(options, num_items, len(videos))
        given_metadata = metadata_per_video(options["video_metadata"], len(videos))
        key_frames = key_frames_per_video(key_frames, key_times, len(videos))
        given_boxes = boxes_per_video(boxes, len(videos))
        check_boxes_and_key_frames(options, given_boxes is not None, any(key is not None for key in key_frames))
        pixel_values, metadata, video_indices, errors, first_error = [], [], [], [], None
        boxes = []
        for index, video in enumerate(videos):
            try:
                frames, frames_metadata = self._read_clips(video, given_metadata[index], options, key_frames[index])
            except VideoDecodeError as error:
                if options["on_error"] == "raise":
                    raise
                errors.append((index, str(error)))
                first_error = first_error or error
                continue
            views = self._make_views(frames, options)  # (clips * crops, frames, channels, height, width)
            pixel_values.append(views)
            if given_boxes is not None:
                sizes, name = (frames.shape[-2:], views.shape[-2:]), f"boxes of video {index}"
                boxes.append(input_boxes(given_boxes[index], *sizes, options["box_extension"], name))
            metadata.extend(view_metadata(frames_metadata, index, options["num_clips"], options["num_crops"]))
            video_indices.append(index)
        if not video_indices:
            name = f"None of the {len(errors)} videos can be read; the first, {first_error.video}"
            raise VideoDecodeError(name, first_error.reason, first_error.detail)

        num_views = options["num_clips"] * options["num_crops"]
        as_tensor = options["return_tensors"] is not None
        batch = batch_views(pixel_values, video_indices, options["size_divisor"], as_tensor)
        if num_views > 1 and kwargs.keys() == _PIPELINE_CALL:
            # the pipeline scores the first row of the logits only; of grouped views the model averages all
            batch = batch.unflatten(0, (-1, num_views))
        data = {"pixel_values_videos": batch}
        if given_boxes is not None:
            data |= pad_boxes(boxes, batch.device) if as_tensor else {"boxes": boxes}
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
        key_frame: KeyFrame | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Frame indices of all clips of a video of `metadata.total_num_frames` frames, clip after clip: int64
        `(num_clips * num_frames,)`. Arguments default to the processor's options; `fps` is an error as in a call, and
        other options of a call, which do not concern sampling, are ignored. With `sampling="key_frame"`, which needs
        `key_frame`, times and rate of the frames are those of `metadata`."""
        check_fps(fps)
        if (sampling or self.sampling) == "key_frame":
            if key_frame is None:
                raise ValueError(
                    'sampling="key_frame" needs the key frame of each video: key_frames=[...], or key_times=[...] in '
                    "seconds."
                )
            sampling_fps = kwargs.get("sampling_fps", self.sampling_fps)
            stride = frame_stride or self.frame_stride
            return frames_around(key_frame, metadata, num_frames or self.num_frames, stride, sampling_fps)
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
                frame_timestamps=reader.timestamps,
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
        self,
        video: Any,
        given_metadata: Mapping[str, Any],
        options: dict[str, Any],
        key_frame: KeyFrame | None = None,
    ) -> tuple[torch.Tensor, UMTVideoMetadata]:
        """The frames of all clips of one video, `(clips * frames, channels, H, W)`, and their metadata."""
        sample = partial(self.sample_frames, **options, key_frame=key_frame) if options["do_sample_frames"] else None
        if is_file(video):
            frames, metadata = self.fetch_videos(video, sample)
            frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        elif is_decoder(video):
            frames, metadata = read_from_decoder(video, sample)
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
            size = target_size(frames.shape[-2], frames.shape[-1], options["size"])
            interpolation = pil_torch_interpolation_mapping.get(options["resample"], options["resample"])
            frames = resize_frames(frames, *size, options["resize_kernel"], interpolation)
        crops = [frames]
        if options["do_center_crop"]:
            height, width = options["crop_size"].height, options["crop_size"].width
            num_views = options["num_clips"] * options["num_crops"]
            corners = view_corners(frames.shape[-2:], (height, width), options["num_crops"], num_views)
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
