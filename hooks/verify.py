"""Does a model say the same however it is run? Every check to run on one that nobody has run before.

The reference is the plainest way to run a model: one row, without padding and without a cache, in one
pass, edited by a tap at columns that are counted here. All else is held against it along one fixed
text, so rounding that lets two nearly equal tokens change places fails nothing.

Not seen: what only long texts do (a sliding window of thousands of tokens), beam search, training; nor, in
half precision, a fault that moves the logits no more than its rounding does: verify in float32 as well.
"""

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig

from hooks.capture import capture
from hooks.chat import Prompt, prompt_row
from hooks.edits import Add, Edit, ProjectOut, widened
from hooks.errors import InputError, ModelRefusedError, ReceiptError, UnlatchError
from hooks.generate import Completion, Generation, generate_rows
from hooks.inject import Edits
from hooks.language_model import LanguageModel
from hooks.positions import Positions, everything, generated, last, step
from hooks.positions import prompt as prompt_tokens
from hooks.rows import Row, pad_left
from hooks.sampling import Sampling
from hooks.self_check import MOVES, Finding, self_check
from hooks.sites import KINDS, Site, SiteKind
from hooks.taps import Tap, tapped

PROMPTS: tuple[Prompt, ...] = (
    "Hi.",
    "What is 17 + 25?",
    "Name three animals that live in the sea.",
    "Write one sentence about the night, and then one about the day that comes after it.",
)

