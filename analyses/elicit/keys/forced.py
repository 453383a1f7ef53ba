"""The first words of the response, chosen among a few."""

from analyses.elicit.decodings import Forced
from analyses.elicit.key import Bench, Key, best


def make(bench: Bench) -> Key:
    """The beginning that opens most select problems.

    Source: Sinii et al. 2025, arXiv:2509.06608, which finds much of a steering vector in the first token.
    """
    candidates = [
        Key(f"forced:{first}", "", decoding=Forced(first), chosen={"first": first})
        for first in bench.config.beginnings
    ]
    found, table = best(bench, candidates)
    first = found.chosen["first"]
    return Key(
        "forced", f"the response begins with “{first}”", decoding=found.decoding,
        chosen={"first": first, "tried": table},
    )  # fmt: skip
