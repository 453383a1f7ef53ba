"""A prompt answered plain and steered, side by side, with the receipt of what was edited.

unlatch steer --vector runs/brief/vectors/verbosity.safetensors --dose 0.3 "How many legs do 3 cats have?"
"""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analyses.configs import SteerConfig
from analyses.progress import progress
from hooks import generate, load
from hooks.generate import Completion
from hooks.positions import parse_positions
from hooks.receipts import Receipt
from interp.steering_vector import SteeringVector


@dataclass(frozen=True)
class Steered:
    """One prompt, answered twice."""

    plain: Completion
    steered: Completion
    receipt: Receipt
    layer: int
    dose: float


def steer(config: SteerConfig, prompt: str, *, device: str | None = None) -> Steered:
    """Both answers, from one batch in which only the second row is edited.

    Where they are sampled both draw the same random numbers, so that they differ by the edit alone.
    """
    vector = SteeringVector.load(config.vector)
    positions = parse_positions(config.positions)
    edit = vector.at(config.layer, dose=config.dose, positions=positions, any_model=config.any_model)
    lm = load(config.model or vector.model, device=device)
    if not config.any_model:
        vector.require(lm)
    with progress() as start:
        stage = start("answering", 2)
        made = generate(
            lm,
            [prompt, prompt],
            edits=[[], [edit]],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
            think=config.think,
            streams=[0, 0],
            on_tokens=stage.tokens,
        )
        stage.rows(2)
    made.receipt.check(positions, rows=[1])
    return Steered(made[0], made[1], made.receipt, edit.site.layer, edit.scale)


def show(result: Steered, console: Console) -> None:
    """Print the two answers in two columns, as plain text whatever they contain."""
    columns = Table(expand=True, box=None, padding=(0, 2, 1, 0))
    columns.add_column(f"plain · {len(result.plain.tokens)} tokens", ratio=1)
    columns.add_column(
        f"steered at layer {result.layer}, dose {result.dose:g} · {len(result.steered.tokens)} tokens",
        ratio=1,
    )
    columns.add_row(Text(result.plain.text), Text(result.steered.text))
    console.print(columns)
    console.print(Text(str(result.receipt)))
