"""Which attention heads carry the answer: their clean values in the corrupted run, through TransformerLens.

For a metric m (the logit of the answer less that of the corrupted one) and the z of a set S of heads,
what their attention gathered before the output projection, at chosen positions,

    recovery(S) = ( m(corrupted run with z_S of the clean run) - m(corrupted) ) / ( m(clean) - m(corrupted) ):

1 where the heads alone bring the clean answer back, 0 where they bring nothing. All heads of a layer
together are its ``attn_out``. Pairs in which clean and corrupted hardly differ have no recovery, and are
named and left out.

TransformerLens rewires the model that it is given. So it is given a copy of the modules whose every
weight is the very tensor of your model, which stays as it is. TransformerLens splits a fused
query-key-value matrix (GPT-NeoX) into copies of its own; all else is shared.

Source: Meng et al. 2022, arXiv:2202.05262, for the patching; Wang et al. 2022, "Interpretability in the
Wild", arXiv:2211.00593, for heads; Zhang and Nanda 2023, arXiv:2309.16042, for the metric.
Differs from the sources: nothing. Without TransformerLens, whole layers can be patched: ``hooks.Patch``.
"""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from hooks.edits import widened
from hooks.errors import InputError, ModelRefusedError
from hooks.inject import open_injections
from hooks.language_model import LanguageModel
from hooks.rows import MAX_ROWS, free_bytes
from hooks.self_check import rounding
from interp.prompt_pairs import PromptPair, Where, logit_difference
from interp.stats import Interval, mean_interval

Head = tuple[int, int]
"""Layer and head, from 0."""


@dataclass(frozen=True, eq=False)
class HeadPatching:
    """What sets of heads bring back of the clean answer."""

    recovery: Float[np.ndarray, "pair set"]
    sets: tuple[tuple[Head, ...], ...]
    pairs: tuple[int, ...]
    """The numbers of the pairs that the rows of ``recovery`` are."""

    left_out: tuple[int, ...]
    """The numbers of those whose clean and corrupted logit differences are too near each other."""

    clean: Float[np.ndarray, " pair"]
    """Logit difference of the clean run, in nats."""

    corrupted: Float[np.ndarray, " pair"]
    """Logit difference of the corrupted run, in nats."""

    def interval(self, *heads: Head) -> Interval:
        """Mean recovery of one of the sets over pairs, with a bootstrap over them.

        Raises:
            InputError: if these heads were not patched together.
        """
        for place, one in enumerate(self.sets):
            if set(one) == set(heads):
                return mean_interval(self.recovery[:, place])
        raise InputError(f"The heads {list(heads)} were not patched as a set; pass sets=[...] with them.")

    @property
    def by_head(self) -> dict[Head, float]:
        """Mean recovery of each head that was patched alone."""
        means = self.recovery.mean(0)
        return {heads[0]: float(m) for heads, m in zip(self.sets, means, strict=True) if len(heads) == 1}