SHARE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""How far a logit may be off, as a share of the largest one: what rounding in another order does to the
worst of all logits. Measured over batches, padding and caches on eleven tiny families, SmolLM2-135M and
Qwen2.5-0.5B it is at most 8e-6 in float32, 4e-3 in float16 and 2.3e-2 in bfloat16; a fault moves it by
tenths. In float64 the limit is that of the log-probabilities, which are kept in float32."""

STEPS = 6
"""Tokens that are generated, or fed one by one."""

DRAWS = Sampling(temperature=1.0, seed=5)


@dataclass(frozen=True)
class Check:
    """What should hold, whether it does, and the worst that was found."""

    what: str
    passed: bool
    difference: float
    """The largest difference found, in the unit of what was compared (residuals, logits and nats, or a
    count of tokens, cells or hooks); NaN where the check could not be carried out."""

    tolerance: float
    """What the difference was held against."""

    where: str = ""
    """Where the largest difference is, or the error."""

    above: bool = False
    """The difference must be above the tolerance, not within it: an edit that shows."""

    def __str__(self) -> str:
        side = "must be above" if self.above else "at most"
        found = f"{self.difference:.2g}, {side} {self.tolerance:.2g}"
        off = "" if math.isnan(self.difference) else f"off by {found}"
        return f"{self.what} ({', '.join(filter(None, (off, self.where)))})"


@dataclass(frozen=True, repr=False)
class Verification:
    """Everything that was checked about a model; prints as a table."""

    model: str
    dtype: torch.dtype
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def require(self) -> None:
        """Raise :class:`ModelRefusedError`, naming every check that failed, unless all passed."""
        if self.failed:
            raise ModelRefusedError(
                f"{self.title}. Not so: {'; '.join(map(str, self.failed))}. Nothing that is measured "
                "through what failed can be trusted; another dtype, or attn_implementation, may pass."
            )

    @property
    def title(self) -> str:
        n, dtype = len(self.checks), str(self.dtype).removeprefix("torch.")
        return f"{self.model} in {dtype}: {n - len(self.failed)} of {n} checks pass"

    def __repr__(self) -> str:
        width = max(len(check.what) for check in self.checks)
        lines = [
            f"{'pass' if c.passed else 'FAIL'}  {c.what:<{width}}  {c.difference:>8.2g}  "
            f"{'>' if c.above else '≤'} {c.tolerance:<8.2g}  {c.where}".rstrip()
            for c in self.checks
        ]
        return "\n".join([self.title, *lines])


@torch.no_grad()
def verify(
    lm: LanguageModel,
    *,
    prompts: Sequence[Prompt] = PROMPTS,
    on_check: Callable[[str], None] | None = None,
) -> Verification:
    """Check all that this toolkit relies on, on a model loaded with ``check=False`` or in use.

    A check in which the model raises, or is refused, fails with the error's first line. Takes some
    two hundred passes over a few rows.

    Args:
        prompts: Two or more of different lengths; rendered through the chat template where there is one.
        on_check: Called with the name of each of ``CHECKS`` as it ends, for progress.

    Raises:
        InputError: for fewer than two prompts.

    Example:
        >>> verify(load("some/model", check=False))
    """
    if isinstance(prompts, str) or len(prompts) < 2:
        raise InputError(f"Pass two prompts or more, of different lengths; got {prompts!r}.")
    reading, rows = _read(lm, prompts)
    checks = [reading]
    subject = _Subject(_Unending(lm.model, lm.tokenizer, lm.anatomy, lm.name), rows)
    for what, look in CHECKS.items():
        checks += _carried_out(what, look, subject)
        if on_check is not None:
            on_check(what)
    return Verification(lm.name, lm.dtype, tuple(checks))


def _carried_out(
    what: str, look: "Callable[[_Subject], Iterable[Check | _Miss]]", subject: "_Subject"
) -> list[Check]:
    """The checks that ``look`` makes; or, of all the misses that it yields, the worst."""
    try:
        found = list(look(subject))
    except UnlatchError as error:
        return [_failed(what, error)]
    except Exception as error:
        if not _of_the_model(error):
            raise
        return [_failed(what, error)]
    misses = [one for one in found if isinstance(one, _Miss)]
    if not misses:
        return [one for one in found if isinstance(one, Check)]
    return [max(misses, key=lambda miss: miss.badness).check(what)]


def _failed(what: str, error: Exception) -> Check:
    lines = str(error).strip().splitlines() or [""]
    return Check(what, False, math.nan, 0.0, f"{type(error).__name__}: {lines[0]}")


def _of_the_model(error: Exception) -> bool:
    """Whether it was raised while a module ran. What foreign code raises there is anyone's guess; of the
    errors that our own code raises there, only those that come from tensors of an unforeseen shape."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [i for i, frame in enumerate(frames) if isinstance(frame.f_locals.get("self"), nn.Module)]
    if not inside:
        return False
    below = {frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames[inside[-1] + 1 :]}
    return "hooks" not in below or isinstance(error, (RuntimeError, ValueError, IndexError))


@dataclass(frozen=True)
class _Miss:
    """One comparison within a check."""

    difference: float
    tolerance: float
    where: str
    above: bool = False

    @property
    def badness(self) -> float:
        """At most 1 where it passes."""
        if math.isnan(self.difference) or math.isnan(self.tolerance):
            return math.inf
        much, little = (self.tolerance, self.difference) if self.above else (self.difference, self.tolerance)
        return much / little if little else math.inf if much or self.above else 0.0

    def check(self, what: str) -> Check:
        where = self.where if self.difference or self.above else ""
        return Check(what, self.badness <= 1, self.difference, self.tolerance, where, self.above)


# --- the model, and the plainest way to run it


class _Unending(LanguageModel):
    """The same model, which never ends its turn: every row has as many tokens as were asked for."""

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        return frozenset()


@dataclass(frozen=True)
class _Policy:
    """Positions, and the columns that they mean in a row of ``given`` tokens of which ``seen`` ran."""

    positions: Positions
    kind: SiteKind
    columns: Callable[[int, int], range]


POLICIES = (
    _Policy(generated, "resid_post", lambda given, seen: range(given - 1, seen)),
    _Policy(prompt_tokens, "attn_out", lambda given, _: range(given)),
    _Policy(step(1), "mlp_out", lambda given, _: range(given, given + 1)),
    _Policy(last(2), "resid_pre", lambda given, _: range(max(0, given - 2), given)),
    _Policy(everything, "resid_post", lambda _, seen: range(seen)),
)


