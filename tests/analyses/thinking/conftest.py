"""A thinking run on a tiny model whose chat template has the switch, which takes seconds."""

from pathlib import Path

import pytest

from analyses.configs import ThinkingConfig
from analyses.thinking.run import run


@pytest.fixture(scope="session")
def thinking_config(folder: Path) -> ThinkingConfig:
    return ThinkingConfig(
        model=str(folder),
        n_problems=6,
        n_budget=3,
        n_gains=5,
        budgets=(0.5, 6.0),
        extensions=1,
        n_fit_triples=16,
        n_confirm_triples=16,
        n_asked=4,
        layers=(0, 2),
        doses=(0.2,),
        n_random=3,
        thought_tokens=4,
        max_new_tokens=8,
        chunk=4,
    )


@pytest.fixture(scope="session")
def thought(thinking_config: ThinkingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read-only."""
    return run(thinking_config, tmp_path_factory.mktemp("runs") / "thinking")
