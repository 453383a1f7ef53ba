"""One latent of a sparse dictionary, raised at the token that produces the first of the response."""

import torch

from analyses.dictionaries.chosen import chosen_dictionary, folder_of
from analyses.dictionaries.first_step import at_first_step
from analyses.elicit.key import Bench, Key, best
from hooks.edits import Edit
from hooks.errors import InputError
from hooks.positions import step
from interp.features import differential, matched_random
from saes import ShiftPreactivations
from saes.activity import LATENTS, Activity


def make(bench: Bench) -> Key:
    """The latent that opens most select problems, of those that the prompt for steps raises most.

    Matched random latents are its controls.

    Raises:
        InputError: if the dictionary has no statistics of its latents with it.

    Source: He et al. 2026, arXiv:2601.08058. ``unlatch mode`` is the whole experiment.
    """
    config, lm = bench.config, bench.lm
    assert config.dictionary is not None
    dictionary, site = chosen_dictionary(config.dictionary, lm, any_model=config.any_model)
    folder = folder_of(config.dictionary)
    if not (folder / LATENTS).exists():
        raise InputError(
            f"{config.dictionary} has no {LATENTS}, which says how active its latents are. `unlatch "
            "sae-train` writes one, and saes.activity.latent_activity computes it for any dictionary."
        )
    activity = Activity.load(folder, dictionary.d_sae)
    with torch.no_grad():
        steps, answer = (
            dictionary.encode(at_first_step(lm, site, bench.fit, text, think=config.think))
            for text in (config.cot_prompt, config.direct_prompt)
        )
    ranking = differential(steps, answer)

    def raised(latent: int, value: float) -> tuple[Edit, ...]:
        return (ShiftPreactivations(site, dictionary, {latent: value}, step(0), any_model=config.any_model),)

    candidates = [
        Key(
            f"feature:{latent}:{strength:g}",
            "",
            edits=raised(latent, strength * float(activity.max_activation[latent])),
            chosen={"latent": latent, "strength": strength},
        )
        for latent in ranking.top(config.n_latents, activity.density > 0)
        for strength in config.strengths
    ]
    found, table = best(bench, candidates)
    latent, strength = found.chosen["latent"], found.chosen["strength"]
    value = strength * float(activity.max_activation[latent])
    norm = dictionary.W_dec.norm(dim=-1)
    tried = sorted({row["latent"] for row in table})
    others = matched_random(dictionary, activity, latent, config.n_random, exclude=tried, seed=config.seed)
    return Key(
        "feature",
        f"latent {latent} of {site}, raised for one step by {strength:g} of its largest activation",
        edits=found.edits,
        controls={f"random:{o}": raised(o, value * float(norm[latent] / norm[o])) for o in others},
        chosen={"latent": latent, "strength": strength, "site": str(site), "tried": table},
    )
