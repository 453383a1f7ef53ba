"""Does a model notice that a number is missing? Problems less the clause that gives it, beside a null.

Each problem comes in three forms, of one text:

    complete     all clauses, one of which is beside the point
    missing      less a clause without which there is no answer
    irrelevant   less the clause beside the point, about as long: the null, for shortening alone is seen too

Of them: at each layer, the held-out AUROC of a probe at the last token for missing against complete, beside
irrelevant against complete, groups of problems never on both sides; the direction from irrelevant to missing,
two prompts of about one length; and what that direction does, added to complete prompts, to

    asking = log p(a reply that asks for the number | prompt) - log p(a reply that states one | prompt)

in nats, beside random directions of the same norm. No reply is generated.

Source: Wang et al. 2025, "Beyond Passive Critical Thinking", arXiv:2507.23407, for problems with a variable
removed.
Differs from the source: nothing is trained and no answer judged; the irrelevant clause stands in the complete
problem and is the null, where theirs is a harder set; everything inside the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooks.chat import prompt_row, response_row
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.inject import inject
from hooks.language_model import LanguageModel
from hooks.positions import Positions, generated, last
from hooks.sites import Site
from interp.continuations import continuation_logprobs
from interp.contrast import contrast
from interp.controls import random_directions
from interp.pairs import AskedPair
from interp.probes import held_out_auroc
from interp.stats import Interval, mean_interval, paired_bootstrap, permutation_p, permutation_test
from interp.steering_vector import SteeringVector
from interp.token_activations import token_activations

TOLERANCE = 2
"""Words by which the two clauses may differ."""


@dataclass(frozen=True)
class Triple:
    """One problem in three forms, with two replies."""

    complete: str
    missing: str
    irrelevant: str
    asks: str
    """A reply that asks for the missing number."""

    states: str
    """A reply that states a number: the complete problem's answer."""

    group: str
    """Problems of one group are never on both sides of a probe's split."""


def triple(
    clauses: Sequence[str],
    question: str,
    *,
    needed: int,
    irrelevant: int,
    asks: str,
    states: str,
    group: str,
    tolerance: int = TOLERANCE,
) -> Triple:
    """The three forms of a problem whose clauses are sentences, one needed and one beside the point.

    Raises:
        InputError: if the two are no two of the clauses, or differ by more than ``tolerance`` words.
    """
    if needed == irrelevant or not all(0 <= place < len(clauses) for place in (needed, irrelevant)):
        raise InputError(
            f"needed={needed} and irrelevant={irrelevant} of {len(clauses)} clauses; mark two different "
            "ones, counted from 0."
        )
    words = [len(clauses[place].split()) for place in (needed, irrelevant)]
    if abs(words[0] - words[1]) > tolerance:
        raise InputError(
            f"The needed clause has {words[0]} words and the irrelevant one {words[1]}: removing them would "
            f"shorten the problem unequally. Choose clauses within {tolerance} words of each other."
        )

    def without(*left_out: int) -> str:
        return " ".join([*(c for place, c in enumerate(clauses) if place not in left_out), question])

    return Triple(without(), without(needed), without(irrelevant), asks, states, group)


@dataclass(frozen=True)
class Noticed:
    """How well probes tell the forms apart at one layer, with bootstraps over groups."""

    missing: Interval
    """AUROC of missing against complete."""

    irrelevant: Interval
    """AUROC of irrelevant against complete: the null."""

    beyond: Interval
    """The first less the second, on the same resampled groups."""

    p_value: float
    """Two-sided, of ``beyond``: the two AUROCs exchanged within groups."""