class _Subject:
    """A model, the rows that it is checked on, and what several checks need of it."""

    def __init__(self, lm: LanguageModel, rows: Sequence[Row]) -> None:
        self.lm, self.rows = lm, list(rows)
        self.share = SHARE.get(lm.dtype, max(SHARE.values()))
        lengths = [len(row.tokens) for row in self.rows]
        self.shortest, self.longest = lengths.index(min(lengths)), lengths.index(max(lengths))
        self.hooks: set[tuple[str, str, int]] = set()
        self.first: Float[Tensor, "pos d_vocab"] = torch.tensor([[math.nan]])
        """The logits of the longest row before anything was done; NaN until then."""

        self._known: dict[tuple[int, ...], Tensor] = {}

    @property
    def ends(self) -> list[int]:
        """The numbers of the shortest and of the longest row."""
        return [self.shortest, self.longest]

    def alone(
        self, tokens: Sequence[int], taps: Mapping[Site, Tap] | None = None
    ) -> Float[Tensor, "pos d_vocab"]:
        """The reference: logits of one row in one pass that is told no more than its tokens."""
        ids = torch.tensor([list(tokens)], device=self.lm.device)
        with tapped(self.lm.anatomy, taps or {}):
            return widened(self.lm.model(**_whole(ids), use_cache=False).logits[0])

    def along(
        self, row: Row, made: Sequence[int], taps: Mapping[Site, Tap] | None = None
    ) -> Float[Tensor, "made d_vocab"]:
        """The reference's logits of each token that was made."""
        text = (*row.tokens, *made[:-1])
        if taps:
            return self.alone(text, taps)[row.prompt_length - 1 :]
        if text not in self._known:
            self._known[text] = self.alone(text)[row.prompt_length - 1 :].clone()
        return self._known[text]

    def alike(self, found: Tensor, expected: Tensor, where: str) -> _Miss:
        """How far logits are from the reference's."""
        return _Miss(float((widened(found) - expected).abs().max()), self.limit(expected), where)

    def limit(self, expected: Tensor) -> float:
        return self.share * float(expected.abs().max())

    def follows(self, made: Completion, reference: Tensor, where: str) -> _Miss:
        """How far a greedy completion is from a reference along it: in its log-probabilities, and in the
        logits by which a token was not the best."""
        if made.finish == "nan":
            return _Miss(math.nan, 0.0, f"{where}: its logits are not numbers")
        assert made.logprobs is not None
        tokens = torch.tensor(made.tokens, device=reference.device)[:, None]
        nats = torch.tensor(made.logprobs, dtype=reference.dtype, device=reference.device)
        off = (reference.log_softmax(-1).gather(-1, tokens)[:, 0] - nats).abs()
        short = reference.amax(-1) - reference.gather(-1, tokens)[:, 0]
        worst = torch.maximum(off, short)
        return _Miss(float(worst.max()), self.limit(reference), f"{where}, step {int(worst.argmax())}")

    @cached_property
    def made(self) -> Generation:
        """Every row continued, unedited."""
        return generate_rows(self.lm, self.rows, max_new_tokens=STEPS, logprobs=True)

    # --- edits

    @cached_property
    def layer(self) -> int:
        return self.lm.n_layers // 2

    @cached_property
    def vector(self) -> Float[Tensor, " d_model"]:
        """A random direction, as long as a residual is: an edit that shows."""
        site = Site(self.layer, "resid_post")
        with capture(self.lm, [site]) as acts:
            self.alone(self.rows[self.longest].tokens)
        noise = torch.randn(self.lm.d_model, generator=torch.Generator().manual_seed(0))
        size = float(widened(acts[site])[0].norm(dim=-1).median())
        vector: Tensor = noise * size / noise.norm()
        return vector.to(self.lm.device)

    def edit(self, policy: _Policy) -> Add:
        return Add(Site(self.layer, policy.kind), self.vector, positions=policy.positions)

    def tap(self, policy: _Policy, given: int, seen: int) -> Mapping[Site, Tap]:
        """The same edit, written at columns of a row alone."""
        write = partial(_write, self.vector, policy.columns(given, seen))
        return {Site(self.layer, policy.kind): write}

    @cached_property
    def edited(self) -> list[tuple[_Policy, int, Completion, Generation, int]]:
        """For each policy and row: its completion, and the run and the place that it comes from.

        All policies run as rows of one batch, each with its own edit; the first one also runs as an
        edit of every row.
        """
        places = [(policy, number) for policy in POLICIES for number in self.ends]
        rows = [self.rows[number] for _, number in places]
        run = partial(generate_rows, self.lm, max_new_tokens=STEPS, logprobs=True)
        mixed = run(rows, edits=[[self.edit(policy)] for policy, _ in places])
        uniform = run(self.rows, edits=[self.edit(POLICIES[0])])
        return [
            *((policy, n, mixed[place], mixed, place) for place, (policy, n) in enumerate(places)),
            *((POLICIES[0], n, uniform[n], uniform, n) for n in range(len(self.rows))),
        ]


