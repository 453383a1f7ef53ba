"""Several samples, and the answer that most of them state."""

from analyses.elicit.decodings import SelfConsistency
from analyses.elicit.key import Bench, Key


def make(bench: Bench) -> Key:
    """See :func:`interp.decoding.self_consistency`."""
    n, temperature = bench.config.n_samples, bench.config.temperature
    return Key(
        "self-consistency",
        f"the vote of {n} samples at temperature {temperature:g}",
        decoding=SelfConsistency(n, temperature),
    )
