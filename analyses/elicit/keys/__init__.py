"""All keys. A new one is a file of this folder and a line here."""

from collections.abc import Mapping

from analyses.elicit.key import Maker
from analyses.elicit.keys import (
    cot_decoding,
    feature,
    few_shot,
    forced,
    format_corrected,
    prompts,
    self_consistency,
    tuned,
    vector,
)

KEYS: Mapping[str, Maker] = {
    "plain": Maker(prompts.plain),
    "direct": Maker(prompts.direct),
    "cot": Maker(prompts.cot),
    "few-shot": Maker(few_shot.make),
    "format-corrected": Maker(format_corrected.make),
    "forced": Maker(forced.make),
    "cot-decoding": Maker(cot_decoding.make),
    "self-consistency": Maker(self_consistency.make),
    "vector": Maker(vector.make),
    "feature": Maker(feature.make, needs="dictionary"),
    "tuned": Maker(tuned.make, needs="tuned"),
}

COMBINATIONS = ("direct+vector", "cot+vector", "cot+self-consistency")
"""Those that are tried where no keys are named."""
