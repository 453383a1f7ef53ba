"""Views as HTML. Whatever a model, a prompt or a name says is text: escaped, its control characters shown."""

import html
import re
from collections.abc import Sequence

from analyses.play.session import Column, Scale, View
from analyses.play.state import State

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

PHASES = {
    "waiting": "Waiting: the model is busy with another answer.",
    "answering": "Answering …",
    "reading": "Reading both answers again, for KL and colours …",
    "done": "Done.",
}
ENDS = {"stop": "ended by itself", "length": "cut at its budget", "nan": "stopped: its logits are no numbers"}


def text(raw: str) -> str:
    """``raw`` as HTML that shows it and does nothing. ANSI and other invisible controls become marks."""
    return html.escape(_CONTROL.sub(_shown, raw), quote=True).replace("$", "&#36;").replace("{", "&#123;")


def _shown(match: re.Match[str]) -> str:
    point = ord(match[0])
    return chr(0x2400 + point) if point < 0x20 else f"\u27e8U+{point:04X}\u27e9"


def plain(view: View) -> str:
    """The left column."""
    return _answer(view.plain, "plain", view.scale, "")


def steered(view: View) -> str:
    """The right column, with its KL and its receipt."""
    told = ""
    if view.kl_nats is not None:
        told += (
            f'<p class="play-figures"><b>KL {view.kl_nats:.3f} nats</b> a token, from the unedited to the '
            "edited next-token distribution: mean over these tokens, read with teacher forcing</p>"
        )
    if view.receipt:
        told += f'<p class="play-figures play-receipt">{text(view.receipt)}</p>'
    return _answer(view.steered, "steered", view.scale, told)


def _answer(column: Column, name: str, scale: Scale | None, told: str) -> str:
    """One column: its text, coloured once it has been read again, and its figures."""
    if column.pieces and scale is not None:
        body = _coloured(column, scale)
    elif column.text or column.n_tokens:
        body = text(column.text)
    else:
        body = '<span class="play-empty">Nothing yet.</span>'
    figures = [f"{column.n_tokens} token{'' if column.n_tokens == 1 else 's'}"]
    if column.tokens_per_second is not None:
        figures.append(f"{column.tokens_per_second:.1f} tokens/s")
    if column.finish is not None:
        figures.append(ENDS[column.finish])
    live = " play-live" if column.n_tokens and column.finish is None else ""
    return (
        f'<section class="play-answer" aria-label="{name} answer"><h3>{name}</h3>'
        f'<div class="play-text{live}" tabindex="0" role="group" aria-label="{name} text" dir="auto">'
        f'<div>{body}</div></div><p class="play-figures">{" · ".join(figures)}</p>{told}</section>'
    )


def _coloured(column: Column, scale: Scale) -> str:
    spans = []
    for number, piece in enumerate(column.pieces):
        if piece.projection is None or not piece.text:
            spans.append(text(piece.text))
            continue
        away = (piece.projection - scale.middle) / scale.reach
        weight = round(100 * min(1.0, abs(away)))
        side = "plus" if away > 0 else "minus"
        spans.append(
            f'<span class="play-token {side}" tabindex="-1" style="--w:{weight}%" '
            f'title="token {number}: {piece.projection:+.3f}">{text(piece.text)}</span>'
        )
    return "".join(spans)


def legend(scale: Scale | None) -> str:
    """What the colours mean, and the place where the token at hand is read out."""
    if scale is None:
        return ""
    low, high = scale.middle - scale.reach, scale.middle + scale.reach
    return (
        '<div class="play-legend"><span class="play-legend-name">Colour: projection on '
        f"{text(scale.direction.name)}, in {scale.direction.unit_name}</span>"
        f'<span class="play-scale"><span>{low:+.2f}</span><span class="play-bar" aria-hidden="true"></span>'
        f"<span>{high:+.2f}</span></span>"
        f'<span class="play-middle">no colour is {scale.middle:+.2f}, the mean of the plain answer</span>'
        '<span class="play-readout" aria-live="polite">Hover over a token, or focus a text and press '
        "← →, to read its number.</span></div>"
    )


def status(view: View) -> str:
    """One line: what is going on, or what went wrong."""
    if view.phase == "refused":
        return notice(view.message)
    said = view.message or PHASES[view.phase]
    if view.phase != "waiting" and view.first_token_s is not None:
        said += f" First token after {view.first_token_s:.2f} s."
    return f'<p class="play-status play-{view.phase}" role="status">{text(said)}</p>'


def notice(message: str) -> str:
    """Something that the reader should know before anything else."""
    return f'<p class="play-status play-refused" role="alert">{text(message)}</p>'


def code(python: str, command: str, why_not: str) -> str:
    """The script and the command of what is on screen; or why there is no command."""
    second = f'<pre id="play-command">{text(command)}</pre>' if command else f"<p>{text(why_not)}</p>"
    return (
        f'<h4>Python</h4><pre id="play-python" tabindex="0">{text(python)}</pre><h4>Command line</h4>{second}'
    )


def gallery(saved: Sequence[tuple[str, str, State]]) -> str:
    """Saved states as links: (name, link, state) of each."""
    if not saved:
        return '<p class="play-empty">Nothing saved yet. Give what is on screen a name, and save it.</p>'
    items = (
        f'<li><a href="?play={link}">{text(name)}</a> <span>{text(state.prompt[:80])}</span></li>'
        for name, link, state in saved
    )
    return f'<ul class="play-gallery">{"".join(items)}</ul>'


def header(model: str, n_layers: int, sources: Sequence[str]) -> str:
    """The head of the page."""
    given = ", ".join(map(text, sources)) if sources else "nothing to add"
    return (
        '<header class="play-header"><h1>unlatch play</h1>'
        f"<p>{text(model)} · {n_layers} layers · {given}</p></header>"
    )
