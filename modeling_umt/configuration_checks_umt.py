"""Checks of configuration fields, and what several configurations derive from them."""

from transformers import PreTrainedConfig


def height_width(image_size: int | list[int] | tuple[int, int]) -> tuple[int, ...]:
    """`image_size` as (height, width)."""
    return (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)


def aligned_layers(
    config: PreTrainedConfig, count_name: str = "num_aligned_layers", interval_name: str = "aligned_layer_interval"
) -> list[int]:
    """Indices of the blocks whose outputs are aligned, ascending: `{depth - 1 - int(i * interval)}`.

    `config` is of a student or a teacher: both have `num_hidden_layers` and the fields of the two names.

    Raises:
        ValueError: if these are not so many distinct blocks of the model.
    """
    depth, count, interval = config.num_hidden_layers, getattr(config, count_name), getattr(config, interval_name)
    layers = sorted({depth - 1 - int(i * interval) for i in range(count)})
    if count < 1 or len(layers) != count or layers[0] < 0:
        raise ValueError(
            f"`{count_name}` {count} with `{interval_name}` {interval} does not select {count} distinct "
            f"blocks of a model with `num_hidden_layers` {depth}."
        )
    return layers


def require_positive(config: PreTrainedConfig, *names: str) -> None:
    """Raise a ValueError unless every `config.<name>` is at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, but is {getattr(config, name)}.")


def require_divisible(config: PreTrainedConfig, name: str, divisor: str) -> None:
    """Raise a ValueError unless `config.<name>` is a multiple of `config.<divisor>`."""
    if getattr(config, name) % getattr(config, divisor):
        raise ValueError(
            f"`{name}` {getattr(config, name)} must be a multiple of `{divisor}` {getattr(config, divisor)}."
        )


def require_whole_patches(config: PreTrainedConfig) -> None:
    """Raise a ValueError unless `config.image_size` is one side or two, which `config.patch_size` divides."""
    sides = height_width(config.image_size)
    if len(sides) != 2 or min(sides) < 1 or any(side % config.patch_size for side in sides):
        raise ValueError(
            "`image_size` must be one side or [height, width], each a multiple of `patch_size` "
            f"{config.patch_size}, but is {config.image_size}."
        )


def require_choice(config: PreTrainedConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless `config.<name>` is one of `choices`."""
    if getattr(config, name) not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, but is {getattr(config, name)!r}.")


def validate_motion_selection(config: PreTrainedConfig) -> None:
    """Raise a ValueError if tokens can't be selected by motion as the fields state."""
    require_positive(config, "motion_groups")
    if not config.motion_drop_ratio:
        return
    num_steps, groups = config.num_frames // config.tubelet_size, config.motion_groups
    if num_steps % groups or num_steps // groups < 2:
        raise ValueError(
            f"`motion_drop_ratio` {config.motion_drop_ratio} compares time steps: the {num_steps} steps of a clip "
            f"(`num_frames` / `tubelet_size`) must form {groups} groups (`motion_groups`) of the same length, two "
            "steps or more."
        )


def require_all_tokens(config: PreTrainedConfig, user: str) -> None:
    """Raise a ValueError if the configuration drops tokens, which `user`, the subject of the message, can't do."""
    if config.motion_drop_ratio:
        raise ValueError(
            f"{user} requires all tokens of a clip, but `motion_drop_ratio` is {config.motion_drop_ratio}; set it "
            "to 0."
        )
