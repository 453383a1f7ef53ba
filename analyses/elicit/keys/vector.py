"""A contrast vector: asked for steps less asked for the answer, added at every token of the response."""

from pathlib import Path

from analyses.elicit.key import Bench, Key, Suffix, best
from hooks.edits import Edit
from hooks.positions import last
from interp.contrast import contrast
from interp.controls import random_directions
from interp.pairs import AskedPair
from interp.steering_vector import SteeringVector


def make(bench: Bench) -> Key:
    """The layer and the dose that open most select problems; random directions at both are its controls.

    A vector that is given brings its own layer and dose, where it has them.
    """
    config = bench.config
    vector = _made(bench) if config.vector is None else SteeringVector.load(Path(config.vector))
    if config.vector is not None and vector.recommended is not None:
        layer, dose = vector.recommended.layer, vector.recommended.dose
        table = [{"candidate": "recommended", "layer": layer, "dose": dose}]
    else:
        candidates = [
            Key(
                f"vector:{layer}:{dose:g}",
                "",
                edits=(vector.at(layer, dose=dose),),
                chosen={"layer": layer, "dose": dose},
            )
            for layer in config.layers or _three(bench.lm.n_layers)
            for dose in config.doses
        ]
        found, table = best(bench, candidates)
        layer, dose = found.chosen["layer"], found.chosen["dose"]
    reliability = vector.reliability.get(layer)

    def at(one: SteeringVector) -> tuple[Edit, ...]:
        return (one.at(layer, dose=dose),)

    return Key(
        "vector",
        f"{' minus '.join(vector.poles)}, layer {layer}, dose {dose:g}",
        edits=at(vector),
        controls={
            f"random:{n}": at(one)
            for n, one in enumerate(random_directions(vector, config.n_random, seed=config.seed))
        },
        chosen={
            "layer": layer,
            "dose": dose,
            "n_pairs": len(bench.fit) if config.vector is None else None,
            "split_half": None if reliability is None else reliability.split_half,
            "split_half_null": None if reliability is None else reliability.split_half_null,
            "tried": table,
        },
    )


def _made(bench: Bench) -> SteeringVector:
    """What the prompt for steps adds where the response begins."""
    steps, answer = Suffix(bench.config.cot_prompt), Suffix(bench.config.direct_prompt)
    pairs = [AskedPair(str(steps(p)), str(answer(p))) for p in bench.fit]
    layers = bench.config.layers or _three(bench.lm.n_layers)
    return contrast(
        bench.lm, pairs, layers=layers, read=last(1), poles=("steps", "answer"), seed=bench.config.seed
    )


def _three(n_layers: int) -> tuple[int, ...]:
    """A third, a half and two thirds of the way up."""
    return tuple(sorted({n_layers // 3, n_layers // 2, 2 * n_layers // 3}))
