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
# # A vector to play with
#
# A small vector, made here, and the two columns of `unlatch play` in a notebook: the same prompt answered
# plain and steered, from one batch, as it comes. Move the sliders and generate again. The page has more:
# several vectors and latents at once, links, a gallery (`unlatch play --vector FILE --dictionary bundled`).

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses a widget that it never shows

from analyses.pairs import POLES, builtin_pairs
from analyses.play.widget import play
from analyses.tasks import word_problems
from hooks import load, stream
from hooks.chat import prompt_row
from hooks.positions import generated
from interp import contrast
from interp.reread import reread

MODEL = "smollm2-135m-instruct"
lm = load(MODEL)

# %% [markdown]
# ## The vector
# Six pairs, one layer: enough to play with, too few to conclude anything from.

# %%
LAYER = lm.n_layers // 2
pairs = builtin_pairs("verbosity", word_problems()[:30], 6, seed=0)
vector = contrast(lm, pairs, poles=POLES["verbosity"], layers=[LAYER], n_null=1)
print(vector.poles, f"split-half {vector.reliability[LAYER].split_half:.2f}")

# %% [markdown]
# ## The widget
# `run` is what its button does, but waits for the end. Colours are each token's projection on the vector.

# %%
widget = play(lm, {"verbosity": vector}, prompt="Why is the sky blue?", dose=0.2, max_new_tokens=40)
shown = widget.run()
widget

# %%
for name, column in (("plain", shown.plain), ("steered", shown.steered)):
    print(f"[{name}: {column.n_tokens} tokens]\n{column.text}\n")
print(f"KL {shown.kl_nats:.3f} nats a token\n{shown.receipt}")
assert shown.kl_nats > 0
assert shown.plain.text != shown.steered.text

# %% [markdown]
# ## What is under it
# A stream yields the tokens of every row after each step, and ends with the generation that `generate` would
# have returned; reading the answers again gives one KL and one projection for each token.

# %%
edit = vector.at(LAYER, dose=0.2)
with stream(lm, ["Why is the sky blue?"] * 2, edits=[[], [edit]], max_new_tokens=12) as steps:
    for plain, steered in steps:
        print(
            f"{len(plain):2}  {lm.tokenizer.decode(plain)[-34:]!r:40}{lm.tokenizer.decode(steered)[-34:]!r}"
        )
made = steps.generation
made.receipt.check(generated, rows=[1])

# %%
row = prompt_row(lm.tokenizer, "Why is the sky blue?")
site, unit = edit.site, vector.direction(LAYER)
again = reread(lm, row, made[0].tokens, made[1].tokens, [edit], site=site, direction=unit)
for token, kl, x in zip(made[1].tokens, again.kl_nats, again.steered / vector.resid_norm[LAYER], strict=True):
    print(f"{lm.tokenizer.decode([token])!r:14} KL {kl:.3f} nats   projection {x:+.2f} doses")
