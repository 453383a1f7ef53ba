"""Other libraries: which are installed, and the same model in their form.

``make bench`` installs them, most without their dependencies; one that cannot be installed or cannot
take a model leaves the reason in the table.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from hooks import LanguageModel


class Absent(Exception):
    """A library that cannot take part; the text says why."""


@contextmanager
def unless_absent(name: str, absent: dict[str, str]) -> Iterator[None]:
    """Note in ``absent`` why the library called ``name`` takes no part, if the block finds that out."""
    try:
        yield
    except Absent as reason:
        absent[name] = str(reason)


def require(package: str) -> str:
    """The package and its version, as a table names it.

    Raises:
        Absent: if it is not installed here, or cannot be imported beside what is.
    """
    try:
        found = f"{package} {version(package)}"
    except PackageNotFoundError:
        raise Absent("not installed; `make bench` installs it where the package index has it") from None
    try:
        import_module(package.replace("-", "_"))
    except ImportError as error:
        raise Absent(f"{found} does not import here: {error}") from error
    return found


def hooked_transformer(lm: LanguageModel) -> Any:
    """TransformerLens's own model with a copy of these weights, none of them folded or centred.

    Raises:
        Absent: if it is not installed, or for a family other than Llama and Qwen 2.
    """
    require("transformer-lens")
    import transformer_lens
    from transformer_lens.pretrained import weight_conversions

    config = lm.model.config
    if config.model_type not in ("llama", "qwen2"):
        raise Absent(f"its model is made here for llama and qwen2, and {lm.name} is {config.model_type}")
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cfg = transformer_lens.HookedTransformerConfig(
        d_model=config.hidden_size,
        d_head=d_head,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_mlp=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        d_vocab=config.vocab_size,
        n_ctx=min(config.max_position_embeddings, 4096),
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=config.rms_norm_eps,
        positional_embedding_type="rotary",
        rotary_dim=d_head,
        rotary_base=int(config.rope_parameters["rope_theta"]),
        dtype=lm.dtype,
        device=str(lm.device),
        init_weights=False,
    )
    theirs = transformer_lens.HookedTransformer(cfg)
    convert = getattr(weight_conversions, f"convert_{config.model_type}_weights")
    with torch.no_grad():
        weights = {name: value.clone() for name, value in convert(lm.model, cfg).items()}
    theirs.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return theirs.eval()


def traced(lm: LanguageModel) -> tuple[Any, list[Any]]:
    """nnsight's model around a copy of this one, whose modules' ``forward`` it replaces; and its blocks.

    Raises:
        Absent: if it is not installed.
    """
    require("nnsight")
    from nnsight import TransformersModel

    model = TransformersModel(copy.deepcopy(lm.model), tokenizer=lm.tokenizer, task="text-generation")
    names = {module: name for name, module in lm.model.named_modules()}
    paths = [names[block.module].split(".") for block in lm.anatomy.blocks]
    return model, [reduce(_step, path, model) for path in paths]


def _step(envoy: Any, name: str) -> Any:
    return envoy[int(name)] if name.isdigit() else getattr(envoy, name)
