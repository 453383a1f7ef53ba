"""The problem alone, its reply read in the way that is kindest to the model."""

from analyses.elicit.decodings import FormatCorrected
from analyses.elicit.key import Bench, Key


def make(_bench: Bench) -> Key:
    """What other keys must beat: a gain that is one of format is none of reasoning."""
    return Key("format-corrected", "the largest of three readings", decoding=FormatCorrected())
