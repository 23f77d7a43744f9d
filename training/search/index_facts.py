"""What an index of `umt search` states about itself: its videos, its model, and the length of its windows.

The facts are stored in the metadata of the table's schema. They end in a seal, a keyed hash with a key of this user,
by which an index that somebody else wrote is recognised: its model and its folder of videos are used only if the user
names them too.
"""

import hmac
import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants

from ..atomic_files import atomic_write
from ..data.strict_json import is_number, parse_json
from ..model_sources import is_local_path

FORMAT = 2
METADATA_KEY = b"umt.search"
_KEY_BYTES = 32


class IndexModel(NamedTuple):
    """The model of an index: its id on the Hub or its folder, its revision on the Hub, its `fingerprint`, and the
    fraction of tokens that it drops by motion, which may be another than in its saved configuration."""

    name: str
    revision: str | None
    fingerprint: str
    motion_drop_ratio: float = 0.0


@dataclass(frozen=True)
class IndexFacts:
    """The facts of an index.

    Args:
        videos: the folder of videos, relative to the folder of the index; None for an index in object storage.
        model: a local folder is relative to that of the index, too.
        window: length of a window in seconds.
    """

    videos: str | None
    model: IndexModel
    window: float

    def to_metadata(self) -> dict[bytes, bytes]:
        """The metadata of a schema, with the seal of this user; one in object storage is shared, and has none."""
        text = self._text()
        key = None if self.videos is None else _read_key() or _create_key()
        stored = {"format": FORMAT, "facts": text, "seal": key and _seal(text, key)}
        return {METADATA_KEY: json.dumps(stored).encode()}

    def _text(self) -> str:
        return json.dumps(asdict(self) | {"model": self.model._asdict()}, ensure_ascii=False)


def read_facts(metadata: Mapping[bytes, bytes] | None) -> tuple[IndexFacts, bool]:
    """The facts in the metadata of a schema, and whether this user wrote them.

    Raises:
        ValueError: they are not what `IndexFacts.to_metadata` writes, or have the format of another version.
    """
    if not metadata or set(metadata) != {METADATA_KEY}:
        # others are instructions to LanceDB, such as the embedding function to load
        raise ValueError(f"its metadata has the keys {sorted(metadata or {})}, expected {METADATA_KEY}")
    stored = parse_json(metadata[METADATA_KEY])
    _require(isinstance(stored, dict), "its metadata is not an object")
    _require(
        stored.get("format") == FORMAT, f"it has the format {stored.get('format')!r}, this version reads {FORMAT}"
    )
    text, seal = stored.get("facts"), stored.get("seal")
    _require(isinstance(text, str), "it has no facts")
    key = _read_key()
    is_own = (
        key is not None and isinstance(seal, str) and hmac.compare_digest(seal.encode(), _seal(text, key).encode())
    )
    return _parse_facts(parse_json(text)), is_own


def _parse_facts(fields: Any) -> IndexFacts:
    names = ("videos", "model", "window")
    _require(isinstance(fields, dict) and set(fields) == set(names), f"its facts are not {', '.join(names)}")
    videos, model, window = (fields[name] for name in names)
    _require(
        isinstance(model, dict) and set(model) == set(IndexModel._fields),
        f"its model is not {', '.join(IndexModel._fields)}",
    )
    model = IndexModel(**model)
    _require(videos is None or _is_relative(videos), f"its folder of videos is {videos!r}, which is not relative")
    _require(isinstance(model.name, str) and model.name.isprintable() and model.name, "its model has no name")
    _require(not is_local_path(model.name) or _is_relative(model.name), f"its model is {model.name!r}")
    _require(model.revision is None or _is_hexadecimal(model.revision), f"its revision is {model.revision!r}")
    _require(_is_hexadecimal(model.fingerprint), f"its fingerprint is {model.fingerprint!r}")
    ratio = model.motion_drop_ratio
    _require(is_number(ratio) and 0 <= ratio < 1, f"its model drops the fraction {ratio!r} of the tokens")
    _require(is_number(window) and 0 < window < math.inf, f"its window is {window!r}")
    return IndexFacts(videos, model, float(window))


def _require(is_met: Any, problem: str) -> None:
    if not is_met:
        raise ValueError(problem)


def _is_relative(path: Any) -> bool:
    return isinstance(path, str) and "\0" not in path and not os.path.isabs(path) and not path.startswith("~")


def _is_hexadecimal(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{1,64}", value) is not None


def _seal(text: str, key: bytes) -> str:
    return hmac.digest(key, text.encode(), "sha256").hex()


def _key_file() -> Path:
    return Path(constants.HF_HOME, "umt", "index.key")


def _read_key() -> bytes | None:
    try:
        key = _key_file().read_bytes()
    except OSError:
        return None
    return key if len(key) == _KEY_BYTES else None


def _create_key() -> bytes | None:
    """A new key of this user. None where it can't be saved, for example in a home without write access: the model of
    the index must then be named in each search."""
    key = secrets.token_bytes(_KEY_BYTES)
    try:
        with atomic_write(_key_file()) as temporary:
            temporary.chmod(0o600)
            temporary.write_bytes(key)
    except OSError:
        return None
    return key
