"""Publishing an official checkpoint on the Hub: check it against its row of the registry, convert it, save it with
card, code and processor, and upload it in one commit.

A mismatch with the row (hash, kind, keys, shapes, non-finite weights) is an error before the repository is created.
Weights are saved in shards: an interrupted upload resumes with the missing shards, and nothing is visible before the
final commit.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_umt import UMTTeacherModel, convert_umt_checkpoint
from modeling_umt.vocabulary_umt import record_vocabulary

from .card_template import environment, table
from .checkpoint_registry import VIDEO_TEXT_KINDS, CheckpointRow, read_registry, row_config, row_processor
from .published_card import repository_files, settings_text

# At most this much is sent again after a lost connection.
MAX_SHARD_SIZE = "1GB"


def build_repository(
    row: CheckpointRow,
    folder: Path,
    repo_id: str,
    checkpoint: str | None = None,
    vocabulary: str | None = None,
    licence: str | None = None,
) -> None:
    """Create the complete repository of a row, including weights and code, in `folder`.

    Args:
        row: The row of the registry.
        folder: The folder to create; it must not exist.
        repo_id: Id on the Hub in the card's code.
        checkpoint (*optional*): The official file. Default: it is downloaded from the Hub.
        vocabulary (*optional*): Hub id or folder of a BERT, or its `vocab.txt`, for a video-text model. Default: the
            row's.
        licence (*optional*): The licence of the weights, where the row states none.

    Raises:
        ValueError: if the folder exists, or the file or the vocabulary does not fit the row.
        OSError: if a file can't be found or downloaded.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose a new folder.")
    config = row_config(row)
    model, origin = official_model(row, config, checkpoint)
    require_row(row, model, config)
    vocabulary = vocabulary or read_registry()["sizes"][row.size].get("bert")
    processor = row_processor(row, vocabulary)
    if row.kind in VIDEO_TEXT_KINDS:
        record_vocabulary(model.config, processor.tokenizer, row.name, vocabulary)

    folder.parent.mkdir(parents=True, exist_ok=True)
    # built in a temporary folder, so that `folder` is complete when it appears
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        repository = Path(temporary) / "repository"
        model.save_pretrained(repository, max_shard_size=MAX_SHARD_SIZE)
        processor.save_pretrained(repository)
        for name, text in repository_files(row, repo_id, origin, licence).items():
            path = repository / name
            if path.suffix == ".json":  # saved above, and must equal the settings of the registry
                require_same_settings(path, text)
                continue
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        os.replace(repository, folder)


def official_model(
    row: CheckpointRow, config: PreTrainedConfig, checkpoint: str | None
) -> tuple[PreTrainedModel, str]:
    """The row's model with its official weights, and how they were converted, in Markdown."""
    if checkpoint is None and row.clip is not None:
        model = UMTTeacherModel.from_clip(row.clip, image_size=config.image_size)
        return (
            model,
            f"Converted from `{row.clip}` by `umt publish`:\n\n{table(('package', 'version'), environment())}",
        )
    if checkpoint is None and not row.is_on_hub:
        raise ValueError(
            f"The file of {row.name} is not on the Hub; download it from the page {row.source['page']} and give it as "
            "--checkpoint."
        )
    if checkpoint is None and row.official_file is None:
        raise ValueError(
            f"The name of the file of {row.name} in {row.source['hub']} is not known; download it and give it as "
            "--checkpoint."
        )
    if checkpoint is None:
        hub = row.source["hub"]
        revision = full_revision(hub, row.source["revision"]) if row.source.get("revision") else None
        checkpoint = hf_hub_download(hub, row.official_file, revision=revision)
    if not os.path.isfile(checkpoint):
        raise FileNotFoundError(f"The checkpoint {checkpoint!r} does not exist; give the path of {row.official_file}.")
    sha256 = file_sha256(checkpoint)
    if row.sha256 is not None and sha256 != row.sha256:
        raise ValueError(
            f"{checkpoint} is not the published {row.name}: its SHA-256 is {sha256}, the registry's {row.sha256}. "
            "It may be truncated, damaged or another file; download it again."
        )
    if row.sha256 is None:
        print(f"{checkpoint}: SHA-256 {sha256} (not checked: the registry does not contain it)", flush=True)
    origin = (
        f"Converted by `umt publish` from a file of {os.path.getsize(checkpoint):,} bytes with the SHA-256 `{sha256}`:"
        f"\n\n{table(('package', 'version'), environment())}"
    )
    if row.kind == "tower":  # its configuration is given as that of the file, which has all blocks
        config = type(config).from_dict(config.to_dict(), num_hidden_layers=config.num_hidden_layers + 1)
        return convert_umt_checkpoint(checkpoint, config=config, part="tower"), origin
    return convert_umt_checkpoint(checkpoint, config=config), origin


def full_revision(repo_id: str, revision: str) -> str:
    """The commit of a repository that a shortened hash belongs to: the Hub downloads by complete hashes alone.

    Raises:
        ValueError: if the repository has no such commit.
    """
    commits = [commit.commit_id for commit in HfApi().list_repo_commits(repo_id)]
    found = [commit for commit in commits if commit.startswith(revision)]
    if len(found) != 1:
        raise ValueError(
            f"{repo_id} has {len(found) or 'no'} commit {revision}, to which the registry pins its files; download "
            "the file and give it as --checkpoint."
        )
    return found[0]


def require_row(row: CheckpointRow, model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Raise a ValueError if the model's class or configuration is not the row's, or a weight is not finite."""
    if type(model) is not row.model_class:
        raise ValueError(
            f"The file is of another kind than {row.name}: it contains a {type(model).__name__}, but the row is of "
            f"kind {row.kind}, a {row.model_class.__name__}."
        )
    found, expected = comparable(model.config), comparable(config)
    differing = [
        f"{name} is {found.get(name)!r} instead of {expected.get(name)!r}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise ValueError(f"The file does not fit the row {row.name}: {'; '.join(differing)[:2000]}.")
    broken = nonfinite_tensors(model.state_dict())
    if broken:
        raise ValueError(
            f"The file contains non-finite weights in {len(broken)} tensors, among them {broken[0]}. It is damaged, "
            "or from a run that diverged."
        )


def nonfinite_tensors(state: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that contain NaN or infinite values."""
    return [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]


def comparable(fields: PreTrainedConfig | dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration and its sub-configurations, without fields that depend on how it was created."""
    if not isinstance(fields, dict):
        fields = json.loads(fields.to_json_string(use_diff=False))
    left_out = ("_name_or_path", "architectures", "auto_map", "dtype")
    return {
        name: comparable(value) if name.endswith("_config") else value
        for name, value in fields.items()
        if name not in left_out
    }


def require_same_settings(path: Path, text: str) -> None:
    """Raise a ValueError if a saved JSON file differs from that of the row's card folder."""
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
    """Upload a repository in one commit and return the URL of the commit.

    Large files are uploaded first and become visible with the commit; those that the Hub has already, from an
    interrupted attempt, are not sent again.
    """
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url