def _whole(ids: Int[Tensor, "batch pos"], end: int | None = None) -> dict[str, Tensor]:
    """Arguments of a pass over rows without padding, up to ``end``; the mask only keeps transformers from
    warning that there is none."""
    return {"input_ids": ids[:, :end], "attention_mask": torch.ones_like(ids[:, :end])}


def _write(vector: Tensor, columns: range, h: Tensor) -> Tensor:
    new = h.clone()
    cells = slice(columns.start, columns.stop)
    new[:, cells] = (widened(h[:, cells]) + vector.to(h.device)).to(h.dtype)
    return new


def _read(lm: LanguageModel, prompts: Sequence[Prompt]) -> tuple[Check, list[Row]]:
    """The rows of the prompts; where they cannot be used, rows that need no tokenizer."""
    what = "prompts = distinct rows of known tokens"
    try:
        rows = [prompt_row(lm.tokenizer, prompt) for prompt in prompts]
    except UnlatchError as error:
        check = _failed(what, error)
    else:
        unknown = sorted({t for row in rows for t in row.tokens if not 0 <= t < lm.d_vocab})
        alike = len(rows) - len(set(rows)) or int(len({len(row.tokens) for row in rows}) == 1)
        where = (
            f"token {unknown[0]} of {lm.d_vocab}"
            if unknown
            else "prompts that read alike, or are all as long"
        )
        check = _Miss(float(len(unknown) + alike), 0.0, where).check(what)
    if check.passed:
        return check, rows
    ids = [int(i) for i in torch.arange(1, 13) * 7919 % max(2, min(lm.d_vocab, len(lm.tokenizer)))]
    return check, [Row(tuple(ids[:n]), n) for n in (4, 6, 9, 12)]


# --- the checks


def _repeated(subject: _Subject) -> Iterator[_Miss]:
    """One pass after another; and what the model is like, for the last checks."""
    tokens = subject.rows[subject.longest].tokens
    ids = torch.tensor([tokens], device=subject.lm.device)
    subject.lm.model(
        **_whole(ids), use_cache=False, output_hidden_states=True
    )  # transformers now sets hooks of its own
    subject.hooks = _hooks(subject.lm)
    subject.first = subject.alone(tokens).clone()
    yield _Miss(float((subject.alone(tokens) - subject.first).abs().max()), 0.0, f"row {subject.longest}")


