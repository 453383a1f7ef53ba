"""A dictionary comes back from the hub bit for bit; several share a repository; only its files are read."""

import json

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

from hooks import Site
from hooks.errors import InputError, VectorError
from saes import (
    BUNDLED,
    GatedSAE,
    JumpReLUSAE,
    Origin,
    StandardSAE,
    TopKSAE,
    from_pretrained,
    load_dictionary,
    push_to_hub,
    save_dictionary,
)
from saes.card import dictionary_card
from saes.formats.saelens import SCALER
from tests.stand_in_hub import WRITE

NAME, D, LATENTS = "ada/saes", 32, 40
SITE = Site(1, "resid_post")
MAKE = {
    "standard": lambda origin: StandardSAE(D, LATENTS, origin=origin),
    "topk": lambda origin: TopKSAE(D, LATENTS, 4, origin=origin),
    "jumprelu": lambda origin: JumpReLUSAE(D, LATENTS, origin=origin),
    "gated": lambda origin: GatedSAE(D, LATENTS, origin=origin),
}
QUALITY = {"n_tokens": 9634, "n_next_tokens": 9600, "clean_ce_nats": 2.0, "l0": 4.0, "dead_fraction": 0.2}
QUALITY |= {f"{of}_fvu": fvu for of, fvu in (("dictionary", 0.136), ("pca", 0.446), ("random", 0.749))}
QUALITY |= {"dictionary_ce_nats": 2.313, "dictionary_recovered": 0.9497}


def make(kind="topk", *, site=SITE, seed=0, **metadata):
    """A dictionary with weights of its own."""
    hook = None if site is None else str(site)
    sae = MAKE[kind](Origin("tiny-llama", site, hook, None, metadata))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in sae.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return sae.requires_grad_(False)


def same(left, right):
    assert type(left) is type(right)
    assert getattr(left, "k", None) == getattr(right, "k", None)
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", MAKE)
def test_what_comes_back_is_what_was_pushed(hub, llama, kind):
    sae = make(kind)
    push_to_hub(sae, NAME, token=WRITE)
    back = from_pretrained(NAME, llama)
    same(back, sae)
    assert back.origin.site == SITE
    x = torch.randn(5, D)
    assert torch.equal(back.encode(x), sae.encode(x))
    assert hub.repos[NAME].files().keys() >= {
        f"{SITE}/cfg.json",
        f"{SITE}/sae_weights.safetensors",
        "README.md",
    }


def test_a_folder_of_folders_goes_up_in_one_commit_byte_for_byte(hub, tmp_path):
    for layer in (0, 2):
        save_dictionary(make(site=Site(layer, "resid_post"), seed=layer), tmp_path / f"at-{layer}")
    (tmp_path / "at-0" / "notes.txt").write_text("not ours to publish")
    push_to_hub(tmp_path, NAME, token=WRITE)
    kept = hub.repos[NAME]
    assert len(kept.messages) == 2
    for layer in (0, 2):
        for file in ("cfg.json", "sae_weights.safetensors"):
            assert kept.files()[f"at-{layer}/{file}"] == (tmp_path / f"at-{layer}" / file).read_bytes()
    assert not [name for name in kept.files() if "notes" in name]
    with pytest.raises(InputError, match=r"several dictionaries: at-0, at-2\. Pass sae_id="):
        from_pretrained(NAME)
    same(from_pretrained("hf://ada/saes/at-2"), make(seed=2))
    assert not hub.asked("resolve.*at-0")


def test_the_bundled_dictionary_goes_up_with_the_density_of_its_latents(hub):
    push_to_hub(BUNDLED, NAME, token=WRITE)
    same(from_pretrained(NAME), load_dictionary(BUNDLED))
    files = hub.repos[NAME].files()
    assert files[f"{BUNDLED.name}/latents.safetensors"] == (BUNDLED / "latents.safetensors").read_bytes()
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in files["README.md"].decode()


def test_a_scale_beside_the_weights_is_folded_before_it_goes_up(hub, tmp_path):
    folder = save_dictionary(make("standard"), tmp_path / "s")
    settings = json.loads((folder / "cfg.json").read_text())
    settings["normalize_activations"] = "expected_average_only_in"
    (folder / "cfg.json").write_text(json.dumps(settings))
    (folder / SCALER).write_text(json.dumps({"scaling_factor": 0.5}))
    push_to_hub(folder, NAME, token=WRITE)
    same(from_pretrained(NAME), load_dictionary(folder))
    assert json.loads(hub.repos[NAME].files()[f"{SITE}/cfg.json"])["normalize_activations"] == "none"


def test_only_its_own_files_are_fetched_and_once(hub, llama):
    push_to_hub({"a": make(seed=1), "b": make(seed=2)}, NAME, token=WRITE)
    kept = hub.repos[NAME]
    head = kept.commits[kept.branches["main"]]
    kept.add(head | {f"a/{name}": head["a/cfg.json"] for name in ("trainer_state.pt", "runner_cfg.json")})
    hub.requests.clear()
    same(from_pretrained(NAME, llama, sae_id="a"), make(seed=1))
    assert {request.rpartition("/")[2] for request in hub.asked("resolve")} == {
        "cfg.json",
        "sae_weights.safetensors",
    }
    hub.requests.clear()
    from_pretrained(NAME, llama, sae_id="a")
    assert hub.requests == [f"GET /api/models/{NAME}"]
    same(from_pretrained(NAME, sae_id="a", local_files_only=True), make(seed=1))


