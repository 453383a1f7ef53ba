"""Which latents of a dictionary tell two conditions apart: four selectors, with what chance would give.

For every latent j, over n prompts i that are put in two ways, a (say, step by step) and b (at once),
with z its activation at the last prompt token, which produces the first generated one (the latents of
:func:`interp.token_activations.token_activations`):

    differential    d_j = mean_i ( z_j(a_i) - z_j(b_i) )
    auroc           P( z_j(a) > z_j(b) ) + P( z_j(a) = z_j(b) ) / 2, over all pairs of an a and a b
    decoder_cosine  cos( W_dec[j], v ), v = mean_i ( x(a_i) - x(b_i) ) the contrast vector at that token

and, over texts, with mu_j(w) the mean activation in the windows around the occurrences of word w of a
vocabulary R, mu_j⁺ in all of these windows, and mu_j⁻ elsewhere:

    reason_score    mu_j⁺ / Σ_i mu_i⁺ · H_j^alpha  -  mu_j⁻ / Σ_i mu_i⁻
                    H_j = entropy of q_jw = mu_j(w) / Σ_w' mu_j(w'), over log |R|: evenness over the words

Each has a p-value from a test that holds whatever the distribution: of the sign of the differences (the
pairs of a latent; the projections of the pairs on its decoder row; within a text, windows minus
elsewhere), or of ranks for the auroc. A false discovery rate is over the latents that are alive.

Sources: He et al. 2026, arXiv:2601.08058, for the differential; Galichin et al. 2025, arXiv:2503.18878,
for ReasonScore, its windows (one token before, two after) and alpha = 0.7.
Differs from the sources: p-values, a false discovery rate and resamples; special tokens are left out.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy import stats
from torch import Tensor

from hooks.errors import InputError, VectorError
from hooks.language_model import LanguageModel
from hooks.positions import Positions, everything
from hooks.rows import Row
from hooks.sites import Site
from interp.stats import benjamini_hochberg
from saes.activity import Activity, encoded, site_for
from saes.dictionary import Dictionary

VOCABULARY = (
    *("alternatively", "hmm", "maybe", "wait", "perhaps"),
    *("let me", "therefore", "however", "but", "another"),
)
"""The words of ReasonScore."""

Selector = Callable[[Float[Tensor, "prompt d_sae"], Float[Tensor, "prompt d_sae"]], "Ranking"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Every latent's score by one selector: the higher, the more of condition a."""

    selector: str
    score: Float64[np.ndarray, " d_sae"]
    p_value: Float64[np.ndarray, " d_sae"]
    """One-sided: how often chance alone gives as much towards a."""

    n: int
    """Pairs, or texts, behind it."""

    def q_value(self, alive: Bool[Tensor, " d_sae"] | None = None) -> Float64[np.ndarray, " d_sae"]:
        """The false discovery rate at which a latent would be reported (Benjamini-Hochberg).

        Args:
            alive: The latents to choose among, by a density that knows no conditions; NaN for the others.
        """
        chosen = np.ones(len(self.score), bool) if alive is None else alive.cpu().numpy()
        q = np.full(len(self.score), np.nan)
        if chosen.any():
            q[chosen] = benjamini_hochberg(self.p_value[chosen])
        return q

    def top(self, k: int, alive: Bool[Tensor, " d_sae"] | None = None) -> list[int]:
        """The ``k`` latents of highest score, the first of equal ones first."""
        score = self.score if alive is None else np.where(alive.cpu().numpy(), self.score, -np.inf)
        order = np.argsort(-score, kind="stable")[:k]
        return [int(j) for j in order if score[j] > -np.inf]

    def rank_of(self, latent: int) -> int:
        """How many latents score higher."""
        return int((self.score > self.score[latent]).sum())


def differential(
    a: Float[Tensor, "prompt d_sae"], b: Float[Tensor, "prompt_b d_sae"], *, name: str = "differential"
) -> Ranking:
    """``mean_i (a_ij - b_ij)`` of paired rows, with an exact test of the sign of the differences.

    Raises:
        InputError: for fewer than two pairs.
    """
    difference = _paired(a, b)
    return Ranking(name, difference.mean(0), _sign_test(difference), len(difference))


