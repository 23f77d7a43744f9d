"""Transformers' common test mixins, imported from the source distribution of a release.

They are in `tests/` of every source distribution on the package index and in no wheel, and no file of theirs is part
of this repository. `.ci/transformers-tests` unpacks them to `.transformers-tests/`; the environment variable
`TRANSFORMERS_TESTS` names another folder. Without them the tests of `tests/transformers_common/` are skipped.

The mixins import a few modules that a source distribution lacks. Of these the stand-ins below contain the names alone,
so the tests of generation and of Transformers' exporters are not among those that run here.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import transformers

DEFAULT_FOLDER = Path(__file__).parents[2] / ".transformers-tests"
PACKAGE = "transformers_tests"

# of a field of every configuration a value other than the default
CONFIG_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["UMTModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
STAND_INS = {
    f"{PACKAGE}.exporters": {},
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    f"{PACKAGE}.generation": {},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    f"{PACKAGE}.utils": {},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": CONFIG_KWARGS},
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}


def unpacked_tests() -> Path:
    """The folder with the mixins; skips the module that asks for it where the folder or a dependency is missing."""
    pytest.importorskip("parameterized", reason="parameterized is not installed (extra `dev`)")
    folder = Path(os.environ.get("TRANSFORMERS_TESTS", DEFAULT_FOLDER))
    if not (folder / "VERSION").is_file():
        pytest.skip(f"Transformers' tests are not in {folder}: run .ci/transformers-tests", allow_module_level=True)
    version = (folder / "VERSION").read_text().strip()
    if version != transformers.__version__:
        reason = f"{folder} is of Transformers {version}, not {transformers.__version__}: run .ci/transformers-tests"
        pytest.skip(reason, allow_module_level=True)
    return folder


def common(name: str) -> ModuleType:
    """The module `tests/<name>.py` of the source distribution."""
    package = ModuleType(PACKAGE)
    package.__path__ = [str(unpacked_tests())]
    sys.modules.setdefault(PACKAGE, package)
    for module_name, content in STAND_INS.items():
        module = sys.modules.setdefault(module_name, ModuleType(module_name))
        vars(module).update(content)
        module.__path__ = []
    # a second copy of Transformers, which no mixin uses
    with mock.patch("transformers.utils.direct_transformers_import", return_value=transformers):
        return importlib.import_module(f"{PACKAGE}.{name}")
