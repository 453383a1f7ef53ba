"""The report page of a run."""

from pathlib import Path


def write_report(path: Path) -> Path:
    return path
