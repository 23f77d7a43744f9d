"""Recorded keys and shapes of published files, UMT's and those of related methods."""

import json
from collections.abc import Iterator

from recorded import FIXTURES

Shapes = dict[str, list[int]]


def full_size_files() -> dict[str, tuple[Shapes, dict]]:
    """Of each recorded file, by `list/name`, its shapes by key and the record."""
    readers = {"full_size_keys": of_umt, "mvd_full_size_keys": of_mvd}
    readers |= {"everest_full_size_keys": of_everest, "internvideo2_full_size_keys": of_internvideo2}
    files = {}
    for name, read in readers.items():
        models = json.loads((FIXTURES / f"{name}.json").read_text())["models"]
        method = name.removesuffix("full_size_keys").rstrip("_") or "umt"
        files |= {f"{method}/{model}": (shapes, models[model]) for model, shapes in read(models)}
    return files


def of_umt(models: dict) -> Iterator[tuple[str, Shapes]]:
    for name, model in models.items():
        yield name, model["keys"]


def of_mvd(models: dict) -> Iterator[tuple[str, Shapes]]:
    for name, model in models.items():
        yield name, models[model["as"]]["keys"] | model["keys_that_differ"] if "as" in model else model["keys"]


def of_everest(models: dict) -> Iterator[tuple[str, Shapes]]:
    """Some lists contain the first block of each tower only."""
    for name, model in models.items():
        if "keys" in model:
            yield name, model["keys"]
            continue
        shapes, sizes = dict(model["keys_outside_blocks_and_first_blocks"]), model["config"]
        depths = (
            {"encoder.blocks.": sizes["encoder"][1], "decoder.blocks.": sizes["decoder"][1]}
            if ("encoder" in sizes)
            else {"blocks.": sizes["blocks"]}
        )
        for prefix, depth in depths.items():
            first = {key: shape for key, shape in shapes.items() if key.startswith(f"{prefix}0.")}
            for i in range(1, depth):
                shapes |= {key.replace(f"{prefix}0.", f"{prefix}{i}."): shape for key, shape in first.items()}
        yield name, shapes


def of_internvideo2(models: dict) -> Iterator[tuple[str, Shapes]]:
    """Variants are those of the classifier of their size with other clips, other classes, or no head."""
    for name, model in models.items():
        if "keys" not in model:
            yield name, internvideo2_variant(name, models)
            continue
        is_text = name == "mobileclip_b_text"
        prefix, blocks = ("text_encoder.", "text_encoder.transformer.") if is_text else ("", "blocks.")
        shapes = {f"{prefix}{key}": shape for key, shape in model["keys"].items()}
        for i in range(model["blocks"]):
            shapes |= {f"{blocks}{i}.{key}": shape for key, shape in model["every_block"].items()}
        yield name, shapes


def internvideo2_variant(name: str, models: dict) -> Shapes:
    """The shapes of `classifier_SIZE_fFRAMES_CLASSES` or of `clip_vision_SIZE`."""
    kind, _, variant = name.partition("_")
    size, *clip = variant.removeprefix("vision_").split("_")
    base = dict(of_internvideo2({"base": models[f"classifier_{size}_f8_400"]}))["base"]
    if kind == "clip":
        return {key: shape for key, shape in base.items() if not key.startswith(("fc_norm.", "head."))}
    frames, classes = int(clip[0][1:]), int(clip[1])
    table, head = base["pos_embed"], base["head.weight"]
    return base | {
        "pos_embed": [1, 1 + 256 * frames, table[2]],
        "head.weight": [classes, head[1]],
        "head.bias": [classes],
    }