def auroc(a: Float[Tensor, "row d_sae"], b: Float[Tensor, "row_b d_sae"]) -> Ranking:
    """How well each latent alone tells a from b, with the Mann-Whitney test; 0.5 tells nothing.

    Raises:
        InputError: for fewer than two rows of either.
    """
    if min(len(a), len(b)) < 2:
        raise InputError(f"{len(a)} and {len(b)} rows; an AUROC needs two of each at least.")
    found = stats.mannwhitneyu(
        a.double().cpu().numpy(), b.double().cpu().numpy(), alternative="greater", method="asymptotic", axis=0
    )
    # of a latent that is the same everywhere, scipy divides zero by zero
    return Ranking("auroc", found.statistic / (len(a) * len(b)), np.nan_to_num(found.pvalue, nan=1.0), len(a))


def decoder_cosine(
    dictionary: Dictionary, a: Float[Tensor, "prompt d_in"], b: Float[Tensor, "prompt_b d_in"]
) -> Ranking:
    """``cos(W_dec[j], mean_i (a_i - b_i))`` of paired activations.

    Many decoder rows point somewhat along any vector, so many p-values are small; the score ranks.

    Raises:
        InputError: for fewer than two pairs.
        VectorError: if the mean difference is zero.
    """
    directions = torch.nn.functional.normalize(dictionary.W_dec.detach().double().cpu(), dim=-1).numpy()
    difference = _paired(a, b)
    vector = difference.mean(0)
    if not (norm := float(np.linalg.norm(vector))) > 0:
        raise VectorError("The two conditions do not differ at this site: the contrast vector is zero.")
    return Ranking(
        "decoder_cosine", directions @ vector / norm, _sign_test(difference @ directions.T), len(difference)
    )


def stability(
    selector: Selector,
    a: Float[Tensor, "prompt d_sae"],
    b: Float[Tensor, "prompt d_sae"],
    k: int,
    *,
    alive: Bool[Tensor, " d_sae"] | None = None,
    n_resamples: int = 100,
    seed: int = 0,
) -> Float64[np.ndarray, " d_sae"]:
    """Share of bootstrap resamples of the prompts in which each latent is among the top ``k``."""
    rng = np.random.default_rng(seed)
    times = np.zeros(a.shape[1])
    for _ in range(n_resamples):
        some = torch.from_numpy(rng.integers(0, len(a), len(a)))
        times[selector(a[some], b[some]).top(k, alive)] += 1
    return times / n_resamples


@dataclass(frozen=True, eq=False)
class ReasonScore:
    """ReasonScore over some texts, and the same of vocabularies of other words as frequent."""

    ranking: Ranking
    entropy: Float64[np.ndarray, " d_sae"]
    """H_j; 0 of a latent that no window activates."""

    control: Float64[np.ndarray, "vocabularies d_sae"]
    """The score with random words in the place of each word."""

    vocabulary: tuple[str, ...]
    """The words that occur."""

    occurrences: int