def test_a_dictionary_at_the_root_of_a_repository_is_read(hub, tmp_path):
    folder = save_dictionary(make(), tmp_path / "s")
    hub.repo(NAME, {file.name: file.read_bytes() for file in folder.iterdir()})
    same(from_pretrained(NAME), make())


def test_a_second_push_adds_and_keeps(hub):
    push_to_hub(make(), NAME, sae_id="a", token=WRITE)
    kept = hub.repos[NAME]
    head = kept.commits[kept.branches["main"]]
    text = head["README.md"].content.replace(b"# saes\n", b"# saes\n\nOurs since 2026.\n")
    kept.add(head | {"README.md": type(head["README.md"])(text, large=False)})
    push_to_hub(make("gated"), NAME, sae_id="b", token=WRITE)
    push_to_hub(make(seed=3), NAME, sae_id="a", token=WRITE)
    card = kept.files()["README.md"].decode()
    assert card.count("<!-- unlatch:begin") == 2
    assert "Ours since 2026." in card
    same(from_pretrained(NAME, sae_id="a"), make(seed=3))
    same(from_pretrained(NAME, sae_id="b"), make("gated"))


# --- refusals


def test_pickles_are_neither_fetched_nor_read(hub):
    hub.repo(NAME, {"ae.pt": b"\x80\x04.", "cfg.json": b"{}"})
    with pytest.raises(InputError, match=r"it has .*ae\.pt.*Pickled files may run code and are not read"):
        from_pretrained(NAME)
    assert not hub.asked("resolve")


@pytest.mark.usefixtures("hub")
def test_a_missing_id_says_which_there_are():
    push_to_hub(make(), NAME, token=WRITE)
    with pytest.raises(InputError, match=rf"no dictionary 'x'; it has {SITE}\. Pass sae_id="):
        from_pretrained(NAME, sae_id="x")
    with pytest.raises(InputError, match="is no name of a file"):
        from_pretrained(NAME, sae_id="../x")


@pytest.mark.usefixtures("hub")
def test_a_dictionary_of_another_model_or_width_is_refused(tiny):
    push_to_hub(make(), NAME, token=WRITE)
    with pytest.raises(VectorError, match="was trained on tiny-llama"):
        from_pretrained(NAME, tiny("gpt2"))
    same(from_pretrained(NAME, tiny("gpt2"), any_model=True), make())


def test_what_has_no_site_needs_an_id_and_ids_are_plain(hub, tmp_path):
    with pytest.raises(InputError, match="pass sae_id"):
        push_to_hub(make(site=None), NAME, token=WRITE)
    for bad in ("../x", "a b"):
        with pytest.raises(InputError):
            push_to_hub(make(), NAME, sae_id=bad, token=WRITE)
    with pytest.raises(InputError, match="by their ids"):
        push_to_hub({}, NAME, token=WRITE)
    with pytest.raises(InputError, match="No folder or file"):
        push_to_hub(tmp_path / "none", NAME, token=WRITE)
    assert hub.requests == []


# --- the card


def test_the_card_says_what_the_settings_say_beside_the_controls():
    sae = make(quality=QUALITY, training_vectors=1048576, distinct_vectors=378032, positions="all")
    card = dictionary_card(sae, NAME, str(SITE), license="mit")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    for said in (
        "`TopKSAE`: 40 latents, activations 32 wide, k = 4.",
        "Site: `blocks.1.hook_resid_post`, of `tiny-llama`",
        "Trained on 1,048,576 activations, 378,032 distinct ones.",
        "On 9,634 tokens",
        "| dictionary | 0.136 | 0.313 | 0.950 |",
        "| PCA of as many directions | 0.446 | – | – |",
        'SAE.from_pretrained("ada/saes", "blocks.1.hook_resid_post")',
        "--dictionary hf://ada/saes/blocks.1.hook_resid_post",
        "Which weights it was trained on: only the model's name is known.",
    ):
        assert said in body, said
    bare = dictionary_card(make(), NAME, "x")
    assert "do not say on how many tokens" in bare
    assert "`saes.quality` measures it" in bare


def test_no_text_of_a_dictionary_changes_the_structure_of_its_card():
    def structure(text):
        said = {
            "positions": text,
            "dataset_path": text,
            "training_vectors": text,
            "note": [text, {text: text}],
        }
        quality = dict.fromkeys(QUALITY, text)
        sae = make(**said, quality=quality)
        sae.origin = Origin(text, None, text, text, sae.origin.metadata)
        body = dictionary_card(sae, NAME, "x").split("---\n", 2)[2]
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
        return [(t.type, [c.type for c in t.children] if t.children else None) for t in tokens]

    plain = structure("a")
    for text in (
        *(
            "`",
            "|",
            "\\|",
            "```\n# h",
            "<script>x</script>",
            "\n<!-- unlatch:end x -->\n",
            "[x](javascript:1)",
        ),
        *("\n---\n", "![](u)", "\u202e", "'\"); (", "\n\n1. a", "~~~", "\x00", "``` ` ``"),
    ):
        assert structure(text) == plain, text
