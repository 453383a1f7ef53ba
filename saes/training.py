"""Train a dictionary on activation shards, with SAELens's own trainer and losses.

    blocks.15.hook_resid_post/
        training.safetensors      weights, Adam's moments and counts: from where a training goes on
        cfg.json, sae_weights.safetensors, training.json      once it has ended

Activations are multiplied by sqrt(d_in) / mean |x| while they are trained on, and the factor is folded
into the weights at the end. ``b_dec`` begins at their mean. A latent that has not fired for
``dead_after`` vectors is dead, and from then on learns from what the others leave (AuxK).

The same shards and recipe give the same bytes, whether the training was killed and went on or not.

Sources: SAELens 6 for the trainer and the losses; Gao et al. 2024, arXiv:2406.04093, for TopK, AuxK
and the learning rate 2e-4 / sqrt(d_sae / 2^14); Bussmann et al. 2024, arXiv:2412.06410, for BatchTopK.
Differs from the sources: activations come from our shards, of any model and site; a training is
written without pickle; ``b_dec`` begins at the mean, not at zero.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from hooks.errors import InputError, RunError, ShardError
from hooks.files import hold, let_go, whole, write_json, writing
from hooks.sites import Site
from saes.autoencoder import Autoencoder
from saes.formats.saelens import CONFIG, from_saelens, read_saelens, save_dictionary
from saes.shards import ActivationShards
from saes.transcoder import Transcoder

STATE, CURVE = "training.safetensors", "training.json"
FORMAT = "unlatch.training.1"

MEASURED = 2**15
"""Vectors that the factor and the mean are taken of."""

HELD_OUT = 2**13
"""Held-out vectors that a point of the curve is measured on."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a dictionary is trained."""

    d_sae: int
    architecture: Literal["topk", "batchtopk", "standard"] = "topk"
    k: int = 32
    """Latents that an activation has; on average, for batchtopk. Not for standard."""

    l1: float = 1.0
    """Weight of the L1 penalty of standard."""

    vectors: int = 2**21
    """Activations trained on, each one as often as they come round."""

    batch: int = 2048
    lr: float | None = None
    """None takes 2e-4 / sqrt(d_sae / 2^14)."""

    warm_up: float = 0.02
    """Share of the steps in which the learning rate grows to its value."""

    decay: float = 0.2
    """Share of the steps, the last ones, in which it falls to zero."""

    dead_after: int = 2**18
    """Vectors without which a latent is taken for dead."""

    seed: int = 0

    @property
    def steps(self) -> int:
        return self.vectors // self.batch

    @property
    def learning_rate(self) -> float:
        return 2e-4 / (self.d_sae / 2**14) ** 0.5 if self.lr is None else self.lr

    def check(self) -> None:
        """Raise :class:`InputError` unless something can be trained so."""
        if self.d_sae < 1 or self.batch < 1 or self.vectors < self.batch or self.dead_after < 1:
            raise InputError(
                f"d_sae={self.d_sae}, batch={self.batch}, vectors={self.vectors}, "
                f"dead_after={self.dead_after}: all are 1 or more, and vectors is one batch at least."
            )
        if self.architecture != "standard" and not 0 < self.k <= self.d_sae:
            raise InputError(f"k={self.k} with d_sae={self.d_sae}: k is in 1..{self.d_sae}.")
        if not self.learning_rate > 0 or self.l1 < 0:
            raise InputError(f"lr={self.lr}, l1={self.l1}: the first is above zero, the second not below.")
        if self.warm_up < 0 or self.decay < 0 or self.warm_up + self.decay > 1:
            raise InputError(
                f"warm_up={self.warm_up} and decay={self.decay} are shares of the steps, 1 together at most."
            )


@dataclass(frozen=True)
class Point:
    """Where a training stands."""

    vectors: int
    """Activations trained on so far."""

    loss: float
    l0: float
    dead_fraction: float
    fvu: float
    """Of the batch just trained on, before its step."""

    held_out_fvu: float | None
    """Of activations that are never trained on; None without them."""


