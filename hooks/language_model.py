"""A model, its tokenizer, and what the toolkit knows of both."""

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooks.anatomy import Anatomy
from hooks.chat import stop_ids
from hooks.fingerprint import model_fingerprint, template_hash, tokenizer_hash
from hooks.placement import device_of, entrance
from hooks.sites import Site


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A Hugging Face causal language model that passed the self-check, with its tokenizer.

    ``model`` is the very object that transformers made: not wrapped, not cast, not switched to
    another attention. Make one with :func:`hooks.load` or :func:`hooks.adopt`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    name: str
    """The hub id, path or short name that it was loaded by."""

    @property
    def n_layers(self) -> int:
        return len(self.anatomy.blocks)

    @property
    def d_model(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def d_vocab(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    @cached_property
    def device(self) -> torch.device:
        """Where inputs go and logits come back to; the layers of a spread model are elsewhere too."""
        return entrance(self.model)

    @cached_property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that computes, the one of the inputs first."""
        return tuple(dict.fromkeys([self.device, *(device_of(b.module) for b in self.anatomy.blocks)]))

    def device_at(self, site: Site) -> torch.device:
        """Where the block of a site computes."""
        return device_of(self.anatomy.blocks[self.anatomy.resolve(site).layer].module)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @cached_property
    def pad_id(self) -> int:
        """The id that fills a batch on the left; nothing attends to it."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a response."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        return frozenset(stop_ids(self.tokenizer, configured))

    @cached_property
    def fingerprint(self) -> str:
        return model_fingerprint(self.model)

    @cached_property
    def tokenizer_hash(self) -> str:
        return tokenizer_hash(self.tokenizer)

    @cached_property
    def template_hash(self) -> str | None:
        return template_hash(self.tokenizer)

    def token_bytes(self, *, captured: int = 0, cached: bool = False) -> int:
        """Bytes that one token of one row takes: working tensors, captures, and its KV cache.

        An estimate from the config: a block's widest working tensors, counted with room to spare.
        """
        config = self.model.config.get_text_config()
        d_mlp = int(getattr(config, "intermediate_size", None) or 4 * self.d_model)
        numbers = 6 * self.d_model + 3 * d_mlp + captured * self.d_model
        return numbers * self.dtype.itemsize + (self.cache_bytes(self.n_layers) if cached else 0)

    def cache_bytes(self, n_layers: int) -> int:
        """Bytes that one token of one row takes in the KV cache of the first ``n_layers`` layers."""
        config = self.model.config.get_text_config()
        heads = int(config.num_attention_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        d_head = int(getattr(config, "head_dim", None) or self.d_model // heads)
        # a step copies the cache of one layer to grow it, and repeats it for grouped heads
        numbers = 2 * (n_layers + 2) * kv_heads * d_head + 2 * heads * d_head
        return numbers * self.dtype.itemsize

    def attention_bytes(self, keys: int) -> int:
        """Bytes that one token takes as it attends to ``keys`` others: its mask, and scores that are kept."""
        config = self.model.config.get_text_config()
        eager = config._attn_implementation == "eager"
        scores = int(config.num_attention_heads) * (2 * self.dtype.itemsize + 4) if eager else 0
        return keys * (1 + self.dtype.itemsize + scores)
