import json
from pathlib import Path

import pytest

from analyses import vector
from analyses.configs import VectorConfig
from hooks import load
from hooks.errors import InputError, SiteNotFoundError
from interp import SteeringVector


def test_every_combination_is_estimated_and_the_first_is_the_main_file(folder: Path, tmp_path: Path):
    config = VectorConfig(
        model=str(folder),
        concept="reasoning",
        n_pairs=6,
        kinds=("resid_post", "mlp_out"),
        estimators=("mean_difference", "lda"),
        reads=("response", "last(1)"),
        n_null=2,
    )
    out = vector.run(config, tmp_path / "r")
    files = sorted(p.name for p in (out / "vectors").iterdir())
    assert len(files) == 8
    main = SteeringVector.load(out / "vectors" / "reasoning.safetensors", load(folder))
    assert (main.kind, main.estimator, main.read) == ("resid_post", "mean_difference", "response")
    assert main.poles == ("step by step", "at once")
    assert main.layers == [0, 1, 2]
    results = json.loads((out / "results.json").read_text())
    assert len(results["vectors"]) == 8


def test_pairs_of_your_own_make_a_vector_with_your_poles(folder: Path, tmp_path: Path):
    lines = [{"prompt": f"say {i}", "positive": f"yes {i}", "negative": f"no way {i}"} for i in range(5)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = VectorConfig(
        model=str(folder), pairs=str(tmp_path / "mine.jsonl"), poles=("yes", "no"), layers=(-1,), n_null=2
    )
    out = vector.run(config, tmp_path / "r")
    made = SteeringVector.load(out / "vectors" / "mine.safetensors")
    assert made.poles == ("yes", "no")
    assert made.layers == [2]


def test_a_line_that_is_not_json_is_named_before_anything_is_written(folder: Path, tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text('{"positive": "a", "negative": "b"}\nnot json\n')
    config = VectorConfig(model=str(folder), pairs=str(tmp_path / "mine.jsonl"))
    with pytest.raises(InputError, match=r"mine\.jsonl:2"):
        vector.run(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_unknown_positions_and_layers_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="Cannot read 'respnse' as positions"):
        vector.run(VectorConfig(model=str(folder), reads=("respnse",)), tmp_path / "a")
    with pytest.raises(SiteNotFoundError, match=r"this model has layers 0\.\.2"):
        vector.run(VectorConfig(model=str(folder), layers=(7,)), tmp_path / "b")


def test_poles_without_pairs_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="--poles a b names the ends of --pairs"):
        vector.run(VectorConfig(model=str(folder), poles=("a", "b")), tmp_path / "r")
