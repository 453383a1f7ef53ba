"""A dictionary of known directions comes back; a training that was killed ends with the same bytes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hooks.errors import InputError, RunError, ShardError
from hooks.files import hold, let_go
from hooks.rows import Row
from hooks.sites import Site
from saes import JumpReLUSAE, StandardSAE, TopKSAE, load_dictionary
from saes.shards import ActivationShards, write_shards
from saes.training import Recipe, fvu, train_dictionary

pytest.importorskip("sae_lens")

D, SITE, OTHER = 32, Site(1, "resid_post"), Site(0, "mlp_out")
SMALL = Recipe(d_sae=48, k=4, vectors=64 * 24, batch=64, lr=3e-3, dead_after=512)


class InMemory(ActivationShards):
    """Shards whose vectors are given, in the place of files."""

    vectors: torch.Tensor

    def _spans(self, _site, _number, spans):
        for start, stop in spans:
            yield self.vectors[start:stop]


def in_memory(vectors, name="planted"):
    made = InMemory(
        folder=Path(name), sites=(SITE,), model=name, fingerprint="0" * 8, tokenizer_hash="", positions="all",
        d_model=vectors.shape[1], dtype="float32", rows=1, complete=True, tokens=(len(vectors),),
        sha256=({str(SITE): name},),
    )  # fmt: skip
    object.__setattr__(made, "vectors", vectors)
    return made


def mixtures(directions, n, seed):
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, len(directions), generator=draws).topk(3, dim=-1).indices
    sizes = torch.rand(n, 3, generator=draws) + 0.5
    z = torch.zeros(n, len(directions)).scatter(-1, chosen, sizes)
    return z @ directions + 20.0 * torch.eye(directions.shape[1])[0]


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_a_dictionary_of_known_directions_comes_back(architecture, tmp_path):
    """Mean over the planted directions of the largest cosine with a decoder row."""
    directions = torch.nn.functional.normalize(
        torch.randn(48, D, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    shards, held = in_memory(mixtures(directions, 2**14, 2)), in_memory(mixtures(directions, 2**10, 3))
    recipe = Recipe(
        d_sae=64, k=3, architecture=architecture, vectors=2**18, batch=512, lr=3e-3, dead_after=2**14
    )
    points = []
    sae = train_dictionary(shards, recipe, tmp_path, held_out=held, every=2**16, on_point=points.append)
    rows = torch.nn.functional.normalize(sae.W_dec, dim=-1)
    assert float((directions @ rows.T).amax(1).mean()) >= 0.9
    assert fvu(sae, held.vectors) < 0.1
    assert points[-1].held_out_fvu == pytest.approx(fvu(sae, held.vectors), abs=1e-4)
    assert points[-1].held_out_fvu < points[0].held_out_fvu
    assert points[-1].l0 == pytest.approx(3, abs=0.3)


@pytest.fixture(scope="module")
def shards(llama, tmp_path_factory):
    draws = torch.Generator().manual_seed(4)
    rows = [Row(tuple(torch.randint(6, 100, (12,), generator=draws).tolist()), 12) for _ in range(100)]
    return write_shards(
        llama, rows, [SITE, OTHER], tmp_path_factory.mktemp("shards") / "a", tokens_per_shard=500
    )


def weights(folder):
    return (folder / "sae_weights.safetensors").read_bytes()


class Killed(Exception):
    pass


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "standard"])
def test_a_training_that_was_killed_ends_with_the_same_bytes(shards, tmp_path, architecture):
    recipe = Recipe(**{**vars(SMALL), "architecture": architecture})
    options = {"site": SITE, "held_out": shards, "every": 256}
    train_dictionary(shards, recipe, tmp_path / "whole", **options)
    met = []

    def die(point):
        met.append(point)
        if len(met) == 3:
            raise Killed

    with pytest.raises(Killed):
        train_dictionary(shards, recipe, tmp_path / "killed", on_point=die, **options)
    assert not (tmp_path / "killed/cfg.json").exists()
    counted = []
    train_dictionary(shards, recipe, tmp_path / "killed", on_vectors=counted.append, **options)
    assert counted[0] == 768
    assert sum(counted) == recipe.vectors
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    for name in ("cfg.json", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "killed/training.safetensors").exists()


def test_what_is_trained_is_read_by_us_and_by_saelens(llama, shards, tmp_path):
    from sae_lens import SAE

    made = train_dictionary(shards, SMALL, tmp_path / "sae", site=SITE)
    assert isinstance(made, TopKSAE)
    read = load_dictionary(tmp_path / "sae", llama, site=SITE)
    assert read.origin.fingerprint == llama.fingerprint
    assert read.origin.metadata["training_vectors"] == SMALL.vectors
    assert read.origin.metadata["recipe"]["seed"] == 0
    x = next(shards.batches(50, site=SITE))
    theirs = SAE.load_from_disk(str(tmp_path / "sae"), device="cpu")
    torch.testing.assert_close(theirs.encode(x), read.encode(x), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(theirs(x), read(x), atol=1e-4, rtol=1e-5)
    again = train_dictionary(shards, SMALL, tmp_path / "sae", site=SITE)
    assert torch.equal(again.W_dec, made.W_dec)


@pytest.mark.parametrize(("architecture", "kind"), [("batchtopk", JumpReLUSAE), ("standard", StandardSAE)])
def test_each_architecture_becomes_what_it_is_used_as(shards, tmp_path, architecture, kind):
    recipe = Recipe(**{**vars(SMALL), "architecture": architecture})
    assert isinstance(train_dictionary(shards, recipe, tmp_path, site=SITE), kind)


def test_the_factor_is_folded_once(shards, tmp_path):
    """Where SAELens's own trainer stops, its dictionary of scaled activations is ours of the plain ones."""
    from saes.training import MEASURED, _trainer

    made = train_dictionary(shards, SMALL, tmp_path, site=SITE)
    some = next(shards.batches(min(MEASURED, len(shards)), site=SITE))
    factor = D**0.5 / float(some.norm(dim=-1).double().mean())
    trainer = _trainer(SMALL, D, torch.device("cpu"))
    trainer.activation_scaler.scaling_factor = factor
    trainer.sae.b_dec.data.copy_(some.mean(0) * factor)
    provider = shards.batches(SMALL.batch, site=SITE, epochs=None)
    for _ in range(SMALL.steps):
        trainer.step(next(provider))
        trainer.n_training_steps += 1
    theirs = trainer.sae(some[:60] * factor) / factor
    torch.testing.assert_close(made(some[:60]), theirs, atol=1e-3, rtol=1e-4)


