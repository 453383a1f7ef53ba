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
# # Keys: what opens a problem that the model fails?
#
# A prompt, a few examples, a first word, another way of decoding, many samples: each opens problems that the
# plain prompt does not. `unlatch elicit` tries all of them on the same problems, with what chose them kept
# apart from what scores them; `unlatch passk` asks what many samples reach, `unlatch thinking` what a thought
# does. This tour takes two minutes on the bundled model, on a few problems: it shows the keys, and settles
# nothing.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses a widget that it never shows

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from analyses.tasks import judge, load_problems
from hooks import generate, load
from interp.decoding import cot_decode, forced, self_consistency
from interp.info_gain import Question, thought_gains
from interp.passk import pass_at_k

pio.renderers.default = "plotly_mimetype"  # data only: no script is put into the notebook
lm = load("smollm2-135m-instruct")
problems = load_problems("word-problems@1", n=8, seed=4)
prompts = [problem.prompt for problem in problems]


def solved(texts):
    return np.array([judge(p, text).correct for p, text in zip(problems, texts, strict=True)])


# %% [markdown]
# ## The same problems under five keys
# n = 8: a difference of one or two problems says nothing. `unlatch elicit` gives intervals, controls, and
# accuracy at equal cost.

# %%
budget = 64
opened = {
    "plain": solved(generate(lm, prompts, max_new_tokens=budget).texts),
    "steps": solved(
        generate(lm, [f"{p}\n\nLet's think step by step." for p in prompts], max_new_tokens=budget).texts
    ),
    "forced": solved([made.text for made in forced(lm, prompts, "Step 1:", max_new_tokens=budget)]),
}
decoded = cot_decode(lm, prompts, k=4, max_new_tokens=budget)
opened["CoT-decoding"] = solved([found.best.text for found in decoded])
voted = self_consistency(lm, prompts, n=4, max_new_tokens=budget, seed=1)
opened["votes"] = np.array(
    [judge(p, v.answer or "").correct for p, v in zip(problems, voted, strict=True)], dtype=bool
)
for name, right in opened.items():
    print(f"{name:13} {right.sum():2} of {len(right)}   {''.join('x' if r else '.' for r in right)}")

# %% [markdown]
# ## Is the model surer of an answer that is right?
# CoT-decoding takes the path whose answer has the largest margin between the two likeliest tokens.

# %%
paths = [(p, path) for p, found in zip(problems, decoded, strict=True) for path in found.paths]
right = np.array([judge(p, path.text).correct for p, path in paths])
delta = np.array([path.delta for _, path in paths])
figure = go.Figure()
for name, chosen in (("right", right), ("wrong", ~right)):
    figure.add_histogram(
        x=delta[chosen], name=f"{name}, n = {chosen.sum()}", xbins={"start": 0, "end": 1, "size": 0.1}
    )
figure.update_layout(barmode="overlay", xaxis_title="margin over the answer", yaxis_title="paths", height=320)
figure.update_traces(opacity=0.6)
figure.show()
best = max((pair for pair in paths if pair[1].answer), key=lambda pair: pair[1].delta)
print("the surest path:", repr(best[1].text[:160]), "gold", best[0].answer)

# %% [markdown]
# ## What more samples reach
# Without bias, from the votes' samples.

# %%
correct = np.array(
    [sum(judge(p, s.text).correct for s in v.samples) for p, v in zip(problems, voted, strict=True)]
)
curve = pass_at_k(correct, 4, ks=(1, 2, 4))
for k, value in zip(curve.k, curve.mean, strict=True):
    print(f"pass@{k}: {value.estimate:.0%} [{value.low:.0%}, {value.high:.0%}]  n = {value.n}")

# %% [markdown]
# ## What a thought brings the right answer
# In nats: its own thought, a worked solution, the same words in random order, the thought of another problem,
# and random tokens, all equally long. No answer is generated, so nothing is at a floor.

# %%
questions = [
    Question(p.prompt, f" {p.answer}", found.greedy.text, p.solutions["long"])
    for p, found in zip(problems, decoded, strict=True)
]
gains = thought_gains(lm, questions, max_tokens=48)
for (kind, value), states in zip(gains.total.gain.items(), gains.states_answer, strict=True):
    print(
        f"{kind:9} {value.estimate:+.2f} [{value.low:+.2f}, {value.high:+.2f}] nats; "
        f"states the answer in {states.sum()} of {value.n}"
    )

# %% [markdown]
# A worked solution that states the answer gains by being copied; compare with the other problem's thought
# before a gain is called reasoning.
