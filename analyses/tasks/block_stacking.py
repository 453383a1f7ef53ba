"""Block stacking: plan the moves that turn some stacks of lettered blocks into others.

A state is a set of stacks, each from bottom to top. A move takes the top block of a stack, and puts
it on the top of another stack or on the table. The rung is the number of moves in a shortest plan,
found by breadth-first search through all states of the blocks. Any legal plan that ends in the goal
is right, however long.

The blocks world is as in Gupta & Nau 1992, "On the complexity of blocks-world planning".
"""

import hashlib
import random
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from analyses.tasks.problem import Problem
from analyses.tasks.verify import Verdict

SOURCE = "block-stacking"
RUNGS = ("1", "2", "3", "4", "5", "6")

State = frozenset[tuple[str, ...]]
Move = tuple[str, str]
"""A block and what it is put on: another block, or ``TABLE``."""

TABLE = "table"
_BLOCKS = 4
_LETTERS = "ABCDEFGH"

_PROMPT = """Blocks stand on a table in stacks. You can move one block at a time, and only a block with \
nothing on it: onto another block with nothing on it, or to the table.

Start: {start}.
Goal: {goal}.

Which moves turn the start into the goal? Write one move per line, as in "move X onto Y" or \
"move X to the table", and nothing else."""

_MOVE = re.compile(
    r"\b(?i:move) +(?i:block +)?(?P<block>[A-Z]) +"
    r"(?i:from +(?:on +)?(?:top +of +)?(?:the +)?(?:block +)?(?:[A-Z]|table) +)?"
    r"(?i:onto|to|on)(?i: +the +top +of| +top +of)? +(?i:the +)?"
    r"(?:(?P<table>(?i:table))|(?i:block +)?(?P<under>[A-Z]))\b"
)


def block_stacking(rung: str, seed: int, source: str = SOURCE) -> Iterator[Problem]:
    """Problems of one rung without end; their prompts may repeat."""
    stream = random.Random(f"{SOURCE}/{seed}/{rung}")
    while True:
        blocks = sorted(stream.sample(_LETTERS, _BLOCKS))
        start = _random_state(blocks, stream)
        plans = shortest_plans(start)
        goals = [goal for goal, plan in plans.items() if len(plan) == int(rung)]
        if goals:
            goal = stream.choice(sorted(goals, key=sorted))
            yield _problem(start, goal, plans[goal], rung, source)


def shortest_plans(start: State) -> dict[State, tuple[Move, ...]]:
    """A shortest plan to every state that can be reached, by breadth-first search."""
    plans: dict[State, tuple[Move, ...]] = {start: ()}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for move in _moves(state):
            after = moved(state, move)
            if after is not None and after not in plans:
                plans[after] = (*plans[state], move)
                queue.append(after)
    return plans


def moved(state: State, move: Move) -> State | None:
    """The state after a move; None where the move is not legal."""
    block, under = move
    taken = next((stack for stack in state if stack[-1] == block), None)
    if taken is None:
        return None
    rest = state - {taken} | ({taken[:-1]} if taken[1:] else frozenset())
    if under == TABLE:
        return rest | {(block,)}
    below = next((stack for stack in rest if stack[-1] == under), None)
    return None if below is None else rest - {below} | {(*below, block)}


def read_moves(response: str) -> list[Move]:
    """Every ``move A onto B`` and ``move A to the table`` of a text, in order."""
    text = re.sub(r"[*`_]", "", response)
    return [(match["block"], match["under"] or TABLE) for match in _MOVE.finditer(text)]


def judge_plan(problem: Problem, response: str) -> Verdict:
    """Whether the moves that a response states are legal and lead to the goal."""
    moves = read_moves(response)
    if not moves:
        return Verdict(False, None, "none")
    state: State | None = _state(problem.facts["start"])
    for move in moves:
        state = moved(state, move) if state is not None else None
    return Verdict(state == _state(problem.facts["goal"]), written(moves, "; "), "plan")


def written(moves: Sequence[Move], between: str = "\n") -> str:
    """A plan as the prompt asks for it."""
    return between.join(
        f"move {block} {'to the table' if under == TABLE else f'onto {under}'}" for block, under in moves
    )


def _problem(start: State, goal: State, plan: Sequence[Move], rung: str, source: str) -> Problem:
    facts: Mapping[str, list[list[str]]] = {"start": _listed(start), "goal": _listed(goal)}
    prompt = _PROMPT.format(start=_shown(facts["start"]), goal=_shown(facts["goal"]))
    return Problem(
        id=f"blocks-{rung}-{hashlib.sha256(prompt.encode()).hexdigest()[:12]}",
        prompt=prompt,
        answer=written(plan),
        source=source,
        level=rung,
        verifier=SOURCE,
        facts=facts,
    )


def _random_state(blocks: Sequence[str], stream: random.Random) -> State:
    """Each block in random order on the table or on a stack, all equally likely."""
    stacks: list[tuple[str, ...]] = []
    for block in stream.sample(blocks, len(blocks)):
        place = stream.randrange(len(stacks) + 1)
        stacks[place : place + 1] = [(*stacks[place], block) if place < len(stacks) else (block,)]
    return frozenset(stacks)


def _moves(state: State) -> Iterator[Move]:
    """Every block that is clear onto every other, and to the table; in a fixed order."""
    tops = sorted(stack[-1] for stack in state)
    for block in tops:
        yield from ((block, under) for under in [*tops, TABLE] if under != block)


def _state(stacks: Sequence[Sequence[str]]) -> State:
    return frozenset(tuple(stack) for stack in stacks)


def _listed(state: State) -> list[list[str]]:
    return [list(stack) for stack in sorted(state)]


def _shown(stacks: Sequence[Sequence[str]]) -> str:
    """B is on the table, D is on B; E is on the table."""
    pairs = ([*zip(["the table", *stack], stack, strict=False)] for stack in stacks)
    return "; ".join(", ".join(f"{block} is on {under}" for under, block in stack) for stack in pairs)
