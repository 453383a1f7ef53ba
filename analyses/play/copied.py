"""What is on screen, as Python that says the same, and as a command where there is one."""

import shlex

from analyses.play.session import STREAMS
from analyses.play.sources import BUNDLED_NAME, Sources
from analyses.play.state import LatentEdit, State, VectorEdit
from hooks.errors import InputError
from hooks.hub import reference


def as_python(state: State, sources: Sources, model: str, device: str | None = None) -> str:
    """A script that prints both columns, for the folder in which the page was started.

    Everything that a user or a link wrote is in it as a literal, so it says nothing but itself.
    """
    on = state.on
    vectors = {edit.vector: f"vector_{n}" for n, edit in enumerate(on) if isinstance(edit, VectorEdit)}
    others = {edit.dictionary: f"sae_{n}" for n, edit in enumerate(on) if isinstance(edit, LatentEdit)}
    bundled = any(sources.dictionary(name).path == BUNDLED_NAME for name in others)
    imports = ["from hooks import generate, load"]
    if on:
        imports.append("from hooks.positions import parse_positions")
    if vectors:
        imports.append("from interp import SteeringVector")
    if others:
        readers = {_reader(sources.dictionary(name).path) for name in others}
        names = sorted({"ClampLatents", *readers, *(["BUNDLED"] if bundled else [])})
        imports.append(f"from saes import {', '.join(names)}")
    any_model = ", any_model=True" if sources.any_model else ""
    where = "" if device is None else f", device={device!r}"
    lines = [*imports, "", f"lm = load({model!r}{where})"]
    if on:
        lines.append(f"positions = parse_positions({state.positions!r})")
    for name, variable in vectors.items():
        lines.append(f"{variable} = SteeringVector.load({sources.vector(name).path!r}, lm{any_model})")
    for name, variable in others.items():
        path = sources.dictionary(name).path
        folder = "BUNDLED" if path == BUNDLED_NAME else repr(path)
        lines.append(f"{variable} = {_reader(path)}({folder}, lm{any_model})")
    lines.append("edits = [" + ("" if on else "]"))
    for edit in on:
        if isinstance(edit, VectorEdit):
            how = f"{edit.layer!r}, dose={edit.dose!r}, positions=positions{any_model}"
            call = f"{vectors[edit.vector]}.at({how})"
        else:
            sae = others[edit.dictionary]
            latents = f"{{{edit.latent!r}: {edit.value!r}}}"
            call = f"ClampLatents({sae}.origin.site, {sae}, {latents}, positions{any_model})"
        lines.append(f"    {call},")
    if on:
        lines.append("]")
    arguments = {
        "edits": "[[], edits]" if on else "edits",
        "max_new_tokens": repr(state.max_new_tokens),
        **({} if not state.temperature else _sampling(state)),
        **({} if not state.system else {"system": repr(state.system)}),
        **({} if state.think is None else {"think": repr(state.think)}),
    }
    lines += [
        f"prompt = {state.prompt!r}",
        "made = generate(",
        "    lm,",
        "    [prompt, prompt],",
        *(f"    {name}={value}," for name, value in arguments.items()),
        ")",
        *(["made.receipt.check(positions, rows=[1])"] if on else []),
        "print(made[0].text)",
        'print("---")',
        "print(made[1].text)",
    ]
    return "\n".join(lines) + "\n"


def _reader(dictionary: str) -> str:
    """The function of ``saes`` that reads a dictionary by this name."""
    return "load_dictionary" if reference(dictionary) is None else "from_pretrained"


def _sampling(state: State) -> dict[str, str]:
    return {
        "temperature": repr(state.temperature),
        "top_p": repr(state.top_p),
        "seed": repr(state.seed),
        "streams": repr(list(STREAMS)),
    }


def as_command(state: State, sources: Sources, model: str, device: str | None = None) -> str:
    """``unlatch steer`` with the same two columns.

    Raises:
        InputError: saying why no command can, where that is so.
    """
    edit = state.on[0] if len(state.on) == 1 else None
    if not isinstance(edit, VectorEdit):
        raise InputError("`unlatch steer` adds exactly one vector; use the Python for anything else.")
    if state.system:
        raise InputError("`unlatch steer` has no system prompt; use the Python.")
    words = [
        *("unlatch", "steer", "--model", model, "--vector", sources.vector(edit.vector).path),
        *("--layer", str(edit.layer), f"--dose={edit.dose!r}", "--positions", state.positions),
        *("--max-new-tokens", str(state.max_new_tokens)),
    ]
    if state.temperature:
        words += ["--temperature", repr(state.temperature), "--top-p", repr(state.top_p)]
        words += ["--seed", str(state.seed)]
    if state.think is not None:
        words += ["--think", str(state.think)]
    if sources.any_model:
        words += ["--any-model", "True"]
    if device is not None:
        words += ["--device", device]
    return shlex.join([*words, "--", state.prompt])