def train_dictionary(
    shards: ActivationShards,
    recipe: Recipe,
    folder: str | Path,
    *,
    site: Site | None = None,
    held_out: ActivationShards | None = None,
    every: int = 2**17,
    device: torch.device | str = "cpu",
    on_point: Callable[[Point], None] | None = None,
    on_vectors: Callable[[int], None] | None = None,
) -> Autoencoder:
    """Train one dictionary, or go on where its training stopped, and write it; returns it, on the CPU.

    Args:
        site: May be left out where the shards have one.
        held_out: Shards of other rows, for the curve.
        every: Vectors between two points of the curve; the training is written at each.
        device: Where it is trained.
        on_point: Called with each point.
        on_vectors: Called with the number of vectors of each step, for progress.

    Raises:
        InputError: for a recipe that cannot be, or if SAELens is not installed.
        ShardError: if the shards are damaged; if ``folder`` holds the training of others, or another.
        RunError: if another process trains there; if a loss is not finite; if the disk is full, in which
            case what was written is whole and the same call goes on.

    Example:
        >>> shards = write_shards(lm, rows, [site], "acts", positions=everything - first(1))
        >>> sae = train_dictionary(shards, Recipe(d_sae=8 * lm.d_model), "sae")
    """
    recipe.check()
    if every < 1:
        raise InputError(f"every={every}: a point of the curve is one vector or more after another.")
    chosen = shards.one_of(site)
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder)
    try:
        if (folder / CONFIG).exists():
            _check_same(_read_curve(folder / CURVE)["made_of"], _made_of(shards, recipe, chosen), folder)
            return _autoencoder(read_saelens(folder))
        training = _Training(shards, recipe, chosen, folder, torch.device(device))
        held = None if held_out is None else _first(held_out, chosen, HELD_OUT, seed=recipe.seed)
        return training.run(held, every, on_point, on_vectors)
    finally:
        let_go(folder, lock)


