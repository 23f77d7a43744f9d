"""The files by which sentence-transformers loads a saved model: `SentenceTransformer(folder).encode(videos)`.

They name the module `Transformer` of sentence-transformers, which runs the folder's processor and, for each modality,
a method of the model. Nothing of sentence-transformers is imported here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODULE = "sentence_transformers.base.modules.transformer.Transformer"
# Every input has one vector: a processor of several views would give a video several, and one that leaves out broken
# videos none. Strings that sentence-transformers does not recognise as a video are texts to it, so that a misspelt
# path would be one.
PROCESSING = {
    "text": {"padding": "max_length", "refuse_file_names": True},
    "video": {"num_clips": 1, "num_crops": 1, "on_error": "raise", "one_view_per_item": True},
}


def write_sentence_transformers_files(
    folder: str | os.PathLike, embedding_methods: Mapping[str, tuple[str, str | None]]
) -> None:
    """Writes `modules.json`, `sentence_bert_config.json` and `config_sentence_transformers.json`.

    The last is kept if it exists: sentence-transformers writes it, with the user's prompts, before it saves the model.

    Args:
        folder: The folder of the saved model.
        embedding_methods: For each modality ("text", "video", "image") the method of the model that `AutoModel` loads
            from the folder, and the field of its output that contains the vectors, (batch, dim); None: the output.
    """
    modules = [{"idx": 0, "name": "0", "path": "", "type": MODULE}]
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": {
            modality: {"method": method, "method_output_name": output}
            for modality, (method, output) in embedding_methods.items()
        },
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {kind: PROCESSING[kind] for kind in PROCESSING if kind in embedding_methods},
    }
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        # vectors of videos in the joint space with texts are not of unit length
        "similarity_fn_name": "dot" if "text" in embedding_methods else "cosine",
        "requirements": {"sentence-transformers": ">=6.2"},
    }
    write_json(Path(folder, "modules.json"), modules)
    write_json(Path(folder, "sentence_bert_config.json"), transformer)
    if not Path(folder, "config_sentence_transformers.json").exists():
        write_json(Path(folder, "config_sentence_transformers.json"), settings)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


__all__ = ["write_sentence_transformers_files"]
