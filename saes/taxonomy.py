"""What kinds of sentences a model reasons in: a dictionary of 5 to 50 latents over means of sentences.

    a_s       mean activation over the tokens of sentence s and the one before, which predicts its first
    x_s       (a_s - centre) / scale,     centre = mean of a_s,     scale² = mean of |a_s - centre|²
    x_hat     of a TopK dictionary that is trained to the least  Σ |x_hat - x|² / Σ |x|²   (FVU)
    category  of any activation: the latent of the largest pre-activation

Centre and scale are folded into the dictionary, so that it takes activations as they are, those of single
tokens among them, and nobody can forget to centre. A category is known by its exemplars, the sentences
that activate it most. On sentences of responses that were held out,

    fvu           as above
    consistency   share whose category is that of the nearest mean of exemplars
    largest       share of the largest category: what naming it for all would be right in

say whether the categories are there, and not what they are. Any partition into regions is somewhat
consistent. So beside them stand those of the control: a taxonomy of the same size, made in the same way, of
Gaussian vectors with the covariance of these, which have no kinds.

Source: Venhoff et al. 2025, "Base Models Know How to Reason, Thinking Models Learn When", arXiv:2510.07364;
loss, k, learning rate, batches, epochs and patience are theirs.
Differs from the source: one scale for all, where each x_s has norm one there, and so cannot be folded; ReLU
before TopK; training starts from sentences that lie apart (k-means++), not from random directions, several
times; b_dec stays at the centre; held-out sentences. Where b_dec is trained it takes the part of a category,
at no higher FVU: six planted kinds in 24 dimensions then come back at an adjusted Rand index of 0.76, over
five seeds, and here at 0.94. They choose layer and size by completeness, accuracy and orthogonality of
categories that a language model titles and assigns sentences to. None of that is here: consistency asks of
the vectors alone whether exemplars stand for their category, not whether a reader would agree.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from hooks.capture import stream
from hooks.chat import Prompt, response_row
from hooks.errors import EmptySelectionError, InputError, VectorError
from hooks.files import whole, write_json, writing
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.rows import WINDOW
from hooks.sites import Site
from saes.autoencoder import Autoencoder
from saes.dictionary import UNKNOWN, Origin
from saes.formats.saelens import CONFIG, save_dictionary
from saes.formats.weights import filled, fitted, read_settings, read_tensors
from saes.load import load_dictionary
from saes.topk import TopKSAE

FORMAT = "unlatch.taxonomy.1"
FACTS, TENSORS, SEAL = "taxonomy.json", "taxonomy.safetensors", "taxonomy_sha256"

MIN_WORDS = 3
"""A shorter piece of text is no sentence."""

ROUNDING = 1e-6
"""Sentences that vary by less than this share of their mean are the same but for float32 rounding."""

EPOCHS, BATCH, PATIENCE = 300, 512, 10
SIZES = tuple(range(5, 51, 5))

_END = re.compile(
    r"""
    (?: (?<!\b[A-Za-z])[.…]+      # 3.14, E. coli and e.g. the are no ends
      | [.…]+(?!\s+[a-z])
      | [?;]+
      | (?<!\b\w)!+               # nor is k!
    ) ["'”’)\]*]* (?=\s|$)
    | \n+
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Sentence:
    """One sentence of one response, and where its tokens are."""

    text: str
    row: int
    """The number of its response."""

    start: int
    """Its first token, counted from the start of prompt and response."""

    stop: int
    """One past its last."""


@dataclass(frozen=True, eq=False)
class SentenceMeans:
    """The mean activation of each of some sentences, at one site of one model."""

    means: Float[Tensor, "sentence d_model"]
    sentences: tuple[Sentence, ...]
    origin: Origin = UNKNOWN

    def __post_init__(self) -> None:
        if len(self.means) != len(self.sentences):
            raise InputError(f"{len(self.means)} means of {len(self.sentences)} sentences; pass one of each.")
        if bad := int((~torch.isfinite(self.means)).any(-1).sum()):
            raise VectorError(f"The means of {bad} sentences have NaN or infinite entries; read them again.")


@dataclass(frozen=True)
class Exemplar:
    sentence: Sentence
    activation: float
    """Pre-activation of its category."""


@dataclass(frozen=True)
class Scores:
    """On held-out sentences."""

    fvu: float
    consistency: float
    largest: float
    n: int
    """Sentences."""


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Categories of sentences."""

    dictionary: TopKSAE
    """A latent for each category. It takes activations as they are."""

    centre: Float[Tensor, " d_model"]
    scale: float
    """What the sentences were centred and divided by, which is in the weights."""

    centroids: Float[Tensor, "category d_model"]
    """Mean of each category's exemplars, as activations are; the centre where it has none."""

    exemplars: tuple[tuple[Exemplar, ...], ...]
    """Of each category: the sentences of it that activate it most, the most first."""

    counts: tuple[int, ...]
    """Sentences of each category, of those that it was trained on."""

    scores: Scores
    control: Scores | None
    """The same of vectors without kinds; None where it was not asked for."""

    def category(self, x: Float[Tensor, "*batch d_model"]) -> Int[Tensor, "*batch"]:
        """Which category an activation is of, of a sentence or of a token."""
        return self.dictionary.preactivations(x.to(self.dictionary.W_enc)).argmax(-1)


def sentence_spans(text: str, *, min_words: int = MIN_WORDS) -> list[tuple[int, int]]:
    """Where each sentence of a text begins and ends, in characters, without the space around it.

    A sentence ends at ``. ! ? ;`` before a space, closing quotes and brackets included, and at a line's end.
    """
    ends = [*(match.end() for match in _END.finditer(text)), len(text)]
    spans = []
    for start, end in zip([0, *ends], ends, strict=False):
        piece = text[start:end]
        if len(piece.split()) >= max(1, min_words):
            begin = start + len(piece) - len(piece.lstrip())
            spans.append((begin, begin + len(piece.strip())))
    return spans


@torch.no_grad()
def sentence_means(
    lm: LanguageModel,
    responses: Sequence[tuple[Prompt, str]],
    site: Site,
    *,
    think: bool | None = None,
    template: bool = True,
    min_words: int = MIN_WORDS,
    on_tokens: Callable[[int], None] | None = None,
) -> SentenceMeans:
    """Split responses into sentences, and read the mean activation of each: a_s.

    A token that two sentences share counts for both. Memory is that of the means.

    Args:
        responses: Prompts and what was answered to them.
        think: As for :func:`hooks.chat.response_row`; so is ``template``.
        min_words: A sentence of fewer is left out.
        on_tokens: Called with the number of tokens of each batch, for progress.

    Raises:
        InputError: if the tokenizer does not say which characters its tokens are; inside an open
            :func:`hooks.inject`; for an empty response.
        EmptySelectionError: if there is no sentence.
        SiteNotFoundError: if the model has no such site.
    """
    if not lm.tokenizer.is_fast:
        raise InputError(
            f"The tokenizer of {lm.name} does not say which characters its tokens are; sentences need a fast "
            "one. Load the model with a tokenizer.json."
        )
    if open_injections(lm):
        raise InputError("Edits are open on this model, and would be read with it. Close `inject`.")
    site = lm.anatomy.resolve(site)
    rows = [response_row(lm.tokenizer, p, text, think=think, template=template) for p, text in responses]
    sentences: list[Sentence] = []
    of_row: list[range] = []
    for number, (row, (_, text)) in enumerate(zip(rows, responses, strict=True)):
        found = _placed(lm, text, number, row.prompt_length, min_words)
        of_row.append(range(len(sentences), len(sentences) + len(found)))
        sentences += found
    if not sentences:
        raise EmptySelectionError(
            f"No sentence of {min_words} words or more in {len(rows)} responses. Pass longer ones, or "
            "min_words=1."
        )
    means = torch.zeros(len(sentences), lm.d_model)
    for batch, acts in stream(lm, rows, [site], window=WINDOW):
        x = acts[site]
        for place, number in enumerate(batch.row.tolist()):
            # columns of this piece, from tokens of the row
            shift = batch.whole.input_ids.shape[1] - len(rows[number].tokens) - batch.start
            for s in of_row[number]:
                here = slice(max(0, sentences[s].start - 1 + shift), max(0, sentences[s].stop + shift))
                means[s] += x[place, here].float().sum(0).cpu()
        if on_tokens is not None:
            on_tokens(int(batch.attention_mask.sum()))
    means /= torch.tensor([[s.stop - s.start + 1.0] for s in sentences])
    return SentenceMeans(means, tuple(sentences), Origin(lm.name, site, str(site), lm.fingerprint))


def _placed(lm: LanguageModel, text: str, row: int, offset: int, min_words: int) -> list[Sentence]:
    """The sentences of one response, whose tokens begin at ``offset``."""
    tokens = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    begins, ends = [begin for begin, _ in tokens], [end for _, end in tokens]
    placed = []
    for start, stop in sentence_spans(text, min_words=min_words):
        first, past = bisect_right(ends, start), bisect_left(begins, stop)
        if first < past:
            placed.append(Sentence(text[start:stop], row, offset + first, offset + past))
    return placed


def train_taxonomy(
    sentences: SentenceMeans,
    n: int,
    *,
    k: int = 3,
    restarts: int = 3,
    held_out: float = 0.2,
    n_exemplars: int = 20,
    control: bool = True,
    seed: int = 0,
) -> Taxonomy:
    """Train ``n`` categories on some sentences, and judge them on those of the other responses.

    Args:
        n: Categories; 5 to 50 are usual.
        k: Latents that may be active for one sentence.
        restarts: Trainings, of which the one of the least FVU on its own sentences is kept.
        held_out: Share of the responses that is held out.
        n_exemplars: Sentences that a category is known by, at most.
        control: Also make a taxonomy of vectors without kinds, which takes as long again.
        seed: Of the split, the starts, the batches and the control.

    Raises:
        InputError: for a size that means nothing, too few responses to hold any out, fewer sentences than
            categories, or sentences that are all the same.
    """
    if n < 2 or not 0 < k <= n or restarts < 1 or n_exemplars < 1:
        raise InputError(
            f"n={n}, k={k}, restarts={restarts}, n_exemplars={n_exemplars}: n is 2 or more, k is in 1..n, "
            "and the others are 1 or more."
        )
    train = _split(sentences, held_out, seed)
    raw = sentences.means.float()
    if (n_train := int(train.sum())) < n:
        raise InputError(
            f"{n} categories of {n_train} sentences, not counting those held out: each needs one at least. "
            "Pass more sentences, or a smaller n."
        )
    centre = raw[train].mean(0)
    scale = float((raw[train] - centre).square().sum(-1).mean().sqrt())
    if scale <= ROUNDING * float(centre.norm()):
        raise InputError(f"The {n_train} sentences have one mean: there are no kinds of it. Pass others.")
    x = (raw - centre) / scale
    best = partial(_best, train=train, n=n, k=k, restarts=restarts, n_exemplars=n_exemplars, seed=seed)
    made, plain = best(x), best(_without_kinds(x[train], len(x), seed)) if control else None
    own = [s for s, kept in zip(sentences.sentences, train.tolist(), strict=True) if kept]
    return Taxonomy(
        dictionary=_folded(made.dictionary, centre, scale, sentences.origin),
        centre=centre,
        scale=scale,
        centroids=made.centroids * scale + centre,
        exemplars=tuple(
            tuple(Exemplar(own[i], float(made.activation[i])) for i in chosen) for chosen in made.exemplars
        ),
        counts=made.counts,
        scores=made.scores,
        control=None if plain is None else plain.scores,
    )


def size_sweep(sentences: SentenceMeans, sizes: Sequence[int] = SIZES, **options: Any) -> dict[int, Taxonomy]:
    """A taxonomy of each size; compare their ``scores`` with their ``control``.

    Args:
        options: Of :func:`train_taxonomy`.
    """
    return {n: train_taxonomy(sentences, n, **options) for n in sizes}


def _split(sentences: SentenceMeans, held_out: float, seed: int) -> Bool[Tensor, " sentence"]:
    """Which sentences are trained on: all of a response, or none."""
    rows = torch.tensor([s.row for s in sentences.sentences])
    responses = rows.unique()
    n_held = round(held_out * len(responses))
    if not 0 < n_held < len(responses):
        raise InputError(
            f"held_out={held_out} of {len(responses)} responses leaves none on one side. Pass more of them, "
            "or another share."
        )
    order = torch.randperm(len(responses), generator=torch.Generator().manual_seed(seed))
    return ~torch.isin(rows, responses[order[:n_held]])


@dataclass(frozen=True, eq=False)
class _Made:
    """Categories of centred and scaled sentences."""

    dictionary: TopKSAE
    centroids: Float[Tensor, "category d_model"]
    exemplars: list[list[int]]
    activation: Float[Tensor, " sentence"]
    counts: tuple[int, ...]
    scores: Scores


@torch.no_grad()
def _best(
    x: Float[Tensor, "sentence d_model"],
    *,
    train: Bool[Tensor, " sentence"],
    n: int,
    k: int,
    restarts: int,
    n_exemplars: int,
    seed: int,
) -> _Made:
    """The best of several trainings, with its exemplars, and judged."""
    x, held_out = x[train], x[~train]
    trained = [_trained(x, n, k, seed * restarts + i) for i in range(restarts)]
    dictionary = min(trained, key=lambda sae: _fvu(sae, x))
    activation, category = dictionary.preactivations(x).max(-1)
    exemplars: list[list[int]] = []
    centroids = torch.zeros(n, x.shape[1], device=x.device)
    for c in range(n):
        members = (category == c).nonzero()[:, 0]
        chosen = members[activation[members].argsort(descending=True, stable=True)[:n_exemplars]]
        exemplars.append(chosen.tolist())
        if len(chosen):
            centroids[c] = x[chosen].mean(0)
    found = dictionary.preactivations(held_out).argmax(-1)
    known = torch.tensor([c for c in range(n) if exemplars[c]], device=x.device)
    nearest = known[torch.cdist(held_out, centroids[known]).argmin(-1)]
    scores = Scores(
        fvu=_fvu(dictionary, held_out),
        consistency=float((nearest == found).float().mean()),
        largest=float(found.bincount().max()) / len(found),
        n=len(found),
    )
    counts = tuple(category.bincount(minlength=n).tolist())
    return _Made(dictionary, centroids, exemplars, activation, counts, scores)


@torch.no_grad()
def _fvu(sae: TopKSAE, x: Float[Tensor, "n d_model"]) -> float:
    return float((sae(x) - x).square().sum() / x.square().sum())


@torch.enable_grad()
def _trained(x: Float[Tensor, "train d_model"], n: int, k: int, seed: int) -> TopKSAE:
    """One training to the least FVU, from ``n`` of the sentences."""
    generator = torch.Generator().manual_seed(seed)
    sae = TopKSAE(x.shape[1], n, k, seed=None).to(x.device)
    with torch.no_grad():
        sae.W_dec.copy_(nn.functional.normalize(_apart(x, n, generator), dim=-1))
        sae.W_enc.copy_(sae.W_dec.T)
    sae.b_dec.requires_grad_(False)  # zero, the centre
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-4 / (n / 2**14) ** 0.5)
    best, best_weights, waited = _fvu(sae, x), _copied(sae), 0
    for _ in range(EPOCHS):
        for numbers in torch.randperm(len(x), generator=generator).split(BATCH):
            part = x[numbers]
            loss = (sae(part) - part).square().sum(-1).mean()  # of x whose mean square is 1
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                sae.W_dec.copy_(nn.functional.normalize(sae.W_dec, dim=-1))
        fvu = _fvu(sae, x)
        waited = 0 if fvu < best else waited + 1
        if fvu < best:
            best, best_weights = fvu, _copied(sae)
        if waited == PATIENCE:
            break
    return filled(sae, best_weights)


