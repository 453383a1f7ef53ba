"""Who may come, and what is said before anything runs."""

import importlib.util

import pytest

from analyses import cli
from analyses.play import serve as module
from analyses.play.serve import loopback, serve


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2", "::1"])
def test_addresses_of_this_machine_alone(host):
    assert loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.4", "example.com", ""])
def test_addresses_that_let_others_in(host):
    assert not loopback(host)


def test_without_gradio_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert cli.main(["play"]) == 2
    assert "pip install -e '.[play]'" in capsys.readouterr().err


def test_an_address_for_others_is_warned_of_before_the_model_loads(monkeypatch):
    said = []
    monkeypatch.setattr(module.console, "print", lambda text, **_: said.append(text))
    monkeypatch.setattr(module, "QUIET", {})
    with pytest.raises(LookupError):
        serve("./no-such-folder", host="0.0.0.0")
    assert "anyone who can reach this machine" in said[0]