@torch.no_grad()
def reason_score(
    lm: LanguageModel,
    rows: Sequence[Row],
    dictionary: Dictionary,
    *,
    vocabulary: Sequence[str] = VOCABULARY,
    alpha: float = 0.7,
    before: int = 1,
    after: int = 2,
    n_control: int = 5,
    site: Site | None = None,
    positions: Positions = everything,
    any_model: bool = False,
    seed: int = 0,
    on_tokens: Callable[[int], None] | None = None,
) -> ReasonScore:
    """ReasonScore of every latent, from one streaming pass; memory does not grow with the texts.

    A word is looked for whole and without regard to case. The p-value is of the texts, one vote each:
    is the latent more active in the windows than elsewhere in the same text?

    Args:
        before: Tokens of a window before the word.
        after: Tokens after it.
        n_control: Vocabularies of random words that occur about as often.

    Raises:
        InputError: if fewer than two words of the vocabulary occur: evenness needs two.
        VectorError, EmptySelectionError: as :func:`saes.activity.encoded`.
    """
    site = site_for(lm, dictionary, site, any_model=any_model)
    words = sorted({word.casefold() for word in vocabulary})
    texts = _Texts(lm)
    counts = Counter(word for row in rows for word in _words(texts.of(row.tokens)[0]))
    asked = {word: sum(len(_places(texts.of(row.tokens)[0], word)) for row in rows) for word in words}
    found = tuple(word for word in words if asked[word])
    if len(found) < 2:
        raise InputError(
            f"{len(found)} of the {len(words)} words occur in the {len(rows)} texts; ReasonScore needs two. "
            "More texts, or a vocabulary of words that they use, would work."
        )
    controls = _alike(found, asked, counts, set(words), n_control, seed)
    groups = [*found, *(word for control in controls for word in control)]
    sums = torch.zeros(len(groups) + 1, dictionary.d_sae, dtype=torch.float64)
    sizes = torch.zeros(len(groups) + 1, dtype=torch.float64)
    union = torch.zeros(1 + len(controls), 2, dictionary.d_sae, dtype=torch.float64)
    n_union = torch.zeros(1 + len(controls), 2, dtype=torch.float64)
    votes = torch.zeros(2, dictionary.d_sae)
    n_texts = 0
    for part in encoded(
        lm, rows, dictionary, site=site, positions=positions, any_model=any_model, on_tokens=on_tokens
    ):
        for number, tokens in part.rows():
            z = part.z[tokens].double().cpu()
            inside = texts.windows(rows[number].tokens, groups, before, after)[
                :, part.position[tokens].cpu()
            ].double()
            sums[:-1] += inside @ z
            sizes[:-1] += inside.sum(1)
            for c, members in enumerate(_members(len(found), len(controls))):
                any_of = inside[members].amax(0)
                for side, mask in enumerate((any_of, 1 - any_of)):
                    union[c, side] += mask @ z
                    n_union[c, side] += mask.sum()
            here = inside[: len(found)].amax(0)
            if 0 < here.sum() < len(here):
                gap = here @ z / here.sum() - (1 - here) @ z / (1 - here).sum()
                votes += torch.stack([gap > 0, gap < 0])
                n_texts += 1
    means = (sums[:-1] / sizes[:-1, None].clamp(min=1)).numpy()
    unions = (union / n_union[..., None].clamp(min=1)).numpy()
    scores, entropies = zip(
        *(
            _score(means[members], unions[c, 0], unions[c, 1], alpha)
            for c, members in enumerate(_members(len(found), len(controls)))
        ),
        strict=True,
    )
    return ReasonScore(
        ranking=Ranking("reason_score", scores[0], _votes_p(*votes.numpy()), n_texts),
        entropy=entropies[0],
        control=np.array(scores[1:]).reshape(len(controls), dictionary.d_sae),
        vocabulary=found,
        occurrences=sum(asked.values()),
    )


def matched_random(
    dictionary: Dictionary,
    activity: Activity,
    latent: int,
    n: int,
    *,
    exclude: Sequence[int] = (),
    pool: int = 5,
    seed: int = 0,
) -> list[int]:
    """``n`` other latents that are about as frequent, and write about as much.

    Drawn from the ``pool * n`` living ones nearest in log density and log norm of the decoder row.

    Raises:
        InputError: if fewer than ``n`` others are alive.
    """
    norm = dictionary.W_dec.detach().norm(dim=-1).cpu().double()
    density = activity.density.double()
    usable = (density > 0) & (norm > 0)
    usable[[latent, *exclude]] = False
    if int(usable.sum()) < n:
        raise InputError(
            f"{n} matched random latents were asked for and {int(usable.sum())} others are alive. Ask for "
            "fewer, or count activity over more texts."
        )
    if not density[latent] > 0:
        raise InputError(f"Latent {latent} is dead over these texts: there is no frequency to match.")
    features = torch.stack([density.log(), norm.log()])
    spread = features[:, usable].std(dim=1).clamp(min=1e-6)
    distance = ((features - features[:, latent, None]) / spread[:, None]).square().sum(0)
    distance[~usable] = torch.inf
    nearest = distance.argsort(stable=True)[: min(pool * n, int(usable.sum()))].numpy()
    return sorted(int(j) for j in np.random.default_rng(seed).choice(nearest, n, replace=False))


