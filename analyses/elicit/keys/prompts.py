"""Prompts: the problem alone, and with an instruction."""

from analyses.elicit.key import Bench, Key, Suffix


def plain(_bench: Bench) -> Key:
    """The lock itself: keys that set no prompt are tried on it."""
    return Key("plain", "the problem alone")


def direct(bench: Bench) -> Key:
    """Asked for the answer alone."""
    text = bench.config.direct_prompt
    return Key("direct", f"“{text}”", prompt=Suffix(text))


def cot(bench: Bench) -> Key:
    """Asked for steps.

    Source: Kojima et al. 2022, arXiv:2205.11916.
    """
    text = bench.config.cot_prompt
    return Key("cot", f"“{text}”", prompt=Suffix(text))
