"""A steering vector: one direction for each layer, all that is known of it, and its file.

The file is one ``.safetensors``: ``layer.{i}`` float32 ``[d_model]``, and every other field as JSON in
the metadata, sealed by a checksum. Nothing is pickled and nothing is executed on loading.
"""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from hooks.edits import Add
from hooks.errors import InputError, VectorError
from hooks.files import whole
from hooks.hub import PICKLED, Repo, located, plain, reference, some
from hooks.language_model import LanguageModel
from hooks.positions import Positions, generated
from hooks.sites import Site, SiteKind
from interp.reliability import Reliability

FORMAT = "unlatch.steering-vector.1"


@dataclass(frozen=True)
class Recommendation:
    """Where and how strongly to steer, and how that was found."""

    layer: int
    dose: float
    """The edit's norm as a fraction of the median residual norm at the site."""

    how: str


@dataclass(frozen=True)
class SignTest:
    """Whether dose up and dose down moved the outcome in opposite ways."""

    outcome: str
    dose: float
    plus: float
    """Mean outcome at ``+dose``."""

    plain: float
    minus: float
    low: float
    """95% interval of ``minus - plus``, paired over problems."""

    high: float
    n: int
    first_pole: Literal["lowers", "raises", "either"] = "either"
    """What steering toward the first pole should do to the outcome."""

    @property
    def passed(self) -> bool:
        """Plain lies between, and the interval of the difference excludes zero."""
        between = min(self.plus, self.minus) <= self.plain <= max(self.plus, self.minus)
        lowers, raises = self.low > 0, self.high < 0
        right = {"lowers": lowers, "raises": raises, "either": lowers or raises}[self.first_pole]
        return between and right


@dataclass(frozen=True, eq=False)
class Dosed(Add):
    """``h += dose * vector``, with the product of both taken in float64 and rounded to float32 once."""

    unrounded: Float64[Tensor, " d_model"] | None = None
    """What ``vector`` is the rounding of; passed over where that has been replaced."""

    def parameters(self) -> tuple[Tensor, ...]:
        exact = self.unrounded
        if exact is None or not torch.equal(exact.to(self.vector), self.vector):
            exact = self.vector.double()
        return ((exact * self.scale).float(),)


