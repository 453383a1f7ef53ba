"""What a short thought does to asking for a missing number, and where it moves the last activation.

Between a problem and a reply stands a frame that holds the thought that the model made, nothing, or that
thought's tokens in random order. Of each form of a problem, in nats,

    asking = log p(a reply that asks | problem, frame) - log p(a reply that states a number | the same)

and, at the last token of the frame, which is the same token whatever it holds, how far the thought moves
the activation along a unit direction, as a share of the median residual norm:

    moved = (h(thought) - h(nothing)) . u / norm

for u toward a missing number, toward doubt, and random ones. Doubt is the contrast of hedging and sure
replies to complete problems that are not scored here.

Source: Wang et al. 2025, arXiv:2507.23407, which reads the drop under thinking as self-doubt.
Differs from the source: a measurement where theirs is a reading of texts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.thinking.study import Study
from analyses.thinking.switch import Switch, end_token
from analyses.work import Work
from analyses.workers import Progress
from hooks.generate import generate_rows
from hooks.language_model import LanguageModel
from hooks.positions import THINK_CLOSE, THINK_OPEN
from hooks.rows import Row
from hooks.sites import Site
from interp.continuations import continuation_logprobs
from interp.contrast import contrast
from interp.missing import Triple
from interp.pairs import Pair
from interp.stats import band, mean_interval, paired_bootstrap
from interp.steering_vector import SteeringVector
from interp.token_activations import token_activations

FORMS = ("complete", "missing", "irrelevant")
HELD = ("thought", "nothing", "shuffled")
FILE = "doubt.safetensors"

DOUBTS = (
    "Hmm, I am not sure. Maybe it is {}, or maybe it is not.",
    "I might be wrong here. It could be {}, but that is unclear to me.",
    "Wait, perhaps that is a mistake. I guess it is {}, but I doubt it.",
)
SURE = (
    "Yes, I am sure. Clearly it is {}, and it is nothing else.",
    "I am right here. It must be {}, and that is plain to me.",
    "Indeed, certainly this is correct. I know it is {}, and I stand by it.",
)
"""Each as long as the doubt in its place, and with the same number."""


@dataclass(frozen=True)
class Thought:
    """One task: short thoughts about some triples, and what they change."""

    triples: tuple[Triple, ...]
    switch: Switch
    directions: Float[Tensor, "direction d_model"]
    """Of unit norm; missing, doubt, and random ones."""

    layer: int
    resid_norm: float
    n_tokens: int
    seed: int

    def compute(self, lm: LanguageModel, on_tokens: Progress) -> list[dict[str, Any]]:
        """One record a triple."""
        starts = [self._start(lm, getattr(t, form)) for t in self.triples for form in FORMS]
        rows = [Row(start, len(start)) for start in starts]
        made = generate_rows(lm, rows, max_new_tokens=self.n_tokens, on_tokens=on_tokens)
        ends = lm.stop_ids | {end_token(lm.tokenizer)}
        thoughts = [_upto(one.tokens, ends) for one in made]
        frames = [
            start + held + self._close(lm)
            for place, (start, thought) in enumerate(zip(starts, thoughts, strict=True))
            for held in (thought, (), self._shuffled(thought, place))
        ]
        asks, states = self._replies(lm, frames, on_tokens)
        moved = self._moved(lm, frames)
        shape = (len(self.triples), len(FORMS), len(HELD))
        nats = (asks - states).reshape(shape)
        texts = [str(lm.tokenizer.decode(list(t), skip_special_tokens=True)) for t in thoughts]
        return [
            {
                "asking": {
                    form: dict(zip(HELD, values, strict=True))
                    for form, values in zip(FORMS, nats[n].tolist(), strict=True)
                },
                "moved": dict(zip(FORMS, moved[n].tolist(), strict=True)),
                "thoughts": dict(zip(FORMS, texts[len(FORMS) * n : len(FORMS) * (n + 1)], strict=True)),
            }
            for n in range(len(self.triples))
        ]

    def _start(self, lm: LanguageModel, problem: str) -> tuple[int, ...]:
        """Up to where the thought begins, which is opened where the template leaves that to the model."""
        tokens = self.switch.row(lm.tokenizer, problem, "on").tokens
        text = str(lm.tokenizer.decode(list(tokens))).rstrip()
        open_now = self.switch.tags and not text.endswith(THINK_OPEN)
        return tokens + _ids(lm, f"{THINK_OPEN}\n") if open_now else tokens

    def _close(self, lm: LanguageModel) -> tuple[int, ...]:
        return _ids(lm, f"\n{THINK_CLOSE}\n\n" if self.switch.tags else "\n")

    def _shuffled(self, thought: tuple[int, ...], place: int) -> tuple[int, ...]:
        return tuple(random.Random(f"{self.seed}/{place}").sample(thought, len(thought)))

    def _replies(
        self, lm: LanguageModel, frames: Sequence[tuple[int, ...]], on_tokens: Progress
    ) -> Float[np.ndarray, "reply frame"]:
        """log p of the reply that asks and of the one that states, after each frame."""
        of_each = len(FORMS) * len(HELD)
        rows = [
            Row(frame + _ids(lm, reply), len(frame))
            for place, frame in enumerate(frames)
            for reply in (self.triples[place // of_each].asks, self.triples[place // of_each].states)
        ]
        nats = continuation_logprobs(lm, rows, on_tokens=on_tokens)
        return np.array([tokens.sum() for tokens in nats]).reshape(-1, 2).T

    def _moved(
        self, lm: LanguageModel, frames: Sequence[tuple[int, ...]]
    ) -> Float[np.ndarray, "triple form direction"]:
        found = token_activations(
            lm, [Row(frame, len(frame)) for frame in frames], [Site(self.layer, "resid_post")]
        )[0].reshape(len(self.triples), len(FORMS), len(HELD), -1)
        units = self.directions.double().numpy()
        change = found[:, :, 0].astype(np.float64) - found[:, :, 1]
        return np.asarray(change @ units.T / self.resid_norm)


def short_thoughts(
    study: Study, fit: Sequence[Triple], triples: Sequence[Triple], vector: SteeringVector, layer: int
) -> dict[str, Any]:
    """Asking after a thought, after nothing, and after its words in random order; and what moved.

    Args:
        fit: Estimate doubt, and score nothing.
    """
    config, seed = study.config, study.config.seed
    doubt = _doubt(study, fit, layer)
    draws = torch.randn(config.n_random, vector.d_model, generator=torch.Generator().manual_seed(seed))
    directions = torch.stack(
        [vector.direction(layer), doubt.direction(layer), *(draws / draws.norm(dim=-1, keepdim=True))]
    )
    work: list[Work] = []
    for start in range(0, len(triples), max(1, config.chunk // len(FORMS))):
        some = tuple(triples[start : start + max(1, config.chunk // len(FORMS))])
        keys = [("short thought", str(start + place)) for place in range(len(some))]
        task = Thought(
            some, study.switch, directions, layer, vector.resid_norm[layer], config.thought_tokens, seed
        )
        work.append((keys, task))
    study.compute("short thoughts", work)
    records = [study.run.get("short thought", str(place)) for place in range(len(triples))]
    nats = np.array([[[r["asking"][form][held] for held in HELD] for form in FORMS] for r in records])
    moved = np.array([[r["moved"][form] for form in FORMS] for r in records])
    return {
        "n": len(records),
        "tokens": config.thought_tokens,
        "asking": {
            held: {
                "missing": paired_bootstrap(nats[:, 1, i], nats[:, 0, i], seed=seed).as_dict(),
                "irrelevant": paired_bootstrap(nats[:, 2, i], nats[:, 0, i], seed=seed).as_dict(),
                "beyond": paired_bootstrap(nats[:, 1, i], nats[:, 2, i], seed=seed).as_dict(),
            }
            for i, held in enumerate(HELD)
        },
        "changed": {
            name: paired_bootstrap(
                nats[:, 1, 0] - nats[:, 2, 0], nats[:, 1, i] - nats[:, 2, i], seed=seed
            ).as_dict()
            for name, i in (("over_nothing", 1), ("over_shuffled", 2))
        },
        "moved": {form: _along(moved[:, place], seed) for place, form in enumerate(FORMS)},
        "missing_along_doubt": float(directions[0] @ directions[1]),
        "doubt": doubt.reliability[layer].as_dict(),
        "example": records[0]["thoughts"],
    }


def _along(moved: Float[np.ndarray, "triple direction"], seed: int) -> dict[str, Any]:
    """How far along missing and doubt, their difference, and the band of random directions."""
    others = band(moved[:, 2:].mean(0), 0.025, 0.975)
    return {
        "missing": mean_interval(moved[:, 0], seed=seed).as_dict(),
        "doubt": mean_interval(moved[:, 1], seed=seed).as_dict(),
        "missing_less_doubt": paired_bootstrap(moved[:, 0], moved[:, 1], seed=seed).as_dict(),
        "random": vars(others),
    }


def _doubt(study: Study, fit: Sequence[Triple], layer: int) -> SteeringVector:
    """From sure to doubtful replies at one layer; written once."""
    file = study.run.path / "vectors" / FILE
    if not file.exists():
        answers = [t.states.removesuffix(".").split()[-1] for t in fit]
        pairs = [
            Pair(t.complete, DOUBTS[n % 3].format(answer), SURE[n % 3].format(answer))
            for n, (t, answer) in enumerate(zip(fit, answers, strict=True))
        ]
        made = contrast(study.lm, pairs, layers=[layer], poles=("doubtful", "sure"), seed=study.config.seed)
        study.run.save(FILE, made)
    return SteeringVector.load(file, study.lm)


def _upto(tokens: Sequence[int], ends: frozenset[int | None]) -> tuple[int, ...]:
    """The tokens before the first that ends a thought or a turn."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:stop])


def _ids(lm: LanguageModel, text: str) -> tuple[int, ...]:
    return tuple(int(i) for i in lm.tokenizer(text, add_special_tokens=False).input_ids)
