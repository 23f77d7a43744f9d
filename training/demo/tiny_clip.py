"""A CLIP of a million parameters, trained from scratch in a minute: the image-text teacher of toy-scale runs.

Transformers' `CLIPModel` (arXiv 2103.00020) is trained on frames and captions, and `UMTTeacherModel.from_clip` loads
it like any other CLIP checkpoint.

Unusual: two changes to CLIP's training. A student that has to follow an object needs a teacher whose features encode
positions, and after so short a training they do so only if

- the mean of the patch tokens is matched with the captions too. CLIP's loss trains only the class token, so the last
  layer's patch tokens, with which UMT aligns, are unconstrained: at this size they encoded positions after some
  trainings and not after others, independently of the loss;
- the position table is initialised with standard deviation 1 instead of CLIP's 0.02. From 0.02, and still from 0.09,
  positions were never learnt.

Two blocks are a better teacher than four: with so few blocks the class token attends to the object itself, so
attention masks keep the object visible. After 1,000 steps of stage 1 the alignment loss was 0.09 with a teacher of
two blocks, and 0.09, 0.16 and 0.39 with three teachers of four blocks.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..trainers.optimization import cosine_schedule

POSITION_STD = 1.0


def tiny_clip_config(num_words: int, max_words: int, image_size: int = 32, patch_size: int = 8) -> CLIPConfig:
    """Vision and text tower of two layers each; all hidden sizes and the joint embedding have dimension 128.

    Args:
        num_words: Size of the vocabulary without the end-of-text token.
        max_words: Words of the longest caption.
        image_size, patch_size: Pixels per side of frames and patches.
    """
    return CLIPConfig(
        vision_config={
            "image_size": image_size,
            "patch_size": patch_size,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
        },
        text_config={
            "vocab_size": num_words + 1,
            "max_position_embeddings": max_words + 1,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
            "bos_token_id": num_words,
            "eos_token_id": num_words,
            "pad_token_id": num_words,
        },
        projection_dim=128,
    )


def train_tiny_clip(
    frames: np.ndarray,
    captions: Sequence[str],
    *,
    num_steps: int = 500,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    bf16: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> CLIPModel:
    """Train a tiny CLIP on frames and captions, with the loss of `matching_loss`.

    AdamW with betas (0.9, 0.98) and weight decay 0.1; linear warm-up over a tenth of the steps, then a cosine schedule
    to zero. Frames are normalised with ImageNet's statistics, like the input of a UMT teacher.

    Args:
        frames: uint8 `(images, height, width, 3)`, square.
        captions: One per frame; a word is a sequence of letters or digits.
        num_steps: Optimiser steps.
        batch_size: Frames per step, sampled with replacement.
        learning_rate: Peak learning rate.
        seed: Seed of the initial weights and of the sampling of frames.
        bf16: Use bfloat16 autocast; weights stay float32.
        on_step: Called as `on_step(step, loss)` after each step, counted from 1.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if the numbers of frames and captions differ, or are less than two.
    """
    if len(frames) != len(captions) or len(frames) < 2:
        raise ValueError(f"Give one caption for each of at least 2 frames, not {len(captions)} for {len(frames)}.")
    token_ids, words = tokenize(captions)
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # Transformers initialises weights from PyTorch's global state, restored afterwards
        model = CLIPModel(tiny_clip_config(len(words), token_ids.shape[1] - 1, image_size=frames.shape[1])).train()
        torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=POSITION_STD)
    model.set_attn_implementation("eager")  # faster than fused attention on a CPU at this size
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = cosine_schedule(
        optimizer,
        total_steps=num_steps,
        warmup_steps=num_steps // 10,
        learning_rate=learning_rate,
        min_learning_rate=0.0,
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    for step in range(1, num_steps + 1):
        batch = generator.integers(len(frames), size=batch_size)
        pixels = torch.from_numpy(frames[batch]).permute(0, 3, 1, 2) / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = matching_loss(model, (pixels - mean) / std, token_ids[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())
    return model.eval()


def matching_loss(model: CLIPModel, pixel_values: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """CLIP's contrastive loss, averaged over two image embeddings: the class token and the mean patch token.

    Args:
        pixel_values: Normalised, `(B, 3, height, width)`.
        token_ids: int64 `(B, words)`, one caption per image.

    Returns:
        A float32 scalar.
    """
    tokens = model.vision_model(pixel_values).last_hidden_state  # (B, 1 + patches, D)
    tokens = model.visual_projection(model.vision_model.post_layernorm(tokens)).float()
    texts = model.text_projection(model.text_model(token_ids).pooler_output).float()  # (B, D)
    texts, labels = F.normalize(texts, dim=-1), torch.arange(len(texts))
    losses = []
    for images in (tokens[:, 0], tokens[:, 1:].mean(dim=1)):
        logits = model.logit_scale.exp() * F.normalize(images, dim=-1) @ texts.T  # (B, B)
        losses += [F.cross_entropy(logits, labels), F.cross_entropy(logits.T, labels)]
    return torch.stack(losses).mean()


def tokenize(captions: Sequence[str]) -> tuple[torch.Tensor, list[str]]:
    """Token ids of captions, one token per word.

    Returns:
        int64 `(captions, longest + 1)`, padded with the end-of-text token, and the sorted vocabulary. The id of the
        end-of-text token is the size of the vocabulary.
    """
    split = [re.findall(r"\w+", caption.lower()) for caption in captions]
    words = sorted(set().union(*split))
    ids = {word: index for index, word in enumerate(words)}
    token_ids = torch.full((len(split), max(map(len, split)) + 1), len(words))
    for row, caption in enumerate(split):
        token_ids[row, : len(caption)] = torch.tensor([ids[word] for word in caption])
    return token_ids, words