class _Training:
    """SAELens's trainer, driven a step at a time, with its state on disk."""

    def __init__(
        self, shards: ActivationShards, recipe: Recipe, site: Site, folder: Path, device: torch.device
    ) -> None:
        self._shards, self._recipe, self._site, self._folder = shards, recipe, site, folder
        self._made_of = _made_of(shards, recipe, site)
        self._curve: list[dict[str, Any]] = []
        some = _first(shards, site, MEASURED, seed=recipe.seed)
        norm = float(some.norm(dim=-1).double().mean())
        if not norm > 0:
            raise InputError(f"The activations at {site} are all zero; there is nothing to train on.")
        self._factor = shards.d_model**0.5 / norm
        self._trainer = _trainer(recipe, shards.d_model, device)
        self._trainer.activation_scaler.scaling_factor = self._factor
        self._trainer.sae.b_dec.data.copy_(some.mean(0) * self._factor)
        if (folder / STATE).exists():
            self._resume()

    def run(
        self,
        held: Float[Tensor, "tokens d_in"] | None,
        every: int,
        on_point: Callable[[Point], None] | None,
        on_vectors: Callable[[int], None] | None,
    ) -> Autoencoder:
        recipe, trainer = self._recipe, self._trainer
        if on_vectors is not None and trainer.n_training_samples:
            on_vectors(trainer.n_training_samples)
        for batch in islice(self._batches(), recipe.steps - trainer.n_training_steps):
            before = trainer.n_training_samples
            with torch.enable_grad():
                output = trainer.step(batch)
            trainer.n_training_steps += 1
            if on_vectors is not None:
                on_vectors(len(batch))
            last = trainer.n_training_steps == recipe.steps
            if last or before // every != trainer.n_training_samples // every:
                point = self._point(output, held)
                self._curve.append(asdict(point))
                self._save()
                if on_point is not None:
                    on_point(point)
        return self._finish()

    def _batches(self) -> Iterator[Tensor]:
        return self._shards.batches(
            self._recipe.batch,
            site=self._site,
            epochs=None,
            seed=self._recipe.seed,
            start=self._trainer.n_training_steps,
            device=self._trainer.cfg.device,
        )

    @torch.no_grad()
    def _point(self, output: Any, held: Float[Tensor, "tokens d_in"] | None) -> Point:
        trainer = self._trainer
        loss = float(output.loss)
        if not torch.isfinite(output.loss):
            raise RunError(
                f"The loss is {loss} after {trainer.n_training_samples} vectors at {self._site}; nothing of "
                f"this step was written. A smaller lr than {self._recipe.learning_rate:.2g} may work."
            )
        x, x_hat = output.sae_in.float(), output.sae_out.float()
        return Point(
            vectors=trainer.n_training_samples,
            loss=loss,
            l0=float((output.feature_acts > 0).sum(-1).float().mean()),
            dead_fraction=float(trainer.dead_neurons.float().mean()),
            fvu=_unexplained(x, x_hat),
            held_out_fvu=None if held is None else fvu(self._dictionary(), held),
        )

    def _dictionary(self) -> Autoencoder:
        """What has been learned so far, for activations as they are."""
        return _autoencoder(from_saelens(self._trainer.sae, norm_scaling_factor=self._factor))

    def _finish(self) -> Autoencoder:
        dictionary, shards = self._dictionary(), self._shards
        dictionary.origin = replace(
            dictionary.origin,
            model=shards.model,
            site=self._site,
            hook_name=str(self._site),
            fingerprint=shards.fingerprint,
            metadata={
                "positions": shards.positions,
                "training_vectors": self._trainer.n_training_samples,
                "distinct_vectors": len(shards),
                "recipe": asdict(self._recipe),
            },
        )
        write_json(self._folder / CURVE, {"made_of": self._made_of, "curve": self._curve})
        save_dictionary(dictionary, self._folder)
        (self._folder / STATE).unlink(missing_ok=True)
        return dictionary

    # the state on disk

    def _save(self) -> None:
        trainer = self._trainer
        optimizer = trainer.optimizer.state_dict()
        tensors = {
            "counts.act_freq_scores": trainer.act_freq_scores,
            "counts.n_forward_passes_since_fired": trainer.n_forward_passes_since_fired,
            **{f"weights.{name}": value for name, value in trainer.sae.state_dict().items()},
            **{
                f"adam.{number}.{name}": value
                for number, state in optimizer["state"].items()
                for name, value in state.items()
            },
        }
        told = {
            "format": FORMAT,
            "made_of": self._made_of,
            "curve": self._curve,
            "steps": trainer.n_training_steps,
            "vectors": trainer.n_training_samples,
            "n_frac_active_samples": trainer.n_frac_active_samples,
            "groups": optimizer["param_groups"],
            "schedule": trainer.lr_scheduler.state_dict(),
            "coefficients": {n: s.state_dict() for n, s in trainer.coefficient_schedulers.items()},
        }
        data = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with whole(self._folder / STATE) as part:
            part.write_bytes(to_bytes(data, metadata={"told": json.dumps(told)}))

    def _resume(self) -> None:
        file = self._folder / STATE
        try:
            with safe_open(file, "pt") as opened:
                told = json.loads(opened.metadata()["told"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ShardError(
                f"{file} is damaged: {error}. Delete it to train from the start; the shards are kept."
            ) from None
        _check_same(told["made_of"], self._made_of, self._folder)
        trainer = self._trainer
        trainer.sae.load_state_dict(_part(tensors, "weights."))
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "adam.").items():
            number, _, of = name.partition(".")
            adam.setdefault(int(number), {})[of] = value
        trainer.optimizer.load_state_dict({"state": adam, "param_groups": told["groups"]})
        trainer.lr_scheduler.load_state_dict(told["schedule"])
        for name, scheduler in trainer.coefficient_schedulers.items():
            scheduler.load_state_dict(told["coefficients"][name])
        for name, value in _part(tensors, "counts.").items():
            getattr(trainer, name).copy_(value)
        trainer.n_training_steps = told["steps"]
        trainer.n_training_samples = told["vectors"]
        trainer.n_frac_active_samples = told["n_frac_active_samples"]
        self._curve = told["curve"]


def _trainer(recipe: Recipe, d_in: int, device: torch.device) -> Any:
    """A trainer that has not begun; its weights are drawn from the seed."""
    try:
        from sae_lens import (
            BatchTopKTrainingSAE,
            BatchTopKTrainingSAEConfig,
            StandardTrainingSAE,
            StandardTrainingSAEConfig,
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
        )
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer
    except ImportError:
        raise InputError(
            "Dictionaries are trained by SAELens, which is not installed. pip install 'unlatch[saelens]'."
        ) from None
    shared: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": recipe.d_sae,
        "normalize_activations": "expected_average_only_in",
        "device": str(device),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        sae: nn.Module
        match recipe.architecture:
            case "topk":
                sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shared, k=recipe.k))
            case "batchtopk":
                sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shared, k=float(recipe.k)))
            case "standard":
                sae = StandardTrainingSAE(
                    StandardTrainingSAEConfig(
                        **shared, l1_coefficient=recipe.l1, l1_warm_up_steps=recipe.steps // 20
                    )
                )
    config = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.learning_rate,
        lr_end=recipe.learning_rate,
        lr_warm_up_steps=int(recipe.steps * recipe.warm_up),
        lr_decay_steps=int(recipe.steps * recipe.decay),
        dead_feature_window=max(1, recipe.dead_after // recipe.batch),
        device=str(device),
    )
    return SAETrainer(config, sae, iter(()))


