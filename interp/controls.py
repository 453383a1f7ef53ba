"""What an effect must beat: directions that mean nothing, at the same norm and the same place."""

from dataclasses import replace

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
    change: Float[Tensor, "pos d_model"], *, seed: int, number: int
) -> Float[Tensor, "pos d_model"]:
    """A change of the same norm at each position, in a random direction: what any change of that size does.

    Args:
        number: Tells draws of one seed apart.
    """
    generator = torch.Generator().manual_seed(hash((seed, number)))
    drawn = torch.randn(change.shape, generator=generator).to(change)
    size: Tensor = change.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
    return drawn * size
