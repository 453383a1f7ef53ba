"""A file is there whole or as it was before; a folder has one writer; errors say what is safe."""

import errno
import json
import os

import pytest

from hooks.errors import RunError
from hooks.files import hold, let_go, whole, write_json, write_text, writing


def test_a_file_whose_writing_fails_is_as_it_was_before(tmp_path):
    def fail(file):
        with whole(file) as part:
            part.write_text("half")
            raise ZeroDivisionError

    file = write_text(tmp_path / "a.txt", "before")
    with pytest.raises(ZeroDivisionError):
        fail(file)
    assert file.read_text() == "before"
    with whole(file) as part:
        part.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_equal_values_are_equal_bytes(tmp_path):
    value = {"b": [1, 0.1], "a": "naïve"}
    assert write_json(tmp_path / "x", value).read_bytes() == write_json(tmp_path / "y", value).read_bytes()
    assert json.loads((tmp_path / "x").read_text("utf-8")) == value


def test_nan_never_reaches_a_file(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, r"The disk is full: .*x could not be written. Everything written before is whole"),
        (errno.EDQUOT, r"The disk is full: .*x could not be written"),
        (errno.EACCES, r"Cannot write .*x: Permission denied. Pass another --out"),
    ],
)
def test_a_failure_to_write_says_what_to_do(tmp_path, code, said):
    with pytest.raises(RunError, match=said), writing(tmp_path / "x"):
        raise OSError(code, os.strerror(code))


def test_a_folder_that_is_held_is_held_by_one_until_it_is_let_go(tmp_path):
    lock = hold(tmp_path)
    with pytest.raises(RunError, match=f"is being written by process {os.getpid()} on"):
        hold(tmp_path)
    let_go(tmp_path, lock)
    assert not (tmp_path / ".holder.json").exists()
    let_go(tmp_path, hold(tmp_path))
