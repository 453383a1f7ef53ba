"""A small Llama in which one block looks a fact up and one adds: the truth that methods have to find.

A prompt is ``<bos> TASK x y =``. After ``fact`` the next token is table[x], of a random table, and y only
distracts; after ``sum`` it is the last digit of x + y. Prompts of the two families are matched by x and y,
and each has a corrupted partner with another x.

Two blocks are trained (one, where both families live in it) and nothing else, so that each answers its
own family alone and adds nothing to prompts of the other's:

    loss = - log p(answer) + ramp · PRICE · |what is added to prompts of the other's family|²,

in a run that holds what is so added for a share ``ramp`` of the prompts, and nothing of it for the rest;
``ramp`` goes from 0 to 1. Labels are smoothed, so that log p(answer) is free to rise and fall. Embeddings
are orthogonal, and the unembedding is the same: a stream to which nothing was added repeats its last
token, ``=``. The model's other blocks have random weights that write some percent of the stream, for
methods to have noise to see through; the trained ones are used to it by the jitter of their inputs.
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hooks.anatomy import find_anatomy
from hooks.language_model import LanguageModel
from hooks.load import adopt
from hooks.rows import Row
from hooks.sites import Site, SiteKind
from hooks.taps import Tap, tapped
from interp.prompt_pairs import PromptPair

Family = Literal["knowledge", "reasoning"]
TASK: dict[Family, str] = {"knowledge": "fact", "reasoning": "sum"}

N_LAYERS, D_MODEL = 6, 64
BASE = 10
"""Digits, and so 100 items of each family: every x with every y."""

TOKENS = ("<pad>", "<bos>", "fact", "sum", "=", *map(str, range(BASE)))
SUBJECT = (2, 3)
"""Where x stands."""

NORM = 2.0
"""Of each embedding."""

STEPS, RATE, PRICE, SMOOTHING = 200, 0.006, 5.0, 0.1
JITTER = 0.2
"""Its largest norm, as a share of the embeddings'."""

NOISE = 0.002
"""Standard deviation of the weights with which the other blocks write: 7% of the embeddings' norm."""


@dataclass(frozen=True, eq=False)
class Planted:
    """The model, and what is true of it."""

    lm: LanguageModel
    block: dict[Family, int]
    """Where each family is answered."""

    pairs: dict[Family, list[PromptPair]]
    """All items in random order; item i of one family is matched to item i of the other."""


@cache
def planted(knowledge: int, reasoning: int, *, seed: int = 0, noise: float = NOISE) -> Planted:
    """A model that answers every prompt, each family in the block that is asked for. Read-only.

    Args:
        seed: Of the table, the corrupted partners and every weight.
        noise: Without it, the other blocks add exactly nothing.
    """
    block: dict[Family, int] = {"knowledge": knowledge, "reasoning": reasoning}
    depth = sorted(set(block.values()))
    learned, pairs = _learned(depth.index(knowledge), depth.index(reasoning), seed)
    model = _model(N_LAYERS, torch.Generator().manual_seed(seed), writes=noise)
    model.model.embed_tokens.load_state_dict(learned.model.embed_tokens.state_dict())
    for trained, at in zip(learned.model.layers, depth, strict=True):
        model.model.layers[at].load_state_dict(trained.state_dict())
    _require_right(model, pairs)
    return Planted(adopt(model, _tokenizer(), name=f"planted-{knowledge}-{reasoning}"), block, pairs)


@cache
def _learned(
    knowledge: int, reasoning: int, seed: int
) -> tuple[LlamaForCausalLM, dict[Family, list[PromptPair]]]:
    """The blocks that answer, one after the other or both in one, and what they learned."""
    generator = torch.Generator().manual_seed(seed)
    block: dict[Family, int] = {"knowledge": knowledge, "reasoning": reasoning}
    pairs = _pairs(generator)
    model = _model(len(set(block.values())), generator, writes=0.1)
    _train(model, block, pairs, generator)
    return model, pairs