@torch.no_grad()
def patch_heads(
    lm: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    where: Where = "last",
    sets: Sequence[Collection[Head]] | None = None,
    smallest: float = 0.1,
    max_rows: int = MAX_ROWS,
) -> HeadPatching:
    """Recovery of the logit difference by each set of heads, on each pair.

    Args:
        where: The positions at which the heads' values are replaced.
        sets: Heads to patch together; every head of the model alone, unless given.
        smallest: A pair needs this many nats between its clean and corrupted logit differences.
        max_rows: Rows of one pass.

    Raises:
        InputError: if TransformerLens is missing or does not know the architecture, the model is spread
            over devices, an injection is open, a head is not in the model, or no pair is left.
        ModelRefusedError: if TransformerLens does not compute what the model computes.
    """
    if not pairs:
        raise InputError("There are no pairs to patch; pass at least one.")
    chosen = _sets(lm, sets)
    lens = bridge(lm)
    shape = len(pairs), len(chosen)
    clean, corrupted, patched = np.zeros(len(pairs)), np.zeros(len(pairs)), np.zeros(shape)
    for at, (numbers, capacity) in enumerate(_batches(lm, pairs, max_rows)):
        here = [pairs[n] for n in numbers]
        stored: dict[int, Tensor] = {}
        keep = {
            layer: partial(_store, stored, layer) for layer in sorted({lay for s in chosen for lay, _ in s})
        }
        logits = _run(lens, _tokens(lm, [p.clean.tokens for p in here]), keep)
        if at == 0:
            _check_agreement(lm, here, logits)
        clean[numbers] = logit_difference(logits, here).cpu().numpy()
        tokens = _tokens(lm, [p.corrupted.tokens for p in here])
        corrupted[numbers] = logit_difference(_run(lens, tokens, {}), here).cpu().numpy()
        columns = _columns(here, where).to(lm.device)
        cells = [(pair, s) for s in range(len(chosen)) for pair in range(len(here))]
        for start in range(0, len(cells), capacity):
            some = cells[start : start + capacity]
            row = torch.tensor([pair for pair, _ in some], device=lm.device)
            write = {
                layer: partial(_replace, stored[layer][row], heads, columns[row])
                for layer, heads in _masks(lm, [chosen[s] for _, s in some]).items()
            }
            found = logit_difference(_run(lens, tokens[row], write), [here[pair] for pair, _ in some])
            for (pair, s), value in zip(some, found.tolist(), strict=True):
                patched[numbers[pair], s] = value
    gap = clean - corrupted
    kept = np.flatnonzero(np.abs(gap) >= smallest)
    if not len(kept):
        raise InputError(
            f"In none of the {len(pairs)} pairs do the clean and the corrupted logit difference lie "
            f"{smallest:g} nats apart (at most {np.abs(gap).max():.3g}). Choose pairs that the model tells "
            "apart."
        )
    return HeadPatching(
        recovery=((patched - corrupted[:, None])[kept] / gap[kept, None]),
        sets=chosen,
        pairs=tuple(kept.tolist()),
        left_out=tuple(np.flatnonzero(np.abs(gap) < smallest).tolist()),
        clean=clean[kept],
        corrupted=corrupted[kept],
    )


def bridge(lm: LanguageModel) -> Any:
    """TransformerLens's ``TransformerBridge`` on a copy of the model that shares its weights.

    It has no tokenizer: pass it token ids. Writing to its weights would write to yours.

    Raises:
        InputError: as :func:`patch_heads`.
    """
    try:
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
        from transformer_lens.model_bridge.sources import build_bridge_from_module
    except ImportError:
        raise InputError(
            "Single heads are reached through TransformerLens, which is not installed: "
            "pip install 'unlatch[heads]'. Whole layers need nothing more: hooks.Patch at attn_out."
        ) from None
    name = type(lm.model).__name__
    if name not in SUPPORTED_ARCHITECTURES:
        raise InputError(
            f"TransformerLens does not know {name}, so its heads cannot be reached through it. Whole layers "
            "can be patched: hooks.Patch at attn_out."
        )
    if len(lm.devices) > 1 or any(weight.is_meta for weight in lm.model.parameters()):
        raise InputError(
            f"{lm.name} is spread over devices or waits on disk; heads are patched in a model that is on one "
            "device. Load it with device=..."
        )
    if open_injections(lm):
        raise InputError(
            "An injection is open, and would not reach the copy that heads are patched in. Close it."
        )
    twin = shared_copy(lm.model)
    return build_bridge_from_module(
        twin, name, hf_config=copy.deepcopy(twin.config), model_name=lm.name, device=lm.device
    )


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """New modules and a new config around the very same parameters and buffers."""
    same = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, same)


# One pass


def _run(lens: Any, tokens: Int[Tensor, "row pos"], at: dict[int, Any]) -> Float[Tensor, "row d_vocab"]:
    """Next-token logits, with a function called on the z of some layers."""
    hooks = [(f"blocks.{layer}.attn.hook_z", function) for layer, function in at.items()]
    logits = lens.run_with_hooks(tokens, fwd_hooks=hooks, logits_to_keep=1, use_cache=False)
    return torch.as_tensor(logits[:, -1])


