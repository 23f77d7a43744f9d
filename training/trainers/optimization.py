"""Parameter groups and learning-rate schedules of UMT (arXiv 2303.16058), as in its released training scripts.

The parameter groups follow one rule in every stage: no weight decay for vectors, biases, position tables and the mask
token of pixels.
Fine-tuning adds a learning rate that decreases by a constant factor per layer towards the input. Both schedules are
pure functions of the step, wrapped in PyTorch's `LambdaLR`, so a resumed run continues exactly where it stopped.

Unusual, and kept from the released code because the published results depend on it:
- the warm-up includes both ends, so the peak learning rate is used twice in a row; the cosine never quite reaches its
  minimum;
- stage 2 floors its schedule instead of shifting it, warm-up included, and decays its 0-dimensional temperature;
- the mask tokens of feature targets (MVD) are decayed, that of pixels (VideoMAE, EVEREST) is not.
"""

import math
import re
from functools import partial

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from modeling_umt.configuration_umt import PIXELS

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")


def scaled_learning_rate(base_learning_rate: float, effective_batch_size: int) -> float:
    """The linear scaling rule of stage 1 and of fine-tuning: `base * effective_batch_size / 256`.

    It applies to the peak, the minimum and the start of the warm-up. Stage 2 and its downstream tasks use absolute
    learning rates.

    Args:
        base_learning_rate (`float`): The recipe's learning rate for 256 clips.
        effective_batch_size (`int`): Clips per optimiser step: processes x batch x accumulation x views per video.

    Returns:
        `float`: The learning rate.
    """
    return base_learning_rate * effective_batch_size / 256


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter: to all but 1-D tensors, biases, position tables, class tokens and
    the mask token of pixels.

    A 0-dimensional parameter (the temperature of stage 2) is decayed.
    """
    is_added = name.rpartition(".")[2] in ("position_embeddings", "cls_token")
    is_excluded = is_added or name.endswith(f"decoders.{PIXELS}.mask_token")
    return parameter.ndim != 1 and not name.endswith(".bias") and not is_excluded


def layer_id(name: str, num_layers: int) -> int:
    """Depth of a parameter: 0 for the embeddings, `i + 1` for layer i, `num_layers + 1` after the last layer (final
    norm, head, decoders).

    Prefixes and infixes of wrappers (compile, LoRA, checkpointing) are ignored.

    Raises:
        ValueError: if the index of the layer is not below `num_layers`.
    """
    layer = _LAYER.search(name)
    if layer is not None:
        index = int(layer.group(1))
        if index >= num_layers:
            raise ValueError(
                f"Parameter {name!r} belongs to layer {index}, but the configuration has {num_layers} layers."
            )
        return index + 1
    return 0 if _EMBEDDINGS.search(name) else num_layers + 1


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, object]]:
    """Parameter groups of a model for an optimiser: one for each layer id, with and without weight decay.

    Args:
        model (`nn.Module`): The model; only its trainable parameters are grouped. With a layer decay,
            `config.num_hidden_layers` is the number of layers, L.
        learning_rate (`float`): Peak learning rate of the group with scale 1.
        weight_decay (`float`): Weight decay of the groups that are decayed.
        layer_decay (`float`, defaults to 1.0):
            Layer id i has the learning rate `learning_rate * layer_decay ** (L + 1 - i)`. Fine-tuning uses 0.75 for
            B/16 and 0.85 for L/16. With 1.0 all layers form one group, with and without weight decay.

    Returns:
        `list[dict]`: Groups with `params`, `lr`, `weight_decay` and a readable `name`, shallowest first.

    Raises:
        ValueError: if no parameter is trainable, or, with a layer decay, if none of them belongs to a layer.
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
        raise ValueError("The model has no trainable parameter; unfreeze some before creating an optimiser.")
    if layer_decay != 1.0 and not any(1 <= depth <= num_layers for depth, _ in groups):
        raise ValueError(
            f"layer_decay={layer_decay} found no trainable parameter in a layer (names with 'layers.<i>.'); "
            "use layer_decay=1.0 to train only a head, or a model with other names."
        )
    return [groups[key] for key in sorted(groups)]


def cosine_factor(
    step: int, *, total_steps: int, warmup_steps: int, start_factor: float, final_factor: float
) -> float:
    """Learning rate of stage 1 and fine-tuning at an optimiser step, as a fraction of the peak.

    Linear from `start_factor` to 1 over `warmup_steps` (both ends included), then half a cosine towards
    `final_factor`, which is reached only after the last step.
    """
    if step < warmup_steps:
        return start_factor + (1 - start_factor) * step / max(1, warmup_steps - 1)
    # the scheduler also evaluates the step after the last one
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_factor + 0.5 * (1 - final_factor) * (1 + math.cos(math.pi * progress))


def floored_cosine_factor(step: int, *, total_steps: int, warmup_steps: int, floor: float) -> float:
    """Learning rate of stage 2 and its downstream tasks at an optimiser step, as a fraction of the peak.

    `step / warmup_steps`, then half a cosine to zero, neither below `floor`.
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
    """The schedule of stage 1 (warm-up from 0) and of fine-tuning (warm-up from the minimum).

    Groups with a smaller learning rate follow the same curve in proportion, including minimum and start.

    Args:
        optimizer (`Optimizer`): The optimiser; `lr` of its groups is their peak, as set by [`parameter_groups`].
        total_steps (`int`): Number of optimiser steps of the run.
        warmup_steps (`int`): Number of steps of the linear warm-up, 0 for none.
        learning_rate, min_learning_rate (`float`): Peak and minimum of the group with scale 1, after scaling by the
            batch.
        warmup_learning_rate (`float`, defaults to 0.0): Start of the warm-up, after scaling by the batch.

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
    """The schedule of stage 2 and its downstream tasks.

    Args:
        optimizer (`Optimizer`): The optimiser; `lr` of its groups is their peak.
        total_steps (`int`): Number of optimiser steps of the run.
        warmup_steps (`int`): Number of steps of the linear warm-up, 0 for none.
        floor (`float`, defaults to 0.01): Lower bound as a fraction of the peak, also during the warm-up.

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
            "train longer or shorten the warm-up (counted in optimiser steps)."
        )
