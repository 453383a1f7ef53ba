"""The page: a prompt, two columns, the controls beside them, and what happens when one is used."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr

from analyses.play import markup
from analyses.play.copied import as_command, as_python
from analyses.play.link import PARAMETER, from_link, to_link
from analyses.play.session import Session, View
from analyses.play.state import (
    MAX_DOSE,
    MAX_EDITS,
    MAX_NEW_TOKENS,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SYSTEM,
    MAX_TEMPERATURE,
    MAX_VALUE,
    AnyEdit,
    LatentEdit,
    State,
    VectorEdit,
)
from hooks.errors import InputError, UnlatchError

PROMPT = "How many legs do 3 cats have?"
NOTHING = "nothing"
"""What a row of the edits adds before a source is chosen."""

POSITIONS = (
    "generated",
    "response",
    "all",
    "last_prompt",
    "steps(0, 8)",
    "generated - steps(0, 8)",
    "step(0)",
    "prompt",
    "think",
    "answer",
)
THINK: dict[str, bool | None] = {"as the template has it": None, "on": True, "off": False}
MAX_SAVED = 50
MAX_SAVED_NAME = 60
MAX_WAITING = 16
"""Requests that may wait for the model."""

WAIT_JS = """(...all) => { const s = document.querySelector("#play-status .play-status");
if (s) { s.textContent = "Waiting for the model …"; s.className = "play-status play-waiting"; }
return all; }"""
COPY_JS = """async () => { const text = document.querySelector("%s")?.textContent;
if (text) await navigator.clipboard.writeText(text); }"""
LINK_JS = """async (link) => { if (link) { const url = new URL(link, location.href.split("?")[0]).href;
history.replaceState(null, "", url); await navigator.clipboard.writeText(url); } }"""


@dataclass(frozen=True)
class _EditRow:
    """The controls of one edit."""

    box: gr.Column
    on: gr.Checkbox
    source: gr.Dropdown
    layer: gr.Slider
    dose: gr.Slider
    latent: gr.Number
    value: gr.Number

    @property
    def controls(self) -> list[Any]:
        return [self.on, self.source, self.layer, self.dose, self.latent, self.value]


class Page:
    """A Gradio app over one session."""

    def __init__(self, session: Session, *, device: str | None = None) -> None:
        self._session, self._device = session, device
        self._sources, self._lm = session.sources, session.lm
        template = str(self._lm.tokenizer.chat_template or "")
        self._has_template, self._has_think = bool(template), "enable_thinking" in template
        self._told = count()
        with gr.Blocks(
            title=f"unlatch play: {self._lm.name}", analytics_enabled=False, fill_width=True
        ) as app:
            self._build()
            self._wire(app)
        self.app: gr.Blocks = app

    # --- what is on the page

    def _build(self) -> None:
        gr.HTML(markup.header(self._lm.name, self._lm.n_layers, self._sources.names))
        with gr.Row(elem_id="play-main"):
            with gr.Column(scale=1):
                self._build_answers()
            with gr.Column(scale=0, elem_id="play-controls"):
                self._build_controls()
        self._gallery = gr.BrowserState([], storage_key="unlatch-play", secret="unlatch-play")

    def _build_answers(self) -> None:
        self._prompt = gr.Textbox(
            PROMPT, label="Prompt", lines=3, max_lines=12, max_length=MAX_PROMPT, elem_id="play-prompt"
        )
        with gr.Row(elem_id="play-buttons"):
            self._generate = gr.Button("Generate", variant="primary", scale=0, elem_id="play-generate")
            self._stop = gr.Button("Stop", scale=0, elem_id="play-stop")
            self._link_button = gr.Button("Copy link", scale=0, elem_id="play-link")
            gr.HTML(
                "<p><kbd>Ctrl</kbd> <kbd>Enter</kbd> generates, <kbd>Esc</kbd> stops</p>", elem_id="play-keys"
            )
        self._status = gr.HTML(self._said(View("done", message=self._greeting)), elem_id="play-status")
        empty = View("done")
        with gr.Row(elem_id="play-answers"):
            self._plain = gr.HTML(markup.plain(empty), elem_id="play-plain")
            self._steered = gr.HTML(markup.steered(empty), elem_id="play-steered")
        self._legend = gr.HTML("", elem_id="play-legend")
        with gr.Accordion("The same, as code", open=False, elem_classes=["play-fold"]):
            with gr.Row():
                self._copy_python = gr.Button("Copy Python", size="sm", elem_id="play-copy-python")
                self._copy_command = gr.Button("Copy command line", size="sm", elem_id="play-copy-command")
            self._code = gr.HTML('<p class="play-empty">Generate first.</p>', elem_id="play-code")
        with gr.Accordion("Gallery, kept in this browser", open=False, elem_classes=["play-fold"]):
            with gr.Row():
                self._name = gr.Textbox(
                    label="Name", max_length=MAX_SAVED_NAME, scale=3, elem_id="play-name", max_lines=1
                )
                self._save = gr.Button("Save", scale=1, elem_id="play-save")
                self._clear = gr.Button("Clear all", scale=1, elem_id="play-clear")
            self._saved = gr.HTML(markup.gallery(()), elem_id="play-saved")
        self._link = gr.Textbox(visible="hidden", label="Link")

    def _build_controls(self) -> None:
        with gr.Accordion("What is added", open=True):
            first = self._sources.names[:1]
            self._rows = [
                self._build_row(n, first[0] if n == 0 and first else NOTHING) for n in range(MAX_EDITS)
            ]
            self._add = gr.Button("Add another", size="sm", elem_id="play-add")
            self._positions = gr.Dropdown(
                list(POSITIONS),
                value=POSITIONS[0],
                allow_custom_value=True,
                label="Positions",
                info='Which tokens are edited; or your own, such as after("Answer").',
                elem_id="play-positions",
            )
        with gr.Accordion("How tokens are drawn", open=True):
            self._new_tokens = gr.Slider(
                1, MAX_NEW_TOKENS, 128, step=1, label="New tokens, at most", elem_id="play-new-tokens"
            )
            self._temperature = gr.Slider(
                0,
                MAX_TEMPERATURE,
                0,
                step=0.05,
                label="Temperature",
                info="0 is greedy.",
                elem_id="play-temperature",
            )
            self._top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", elem_id="play-top-p")
            self._seed = gr.Number(
                0, precision=0, minimum=0, maximum=MAX_SEED, label="Seed", elem_id="play-seed"
            )
        with gr.Accordion("System prompt and thinking", open=False, visible=self._has_template):
            self._system = gr.Textbox(
                "", label="System prompt", lines=2, max_length=MAX_SYSTEM, elem_id="play-system"
            )
            self._think = gr.Radio(
                list(THINK),
                value=next(iter(THINK)),
                label="Thinking",
                visible=self._has_think,
                elem_id="play-think",
            )

    def _build_row(self, number: int, source: str) -> _EditRow:
        layers = sorted({i for given in self._sources.vectors.values() for i in given.vector.layers})
        low, high = (layers[0], layers[-1]) if layers else (0, self._lm.n_layers - 1)
        with gr.Column(
            visible=number == 0, elem_classes=["play-group"], elem_id=f"play-edit-{number}"
        ) as box:
            on = gr.Checkbox(True, label=f"Edit {number + 1} is on", elem_id=f"play-on-{number}")
            chosen = gr.Dropdown(
                [NOTHING, *self._sources.names],
                value=source,
                label=f"Edit {number + 1} adds",
                elem_id=f"play-source-{number}",
            )
            settings = self._settings(source)
            layer = gr.Slider(
                low, max(high, low + 1), step=1, label="Layer", elem_id=f"play-layer-{number}", **settings[0]
            )
            dose = gr.Slider(
                -MAX_DOSE,
                MAX_DOSE,
                step=0.01,
                label="Dose",
                info="Of the median residual norm; minus steers the other way.",
                elem_id=f"play-dose-{number}",
                **settings[1],
            )
            latent = gr.Number(
                precision=0, minimum=0, label="Latent", elem_id=f"play-latent-{number}", **settings[2]
            )
            value = gr.Number(
                minimum=-MAX_VALUE,
                maximum=MAX_VALUE,
                label="Held at",
                info="In the latent's own units; 0 ablates it.",
                elem_id=f"play-value-{number}",
                **settings[3],
            )
        return _EditRow(box, on, chosen, layer, dose, latent, value)

    def _settings(self, source: str) -> list[dict[str, Any]]:
        """Value and visibility of layer, dose, latent and value, as a source begins."""
        return self._shown(self._sources.start(source) if source in self._sources.names else None)

    @staticmethod
    def _shown(edit: AnyEdit | None) -> list[dict[str, Any]]:
        vector, latent = isinstance(edit, VectorEdit), isinstance(edit, LatentEdit)
        return [
            {"value": edit.layer if isinstance(edit, VectorEdit) else 0, "visible": vector},
            {"value": edit.dose if isinstance(edit, VectorEdit) else 0.0, "visible": vector},
            {"value": edit.latent if isinstance(edit, LatentEdit) else 0, "visible": latent},
            {"value": edit.value if isinstance(edit, LatentEdit) else 0.0, "visible": latent},
        ]

    @property
    def _greeting(self) -> str:
        if self._sources.names:
            return "Ready. The left column is the model as it is; the right one has the edits."
        return (
            "Nothing can be added yet: start the page with --vector FILE (unlatch vector makes one) or "
            "--dictionary FOLDER; --dictionary bundled is the bundled model's."
        )

    # --- what happens

    def _wire(self, app: gr.Blocks) -> None:
        controls = [
            *(self._prompt, self._system, self._think, self._positions),
            *(self._temperature, self._top_p, self._seed, self._new_tokens),
            *(control for row in self._rows for control in row.controls),
        ]
        boxes = [row.box for row in self._rows]
        shown = [self._plain, self._steered, self._status, self._legend, self._code]
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        run = self._generate.click(
            self._play,
            controls,
            shown,
            js=WAIT_JS,
            concurrency_limit=1,
            concurrency_id="model",
            show_progress="hidden",
            api_visibility="private",
        )
        stopped = self._stop.click(None, None, None, cancels=[run], **quick)
        stopped.then(self._stopped, None, [self._status], **quick)
        for row in self._rows:
            row.source.input(
                self._chosen, [row.source], [row.layer, row.dose, row.latent, row.value], **quick
            )
        self._add.click(self._added, [row.source for row in self._rows], [*boxes, self._add], **quick)
        self._link_button.click(self._linked, controls, [self._link, self._status], **quick).then(
            None, [self._link], None, js=LINK_JS, api_visibility="private"
        )
        for button, place in ((self._copy_python, "#play-python"), (self._copy_command, "#play-command")):
            button.click(None, None, None, js=COPY_JS % place, api_visibility="private")
        self._save.click(
            self._kept,
            [self._name, self._gallery, *controls],
            [self._gallery, self._saved, self._name, self._status],
            **quick,
        )
        self._clear.click(self._cleared, None, [self._gallery, self._saved], **quick)
        app.load(self._opened, [self._gallery], [self._status, self._saved, *boxes, *controls], **quick)

    def _play(self, *values: Any) -> Iterator[list[Any]]:
        """The views of a run, as what the five places show."""
        try:
            state = self._state(values)
        except UnlatchError as error:
            yield [*[gr.skip()] * 2, self._noticed(str(error)), *[gr.skip()] * 2]
            return
        code = self._code_of(state)
        views = self._session.play(state)
        try:
            for view in views:
                columns: list[Any] = [markup.plain(view), markup.steered(view)]
                if view.phase == "waiting" or (view.phase == "refused" and not view.plain.n_tokens):
                    columns = [gr.skip(), gr.skip()]
                yield [*columns, self._said(view), markup.legend(view.scale), code]
        finally:
            views.close()  # type: ignore[attr-defined]

    def _code_of(self, state: State) -> str:
        try:
            python = as_python(state, self._sources, self._lm.name, self._device)
        except UnlatchError as error:
            return markup.notice(str(error))
        try:
            command, why_not = as_command(state, self._sources, self._lm.name, self._device), ""
        except InputError as error:
            command, why_not = "", str(error)
        return markup.code(python, command, why_not)

    def _stopped(self) -> str:
        return self._said(View("done", message="Stopped. What is above is unfinished, and not measured."))

    def _chosen(self, source: str) -> list[Any]:
        return [gr.update(**setting) for setting in self._settings(source)]

    def _added(self, *sources: str) -> list[Any]:
        """One more row: those up to the last that is used, and the next."""
        used = max((n + 1 for n, source in enumerate(sources) if source != NOTHING), default=0)
        n = min(used + 1, MAX_EDITS)
        return [*(gr.update(visible=i < n) for i in range(MAX_EDITS)), gr.update(interactive=n < MAX_EDITS)]

    def _linked(self, *values: Any) -> list[Any]:
        try:
            link = to_link(self._state(values))
        except UnlatchError as error:
            return ["", self._noticed(str(error))]
        said = View(
            "done",
            message="The link is copied, and in the address bar. It opens on a page with the same sources.",
        )
        return [f"?{PARAMETER}={link}", self._said(said)]

    def _kept(self, name: str, saved: Any, *values: Any) -> list[Any]:
        """The state, added to the gallery."""
        try:
            state = self._state(values)
            link = to_link(state)
        except UnlatchError as error:
            return [gr.skip(), gr.skip(), gr.skip(), self._noticed(str(error))]
        name = (name or "").strip()[:MAX_SAVED_NAME] or state.prompt[:40].strip() or "no prompt"
        entries = [entry for entry in _readable(saved) if entry[0] != name]
        if len(entries) >= MAX_SAVED:
            full = f"The gallery holds {MAX_SAVED} states and is full; clear it first."
            return [gr.skip(), gr.skip(), gr.skip(), self._noticed(full)]
        entries.append((name, link, state))
        said = self._said(View("done", message=f"Saved as {name}."))
        return [[[name, link] for name, link, _ in entries], markup.gallery(entries), "", said]

    def _cleared(self) -> list[Any]:
        return [[], markup.gallery(())]

    def _opened(self, saved: Any, request: gr.Request) -> list[Any]:
        """What a page shows first: the state of its link, if it has one."""
        gallery = markup.gallery(_readable(saved))
        nothing = [gr.skip()] * (MAX_EDITS + 8 + 6 * MAX_EDITS)
        link = dict(request.query_params).get(PARAMETER)
        if not link:
            return [gr.skip(), gallery, *nothing]
        try:
            state = from_link(link)
            self._sources.edits(state)
        except UnlatchError as error:
            return [self._noticed(str(error)), gallery, *nothing]
        said = self._said(View("done", message="Opened from a link. Generate to see what it says."))
        visible = [gr.update(visible=n < max(1, len(state.edits))) for n in range(MAX_EDITS)]
        return [said, gallery, *visible, *self._values(state)]

    # --- between the form and a state

    def _state(self, values: Sequence[Any]) -> State:
        """What the controls say, in the order of ``_wire``.

        Raises:
            InputError: for an empty or impossible field.
        """
        prompt, system, think, positions, temperature, top_p, seed, new_tokens, *rest = values
        rows = [rest[at : at + 6] for at in range(0, len(rest), 6)]
        return State(
            prompt=str(prompt or ""),
            edits=tuple(self._edit(*row) for row in rows if row[1] not in (None, NOTHING)),
            positions=str(positions or ""),
            system=str(system or "") if self._has_template else "",
            think=THINK.get(think) if self._has_think else None,
            temperature=_number("temperature", temperature, float),
            top_p=_number("top-p", top_p, float),
            seed=_number("seed", seed, int),
            max_new_tokens=_number("new tokens", new_tokens, int),
        )

    def _edit(self, on: Any, source: Any, layer: Any, dose: Any, latent: Any, value: Any) -> AnyEdit:
        if source in self._sources.dictionaries:
            at, held = _number("latent", latent, int), _number("held at", value, float)
            return LatentEdit(dictionary=source, latent=at, value=held, on=bool(on))
        where, dose = _number("layer", layer, int), _number("dose", dose, float)
        return VectorEdit(vector=str(source), layer=where, dose=dose, on=bool(on))

    def _values(self, state: State) -> list[Any]:
        """The controls of a state, in the order of ``_wire``."""
        think = next(name for name, value in THINK.items() if value == state.think)
        values: list[Any] = [
            *(state.prompt, state.system, think, state.positions),
            *(state.temperature, state.top_p, state.seed, state.max_new_tokens),
        ]
        for n in range(MAX_EDITS):
            edit = state.edits[n] if n < len(state.edits) else None
            name = NOTHING
            if isinstance(edit, VectorEdit):
                name = edit.vector
            elif isinstance(edit, LatentEdit):
                name = edit.dictionary
            values += [edit is None or edit.on, name]
            values += [gr.update(**setting) for setting in self._shown(edit)]
        return values

    def _said(self, view: View) -> str:
        return self._anew(markup.status(view))

    def _noticed(self, message: str) -> str:
        return self._anew(markup.notice(message))

    def _anew(self, line: str) -> str:
        """Never the same twice: the browser shows only what has changed, and has written there itself."""
        return f"{line}<!-- {next(self._told)} -->"


def _number(what: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"The field for {what} holds no number; write one.") from None


def _readable(saved: Any) -> list[tuple[str, str, State]]:
    """What a browser kept, as far as it can be read: it may be of another version, or of another program."""
    found = []
    for entry in saved[:MAX_SAVED] if isinstance(saved, list) else []:
        try:
            name, link = entry
            found.append((str(name)[:MAX_SAVED_NAME], str(link), from_link(str(link))))
        except (TypeError, ValueError):
            continue
    return found


def theme() -> gr.themes.Base:
    """Calm greys and one blue, in the system's own fonts: nothing is fetched."""
    fonts = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    made = gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=fonts,
        font_mono=mono,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    )
    return made.set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#14181d",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_padding="0px",
        block_shadow="none",
        form_gap_width="0px",
        layout_gap="0.9rem",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="#cfd7df",
        input_border_color_dark="#3a444f",
        slider_color="#2468b2",
        slider_color_dark="#4f93db",
        checkbox_background_color_selected="#2468b2",
        checkbox_background_color_selected_dark="#2468b2",
        checkbox_border_color_selected="#2468b2",
        block_label_text_weight="500",
        block_title_text_weight="500",
        block_title_text_color="#1c2733",
        block_title_text_color_dark="#e4e9ee",
        block_info_text_color="#5c6874",
        block_info_text_color_dark="#9aa6b2",
        button_secondary_background_fill="#eef1f4",
        button_secondary_background_fill_hover="#e1e6eb",
        button_secondary_background_fill_dark="#262e37",
        button_secondary_background_fill_hover_dark="#323c47",
        button_large_text_weight="500",
        button_large_text_size="0.92rem",
        button_large_padding="0.5rem 1.1rem",
        background_fill_primary_dark="#14181d",
        background_fill_secondary_dark="#1d232a",
        border_color_primary="#dde3e9",
        border_color_primary_dark="#2e3741",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1d232a",
        button_primary_background_fill="#2468b2",
        button_primary_background_fill_hover="#1d5794",
        button_primary_background_fill_dark="#2468b2",
        button_primary_text_color="#ffffff",
    )


def style() -> str:
    return (Path(__file__).parent / "page.css").read_text("utf-8")


def script() -> str:
    return (Path(__file__).parent / "page.js").read_text("utf-8")
