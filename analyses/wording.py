"""Intervals in words, as headlines say them."""

from collections.abc import Mapping
from typing import Any


def points(interval: Mapping[str, Any], digits: int = 0) -> str:
    """A change of a share, in percentage points."""
    return bounded(interval, "points", 100.0, f"+.{digits}f")


def bounded(interval: Mapping[str, Any], unit: str, scale: float, form: str) -> str:
    """An amount with its unit and its bounds, where it has them."""
    text = f"{scale * interval['estimate']:{form}} {unit}"
    if interval["low"] is None or interval["high"] is None:
        return text
    return f"{text} [{scale * interval['low']:{form}}, {scale * interval['high']:{form}}]"
