"""Branching at the first token, and the answer that the model is surest of."""

from analyses.elicit.decodings import CotDecoding
from analyses.elicit.key import Bench, Key


def make(bench: Bench) -> Key:
    """See :func:`interp.decoding.cot_decode`; the answer with the largest sum of margins counts."""
    k = bench.config.k
    return Key("cot-decoding", f"the {k} likeliest first tokens", decoding=CotDecoding(k))
