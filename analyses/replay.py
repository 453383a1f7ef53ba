"""Run a run again from its ``config.json``, and say whether the numbers came out the same."""

import json
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from analyses.configs import (
    ElicitConfig,
    LayersConfig,
    ModeConfig,
    PasskConfig,
    SaeFeaturesConfig,
    SaeTrainConfig,
    ThinkingConfig,
    VectorConfig,
    VerbosityConfig,
)
from analyses.progress import console
from hooks.errors import InputError

CONFIGS: dict[str, type[Any]] = {
    "verbosity": VerbosityConfig,
    "layers": LayersConfig,
    "sae-train": SaeTrainConfig,
    "sae-features": SaeFeaturesConfig,
    "mode": ModeConfig,
    "elicit": ElicitConfig,
    "passk": PasskConfig,
    "thinking": ThinkingConfig,
    "vector": VectorConfig,
}

MODULES = {
    "verbosity": "analyses.verbosity",
    "layers": "analyses.layers.run",
    "sae-train": "analyses.dictionaries.train",
    "sae-features": "analyses.dictionaries.features",
    "mode": "analyses.dictionaries.mode",
    "elicit": "analyses.elicit.run",
    "passk": "analyses.passk.run",
    "thinking": "analyses.thinking.run",
    "vector": "analyses.vector",
}
"""Where the ``run`` of each command is, imported when it is needed."""


def replay(folder: Path, out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Run the settings of ``folder`` into ``out``; returns the new run's folder."""
    command, config = read_config(folder)
    run = import_module(MODULES[command]).run
    options = {} if command == "vector" else {"ray": ray}
    made: Path = run(config, out, device=device, **options)
    before, after = folder / "results.json", made / "results.json"
    if before.exists():
        same = before.read_bytes() == after.read_bytes()
        console.print(f"results.json is {'the same, byte for byte' if same else 'different'} from {folder}'s")
    return made


def read_config(folder: Path) -> tuple[str, Any]:
    """The command and the config of a run folder."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder} holds no run: there is no config.json. Pass a folder that a run wrote.")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON (line {error.lineno}); it was altered or damaged.") from None
    command = values.pop("command", None)
    if command not in CONFIGS:
        raise InputError(f"{file} is of the command {command!r}; known are {', '.join(CONFIGS)}.")
    kind = CONFIGS[command]
    known = {field.name for field in fields(kind)}
    if values.keys() != known:
        odd = sorted(values.keys() ^ known)
        raise InputError(f"{file} and this version differ in the settings {', '.join(odd)}.")
    return command, kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
