"""What a 70B model and a billion tokens would take: time, GPUs, memory and disk, from measured costs.

    python -m benchmarks.scale [runs/bench-.../results.json]

Given results of ``make bench``, takes what it measured into ``benchmarks/scale.json`` first; then writes
``docs/scale.md``. No GPU has been measured: what a GPU does with the bare model is assumed, as a range;
what this toolkit adds to the bare model is measured, here, as a ratio.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hooks.errors import InputError

INPUTS, PAGE = Path(__file__).with_name("scale.json"), Path(__file__).parents[1] / "docs" / "scale.md"

TOKENS, CONTEXT = 10**9, 1024
"""What is read, and how long its rows are."""

Range = tuple[float, float]
"""The good and the bad end of what is assumed, in this order."""


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama kind, in bfloat16."""

    name: str
    n_layers: int
    d_model: int
    kv_heads: int
    d_head: int
    n_heads: int
    d_mlp: int
    d_vocab: int

    @property
    def block_weights(self) -> int:
        """Of all blocks: queries and outputs, keys and values, and the three matrices of the MLP."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.kv_heads)
        return self.n_layers * (attention + 3 * self.d_model * self.d_mlp)

    @property
    def weight_bytes(self) -> int:
        """With an embedding and an unembedding of their own."""
        return 2 * (self.block_weights + 2 * self.d_vocab * self.d_model)

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token."""
        return 2 * 2 * self.n_layers * self.kv_heads * self.d_head

    @property
    def site_bytes(self) -> int:
        """The activation of one token at one site."""
        return 2 * self.d_model

    def operations(self, *, context: int, unembedding: bool) -> int:
        """Of one token: two for each weight, and attention over ``context`` tokens."""
        weights = self.block_weights + (self.d_vocab * self.d_model if unembedding else 0)
        return 2 * weights + 4 * self.n_layers * self.n_heads * self.d_head * context


@dataclass(frozen=True)
class Gpu:
    """As its maker's data sheet has it."""

    name: str
    memory: float
    """Bytes."""

    flops: float
    """Dense bfloat16 operations a second."""

    bandwidth: float
    """Bytes a second from its memory."""


@dataclass(frozen=True)
class Setting:
    """How one model, or several copies of it, lie on GPUs."""

    gpu: Gpu
    n: int
    """GPUs of one copy."""

    tensor: bool
    """All of them work on every layer; else each holds some layers, and one works at a time."""

    copies: int = 1

    def __str__(self) -> str:
        how = 'tp_plan="auto"' if self.tensor else 'device_map="auto"'
        copies = f"{self.copies} copies of " if self.copies > 1 else ""
        return f"{copies}{self.n} x {self.gpu.name}, `{how}`"

    def working(self, efficiency: float) -> float:
        """GPUs' worth of work of one copy."""
        return self.n * efficiency if self.tensor and self.n > 1 else 1.0


@dataclass(frozen=True)
class Assumed:
    """What was not measured here."""

    utilisation: Range = (0.5, 0.3)
    """Share of the arithmetic that long prompts reach in transformers on one GPU."""

    reading: Range = (0.8, 0.5)
    """Share of the memory bandwidth that decoding reaches."""

    launch: Range = (1e-4, 2.5e-4)
    """Seconds a layer that a decoding step takes to be launched from Python, however small."""

    tensor: Range = (0.85, 0.6)
    """Share of n GPUs' work that n GPUs do together on one layer."""

    room: float = 0.9
    """Share of a GPU's memory that may be filled."""


LLAMA_70B = Shape(
    "Llama-3-70B", n_layers=80, d_model=8192, kv_heads=8, d_head=128, n_heads=64, d_mlp=28672, d_vocab=128256
)
A100 = Gpu("A100 80 GB", 80e9, 312e12, 2.0e12)
H100 = Gpu("H100 SXM 80 GB", 80e9, 989e12, 3.35e12)
H200 = Gpu("H200 141 GB", 141e9, 989e12, 4.8e12)
SETTINGS = (
    Setting(A100, 4, tensor=False),
    Setting(H200, 2, tensor=False),
    Setting(H100, 4, tensor=False),
    Setting(H100, 8, tensor=True),
    Setting(H100, 8, tensor=True, copies=8),
)
ASSUMED = Assumed()


