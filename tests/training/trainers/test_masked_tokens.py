"""Token selection of masked modelling by motion (EVEREST), and the selection of frames from a longer clip."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_masked_modeling import PIXELS, clip_options, make_student, make_teachers, make_trainer
from tiny_pretraining import losses_of, write_videos

from modeling_umt import UMTConfig
from modeling_umt.token_selection_umt import tokens_with_most_motion, tube_token_selection
from umt_training.data.video_dataset import VideoClipDataset
from umt_training.data.video_records import load_video_records
from umt_training.trainers.masked_tokens import num_pool_frames, select_masked_tokens

MOTION = {"mask_type": "motion", "keep_ratio": 0.5}


def make_motion_trainer(videos, output_dir, **arguments):
    return make_trainer(videos, output_dir, student=make_student(**PIXELS), teachers={}, **MOTION | arguments)


def some_clips(number: int, frames: int = 4) -> torch.Tensor:
    return torch.randn(number, frames, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("mask_ratio", "visible"), [(0.75, 8), (0.9, 3)])
def test_visible_and_target_tokens_are_the_kept_ones_split_at_random(mask_ratio, visible, tmp_path):
    trainer = make_motion_trainer(None, tmp_path, mask_ratio=mask_ratio)
    clips, seeds = some_clips(3), torch.tensor([5, 6, 7])
    shown, targets = trainer.select_tokens(clips, seeds)
    assert shown.shape == (3, visible) and targets.shape == (3, 16 - visible)
    kept = tokens_with_most_motion(trainer.model.umt.motion_importance(clips), 16)
    assert torch.equal(torch.cat([shown, targets], dim=1).sort(dim=1).values, kept)
    others, _ = trainer.select_tokens(clips, seeds + 1)
    assert not torch.equal(others, shown)
    alone = [trainer.select_tokens(clips[i : i + 1], seeds[i : i + 1])[0] for i in range(3)]
    assert torch.equal(torch.cat(alone), shown)


def test_counts_are_those_of_the_official_code():
    """At 16 x 224 x 224 pixels: 470 of 1568 tokens, 156 of them visible."""
    student = make_student(**PIXELS | {"image_size": 224, "num_frames": 16})
    clip, seed = torch.randn(1, 16, 3, 224, 224), torch.zeros(1, dtype=torch.int64)
    visible, targets = select_masked_tokens(student.umt, clip, seed, 0.9, 0.3, None)
    assert (visible.shape[1], targets.shape[1]) == (156, 314)


def test_dropped_tokens_appear_nowhere(tmp_path):
    """Neither the loss nor a gradient depends on their pixels."""
    trainer = make_motion_trainer(None, tmp_path)
    clips, seeds = some_clips(2), torch.tensor([5, 6])
    visible, targets = trainer.select_tokens(clips, seeds)
    kept = torch.zeros(2, 32, dtype=torch.bool).scatter(1, torch.cat([visible, targets], dim=1), True)
    pixels = kept.view(2, 2, 1, 4, 4).repeat_interleave(2, dim=1)
    pixels = pixels.repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)
    changed = torch.where(pixels, clips, torch.randn_like(clips))
    losses = [trainer.model(batch, visible_indices=visible, target_indices=targets).loss for batch in (clips, changed)]
    assert torch.equal(*losses) and not changed.equal(clips)


def test_motion_changes_with_the_patch_embedding_and_carries_no_gradient(tmp_path):
    trainer = make_motion_trainer(None, tmp_path)
    clips = some_clips(1).requires_grad_()
    assert not trainer.model.umt.motion_importance(clips).requires_grad
    batch = {"pixel_values_videos": some_clips(4), "sample_seeds": torch.arange(4)}
    before, _ = trainer.select_tokens(batch["pixel_values_videos"], batch["sample_seeds"])
    trainer.compute_loss(trainer.model.train(), batch).backward()
    gradient = trainer.model.umt.embeddings.patch_embeddings.weight.grad
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        trainer.model.umt.embeddings.patch_embeddings.weight[:, :768] = 0
    assert not torch.equal(trainer.select_tokens(batch["pixel_values_videos"], batch["sample_seeds"])[0], before)


def test_motion_with_the_features_of_teachers(tmp_path):
    trainer = make_trainer(None, tmp_path, **MOTION)
    batch = {"pixel_values_videos": some_clips(2), "sample_seeds": torch.arange(2)}
    _, outputs = trainer.compute_loss(trainer.model.train(), batch, return_outputs=True)
    assert outputs.predictions["video"].shape == (2, 8, 40) and set(outputs.losses) == {"image", "video"}


@pytest.mark.parametrize(
    "arguments", [{}, {"torch_compile": True, "torch_compile_backend": "eager"}, {"frame_pool_ratio": 1.5}]
)
def test_a_run_by_motion(arguments, tmp_path):
    (tmp_path / "videos").mkdir()
    videos = write_videos(tmp_path / "videos", number=8)
    num_frames = num_pool_frames(make_student(**PIXELS).config, arguments.get("frame_pool_ratio", 1.0))
    dataset = VideoClipDataset(load_video_records(str(videos)), **clip_options() | {"num_frames": num_frames})
    trainer = make_motion_trainer(None, tmp_path, dataset=dataset, num_train_epochs=2, **arguments)
    trainer.train()
    assert len(losses_of(trainer)) == 4 and all(0 < loss < 3 for loss in losses_of(trainer))
    assert (tmp_path / "pictures" / "masks.png").exists() and (tmp_path / "pictures" / "predictions.png").exists()


# --- the selection of frames ----------------------------------------------------------------------------------------


def test_pools_have_the_frames_of_the_paper():
    config = UMTConfig(num_frames=16, tubelet_size=2)
    for ratio, frames in ((1.0, 16), (1.3, 20), (1.5, 24), (1.8, 28), (2.0, 32)):
        assert num_pool_frames(config, ratio) == frames


@given(steps=st.integers(1, 40), tubelet=st.integers(1, 4), hundredths=st.integers(100, 400))
def test_a_pool_has_the_rounded_down_number_of_whole_tubelets(steps, tubelet, hundredths):
    config = UMTConfig(num_frames=steps * tubelet, tubelet_size=tubelet)
    assert num_pool_frames(config, hundredths / 100) == tubelet * (hundredths * steps // 100)


def test_frames_are_selected_in_pairs_in_temporal_order(tmp_path):
    """Only the pairs with motion are selected, of which there are two; those of a still background never."""
    trainer = make_motion_trainer(None, tmp_path, frame_pool_ratio=3, keep_ratio=0.3)
    clips = torch.zeros(20, 12, 3, 64, 64)
    clips[:, 6:8] = some_clips(20, 2)  # pair 3 differs from the one before it, and pair 4 from pair 3
    clips += torch.arange(12).view(12, 1, 1, 1) / 1e6  # names the frames
    selected = trainer.student_clips({"pixel_values_videos": clips, "sample_seeds": torch.arange(20)})
    assert selected.shape == (20, 4, 3, 64, 64)
    for clip, pool in zip(selected, clips, strict=True):
        assert torch.equal(clip, pool[6:10])


def test_pairs_are_drawn_from_the_seed_of_their_clip(tmp_path):
    trainer = make_motion_trainer(None, tmp_path, frame_pool_ratio=3)
    clips = some_clips(1, 12).expand(50, -1, -1, -1, -1)
    batch = {"pixel_values_videos": clips, "sample_seeds": torch.arange(50)}
    selected = trainer.student_clips(batch)
    assert torch.equal(selected, trainer.student_clips(batch))
    assert len({tuple(clip[:, 0, 0, 0].tolist()) for clip in selected}) > 5
    last = {name: values[-1:] for name, values in batch.items()}
    assert torch.equal(trainer.student_clips(last), selected[-1:])


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "arguments", "message"),
    [
        ({"num_frames": 2}, {}, "compares time steps, but 1 in 1 groups leaves 1"),
        ({}, {"mask_ratio": 0.4}, r"makes 19 tokens visible of the 16 that `keep_ratio` 0.5 keeps"),
        ({}, {"mask_ratio": 0.99}, "keeps none of 32 tokens"),
    ],
)
def test_ratios_that_leave_no_token_are_errors_before_a_clip_is_read(student, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(None, tmp_path, student=make_student(**PIXELS | student), teachers={}, **MOTION | arguments)


def test_what_motion_does_not_use_is_refused(tmp_path, monkeypatch):
    trainer = make_motion_trainer(None, tmp_path)
    trainer.token_selection = tube_token_selection
    with pytest.raises(ValueError, match=r"`token_selection` replaces those of `mask_type` tube and random"):
        trainer.check_motion()
    teachers = make_teachers(image={"patch_size": 14, "image_size": 56})
    with pytest.raises(ValueError, match=r"selects frames of the student's clips only, but the image teacher"):
        make_trainer(None, tmp_path, teachers=teachers, **MOTION, frame_pool_ratio=1.5)


def test_motion_under_sharding_is_an_error(tmp_path, sharded_trainers):
    with pytest.raises(ValueError, match="FSDP does not support"):
        make_motion_trainer(None, tmp_path)


def test_clips_without_the_frames_of_the_pool_are_an_error(tmp_path):
    trainer = make_motion_trainer(None, tmp_path, frame_pool_ratio=1.5)
    with pytest.raises(ValueError, match=r"have 4 frames, but `frame_pool_ratio` 1.5 selects the student's 4 from 6"):
        trainer.student_clips({"pixel_values_videos": some_clips(1), "sample_seeds": torch.zeros(1).long()})
