"""A tiny model on disk, a verbosity run on it that takes seconds, and a cluster."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from analyses.configs import VerbosityConfig
from tests.analyses.cluster import Node, two_nodes


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, model_of: Callable, tokenizer_with: Callable) -> Path:
    """A tiny random Llama with its tokenizer, as a local folder that ``load`` reads."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    model_of("llama").save_pretrained(path)
    tokenizer_with().save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def config(folder: Path) -> VerbosityConfig:
    return VerbosityConfig(
        model=str(folder),
        n_pairs=6,
        n_select=4,
        n_confirm=5,
        n_control=3,
        n_random=3,
        n_random_problems=2,
        n_layer_problems=2,
        layers=(0, 1),
        doses=(0.2, 0.5),
        max_new_tokens=8,
        chunk=4,
    )


@pytest.fixture(scope="session")
def finished(config: VerbosityConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; read-only."""
    from analyses import verbosity

    return verbosity.run(config, tmp_path_factory.mktemp("runs") / "brief")


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Does a run that dies at the ``at``th call of a function, again and again until it ends; counts."""

    def until_whole(run: Callable[[], object], owner: object, name: str, *, at: int, most: int = 60) -> int:
        real = getattr(owner, name)
        for died in range(most):
            calls: list[int] = []

            def stops(*args, calls=calls, **kwargs):
                calls.append(1)
                if len(calls) == at:
                    raise KeyboardInterrupt
                return real(*args, **kwargs)

            monkeypatch.setattr(owner, name, stops)
            try:
                run()
            except KeyboardInterrupt:
                continue
            return died
        pytest.fail(f"{most} times it did not end")

    return until_whole


@pytest.fixture
def cluster() -> Iterator[tuple[str, Sequence[Node]]]:
    """The address of a Ray cluster, and its two nodes of one CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'unlatch[ray]'")
    with two_nodes() as started:
        yield started
