"""What a vector is made of in the words of a dictionary, and what the dictionary cannot say of it.

    v  =  Σ_j a_j W_dec[j]  +  residual,     a_j >= 0,  at most k of them not zero

by orthogonal matching pursuit. Beginning with residual = v, k times: take the latent whose row points most
along the residual, the largest W_dec[j] · residual / |W_dec[j]|, and fit the a_j of all that were taken
again, by non-negative least squares. It ends before k where no row points along what is left. At such a
fit the parts are orthogonal to the residual, so that

    explained  =  1 - |residual|² / |v|²  =  cos(parts, v)².

Planted combinations come back better by this than along the path of a non-negative lasso: of 10 among 500
rows in 96 dimensions, with noise of 0.3 |v|, 98% of the latents to 78%, and coefficients with an error of
13% to 59%, since the lasso shrinks them, or 37% once fitted again.

Any dictionary of more latents than dimensions explains something of anything; so beside it stands what the
same k latents explain of random directions. And v is not encoded, as activations are: it is a difference of
them, in which b_dec cancels and which is far from whatever the encoder has learnt to read.

A contrast is as much what its second pole has as what its first has. Latents of the second would need
a_j < 0, and are in the residual here: decompose -v to see them.

Sources: Bruckstein, Elad and Zibulevsky 2008, "On the Uniqueness of Nonnegative Sparse Solutions to
Underdetermined Systems of Equations", for the pursuit; Mayne et al. 2024, "Can Sparse Autoencoders Be Used
to Decompose and Interpret Steering Vectors?", arXiv:2411.08790, for why not to encode v, and for a_j < 0.
Differs from the sources: the control.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from scipy.optimize import nnls
from torch import Tensor

from hooks.edits import Add, check_vector, widened
from hooks.errors import InputError, VectorError
from hooks.sites import Site
from interp.stats import Band, band, permutation_p
from saes.dictionary import Dictionary, check_site

ROUNDING = 1e-6
"""What is left of a vector below this share of its norm is float32 rounding, and counts as nothing."""

SAME = 1 - 1e-4
"""Cosine above which two vectors are the same but for rounding and size."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """A vector as parts along single latents, and a residual."""

    vector: Float[Tensor, " d_model"]
    latents: tuple[int, ...]
    """Of the parts, the longest one first; fewer than k where more would explain nothing."""

    coefficients: Float[Tensor, " part"]
    """a_j of each of ``latents``: what its row of ``W_dec`` is multiplied by."""

    parts: Float[Tensor, " d_model"]
    """Their sum."""

    residual: Float[Tensor, " d_model"]
    """What is left of the vector."""

    explained: Float64[np.ndarray, " k"]
    """Share of |v|² in up to 1, 2, .. k parts; never falls."""

    control: tuple[Band, ...]
    """The same of random directions, or of the vectors that were given as controls: 5% to 95% of them."""

    p_value: float
    """One-sided, of the last of ``explained`` against the controls; never below 1 / (1 + their number)."""

    @property
    def cosine(self) -> float:
        """Of the parts with the vector; 0 without parts."""
        return _cosine(self.parts, self.vector)

    def __str__(self) -> str:
        pairs = zip(self.latents, self.coefficients.tolist(), strict=True)
        chance = self.control[-1]
        return (
            f"{self.explained[-1]:.3f} of the vector in {len(self.latents)} parts, and {chance.low:.3f} to "
            f"{chance.high:.3f} of {chance.n} controls: "
            + ", ".join(f"{latent} ({coefficient:.3g})" for latent, coefficient in pairs)
        )

    def parts_alone(self, edit: Add) -> Add:
        """``edit``, which adds the vector, with the parts in its place, at the norm that it has there.

        Example:
            >>> edit = steering.at(12, dose=0.3)
            >>> inject(lm, [decompose(edit.vector, sae, k=16).parts_alone(edit)])

        Raises:
            VectorError: if there are no parts, or the edit adds another vector.
        """
        return self._instead(edit, self.parts, "sum of the parts")

    def residual_alone(self, edit: Add) -> Add:
        """The same with the residual.

        Raises:
            VectorError: if nothing is left of the vector, or the edit adds another one.
        """
        return self._instead(edit, self.residual, "residual")

    def _instead(self, edit: Add, other: Float[Tensor, " d_model"], what: str) -> Add:
        if edit.vector.shape != self.vector.shape or not _cosine(edit.vector, self.vector) > SAME:
            raise VectorError(
                f"The edit at {edit.site} adds another vector than the one that was decomposed. Decompose "
                "its own: decompose(edit.vector, ...)."
            )
        if not other.norm() > ROUNDING * self.vector.norm():
            raise VectorError(
                f"The {what} cannot steer, being zero: {len(self.latents)} parts explain "
                f"{self.explained[-1]:.3g} of the vector. Decompose it with another k or dictionary."
            )
        size = edit.vector.norm() / other.norm().to(edit.vector)
        return replace(edit, vector=other.to(edit.vector) * size)


@torch.no_grad()
def decompose(
    vector: Float[Tensor, " d_model"],
    dictionary: Dictionary,
    *,
    k: int,
    alive: Shaped[Tensor, " latent"] | None = None,
    site: Site | None = None,
    controls: Float[Tensor, "draws d"] | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> Decomposition:
    """Write a vector as up to ``k`` non-negative parts along decoder rows, and a residual.

    Args:
        vector: Of any norm; nothing but its direction decides which latents are taken.
        k: Latents to take, and so the most parts.
        alive: Not zero for each latent that may be taken: a mask, or the ``density`` of
            :func:`saes.quality.quality`, which leaves out the dead. None takes any. A latent whose row
            is zero is never taken.
        site: Where the vector is; None takes the dictionary for one of it.
        controls: Vectors to decompose likewise, in the place of random directions. Random ones are as
            often outside the activations' main directions as within; contrasts of shuffled labels are not.
        n_random: Random directions, uniform on the sphere.
        seed: Of these.

    Raises:
        VectorError: for a vector that is zero, not finite or of another width; for a dictionary of
            another site, or one that is not finite.
        InputError: if ``k`` is below 1, or above the number of latents to choose from; for a mask of
            another length; without controls.

    Example:
        >>> found = decompose(steering.vectors[12], sae, k=16, alive=judged.density)
        >>> found.explained[-1], found.control[-1].high
        (0.62, 0.31)
    """
    rows = dictionary.W_dec.detach().float()
    width = rows.shape[1]
    if len(vector) != width:
        raise VectorError(
            f"The vector to decompose has {len(vector)} entries, and the dictionary writes {width}. "
            "Decompose a vector of the site that the dictionary reads."
        )
    check_vector(vector, width, "The vector to decompose")
    vector = widened(vector)
    if site is not None:
        check_site(dictionary.origin, site)
    if not torch.isfinite(rows).all():
        raise VectorError("W_dec has entries that are not finite; get the dictionary again.")
    norms = rows.norm(dim=-1)
    allowed = norms > 0
    if alive is not None:
        if alive.shape != norms.shape:
            raise InputError(
                f"`alive` has {len(alive)} entries for {len(norms)} latents. Pass one number for each."
            )
        allowed &= (alive != 0).to(allowed.device)
    if not 1 <= k <= int(allowed.sum()):
        raise InputError(f"k={k}: it is 1 or more, of the {int(allowed.sum())} latents to choose from.")
    if controls is None:  # by numpy: with torch, the rows that a dictionary began as come of the same seed
        drawn = np.random.default_rng(seed).standard_normal((max(0, n_random), width))
        controls = torch.from_numpy(drawn)
    if not len(controls):
        raise InputError("No controls: what is explained of one vector alone says little. Pass n_random=20.")
    for number, other in enumerate(controls):
        check_vector(other, width, f"Control {number}")
    targets = torch.cat([vector[None].cpu().double(), controls.cpu().double()]).numpy()
    taken, weights, explained = _pursued(targets, rows, norms, allowed, k)
    null = explained[1:]
    order = np.argsort(-weights[0], kind="stable")
    order = order[weights[0][order] > ROUNDING * np.linalg.norm(targets[0])]
    latents = torch.tensor(taken[0], dtype=torch.long, device=rows.device)[order]
    weight = torch.from_numpy(weights[0][order]).to(rows.device) / norms[latents].double()
    parts = (weight @ rows[latents].double()).to(vector)
    return Decomposition(
        vector=vector,
        latents=tuple(latents.tolist()),
        coefficients=weight.to(vector),
        parts=parts,
        residual=vector - parts,
        explained=explained[0],
        control=tuple(band(step) for step in null.T),
        p_value=permutation_p(float(explained[0, -1]), null[:, -1]),
    )


def _pursued(
    targets: Float64[np.ndarray, "n d"],
    rows: Float[Tensor, "d_sae d"],
    norms: Float[Tensor, " d_sae"],
    allowed: Bool[Tensor, " d_sae"],
    k: int,
) -> tuple[list[list[int]], list[Float64[np.ndarray, " taken"]], Float64[np.ndarray, "n k"]]:
    """For each target the latents taken, their parts' norms, and the share explained after each step."""
    n, d = targets.shape
    taken: list[list[int]] = [[] for _ in range(n)]
    weights = [np.empty(0) for _ in range(n)]
    units = [np.empty((d, 0)) for _ in range(n)]
    residual, size = targets.copy(), np.linalg.norm(targets, axis=1)
    explained = np.zeros((n, k))
    for step in range(k):
        along = rows @ torch.from_numpy(residual.T).to(rows) / norms[:, None]
        along[~allowed] = -torch.inf
        for i, latents in enumerate(taken):
            along[latents, i] = -torch.inf
        best, chosen = (t.cpu().numpy() for t in along.max(0))
        for i in np.flatnonzero(best > ROUNDING * size).tolist():
            latent = int(chosen[i])
            taken[i].append(latent)
            unit = rows[latent].double() / norms[latent].double()
            units[i] = np.column_stack([units[i], unit.cpu().numpy()])
            weights[i], _ = nnls(units[i], targets[i])
            residual[i] = targets[i] - units[i] @ weights[i]
        explained[:, step] = 1 - (np.linalg.norm(residual, axis=1) / size) ** 2
    return taken, weights, explained


def _cosine(a: Float[Tensor, " d"], b: Float[Tensor, " d"]) -> float:
    return float(torch.cosine_similarity(a.double().cpu(), b.double().cpu(), dim=0))