@dataclass(frozen=True)
class SteeringVector:
    """A vector at each of some layers of one model. Plus is toward the first pole."""

    vectors: Mapping[int, Float[Tensor, " d_model"]]
    """By 0-based layer; float32 on the CPU."""

    kind: SiteKind
    poles: tuple[str, str]
    estimator: str
    read: str
    """Positions whose mean activation was contrasted."""

    resid_norm: Mapping[int, float]
    """Median norm of the residual stream at the site, over response tokens: the unit of a dose."""

    n_pairs: int
    pairs_hash: str
    seed: int
    model: str
    fingerprint: str
    tokenizer_hash: str
    template_hash: str | None
    reliability: Mapping[int, Reliability] = field(default_factory=dict)
    length_control: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Cosines with the vectors that do not see the poles' lengths; see :mod:`interp.contrast`."""

    recommended: Recommendation | None = None
    sign_test: SignTest | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.vectors:
            raise VectorError("A steering vector needs at least one layer.")
        if self.vectors.keys() != self.resid_norm.keys():
            raise VectorError(
                f"Vectors at layers {sorted(self.vectors)} and residual norms at "
                f"{sorted(self.resid_norm)}; each layer needs both."
            )
        widths = {tuple(v.shape) for v in self.vectors.values()}
        if len(widths) != 1 or len(next(iter(widths))) != 1:
            raise VectorError(f"The layers' vectors have shapes {sorted(widths)}; one width is needed.")

    @property
    def layers(self) -> list[int]:
        return sorted(self.vectors)

    @property
    def d_model(self) -> int:
        return next(iter(self.vectors.values())).shape[0]

    def direction(self, layer: int) -> Float[Tensor, " d_model"]:
        """The unit vector at ``layer``; negative layers count back from the last one held.

        Raises:
            VectorError: if there is none, or it is zero or not finite.
        """
        return self._unit(layer).float()

    def _unit(self, layer: int) -> Float64[Tensor, " d_model"]:
        """The unit vector before it is rounded to float32."""
        vector = self.vectors[self._layer(layer)].double()
        norm = vector.norm()
        if not torch.isfinite(vector).all() or not norm > 0:
            raise VectorError(
                f"The vector at layer {layer} is {'zero' if norm == 0 else 'not finite'}; "
                "it cannot steer. Choose another layer, or estimate it from pairs that differ."
            )
        unit: Tensor = vector / norm
        return unit

    def at(
        self,
        layer: int | None = None,
        *,
        dose: float | None = None,
        positions: Positions = generated,
        any_model: bool = False,
    ) -> Add:
        """The edit that adds this vector at one layer.

        It is computed in float64 and rounded once: a vector whose own norm is already the dose's is added
        as it stands, to the bit, which is what an imported vector rests on.

        Args:
            layer: None takes the recommended layer.
            dose: The edit's norm over the median residual norm at the site; below zero steers
                toward the second pole. None takes the recommended dose.
            any_model: Allow it on a model other than the one it was made for.

        Raises:
            VectorError: without a layer or dose to go by, or if the sign test was failed.
        """
        if layer is None or dose is None:
            if self.recommended is None:
                raise VectorError(
                    f"This vector carries no recommended layer and dose. Pass layer (one of "
                    f"{_some(self.layers)}) and dose (0.1 is gentle, 0.5 is strong)."
                )
            layer = self.recommended.layer if layer is None else layer
            dose = self.recommended.dose if dose is None else dose
        if self.sign_test is not None and not self.sign_test.passed:
            raise VectorError(
                f"This vector failed its sign test on {self.sign_test.outcome}: {self.sign_test.plus:.3g} "
                f"at dose +{self.sign_test.dose:g}, {self.sign_test.plain:.3g} plain, "
                f"{self.sign_test.minus:.3g} at -{self.sign_test.dose:g}. It does not do what its poles "
                "say. To steer with it all the same, use replace(vector, sign_test=None)."
            )
        layer = self._layer(layer)
        unrounded = self._unit(layer) * self.resid_norm[layer]
        return Dosed(
            site=Site(layer, self.kind),
            vector=unrounded.float(),
            scale=dose,
            positions=positions,
            made_for=None if any_model else self.fingerprint,
            unrounded=unrounded,
        )

    def over(
        self,
        layers: Sequence[int],
        *,
        dose: float,
        shape: Literal["constant", "triangular"] | Sequence[float] = "constant",
        positions: Positions = generated,
        any_model: bool = False,
    ) -> list[Add]:
        """The edits that add this vector at several layers, together as strong as one.

        The dose of layer i is ``dose * w_i / sum_j w_j``, so that the doses add up to ``dose``, that
        of an injection at one layer. (What they do does not add up: measure it.)

        Args:
            layers: In the order of the weights; negative layers count back.
            shape: ``constant``: w_i = 1. ``triangular``: rising to the middle layer and falling after
                it. Or the weights themselves, e.g. the effect of each layer alone.

        Raises:
            VectorError: for no layers, a layer named twice, or weights that are not one finite number a
                layer, none below zero and one above.
        """
        at = [self._layer(layer) for layer in layers]
        if not at or len(set(at)) < len(at):
            raise VectorError(
                f"Cannot spread a dose over the layers {list(layers)}; name one or more, each once."
            )
        n = len(at)
        if shape == "constant":
            weights = [1.0] * n
        elif shape == "triangular":
            weights = [float(min(i + 1, n - i)) for i in range(n)]
        else:
            weights = [float(weight) for weight in shape]
        if len(weights) != n or not all(0 <= w < math.inf for w in weights) or not any(weights):
            raise VectorError(
                f"{len(weights)} weights {weights} for {n} layers: pass one finite number a layer, none "
                "below zero and at least one above."
            )
        edits = [
            self.at(i, dose=dose * weight / sum(weights), positions=positions, any_model=any_model)
            for i, weight in zip(at, weights, strict=True)
        ]
        return [edit for edit, weight in zip(edits, weights, strict=True) if weight]

    def _layer(self, layer: int) -> int:
        if layer in self.vectors:
            return layer
        if -len(self.layers) <= layer < 0:
            return self.layers[layer]
        raise VectorError(f"No vector at layer {layer}; this one has layers {_some(self.layers)}.")

    def __neg__(self) -> "SteeringVector":
        return replace(
            self._combined({i: -v for i, v in self.vectors.items()}),
            poles=(self.poles[1], self.poles[0]),
        )

    def __mul__(self, factor: float) -> "SteeringVector":
        if factor < 0:  # plus stays toward the first pole
            return -(self * -factor)
        return self._combined({i: factor * v for i, v in self.vectors.items()})

    __rmul__ = __mul__

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        """Layer by layer; both must be of one model and one site kind."""
        if (self.fingerprint, self.kind, self.layers) != (
            other.fingerprint,
            other.kind,
            other.layers,
        ):
            raise VectorError(
                f"Cannot add a vector of {other.model} ({other.fingerprint}), {other.kind}, layers "
                f"{_some(other.layers)} to one of {self.model} ({self.fingerprint}), {self.kind}, "
                f"layers {_some(self.layers)}."
            )
        summed = self._combined({i: v + other.vectors[i] for i, v in self.vectors.items()})
        poles = (f"{self.poles[0]} + {other.poles[0]}", f"{self.poles[1]} + {other.poles[1]}")
        return replace(
            summed,
            poles=poles,
            estimator=f"{self.estimator} + {other.estimator}",
            read=f"{self.read} + {other.read}",
            n_pairs=self.n_pairs + other.n_pairs,
            pairs_hash=f"{self.pairs_hash} + {other.pairs_hash}",
        )

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self + (-other)

    def _combined(self, vectors: Mapping[int, Tensor]) -> "SteeringVector":
        """New vectors; what was measured of the old ones no longer holds."""
        return replace(
            self,
            vectors=vectors,
            reliability={},
            length_control={},
            recommended=None,
            sign_test=None,
        )

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_bytes(self._bytes())
        return path

    def _bytes(self) -> bytes:
        """The file; the same bytes for the same vector."""
        tensors = {f"layer.{i}": v.detach().float().cpu().clone() for i, v in self.vectors.items()}
        facts = {"format": FORMAT, **self.facts()}
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        metadata["checksum"] = _checksum(tensors, metadata)
        return _in_order(to_bytes(tensors, metadata=metadata))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        filename: str = "vector.safetensors",
        private: bool | None = None,
        license: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Upload the file and a card written from its metadata, in one commit.

        The repository is made if it is not there, and may hold several vectors. Of a card that is there,
        the section about this file is replaced; what people wrote stays. Poles, prompts and names are
        public where the repository is: they are in the file.

        Args:
            repo_id: ``user/repo``.
            filename: The file's name in the repository.
            private: Whether a new repository is; None leaves it to the hub's settings.
            license: Of the vector, for the card: ``apache-2.0``, ``mit``, ...
            revision: Branch to commit to, made if it is not there; None is the main one.
            create_pr: Suggest it as a pull request, where you may not write.
            token: None takes the one that is logged in.
            endpoint: Address of another hub than the default.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            InputError: for a name that cannot be one; if this login may not write there; if the hub refuses
                or cannot be reached. Nothing is committed then.

        Example:
            >>> vector.push_to_hub("ada/brief-smollm2", private=True)
            >>> SteeringVector.from_pretrained("ada/brief-smollm2", lm)
        """
        from interp.vector_card import vector_card  # which imports this class

        if not plain(filename).endswith(".safetensors"):
            raise InputError(f"{filename!r}: a steering vector is a .safetensors file. Name it so.")
        return Repo(repo_id, revision, token, endpoint).commit(
            {filename: self._bytes()},
            lambda repo, card: vector_card(self, repo, filename, card=card, license=license),
            message=commit_message or f"Steering vector {filename}",
            private=private,
            create_pr=create_pr,
        )

    @staticmethod
    def from_pretrained(
        repo_id_or_folder: str | Path,
        lm: LanguageModel | None = None,
        *,
        filename: str | None = None,
        revision: str | None = None,
        any_model: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> "SteeringVector":
        """Read a vector of the hub, or of a folder, and check all of it as :meth:`load` does.

        One file is downloaded, once, and compared with the hash that the commit has for it.

        Args:
            repo_id_or_folder: ``user/repo``, ``hf://user/repo[@revision][/file]``, or a folder that is here.
            lm: As for :meth:`load`; so is ``any_model``.
            filename: Which file; None takes the only one.
            revision: Branch, tag or commit; a commit's hash is the one that cannot change.
            token: None takes the one that is logged in; False none.
            cache_dir: None is the hub's own cache.
            local_files_only: Do without the network.
            endpoint: Address of another hub than the default.

        Raises:
            InputError: if there is no such folder or repository, or none that this login may see; if the hub
                cannot be reached; if there is no such file, or several to choose from, with their names.
            VectorError: as :meth:`load`.
        """
        file = located(
            repo_id_or_folder,
            filename,
            _the_vector,
            lambda repo: Repo(repo, None, token, endpoint, cache_dir, local_files_only),
            revision=revision,
        )
        return SteeringVector.load(file, lm, any_model=any_model)

    def facts(self) -> dict[str, Any]:
        """All but the vectors, as plain data; :func:`from_facts` takes them back."""
        return {
            "kind": self.kind,
            "poles": self.poles,
            "sign": "plus is toward the first pole",
            "estimator": self.estimator,
            "read": self.read,
            "resid_norm": {str(i): float(x) for i, x in sorted(self.resid_norm.items())},
            "n_pairs": self.n_pairs,
            "pairs_hash": self.pairs_hash,
            "seed": self.seed,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "tokenizer_hash": self.tokenizer_hash,
            "template_hash": self.template_hash,
            "reliability": {str(i): r.as_dict() for i, r in sorted(self.reliability.items())},
            "length_control": {str(i): dict(c) for i, c in sorted(self.length_control.items())},
            "recommended": None if self.recommended is None else vars(self.recommended),
            "sign_test": None if self.sign_test is None else vars(self.sign_test),
            "versions": dict(self.versions),
        }

    @staticmethod
    def load(
        path: str | Path, lm: LanguageModel | None = None, *, any_model: bool = False
    ) -> "SteeringVector":
        """Read a file and check all of it.

        Args:
            path: A file, or ``hf://user/repo[@revision][/file]``, as :meth:`from_pretrained`.
            lm: The model it will steer; None checks the file alone.
            any_model: Accept a vector of another model, tokenizer or chat template.

        Raises:
            InputError: if there is no such file.
            VectorError: for a damaged or altered file, or a vector of another model.
        """
        if reference(path) is not None:
            return SteeringVector.from_pretrained(path, lm, any_model=any_model)
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"No file {path}. Pass the path of a .safetensors steering vector, or hf://user/repo."
            )
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise VectorError(f"{path} is damaged or not a safetensors file: {error}.") from None
        if metadata.get("format") != json.dumps(FORMAT):
            raise VectorError(
                f"{path} is not a steering vector of this toolkit: its format is "
                f"{metadata.get('format', 'not given')}, expected {FORMAT}."
            )
        if metadata.pop("checksum", None) != _checksum(tensors, metadata):
            raise VectorError(
                f"{path} was altered or damaged after it was written: its checksum does not match. "
                "Make it again."
            )
        try:
            vector = from_facts(
                {k: json.loads(v) for k, v in metadata.items()},
                {int(name.removeprefix("layer.")): v for name, v in tensors.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise VectorError(f"{path} is sealed but not whole: {error!r}. Make it again.") from None
        if lm is not None and not any_model:
            vector.require(lm)
        return vector

    def require(self, lm: LanguageModel) -> None:
        """Raise :class:`VectorError` unless this vector was made for ``lm``."""
        made = (self.fingerprint, self.tokenizer_hash, self.template_hash)
        for what, mine, theirs in zip(
            ("weights", "tokenizer", "chat template"),
            made,
            (lm.fingerprint, lm.tokenizer_hash, lm.template_hash),
            strict=True,
        ):
            if mine != theirs:
                raise VectorError(
                    f"This vector was made for {self.model} with {what} {mine}; {lm.name} has {theirs}. "
                    "Make one for this model, or allow it with any_model (--any-model)."
                )


def library_versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    names = ("torch", "transformers", "numpy", "scikit-learn", "unlatch")
    return {name: importlib.metadata.version(name) for name in names}


def from_facts(facts: Mapping[str, Any], vectors: Mapping[int, Float[Tensor, " d_model"]]) -> SteeringVector:
    """The vector of :meth:`SteeringVector.facts` and its vectors by layer.

    Raises:
        KeyError, TypeError, ValueError: if these are no such facts.
    """
    recommended, sign_test = facts["recommended"], facts["sign_test"]
    return SteeringVector(
        vectors=vectors,
        kind=facts["kind"],
        poles=(facts["poles"][0], facts["poles"][1]),
        estimator=facts["estimator"],
        read=facts["read"],
        resid_norm={int(i): x for i, x in facts["resid_norm"].items()},
        n_pairs=facts["n_pairs"],
        pairs_hash=facts["pairs_hash"],
        seed=facts["seed"],
        model=facts["model"],
        fingerprint=facts["fingerprint"],
        tokenizer_hash=facts["tokenizer_hash"],
        template_hash=facts["template_hash"],
        reliability={int(i): Reliability(**r) for i, r in facts["reliability"].items()},
        length_control={int(i): c for i, c in facts["length_control"].items()},
        recommended=None if recommended is None else Recommendation(**recommended),
        sign_test=None if sign_test is None else SignTest(**sign_test),
        versions=facts["versions"],
    )


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted; the library writes it in an order that varies."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


def _the_vector(names: Sequence[str], filename: str | None, where: str) -> str:
    """The one file that is meant, by its name or because there is no other."""
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if filename is None and len(found) == 1:
        return found[0]
    if filename in found:
        return filename
    pickled = any(name.endswith(PICKLED) for name in names)
    asked = "no steering vector" if filename is None else f"no steering vector {filename!r}"
    if filename is None and found:
        raise InputError(f"{where} has several files: {some(found)}. Pass filename= one of them.")
    raise InputError(
        f"{where} has {asked}; it has {some(found or sorted(names))}."
        + (" Pickled files may run code and are not read." if pickled else "")
        + (" A steering vector is a .safetensors file." if not found else " Pass filename= one of them.")
    )


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _some(layers: list[int]) -> str:
    """Layer numbers, a run of them as its ends."""
    if layers == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2:
        return f"{layers[0]}..{layers[-1]}"
    return ", ".join(map(str, layers))
