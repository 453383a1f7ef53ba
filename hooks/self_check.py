"""What a model must satisfy before anything is measured on it.

1. Sites add up: ``resid_pre + attn_out + mlp_out = resid_post`` in every block, and the output of
   one block is the input of the next.
2. Captured ``resid_post`` equals the model's own ``hidden_states``. The last of those is taken
   after the final norm in most families, so it is left out.
3. An edit of size zero, at every site, changes no bit of the logits.
4. An edit of size one at the middle of the model changes them: it is not a silent no-op.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hooks.capture import Activations, capture
from hooks.edits import Add, widened
from hooks.errors import ModelRefusedError
from hooks.inject import inject
from hooks.language_model import LanguageModel
from hooks.positions import everything
from hooks.rows import Row, pad_left
from hooks.sites import Site, SiteKind

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 4e-2, torch.float16: 5e-3}
"""Largest difference allowed, as a share of the largest entry of the residual stream."""


def rounding(dtype: torch.dtype) -> float:
    """The :data:`TOLERANCE` of a dtype; of one that is not there, bfloat16's."""
    return TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16])


ADDS_UP = "resid_pre + attn_out + mlp_out = resid_post"
HANDS_ON = "a block's output = the next one's input"
THEIRS = "resid_post = the model's hidden_states"
STILL = "a zero edit at every site = no edit"
MOVES = "an edit of size one shows"


@dataclass(frozen=True)
class Finding:
    """One check: what it is, whether it holds, and by how much it misses."""

    what: str
    passed: bool
    difference: float
    tolerance: float = 0.0
    """What the difference is held against, in the same unit."""

    claim: str = ""
    """What should hold, in the same words for every layer."""

    layer: int | None = None


@dataclass(frozen=True)
class SelfCheck:
    """Everything that was checked about a model."""

    model: str
    findings: tuple[Finding, ...]

    def require(self) -> None:
        """Raise :class:`ModelRefusedError` unless every check passed."""
        failed = [f for f in self.findings if not f.passed]
        if failed:
            worst = "; ".join(f"{f.what} (off by {f.difference:.2g})" for f in failed[:3])
            raise ModelRefusedError(
                f"{self.model} is refused: {worst}. Its sites would not mean what their names say, "
                "so no number measured at them could be trusted."
            )


@torch.no_grad()
def self_check(lm: LanguageModel) -> SelfCheck:
    """Check a model on two short rows of different length."""
    d_vocab = min(lm.d_vocab, len(lm.tokenizer))
    ids = [int(i) for i in torch.arange(1, 9) * 7919 % max(2, d_vocab)]
    rows = [Row(tuple(ids), 8), Row(tuple(ids[:5]), 5)]
    batch = pad_left(rows, [0, 1], pad_id=lm.pad_id, device=lm.device)
    kinds: list[SiteKind] = ["resid_pre", "attn_out", "mlp_out", "resid_post"]
    sites = [Site(layer, kind) for layer in range(lm.n_layers) for kind in kinds]
    with capture(lm, sites) as acts:
        out = lm.model(**batch.inputs, output_hidden_states=True, use_cache=False)
    real = batch.attention_mask.bool()
    findings = list(_sums(lm, acts, out.hidden_states, real))
    vector = torch.ones(lm.d_model, device=lm.device)
    still = [Add(site, vector, scale=0.0, positions=everything) for site in sites]
    with inject(lm, still):
        same = lm.model(**batch.inputs, use_cache=False).logits
    what = "an edit of size zero changes the logits"
    findings.append(_finding(what, same, out.logits, 0.0, claim=STILL))
    slope = torch.linspace(
        -1, 1, lm.d_model, device=lm.device
    )  # of mean zero, yet no layer norm takes it out
    with inject(lm, [Add(Site(lm.n_layers // 2, "resid_post"), slope, positions=everything)]):
        moved = lm.model(**batch.inputs, use_cache=False).logits
    differs = float((moved - out.logits)[real].abs().max())
    what = "an edit in the middle changes nothing"
    findings.append(Finding(what, differs > 0, differs, claim=MOVES))
    return SelfCheck(lm.name, tuple(findings))


def _sums(
    lm: LanguageModel, acts: Activations, hidden: tuple[Tensor, ...], real: Tensor
) -> Iterator[Finding]:
    tolerance = rounding(lm.dtype)
    for layer in range(lm.n_layers):
        pre, attn, mlp, post = (
            widened(acts[Site(layer, kind)].to(lm.device))[real]
            for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        what = f"blocks.{layer}: resid_pre + attn_out + mlp_out is not resid_post"
        yield _finding(what, pre + attn + mlp, post, tolerance, claim=ADDS_UP, layer=layer)
        if layer + 1 < lm.n_layers:
            after = widened(acts[Site(layer + 1, "resid_pre")].to(lm.device))[real]
            what = f"blocks.{layer}: its output is not the next block's input"
            yield _finding(what, after, post, 0.0, claim=HANDS_ON, layer=layer)
            theirs = widened(hidden[layer + 1].to(lm.device))[real]
            what = f"blocks.{layer}: resid_post is not hidden_states[{layer + 1}]"
            yield _finding(what, theirs, post, 0.0, claim=THEIRS, layer=layer)


def _finding(
    what: str, found: Tensor, expected: Tensor, tolerance: float, *, claim: str, layer: int | None = None
) -> Finding:
    difference = float((found - expected).abs().max())
    limit = tolerance * float(expected.abs().max())
    return Finding(what, bool(difference <= limit), difference, limit, claim, layer)
