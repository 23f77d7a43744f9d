"""Atomic writes: all or nothing, and never through a link."""

import errno
import os
import stat

import pytest

from umt_training.atomic_files import atomic_write


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "folder" / "file.json"
    for text in ("first", "second"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == ".tmp"
            temporary.write_text(text)
            assert path.exists() == (text == "second")
        assert path.read_text() == text and list(path.parent.iterdir()) == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("error", [ValueError("wrong"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_after_an_error_nothing_has_changed(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(type(error)) as raised, atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert raised.value.filename == str(path)


def test_links_are_not_followed(tmp_path):
    """Neither the file itself nor a name that the temporary file may have."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("file", "file.tmp"):
        os.symlink(secret, folder / name)
    with atomic_write(folder / "file") as temporary:
        temporary.write_text("new")
    assert secret.read_text() == "mine" and not (folder / "file").is_symlink()
    assert (folder / "file").read_text() == "new"
