"""A tiny model on disk that never ends its turn and says hostile words, with a vector and a dictionary."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from analyses.play.session import STREAMS, Session
from analyses.play.sources import Sources, load_sources
from analyses.play.state import State
from hooks import generate
from hooks.language_model import LanguageModel
from hooks.load import adopt, load
from hooks.sites import Site
from interp.steering_vector import Recommendation, SteeringVector
from saes import Origin, TopKSAE, save_dictionary

END = 2
PROMPT = "say it"
HOSTILE = (
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=1</script>",
    "**bold** [x](javascript:window.pwned=1)",
    "\x1b[31mred",
    "${window.pwned=1}",
    "{{value}}<b>b</b>",
)
SHOWN = tuple(text.replace("\x1b", "\u241b") for text in HOSTILE)
"""As they should read on the page."""

SAMPLED = State(prompt=PROMPT, temperature=1.0, seed=1, max_new_tokens=60)
"""Says all of the hostile words in the plain column."""


@dataclass(frozen=True)
class Given:
    """What the page of the tests is started with."""

    model: Path
    vector: Path
    dictionary: Path

    @property
    def arguments(self) -> list[str]:
        return [str(self.model), "--vector", str(self.vector), "--dictionary", str(self.dictionary)]


def byte_level(text: str) -> str:
    """A text as the vocabulary of a byte-level tokenizer writes it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain} | {b: chr(256 + n) for n, b in enumerate(others)}
    return "".join(letters[b] for b in text.encode())


def renamed(tokenizer: PreTrainedTokenizerFast, names: dict[int, str]) -> PreTrainedTokenizerFast:
    """The same tokenizer with other texts for some ids, which nothing is encoded as."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    facts["model"]["vocab"] = {
        byte_level(names[i]) if i in names else word: i for word, i in facts["model"]["vocab"].items()
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(facts)),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|im_end|>",
    )
    made.chat_template = tokenizer.chat_template
    return made


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory, model_of: Callable, tokenizer_with: Callable) -> Given:
    home = tmp_path_factory.mktemp("play")
    model, tokenizer = model_of("llama"), tokenizer_with()
    model.config.max_position_embeddings = 4096
    with torch.no_grad():
        model.lm_head.weight[END] = 0  # others are above it
    lm = adopt(model, tokenizer, name="tiny")
    said = Counter(
        generate(lm, [PROMPT], max_new_tokens=60, temperature=1.0, seed=1, streams=STREAMS[:1])[0].tokens
    )
    merged = {c for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"] for c in pair}
    kept = set(
        tokenizer(
            lm.tokenizer.apply_chat_template([{"role": "user", "content": PROMPT}], tokenize=False)
        ).input_ids
    )
    free = [
        i
        for i, _ in said.most_common()
        if i not in kept and tokenizer.convert_ids_to_tokens(i) not in merged and i > 5
    ]
    words = renamed(tokenizer, dict(zip(free, HOSTILE, strict=False)))
    model.save_pretrained(home / "model")
    words.save_pretrained(home / "model")
    lm = load(home / "model")
    generator = torch.Generator().manual_seed(5)
    vector = SteeringVector(
        vectors={i: torch.randn(lm.d_model, generator=generator) for i in range(lm.n_layers)},
        kind="resid_post",
        poles=("<b>up</b>", "down"),
        estimator="mean_difference",
        read="response",
        resid_norm=dict.fromkeys(range(lm.n_layers), 20.0),
        n_pairs=3,
        pairs_hash="00",
        seed=0,
        model=lm.name,
        fingerprint=lm.fingerprint,
        tokenizer_hash=lm.tokenizer_hash,
        template_hash=lm.template_hash,
        recommended=Recommendation(1, 0.5, "a test"),
    ).save(home / "mood.safetensors")
    sae = TopKSAE(lm.d_model, 48, 6, origin=Origin(model="model", site=Site(1, "resid_post")))
    dictionary = save_dictionary(sae.requires_grad_(False), home / "words")
    return Given(home / "model", vector, dictionary)


@pytest.fixture(scope="session")
def played(given: Given) -> LanguageModel:
    return load(given.model)


@pytest.fixture(scope="session")
def sources(given: Given, played: LanguageModel) -> Sources:
    return load_sources(played, [str(given.vector)], [str(given.dictionary)])


@pytest.fixture
def session(played: LanguageModel, sources: Sources) -> Session:
    return Session(played, sources)
