"""The `auto_map` of a saved repository: the classes that `trust_remote_code=True` can load from it."""

from typing import ClassVar


class UMTRemoteCodeMixin:
    """Writes the complete `auto_map` of a model family on every save.

    Transformers itself records only the class that is saved, so that `AutoModel` would not find the encoder of a
    fine-tuned classifier.
    """

    # Auto class -> "file.class" of what a repository of this model can be loaded as
    remote_code: ClassVar[dict[str, str]]

    def save_pretrained(self, save_directory, **kwargs):
        """As `PreTrainedModel.save_pretrained`, with an `auto_map` of every class that can load this repository."""
        self.config.auto_map = dict(self.remote_code)
        return super().save_pretrained(save_directory, **kwargs)
