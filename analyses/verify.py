"""Does a model say the same however it is run? Every check, with the largest difference found.

unlatch verify Qwen/Qwen3-0.6B --dtype bfloat16
"""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analyses.progress import progress
from hooks import load
from hooks.verify import CHECKS, Check, Verification
from hooks.verify import verify as verify_model


def verify(model: str, *, device: str | None = None, dtype: str = "auto") -> Verification:
    """Load a model as it is, whether or not it would be refused, and check it."""
    lm = load(model, device=device, dtype=dtype, check=False)
    with progress() as start:
        stage = start("checking", len(CHECKS))
        return verify_model(lm, on_check=lambda _what: stage.rows())


def show(result: Verification, console: Console) -> None:
    """Print the checks as a table, as plain text whatever they contain."""
    console.print(Text(result.title, style="bold"), soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column("check", min_width=36)
    table.add_column("off by", justify="right")
    table.add_column("limit", justify="right")
    table.add_column("where")
    for check in result.checks:
        mark = Text("pass", style="green") if check.passed else Text("FAIL", style="bold red")
        table.add_row(mark, Text(check.what), _difference(check), _tolerance(check), Text(check.where))
    console.print(table)


def _difference(check: Check) -> str:
    return "–" if math.isnan(check.difference) else f"{check.difference:.2g}"


def _tolerance(check: Check) -> str:
    return f"{'>' if check.above else '≤'} {check.tolerance:.2g}"
