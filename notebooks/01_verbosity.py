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
# # Is verbosity one direction?
#
# A tour of the main job: contrast pairs, a vector with its reliability, a dose with its KL, and what the
# vector does to real answers beside a random direction and the prompt "Be concise.". It runs on the bundled
# model in a minute or two; change `MODEL` for another.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses a widget that it never shows

import plotly.graph_objects as go
import plotly.io as pio

from analyses.pairs import POLES, builtin_pairs
from analyses.tasks import word_problems
from hooks import generate, load
from hooks.chat import prompt_row
from hooks.positions import generated
from interp import contrast
from interp.controls import random_directions
from interp.dose import LastTokens, dose_for_kl, kl_cap, measure_kl

pio.renderers.default = "plotly_mimetype"  # data only: no script is put into the notebook
MODEL = "smollm2-135m-instruct"
lm = load(MODEL)
problems = word_problems()
print(f"{lm.name}: {lm.n_layers} layers, d_model {lm.d_model}")

# %% [markdown]
# ## The pairs
# The same problem, answered with equations alone and with a long explanation. Plus is toward brief.

# %%
pairs = builtin_pairs("verbosity", problems[:60], 8, seed=0)
print(pairs[0].prompt, "\n+", pairs[0].positive, "\n-", pairs[0].negative)

# %% [markdown]
# ## The vector, and whether to trust it
# `split_half` and `left_out` stand beside the 95th percentile of shuffled labels; `cos_matched` compares the
# vector with one that reads the same number of tokens of both poles.

# %%
vector = contrast(lm, pairs, poles=POLES["verbosity"], n_null=5)
for layer in range(0, lm.n_layers, 5):
    found, control = vector.reliability[layer], vector.length_control[layer]
    print(
        f"layer {layer:2}  split-half {found.split_half:.2f} (null {found.split_half_null:+.2f})  "
        f"left-out {found.left_out:.2f}  AUROC {found.auroc:.2f}  length-matched {control['cos_matched']:.2f}"
    )
assert vector.reliability[lm.n_layers // 2].trusted

# %% [markdown]
# ## The dose, and what it costs in KL
# The cap bounds the KL of one edited position; it is orders of magnitude more careful than the measured KL.

# %%
LAYER = lm.n_layers * 2 // 3
held_out = [prompt_row(lm.tokenizer, p.prompt) for p in problems[60:72]]
states = LastTokens(lm, held_out)
cap = kl_cap(states, vector, LAYER)
at_cap = measure_kl(states, vector, LAYER, cap.dose)
dose = dose_for_kl(states, vector, LAYER, target=0.2)
print(f"cap {cap.dose:.2g} (measured KL there {at_cap.mean:.1e} nats); dose of 0.2 nats: {dose:.2f}")
assert at_cap.p95 <= cap.eps

# %%
doses = [dose / 8, dose / 4, dose / 2, dose]
measured = [measure_kl(states, vector, LAYER, x).mean for x in doses]
figure = go.Figure(go.Scatter(x=doses, y=measured, mode="lines+markers"))
figure.update_layout(
    template="none", height=280, xaxis_title="dose", yaxis_title="KL, nats", yaxis_type="log"
)
print([f"{x:.2g}: {kl:.2g}" for x, kl in zip(doses, measured, strict=True)])
figure

# %% [markdown]
# ## What it does
# One batch, every row with its own edit: unedited, the vector, a random direction of the same norm, and the
# prompt that asks for the same. The receipt says what was written.

# %%
question = problems[75].prompt
random = random_directions(vector, 1, seed=0)[0]
answers = generate(
    lm,
    [question, question, question, f"{question}\n\nBe concise."],
    edits=[[], [vector.at(LAYER, dose=dose)], [random.at(LAYER, dose=dose)], []],
    max_new_tokens=64,
)
print(question)
for name, answer in zip(("unedited", "vector", "random", "prompt"), answers, strict=True):
    print(f"\n[{name}, {len(answer.tokens)} tokens]\n{answer.text}")

# %%
print(answers.receipt)
answers.receipt.check(generated, rows=[1, 2])
