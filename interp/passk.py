"""What more samples reach: pass@k of two models, which problems either solves, and by how much guessing.

Of n_x samples of problem x, of which c_x are right,

    pass@k            = mean_x 1 - C(n_x - c_x, k) / C(n_x, k) = mean_x 1 - Π_{i<k} (1 - c_x / (n_x - i)),

the mean over all choices of k samples, without bias for k draws of the model. With b_x and t_x those of
base and of tuned, whose samples are independent, the shares of problems that k draws of each

    solve under both  = mean b t               only under base  = mean b (1 - t) = shrinkage
    under neither     = mean (1 - b) (1 - t)   only under tuned = mean (1 - b) t = expansion
    preservation      = Σ b t / Σ b            consolidation    = Σ b c_t/n_t / Σ b t,

the last the share of what was preserved that tuned solves at its first draw. At k = n these are counts.

    guessing floor    = 1 - (1 - q_x)^k,       q_x the rate of x's gold answer among answers to others
    efficiency gap    = pass@k(base) - pass@1(tuned)
    trace perplexity  = exp(-(1/T) Σ_t log p(y_t | x, y_<t)), over the T tokens of a response

Sources: Chen et al. 2021, arXiv:2107.03374, for the estimator; Yue et al. 2025, arXiv:2504.13837, for the
coverage sets, the gap and the perplexity; MATH-Beyond (ICLR 2026) for expansion to consolidation.
Differs from the sources: intervals over problems, and a verdict only where they allow one; sets at any k,
where the sources count at k = n; the guessing floor; what base expands beyond itself by drawing anew.
"""

import math
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from scipy import stats
from torch.nn import functional

from hooks.capture import stream
from hooks.edits import widened
from hooks.errors import InputError
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.rows import Row
from hooks.sites import Site
from hooks.unembed import unembed
from interp.lens import MAX_LOGITS
from interp.stats import (
    Count,
    Interval,
    benjamini_hochberg,
    mean_interval,
    paired_bootstrap,
    permutation_test,
)
from interp.token_activations import checked

Verdict = Literal["sharpens", "expands", "loses", "not settled"]
"""What training did to the curve of pass@k; see :attr:`PassAtKDifference.verdict`."""

Matches = Callable[[str, str], bool]
"""Whether an answer, the second, is the gold one, the first."""


# The curve


@dataclass(frozen=True, eq=False)
class PassAtK:
    """What one model's samples of some problems came to."""

    k: tuple[int, ...]
    """Ascending."""

    mean: tuple[Interval, ...]
    """pass@k, one for each ``k``. All problems alike give one of no width, which is then too narrow."""

    correct: Int[np.ndarray, " problem"]
    n_samples: Int[np.ndarray, " problem"]

    def per_problem(self, k: int) -> Float64[np.ndarray, " problem"]:
        """The probability that k draws solve each problem, for any k up to the fewest samples of one.

        Raises:
            InputError: if ``k`` is below 1, or above the samples of a problem.
        """
        _usable(k, self.n_samples)
        missed = np.ones(len(self.correct))
        for i in range(k):
            missed *= 1 - self.correct / (self.n_samples - i)
        return 1 - missed