def _sites(subject: _Subject) -> Iterator[Check]:
    """All of the self-check, each claim with its worst layer."""
    by_claim: dict[str, list[Finding]] = {}
    for finding in self_check(subject.lm).findings:
        by_claim.setdefault(finding.claim, []).append(finding)
    for claim, findings in by_claim.items():
        misses = [
            _Miss(f.difference, f.tolerance, "" if f.layer is None else f"blocks.{f.layer}", claim == MOVES)
            for f in findings
        ]
        worst = max(range(len(misses)), key=lambda i: misses[i].badness)
        yield misses[worst].check(claim)


def _cached(subject: _Subject) -> Iterator[_Miss]:
    """The model's own cache: the last tokens of a row fed one by one."""
    for number in subject.ends:
        tokens = subject.rows[number].tokens
        expected, start = subject.alone(tokens), max(1, len(tokens) - STEPS)
        ids = torch.tensor([tokens], device=subject.lm.device)
        out = subject.lm.model(**_whole(ids, start), use_cache=True)
        for at in range(start, len(tokens)):
            inputs = _whole(ids, at + 1) | {"input_ids": ids[:, at : at + 1]}
            out = subject.lm.model(**inputs, past_key_values=out.past_key_values, use_cache=True)
            yield subject.alike(out.logits[0, -1], expected[at], f"row {number}, position {at}")


def _batched(subject: _Subject) -> Iterator[_Miss]:
    """Rows of one length together."""
    n = len(subject.rows[subject.shortest].tokens)
    texts = [row.tokens[-n:] for row in subject.rows]
    ids = torch.tensor(texts, device=subject.lm.device)
    together = subject.lm.model(**_whole(ids), use_cache=False).logits
    for number, text in enumerate(texts):
        yield subject.alike(together[number], subject.alone(text), f"row {number}")


def _padded(subject: _Subject) -> Iterator[_Miss]:
    """Each row by itself, with as much padding on its left as it has beside the longest."""
    for number, row in enumerate(subject.rows):
        pair = [row, subject.rows[subject.longest]]
        batch = pad_left(pair, [0, 1], pad_id=subject.lm.pad_id, device=subject.lm.device)
        padding = batch.input_ids.shape[1] - len(row.tokens)
        if padding:
            inputs = {name: tensor[:1] for name, tensor in batch.inputs.items()}
            logits = subject.lm.model(**inputs, use_cache=False).logits[0, padding:]
            yield subject.alike(
                logits, subject.alone(row.tokens), f"row {number} behind {padding} of padding"
            )


def _decoded(subject: _Subject) -> Iterator[_Miss]:
    """What :func:`generate` makes of all rows: in a padded batch, with the toolkit's cache."""
    for number, (row, made) in enumerate(zip(subject.rows, subject.made, strict=True)):
        yield subject.follows(made, subject.along(row, made.tokens), f"row {number}")


def _greedy(subject: _Subject) -> Iterator[_Miss]:
    """Against transformers' loop, without the penalties of the model's generation config; where tokens
    part, by how much the reference prefers one."""
    lm = subject.lm
    batch = pad_left(subject.rows, range(len(subject.rows)), pad_id=lm.pad_id, device=lm.device)
    with _plain_generation(lm):
        out: Tensor = lm.model.generate(  # type: ignore[operator]  # its mixin is not of every class
            batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=STEPS,
            do_sample=False,
        )
    for number, (row, made) in enumerate(zip(subject.rows, subject.made, strict=True)):
        theirs = out[number, batch.input_ids.shape[1] :].tolist()
        if made.finish == "nan":
            yield _Miss(math.nan, 0.0, f"row {number}: its logits are not numbers")
            continue
        reference = subject.along(row, made.tokens)
        at = next((i for i, (a, b) in enumerate(zip(made.tokens, theirs, strict=True)) if a != b), None)
        apart = (
            0.0 if at is None else float((reference[at, made.tokens[at]] - reference[at, theirs[at]]).abs())
        )
        yield _Miss(apart, subject.limit(reference), f"row {number}, step {at}")


