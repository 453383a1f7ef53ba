"""A second opinion: TransformerLens, which computes the same models by its own arithmetic, agrees.

``HookedTransformer`` shares no line with the models of transformers, so a site that we named wrongly,
or a sandwich norm on the wrong side of it, would show. (Its successor wraps transformers' modules, and
would agree with whatever they do.)
"""

import pytest
import torch

from hooks import Add, capture, inject
from hooks.positions import everything
from hooks.rows import pad_left
from hooks.sites import Site

CONVERTERS = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gpt2": "gpt2",
    "neox": "neox",
    "neox-sequential": "neox",
}  # its converters for Phi and OLMo 2 know no grouped heads


def describe(family, config):
    """The model's config in TransformerLens's words."""
    text = {
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "n_heads": config.num_attention_heads,
        "d_mlp": getattr(config, "intermediate_size", None) or config.n_inner,
        "n_layers": config.num_hidden_layers,
        "d_vocab": config.vocab_size,
        "n_ctx": config.max_position_embeddings,
        "init_weights": False,
        "device": "cpu",
    }
    if family == "gpt2":
        return {**text, "act_fn": "gelu_new", "normalization_type": "LN", "eps": 1e-5}
    text |= {"positional_embedding_type": "rotary", "rotary_dim": text["d_head"]}
    if family.startswith("neox"):
        text |= {"act_fn": "gelu", "normalization_type": "LN", "eps": 1e-5, "rotary_dim": text["d_head"] // 4}
        return {**text, "parallel_attn_mlp": config.use_parallel_residual}
    text |= {"normalization_type": "RMS", "final_rms": True, "eps": config.rms_norm_eps, "gated_mlp": True}
    text |= {"act_fn": "silu", "n_key_value_heads": config.num_key_value_heads}
    if family == "qwen3":
        text |= {"use_qk_norm": True}
    if family in ("mistral", "gemma2", "gemma3"):
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
        local = ["local" if kind == "sliding_attention" else "global" for kind in kinds]
        text |= {"use_local_attn": True, "window_size": config.sliding_window, "attn_types": local}
    if family.startswith("gemma"):
        text |= {"act_fn": "gelu_pytorch_tanh", "use_normalization_before_and_after": True}
    if family == "gemma2":
        text |= {"attn_scores_soft_cap": 50.0, "output_logits_soft_cap": 30.0}
    if family == "gemma3":
        text |= {"use_qk_norm": True, "rotary_base": 1_000_000, "rotary_base_local": 10_000}
    return text


@pytest.fixture(scope="module", params=CONVERTERS)
def both(request, tiny):
    """A tiny model, and TransformerLens's own with the same weights."""
    lens = pytest.importorskip("transformer_lens")
    from transformer_lens.pretrained import weight_conversions

    lm = tiny(request.param)
    cfg = lens.HookedTransformerConfig.from_dict(describe(request.param, lm.model.config))
    theirs = lens.HookedTransformer(cfg)
    convert = getattr(weight_conversions, f"convert_{CONVERTERS[request.param]}_weights")
    with torch.no_grad():
        weights = {name: value.clone() for name, value in convert(lm.model, cfg).items()}
    theirs.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return lm, theirs.eval()


@pytest.fixture(scope="module")
def longest(rows):
    """The row of 13 tokens, twice the sliding window."""
    return pad_left(rows, [2], pad_id=0, device=torch.device("cpu"))


def test_the_same_name_is_the_same_tensor(both, longest):
    lm, theirs = both
    sites = [Site(layer, kind) for layer in range(lm.n_layers) for kind in lm.anatomy.kinds]
    with torch.no_grad():
        logits, cache = theirs.run_with_cache(longest.input_ids)
        with capture(lm, sites) as acts:
            ours = lm.model(**longest.inputs).logits
    torch.testing.assert_close(ours, logits, atol=1e-3, rtol=1e-3)
    for site in sites:
        torch.testing.assert_close(acts[site], cache[str(site)], atol=1e-3, rtol=1e-3, msg=str(site))


def test_the_same_edit_gives_the_same_logits(both, longest, vector):
    lm, theirs = both
    for kind in lm.anatomy.kinds:
        site = Site(1, kind)
        with torch.no_grad(), inject(lm, [Add(site, vector, positions=everything)]):
            ours = lm.model(**longest.inputs).logits
        with torch.no_grad():
            logits = theirs.run_with_hooks(
                longest.input_ids,
                fwd_hooks=[(str(site), lambda value, hook: value + vector)],  # noqa: ARG005
            )
        torch.testing.assert_close(ours, logits, atol=2e-3, rtol=1e-3, msg=str(site))
