"""The proof as Markdown: a table for each program, and the line that says whether it holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from interop.cases import Case, cases
from interop.compare import APART, FLOOR, ROUNDING, WITHIN
from interop.peers import PEERS, Outcome

COLUMNS = (
    "dose",
    "where",
    "KL (nats)",
    "max KL",
    "mean dlogp",
    "max dlogp",
    "max dlogit",
    "top-1",
    "greedy prefix",
)

MEANING = """\
Our edit is a vector of {model} at blocks.{layer}.hook_resid_post, at every position; its norm is the dose
times the median residual norm there. The other program gets the same vector at the same block, a block
early, a block late, or with its sign turned, and is always compared with our edit at the right block.

KL is KL(ours || theirs) of the next token, a mean over positions; dlogp the absolute difference of
log-probabilities, over tokens with p >= {floor:g}; dlogit that of logits, over all tokens; greedy prefix
the tokens in common with our greedy continuation, summed over the texts.

The yardstick is the unsteered line: what lies between the two programs without any vector. It holds if at
every dose the KL at the right block is at most {within:g} times that (or rounding, {rounding:g}), and the
KL of every misplaced vector at least {apart:g} times that at the right block and larger in every text: at
every dose, or at one dose or more where the other program's arithmetic is quantised and may hide it.
"""


def table(name: str, outcome: Outcome | str, doses: Sequence[float]) -> str:
    """One program: its cases beside the unsteered one; or why it took no part."""
    peer = PEERS[name]
    if isinstance(outcome, str):
        return f"## {peer.title}\n\nNot run: {outcome}.\n"
    versions = ", ".join(f"{package} {number}" for package, number in outcome.versions.items())
    rows = [_row(case, outcome) for case in cases(doses, peer.placements)]
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows)]
    first = outcome.differences[Case().name]
    return "\n".join(
        [
            f"## {peer.title}",
            "",
            f"{versions}; {first.positions} positions of {len(first.kl_of_prompts)} texts; "
            f"{outcome.seconds:.0f} s.",
            "",
            *lines,
            "",
            _verdict(outcome),
            "",
        ]
    )


def page(setting: Mapping[str, Any], outcomes: Mapping[str, Outcome | str], doses: Sequence[float]) -> str:
    """All programs, and what the columns and the criterion mean."""
    held = [f"- {PEERS[name].title}: {_state(outcome)}" for name, outcome in outcomes.items()]
    tables = [table(name, outcome, doses) for name, outcome in outcomes.items()]
    said = MEANING.format(floor=FLOOR, rounding=ROUNDING, within=WITHIN, apart=APART, **setting)
    return "\n".join(["# Do other programs apply our vector as we do?", "", *held, "", said, *tables])


def _row(case: Case, outcome: Outcome) -> list[str]:
    found, prefix = outcome.differences[case.name], outcome.prefixes.get(case.name, ())
    sizes = (found.kl, found.kl_max, found.logprob_mean, found.logprob_max, found.logit_max)
    return [
        f"{case.dose:g}",
        case.placement if case.dose else "unsteered",
        *(f"{size:.2e}" for size in sizes),
        f"{found.top1:.1%}",
        f"{sum(n for n, _ in prefix)} of {sum(n for _, n in prefix)}" if prefix else "",
    ]


def _verdict(outcome: Outcome) -> str:
    parts = []
    for dose, verdict in outcome.verdicts.items():
        hidden = [name for name, apart in verdict.apart.items() if not apart]
        parts.append(
            f"dose {dose:g}: the right block is {'within' if verdict.within else 'BEYOND'} the yardstick, "
            + (f"not told apart: {', '.join(hidden)}" if hidden else "every misplacement told apart")
        )
    return f"{_state(outcome)}. {'; '.join(parts)}."


def _state(outcome: Outcome | str) -> str:
    if isinstance(outcome, str):
        return f"not run ({outcome})"
    return "holds" if outcome.holds else "DOES NOT HOLD"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