@contextmanager
def _plain_generation(lm: LanguageModel) -> Iterator[None]:
    """``model.generate`` with no setting of the model's own, and no end."""
    own = lm.model.generation_config
    lm.model.generation_config = GenerationConfig(pad_token_id=lm.pad_id)
    try:
        yield
    finally:
        lm.model.generation_config = own


def _still(subject: _Subject) -> Iterator[_Miss]:
    """Edits of size zero while decoding: in every row at every site; and in every second row.

    A row at a time: rows that are not edited at their first tokens may share the prefill of these, which
    rounds otherwise.
    """
    lm = subject.lm
    vector = subject.vector
    sites = [Site(layer, kind) for layer in range(lm.n_layers) for kind in KINDS if kind in lm.anatomy.kinds]
    zeros = [Add(site, vector, scale=0.0, positions=everything) for site in sites]
    other: list[Edit] = [ProjectOut(Site(subject.layer, "resid_post"), vector, scale=0.0), zeros[0]]
    some = [other if number % 2 else [] for number in range(len(subject.rows))]
    runs: list[tuple[Edits, str]] = [((), "no row"), (zeros, "every row"), (some, "every second row")]
    unedited, *edited = [
        generate_rows(lm, subject.rows, edits=edits, max_new_tokens=STEPS, logprobs=True, max_rows=1)
        for edits, _ in runs
    ]
    for (_, name), made in zip(runs[1:], edited, strict=True):
        for number, (mine, plain) in enumerate(zip(made, unedited, strict=True)):
            same = mine.tokens == plain.tokens and mine.finish == plain.finish
            assert mine.logprobs is not None
            assert plain.logprobs is not None
            nats = [abs(a - b) for a, b in zip(mine.logprobs, plain.logprobs, strict=False)]
            yield _Miss(max(nats, default=0.0) if same else math.inf, 0.0, f"{name} edited, row {number}")


def _recomputed(subject: _Subject) -> Iterator[_Miss]:
    """Edited under the cache, against the reference edited at counted columns, along what was written."""
    for policy, number, made, _, _ in subject.edited:
        row = subject.rows[number]
        taps = subject.tap(policy, row.prompt_length, row.prompt_length + len(made.tokens) - 1)
        yield subject.follows(
            made, subject.along(row, made.tokens, taps), f"{policy.positions} at {policy.kind}, row {number}"
        )


def _shows(subject: _Subject) -> Iterator[_Miss]:
    """The check before this one can tell: its edits move the logits by more than it lets pass."""
    number = subject.shortest
    row, tokens = subject.rows[number], subject.made[number].tokens
    plain = subject.along(row, tokens)
    for policy in POLICIES:
        taps = subject.tap(policy, row.prompt_length, row.prompt_length + len(tokens) - 1)
        moved = float((subject.along(row, tokens, taps) - plain).abs().max())
        yield _Miss(moved, subject.limit(plain), f"{policy.positions} at {policy.kind}", above=True)


def _receipts(subject: _Subject) -> Iterator[_Miss]:
    """Cells that are missing from a receipt, are there too many, or are there twice."""
    for policy, number, made, run, place in subject.edited:
        receipt = run.receipt.of_rows(range(place, place + 1))
        given = subject.rows[number].prompt_length
        site = Site(subject.layer, policy.kind)
        wanted = [(site, p) for p in policy.columns(given, given + len(made.tokens) - 1)]
        cells = [(receipt.sites[s], p) for s, p in zip(receipt.site, receipt.position.tolist(), strict=True)]
        wrong = len(set(wanted) ^ set(cells)) + len(cells) - len(set(cells))
        where = f"{policy.positions}, row {number}"
        try:
            receipt.check(policy.positions)
        except ReceiptError as error:
            wrong, where = max(1, wrong), f"{where}: {error}"
        yield _Miss(float(wrong), 0.0, where)


