"""An official checkpoint to a repository on the Hub: read, held against its row of the registry, converted, written
with card, code and processor, uploaded in one commit.

Not of the paper. Unusual: whatever does not fit the row - the hash, the kind, a key, a shape, a number that is not
finite - is an error before the repository is even created. Weights are saved in shards: an upload that was interrupted
goes on with the shards that the Hub has not got, and nothing is visible before the one commit that ends it.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from transformers import PreTrainedModel

from modeling_umt import UMTTeacherModel, convert_umt_checkpoint

from .card_template import environment, table
from .checkpoint_registry import CheckpointRow, read_registry, row_config, row_processor
from .published_card import repository_files, settings_text

# A lost connection costs at most this much again.
MAX_SHARD_SIZE = "1GB"


def build_repository(
    row: CheckpointRow, folder: Path, repo_id: str, checkpoint: str | None = None, vocabulary: str | None = None
) -> None:
    """Make everything that is published of a row, weights and code too, in `folder`, which must not exist yet.

    Args:
        repo_id: The id on the Hub that the card's code loads.
        checkpoint: The official file; by default it is fetched from the Hub.
        vocabulary: Hub id or folder of a BERT, or its `vocab.txt`, for a video-text model; by default the row's.

    Raises:
        ValueError: if the folder exists, there is no model for the row, or the file is not what the row says.
        OSError: if a file can't be found or fetched.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; give a folder that does not exist.")
    config = row_config(row)
    model, origin = official_model(row, config, checkpoint)
    require_row(row, model, config)
    processor = row_processor(row, vocabulary or read_registry()["sizes"][row.size]["bert"])

    folder.parent.mkdir(parents=True, exist_ok=True)
    # built beside its place and moved there whole
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as building:
        place = Path(building) / "repository"
        model.save_pretrained(place, max_shard_size=MAX_SHARD_SIZE)
        processor.save_pretrained(place)
        for name, text in repository_files(row, repo_id, origin).items():
            path = place / name
            if path.suffix == ".json":  # written above; what the registry promises must be what was saved
                require_same_settings(path, text)
                continue
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        os.replace(place, folder)


def official_model(row: CheckpointRow, config: Any, checkpoint: str | None) -> tuple[PreTrainedModel, str]:
    """The row's model with its official weights, and what they were made from, in Markdown."""
    if checkpoint is None and row.clip is not None:
        model = UMTTeacherModel.from_clip(row.clip, image_size=config.image_size)
        return (
            model,
            f"Converted from `{row.clip}` by `umt publish`:\n\n{table(('package', 'version'), environment())}",
        )
    if checkpoint is None:
        checkpoint = hf_hub_download(read_registry()["source"]["hub"], row.official_file)
    if not os.path.isfile(checkpoint):
        raise FileNotFoundError(f"There is no checkpoint {checkpoint!r}; give the path of {row.official_file}.")
    sha256 = file_sha256(checkpoint)
    if row.sha256 is not None and sha256 != row.sha256:
        raise ValueError(
            f"{checkpoint} is not the published {row.name}: its SHA-256 is {sha256}, the registry's {row.sha256}. "
            "It may be truncated, damaged or another file; fetch it again."
        )
    if row.sha256 is None:
        print(f"{checkpoint}: SHA-256 {sha256} (the registry has none to compare with)", flush=True)
    origin = (
        f"Converted by `umt publish` from a file of {os.path.getsize(checkpoint):,} bytes with the SHA-256 `{sha256}`:"
        f"\n\n{table(('package', 'version'), environment())}"
    )
    return convert_umt_checkpoint(checkpoint, config=config), origin


def require_row(row: CheckpointRow, model: PreTrainedModel, config: Any) -> None:
    """Raise a ValueError unless the model is the row's, with the row's configuration and finite weights."""
    if type(model) is not row.model_class:
        raise ValueError(
            f"The file is of another kind than {row.name}: it holds a {type(model).__name__}, and the row says "
            f"{row.kind}, a {row.model_class.__name__}."
        )
    found, expected = comparable(model.config), comparable(config)
    differing = [
        f"{name} is {found.get(name)!r} instead of {expected.get(name)!r}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise ValueError(f"The file does not fit the row {row.name}: {'; '.join(differing)[:2000]}.")
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(
            f"The file holds numbers that are not finite, in {len(broken)} tensors, among them {broken[0]}. It is "
            "damaged, or from a run that diverged."
        )


def comparable(fields: Any) -> dict[str, Any]:
    """A configuration, also one inside another, as plain values without what depends on how it was made."""
    if not isinstance(fields, dict):
        fields = json.loads(fields.to_json_string(use_diff=False))
    left_out = ("_name_or_path", "architectures", "auto_map", "dtype")
    return {
        name: comparable(value) if name.endswith("_config") else value
        for name, value in fields.items()
        if name not in left_out
    }


def require_same_settings(path: Path, text: str) -> None:
    """Raise a ValueError unless a saved JSON file has the settings that the row's card folder has."""
    saved = settings_text(json.loads(path.read_text(encoding="utf-8")))
    if json.loads(saved) != json.loads(text):
        raise ValueError(f"{path.name} was saved with other settings than the registry's; run `umt card check`.")


def file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def upload(folder: Path, repo_id: str, private: bool, message: str) -> str:
    """Upload a built repository in one commit, and return the commit's address.

    Large files go first and become visible with the commit; those that the Hub already has, from an attempt that was
    interrupted, are not sent again.
    """
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url
