"""Files that are written whole or not at all, in folders that one process writes at a time."""

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hooks.errors import RunError

LOCK, HOLDER = ".lock", ".holder.json"
"""Held while a folder is written; and who holds it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into an error that says what is safe and what to do."""
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"The disk is full: {path} could not be written. Everything written before is whole; "
                "free some space and give the same command again to go on from there."
            ) from error
        raise RunError(f"Cannot write {path}: {error.strerror}. Pass another --out.") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another path to write to, which takes the place of ``path`` when the block has ended well."""
    part = path.with_name(path.name + ".part")
    with writing(path):
        yield part
        part.replace(path)


def write_json(path: Path, value: Any) -> Path:
    """Write JSON that is the same, byte for byte, for the same value; NaN is refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return write_text(path, text)


def write_text(path: Path, text: str) -> Path:
    """Write one text file, whole or not at all."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def hold(path: Path) -> FileLock:
    """Lock a folder, with a note of who holds it, until :func:`let_go`.

    The lock dies with the process that holds it, however that ends.

    Raises:
        RunError: while another process holds it.
    """
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        try:
            holder = json.loads((path / HOLDER).read_text())
            who = f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError):
            who = "another process"
        raise RunError(
            f"{path} is being written by {who}. Wait for it, or pass another --out; nothing was touched."
        ) from None
    write_json(path / HOLDER, {"pid": os.getpid(), "host": platform.node()})
    return lock


def let_go(path: Path, lock: FileLock) -> None:
    """Release what :func:`hold` gave."""
    (path / HOLDER).unlink(missing_ok=True)
    lock.release()
