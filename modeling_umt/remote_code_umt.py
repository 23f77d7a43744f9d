"""Saved repositories: the `auto_map` of the classes that `trust_remote_code=True` can load from them, and the files by
which sentence-transformers loads them."""

import os
from typing import ClassVar

from .sentence_transformers_umt import write_sentence_transformers_files


class UMTRemoteCodeMixin:
    """Writes the complete `auto_map` of a model family and the files of sentence-transformers on every save.

    Transformers itself records only the class that is saved, so that `AutoModel` would not find the encoder of a
    fine-tuned classifier.
    """

    # Auto class -> "file.class" of what a repository of this model can be loaded as
    remote_code: ClassVar[dict[str, str]]
    # modality -> method and output of the class that `AutoModel` loads; none: the repository has no vectors of videos
    embedding_methods: ClassVar[dict[str, tuple[str, str | None]]] = {}

    def save_pretrained(self, save_directory, **kwargs):
        """As `PreTrainedModel.save_pretrained`, with an `auto_map` of every class that can load this repository, and
        with `modules.json`, `sentence_bert_config.json` and `config_sentence_transformers.json` if it has vectors of
        videos."""
        self.config.auto_map = dict(self.remote_code)
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            self._write_embedding_files(save_directory)

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        # called by `save_pretrained(push_to_hub=True)`, whose upload must contain the files
        self._write_embedding_files(working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _write_embedding_files(self, folder: str | os.PathLike) -> None:
        if self.embedding_methods:
            write_sentence_transformers_files(folder, self.embedding_methods)
