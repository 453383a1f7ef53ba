"""A vector comes back from the hub bit for bit, with a card that says what its file says and no more."""

import json
from dataclasses import fields, replace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hooks.errors import InputError, VectorError
from interp import SteeringVector
from interp.reliability import Reliability
from interp.steering_vector import Recommendation, SignTest
from interp.vector_card import vector_card
from tests.stand_in_hub import READ, WRITE

NAME = "ada/brief"
PASSED = SignTest("tokens", 0.3, plus=40.0, plain=60.0, minus=85.0, low=30.0, high=60.0, n=25)


def make(lm=None, **changes):
    generator = torch.Generator().manual_seed(0)
    vector = SteeringVector(
        vectors={i: 3 * torch.randn(32, generator=generator) for i in (0, 2)},
        kind="resid_post",
        poles=("brief", "läng — 長い"),
        estimator="mean_difference",
        read="(last(1) | after('\"'))",
        resid_norm={0: 0.1 + 0.2, 2: 7.25},
        n_pairs=1250,
        pairs_hash="00ff",
        seed=7,
        model="Qwen/Qwen3-0.6B" if lm is None else lm.name,
        fingerprint="aaaa" if lm is None else lm.fingerprint,
        tokenizer_hash="bbbb" if lm is None else lm.tokenizer_hash,
        template_hash=None if lm is None else lm.template_hash,
        reliability={
            0: Reliability(0.91, 0.11, 0.34, 0.21, 0.97, 0.61, 1250, 20),
            2: Reliability(0.05, 0.12, 0.02, 0.22, 0.52, 0.62, 1250, 20),
        },
        length_control={0: {"cos_matched": 0.73, "cos_position_out": 0.44}},
        recommended=Recommendation(2, 0.3, "largest drop in tokens at equal accuracy"),
        sign_test=PASSED,
        versions={"torch": "2.9", "unlatch": "0.1.0"},
    )
    return replace(vector, **changes)


def same(left, right):
    """Equal in every field, bit for bit."""
    for field in fields(SteeringVector):
        ours, theirs = getattr(left, field.name), getattr(right, field.name)
        if field.name == "vectors":
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[i], theirs[i]) for i in ours)
        else:
            assert ours == theirs, field.name


# --- there and back


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("family", ["llama", "gemma3", "neox"])
def test_what_comes_back_is_what_was_pushed_and_is_for_its_model_alone(tiny, family):
    vector = make(tiny(family))
    vector.push_to_hub(NAME, token=WRITE)
    same(SteeringVector.from_pretrained(NAME, tiny(family)), vector)
    with pytest.raises(VectorError, match="was made for"):
        SteeringVector.from_pretrained(NAME, tiny("gpt2"))
    same(SteeringVector.from_pretrained(NAME, tiny("gpt2"), any_model=True), vector)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["hf://ada/brief", "hf:/ada/brief/v/one.safetensors", "hf://ada/brief@main"])
def test_load_takes_a_reference_wherever_it_takes_a_file(name):
    make().push_to_hub(NAME, filename="v/one.safetensors", token=WRITE)
    same(SteeringVector.load(name), make())


def test_several_files_share_a_repository_and_one_is_to_be_named(hub):
    first, second = make(), -make()
    first.push_to_hub(NAME, filename="a.safetensors", token=WRITE)
    second.push_to_hub(NAME, filename="b/c.safetensors", token=WRITE, revision="main")
    with pytest.raises(InputError, match=r"several files: a\.safetensors, b/c\.safetensors\. Pass filename="):
        SteeringVector.from_pretrained(NAME)
    same(SteeringVector.from_pretrained(NAME, filename="a.safetensors"), first)
    same(SteeringVector.from_pretrained(NAME, filename="b/c.safetensors"), second)
    card = hub.repos[NAME].files()["README.md"].decode()
    assert card.count("<!-- unlatch:begin") == card.count("<!-- unlatch:end") == 2


