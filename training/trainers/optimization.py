"""Optimiser groups and learning-rate schedules of UMT (arXiv 2303.16058), as its released training scripts set them.

One rule of parameter groups serves every stage: weight decay spares vectors, biases and position tables; fine-tuning
adds a learning rate that shrinks by a constant factor per layer towards the input. Both schedules are pure functions
of the step, wrapped in PyTorch's `LambdaLR`, so a resumed run continues exactly where the interrupted one stopped.

Unusual, and kept from the released code because the published numbers rest on it:
- the warm-up includes both ends, so the peak rate is used twice in a row; the cosine never quite reaches its minimum;
- stage 2 floors its schedule instead of shifting it, warm-up included, and decays its 0-dimensional temperature.
"""

import math
import re
from functools import partial

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")


def scaled_learning_rate(base_learning_rate: float, effective_batch_size: int) -> float:
    """
    The linear rule of stage 1 and of fine-tuning: `base * effective_batch_size / 256`. It holds for the peak, the
    minimum and the warm-up's start alike. Stage 2 and its downstream tasks use absolute rates.

    Args:
        base_learning_rate (`float`): The recipe's rate for 256 clips.
        effective_batch_size (`int`): Clips per optimiser step: processes x batch x accumulation x views per video.

    Returns:
        `float`: The learning rate.
    """
    return base_learning_rate * effective_batch_size / 256


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """
    Whether weight decay applies to a parameter: not to 1-D tensors, biases and position tables. A 0-dimensional
    parameter (the temperature of stage 2) is decayed.
    """
    is_position_table = name.rpartition(".")[2] == "position_embeddings"
    return parameter.ndim != 1 and not name.endswith(".bias") and not is_position_table


def layer_id(name: str, num_layers: int) -> int:
    """
    Depth of a parameter: 0 for the embeddings, `i + 1` for layer i, `num_layers + 1` for what follows the last layer
    (final norm, head, decoders). Prefixes and infixes of wrappers (compile, LoRA, checkpointing) do not matter.

    Raises:
        ValueError: if the name belongs to a layer that a model of `num_layers` layers does not have.
    """
    layer = _LAYER.search(name)
    if layer is not None:
        index = int(layer.group(1))
        if index >= num_layers:
            raise ValueError(
                f"Parameter {name!r} lies in layer {index}, but the configuration has {num_layers} layers."
            )
        return index + 1
    return 0 if _EMBEDDINGS.search(name) else num_layers + 1


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, object]]:
    """
    The trainable parameters of a model, grouped for an optimiser: (layer id) x (decay or not) with layer-wise decay,
    at most two groups without.

    Args:
        model (`nn.Module`): With a layer decay, its `config.num_hidden_layers` gives the depth.
        learning_rate (`float`): Peak rate of the group with scale 1.
        weight_decay (`float`): For the groups that are decayed.
        layer_decay (`float`, defaults to 1.0):
            Scale between neighbouring layers: layer id i trains with `learning_rate * layer_decay ** (L + 1 - i)`.
            0.75 for B/16 and 0.85 for L/16 in fine-tuning; 1.0, one rate for all, everywhere else.

    Returns:
        `list[dict]`: Groups with `params`, `lr`, `weight_decay` and a readable `name`, shallowest first.

    Raises:
        ValueError: if nothing is trainable, or if no parameter with a layer decay lies in a layer.
    """
    groups: dict[tuple[int, bool], dict[str, object]] = {}
    num_layers = model.config.num_hidden_layers if layer_decay != 1.0 else 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = layer_id(name, num_layers) if layer_decay != 1.0 else 0
        decayed = has_weight_decay(name, parameter)
        if (depth, decayed) not in groups:
            scale = layer_decay ** (num_layers + 1 - depth)
            groups[depth, decayed] = {
                "name": ("all layers" if layer_decay == 1.0 else f"layer id {depth}")
                + ("" if decayed else ", no decay"),
                "params": [],
                "lr": learning_rate * scale,
                "weight_decay": weight_decay if decayed else 0.0,
            }
        groups[depth, decayed]["params"].append(parameter)
    if not groups:
        raise ValueError("The model has no trainable parameter; unfreeze some before making an optimiser.")
    if layer_decay != 1.0 and not any(1 <= depth <= num_layers for depth, _ in groups):
        raise ValueError(
            f"layer_decay={layer_decay} found no trainable parameter in a layer (names with 'layers.<i>.'); "
            "use layer_decay=1.0 to train only a head or a model built otherwise."
        )
    return [groups[key] for key in sorted(groups)]


