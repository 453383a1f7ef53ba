"""What is compared: one vector at some doses, put where it belongs, a block too early or late, or turned.

The only module that knows our exporter: every file that another program reads is made here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from hooks.edits import Add
from hooks.errors import InputError
from hooks.language_model import LanguageModel
from hooks.positions import everything
from interp.exchange import export_vector
from interp.steering_vector import SteeringVector

Placement = Literal["right", "a block early", "a block late", "sign turned"]

PLACEMENTS: dict[Placement, tuple[int, int]] = {
    "right": (0, 1),
    "a block early": (-1, 1),
    "a block late": (1, 1),
    "sign turned": (0, -1),
}
"""By how many blocks it is moved, and its sign."""

DOSES = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Case:
    """One vector in another program; or none."""

    dose: float = 0.0
    placement: Placement = "right"

    @property
    def name(self) -> str:
        """As files are called."""
        return f"{self.dose:g} {self.placement}".replace(" ", "-") if self.dose else "unsteered"

    def moved(self, vector: SteeringVector, layer: int) -> tuple[SteeringVector, int, float]:
        """The vector of ``layer`` as one of the block where it is put; that block; the signed dose."""
        shift, sign = PLACEMENTS[self.placement]
        block = layer + shift
        moved = replace(
            vector,
            vectors={block: vector.vectors[layer]},
            resid_norm={block: vector.resid_norm[layer]},
            reliability={},
            length_control={},
            recommended=None,
            sign_test=None,
        )
        return moved, block, sign * self.dose

    def edit(self, vector: SteeringVector, layer: int) -> Add:
        """What we do, at every position, as llama.cpp does."""
        moved, block, dose = self.moved(vector, layer)
        return moved.at(block, dose=dose, positions=everything)

    def added(self, vector: SteeringVector, layer: int) -> Float[Tensor, " d_model"]:
        """What is added to the block's output: the numbers for programs that take a tensor."""
        (direction,) = self.edit(vector, layer).parameters()
        return direction

    def export(self, vector: SteeringVector, layer: int, folder: Path) -> Path:
        """The file for programs that read one."""
        moved, block, dose = self.moved(vector, layer)
        path = folder / f"{self.name}.gguf"
        return export_vector(moved, path, to="gguf", layer=block, dose=dose).files[0]


def cases(doses: Sequence[float], placements: Sequence[Placement]) -> list[Case]:
    """The unsteered program, then every dose at every placement."""
    return [Case(), *(Case(dose, placement) for dose in doses for placement in placements)]


def check(vector: SteeringVector, layer: int | None, lm: LanguageModel) -> int:
    """The layer to steer: the one asked for, the recommended one, or the middle one held.

    Raises:
        VectorError: if the vector was made for another model.
        InputError: if it is not of block outputs, or the layer has no neighbours that can be steered.
    """
    vector.require(lm)
    if vector.kind != "resid_post":
        raise InputError(
            f"The vector is of {vector.kind}; the programs here add to a block's output, resid_post."
        )
    if layer is None:
        middle = vector.layers[len(vector.layers) // 2]
        layer = middle if vector.recommended is None else vector.recommended.layer
    if layer not in vector.vectors or not 2 <= layer <= lm.n_layers - 2:
        raise InputError(
            f"Layer {layer}: the vector holds {vector.layers}, and both neighbours must be blocks that "
            f"llama.cpp steers, so pass one from 2 to {lm.n_layers - 2}."
        )
    return layer


TEXTS = (
    "The lighthouse keeper climbed the stairs every evening at dusk. He carried a lamp, a loaf of bread and "
    "a book that he had read many times before. That night, however, the door at the top was open, and",
    "To make a simple vegetable soup, first chop two onions, three carrots and a stick of celery. Melt some "
    "butter in a large pot over a low heat. Then add the vegetables and",
    "Photosynthesis is the process by which plants turn light into chemical energy. It takes place in the "
    "chloroplasts, where a green pigment called chlorophyll absorbs light. The reaction needs",
    'def mean(values):\n    """Return the arithmetic mean of a list of numbers."""\n    total = 0\n    for '
    "value in values:\n        total += value\n    return total / len(values)\n\n\ndef median(values):\n",
    "Question: A train leaves the station at 9 o'clock and travels 60 kilometres an hour. A second train "
    "leaves at 10 o'clock and travels 80 kilometres an hour. When does the second one catch up?\n"
    "Answer: Let us think.",
    "Dear Ms. Rivera,\n\nThank you for your letter of 12 March. We are sorry to hear that the washing "
    "machine that you ordered arrived with a damaged door. We would like to",
    "The Roman Republic began in 509 BC, when the last king was driven out of the city. It was governed by "
    "two consuls, who were elected each year, and by the Senate. Over the following centuries",
    "User: What is the difference between a virus and a bacterium?\nAssistant: Both can make you ill, but "
    "they are very different. A bacterium is a living cell. A virus, on the other hand,",
)
"""What the programs read: plain text, so that no chat template stands between their tokenizers."""
