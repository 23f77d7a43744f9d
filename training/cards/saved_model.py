"""The card of a saved model, and publishing its folder on the Hub: one of `umt finetune`, `umt pretrain`,
`umt convert` or `save_pretrained`.

A card that a run has written is kept, because only the run knows its data and settings; the code on it gets the
model's id on the Hub. Only the files of the model are published, not checkpoints, logs or the arguments of the run,
which contain local paths.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from safetensors import SafetensorError
from safetensors.torch import load_file

import modeling_umt
from modeling_umt.vocabulary_umt import record_vocabulary
from processing_umt import UMTProcessor

from ..model_sources import WITHOUT_PROCESSOR, architecture_of, describe_model, read_model_config
from .card_template import code_block, environment, render_card, table
from .publishing import nonfinite_tensors
from .snippets import ANSWER, CLASSIFY, CLASSIFY_WITH_ADAPTER, COMPARE, DETECT, EMBED, TEACH, TEACH_IMAGES
from .trainer_card import NO_LICENCE
from .video_card import METHODS, citation_of

CARD, BASE = "README.md", "base"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
USES = {
    "UMTModel": EMBED,
    "UMTForPreTraining": EMBED,
    "UMTForMaskedModeling": EMBED,
    "UMTForVideoClassification": CLASSIFY,
    "InternVideo2Model": EMBED,
    "InternVideo2ForPreTraining": EMBED,
    "InternVideo2ForVideoClassification": CLASSIFY,
    "UMTForActionDetection": DETECT,
    "UMTTeacherModel": TEACH,
    "UMTImageTeacherModel": TEACH_IMAGES,
    "UMTForVideoTextPreTraining": COMPARE,
    "UMTVideoTextModel": COMPARE,
    "UMTForVideoQuestionAnswering": ANSWER,
}
PIPELINE_TAGS = {
    "UMTForVideoClassification": "video-classification",
    "InternVideo2ForVideoClassification": "video-classification",
    "UMTForActionDetection": "object-detection",
    "UMTForVideoQuestionAnswering": "visual-question-answering",
}
PROCESSORS = ("video_preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
# what a model's `save_pretrained` writes for sentence-transformers
SENTENCE_TRANSFORMERS = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
# the files of a model, as patterns; its pictures are those that its card shows
PUBLISHED = (
    "LICENSE*", "config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json", "*umt*.py",
    "preprocessor_config.json", *PROCESSORS, "tokenizer*.json", "vocab.txt", "special_tokens_map.json",
    "added_tokens.json", *SENTENCE_TRANSFORMERS, *ADAPTER,
)  # fmt: skip
_USE = re.compile(r"(?<=\n## Use\n\n)```python\n.*?```", re.DOTALL)
_TIMES = ("runtime", "samples_per_second", "steps_per_second")


# --- the card -------------------------------------------------------------------------------------------------------


def saved_model_card(folder: Path, repo_id: str | None = None, license: str | None = None) -> ModelCard:
    """The card in a folder, with another id or licence if they are given; without a card, a new one.

    A new card states what the configuration and the state of the trainer contain.

    Args:
        folder: A model of this package.
        repo_id: Id on the Hub in the card's code.
        license: Licence of the model, an identifier of the Hub such as `apache-2.0`.

    Raises:
        ValueError: the folder does not contain a model of this package, or its card was not written by this package.
        OSError: the folder does not exist.
    """
    config = own_config(folder)
    name = repo_id or folder.resolve().name
    use = use_of(folder, config, name, repo_id)
    if not (folder / CARD).is_file():
        return new_card(folder, config, use, license)
    card = ModelCard.load(folder / CARD)
    if repo_id is not None:
        if not _USE.search(card.content):
            raise ValueError(
                f"{folder / CARD} has no section `Use` with code for the id {repo_id}; it was not written by this "
                "package. Rename it to write a new card, or edit it."
            )
        card.text = _USE.sub(lambda match: use, "\n" + card.text).removeprefix("\n")
    if license is not None:
        card.data.license = license
        card.text = card.text.replace(NO_LICENCE, f"{license}.")
    return card


def new_card(folder: Path, config: dict[str, Any], use: str, license: str | None) -> ModelCard:
    name = folder.resolve().name
    metadata = ModelCardData(
        model_name=name,
        license=license,
        library_name="peft" if (folder / ADAPTER[0]).is_file() else "transformers",
        pipeline_tag=PIPELINE_TAGS.get(architecture_of(config)),
        tags=["video", "unmasked-teacher"],
    )
    vision = config.get("vision_config", config)
    clip = f"clips of {vision['num_frames']} frames" if "num_frames" in vision else "single frames"
    size = vision["image_size"]
    pixels = f"{size} x {size}" if isinstance(size, int) else f"{size[1]} x {size[0]}"
    method = METHODS.get(config["model_type"], METHODS["umt"])
    return render_card(
        metadata,
        title=name,
        summary=f"An {method} model: {describe_model(config)}. Input: {clip} of {pixels} pixels.",
        use=use,
        data="The data are not recorded in the model's folder.",
        results=recorded_results(folder),
        environment=table(("package", "version"), environment()),
        licence=f"{license}." if license else NO_LICENCE,
        citation=citation_of(config["model_type"], architecture_of(config)),
    )


def use_of(folder: Path, config: dict[str, Any], name: str, repo_id: str | None) -> str:
    """The code block of the card's section `Use`."""
    has_adapter = (folder / ADAPTER[0]).is_file() and not (folder / "config.json").is_file()
    snippet = CLASSIFY_WITH_ADAPTER if has_adapter else USES[architecture_of(config)]
    folder_code = f'snapshot_download("{repo_id}")' if repo_id else f'"{name}"'
    return code_block(snippet.format(model=name, folder=folder_code))