def cosine_factor(
    step: int, *, total_steps: int, warmup_steps: int, start_factor: float, final_factor: float
) -> float:
    """
    Share of the peak learning rate at an optimiser step in stage 1 and fine-tuning: a line from `start_factor` to 1
    over `warmup_steps` (both ends included), then half a cosine towards `final_factor`, which it reaches only after
    the last step.
    """
    if step < warmup_steps:
        return start_factor + (1 - start_factor) * step / max(1, warmup_steps - 1)
    # the scheduler also asks for the step after the last one
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_factor + 0.5 * (1 - final_factor) * (1 + math.cos(math.pi * progress))


def floored_cosine_factor(step: int, *, total_steps: int, warmup_steps: int, floor: float) -> float:
    """
    Share of the peak learning rate at an optimiser step in stage 2 and its downstream tasks: `step / warmup_steps`,
    then half a cosine to zero, neither below `floor`.
    """
    if step < warmup_steps:
        return max(floor, step / warmup_steps)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return max(floor, 0.5 * (1 + math.cos(math.pi * progress)))


def cosine_schedule(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup_steps: int,
    learning_rate: float,
    min_learning_rate: float,
    warmup_learning_rate: float = 0.0,
) -> LambdaLR:
    """
    The schedule of stage 1 (warm-up from 0) and of fine-tuning (warm-up from the minimum), from a recipe's rates.
    Groups with a smaller rate follow the same curve in proportion, their minimum and start included.

    Args:
        optimizer (`Optimizer`): Its groups hold their peak rates, as [`parameter_groups`] sets them.
        total_steps (`int`): Optimiser steps of the whole run.
        warmup_steps (`int`): Steps of the linear warm-up, 0 for none.
        learning_rate, min_learning_rate (`float`): Peak and minimum of the group with scale 1, already scaled.
        warmup_learning_rate (`float`, defaults to 0.0): Where the warm-up starts, already scaled.

    Returns:
        `LambdaLR`, to be stepped once per optimiser step.

    Raises:
        ValueError: if the warm-up is longer than the run, or the peak is not positive.
    """
    _check_steps(total_steps, warmup_steps)
    if learning_rate <= 0:
        raise ValueError(f"The peak learning rate must be positive; got {learning_rate}.")
    factor = partial(
        cosine_factor,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        start_factor=warmup_learning_rate / learning_rate,
        final_factor=min_learning_rate / learning_rate,
    )
    return LambdaLR(optimizer, factor)


def floored_cosine_schedule(
    optimizer: Optimizer, *, total_steps: int, warmup_steps: int, floor: float = 0.01
) -> LambdaLR:
    """
    The schedule of stage 2 and its downstream tasks.

    Args:
        optimizer (`Optimizer`): Its groups hold their peak rates.
        total_steps (`int`): Optimiser steps of the whole run.
        warmup_steps (`int`): Steps of the linear warm-up, 0 for none.
        floor (`float`, defaults to 0.01): Smallest share of the peak, during the warm-up too.

    Returns:
        `LambdaLR`, to be stepped once per optimiser step.

    Raises:
        ValueError: if the warm-up is longer than the run.
    """
    _check_steps(total_steps, warmup_steps)
    return LambdaLR(
        optimizer, partial(floored_cosine_factor, total_steps=total_steps, warmup_steps=warmup_steps, floor=floor)
    )


def _check_steps(total_steps: int, warmup_steps: int) -> None:
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"A run of {total_steps} steps cannot have a warm-up of {warmup_steps}; "
            "train longer or shorten the warm-up (it is counted in optimiser steps)."
        )