def _store(stored: dict[int, Tensor], layer: int, z: Tensor, hook: object) -> None:  # noqa: ARG001
    stored[layer] = z.detach().clone()


def _replace(
    values: Float[Tensor, "row pos head d_head"],
    heads: Bool[Tensor, "row head"],
    columns: Bool[Tensor, "row pos"],
    z: Float[Tensor, "row pos head d_head"],
    hook: object,  # noqa: ARG001
) -> Float[Tensor, "row pos head d_head"]:
    return torch.where((columns[:, :, None] & heads[:, None])[..., None], values, z)


def _tokens(lm: LanguageModel, rows: Sequence[tuple[int, ...]]) -> Int[Tensor, "row pos"]:
    return torch.tensor(rows, device=lm.device)


def _columns(pairs: Sequence[PromptPair], where: Where) -> Bool[Tensor, "pair pos"]:
    columns = torch.zeros(len(pairs), len(pairs[0]), dtype=torch.bool)
    for row, pair in enumerate(pairs):
        columns[row, slice(*pair.span(where))] = True
    return columns


def _masks(lm: LanguageModel, sets: Sequence[Collection[Head]]) -> dict[int, Bool[Tensor, "row head"]]:
    """For each layer that is patched in some row: the heads of each row."""
    masks: dict[int, Tensor] = defaultdict(lambda: torch.zeros(len(sets), _n_heads(lm), dtype=torch.bool))
    for row, heads in enumerate(sets):
        for layer, head in heads:
            masks[layer][row, head] = True
    return {layer: mask.to(lm.device) for layer, mask in masks.items()}


# What is asked for


def _n_heads(lm: LanguageModel) -> int:
    return int(lm.model.config.get_text_config().num_attention_heads)


def _sets(lm: LanguageModel, sets: Sequence[Collection[Head]] | None) -> tuple[tuple[Head, ...], ...]:
    if sets is None:
        return tuple(((layer, head),) for layer in range(lm.n_layers) for head in range(_n_heads(lm)))
    if not sets or not all(sets):
        raise InputError("A set of heads is empty; leave sets out to patch every head alone.")
    for layer, head in (one for heads in sets for one in heads):
        if not (0 <= layer < lm.n_layers and 0 <= head < _n_heads(lm)):
            raise InputError(
                f"No head {head} in layer {layer}: {lm.name} has layers 0..{lm.n_layers - 1} with heads "
                f"0..{_n_heads(lm) - 1}."
            )
    return tuple(tuple(sorted(set(heads))) for heads in sets)


def _batches(
    lm: LanguageModel, pairs: Sequence[PromptPair], max_rows: int
) -> Iterator[tuple[list[int], int]]:
    """Numbers of pairs of one length, and how many rows memory holds with the z of every layer."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        by_length[len(pair)].append(number)
    for length, numbers in by_length.items():
        row_bytes = length * lm.token_bytes(captured=lm.n_layers)
        rows = max(1, min(max_rows, free_bytes(lm.device) // row_bytes))
        yield from ((numbers[i : i + rows], rows) for i in range(0, len(numbers), rows))


def _check_agreement(
    lm: LanguageModel, pairs: Sequence[PromptPair], logits: Float[Tensor, "pair d_vocab"]
) -> None:
    ours = lm.model(_tokens(lm, [p.clean.tokens for p in pairs]), use_cache=False).logits[:, -1]
    difference, size = float((widened(ours) - widened(logits)).abs().max()), float(ours.abs().max())
    if not difference <= rounding(lm.dtype) * size:
        raise ModelRefusedError(
            f"TransformerLens gives logits of {lm.name} that are {difference:.2g} off, of {size:.2g}: what "
            "it says of this model's heads could not be trusted."
        )
