"""Models in which a lookup and a sum were planted, on disk; their items; and runs that take seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from analyses.configs import LayersConfig
from analyses.layers import run as layers
from tests.analyses.layers.planted_items import items_of
from tests.interp.planted import planted

SMALL = LayersConfig(
    n_items=32,
    matched_in=("prompt_tokens",),
    n_floor=4,
    n_random=2,
    n_pairs=4,
    steps=2,
    n_check=2,
    probe_folds=2,
    n_control=1,
    n_thoughts=12,
    max_new_tokens=4,
    n_maps=1,
    n_resamples=500,
    chunk=16,
)
QUICK = replace(SMALL, n_random=1, n_thoughts=0, n_maps=0)


@pytest.fixture(scope="session")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], tuple[LayersConfig, Path]]:
    """The config and the complete, read-only run folder of a model with the families in these blocks.

    All that is asked of (1, 4), for the others no thoughts and no maps.
    """
    made: dict[tuple[int, int], tuple[LayersConfig, Path]] = {}

    def of(knowledge: int, reasoning: int) -> tuple[LayersConfig, Path]:
        if (knowledge, reasoning) not in made:
            apart = {"noise": 0.0} if knowledge == reasoning else {}  # noise is not the same to both families
            truth = planted(knowledge=knowledge, reasoning=reasoning, **apart)
            model = tmp_path_factory.mktemp("planted") / truth.lm.name
            truth.lm.model.save_pretrained(model)
            truth.lm.tokenizer.save_pretrained(model)
            config = replace(SMALL if (knowledge, reasoning) == (1, 4) else QUICK, model=str(model))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(layers, "all_items", lambda **_: items_of(truth))
                folder = layers.run(config, tmp_path_factory.mktemp("runs") / truth.lm.name)
            made[knowledge, reasoning] = config, folder
        return made[knowledge, reasoning]

    return of
