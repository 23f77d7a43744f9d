"""A CLIP of a million weights, trained from nothing in a minute: the image-text teacher of toy-scale runs.

Transformers' own `CLIPModel` (arXiv 2103.00020) learns to match frames with their captions, and
`UMTTeacherModel.from_clip` reads the folder it is saved in as it would read OpenAI's.

Unusual, and needed for a teacher of motion clips. A student that is to follow an object learns nothing from features
that do not know where things are, and those of so short a training do not, unless

- the mean of the patch tokens learns to match the captions as the class token does. CLIP trains the class token alone:
  what its last layer writes into the patch tokens, with which UMT aligns, is then left to chance, and at this size
  positions were in them after some trainings and not after others, whatever the loss;
- the position table starts at the scale 1, not at CLIP's 0.02. From there, and from 0.09 still, positions are never
  found.

Two blocks make a better teacher than four: the class token of so few has to look at the object itself to name it, and
attention masks keep the object. After 1,000 steps of stage 1 the distance to one was 0.09, to three of four blocks
0.09, 0.16 and 0.39.
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
    """Vision tower of width 128 and depth 2, text tower of width 128 and depth 2, joint space of width 128.

    Args:
        num_words: Size of the vocabulary; the end of a caption is one token more.
        max_words: Words of the longest caption.
        image_size, patch_size: Pixels of frames and patches.
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
    """Train a tiny CLIP on frames and captions, its class token and the mean of its patch tokens alike.

    AdamW at (0.9, 0.98) and weight decay 0.1; the rate warms up over a tenth of the steps and falls along a cosine.
    Frames are normalised with ImageNet's statistics, because so a UMT teacher gets them.

    Args:
        frames: uint8 `(images, height, width, 3)`, square.
        captions: One for each frame; a word is a run of letters or digits.
        num_steps, batch_size, learning_rate: Of the optimiser.
        seed: Of the weights and of the order of the frames.
        bf16: Compute in bfloat16; weights stay float32.
        on_step: Called as `on_step(step, loss)` after each step, counted from 1.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if the frames are not as many as the captions, or fewer than two.
    """
    if len(frames) != len(captions) or len(frames) < 2:
        raise ValueError(f"Give one caption for each of at least 2 frames, not {len(captions)} for {len(frames)}.")
    token_ids, words = tokenize(captions)
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # Transformers draws weights from PyTorch's own state, which is put back afterwards
        model = CLIPModel(tiny_clip_config(len(words), token_ids.shape[1] - 1, image_size=frames.shape[1])).train()
        torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=POSITION_STD)
    model.set_attn_implementation("eager")  # on a CPU plain products are faster at this size
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
    """CLIP's contrastive loss, mean of that of the class token and that of the mean of the patch tokens.

    Args:
        pixel_values: Normalised, `(B, 3, height, width)`.
        token_ids: int64 `(B, words)`, one caption for each image.

    Returns:
        A float32 scalar.
    """
    tokens = model.vision_model(pixel_values).last_hidden_state  # (B, 1 + patches, width)
    tokens = model.visual_projection(model.vision_model.post_layernorm(tokens)).float()
    texts = model.text_projection(model.text_model(token_ids).pooler_output).float()  # (B, D)
    texts, own = F.normalize(texts, dim=-1), torch.arange(len(texts))
    losses = []
    for images in (tokens[:, 0], tokens[:, 1:].mean(dim=1)):
        scores = model.logit_scale.exp() * F.normalize(images, dim=-1) @ texts.T  # (B, B)
        losses += [F.cross_entropy(scores, own), F.cross_entropy(scores.T, own)]
    return torch.stack(losses).mean()


def tokenize(captions: Sequence[str]) -> tuple[torch.Tensor, list[str]]:
    """Captions as numbers of their words.

    Returns:
        int64 `(captions, longest + 1)`, filled up with the token that ends a caption, and the vocabulary, sorted; the
        end is the number after the last word.
    """
    split = [re.findall(r"\w+", caption.lower()) for caption in captions]
    words = sorted(set().union(*split))
    number = {word: index for index, word in enumerate(words)}
    token_ids = torch.full((len(split), max(map(len, split)) + 1), len(words))
    for row, caption in enumerate(split):
        token_ids[row, : len(caption)] = torch.tensor([number[word] for word in caption])
    return token_ids, words