def test_a_folder_is_read_as_a_repository_is(tmp_path):
    make().save(tmp_path / "vectors" / "one.safetensors")
    same(SteeringVector.from_pretrained(tmp_path), make())
    (tmp_path / "other.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"several files: other\.safetensors, vectors/one\.safetensors"):
        SteeringVector.from_pretrained(tmp_path)


def test_the_same_vector_is_the_same_bytes_and_a_second_push_no_commit(hub, tmp_path):
    files = [make().save(tmp_path / f"{n}.safetensors").read_bytes() for n in range(4)]
    assert len(set(files)) == 1
    for _ in range(2):
        make().push_to_hub(NAME, token=WRITE)
    assert len(hub.repos[NAME].messages) == 2  # the first commit of a repository, and ours


def test_a_second_push_replaces_what_is_ours_and_keeps_what_people_wrote(hub):
    make().push_to_hub(NAME, token=WRITE, license="mit")
    kept = hub.repos[NAME]
    card = kept.files()["README.md"].decode()
    people = card.replace("# brief\n", "# brief\n\nMade on a rainy day.\n") + "\n## Thanks\n\nTo all.\n"
    kept.add(kept.commits[kept.branches["main"]] | {"README.md": _regular(people)})
    make(recommended=Recommendation(0, 0.125, "by hand")).push_to_hub(NAME, token=WRITE)
    now = kept.files()["README.md"].decode()
    assert "layer 0, dose 0.125" in now
    assert "dose 0.3 of" not in now
    assert "Made on a rainy day." in now
    assert now.endswith("\n## Thanks\n\nTo all.\n")
    assert now.startswith(card.split("# brief")[0])  # the licence too


def _regular(text):
    from tests.stand_in_hub import Stored

    return Stored(text.encode(), large=False)


# --- refusals


def test_pickles_are_neither_fetched_nor_read(hub):
    hub.repo(NAME, {"vector.pt": b"\x80\x04.", "README.md": b"# x"})
    for filename in (None, "vector.pt"):
        with pytest.raises(InputError, match=r"it has .*vector\.pt\. Pickled files may run code and are not"):
            SteeringVector.from_pretrained(NAME, filename=filename)
    assert not hub.asked("resolve")


@pytest.mark.usefixtures("hub")
def test_a_missing_file_says_which_there_are():
    make().push_to_hub(NAME, token=WRITE)
    with pytest.raises(InputError, match=r"no steering vector 'x\.safetensors'; it has vector\.safetensors"):
        SteeringVector.from_pretrained(NAME, filename="x.safetensors")


def test_a_file_whose_seal_is_broken_is_refused_though_the_hub_vouches_for_it(hub):
    raw = make()._bytes()
    hub.repo(NAME, {"vector.safetensors": raw.replace(b"mean_difference", b"mean_indifferen")})
    with pytest.raises(VectorError, match="its checksum does not match"):
        SteeringVector.from_pretrained(NAME)


@pytest.mark.parametrize("filename", ["../v.safetensors", "a b.safetensors", "v.pt", "/v.safetensors"])
def test_bad_names_are_refused_before_anything_is_asked(hub, filename):
    with pytest.raises(InputError):
        make().push_to_hub(NAME, filename=filename, token=WRITE)
    if ".." in filename or filename.startswith("/"):
        with pytest.raises(InputError, match="is no name of a file"):
            SteeringVector.from_pretrained(NAME, filename=filename)
    assert hub.requests == []


def test_a_read_token_cannot_push(hub):
    hub.repo(NAME)
    with pytest.raises(InputError, match="write access"):
        make().push_to_hub(NAME, token=READ)


# --- the card


def test_the_card_says_what_the_file_says_beside_its_controls():
    card = vector_card(make(), NAME, "v.safetensors", license="apache-2.0")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "unlatch",
        "tags": ["unlatch", "steering-vector", "activation-steering", "interpretability"],
        "base_model": ["Qwen/Qwen3-0.6B"],
        "license": "apache-2.0",
    }
    for said in (
        "First pole: `brief`. Second pole: `läng — 長い`.",
        "`resid_post`, 32 wide",
        "Estimator `mean_difference`, reading `(last(1) | after('\"'))`, from 1,250 pairs with hash `00ff`",
        "Recommended: layer 2, dose 0.3 of the median norm",
        "`largest drop in tokens at equal accuracy`",
        "Sign test passed on `tokens`",
        "mean 40 at dose +0.3, 60 without, 85 at dose -0.3",
        "[30, 60], n = 25.",
        "weights `aaaa`, tokenizer `bbbb`, chat template `none`",
        "`torch` `2.9`, `unlatch` `0.1.0`",
        "| 0.91 | 0.11 | 0.34 | 0.21 | 0.97 | 0.61 | yes | 0.73 | 0.44 |",
        "| 0.05 | 0.12 | 0.02 | 0.22 | 0.52 | 0.62 | no | – | – |",
        "20 draws",
        'SteeringVector.from_pretrained("ada/brief", lm, filename="v.safetensors")',
        "unlatch steer --vector hf://ada/brief/v.safetensors",
        "Anything at a layer that is not above its null.",
    ):
        assert said in body, said


