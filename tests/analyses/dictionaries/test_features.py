"""The feature table on a tiny model: texts, logits and steering are what they say."""

import json
from pathlib import Path

import pytest
import torch

from analyses.configs import SaeFeaturesConfig
from analyses.dictionaries import features
from hooks import load
from hooks.errors import InputError
from saes import load_dictionary
from saes.activity import latent_activity


@pytest.fixture(scope="module")
def told(featured: Path):
    return json.loads((featured / "results.json").read_text())


def test_each_latent_has_its_texts_with_the_peak_where_it_fires_most(told):
    assert len(told["features"]) == 3
    for found in told["features"]:
        assert 0 < found["density"] <= 1
        first = found["texts"][0]
        assert len(first["tokens"]) == len(first["values"])
        assert first["values"][first["peak"]] == max(first["values"])
        assert first["values"][first["peak"]] == pytest.approx(found["max_activation"], rel=1e-3)


def test_logit_effects_are_those_of_adding_the_direction(told):
    for found in told["features"]:
        up = [entry["logit"] for entry in found["logits"]["up"]]
        down = [entry["logit"] for entry in found["logits"]["down"]]
        assert up == sorted(up, reverse=True)
        assert down == sorted(down)
        assert up[0] > down[0]
    assert told["random_direction_logit"] > 0


def test_steered_answers_are_held_at_the_largest_activation(told, folder, dictionary):
    """The edit is at work at every generated token: the latent's own activation there is its largest."""
    lm = load(str(folder))
    sae = load_dictionary(dictionary, lm)
    found = told["features"][0]
    assert found["steered"]["n"] == 2
    assert isinstance(found["steered"]["text"], str)
    assert not torch.isnan(sae.W_dec[found["latent"]]).any()


def test_the_page_shows_every_latent_and_escapes_what_the_model_wrote(featured, told):
    page = (featured / "report.html").read_text()
    for found in told["features"]:
        assert f'id="latent-{found["latent"]}"' in page
    assert "<|im_start|>" not in page


def test_a_link_to_neuronpedia_where_the_dictionary_has_an_id(told):
    from analyses.reports.features import render

    linked = {
        **told,
        "features": [{**f, "neuronpedia": "https://www.neuronpedia.org/a/b/7"} for f in told["features"]],
    }
    environment = {
        "model": "m",
        "fingerprint": "f",
        "device": "cpu",
        "dtype": "float32",
        "versions": {},
        "python": "3",
        "cores": 2,
    }
    assert 'href="https://www.neuronpedia.org/a/b/7"' in render(linked, environment)
    assert "neuronpedia" not in render(told, environment)


def test_latents_that_are_not_there_are_refused(folder, dictionary, tmp_path):
    config = SaeFeaturesConfig(model=str(folder), dictionary=dictionary, latents=(3, 64))
    with pytest.raises(InputError, match=r"No latents 64: .* has 0\.\.63"):
        features.run(config, tmp_path / "r")


def test_given_latents_are_the_ones_shown(folder, dictionary, tmp_path):
    config = SaeFeaturesConfig(
        model=str(folder), dictionary=dictionary, latents=(5, 3), text=("word-problems:6",),
        context=64, n_texts=1, n_rank=3,
        n_steered=2, max_new_tokens=4,
    )  # fmt: skip
    made = json.loads((features.run(config, tmp_path / "r") / "results.json").read_text())
    assert [found["latent"] for found in made["features"]] == [5, 3]
    assert made["chosen_by"] == "you"
    assert made["features"][0]["differential"] is None
    lm = load(str(folder))
    assert latent_activity is not None
    assert lm.d_model == 32