def capture_seconds(
    shape: Shape, setting: Setting, share: float, *, context: int, bad: bool = False
) -> float:
    """To read every layer of :data:`TOKENS` tokens: the body's arithmetic over what the GPUs do of it.

        tokens x operations / (flops x share x GPUs that work)

    Args:
        share: Of a GPU's arithmetic that a capture reaches.
        context: Tokens of a row; a token attends to half of them on average.
        bad: Take the bad end of what is assumed of several GPUs.
    """
    work = TOKENS * shape.operations(context=context // 2, unembedding=False)
    rate = setting.gpu.flops * share * setting.working(ASSUMED.tensor[bad])
    return work / rate / setting.copies


def rows_that_fit(shape: Shape, setting: Setting, *, context: int) -> int:
    """Rows of a step whose keys and values fit beside the weights; 0 where the weights do not fit."""
    free = setting.n * setting.gpu.memory * ASSUMED.room - shape.weight_bytes
    return max(0, int(free // (shape.kv_bytes * context)))


def step_seconds(
    shape: Shape, setting: Setting, rows: int, overhead: float, *, context: int, bad: bool = False
) -> float:
    """Of one token of ``rows`` rows: reading or arithmetic, whichever is slower, and launching it."""
    working = setting.working(ASSUMED.tensor[bad])
    read = shape.weight_bytes + rows * context * shape.kv_bytes
    reading = read / (setting.gpu.bandwidth * ASSUMED.reading[bad] * working)
    operations = rows * shape.operations(context=context, unembedding=True)
    arithmetic = operations / (setting.gpu.flops * ASSUMED.utilisation[bad] * working)
    return (max(reading, arithmetic) + shape.n_layers * ASSUMED.launch[bad]) * overhead


def decoding_rate(
    shape: Shape, setting: Setting, overhead: float, *, context: int, most_rows: int = 256, bad: bool = False
) -> float:
    """Tokens a second of all copies, each with as many rows as fit, up to ``most_rows``."""
    rows = min(most_rows, rows_that_fit(shape, setting, context=context))
    seconds = step_seconds(shape, setting, rows, overhead, context=context, bad=bad)
    return setting.copies * rows / seconds


def measured(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs of a run of ``make bench``.

    Raises:
        InputError: if a benchmark that it needs is missing from it.
    """
    if missing := {"capture", "generation", "decoding"} - results["results"].keys():
        raise InputError(f"The results hold no {', '.join(sorted(missing))}; run `make bench` whole.")
    facts = {name: result["facts"] for name, result in results["results"].items()}
    environment = results["environment"]
    decoding = {
        name.split("_")[-2]: value for name, value in facts["decoding"].items() if name.startswith("fraction")
    }
    return {
        "quick": environment["quick"],
        "model": environment["model"],
        "machine": f"{environment['processor']}, {environment['threads']} threads, {environment['dtype']}",
        "versions": {name: environment["versions"][name] for name in ("torch", "transformers")},
        "capture_over_bare_body": facts["capture"]["over_bare_body"],
        "capture_fraction_of_ceiling": facts["capture"]["fraction_of_ceiling"],
        "steered_over_unsteered": facts["generation"]["steered_over_unsteered"],
        "decoding_fraction_of_ceiling_by_rows": decoding,
    }


def render(inputs: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    sections = (
        _head(inputs),
        _model(LLAMA_70B),
        _reading(LLAMA_70B, inputs),
        _steering(LLAMA_70B, inputs),
        HOW_TO_RUN,
    )
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _head(inputs: Mapping[str, Any]) -> str:
    by_rows = inputs["decoding_fraction_of_ceiling_by_rows"].items()
    versions = ", ".join(f"{name} {version}" for name, version in inputs["versions"].items())
    launch = f"{1e3 * ASSUMED.launch[0]:g} to {1e3 * ASSUMED.launch[1]:g} ms"
    quick = "\n> **What is called measured below is of a quick run, which measures nothing.**\n"
    return f"""
# 70B and a billion tokens

What it would take to run this toolkit on {LLAMA_70B.name}, and to read a billion tokens of activations.
Written by `python -m benchmarks.scale` from `benchmarks/scale.json`; do not edit it by hand.
{quick if inputs["quick"] else ""}
**Measured** ({inputs["model"]}; {inputs["machine"]}; {versions}):

| what | value |
| --- | --- |
| capture of every layer, over the bare body | {inputs["capture_over_bare_body"]:.3f} |
| steered generation, over unsteered | {inputs["steered_over_unsteered"]:.3f} |
| capture, share of the machine's arithmetic ceiling | {inputs["capture_fraction_of_ceiling"]:.0%} |
| decoding, share of it, by rows | {", ".join(f"{rows}: {share:.0%}" for rows, share in by_rows)} |

**Assumed, since no GPU has been measured**, from a good end to a bad one, in this order throughout:

| what | range |
| --- | --- |
| long prompts: share of a GPU's dense bfloat16 arithmetic | {_percents(ASSUMED.utilisation)} |
| decoding: share of its memory bandwidth | {_percents(ASSUMED.reading)} |
| decoding: launching one layer from Python | {launch} |
| n GPUs on one layer: share of n times one GPU | {_percents(ASSUMED.tensor)} |
| memory that may be filled | {ASSUMED.room:.0%} |
| the data sheets | {"; ".join(_sheet(gpu) for gpu in (A100, H100, H200))} |

The two overheads carry over as ratios; one below 1 is taken as 1. They are likely to be smaller on a GPU
for long prompts, whose kernels hide the hooks, and larger for decoding a few rows, where Python is what is
waited for.
"""


def _model(shape: Shape) -> str:
    gflop = shape.operations(context=CONTEXT // 2, unembedding=False) / 1e9
    heads = f"{shape.n_heads} heads and {shape.kv_heads} key-value heads of {shape.d_head}"
    return f"""
## The model

{shape.n_layers} layers, d_model {shape.d_model}, {heads}, d_mlp {shape.d_mlp},
d_vocab {shape.d_vocab}; in bfloat16:

- weights {shape.weight_bytes / 1e9:.0f} GB: two GPUs of 80 GB hold them and little else;
- {gflop:.0f} GFLOP for a token of a {CONTEXT}-token prompt, without the unembedding, which a capture never
  computes;
- keys and values {shape.kv_bytes / 2**10:.0f} KiB a token: {256 * CONTEXT * shape.kv_bytes / 1e9:.0f} GB for
  256 rows of {CONTEXT} tokens.
"""


def _reading(shape: Shape, inputs: Mapping[str, Any]) -> str:
    overhead = max(1.0, inputs["capture_over_bare_body"])
    shares = (ASSUMED.utilisation[0] / overhead, ASSUMED.utilisation[1] / overhead)
    here, sites = inputs["capture_fraction_of_ceiling"], shape.n_layers
    captures = "\n".join(_capture_row(shape, setting, shares, here) for setting in SETTINGS)
    best = capture_seconds(shape, SETTINGS[3], shares[0], context=CONTEXT)
    moments = 8 * (shape.d_model**2 + shape.d_model)
    kept = {
        "every activation": TOKENS * shape.site_bytes,
        "one token in 100": TOKENS * shape.site_bytes / 100,
        "mean and covariance, in float64": moments,
        "mean alone, in float64": 8 * shape.d_model,
    }
    disk = "\n".join(f"| {what} | {_size(n)} | {_size(sites * n)} |" for what, n in kept.items())
    one, every = TOKENS * shape.site_bytes / best, sites * TOKENS * shape.site_bytes / best
    return f"""
## Reading a billion tokens

Every layer's residual stream, rows of {CONTEXT} tokens. One pass gives all layers, so one layer costs as much
as all that lie below it.

| setting | hours | GPU hours | hours at the {here:.0%} measured here |
| --- | --- | --- | --- |
{captures}

`device_map="auto"` puts some layers on each GPU, and one works at a time: it makes a model fit, not fast.

What the passes leave on disk is the larger question. {_size(shape.site_bytes)} a token and site in bfloat16:

| kept of {TOKENS:,} tokens | one site | all {sites} layers |
| --- | --- | --- |
{disk}

On {SETTINGS[3]} all layers would come at {_size(every)} a second, more than disks take; one
layer at {_size(one)}, which one disk does. Hence: sums as the model runs (`hooks.capture.stream`;
contrast vectors keep little else), and every activation for a layer or two at most, where a dictionary is
trained on them. A contrast vector itself needs 300 pairs, some 200,000 tokens:
{_minutes(best * 2e5 / TOKENS)} on that setting.
"""


def _steering(shape: Shape, inputs: Mapping[str, Any]) -> str:
    overhead = max(1.0, inputs["steered_over_unsteered"])
    layers, doses, prompts, new = shape.n_layers, 4, 64, 256
    tokens = layers * doses * prompts * new
    decodings = "\n".join(_decoding_row(shape, setting, overhead, tokens) for setting in SETTINGS)
    ends = [step_seconds(shape, SETTINGS[3], 1, overhead, context=CONTEXT, bad=bad) for bad in (False, True)]
    return f"""
## Steering

Decoding at {CONTEXT} tokens of context, as many rows as fit, 256 at most. A sweep of {layers} layers x
{doses} doses over {prompts} prompts of {new} new tokens makes {tokens / 1e6:.1f} million; the prefill of its
prompts, which all cells share, is nothing beside them.

| setting | rows | tokens a second | hours of the sweep |
| --- | --- | --- | --- |
{decodings}

A step reads every weight once, whatever its rows; the sweep's packed rows are what fills it. One row at a
time reads them for each token: {_span([1 / seconds for seconds in ends])} tokens a second on
{SETTINGS[3]}.
"""


HOW_TO_RUN = """
## How to run it

One process, layers spread over the GPUs that it sees, then over main memory and disk:

``` { .python data-run="meta-llama/Llama-3.3-70B-Instruct -> smollm2-135m-instruct" }
from hooks import load

lm = load("meta-llama/Llama-3.3-70B-Instruct", device_map="auto")
```

Every GPU on every layer: transformers' own tensor parallelism, one process for each GPU. `load` does not
pass a plan, so the model is adopted:

``` { .python data-run="AutoModelForCausalLM.from_pretrained(name, -> bundled_model(; \
AutoTokenizer.from_pretrained(name) -> bundled_tokenizer()" }
# torchrun --nproc-per-node 8 script.py
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooks import adopt

name = "meta-llama/Llama-3.3-70B-Instruct"
model = AutoModelForCausalLM.from_pretrained(name, tp_plan="auto").eval()
lm = adopt(model, AutoTokenizer.from_pretrained(name))
```

The residual stream is whole in every process, so sites, edits and receipts mean what they mean on one GPU,
and every process computes the same. This was run with two processes on a CPU and a tiny Llama, whose steered
tokens equalled those of one process; on GPUs it was not. The fingerprint of weights that are shared out
cannot be computed yet, so a vector is made, saved and checked with `device_map="auto"`; `capture`,
`inject` and `generate` need none.

Copies of the model, each with its own share of a run's work:

```bash
unlatch verbosity --model meta-llama/Llama-3.3-70B-Instruct --ray ADDRESS --out runs/70b
```

Ray gives each of its workers one GPU, which has to hold a whole model: in bfloat16, up to about 30B on
80 GB. The row of copies above is what workers of eight GPUs would make of a 70B one. A run's chunks are
independent, so nothing but that count is in the way.
"""


def write(inputs: Mapping[str, Any]) -> Path:
    """Write the page; returns its path."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(inputs), encoding="utf-8")
    return PAGE


def _capture_row(shape: Shape, setting: Setting, shares: Range, here: float) -> str:
    ends, at_ours = (
        [capture_seconds(shape, setting, pair[bad], context=CONTEXT, bad=bool(bad)) for bad in (0, 1)]
        for pair in (shares, (here, here))
    )
    gpus = setting.n * setting.copies
    return f"| {setting} | {_hours(ends)} | {_hours([gpus * s for s in ends])} | {_hours(at_ours)} |"


def _decoding_row(shape: Shape, setting: Setting, overhead: float, tokens: int) -> str:
    rates = [decoding_rate(shape, setting, overhead, context=CONTEXT, bad=bad) for bad in (False, True)]
    rows = min(256, rows_that_fit(shape, setting, context=CONTEXT))
    each = f"{setting.copies} x {rows}" if setting.copies > 1 else f"{rows}"
    return f"| {setting} | {each} | {_span(rates)} | {_hours([tokens / rate for rate in rates])} |"


def _hours(seconds: list[float]) -> str:
    return _span([s / 3600 for s in seconds])


def _span(values: list[float]) -> str:
    """The good end and the bad one, to two digits."""
    good, bad = (f"{float(f'{value:.2g}'):,g}" for value in values)
    return good if good == bad else f"{good} to {bad}"


def _size(n: float) -> str:
    """Bytes in the largest decimal unit, to three digits."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= unit:
            return f"{n / unit:.3g} {name}"
    return f"{n:.3g} bytes"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _percents(ends: Range) -> str:
    return f"{ends[0]:.0%} to {ends[1]:.0%}"


def _sheet(gpu: Gpu) -> str:
    return f"{gpu.name}: {gpu.flops / 1e12:g} TFLOP/s, {gpu.bandwidth / 1e12:g} TB/s"


if __name__ == "__main__":
    if sys.argv[1:]:
        found = measured(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        INPUTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(write(json.loads(INPUTS.read_text(encoding="utf-8"))))