def test_the_seed_decides_the_weights(shards, tmp_path):
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe = Recipe(**{**vars(SMALL), "seed": seed})
        train_dictionary(shards, recipe, tmp_path / name, site=SITE)
        made[name] = load_file(tmp_path / name / "sae_weights.safetensors")["W_dec"]
    assert torch.equal(made["a"], made["b"])
    assert not torch.equal(made["a"], made["c"])


def test_another_training_in_the_folder_is_refused(shards, tmp_path):
    train_dictionary(shards, SMALL, tmp_path, site=SITE)
    before = weights(tmp_path)
    with pytest.raises(ShardError, match="k is 4 there and 5 here"):
        train_dictionary(shards, Recipe(**{**vars(SMALL), "k": 5}), tmp_path, site=SITE)
    with pytest.raises(ShardError, match=r"site is blocks\.1\.hook_resid_post there"):
        train_dictionary(shards, SMALL, tmp_path, site=OTHER)
    assert weights(tmp_path) == before


def test_a_damaged_state_is_named(shards, tmp_path):
    def die(_point):
        raise Killed

    with pytest.raises(Killed):
        train_dictionary(shards, SMALL, tmp_path, site=SITE, every=256, on_point=die)
    file = tmp_path / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ShardError, match="is damaged"):
        train_dictionary(shards, SMALL, tmp_path, site=SITE, every=256)


def test_two_processes_do_not_train_in_one_folder(shards, tmp_path):
    lock = hold(tmp_path)
    try:
        with pytest.raises(RunError, match="is being written by"):
            train_dictionary(shards, SMALL, tmp_path, site=SITE)
    finally:
        let_go(tmp_path, lock)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"d_sae": 0}, "d_sae=0"),
        ({"k": 49}, "k is in 1..48"),
        ({"k": 0}, "k is in 1..48"),
        ({"vectors": 10}, "one batch at least"),
        ({"lr": 0.0}, "above zero"),
        ({"warm_up": 0.9}, "1 together at most"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_is_written(shards, tmp_path, change, told):
    with pytest.raises(InputError, match=told):
        train_dictionary(shards, Recipe(**{**vars(SMALL), **change}), tmp_path / "new", site=SITE)
    assert not (tmp_path / "new").exists()


def test_a_site_must_be_named_where_there_are_several(shards, tmp_path):
    with pytest.raises(InputError, match="No site was named"):
        train_dictionary(shards, SMALL, tmp_path)


def test_the_curve_is_written_with_what_it_was_made_of(shards, tmp_path):
    train_dictionary(shards, SMALL, tmp_path, site=SITE, every=512)
    told = json.loads((tmp_path / "training.json").read_text())
    assert [point["vectors"] for point in told["curve"]] == [512, 1024, 1536]
    assert told["made_of"]["recipe"]["k"] == 4
    assert np.isfinite([point["loss"] for point in told["curve"]]).all()