def fvu(dictionary: Autoencoder, x: Float[Tensor, "tokens d_in"]) -> float:
    """``Σ |x - x_hat|² / Σ |x - mean(x)|²``: the share that the dictionary leaves unexplained."""
    x = x.to(dictionary.W_dec.device, torch.float32)
    with torch.no_grad():
        return _unexplained(x, torch.cat([dictionary(part) for part in x.split(1024)]))


def _unexplained(x: Float[Tensor, "tokens d_in"], x_hat: Float[Tensor, "tokens d_in"]) -> float:
    x, x_hat = x.double(), x_hat.double()
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def _first(shards: ActivationShards, site: Site, n: int, *, seed: int) -> Float[Tensor, "tokens d_in"]:
    """``n`` vectors of all shards, or as many as there are."""
    return next(shards.batches(min(n, len(shards)), site=site, epochs=1, seed=seed))


def _autoencoder(read: Autoencoder | Transcoder) -> Autoencoder:
    assert isinstance(read, Autoencoder), type(read)
    return read


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _made_of(shards: ActivationShards, recipe: Recipe, site: Site) -> dict[str, Any]:
    """All that decides what comes out."""
    return {
        "recipe": asdict(recipe),
        "site": str(site),
        "fingerprint": shards.fingerprint,
        "shards": [of_site[str(site)] for of_site in shards.sha256],
    }


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    if there == here:
        return
    said = {**there, **there["recipe"]}
    wanted = {**here, **here["recipe"]}
    names = [name for name in wanted if name != "recipe" and said.get(name) != wanted[name]]
    told = "; ".join(
        "other shards" if name == "shards" else f"{name} is {said.get(name)} there and {wanted[name]} here"
        for name in names
    )
    raise ShardError(
        f"{folder} holds another training: {told}. Pass another folder, or delete it yourself; nothing in "
        "it was touched."
    )


def _read_curve(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise ShardError(f"{file.parent} holds a dictionary that was not trained here. Pass another folder.")
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return told
