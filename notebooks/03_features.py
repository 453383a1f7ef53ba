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
# # Features: is there one that switches reasoning on?
#
# A sparse dictionary writes an activation as a few of many directions. Some of its latents are more active
# when a prompt asks for steps. Whether raising one of them makes the model take steps is another question,
# and needs problems that did not choose it, and random latents beside it. `unlatch mode` asks it in full;
# this tour takes a minute on the bundled model and its bundled dictionary.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses a widget that it never shows

import plotly.graph_objects as go
import plotly.io as pio
import torch

from analyses.steps import shows_step
from analyses.tasks import word_problems
from hooks import generate, load
from hooks.chat import prompt_row, response_row
from hooks.positions import everything, first, step
from interp.decompose import decompose
from interp.features import auroc, decoder_cosine, differential, matched_random, stability
from interp.token_activations import token_activations
from saes import BUNDLED, ShiftPreactivations, load_dictionary
from saes.activity import Activity, latent_activity
from saes.quality import quality

pio.renderers.default = "plotly_mimetype"  # data only: no script is put into the notebook
lm = load("smollm2-135m-instruct")
sae = load_dictionary(BUNDLED, lm).requires_grad_(False)
site = sae.origin.site
n_trained = sae.origin.metadata["training_vectors"]
print(f"{type(sae).__name__} of {sae.d_sae} latents at {site}; trained on {n_trained:,} activations")

# %% [markdown]
# ## What it keeps
# The model run on the reconstruction, beside a PCA of as many directions, an untrained dictionary and the
# mean. Problems like these were in its training text, so this is its home ground; the card has the rest.

# %%
problems = word_problems(60, seed=11)
texts = [response_row(lm.tokenizer, p.prompt, p.solutions["long"]) for p in problems[:4]]
judged = quality(lm, texts, sae, positions=everything - first(1))
for name in ("dictionary", "pca", "random", "mean"):
    of = getattr(judged, name)
    print(f"{name:10}  FVU {of.fvu:.3f}  loss added {of.ce_nats - judged.clean_ce_nats:+.3f} nats")
print(f"L0 {judged.l0:.0f}, n = {judged.n_tokens} tokens")

# %% [markdown]
# ## Which latents tell the two prompts apart
# At the token that produces the first of the response, over problems that are put in two ways. The p-values
# are of tests that hold for any distribution, and the false discovery rate is over all living latents.

# %%
COT, DIRECT = "Let's think step by step.", "The answer is a single number. Write only that number."
fit, confirm = problems[:16], problems[40:50]
rows = [[prompt_row(lm.tokenizer, f"{p.prompt}\n\n{asked}") for p in fit] for asked in (COT, DIRECT)]
x = [torch.from_numpy(token_activations(lm, of, [site])[0]) for of in rows]
z = [sae.encode(of) for of in x]
activity = Activity.load(BUNDLED, sae.d_sae)
alive = activity.density > 1e-5
rankings = [differential(*z), auroc(*z), decoder_cosine(sae, *x)]
for ranking in rankings:
    found = int((ranking.q_value(alive) < 0.05).sum())
    print(f"{ranking.selector:15} top {ranking.top(6, alive)}  {found} of {int(alive.sum())} at a rate of 5%")
stable = stability(differential, *z, 6, alive=alive, n_resamples=20)
top = rankings[0].top(6, alive)
print("share of resamples in which each is in the top six:", {j: float(stable[j]) for j in top})

# %% [markdown]
# ## Where the first of them fires
# The texts in which it is largest, one place a text. What a latent "is" is read off such texts; it is a
# guess until an edit shows it.

# %%
latent = top[0]
found = latent_activity(lm, texts, sae, positions=everything - first(1), top=3)
for place in range(3):
    row, at = int(found.top_row[place, latent]), int(found.top_position[place, latent])
    if row >= 0:
        piece = lm.tokenizer.decode(texts[row].tokens[max(0, at - 12) : at + 1])
        print(f"{float(found.top_value[place, latent]):6.1f}  …{piece!r}")

# %% [markdown]
# ## The contrast vector in the dictionary's words
# How much of the difference between the two prompts a few decoder rows can write, beside what the same number
# of rows makes of random vectors of the same norm.

# %%
vector = (x[0] - x[1]).mean(0)
parts = decompose(vector, sae, k=16)
print(parts)

# %% [markdown]
# ## Raised for one step
# The latent's pre-activation is raised at one token, by its largest activation, under the prompt that asks
# for the answer alone; beside it three latents that are as frequent and write as much. Would a random one do
# as well, its bar would stand as high. With so few problems a difference of a third can hide.

# %%
value = float(activity.max_activation[latent])
others = matched_random(sae, activity, latent, 3, exclude=top)
prompts = [f"{p.prompt}\n\n{DIRECT}" for p in confirm]
shares = {}
for name, edited in {
    "direct": None,
    f"latent {latent}": latent,
    **{f"random {j}": j for j in others},
}.items():
    edits = [] if edited is None else [ShiftPreactivations(site, sae, {edited: value}, step(0))]
    made = generate(lm, prompts, edits=edits, max_new_tokens=32)
    if edits:
        made.receipt.check(step(0))
    shares[name] = sum(map(shows_step, made.texts)) / len(prompts)
print(shares, f"n = {len(prompts)}")
go.Figure(go.Bar(x=list(shares), y=list(shares.values()))).update_yaxes(
    title="responses that show a step", range=[0, 1]
)
