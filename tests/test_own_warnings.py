"""Deprecated calls of this repository are errors; those between other packages, and other warnings, are not."""

import logging
import warnings

import pytest
import transformers.trainer_pt_utils  # any module of a dependency
from own_warnings import DeprecatedCallError, calling_line
from subprocess_tools import complaints, run_clean


def library_function(code: str, file: str = transformers.trainer_pt_utils.__file__):
    """Defines `function(argument)` as if in the file of a dependency."""
    names = {"warnings": warnings, "logger": logging.getLogger("transformers.anything")}
    exec(compile(code, file, "exec"), names)
    return names["function"]


DEPRECATED = "def function(_):\n    {}"


@pytest.mark.parametrize(
    "statement",
    [
        "warnings.warn('old', FutureWarning)",
        "warnings.warn('old', DeprecationWarning, stacklevel=3)",
        "warnings.warn(PendingDeprecationWarning('old'))",
        "logger.warning('`old` is deprecated, use `new`')",
    ],
)
def test_a_deprecated_call_of_ours_is_an_error(statement):
    with pytest.raises(DeprecatedCallError, match=r"test_own_warnings\.py:\d+: deprecated call: .*old"):
        library_function(DEPRECATED.format(statement))(None)


def test_a_record_factory_wrapped_by_a_dependency_changes_nothing(monkeypatch):
    wrapped = library_function("def function(factory):\n    return lambda *args, **kwargs: factory(*args, **kwargs)")
    monkeypatch.setattr(logging, "_logRecordFactory", wrapped(logging.getLogRecordFactory()))
    with pytest.raises(DeprecatedCallError, match="deprecated call: `old` is deprecated"):
        library_function(DEPRECATED.format("logger.warning('`old` is deprecated')"))(None)


def test_a_decorator_in_the_same_file_is_not_the_caller():
    code = "def inner():\n    warnings.warn('old', FutureWarning)\ndef function(_):\n    inner()"
    with pytest.raises(DeprecatedCallError):
        library_function(code)(None)


@pytest.mark.filterwarnings("default")
def test_deprecated_calls_between_dependencies_are_not_errors(recwarn):
    deprecated = library_function(DEPRECATED.format("warnings.warn('old', FutureWarning)"), file=pytest.__file__)
    caller = library_function("def function(deprecated):\n    deprecated(None)")
    caller(deprecated)
    library_function(DEPRECATED.format("warnings.warn('careful')"))(None)
    library_function(DEPRECATED.format("logger.warning('slow')"))(None)
    assert [str(warning.message) for warning in recwarn] == ["old", "careful"]
    assert recwarn.list[0].filename == pytest.__file__  # the stack level is the requested one


def test_our_own_warnings_are_not_deprecated_calls():
    with pytest.warns(FutureWarning, match="ours"):
        warnings.warn("ours", FutureWarning, stacklevel=1)
    assert calling_line(None) is None


def test_a_child_process_reports_deprecated_calls_of_remote_code(tmp_path):
    folder = tmp_path / "transformers_modules"
    folder.mkdir()
    (folder / "remote.py").write_text("import library\n\nlibrary.old()\n")
    (tmp_path / "library.py").write_text("import warnings\ndef old():\n    warnings.warn('soon', FutureWarning)\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(folder)!r}]\nimport remote, library\nlibrary.old()"
    result = run_clean(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert complaints(result.stderr) == [f"[OURS] {folder / 'remote.py'}:3: deprecated call: soon"]
