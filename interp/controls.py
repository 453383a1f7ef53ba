"""What a vector must beat: directions that mean nothing, at the same norm and the same layers."""

from dataclasses import replace

import torch

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