def recorded_results(folder: Path) -> str | None:
    """The last evaluation in `trainer_state.json`, or that of the best checkpoint if the run chose one."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    step = state.get("best_global_step") or state["global_step"]
    entries = [entry for entry in state["log_history"] if entry["step"] == step and "eval_loss" in entry]
    if not entries:
        return None
    rows = [
        (name.removeprefix("eval_").replace("_", " "), f"{value:.4g}")
        for name, value in entries[-1].items()
        if name.startswith("eval_") and not name.endswith(_TIMES)
    ]
    return f"The evaluation at step {step} of the run:\n\n{table(('measure', 'value'), rows)}"


# --- the folder -----------------------------------------------------------------------------------------------------


def own_config(folder: Path) -> dict[str, Any]:
    """The configuration of a model of this package.

    Raises:
        ValueError: the folder has no model, or one of another package.
        OSError: the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"The model folder {folder} does not exist; check the path.")
    has_base = not (folder / "config.json").is_file() and (folder / BASE / "config.json").is_file()
    config = read_model_config(str(folder / BASE if has_base else folder))
    if architecture_of(config) not in USES:
        raise ValueError(f"{folder} contains {describe_model(config)}, which is not a model of this package.")
    return config


def require_complete(folder: Path) -> None:
    """Raise an error if a folder lacks a part of a published model: card, weights, processor or code.

    Raises:
        ValueError: parts are missing, or weights are damaged, incomplete or not finite.
        OSError: the folder does not exist.
    """
    config = own_config(folder)
    has_adapter = not (folder / "config.json").is_file()
    model_folder = folder / BASE if has_adapter else folder
    lacking = [] if (folder / CARD).is_file() else [f"{CARD} (write it by: umt card {folder})"]
    if has_adapter:
        lacking += [name for name in ADAPTER if not (folder / name).is_file()]
    if not list(model_folder.glob("*.safetensors")):
        lacking.append("model.safetensors")
    if config["model_type"] not in WITHOUT_PROCESSOR and not any((folder / name).is_file() for name in PROCESSORS):
        lacking.append("a processor (processor.save_pretrained)")
    if config["model_type"] == "umt_video_text" and not any((folder / name).is_file() for name in TOKENIZERS):
        lacking.append("a tokenizer (processor.save_pretrained)")
    lacking += missing_code(model_folder, config)
    require_one_module(folder)
    if lacking:
        raise ValueError(f"{folder} is not complete; it lacks {', '.join(lacking)}.")
    check_weights(model_folder, config)
    if has_adapter:
        require_finite(folder / ADAPTER[1], load_safetensors(folder / ADAPTER[1]))


