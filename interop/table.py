"""The proof as Markdown: a table for each program, and the line that says whether it holds."""

from collections.abc import Mapping, Sequence
from typing import Any

from interop.cases import Case, cases
from interop.compare import APART, FLOOR, ROUNDING, WITHIN, Difference
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

The yardstick is what lies between the two programs without any vector. Where the other program's arithmetic
is quantised, an edit can amplify its noise, so there the yardstick is what lies between that program in
float32 and as it is, at the same dose, with the same file: "itself in float32".

It holds if at every dose the KL at the right block is at most {within:g} times the yardstick (or rounding,
{rounding:g}), and that of every misplaced vector at least {apart:g} times the KL at the right block and
larger in every text: at every dose, or at one dose or more where the arithmetic is quantised and may hide
it.
"""


def table(name: str, outcome: Outcome | str, doses: Sequence[float]) -> str:
    """One program: its cases beside the unsteered one; or why it took no part."""
    peer = PEERS[name]
    if isinstance(outcome, str):
        return f"## {peer.title}\n\nNot run: {outcome}.\n"
    versions = ", ".join(f"{package} {number}" for package, number in outcome.versions.items())
    rows = [row for case in cases(doses, peer.placements) for row in _rows(case, outcome)]
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


def _rows(case: Case, outcome: Outcome) -> list[list[str]]:
    """A case; after one at the right block, what the program's own arithmetic makes of it."""
    dose, prefix = f"{case.dose:g}", outcome.prefixes.get(case.name, ())
    shared = f"{sum(n for n, _ in prefix)} of {sum(n for _, n in prefix)}" if prefix else ""
    where = case.placement if case.dose else "unsteered"
    rows = [[dose, where, *_numbers(outcome.differences[case.name]), shared]]
    if case.name in outcome.itself:
        rows.append([dose, f"{where}, itself in float32", *_numbers(outcome.itself[case.name]), ""])
    return rows


def _numbers(found: Difference) -> list[str]:
    values = (found.kl, found.kl_max, found.logprob_mean, found.logprob_max, found.logit_max)
    return [*(f"{value:.2e}" for value in values), f"{found.top1:.1%}"]


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
