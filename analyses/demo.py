"""The main jobs in a small setting, on the bundled model: what the command line shows first."""

from pathlib import Path

from analyses import verbosity
from analyses.configs import DEMO_LAYERS, DEMO_VERBOSITY
from analyses.layers import run as layers


def demo(out: Path, *, device: str | None = None, ray: str | None = None) -> Path:
    """Two run folders in ``out``, each with its report; returns ``out``."""
    verbosity.run(DEMO_VERBOSITY, out / "verbosity", device=device, ray=ray)
    layers.run(DEMO_LAYERS, out / "layers", device=device, ray=ray)
    return out