def noticed(
    lm: LanguageModel,
    triples: Sequence[Triple],
    *,
    layers: Sequence[int] | None = None,
    folds: int = 5,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[int, Noticed]:
    """Of each layer, what is read off the last token of the prompt, where the reply begins.

    Args:
        layers: None takes every layer.
        folds: Of groups; there must be as many groups or more.

    Raises:
        InputError: for no triples, or fewer groups than folds.
        SiteNotFoundError: if a layer is not in this model.
    """
    chosen = list(range(lm.n_layers) if layers is None else layers)
    forms = ("complete", "missing", "irrelevant")
    rows = [prompt_row(lm.tokenizer, getattr(t, form)) for form in forms for t in triples]
    found = token_activations(lm, rows, [Site(layer, "resid_post") for layer in chosen])
    complete, missing, irrelevant = np.split(found, 3, axis=1)
    groups = [t.group for t in triples]
    shortened = np.repeat([False, True], len(triples))
    names = sorted(set(groups))
    member = np.array([[group == name for group in groups] for name in names])

    def by_group(other: Float[np.ndarray, "triple d"], here: Float[np.ndarray, "triple d"]) -> np.ndarray:
        value = held_out_auroc(
            np.concatenate([here, other]), shortened, groups * 2, folds=folds, seed=seed
        ).reshape(2, -1)
        # weighted, so that the mean over groups is that over triples
        return np.asarray(member @ value.mean(0) * len(names) / len(groups))

    of = {}
    for layer, base, lacking, shorter in zip(chosen, complete, missing, irrelevant, strict=True):
        a, b = by_group(lacking, base), by_group(shorter, base)
        of[layer] = Noticed(
            mean_interval(a, n_resamples=n_resamples, seed=seed),
            mean_interval(b, n_resamples=n_resamples, seed=seed),
            paired_bootstrap(a, b, n_resamples=n_resamples, seed=seed),
            permutation_test(a, b, paired=True, n_resamples=n_resamples, seed=seed),
        )
    return of


def missing_direction(
    lm: LanguageModel,
    triples: Sequence[Triple],
    *,
    layers: Sequence[int] | None = None,
    n_null: int = 20,
    seed: int = 0,
) -> SteeringVector:
    """Plus is toward a missing number: :func:`interp.contrast` of missing and irrelevant, at the last token.

    Its reliability and its length control come with it.

    Raises:
        InputError: as :func:`interp.contrast`.
    """
    pairs = [AskedPair(t.missing, t.irrelevant) for t in triples]
    return contrast(
        lm,
        pairs,
        layers=layers,
        read=last(1),
        poles=("missing", "irrelevant"),
        n_null=n_null,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class Asking:
    """How much likelier it is to ask than to state a number; means over triples, in nats."""

    missing: Interval
    """Asking in the missing form less that in the complete one: what the model does by itself."""

    irrelevant: Interval
    """The same of the irrelevant form: the null."""

    injected: Interval
    """What the direction does to asking in the complete form."""

    random: tuple[float, ...]
    """The same of each random direction."""

    beyond_random: Interval
    """``injected`` less the mean of the random ones, paired."""

    p_value: float
    """One-sided: the share of directions, this one among them, that raise asking as much."""


def asking(
    lm: LanguageModel,
    triples: Sequence[Triple],
    vector: SteeringVector,
    *,
    layer: int,
    dose: float,
    positions: Positions = generated,
    n_random: int = 20,
    n_resamples: int = 10_000,
    seed: int = 0,
    on_tokens: Callable[[int], None] | None = None,
) -> Asking:
    """What ``vector`` does to asking. Pass triples that it was not estimated from.

    Args:
        dose: The edit's norm over the median residual norm at the site; below zero, away from missing.
        n_random: Random directions of the same norm.

    Raises:
        InputError: for no triples or random directions, or an empty reply.
        VectorError: if the vector does not fit the model, or holds nothing at that layer.
    """
    if not triples or n_random < 1:
        raise InputError(
            f"{len(triples)} triples and {n_random} random directions; pass at least one of each."
        )

    def score(form: str, *edits: Edit) -> Float[np.ndarray, " triple"]:
        rows = [
            response_row(lm.tokenizer, getattr(t, form), reply)
            for t in triples
            for reply in (t.asks, t.states)
        ]
        with inject(lm, edits):
            nats = continuation_logprobs(lm, rows, on_tokens=on_tokens)
        asks, states = np.array([tokens.sum() for tokens in nats]).reshape(-1, 2).T
        return np.asarray(asks - states)

    def effect(one: SteeringVector) -> Float[np.ndarray, " triple"]:
        return np.asarray(score("complete", one.at(layer, dose=dose, positions=positions)) - plain)

    plain = score("complete")
    own = effect(vector)
    others = np.stack([effect(one) for one in random_directions(vector, n_random, seed=seed)])
    return Asking(
        missing=paired_bootstrap(score("missing"), plain, n_resamples=n_resamples, seed=seed),
        irrelevant=paired_bootstrap(score("irrelevant"), plain, n_resamples=n_resamples, seed=seed),
        injected=mean_interval(own, n_resamples=n_resamples, seed=seed),
        random=tuple(others.mean(1).tolist()),
        beyond_random=paired_bootstrap(own, others.mean(0), n_resamples=n_resamples, seed=seed),
        p_value=permutation_p(own.mean(), others.mean(1)),
    )
