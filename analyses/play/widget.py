"""The two columns in a notebook: the page's session, with ipywidgets for its controls.

from analyses.play.widget import play
play(lm, {"verbosity": vector}, prompt="How many legs do 3 cats have?")
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets  # type: ignore[import-untyped]

from analyses.play import markup
from analyses.play.session import Session, View
from analyses.play.sources import GivenVector, Sources
from analyses.play.state import MAX_DOSE, MAX_NEW_TOKENS, State, VectorEdit
from hooks.errors import InputError, UnlatchError
from hooks.language_model import LanguageModel
from interp.steering_vector import SteeringVector

STYLE = """<style>
.play-w .play-answer { border: 1px solid #8884; border-radius: 8px; padding: .5rem .8rem; }
.play-w h3 { font-size: .8rem; margin: 0; opacity: .7; }
.play-w .play-text { white-space: pre-wrap; overflow-wrap: anywhere; min-height: 6rem; line-height: 1.5; }
.play-w .play-figures, .play-w .play-legend { font-size: .8rem; opacity: .75; margin: .3rem 0;
  line-height: 1.4;  overflow-wrap: anywhere; }
.play-w .plus { background: color-mix(in srgb, #e08214 calc(var(--w) * .6), transparent); }
.play-w .minus { background: color-mix(in srgb, #3288bd calc(var(--w) * .6), transparent); }
.play-w .play-readout { display: none; }
</style>"""


class Widget:
    """A prompt, one vector's layer and dose, and two columns that fill as the model answers.

    The answer is made on a thread of its own, so that Stop is heard.
    """

    def __init__(self, lm: LanguageModel, vectors: Mapping[str, SteeringVector], state: State) -> None:
        given = {name: GivenVector(name, vector) for name, vector in vectors.items()}
        self.session = Session(lm, Sources(given, {}))
        self.view: View | None = None
        """What is shown; None before the first answer."""

        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._build(state)
        self.show(View("done"))

    def _build(self, state: State) -> None:
        edit = state.edits[0] if state.edits else None
        if not isinstance(edit, VectorEdit):
            raise InputError("The widget shows one vector; use the page for latents.")
        layers = self.session.sources.vector(edit.vector).vector.layers
        wide = widgets.Layout(width="100%")
        self.prompt = widgets.Textarea(state.prompt, description="Prompt", rows=2, layout=wide)
        self.vector = widgets.Dropdown(
            options=list(self.session.sources.vectors), value=edit.vector, description="Vector"
        )
        self.layer = widgets.IntSlider(edit.layer, layers[0], layers[-1], description="Layer")
        self.dose = widgets.FloatSlider(edit.dose, min=-MAX_DOSE, max=MAX_DOSE, step=0.01, description="Dose")
        self.positions = widgets.Text(state.positions, description="Positions")
        self.temperature = widgets.FloatText(state.temperature, description="Temperature")
        self.seed = widgets.IntText(state.seed, description="Seed")
        self.new_tokens = widgets.BoundedIntText(
            state.max_new_tokens, min=1, max=MAX_NEW_TOKENS, description="New tokens"
        )
        self.generate = widgets.Button(description="Generate", button_style="primary")
        self.stop = widgets.Button(description="Stop")
        self.generate.on_click(self._clicked)
        self.stop.on_click(lambda _button: self._stop.set())
        self._base = state
        self._status, self._plain, self._steered, self._legend = (widgets.HTML() for _ in range(4))
        half = widgets.Layout(width="50%", padding="0 .4rem 0 0")
        for column in (self._plain, self._steered):
            column.layout = half
        sliders = widgets.HBox([self.vector, self.layer, self.dose])
        others = widgets.HBox([self.positions, self.temperature, self.seed, self.new_tokens])
        buttons = widgets.HBox([self.generate, self.stop, self._status])
        columns = widgets.HBox([self._plain, self._steered])
        self.box = widgets.VBox(
            [widgets.HTML(STYLE), self.prompt, sliders, others, buttons, columns, self._legend]
        )

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """As the last value of a cell it shows itself."""
        return self.box._repr_mimebundle_(**options)

    @property
    def state(self) -> State:
        """What the controls say.

        Raises:
            InputError: if it is out of bounds.
        """
        edit = VectorEdit(vector=self.vector.value, layer=self.layer.value, dose=float(self.dose.value))
        return replace(
            self._base,
            prompt=self.prompt.value,
            edits=(edit,),
            positions=self.positions.value,
            temperature=float(self.temperature.value),
            seed=self.seed.value,
            max_new_tokens=self.new_tokens.value,
        )

    def run(self) -> View:
        """Answer now, and return what is shown at the end."""
        view = View("refused")
        for view in self._views():
            self.show(view)
        return view

    def wait(self) -> None:
        """Until the answer that a click began has ended."""
        if self._thread is not None:
            self._thread.join()

    def show(self, view: View) -> None:
        """Put a view on screen."""
        self.view = view
        self._plain.value = _framed(markup.plain(view))
        self._steered.value = _framed(markup.steered(view))
        self._legend.value = _framed(markup.legend(view.scale))
        self._status.value = _framed(markup.status(view)) if view.plain.n_tokens or view.message else ""

    def _views(self) -> Iterator[View]:
        self._stop.clear()
        try:
            views = self.session.play(self.state)
        except UnlatchError as error:
            yield View("refused", message=str(error))
            return
        for view in views:
            if self._stop.is_set():
                views.close()  # type: ignore[attr-defined]
                yield replace(view, phase="done", message="Stopped; not measured.")
                return
            yield view

    def _clicked(self, _button: Any) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()


def play(
    lm: LanguageModel,
    vectors: Mapping[str, SteeringVector],
    *,
    prompt: str,
    layer: int | None = None,
    dose: float | None = None,
    max_new_tokens: int = 64,
) -> Widget:
    """The widget, with its controls set.

    Args:
        vectors: By name; the first one is chosen.
        layer: None takes the vector's own, or the middle one; so does ``dose``, or 0.2.

    Raises:
        InputError: without vectors, or for a setting out of bounds.
    """
    if not vectors:
        raise InputError("There is nothing to add: pass one vector or more, by name.")
    name = next(iter(vectors))
    start, strength = GivenVector(name, vectors[name]).start
    edit = VectorEdit(
        vector=name, layer=start if layer is None else layer, dose=strength if dose is None else dose
    )
    return Widget(lm, vectors, State(prompt=prompt, edits=(edit,), max_new_tokens=max_new_tokens))


def _framed(html: str) -> str:
    return f'<div class="play-w">{html}</div>'