def _drawn_twice(subject: _Subject) -> Iterator[_Miss]:
    """Tokens that differ between two runs with one seed."""
    runs = [generate_rows(subject.lm, subject.rows, max_new_tokens=STEPS, sampling=DRAWS) for _ in range(2)]
    for number, (one, other) in enumerate(zip(*runs, strict=True)):
        n = sum(a != b for a, b in zip(one.tokens, other.tokens, strict=False))
        yield _Miss(float(n + abs(len(one.tokens) - len(other.tokens))), 0.0, f"row {number}")


def _drawn_alone(subject: _Subject) -> Iterator[_Miss]:
    """Sampled together and alone: each token is the one that the row's own random number picks from the
    reference's distribution; where it is not, by how many logits it is off."""
    run = partial(generate_rows, subject.lm, max_new_tokens=STEPS, sampling=DRAWS)
    together = run(subject.rows)
    alone = [(n, run([subject.rows[n]], streams=[n])[0], "alone") for n in subject.ends]
    for number, made, company in [*((n, made, "together") for n, made in enumerate(together)), *alone]:
        where = f"row {number} {company}"
        if made.finish == "nan":
            yield _Miss(math.nan, 0.0, f"{where}: its logits are not numbers")
            continue
        reference = subject.along(subject.rows[number], made.tokens)
        yield _Miss(_off_draw(reference, made.tokens, number, subject), subject.limit(reference), where)


def _off_draw(reference: Tensor, tokens: Sequence[int], stream: int, subject: _Subject) -> float:
    """The largest distance of a token's logit from those that its random number can pick.

    A logit off by x moves a cumulative probability by x/2 at most, so numbers that close pick as well; but
    no further than a quarter, for the check to say something.
    """
    slack = min(subject.limit(reference) / 2, 0.25)
    reference = reference.double().cpu()
    ordered = reference.sort(-1, descending=True).values
    cumulative = ordered.softmax(-1).cumsum(-1)
    uniform = DRAWS.uniforms(stream, STEPS)[: len(tokens), None]
    best, worst = (
        ordered.gather(-1, torch.searchsorted(cumulative, u).clamp(max=ordered.shape[-1] - 1))[:, 0]
        for u in ((uniform - slack).clamp(min=0), (uniform + slack).clamp(max=1))
    )
    chosen = reference.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
    return float(torch.maximum(chosen - best, worst - chosen).clamp(min=0).max())


def _hooks_left(subject: _Subject) -> Iterator[_Miss]:
    """Hooks that have come or gone since the first check."""
    changed = sorted(subject.hooks ^ _hooks(subject.lm))
    yield _Miss(float(len(changed)), 0.0, ", ".join(dict.fromkeys(module for module, _, _ in changed)))


def _unchanged(subject: _Subject) -> Iterator[_Miss]:
    """The logits of the first check, once more."""
    after = subject.alone(subject.rows[subject.longest].tokens)
    yield _Miss(float((after - subject.first).abs().max()), 0.0, f"row {subject.longest}")


def _hooks(lm: LanguageModel) -> set[tuple[str, str, int]]:
    """Every hook on the model: its module's path, its kind and its number."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return {
        (path, kind, number)
        for path, module in lm.model.named_modules()
        for kind in kinds
        for number in getattr(module, kind)
    }


CHECKS: Mapping[str, Callable[[_Subject], Iterable[Check | _Miss]]] = {
    "one pass = the same again": _repeated,
    "the self-check": _sites,
    "cached = not cached": _cached,
    "batched = alone": _batched,
    "padded on the left = not padded": _padded,
    "generate = one pass over its text": _decoded,
    "generate = model.generate, greedily": _greedy,
    "generate with zero edits = without": _still,
    "edited with a cache = in one pass": _recomputed,
    "these edits show": _shows,
    "receipts = the cells asked for": _receipts,
    "sampled twice = the same tokens": _drawn_twice,
    "sampled in a batch = alone": _drawn_alone,
    "hooks afterwards = before": _hooks_left,
    "logits afterwards = before": _unchanged,
}
"""What is checked, in this order."""
