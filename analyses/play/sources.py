"""What can be added on the page: the vectors and dictionaries that it was given, each by a short name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from analyses.dictionaries.chosen import folder_of
from analyses.play.state import MAX_DOSE, MAX_NAME, AnyEdit, LatentEdit, State, VectorEdit
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import Positions
from hooks.sites import Site
from interp.steering_vector import SteeringVector
from saes import ClampLatents, Dictionary, load_dictionary
from saes.activity import LATENTS, Activity

BUNDLED_NAME = "bundled"
STARTING_DOSE = 0.2
"""Of a vector that recommends none: gentle enough for most to leave the language whole."""


@dataclass(frozen=True)
class GivenVector:
    path: str
    vector: SteeringVector

    @property
    def start(self) -> tuple[int, float]:
        """The layer and the dose to begin with: the recommended, or the middle one and 0.2."""
        layers = self.vector.layers
        if (known := self.vector.recommended) is not None and abs(known.dose) <= MAX_DOSE:
            return known.layer, known.dose
        return layers[len(layers) // 2], STARTING_DOSE


@dataclass(frozen=True)
class GivenDictionary:
    path: str
    """``bundled`` for the one that comes with the toolkit."""

    dictionary: Dictionary
    site: Site
    largest: Float[Tensor, " d_sae"] | None
    """The largest activation of each latent, where the folder says."""

    @property
    def start(self) -> tuple[int, float]:
        """The latent and the value to begin with: the one that grows largest, or the first."""
        if self.largest is None:
            return 0, 10.0
        latent = int(self.largest.argmax())
        return latent, round(float(self.largest[latent]), 1)


@dataclass(frozen=True)
class Direction:
    """What the tokens are coloured by: their projection on a unit vector at a site, in a unit."""

    name: str
    site: Site
    vector: Float[Tensor, " d_model"]
    unit: float
    """Projections are divided by it."""

    unit_name: str


@dataclass(frozen=True)
class Sources:
    """Vectors and dictionaries by name; no name is both."""

    vectors: Mapping[str, GivenVector]
    dictionaries: Mapping[str, GivenDictionary]
    any_model: bool = False

    @property
    def names(self) -> list[str]:
        return [*self.vectors, *self.dictionaries]

    def start(self, name: str) -> AnyEdit:
        """The edit that a source begins with."""
        if name in self.vectors:
            layer, dose = self.vectors[name].start
            return VectorEdit(vector=name, layer=layer, dose=dose)
        latent, value = self.dictionaries[name].start
        return LatentEdit(dictionary=name, latent=latent, value=value)

    def edits(self, state: State) -> list[Edit]:
        """The edits of a state that are on.

        Raises:
            InputError: for a name that this page was not given.
            VectorError: for a layer or latent that there is not.
        """
        return [self._edit(edit, state.selection) for edit in state.on]

    def _edit(self, edit: AnyEdit, positions: Positions) -> Edit:
        if isinstance(edit, VectorEdit):
            vector = self.vector(edit.vector).vector
            return vector.at(edit.layer, dose=edit.dose, positions=positions, any_model=self.any_model)
        given = self.dictionary(edit.dictionary)
        latents = {edit.latent: edit.value}
        return ClampLatents(given.site, given.dictionary, latents, positions, self.any_model)

    def direction(self, state: State) -> Direction | None:
        """That of the first edit that is on, or else of the first; None without edits."""
        for edit in (*state.on, *state.edits):
            if isinstance(edit, VectorEdit):
                vector = self.vector(edit.vector).vector
                layer = vector.at(edit.layer, dose=0.0, any_model=True).site.layer
                plus, minus = vector.poles
                return Direction(
                    f"{edit.vector} (+ {plus}, - {minus}) at layer {layer}",
                    Site(layer, vector.kind),
                    vector.direction(layer),
                    vector.resid_norm[layer],
                    "doses",
                )
            given = self.dictionary(edit.dictionary)
            if edit.latent < given.dictionary.d_sae:
                row = given.dictionary.W_dec[edit.latent].detach().float()
                name = f"latent {edit.latent} of {edit.dictionary}"
                return Direction(name, given.site, row / row.norm(), 1.0, "units of the residual stream")
        return None

    def vector(self, name: str) -> GivenVector:
        if name not in self.vectors:
            raise _unknown(name, "vector", list(self.vectors), "--vector")
        return self.vectors[name]

    def dictionary(self, name: str) -> GivenDictionary:
        if name not in self.dictionaries:
            raise _unknown(name, "dictionary", list(self.dictionaries), "--dictionary")
        return self.dictionaries[name]


def load_sources(
    lm: LanguageModel,
    vectors: Sequence[str],
    dictionaries: Sequence[str],
    *,
    any_model: bool = False,
) -> Sources:
    """Read and check every file and folder.

    Args:
        vectors: Steering vectors' files; on the hub, ``hf://user/repo``.
        dictionaries: Folders as :func:`saes.load_dictionary` reads them, ``bundled``, or ``hf://user/repo/folder``.

    Raises:
        InputError: for one that is not there, or a dictionary that does not say where it belongs.
        VectorError: for one that is damaged, or of another model.
    """
    taken: set[str] = set()
    given_vectors = {
        _name(Path(path).stem, taken): GivenVector(path, SteeringVector.load(path, lm, any_model=any_model))
        for path in vectors
    }
    given_dictionaries = {}
    for path in dictionaries:
        folder = folder_of(path)
        dictionary = load_dictionary(folder, lm, any_model=any_model)
        if dictionary.origin.site is None:
            raise InputError(
                f"{path} does not say at which site it reads, and this page needs that. Give its cfg.json a "
                "hook_name."
            )
        largest = None
        if (folder / LATENTS).is_file():
            largest = Activity.load(folder, dictionary.d_sae).max_activation
        given = GivenDictionary(path, dictionary, lm.anatomy.resolve(dictionary.origin.site), largest)
        given_dictionaries[_name(folder.name if path != BUNDLED_NAME else path, taken)] = given
    return Sources(given_vectors, given_dictionaries, any_model)


def _name(stem: str, taken: set[str]) -> str:
    stem = stem[: MAX_NAME - 5]
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem} ({number})", number + 1
    taken.add(name)
    return name


def _unknown(name: str, what: str, known: Sequence[str], flag: str) -> InputError:
    have = f"It has {', '.join(known)}." if known else "It has none."
    return InputError(f"This page was not given the {what} {name[:60]!r}. {have} Start it with {flag}.")