def pass_at_k(
    correct: Int[np.ndarray, " problem"],
    n_samples: Count | Int[np.ndarray, " n"],
    ks: Sequence[int] | None = None,
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> PassAtK:
    """The curve of pass@k, with percentile bootstrap intervals over problems.

    A factor of the product is 0 as soon as fewer than k samples are wrong, so nothing is special about
    such problems, and thousands of samples lose no digits that matter. The resamples are the same at
    every k. Measured coverage of a nominal 0.95, with 32 samples: 0.93 to 0.95 with 30 problems or more, and
    0.89 to 0.91 at k = 32 of 30 and 60 that nearly all are solved.

    Args:
        correct: How many samples of each problem are right.
        n_samples: How many there are: one number, or one for each problem.
        ks: None takes 1, 2, 4, ... and the fewest samples that a problem has.

    Raises:
        InputError: for no problems, counts that are not in 0..n, or a k below 1 or above the samples.
    """
    n = np.broadcast_to(n_samples, correct.shape) if np.ndim(n_samples) == 0 else np.asarray(n_samples)
    if not len(correct) or len(n) != len(correct):
        raise InputError(
            f"{len(correct)} counts of right samples and {len(n)} of samples; pass one of each for every "
            "problem, and at least one problem."
        )
    if len(odd := np.flatnonzero((n < 1) | (correct < 0) | (correct > n))):
        raise InputError(
            f"Problem {odd[0]} has {correct[odd[0]]} right samples of {n[odd[0]]}; a problem needs at least "
            "one sample, of which 0 to all are right."
        )
    if ks is None:
        fewest = int(n.min())
        ks = [*(2**i for i in range(fewest.bit_length())), fewest]
    if not ks:
        raise InputError("No k was asked for; pass some, or None for 1, 2, 4, ...")
    curve = PassAtK(tuple(sorted({int(k) for k in ks})), (), correct, n)
    mean = [
        mean_interval(curve.per_problem(k), n_resamples=n_resamples, level=level, seed=seed) for k in curve.k
    ]
    return PassAtK(curve.k, tuple(mean), correct, n)


# Two curves


@dataclass(frozen=True, eq=False)
class PassAtKDifference:
    """How much higher the curve of tuned is than that of base, on the same problems."""

    k: tuple[int, ...]
    difference: tuple[Interval, ...]
    """``tuned - base`` at each ``k``, paired."""

    p_value: tuple[float, ...]
    """Two-sided, at each ``k``: base and tuned swapped within problems."""

    @property
    def sign(self) -> tuple[Literal[-1, 0, 1], ...]:
        """Which curve is higher at each ``k``: 1 for tuned, and 0 where the data do not say.

        They say so where zero is outside the interval and the p-value is as small as its level asks. The
        second is there for large k, where a few problems make the difference: 4 of 100, all on one side,
        put zero outside the interval, and as many heads in a row come up once in eight.
        """
        return tuple(
            (1 if found.estimate > 0 else -1) if found.excludes_zero and p <= 1 - found.level else 0
            for found, p in zip(self.difference, self.p_value, strict=True)
        )

    @property
    def verdict(self) -> Verdict:
        """What training did, where the signs of all the differences that this takes are settled.

        ``sharpens``: tuned is higher at the smallest k, and base at the largest: the curves cross.
        ``expands``: tuned is higher at every k; a crossing beyond the largest looks alike. ``loses``: base is
        higher at every k. Anything else is ``not settled``, and so is a single k. Each needs several
        differences at once, so the chance of a false one is no more than that of the least sure of them.
        """
        sign = self.sign
        if len(sign) > 1 and sign[0] == 1 and sign[-1] == -1:
            return "sharpens"
        if len(sign) > 1 and abs(sum(sign)) == len(sign):
            return "expands" if sign[0] == 1 else "loses"
        return "not settled"


def compare_pass_at_k(
    base: PassAtK, tuned: PassAtK, *, n_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> PassAtKDifference:
    """The difference of two curves on the same problems, with paired intervals and tests, and a verdict.

    Raises:
        InputError: if the curves are not of as many problems, two or more, at the same k.
    """
    _same_problems(base, tuned)
    if len(base.correct) < 2:
        raise InputError("One problem does not tell two models apart; pass two or more.")
    if base.k != tuned.k:
        raise InputError(
            f"base was computed at k = {list(base.k)} and tuned at {list(tuned.k)}. Pass the same `ks` "
            "for both."
        )
    pairs = [(tuned.per_problem(k), base.per_problem(k)) for k in base.k]
    return PassAtKDifference(
        base.k,
        tuple(paired_bootstrap(*pair, n_resamples=n_resamples, level=level, seed=seed) for pair in pairs),
        tuple(permutation_test(*pair, paired=True, n_resamples=n_resamples, seed=seed) for pair in pairs),
    )


def efficiency_gap(
    base: PassAtK,
    tuned: PassAtK,
    *,
    k: int | None = None,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """``pass@k(base) - pass@1(tuned)``, paired: how far one draw of tuned is from what k of base reach.

    Args:
        k: The source takes 256. None takes the largest of ``base``.

    Raises:
        InputError: if the two are not of as many problems, or ``k`` is above the samples of base.
    """
    _same_problems(base, tuned)
    reached = base.per_problem(base.k[-1] if k is None else k)
    return paired_bootstrap(reached, tuned.per_problem(1), n_resamples=n_resamples, level=level, seed=seed)


# Guessing


@dataclass(frozen=True, eq=False)
class Guessing:
    """What blind draws from a model's answers to other problems would solve, beside what its own did."""

    k: int
    floor: Float64[np.ndarray, " problem"]
    """The probability that k blind draws hit the gold answer."""

    p_value: Float64[np.ndarray, " problem"]
    """That as many of n blind draws hit it as were right."""

    q_value: Float64[np.ndarray, " problem"]
    """Adjusted over the problems as Benjamini and Hochberg do."""

    by_guessing: Bool[np.ndarray, " problem"]
    """Solved, but no more often than guessing would: the q-value is above 1 - level."""


def guess_rates(
    answers: Sequence[Sequence[str | None]], gold: Sequence[str], *, matches: Matches = operator.eq
) -> Float64[np.ndarray, " problem"]:
    """How often a model says each problem's gold answer when it is asked the other problems.

    q_x = (1 + hits) / (1 + draws), over all draws for the problems other than x.

    Its own draws would make a problem that is solved look easy to guess. One is added to both counts, so
    that an answer nobody gave elsewhere is not held to be impossible to guess: with few draws the rate,
    and with it the floor, is high rather than low. Where gold answers repeat, right answers to others count:
    they are what a guesser who has seen the answers of the set would say.

    Args:
        answers: What the samples of each problem said; None where one stated no answer, which hits nothing.
        gold: The right answer of each problem.
        matches: Called with a gold answer and a given one.

    Raises:
        InputError: for fewer than two problems, lengths that differ, or no draws for the others.
    """
    if len(gold) < 2 or len(answers) != len(gold):
        raise InputError(
            f"Answers to {len(answers)} problems and {len(gold)} gold ones; the rate of guessing comes from "
            "the other problems, so pass both for two problems or more."
        )
    own = [Counter(said) for said in answers]
    every = Counter(chain.from_iterable(answers))
    total = every.total()
    rates = []
    for number, (right, mine) in enumerate(zip(gold, own, strict=True)):
        if not (draws := total - mine.total()):
            raise InputError(f"Nothing was drawn for the problems other than {number}; pass their answers.")
        hits = sum(
            count - mine[said] for said, count in every.items() if said is not None and matches(right, said)
        )
        rates.append((1 + hits) / (1 + draws))
    return np.array(rates)


def guessing(
    model: PassAtK, rates: Float64[np.ndarray, " rate"], *, k: int | None = None, level: float = 0.95
) -> Guessing:
    """The guessing floor of each problem, and whether it was solved more often than by guessing.

    floor = 1 - (1 - q)^k,   p = P( Binomial(n, q) ≥ c )

    The p-values take the rates for known.

    Args:
        rates: q of each problem, from :func:`guess_rates`.
        k: Draws of the floor; None takes the fewest samples of a problem. The p-values are of all samples.

    Raises:
        InputError: if there is not one rate in 0..1 for each problem, or ``k`` is above the samples.
    """
    k = int(model.n_samples.min()) if k is None else k
    _usable(k, model.n_samples)
    _usable_level(level)
    _checked_rates(rates, len(model.correct))
    p = np.asarray(stats.binom.sf(model.correct - 1, model.n_samples, rates))
    q = benjamini_hochberg(p)
    return Guessing(k, 1 - (1 - rates) ** k, p, q, (model.correct > 0) & (q > 1 - level))


# Coverage


@dataclass(frozen=True, eq=False)
class Alone:
    """How much of what one model solves and the other does not is more than guessing."""

    guessed: float
    """The share of problems in this set if the model guessed."""

    above_guessing: Interval
    """The share in this set that the model solves more often than by guessing."""

    guessing: Guessing


@dataclass(frozen=True, eq=False)
class Coverage:
    """Which problems k draws of either model solve, as shares of the problems.

    Intervals are Wilson's. Where k < n a problem belongs to a set in part, and so it does for consolidation:
    they are then too wide rather than too narrow. Measured, of 30 and 100 problems with 32 samples, at a
    nominal 0.95: 0.93 to 0.97 at k = 32, 0.97 to 1 at k = 16 and 1 below, and for consolidation. Intervals as
    wide as the problems vary hold 0.54 for consolidation, whose ratio is skewed.
    """

    k: int
    both: Interval
    only_base: Interval
    only_tuned: Interval
    neither: Interval
    preservation: Interval | None
    """Of what base solves, the share that tuned solves too; None where base solves nothing."""

    consolidation: Interval | None
    """Of what both solve, the share that tuned solves at its first draw; None where there is nothing."""

    redrawn: Interval | None
    """The expansion, and the shrinkage, of base beyond itself: what its next k draws solve and these do
    not, and the other way round. ``pass@2k - pass@k``; None where 2k is more than base's samples."""

    base_alone: Alone | None
    """``only_base`` beside guessing; None without base's rates."""

    tuned_alone: Alone | None
    """``only_tuned`` beside guessing; None without tuned's rates."""

    problem: Float64[np.ndarray, "set problem"]
    """How far each problem is in both, only base, only tuned, neither; 0 or 1 where k is all samples."""

    @property
    def expansion(self) -> Interval:
        """Share of the problems that base fails and tuned solves."""
        return self.only_tuned

    @property
    def shrinkage(self) -> Interval:
        """Share of the problems that base solves and tuned fails."""
        return self.only_base

    @property
    def counts(self) -> dict[str, float]:
        """Problems in each set; their expected number where k is less than all samples."""
        names = ("both", "only_base", "only_tuned", "neither")
        return dict(zip(names, self.problem.sum(1).tolist(), strict=True))


def coverage(
    base: PassAtK,
    tuned: PassAtK,
    *,
    k: int | None = None,
    among: Bool[np.ndarray, " chosen"] | None = None,
    base_rates: Float64[np.ndarray, " base_rate"] | None = None,
    tuned_rates: Float64[np.ndarray, " tuned_rate"] | None = None,
    level: float = 0.95,
) -> Coverage:
    """The four sets, and expansion, shrinkage, preservation and consolidation, with intervals.

    Args:
        k: Draws of each model; None takes the fewest samples of a problem, which makes the sets counts.
        among: Problems to keep, for instance those that base never solves: ``screened.correct == 0``. Let
            ``screened`` be other draws of base than ``base``: a model drawn anew solves some of what it
            failed before, and ``both`` and ``only_base`` then say how much of that there is beside the
            expansion. From the same draws they are zero, and expansion holds the luck of both.
        base_rates: The rate of guessing of each of all problems, from base's answers (:func:`guess_rates`).
        tuned_rates: The same from tuned's; or base's again, for what a guesser with base's habits solves.

    Raises:
        InputError: if the two are not of as many problems, ``k`` is above the samples of either, ``among``
            keeps none, or the rates do not fit.

    Example:
        >>> base, tuned = pass_at_k(c_base, 256), pass_at_k(c_tuned, 256)
        >>> coverage(base, tuned, among=c_screen == 0, tuned_rates=guess_rates(answers, gold))
    """
    _same_problems(base, tuned)
    _usable_level(level)
    chosen = np.ones(len(base.correct), bool) if among is None else among
    if len(chosen) != len(base.correct) or not chosen.any():
        raise InputError(
            f"`among` keeps {chosen.sum()} of {len(chosen)} problems, and there are {len(base.correct)}. "
            "Pass one bool for each problem, of which at least one is True."
        )
    base, tuned = (_among(model, chosen) for model in (base, tuned))
    k = int(min(base.n_samples.min(), tuned.n_samples.min())) if k is None else k
    b, t = base.per_problem(k), tuned.per_problem(k)
    problem = np.stack([b * t, b * (1 - t), (1 - b) * t, (1 - b) * (1 - t)])

    def share(part: Float64[np.ndarray, " problem"]) -> Interval:
        return _wilson(part.sum(), float(len(part)), len(part), level)

    def rate(part: Float64[np.ndarray, " problem"], of: Float64[np.ndarray, " problem"]) -> Interval | None:
        return _wilson(part.sum(), of.sum(), int((of > 0).sum()), level) if of.any() else None

    def alone(
        model: PassAtK,
        rates: Float64[np.ndarray, " rate"] | None,
        members: Float64[np.ndarray, " problem"],
        other_fails: Float64[np.ndarray, " problem"],
    ) -> Alone | None:
        if rates is None:
            return None
        found = guessing(model, _checked_rates(rates, len(chosen))[chosen], k=k, level=level)
        return Alone(float((found.floor * other_fails).mean()), share(members * ~found.by_guessing), found)

    both, only_base, only_tuned, neither = map(share, problem)
    return Coverage(
        k,
        both,
        only_base,
        only_tuned,
        neither,
        preservation=rate(b * t, b),
        consolidation=rate(b * tuned.per_problem(1), b * t),
        redrawn=share(base.per_problem(2 * k) - b) if 2 * k <= base.n_samples.min() else None,
        base_alone=alone(base, base_rates, problem[1], 1 - t),
        tuned_alone=alone(tuned, tuned_rates, problem[2], 1 - b),
        problem=problem,
    )


# Perplexity


@dataclass(frozen=True, eq=False)
class TracePerplexity:
    """How surprising a model finds given responses, each after its prompt."""

    nats: Float64[np.ndarray, " row"]
    """Mean of -log p over the tokens of each response. For an interval, average over the responses to a
    problem and pass the problems to :func:`interp.stats.mean_interval`."""

    n_tokens: Int[np.ndarray, " row"]
    """Tokens of each response; the end of the turn is one where the row has it."""

    @property
    def perplexity(self) -> Float64[np.ndarray, " row"]:
        """``exp(nats)`` of each response."""
        return np.asarray(np.exp(self.nats))

    @property
    def pooled_nats(self) -> float:
        """Mean over all tokens, so that long responses weigh more than short ones."""
        return float(self.nats @ self.n_tokens / self.n_tokens.sum())

    @property
    def pooled_perplexity(self) -> float:
        """``exp(pooled_nats)``."""
        return math.exp(self.pooled_nats)


@torch.no_grad()
def trace_perplexity(
    lm: LanguageModel,
    rows: Sequence[Row],
    *,
    writer: LanguageModel | None = None,
    max_rows: int | None = None,
) -> TracePerplexity:
    """Perplexity of the responses in ``rows`` under ``lm``, whoever wrote them; prompts are only read.

    Rows may be of any length: logits are made of the responses alone, some tokens at a time, and none is
    kept.

    Args:
        rows: Prompts with responses, as :func:`hooks.chat.response_row` makes them, or with the tokens of a
            completion, which tokenizing its text anew may change.
        writer: The model whose tokenizer made the rows, where that is another.

    Raises:
        InputError: for no rows, a row without a response, token ids that ``lm`` does not have, a ``writer``
            with another tokenizer, or an open injection, whose edits would not reach the logits.

    Example:
        >>> trace_perplexity(base, rows, writer=tuned).nats - trace_perplexity(tuned, rows).nats
    """
    _readable(lm, checked(rows), writer)
    n_tokens = np.array([len(row.tokens) - row.prompt_length for row in rows])
    total = np.zeros(len(rows))
    last = Site(lm.n_layers - 1, "resid_post")
    some = max(1, MAX_LOGITS // lm.d_vocab)
    for batch, acts in stream(lm, rows, [last], max_rows=max_rows):
        ahead = slice(batch.start + 1, batch.columns.stop + 1)  # the next token may be in the next piece
        position, ids = batch.whole.position_ids[:, ahead], batch.whole.input_ids[:, ahead]
        place, column = (position >= batch.prompt_length[:, None]).nonzero(as_tuple=True)
        if not len(place):
            continue
        resid = acts[last][place.to(acts[last].device), column.to(acts[last].device)].to(lm.device)
        nats = [
            functional.cross_entropy(widened(unembed(lm, h[:, None])[:, 0]), token, reduction="none")
            for h, token in zip(resid.split(some), ids[place, column].split(some), strict=True)
        ]
        np.add.at(total, batch.row[place].cpu().numpy(), torch.cat(nats).double().cpu().numpy())
    return TracePerplexity(total / n_tokens, n_tokens)


# Shared


def _wilson(part: float, whole: float, n: int, level: float) -> Interval:
    """:func:`interp.stats.wilson` of amounts that need not be whole: terms inside 0..1 vary less than 0/1."""
    p, z = min(1.0, part / whole), float(stats.norm.isf((1 - level) / 2))
    centre = (p + z**2 / (2 * whole)) / (1 + z**2 / whole)
    half = z * math.sqrt(p * (1 - p) / whole + z**2 / (4 * whole**2)) / (1 + z**2 / whole)
    low, high = 0.0 if p == 0 else centre - half, 1.0 if p == 1 else centre + half
    return Interval(float(p), low, high, n, level)


def _among(model: PassAtK, chosen: Bool[np.ndarray, " problem"]) -> PassAtK:
    return PassAtK((), (), model.correct[chosen], model.n_samples[chosen])


def _usable(k: int, n_samples: Int[np.ndarray, " problem"]) -> None:
    if k < 1:
        raise InputError(f"pass@{k} was asked for; k is a number of draws, from 1.")
    if k > n_samples.min():
        raise InputError(
            f"pass@{k} was asked for, and problem {n_samples.argmin()} has {n_samples.min()} samples, the "
            f"largest k that they allow. Draw at least {k} for each problem, or lower k."
        )


def _usable_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level must lie strictly between 0 and 1, such as 0.95; got {level}.")


def _same_problems(base: PassAtK, tuned: PassAtK) -> None:
    if len(base.correct) != len(tuned.correct):
        raise InputError(
            f"base has {len(base.correct)} problems and tuned {len(tuned.correct)}; keep the problems both "
            "were asked, in one order."
        )


def _checked_rates(rates: Float64[np.ndarray, " rate"], n_problems: int) -> Float64[np.ndarray, " rate"]:
    if len(rates) != n_problems or not ((rates >= 0) & (rates <= 1)).all():
        raise InputError(
            f"{len(rates)} rates of guessing for {n_problems} problems; pass one in 0..1 for each, such as "
            "guess_rates gives."
        )
    return rates


def _readable(lm: LanguageModel, rows: Sequence[Row], writer: LanguageModel | None) -> None:
    if open_injections(lm):
        raise InputError(
            "trace_perplexity inside an open `inject` would leave its edits out of the logits; close it."
        )
    if writer is not None and writer.tokenizer_hash != lm.tokenizer_hash:
        raise InputError(
            f"The tokenizers of {lm.name} and of {writer.name}, which wrote the rows, differ: to the first "
            "these ids are another text. Perplexity per token compares models of one tokenizer only."
        )
    for number, row in enumerate(rows):
        if row.prompt_length == len(row.tokens):
            raise InputError(
                f"Row {number} is a prompt without a response: its perplexity is undefined. Leave it out, or "
                "use hooks.chat.response_row to give it one."
            )
        if (largest := max(row.tokens)) >= lm.d_vocab:
            raise InputError(
                f"Row {number} holds token {largest}; {lm.name} has ids 0..{lm.d_vocab - 1}. Make the rows "
                "with its tokenizer."
            )