# Tests


def _paired(a: Tensor, b: Tensor) -> Float64[np.ndarray, "pair width"]:
    if a.shape != b.shape or len(a) < 2:
        raise InputError(
            f"Conditions of shapes {tuple(a.shape)} and {tuple(b.shape)}: they are paired row by row, and "
            "two pairs are the least."
        )
    return np.asarray((a.double() - b.double()).cpu().numpy())


def _sign_test(difference: Float64[np.ndarray, "pair d_sae"]) -> Float64[np.ndarray, " d_sae"]:
    return _votes_p((difference > 0).sum(0), (difference < 0).sum(0))


def _votes_p(up: np.ndarray, down: np.ndarray) -> Float64[np.ndarray, " d_sae"]:
    """P(at least ``up`` of ``up + down`` fair coins): 1 where there is nothing to count."""
    return np.asarray(stats.binom.sf(up - 1, up + down, 0.5))


# ReasonScore


def _score(
    means: Float64[np.ndarray, "word d_sae"],
    inside: Float64[np.ndarray, " d_sae"],
    outside: Float64[np.ndarray, " d_sae"],
    alpha: float,
) -> tuple[Float64[np.ndarray, " d_sae"], Float64[np.ndarray, " d_sae"]]:
    total = means.sum(0)
    q = np.divide(means, total, out=np.zeros_like(means), where=total > 0)
    entropy = -np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0).sum(0) / np.log(len(means))
    share = inside / max(inside.sum(), 1e-300), outside / max(outside.sum(), 1e-300)
    return share[0] * entropy**alpha - share[1], entropy


def _members(words: int, controls: int) -> list[slice]:
    """Which groups make up the vocabulary, and each control."""
    return [slice(c * words, (c + 1) * words) for c in range(1 + controls)]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z']+", text)


def _places(text: str, word: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text)]


def _alike(
    found: Sequence[str],
    asked: dict[str, int],
    counts: Counter[str],
    taken: set[str],
    n: int,
    seed: int,
) -> list[list[str]]:
    """``n`` vocabularies: for each word one of the 20 others that are nearest in how often they occur."""
    rng = np.random.default_rng(seed)
    others = sorted(word for word in counts if word not in taken)
    if not others:
        return []
    controls = []
    for _ in range(n):
        left = list(others)
        chosen: list[str] = []
        for word in found:
            left.sort(key=lambda other: (abs(np.log(counts[other] / asked[word])), other))
            chosen.append(left.pop(int(rng.integers(min(20, len(left))))) if left else chosen[0])
        controls.append(chosen)
    return controls


class _Texts:
    """From token ids to text and back, a token at a time."""

    def __init__(self, lm: LanguageModel) -> None:
        self._decode = lm.tokenizer.decode
        self._known: dict[int, str] = {}

    def of(self, tokens: Sequence[int]) -> tuple[str, list[int]]:
        """The text in small letters, and where in it each token begins."""
        pieces, starts, at = [], [], 0
        for token in tokens:
            if token not in self._known:
                self._known[token] = str(self._decode([token])).lower()
            piece = self._known[token]
            starts.append(at)
            pieces.append(piece)
            at += len(piece)
        return "".join(pieces), starts

    def windows(
        self, tokens: Sequence[int], words: Sequence[str], before: int, after: int
    ) -> Bool[Tensor, "word pos"]:
        """The tokens around the occurrences of each word, its own among them."""
        text, starts = self.of(tokens)
        inside = torch.zeros(len(words), len(tokens), dtype=torch.bool)
        for w, word in enumerate(words):
            for start, stop in _places(text, word):
                first = int(np.searchsorted(starts, start, side="right")) - 1
                last = int(np.searchsorted(starts, stop, side="left")) - 1
                inside[w, max(0, first - before) : last + after + 1] = True
        return inside
