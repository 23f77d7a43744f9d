"""A saved or published model in `mteb`, the benchmark of embeddings: retrieval and classification of videos.

The model is read by sentence-transformers; `UMTEncoder` gives it the files of the videos, of which only the frames of
a clip are decoded, by PyAV. Scores belong to a revision: the commit of a repository on the Hub, or the hash of the
weights and settings in a folder.

    pip install 'unmasked-teacher[sentence-transformers]' mteb
    python examples/mteb_umt.py --model owner/name --revision COMMIT --tasks MSVDT2VRetrieval --output results
"""

import argparse
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Video
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from sentence_transformers import SentenceTransformer

import modeling_umt  # noqa: F401 (registers the models)


class UMTEncoder(AbsEncoder):
    """A retrieval model (texts and videos) or a video encoder (videos) as encoder of `mteb`.

    Args:
        model: Folder of a saved model, or its id on the Hub.
        revision: Commit of the repository, 40 hexadecimal digits; not for a folder.
        device: Device of the model; default: that of sentence-transformers.

    Raises:
        ValueError: a repository without a commit, or a folder with one.
    """

    def __init__(self, model: str, revision: str | None = None, device: str | None = None):
        pinned = pinned_revision(model, revision)
        self.model = SentenceTransformer(model, revision=revision, device=device)
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "loader": UMTEncoder,
                "name": f"local/{Path(model).resolve().name}" if revision is None else model,
                "revision": pinned,
                "modalities": [name for name in self.model.modalities if name in ("text", "video")],
                "embed_dim": self.model.get_embedding_dimension(),
                "similarity_fn_name": ScoringFunction(self.model.similarity_fn_name),
                "framework": ["Sentence Transformers", "PyTorch"],
            }
        )

    def encode(
        self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, batch_size: int = 32, **kwargs: Any
    ) -> np.ndarray:
        """Vectors (inputs, dim) of the texts or the videos of a data set.

        Raises:
            ValueError: inputs of another kind, or of several.
            VideoDecodeError: a video is broken.
        """
        columns = {"text", "image", "audio", "video"}.intersection(inputs.dataset.column_names)
        if len(columns) != 1 or not self.model.supports(*columns):
            raise ValueError(
                f"{task_metadata.name} has inputs of {', '.join(sorted(columns))}, but this model encodes "
                f"{' or '.join(self.mteb_model_meta.modalities)}, not together."
            )
        if columns == {"text"}:
            return self.model.encode(list(inputs.dataset["text"]), batch_size=batch_size, **kwargs)
        videos = inputs.dataset.cast_column("video", Video(decode=False))
        vectors = []
        for start in range(0, len(videos), batch_size):  # the files of one batch in memory
            batch = videos[start : start + batch_size]["video"]
            files = [{"video": video["bytes"] or video["path"]} for video in batch]
            vectors.append(self.model.encode(files, batch_size=batch_size, **kwargs))
        return np.concatenate(vectors)

    def similarity(self, embeddings1, embeddings2):
        """Dot products for a retrieval model, cosines for a video encoder."""
        return self.model.similarity(embeddings1, embeddings2)


def pinned_revision(model: str, revision: str | None) -> str:
    """The commit of a repository, or the hash of a folder's weights and settings."""
    if not os.path.isdir(model):
        if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError(
                f"The revision of {model} is {revision!r}, but scores need a commit, which does not move: give its 40 "
                "hexadecimal digits by --revision."
            )
        return revision
    if revision is not None:
        raise ValueError(f"{model} is a folder, which has no revision; leave --revision out.")
    digest = hashlib.sha256()
    for path in sorted([*Path(model).glob("*.safetensors"), *Path(model).glob("*.json")]):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:40]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a saved model, or its id on the Hub")
    parser.add_argument("--revision", help="commit of the repository on the Hub")
    parser.add_argument("--tasks", nargs="+", required=True, help="names of tasks of mteb, such as MSVDT2VRetrieval")
    parser.add_argument("--output", default="results", help="folder of the results, in which mteb resumes")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs of a batch")
    args = parser.parse_args(argv)

    results = mteb.evaluate(
        UMTEncoder(args.model, args.revision),
        mteb.get_tasks(tasks=args.tasks),
        cache=mteb.ResultCache(args.output),
        encode_kwargs={"batch_size": args.batch_size},
    )
    for result in results.task_results:
        print(f"{result.task_name}: {result.get_score():.4f}")


if __name__ == "__main__":
    main()
