"""What the gap is measured to: the tuned model, on the problem alone."""

from analyses.elicit.key import Bench, Key


def make(bench: Bench) -> Key:
    """The problem alone, put to the tuned model."""
    return Key("tuned", f"{bench.config.tuned}, the problem alone", tuned=True)