def _copied(sae: TopKSAE) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in sae.state_dict().items()}


def _apart(
    x: Float[Tensor, "train d_model"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_model"]:
    """Rows drawn one by one, as the square of the distance to the nearest that was drawn (k-means++)."""
    chosen = [int(torch.randint(len(x), (), generator=generator))]
    square = torch.full((len(x),), torch.inf, device=x.device)
    exact = "donot_use_mm_for_euclid_dist"  # so that equal rows have no distance
    while len(chosen) < n:
        square = square.minimum(torch.cdist(x, x[chosen[-1:]], compute_mode=exact)[:, 0].square())
        if not square.any():
            raise InputError(
                f"Of {len(x)} sentences only {len(chosen)} differ, for {n} categories. Pass others, "
                "or a smaller n."
            )
        chosen.append(int(torch.multinomial(square.cpu(), 1, generator=generator)))
    return x[chosen]


def _without_kinds(x: Float[Tensor, "train d_model"], n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """Gaussian vectors with the covariance of ``x``, around zero as it is."""
    variance, directions = torch.linalg.eigh((x.T @ x).double() / len(x))
    drawn = torch.randn(n, len(variance), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors: Tensor = drawn.to(x.device) * variance.clamp(min=0).sqrt() @ directions.T
    return vectors.float()


def _folded(sae: TopKSAE, centre: Float[Tensor, " d_model"], scale: float, origin: Origin) -> TopKSAE:
    """The same for activations as they are: ``z((a - centre) / scale)``, and ``scale * x_hat + centre``."""
    weights = {
        "W_enc": sae.W_enc / scale,
        "W_dec": sae.W_dec * scale,
        "b_dec": sae.b_dec * scale + centre,
        "b_enc": sae.b_enc,
    }
    made = TopKSAE(sae.d_in, sae.d_sae, sae.k, seed=None, origin=origin)
    return filled(made, {name: weight.detach().clone() for name, weight in weights.items()})


def save_taxonomy(taxonomy: Taxonomy, folder: str | Path) -> Path:
    """Write a folder that :func:`load_taxonomy` reads; as a dictionary, SAELens does too.

    Raises:
        InputError: if it holds a dictionary already.
        RunError: if it cannot be written.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} already holds a dictionary. Pass another folder, or delete it yourself.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tensors = {"centre": taxonomy.centre, "centroids": taxonomy.centroids}
    with whole(folder / TENSORS) as part:
        part.write_bytes(to_bytes({name: t.float().cpu().contiguous() for name, t in tensors.items()}))
    facts = {
        "format": FORMAT,
        "scale": taxonomy.scale,
        "counts": taxonomy.counts,
        "scores": asdict(taxonomy.scores),
        "control": None if taxonomy.control is None else asdict(taxonomy.control),
        "exemplars": [[asdict(exemplar) for exemplar in of] for of in taxonomy.exemplars],
    }
    write_json(folder / FACTS, facts)
    sealed = copy(taxonomy.dictionary)
    origin = sealed.origin
    sealed.origin = replace(origin, metadata={**origin.metadata, SEAL: _seal(folder, sealed)})
    return save_dictionary(sealed, folder)  # last: without it there is no taxonomy yet


def load_taxonomy(
    folder: str | Path, lm: LanguageModel | None = None, *, site: Site | None = None, any_model: bool = False
) -> Taxonomy:
    """Read a folder and check all of it.

    Args:
        lm: The model whose activations it will sort; None checks the folder alone.
        site: Where they will be read; None takes any.
        any_model: Accept a taxonomy of another model of the same width.

    Raises:
        InputError: if there is no taxonomy.
        VectorError: for a damaged or altered one, or one of another width, model or site.
        SiteNotFoundError: if the model has no such site.
    """
    folder = Path(folder)
    if not (folder / FACTS).is_file() or not (folder / TENSORS).is_file():
        raise InputError(
            f"No taxonomy in {folder}: it lacks {FACTS} or {TENSORS}. Pass a folder of save_taxonomy."
        )
    dictionary = load_dictionary(folder, lm, site=site, any_model=any_model)
    sealed = dictionary.origin.metadata.get(SEAL) == _seal(folder, dictionary)
    if not isinstance(dictionary, TopKSAE) or not sealed:
        raise VectorError(
            f"{folder} was altered or damaged after it was written: {FACTS}, {TENSORS} and the dictionary "
            "are not of one taxonomy. Get all of the folder again."
        )
    facts, n = read_settings(folder / FACTS), dictionary.d_sae
    if facts.get("format") != FORMAT:
        raise VectorError(f"{folder} has the format {facts.get('format')!r:.60}; {FORMAT} is read.")
    shapes = {"centre": (dictionary.d_in,), "centroids": (n, dictionary.d_in)}
    tensors = fitted(read_tensors(folder / TENSORS), shapes, folder / TENSORS)
    try:
        return Taxonomy(
            dictionary=dictionary,
            centre=tensors["centre"],
            scale=facts["scale"],
            centroids=tensors["centroids"],
            exemplars=tuple(
                tuple(Exemplar(Sentence(**e["sentence"]), e["activation"]) for e in of)
                for of in facts["exemplars"]
            ),
            counts=tuple(facts["counts"]),
            scores=Scores(**facts["scores"]),
            control=None if facts["control"] is None else Scores(**facts["control"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise VectorError(f"{folder / FACTS} is sealed but not whole: {error!r}. Make it again.") from None


def _seal(folder: Path, dictionary: Autoencoder) -> str:
    """Of the weights, and of what is beside them; the settings carry it."""
    digest = hashlib.sha256()
    for name in (TENSORS, FACTS):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    for _, weight in sorted(dictionary.state_dict().items()):
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
