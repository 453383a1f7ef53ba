# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where does knowledge sit, and where does reasoning?
#
# The published claim is that knowledge sits in lower layers and reasoning in higher ones. It rests on how
# alike two prompts look at each layer, which any two prompts would show. Here the question is put to a
# model causally, item by item, with one statistic that is chosen before the data are seen. `unlatch layers`
# does the same with more items, more methods and a report; this tour takes a minute or two on the bundled
# model.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses a widget that it never shows

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from analyses.items import two_families
from hooks import load
from interp.ablation import ablate
from interp.attribution import attribute
from interp.depth import depth_difference
from interp.lens import logit_lens
from interp.patching import patch

pio.renderers.default = "plotly_mimetype"  # data only: no script is put into the notebook
MODEL = "smollm2-135m-instruct"
lm = load(MODEL)
print(f"{lm.name}: {lm.n_layers} layers, d_model {lm.d_model}")

# %% [markdown]
# ## Items of two families
# Facts that the model has stored, and questions whose answer follows from the prompt alone; only those that
# it answers right, each with a partner whose subject alone differs, matched in length and confidence.

# %%
found = two_families(lm, per_kind=3, reasoning=48, most=8, least=5)
print(f"{len(found.knowledge)} matched pairs of items")
print(found.kinds("knowledge"), found.kinds("reasoning"))
for survivor in (found.knowledge[0], found.reasoning[0]):
    print(f"\n{survivor.item.prompt} -> {survivor.item.answer}")
    print(f"with {survivor.partner.subject}: {survivor.partner.answer}")
pairs = {family: [s.pair for s in found.of(family)] for family in ("knowledge", "reasoning")}

# %% [markdown]
# ## What each block adds, taken from the partner
# What attention and MLP of one block add is replaced by what they add in the partner's prompt: the loss of
# the logit difference says how much of what tells the two subjects apart that block writes. Dotted: a
# change of the same norm in a random direction.

# %%
COLOURS = {"knowledge": "#d9822b", "reasoning": "#2f7ed8"}
curves, floors = {}, {}
for family, mine in pairs.items():
    curves[family] = ablate(lm, mine, replacement="partner", where="onward").drop_in_difference
    floors[family] = ablate(lm, mine[:4], replacement="partner", where="onward", floor=0).drop_in_difference


def plot(curves, floors, title):
    figure = go.Figure()
    for family, colour in COLOURS.items():
        figure.add_scatter(y=curves[family].mean(0), name=family, line={"color": colour})
        if floors:
            figure.add_scatter(
                y=floors[family].mean(0), name=f"{family}, floor", line={"color": colour, "dash": "dot"}
            )
    figure.update_layout(template="none", height=300, xaxis_title="layer", yaxis_title=title)
    return figure


plot(curves, floors, "nats of the logit difference")

# %% [markdown]
# ## The statistic
# The centre of mass of each curve over depth, and reasoning less knowledge, with a bootstrap interval over
# matched pairs and a permutation test over the labels. With so few items it will often not be settled.

# %%
depth = depth_difference(curves["reasoning"], curves["knowledge"], paired=True, n_resamples=1000)
d = depth.difference
print(f"reasoning at layer {depth.reasoning.estimate:.1f}, knowledge at {depth.knowledge.estimate:.1f}")
print(
    f"difference {d.estimate:+.1f} layers [{d.low:+.1f}, {d.high:+.1f}], p = {depth.p_value:.2g}, n = {d.n}"
)

# %% [markdown]
# ## Where the subject is left, and where the answer arrives
# Clean activations put into the corrupted run, at the subject's tokens and at the last one. At the subject
# they help until later tokens have read them; at the last token, from where the answer has arrived.

# %%
for where in ("subject", "last"):
    recovery = {family: patch(lm, mine, where=where).recovery for family, mine in pairs.items()}
    halves = {f: int(np.argmax(np.abs(np.diff(np.nanmean(r, 0))))) + 1 for f, r in recovery.items()}
    print(f"{where}: the largest step is into layer {halves}")
plot(recovery, None, "recovery at the last token")

# %% [markdown]
# ## A first-order guess, held against exact patching
# Attribution does all sites in a few backward passes. How far to believe it is a number, not a habit.

# %%
few = pairs["knowledge"][:3]
print(attribute(lm, few, where="last", steps=4).against(lm, few))

# %% [markdown]
# ## What the last token says, layer by layer
# The logit lens: from which layer on the answer stays on top.

# %%
for family, mine in pairs.items():
    lens = logit_lens(lm, [pair.clean for pair in mine], [pair.answer for pair in mine])
    print(f"{family}: settled from layer {np.median(lens.settled):.0f} on (median of {len(mine)})")
assert all(lens.on_top[-1])  # the last layer is the model, which answers these right
