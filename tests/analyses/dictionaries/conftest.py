"""Runs of the dictionary commands on a tiny model, which take seconds."""

from pathlib import Path

import pytest

from analyses.configs import ModeConfig, SaeFeaturesConfig, SaeTrainConfig
from analyses.dictionaries import features, mode, train

pytest.importorskip("sae_lens")


@pytest.fixture(scope="session")
def train_config(folder: Path) -> SaeTrainConfig:
    return SaeTrainConfig(
        model=str(folder),
        layers=(0, 1),
        text=("own:60", "word-problems:60"),
        max_new_tokens=16,
        context=64,
        expansion=2,
        k=4,
        vectors=64 * 20,
        batch=64,
        lr=3e-3,
        dead_after=512,
        judged_tokens=400,
        activity_tokens=1000,
        weights="float16",
        chunk=16,
    )


@pytest.fixture(scope="session")
def trained(train_config: SaeTrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read-only."""
    return train.run(train_config, tmp_path_factory.mktemp("runs") / "sae")


@pytest.fixture(scope="session")
def dictionary(trained: Path) -> str:
    return str(trained / "dictionaries" / "blocks.1.hook_resid_post")


@pytest.fixture(scope="session")
def mode_config(folder: Path, dictionary: str) -> ModeConfig:
    return ModeConfig(
        model=str(folder),
        dictionary=dictionary,
        n_fit=8,
        n_select=3,
        n_confirm=6,
        n_candidates=2,
        strengths=(1.0,),
        n_resamples=5,
        n_random=3,
        n_random_problems=4,
        max_new_tokens=8,
        chunk=16,
    )


@pytest.fixture(scope="session")
def moded(mode_config: ModeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read-only."""
    return mode.run(mode_config, tmp_path_factory.mktemp("runs") / "mode")


@pytest.fixture(scope="session")
def featured(folder: Path, dictionary: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read-only."""
    config = SaeFeaturesConfig(
        model=str(folder), dictionary=dictionary, n_latents=3, n_rank=4, text=("word-problems:12",),
        context=64, n_texts=2,
        n_steered=2, max_new_tokens=8,
    )  # fmt: skip
    return features.run(config, tmp_path_factory.mktemp("runs") / "features")
