"""Boxes: values recorded from the official code, properties, the processor's inputs, and actions from logits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import load_recorded

from processing_umt import UMTVideoProcessor
from processing_umt.detection_boxes_umt import boxes_per_video, clip_boxes, input_boxes, pad_boxes

PROCESSOR = {
    "size": {"shortest_edge": 48},
    "do_center_crop": False,
    "resize_kernel": "opencv_bilinear",
    "image_mean": [122.7717 / 255, 115.9465 / 255, 102.9801 / 255],
    "image_std": [0.225] * 3,
    "sampling": "key_frame",
    "size_divisor": 16,
    "num_frames": 3,
}
FRAMES = np.zeros((3, 60, 106, 3), dtype=np.uint8)


def detections(logits: list, boxes: list, **options) -> list[dict]:
    outputs = SimpleNamespace(logits=torch.tensor(logits))
    return UMTVideoProcessor().post_process_action_detection(outputs, boxes, **options)


# --- recorded values ------------------------------------------------------------------------------------------------


def test_recorded_arithmetic_of_boxes():
    recorded = load_recorded("ava_tables")[0]["boxes"]
    boxes, (width, height) = torch.tensor(recorded["input"]), recorded["size_wh"]
    tolerance = {"rtol": 0, "atol": 2e-4}  # the table has four decimals, of which resizing doubles the error
    resized = input_boxes(boxes, (height, width), (180, 400))
    torch.testing.assert_close(resized, torch.tensor(recorded["resize_to_400x180"]), **tolerance)
    extended = input_boxes(boxes, (height, width), (height, width), [0.1, 0.05])
    torch.testing.assert_close(extended, torch.tensor(recorded["extend_10_5"]), **tolerance)
    clipped = clip_boxes(torch.tensor(recorded["clip_input"]), (height, width))
    torch.testing.assert_close(clipped, torch.tensor(recorded["clip_to_image"]), **tolerance)


def test_recorded_enlarged_boxes_stay_in_their_clip():
    recorded, tensors = load_recorded("ava_head_padded")
    boxes = tensors["input/boxes"].split(tensors["input/boxes_per_clip"].tolist())
    enlarged = [
        input_boxes(rows, tuple(size), tuple(size), [0.1, 0.05])
        for rows, size in zip(boxes, recorded["clip_sizes_hw"], strict=True)
    ]
    torch.testing.assert_close(torch.cat(enlarged), tensors["expected/extended_boxes"], rtol=0, atol=1e-5)


def test_recorded_evaluation_transform():
    """Frames and boxes of three sizes, padded to one; the values are recorded from the official code and OpenCV."""
    tensors = load_recorded("ava_transform")[1]
    videos = [tensors[f"input/frames_{i}"].numpy() for i in range(3)]
    boxes = [tensors[f"input/boxes_xyxy_{i}"] for i in range(3)]
    inputs = UMTVideoProcessor(**PROCESSOR)(videos, boxes=boxes, return_tensors="pt")
    expected = tensors["expected/video"].transpose(1, 2)
    torch.testing.assert_close(inputs["pixel_values_videos"], expected, rtol=0, atol=1e-5)
    for i, mask in enumerate(inputs["box_mask"]):
        torch.testing.assert_close(inputs["boxes"][i][mask], tensors[f"expected/boxes_{i}"], rtol=0, atol=1e-5)
        assert not inputs["boxes"][i][~mask].any()
    assert inputs["box_mask"].sum(1).tolist() == [3, 2, 1]
    alone = UMTVideoProcessor(**PROCESSOR)(videos, boxes=boxes, return_tensors=None)
    for i, clip in enumerate(alone["pixel_values_videos"]):
        height, width = tensors[f"expected/clip_{i}"].shape[-2:]
        assert clip.shape[-2:] == (-(-height // 16) * 16, -(-width // 16) * 16)
        torch.testing.assert_close(clip[..., :height, :width].transpose(0, 1), tensors[f"expected/clip_{i}"])
        torch.testing.assert_close(alone["boxes"][i], tensors[f"expected/boxes_{i}"], rtol=0, atol=1e-5)


def test_what_lies_beyond_the_border_is_cut_off():
    """As officially, where annotated boxes x, y, width, height become inclusive corners inside the frame."""
    tensors = load_recorded("ava_transform")[1]
    beyond = 0
    for i in range(3):
        x, y, width, height = tensors[f"input/boxes_xywh_{i}"].unbind(1)
        corners = torch.stack([x, y, x + (width - 1).clamp(min=0), y + (height - 1).clamp(min=0)], dim=1)
        size = tuple(tensors[f"input/frames_{i}"].shape[1:3])
        torch.testing.assert_close(input_boxes(corners, size, size), tensors[f"input/boxes_xyxy_{i}"])
        beyond += (corners != tensors[f"input/boxes_xyxy_{i}"]).sum()
    assert beyond


# --- properties -----------------------------------------------------------------------------------------------------

sides = st.integers(2, 400)


@given(
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
    sizes=st.tuples(sides, sides, sides, sides),
    extension=st.one_of(st.none(), st.tuples(st.floats(0, 2), st.floats(0, 2))),
)
def test_boxes_of_any_size_stay_ordered_and_inside(corners, sizes, extension):
    height, width, new_height, new_width = sizes
    boxes = torch.tensor(corners).sort(dim=1).values[:, [0, 1, 3, 2]] * torch.tensor([width, height] * 2)
    # x and y are scaled separately, so order each axis again; starts are inside of the frame
    boxes = torch.stack([boxes[:, [0, 2]].min(1).values, boxes[:, [1, 3]].min(1).values,
                         boxes[:, [0, 2]].max(1).values, boxes[:, [1, 3]].max(1).values], dim=1)  # fmt: skip
    boxes[:, :2] = torch.minimum(boxes[:, :2], torch.tensor([width - 1.0, height - 1.0]))
    result = input_boxes(boxes, (height, width), (new_height, new_width), extension)
    assert (result[:, 2:] >= result[:, :2]).all() and (result >= 0).all()
    last = torch.tensor([new_width, new_height]) - (1 if extension else 0)
    assert (result[:, 2:] <= last + 1e-3).all()
    if extension:
        plain = input_boxes(boxes, (height, width), (new_height, new_width))
        assert (result[:, :2] <= plain[:, :2] + 1e-3).all()


def test_boxes_are_padded_with_a_mask():
    padded = pad_boxes([torch.ones(2, 4), torch.ones(0, 4), torch.ones(1, 4)])
    assert padded["boxes"].shape == (3, 2, 4) and padded["boxes"].dtype == torch.float32
    assert padded["box_mask"].tolist() == [[True, True], [False, False], [True, False]]
    nothing = pad_boxes([torch.ones(0, 4)] * 2)
    assert nothing["boxes"].shape == (2, 0, 4) and nothing["box_mask"].shape == (2, 0)


# --- the processor's inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_boxes",
    [
        [[[10, 20, 30, 40], [5, 6, 7, 8]], []],
        [np.array([[10, 20, 30, 40], [5, 6, 7, 8]]), np.zeros((0, 4))],
        (torch.tensor([[10.0, 20, 30, 40], [5, 6, 7, 8]]), ()),
        [[torch.tensor([10.0, 20, 30, 40]), np.array([5, 6, 7, 8])], []],
    ],
    ids=["lists", "arrays", "tensors", "lists of tensors"],
)
def test_boxes_are_lists_arrays_or_tensors(given_boxes):
    inputs = UMTVideoProcessor(**PROCESSOR)([FRAMES, FRAMES], boxes=given_boxes, return_tensors="pt")
    scale = torch.tensor([84 / 106, 48 / 60] * 2)
    expected = torch.tensor([[10, 20, 30, 40], [5, 6, 7, 8]]) * scale
    torch.testing.assert_close(inputs["boxes"][0], expected)
    assert inputs["box_mask"].tolist() == [[True, True], [False, False]]


def test_without_boxes_there_is_no_entry_and_an_empty_list_is_one():
    processor = UMTVideoProcessor(**PROCESSOR)
    assert processor(FRAMES, return_tensors="pt").keys() == {"pixel_values_videos"}
    assert processor(FRAMES, boxes=[[]], return_tensors="pt")["boxes"].shape == (1, 0, 4)
    assert isinstance(processor(FRAMES, boxes=[[]], return_tensors="np")["box_mask"], np.ndarray)


def test_boxes_are_enlarged_by_the_saved_option_and_not_by_none():
    processor = UMTVideoProcessor(**PROCESSOR, box_extension=[0.1, 0.05])
    boxes = [[[20, 20, 59, 39]]]
    plain = processor(FRAMES, boxes=boxes, box_extension=None, return_tensors="pt")["boxes"]
    enlarged = processor(FRAMES, boxes=boxes, return_tensors="pt")["boxes"]
    width, height = plain[0, 0, 2] - plain[0, 0, 0] + 1, plain[0, 0, 3] - plain[0, 0, 1] + 1
    margins = torch.stack([-width / 20, -height / 40, width / 20, height / 40])
    torch.testing.assert_close(enlarged[0, 0], plain[0, 0] + margins)


def test_boxes_of_skipped_videos_are_left_out(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    videos = [FRAMES, tmp_path / "broken.mp4", FRAMES]
    boxes = [[[1, 1, 5, 5]], [[2, 2, 6, 6]], [[3, 3, 7, 7]]]
    inputs = UMTVideoProcessor(**PROCESSOR, on_error="skip")(
        videos, boxes=boxes, key_frames=[None, 3, None], return_tensors="pt"
    )
    assert inputs.video_indices == [0, 2]
    torch.testing.assert_close(inputs["boxes"][:, 0, 0], torch.tensor([1, 3]) * 84 / 106)


def test_half_precision_leaves_boxes_in_float32():
    inputs = UMTVideoProcessor(**PROCESSOR)(FRAMES, boxes=[[[1, 1, 50.3, 5]]], return_tensors="pt")
    boxes = inputs["boxes"].clone()
    inputs = inputs.to(torch.bfloat16)
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16 and inputs["boxes"].dtype == torch.float32
    assert torch.equal(inputs["boxes"], boxes)
    assert inputs.to("cpu", dtype=torch.float16)["boxes"].dtype == torch.float32
    assert inputs.to("meta")["boxes"].device.type == inputs["box_mask"].device.type == "meta"


WRONG = {
    "one video's boxes": ([[1, 2, 3, 4]], {}, r"boxes of video 0 have the shape \(4,\); expected rows"),
    "other number": ([[], []], {}, r"boxes is 2, but there are 1 videos; .* an empty list for a video without boxes"),
    "no list": (3, {}, "boxes is int, but there are 1 videos"),
    "corners": ([[[30, 2, 3, 40]]], {}, r"boxes of video 0 is \[30.0, 2.0, 3.0, 40.0\]; expected x1 <= x2"),
    "not finite": ([[[1, 2, float("nan"), 40]]], {}, "video 0 is .*nan.*; expected finite numbers"),
    "words": ([[["a", 2, 3, 4]]], {}, "boxes of video 0 are not rows of four numbers"),
    "ragged": ([[[1, 2, 3, 4], [1, 2]]], {}, "boxes of video 0 are not rows of four numbers"),
    "relative": ([[[0.1, 0.2, 0.3, 0.9]]], {}, "boxes of video 0 lie between 0 and 1, as relative coordinates do"),
    "outside": ([[[200, 2, 300, 40]]], {}, r"video 0 is \[200.*outside of the video of 60x106 \(height x width\)"),
    "cropped": ([[]], {"do_center_crop": True}, "do_center_crop=True would cut persons off"),
    "views": ([[]], {"sampling": "sparse", "num_clips": 2}, "num_clips is 2; use one clip"),
    "negative fraction": ([[]], {"box_extension": [0.1, -0.1]}, r"box_extension is \[0.1, -0.1\]; expected"),
    "one fraction": ([[]], {"box_extension": [0.1]}, r"box_extension is \[0.1\]; expected the fractions"),
    "divisor": ([[]], {"size_divisor": 0}, "size_divisor is 0; expected an integer of at least 1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_boxes_that_are_none_in_pixels_are_refused(wrong):
    boxes, options, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        UMTVideoProcessor(**PROCESSOR)(FRAMES, boxes=boxes, return_tensors="pt", **options)


# --- actions --------------------------------------------------------------------------------------------------------


def test_actions_of_a_clip_are_sorted_by_score():
    boxes = [[[1, 2, 30, 40], [5, 6, 70, 80]], []]
    first, second = detections([[[2.0, -3.0], [0.5, 3.0], [9.0, 9.0]]] * 2, boxes)
    torch.testing.assert_close(first["scores"], torch.tensor([3.0, 2.0, 0.5]).sigmoid())
    assert first["labels"].tolist() == [1, 0, 0] and first["persons"].tolist() == [1, 0, 1]
    assert first["boxes"].tolist() == [boxes[0][1], boxes[0][0], boxes[0][1]]
    assert {name: tuple(tensor.shape) for name, tensor in second.items()} == {
        "scores": (0,), "labels": (0,), "boxes": (0, 4), "persons": (0,)
    }  # fmt: skip


def test_a_score_is_multiplied_by_that_of_the_person():
    recorded, tensors = load_recorded("ava_head_padded")
    logits = torch.zeros(1, 6, recorded["constructor"]["num_classes"])
    logits[0, :5] = tensors["expected/logits"]
    outputs = SimpleNamespace(logits=logits)
    boxes, box_scores = [tensors["input/boxes"]], [tensors["input/box_scores"]]
    (result,) = UMTVideoProcessor().post_process_action_detection(outputs, boxes, box_scores, threshold=0)
    scores = torch.empty(5, logits.shape[-1]).index_put_((result["persons"], result["labels"]), result["scores"])
    torch.testing.assert_close(scores, tensors["expected/scores"], rtol=0, atol=1e-5)
    assert len(result["scores"]) == scores.numel() and (result["scores"].diff() <= 0).all()
    kept = UMTVideoProcessor().post_process_action_detection(outputs, boxes, box_scores, threshold=0.3)[0]["scores"]
    assert torch.equal(kept, result["scores"][result["scores"] >= 0.3]) and 0 < len(kept) < scores.numel()


def test_logits_of_half_precision_give_float32_scores():
    outputs = SimpleNamespace(logits=torch.tensor([[[2.0, 1.0]]], dtype=torch.bfloat16, requires_grad=True))
    (result,) = UMTVideoProcessor().post_process_action_detection(outputs, [[[1, 2, 30, 40]]])
    assert result["scores"].dtype == torch.float32 and not result["scores"].requires_grad


@pytest.mark.parametrize(
    "boxes, options, message",
    [
        ([], {}, "boxes is 0, but there are 1 videos"),
        ([[[1, 2, 3, 4]] * 3], {}, "Clip 0 has 3 boxes, but the logits are of 2 boxes"),
        ([[[1, 2, 3, 4]]], {"box_scores": [[0.5, 0.5]]}, "Clip 0 has 1 boxes, but 2 box_scores"),
        ([[[1, 2, 3, 4]]], {"box_scores": []}, "There are 0 box_scores for 1 clips"),
    ],
)
def test_boxes_and_scores_of_other_clips_are_refused(boxes, options, message):
    with pytest.raises(ValueError, match=message):
        detections([[[1.0], [2.0]]], boxes, **options)


def test_no_boxes_are_none():
    assert boxes_per_video(None, 3) is None