def require_one_module(folder: Path) -> None:
    """Raise a ValueError if sentence-transformers has saved further modules, whose folders would not be published."""
    path = folder / SENTENCE_TRANSFORMERS[0]
    modules = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    if others := [module["path"] for module in modules if module["path"]]:
        raise ValueError(
            f"{folder} contains further modules of sentence-transformers, such as {others[0]}; publish it by "
            "SentenceTransformer.push_to_hub."
        )


def missing_code(folder: Path, config: dict[str, Any]) -> list[str]:
    """Files of code that `auto_map` and the files themselves import, and that the folder lacks."""
    if not config.get("auto_map"):
        return ["the model's code (save it by save_pretrained of this package)"]
    todo, seen = [f"{target.partition('.')[0]}.py" for target in config["auto_map"].values()], set()
    missing = []
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if not (folder / name).is_file():
            missing.append(name)
            continue
        text = (folder / name).read_text(encoding="utf-8")
        todo += [f"{module}.py" for module in re.findall(r"^\s*from \.(\w+) import", text, re.MULTILINE)]
    return sorted(missing)


def check_weights(folder: Path, config: dict[str, Any]) -> None:
    """Raise a ValueError if weights are damaged, missing or not finite."""
    model_class = getattr(modeling_umt, architecture_of(config))
    try:
        model, report = model_class.from_pretrained(folder, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"The weights in {folder} are damaged ({error}); save them again.") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"The weights in {folder} lack {len(missing)} tensors, among them {missing[0]}.")
    require_finite(folder, model.state_dict())


def vocabulary_hash_of(folder: Path, model_folder: Path) -> str:
    """The hash of the vocabulary that a video-text model and the processor beside it have in common.

    Raises:
        ValueError: they have different ones.
    """
    config = modeling_umt.UMTVideoTextConfig.from_pretrained(model_folder)
    tokenizer = UMTProcessor.from_pretrained(folder).tokenizer
    record_vocabulary(config, tokenizer, f"the model {model_folder}", "its processor")
    return config.vocabulary_hash


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); save it again.") from error


def require_finite(source: Path, state: dict[str, torch.Tensor]) -> None:
    broken = nonfinite_tensors(state)
    if broken:
        raise ValueError(
            f"{source} contains non-finite weights in {len(broken)} tensors, among them {broken[0]}: the run diverged."
        )


# --- publishing -----------------------------------------------------------------------------------------------------


def repository_contents(folder: Path, repo_id: str, license: str | None = None) -> dict[str, Path | bytes]:
    """The files of a model's repository, as path in it → file or content, sorted.

    The card has the repository's id, and the configuration of a video-text model the hash of its vocabulary. An
    adapter refers to its base by the folder in the repository.

    Raises:
        ValueError: a video-text model and its tokenizer have different vocabularies.
    """
    files: dict[str, Path | bytes] = {}
    for root in (folder, folder / BASE):
        for pattern in PUBLISHED:
            for path in root.glob(pattern):
                files[path.relative_to(folder).as_posix()] = path
    for path in (folder / "config.json", folder / BASE / "config.json"):
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if config.get("model_type") == "umt_video_text":
            config["vocabulary_hash"] = vocabulary_hash_of(folder, path.parent)
            content = json.dumps(config, indent=2, sort_keys=True) + "\n"
            files[path.relative_to(folder).as_posix()] = content.encode()
    card = str(saved_model_card(folder, repo_id, license))
    for address in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card):
        picture = folder / address
        if picture.is_file() and picture.resolve().is_relative_to(folder.resolve()):
            files[address] = picture
    if ADAPTER[0] in files:
        adapter = json.loads((folder / ADAPTER[0]).read_text(encoding="utf-8"))
        files[ADAPTER[0]] = json.dumps(adapter | {"base_model_name_or_path": BASE}, indent=2).encode()
    files[CARD] = card.encode()
    return dict(sorted(files.items()))


def upload_contents(files: dict[str, Path | bytes], repo_id: str, private: bool, message: str) -> str:
    """Upload the files of a repository in one commit and return the URL of the commit."""
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit(repo_id, operations, commit_message=message).commit_url
