"""unlatch push, and commands that take hf:// where they take a file."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from analyses import cli, steer
from analyses.configs import SteerConfig, VectorConfig
from analyses.dictionaries.chosen import chosen_dictionary, folder_of
from analyses.play.copied import as_python
from analyses.play.session import Session
from analyses.play.sources import load_sources
from analyses.play.state import LatentEdit, State
from analyses.vector import run
from hooks import load
from hooks.errors import InputError
from interp import SteeringVector
from saes import Origin, TopKSAE, save_dictionary
from saes.hub import push_to_hub
from tests.stand_in_hub import WRITE, Hub


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ``unlatch vector`` on the tiny model on disk."""
    return run(VectorConfig(model=str(folder), n_pairs=6, n_null=2), tmp_path_factory.mktemp("v") / "r")


@pytest.fixture
def login(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  # which starts without one
    monkeypatch.setenv("HF_TOKEN", WRITE)


@pytest.mark.usefixtures("login")
def test_push_prints_the_commit_and_steer_takes_the_vector_from_the_hub(
    hub: Hub, made: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    file = made / "vectors" / "verbosity.safetensors"
    assert cli.main(["push", str(file), "ada/brief", "--private", "True", "--license", "mit"]) == 0
    kept = hub.repos["ada/brief"]
    assert capsys.readouterr().out.strip() == f"{hub.endpoint}/ada/brief/commit/{kept.branches['main']}"
    assert kept.private
    assert kept.files()["verbosity.safetensors"] == file.read_bytes()
    card = kept.files()["README.md"].decode()
    assert str(folder.parent) not in card  # no path of this machine
    config = SteerConfig(vector="hf://ada/brief/verbosity.safetensors", layer=1, dose=0.5, max_new_tokens=3)
    result = steer.steer(config, "12")
    assert result.layer == 1
    steer.show(result, Console(quiet=True))
    out = str(made / "brief.gguf")
    assert cli.main(["export", "hf://ada/brief", "--out", out, "--layer", "1", "--dose", "0.5"]) == 0


@pytest.mark.usefixtures("login")
def test_push_takes_dictionaries_and_commands_take_them_back(hub: Hub, folder: Path, tmp_path: Path):
    lm = load(folder)
    sae = TopKSAE(
        lm.d_model, 40, 4, origin=Origin(metadata={"hook_name": "x"}, hook_name="blocks.1.hook_resid_post")
    )
    with torch.no_grad():
        for weight in sae.parameters():
            weight.normal_()
    save_dictionary(sae, tmp_path / "one" / "l1")
    assert cli.main(["push", str(tmp_path / "one"), "ada/saes"]) == 0
    assert "l1/cfg.json" in hub.repos["ada/saes"].files()
    back, site = chosen_dictionary("hf://ada/saes/l1", lm)
    assert torch.equal(back.W_dec, sae.W_dec)
    assert str(site) == "blocks.1.hook_resid_post"
    assert (folder_of("hf://ada/saes") / "cfg.json").is_file()
    push_to_hub(sae, "ada/other", sae_id="l1")
    assert torch.equal(chosen_dictionary("hf://ada/other", lm)[0].W_dec, sae.W_dec)
    sources = load_sources(lm, [], ["hf://ada/saes/l1"])
    (name,) = sources.names
    state = State(prompt="12", edits=(LatentEdit(dictionary=name, latent=3, value=5.0),), max_new_tokens=4)
    *_, view = Session(lm, sources).play(state)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(as_python(state, sources, str(folder)), {})
    assert said.getvalue() == f"{view.plain.text}\n---\n{view.steered.text}\n"


@pytest.mark.parametrize(
    ("what", "said"),
    [("", r"Pass one of .*verbosity\.safetensors"), ("config.json", "neither a steering vector")],
)
def test_what_is_neither_is_refused_with_what_is_there(
    hub: Hub, made: Path, what: str, said: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["push", str(made / what), "ada/brief"]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert hub.requests == []


def test_without_a_login_push_says_how_to_get_one(hub: Hub, made: Path, capsys: pytest.CaptureFixture[str]):
    file = made / "vectors" / "verbosity.safetensors"
    assert cli.main(["push", str(file), "ada/brief"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert hub.repos == {}
    with pytest.raises(InputError, match="no such model repository"):
        SteeringVector.load("hf://ada/brief")