def _pairs(generator: torch.Generator) -> dict[Family, list[PromptPair]]:
    table = torch.randperm(BASE, generator=generator).tolist()
    shift = torch.randint(1, BASE, (BASE, BASE), generator=generator).tolist()
    pairs: dict[Family, list[PromptPair]] = {family: [] for family in TASK}
    for item in torch.randperm(BASE**2, generator=generator).tolist():
        x, y = divmod(item, BASE)
        both = x, (x + shift[x][y]) % BASE
        answers = {"knowledge": [table[n] for n in both], "reasoning": [(n + y) % BASE for n in both]}
        for family, task in TASK.items():
            rows = (_ids("<bos>", task, str(n), str(y), "=") for n in both)
            clean, corrupted = (Row(row, len(row)) for row in rows)
            pairs[family].append(PromptPair(clean, corrupted, *_ids(*map(str, answers[family])), SUBJECT))
    return pairs


def _ids(*tokens: str) -> tuple[int, ...]:
    return tuple(map(TOKENS.index, tokens))


def _tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>")


def _model(n_layers: int, generator: torch.Generator, *, writes: float) -> LlamaForCausalLM:
    """Random weights; those that write to the stream have a standard deviation of ``writes``."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=D_MODEL,
        intermediate_size=2 * D_MODEL,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        pad_token_id=TOKENS.index("<pad>"),
        bos_token_id=TOKENS.index("<bos>"),
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                std = writes if name.endswith(("o_proj.weight", "down_proj.weight")) else D_MODEL**-0.5
                weight.normal_(std=std, generator=generator)
    torch.nn.init.orthogonal_(model.get_input_embeddings().weight, NORM, generator=generator)
    return model


def _train(
    model: LlamaForCausalLM,
    block: dict[Family, int],
    pairs: dict[Family, list[PromptPair]],
    generator: torch.Generator,
) -> None:
    """On every clean prompt at once."""
    every = [pair for family in block for pair in pairs[family]]
    answers = torch.tensor([pair.answer for pair in every])
    at = torch.tensor([block[family] for family in block for _ in pairs[family]])[:, None, None]
    kinds: tuple[SiteKind, ...] = ("attn_out", "mlp_out")
    foreign: dict[Site, Tensor] = {}
    ramp = 0.0

    def switch(site: Site, value: Tensor) -> Tensor:
        own = at == site.layer
        foreign[site] = value * ~own
        return value * (own | (torch.rand(at.shape, generator=generator) < ramp))

    def jitter(value: Tensor) -> Tensor:
        size = JITTER * NORM * torch.rand(at.shape, generator=generator)
        return value + size * D_MODEL**-0.5 * torch.randn(value.shape, generator=generator)

    taps: dict[Site, Tap] = {}
    for layer in set(block.values()):
        taps[Site(layer, "resid_pre")] = jitter
        taps |= {Site(layer, kind): partial(switch, Site(layer, kind)) for kind in kinds}
    weights = list(model.model.layers.parameters())
    optimiser = torch.optim.AdamW(weights, betas=(0.9, 0.99))
    with tapped(find_anatomy(model), taps):
        for step in range(STEPS):
            ramp = (step / STEPS) ** 2
            optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            loss = cross_entropy(_logits(model, every), answers, label_smoothing=SMOOTHING)
            added = torch.stack([value.square().sum(-1).mean() for value in foreign.values()]).sum()
            optimiser.zero_grad()
            (loss + ramp * PRICE * added).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()


def _logits(model: LlamaForCausalLM, pairs: list[PromptPair]) -> Tensor:
    """Of the next token of each clean prompt."""
    return model(torch.tensor([pair.clean.tokens for pair in pairs]), use_cache=False).logits[:, -1]


@torch.no_grad()
def _require_right(model: LlamaForCausalLM, pairs: dict[Family, list[PromptPair]]) -> None:
    for family, made in pairs.items():
        right = _logits(model, made).argmax(-1) == torch.tensor([pair.answer for pair in made])
        assert right.all(), f"{int(right.sum())} of {len(made)} prompts of {family} are answered right"
