"""A benchmark run on disk: written as each benchmark ends, so that the rest can be run later."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import render
from benchmarks.result import Result
from hooks.errors import RunError
from hooks.files import write_json, write_text


class Record:
    """``results.json`` and ``report.html`` of one folder."""

    def __init__(self, folder: Path, environment: Mapping[str, Any]) -> None:
        """Take up what is there.

        Raises:
            RunError: if it was measured with another model, machine, setting or version.
        """
        self.folder, self.environment = folder, dict(environment)
        self.results: dict[str, Result] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not (file := folder / "results.json").exists():
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        for name, value in found["environment"].items():
            if value != environment.get(name):
                raise RunError(
                    f"{folder} was measured with {name} {value}, and this would be {environment.get(name)}: "
                    "the times do not belong together. Pass another --out."
                )
        self.results = {name: Result.from_json(value) for name, value in found["results"].items()}

    def add(self, name: str, result: Result) -> None:
        """Keep one benchmark's result, on disk at once."""
        self.results[name] = result
        results = {each: value.as_json() for each, value in self.results.items()}
        write_json(self.folder / "results.json", {"environment": self.environment, "results": results})

    def page(self, order: Iterable[str]) -> Path:
        """Write the page, its benchmarks in this order; returns its path."""
        results = {name: self.results[name] for name in order if name in self.results}
        return write_text(self.folder / "report.html", render(results, self.environment))