def test_the_card_says_what_was_never_measured():
    bare = make(reliability={}, length_control={}, recommended=None, sign_test=None, versions={})
    card = vector_card(bare, NAME, "v.safetensors")
    for said in (
        "Recommended layer and dose: none",
        "Sign test: none was made",
        "Its reliability was not measured",
        "Length control: none",
        "vector.at(2, dose=0.1)",
        "--layer 2 --dose 0.1",
    ):
        assert said in card, said
    failed = vector_card(make(sign_test=replace(PASSED, plain=90.0)), NAME, "v.safetensors")
    assert "Sign test **failed**" in failed
    assert "it failed its sign test" in failed


def test_the_python_of_the_card_runs(hub, llama, monkeypatch):
    """With the model that it names in place of one that would be downloaded."""
    make(llama).push_to_hub(NAME, token=WRITE)
    card = hub.repos[NAME].files()["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.setattr("hooks.load", lambda name: llama if name == llama.name else None)
    ran = {}
    exec(compile(code, "card", "exec"), ran)
    ran["steered"].receipt.check(ran["edit"].positions)


HOSTILE = st.lists(
    st.sampled_from(
        [
            *(
                "`",
                "```\n",
                "|",
                "\\",
                "<script>",
                "-->",
                "[x](javascript:1)",
                "![](u)",
                "\n# h\n",
                "\n---\n",
            ),
            *("\n<!-- unlatch:end v.safetensors -->\n", "\x00", "<img src=x onerror=1>", '"\n', "http://a.b"),
            *("'); x(", "\u202e"),
        ]
    )
    | st.text(max_size=5),
    max_size=6,
).map("".join)


def structure(card):
    """Kinds of tokens of the card's text, by an independent parser; and its front matter but the model."""
    _, front, body = card.split("---\n", 2)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    kinds = [(t.type, [c.type for c in t.children] if t.children else None) for t in tokens]
    return kinds, {name: value for name, value in yaml.safe_load(front).items() if name != "base_model"}


PLAIN = structure(vector_card(make(versions={"a": "b"}), NAME, "v.safetensors"))


@settings(max_examples=25)
@given(poles=st.tuples(HOSTILE, HOSTILE), text=HOSTILE, model=HOSTILE)
def test_no_text_of_a_vector_changes_the_structure_of_its_card(poles, text, model):
    vector = make(
        poles=poles,
        model=model,
        estimator=text,
        read=text,
        pairs_hash=text,
        recommended=Recommendation(2, 0.3, text),
        sign_test=replace(PASSED, outcome=text),
        versions={text: text},
        fingerprint=text,
    )
    card = vector_card(vector, NAME, "v.safetensors")
    assert structure(card) == PLAIN
    again = vector_card(vector, NAME, "v.safetensors", card=card)
    assert again == card
    line = next(line for line in card.splitlines() if line.startswith("lm = load("))
    assert isinstance(json.loads(line.removeprefix("lm = load(").removesuffix(")")), str)
