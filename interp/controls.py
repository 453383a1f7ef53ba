"""What an effect must beat: directions that mean nothing, at the same norm and the same place."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.steering_vector import SteeringVector


def random_directions(vector: SteeringVector, n: int, *, seed: int = 0) -> list[SteeringVector]:
    """``n`` vectors with a random direction at each layer and the dose unit of ``vector``.

    Directions are uniform on the sphere; at equal dose they have the norm of ``vector``'s edit.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        replace(
            vector,
            vectors={layer: torch.randn(vector.d_model, generator=generator) for layer in vector.layers},
            estimator="random direction",
            reliability={},
            length_control={},
            recommended=None,
            sign_test=None,
        )
        for _ in range(n)
    ]


def redirected(
    change: Float[Tensor, "pos d_model"], *, seed: int, draw: Sequence[int]
) -> Float[Tensor, "pos d_model"]:
    """A change of the same norm at each position, in a random direction: what any change of that size does.

    Args:
        draw: Tells draws of one seed apart, such as the pair and the site.
    """
    state = np.random.SeedSequence((seed, *draw)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    drawn = torch.randn(change.shape, generator=generator).to(change)
    size: Tensor = change.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
    return drawn * size


def astray(
    own: Float[Tensor, "pos d_model"],
    value: Float[Tensor, "pos d_model"],
    *,
    seed: int,
    draw: Sequence[int],
) -> Float[Tensor, "pos d_model"]:
    """What the floor puts in place of ``own``: as far from it as ``value``, in a random direction.

    Args:
        draw: As in :func:`redirected`.
    """
    return own + redirected(value.to(own) - own, seed=seed, draw=draw)
