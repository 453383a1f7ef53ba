"""The passk analysis: settings of known rates get their verdicts, and a run is what its draws are."""

import json
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.configs import PasskConfig, VectorConfig
from analyses.passk import draws
from analyses.passk import run as passk
from analyses.passk.draws import KEPT, Draws, Setting
from analyses.passk.samples import traces
from analyses.replay import read_config
from analyses.run_folder import RunFolder
from analyses.tasks import word_problems
from hooks import load
from hooks.errors import InputError, VectorError


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def records(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {(r["condition"], r["item"]): r for r in map(json.loads, lines)}


@pytest.fixture(scope="module")
def config(folder: Path) -> PasskConfig:
    return PasskConfig(
        model=str(folder),
        second_prompt="Think.",
        n_problems=3,
        n_samples=6,
        n_screen=3,
        n_traces=2,
        max_new_tokens=6,
        temperature=1.0,
        chunk=9,
    )


@pytest.fixture(scope="module")
def sampled(config: PasskConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of a tiny model; read-only."""
    return passk.run(config, tmp_path_factory.mktemp("runs") / "passk")


# --- planted rates


def planted(
    monkeypatch: pytest.MonkeyPatch,
    rate: Callable[[Setting, int], float],
    wrong: Callable[[Setting, int], str],
) -> None:
    """Every draw is right with the rate of its setting and problem, by the random stream of that draw."""

    def compute(self: Draws, _lm: Any, _on_tokens: Any) -> list[dict[str, Any]]:
        place = {p.id: i for i, p in enumerate(word_problems(self.config.n_problems, self.config.seed))}
        fields = []
        for problem, draw in self.draws:
            number = place[problem.id]
            rng = np.random.default_rng(self.setting.stream(problem, draw))
            right = bool(rng.random() < rate(self.setting, number))
            said = problem.answer if right else wrong(self.setting, number)
            fields.append(
                {"correct": right, "stated": said, "tokens": 5, "finish": "stop", "nats": 1.0, "text": said}
            )
        return fields

    monkeypatch.setattr(Draws, "compute", compute)


N = 60
HARD = np.linspace(0.03, 0.2, N)
SHARPER = np.where(np.arange(N) % 2, 0.9, 0.0)

PLANTED = {
    "sharpens": (HARD, SHARPER),
    "expands": (HARD / 20, np.clip(4 * HARD, 0, 1)),
    "loses": (np.clip(4 * HARD, 0, 1), HARD / 20),
    "not settled": (HARD, HARD),
}


@pytest.mark.parametrize("verdict", PLANTED)
def test_a_planted_change_gets_its_verdict(
    verdict: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base, second = PLANTED[verdict]
    planted(monkeypatch, lambda s, i: float((second if s.place == 1 else base)[i]), lambda *_: "none such")
    config = PasskConfig(
        model=str(folder), second_prompt="x", n_problems=N, n_samples=32, k=(1, 4, 32), n_traces=0, chunk=999
    )
    told = read(passk.run(config, tmp_path / "r"))
    found = told["families"]["word-problems"]
    compared = found["compared"]
    assert compared["verdict"] == verdict
    assert found["k"] == [1, 4, 32]
    words = {"sharpens": "sharpens what", "expands": "expands what", "loses": "loses what"}
    assert words.get(verdict, "would have been seen with power 0.8") in told["headline"]
    assert ("would have been seen" in told["headline"]) == (verdict == "not settled")
    for name, rate in (("base", base), ("prompted", second)):
        curve = found["settings"][name]["curve"]
        truth = [(1 - (1 - rate) ** k).mean() for k in found["k"]]
        for interval, true in zip(curve, truth, strict=True):
            assert interval["estimate"] == pytest.approx(true, abs=0.09)
    last = compared["coverage"][-1]
    assert sum(last["counts"].values()) == N
    assert compared["perplexity"] is None


def test_what_is_solved_by_saying_one_number_is_put_down_to_guessing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second setting says the first problem's answer to every problem, and so it solves that one by
    guessing; the base solves every second of the others."""
    n, answers = 40, [p.answer for p in word_problems(40, 0)]
    others = [i for i, answer in enumerate(answers) if answer != answers[0]]
    rate = {i: 0.8 for i in others[::2]}
    planted(
        monkeypatch,
        lambda s, i: (answers[i] == answers[0]) if s.place == 1 else rate.get(i, 0.0),
        lambda s, _: answers[0] if s.place == 1 else "none such",
    )
    config = PasskConfig(
        model=str(folder), second_prompt="x", n_problems=n, n_samples=16, n_traces=0, n_screen=16, chunk=999
    )
    told = read(passk.run(config, tmp_path / "r"))["families"]["word-problems"]
    last = told["compared"]["coverage"][-1]
    same = n - len(others)
    assert last["counts"]["only_second"] == same
    assert last["second_alone"]["above_guessing"]["estimate"] == 0
    assert last["counts"]["only_base"] == len(others[::2])
    assert told["settings"]["prompted"]["solved_by_guessing"] == same
    assert told["settings"]["prompted"]["floor"][-1] > same / n
    screened = told["compared"]["screened"]
    assert (screened["n"], screened["draws"]) == (n - len(others[::2]), 16)
    assert screened["coverage"]["only_second"]["estimate"] == pytest.approx(same / screened["n"])


def test_the_smallest_difference_to_be_seen_is_a_share_and_shrinks_with_problems(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    planted(monkeypatch, lambda _, i: float(HARD[i]), lambda *_: "none such")
    sizes = []
    for n in (2, 60):
        config = PasskConfig(
            model=str(folder), second_prompt="x", n_problems=n, n_samples=8, k=(1, 8), n_traces=0, chunk=999
        )
        compared = read(passk.run(config, tmp_path / str(n)))["families"]["word-problems"]["compared"]
        sizes.append(compared["detectable"])
    assert all(0 < size <= 1 for of in sizes for size in of)
    assert sizes[0][-1] == 1
    assert 0.05 < sizes[1][-1] < 0.5


# --- a run


def test_every_draw_is_recorded_once_and_counts_are_those_of_the_records(sampled: Path, config: PasskConfig):
    told, found = read(sampled)["families"]["word-problems"], records(sampled)
    n = config.n_problems
    assert Counter(c for c, _ in found if c != "read") == {
        "base": n * config.n_samples,
        "prompted": n * config.n_samples,
        "screen": n * config.n_screen,
    }
    for name in ("base", "prompted"):
        mine = [r for (c, _), r in found.items() if c == name]
        table = told["settings"][name]
        assert table["tokens"]["estimate"] == pytest.approx(np.mean([r["tokens"] for r in mine]))
        assert table["truncated"]["estimate"] == pytest.approx(
            np.mean([r["finish"] == "length" for r in mine])
        )
        assert (table["n"], table["n_samples"]) == (n, config.n_samples)
    for (condition, item), r in found.items():
        if condition != "read":
            assert ("text" in r) == (r["correct"] or int(item.rsplit("/")[-1]) < KEPT)
            assert ("ids" in r) == (condition == "prompted" and "text" in r)


def test_draws_of_a_problem_differ_and_settings_draw_apart(sampled: Path):
    found = records(sampled)
    problem = next(item for c, item in found if c == "base").rsplit("/", 1)[0]
    texts = [found[c, f"{problem}/{i}"]["text"] for c in ("base", "screen") for i in range(3)]
    assert len(set(texts)) == 6


def test_a_draw_is_the_same_in_other_chunks_with_more_draws_and_other_problems(
    sampled: Path, config: PasskConfig, tmp_path: Path
):
    other = replace(config, n_samples=4, n_problems=2, n_screen=0, chunk=3, n_traces=0)
    before, after = records(sampled), records(passk.run(other, tmp_path / "r"))
    assert len(after) == 2 * 2 * 4
    for key, record in after.items():
        same = {k: v for k, v in before[key].items() if k not in ("nats", "ids")}
        assert same == {k: v for k, v in record.items() if k != "nats"}


def test_no_two_draws_of_a_problem_share_a_stream():
    problem, other = word_problems(2)
    settings = [Setting(name, place) for place, name in enumerate(("base", "second", "screen"))]
    streams = [s.stream(problem, draw) for s in settings for draw in range(300)]
    assert len(set(streams)) == 900
    assert not set(streams) & {s.stream(other, draw) for s in settings for draw in range(300)}


def test_draws_of_a_problem_share_its_prefill(folder: Path, config: PasskConfig, monkeypatch):
    from hooks.decode import Decoder

    filled, real = [], Decoder._prefill

    def counts(self, groups):
        filled.extend(groups)
        real(self, groups)

    monkeypatch.setattr(Decoder, "_prefill", counts)
    problems = word_problems(3)
    work = tuple((p, i) for p in problems for i in range(5))
    Draws(Setting("base", 0), work, config, tokens_kept=False).compute(load(str(folder)), lambda _: None)
    assert len(filled) == 3


def test_a_run_killed_anywhere_ends_with_the_same_bytes(
    sampled: Path, config: PasskConfig, tmp_path: Path, kills: Callable[..., int]
):
    out = tmp_path / "cut"
    assert kills(lambda: passk.run(config, out), draws, "generate_rows", at=2, most=30) > 3
    assert (out / "results.json").read_bytes() == (sampled / "results.json").read_bytes()
    assert read_config(out) == ("passk", config)


# --- a second model, a vector, or neither


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, model_of: Callable, tokenizer_with: Callable) -> Path:
    """Another model of the same tokenizer."""
    path = tmp_path_factory.mktemp("models") / "other"
    model_of("llama", seed=9).save_pretrained(path)
    tokenizer_with().save_pretrained(path)
    return path


def test_the_base_reads_what_the_tuned_model_wrote(
    config: PasskConfig, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stranger's responses surprise it; of the same model it finds what the writer found. And no model is
    loaded while another is in memory."""
    told, loaded, real = {}, [], passk.load

    def alone(name, **options):
        assert not [model for model in loaded if model() is not None]
        lm = real(name, **options)
        loaded.append(weakref.ref(lm.model))
        return lm

    monkeypatch.setattr(passk, "load", alone)
    for name in (str(other), config.model):
        folder = passk.run(
            replace(config, second_prompt=None, tuned=name, n_screen=0), tmp_path / Path(name).name
        )
        results = read(folder)
        assert results["second"]["model"]["name"] == name
        told[name] = results["families"]["word-problems"]["compared"]["perplexity"]["wrong"]
        with RunFolder.open(folder, "passk", read_config(folder)[1]) as run:
            of = traces(run, Setting("tuned", 1), word_problems(3, 0), 6, 2)
            assert [t.draw for t in of if not t.correct] == [0, 0]
    stranger, same = told[str(other)], told[config.model]
    assert len(loaded) == 6
    assert same["n"] == stranger["n"] == 2
    assert same["difference"]["estimate"] == pytest.approx(0, abs=1e-4)
    assert stranger["difference"]["estimate"] > 0.5


def test_a_steered_setting_is_written_into_and_read_by_the_plain_model(
    config: PasskConfig, folder: Path, tmp_path: Path
):
    from analyses import vector

    made = vector.run(VectorConfig(model=str(folder), n_pairs=6, n_null=2), tmp_path / "v")
    steered = replace(
        config, second_prompt=None, vector=str(made / "vectors" / "verbosity.safetensors"), layer=1, dose=4.0
    )
    out = passk.run(steered, tmp_path / "r")
    told, found = read(out), records(out)
    assert told["second"]["kind"] == "steered"
    assert told["second"]["edits"] == [
        {"site": "blocks.1.hook_resid_post", "dose": 4.0, "positions": "generated"}
    ]
    read_by = told["families"]["word-problems"]["compared"]["perplexity"]["wrong"]
    assert read_by["difference"]["estimate"] > 0.1
    items = [item for c, item in found if c == "base"]
    assert any(found["base", i]["tokens"] != found["steered", i]["tokens"] for i in items)
    with pytest.raises(VectorError, match="no recommended layer and dose"):
        passk.run(replace(steered, layer=None, dose=None), tmp_path / "x")


def test_one_setting_has_a_curve_and_a_floor_and_no_verdict(config: PasskConfig, tmp_path: Path):
    out = passk.run(replace(config, second_prompt=None, n_screen=0, k=(1, 3)), tmp_path / "r")
    told = read(out)
    found = told["families"]["word-problems"]
    assert told["second"] is None
    assert found["compared"] is None
    assert found["k"] == [1, 3]
    assert list(found["settings"]) == ["base"]
    assert "blind guesses would reach" in told["headline"]
    assert {condition for condition, _ in records(out)} == {"base"}
    assert "<h2>word-problems</h2>" in (out / "report.html").read_text()


def test_families_are_judged_apart(config: PasskConfig, tmp_path: Path):
    file = tmp_path / "sums.jsonl"
    lines = [{"question": f"What is {a} + {a}?", "answer": str(2 * a)} for a in range(1, 6)]
    file.write_text("\n".join(map(json.dumps, lines)))
    out = passk.run(replace(config, tasks=("word-problems", str(file)), n_screen=0), tmp_path / "r")
    told = read(out)
    assert list(told["families"]) == ["word-problems", str(file)]
    assert told["headline"].count("3 problems, 6 samples") == 2


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"k": (1, 7)}, r"pass@7 was asked for, with n_samples=6.*--n-samples 7, or k up to 6"),
        ({"k": (0,)}, "pass@0 was asked for"),
        ({"tuned": "a", "vector": "b"}, "Pass --tuned or --vector"),
        ({"layer": 1}, "are those of a vector; pass --vector too"),
        ({"second_prompt": None}, "n_screen chooses problems on which a second setting is judged"),
        ({"n_samples": 1}, "n_samples=1: pass 2 or more"),
        ({"n_problems": 1}, "n_problems=1: pass 2 or more"),
        ({"temperature": 0.0}, "makes all samples of a problem alike"),
        ({"tasks": ("word-problems",) * 2}, "each once"),
        ({"tasks": ()}, "one family of problems or more"),
        ({"vector": "none.safetensors"}, "none.safetensors"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(
    changed: dict[str, Any], text: str, config: PasskConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(passk, "load", lambda *_a, **_k: pytest.fail("a model was loaded"))
    with pytest.raises(InputError, match=text):
        passk.run(replace(config, **changed), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_another_tokenizer_is_refused_before_anything_is_sampled_unless_no_traces_are_asked_for(
    config: PasskConfig, tmp_path: Path, model_of: Callable, tokenizer_with: Callable
):
    stranger = tmp_path / "stranger"
    model_of("llama", seed=9).save_pretrained(stranger)
    tokenizer_with(swap=("a", 50)).save_pretrained(stranger)
    config = replace(config, second_prompt=None, tuned=str(stranger), n_screen=0)
    with pytest.raises(InputError, match=r"tokenizers of .* differ.*Pass --n-traces 0"):
        passk.run(config, tmp_path / "a")
    assert not (tmp_path / "a" / "records.jsonl").exists()
    told = read(passk.run(replace(config, n_traces=0), tmp_path / "b"))
    assert told["families"]["word-problems"]["compared"]["perplexity"] is None


# --- the page


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_fetches_nothing_and_shows_what_models_wrote_as_text(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hostile = "<img src=x onerror=alert(1)>"
    planted(monkeypatch, lambda s, i: float(s.place == i % 2), lambda *_: hostile)
    config = PasskConfig(
        model=str(folder), second_prompt=hostile, n_problems=6, n_samples=4, n_traces=0, chunk=999
    )
    text = (passk.run(config, tmp_path / "r") / "report.html").read_text()
    page = Tags()
    page.feed(text)
    assert not [a for _, a in page.seen if a.get("src") or (a.get("href") or "").startswith("http")]
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 4
    assert "solved by prompted alone" in text
    assert "solved by the base alone" in text
