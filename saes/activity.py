"""Which latents are active over many texts, how often, how strongly, and where most.

Of n tokens that stand for text, with latents z,

    density_j = share of the n in which z_j is not zero          a latent is dead if it is 0
    max_j     = largest z_j                                       what steering strengths are counted in
    top_j     = the texts in which z_j grows largest, with the token at which it does

from one streaming pass: memory does not grow with the number of tokens. Density and maximum are kept
beside the weights, in ``latents.safetensors``.

Source: Bricken et al. 2023, "Towards Monosemanticity", for densities and top activating texts.
Differs from the source: one place a text in its top, so that one text cannot fill it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from hooks.capture import stream
from hooks.chat import special_ids
from hooks.errors import EmptySelectionError, InputError, VectorError
from hooks.files import whole, writing
from hooks.language_model import LanguageModel
from hooks.positions import Positions, everything
from hooks.rows import WINDOW, Row
from hooks.sites import Site
from hooks.tracker import frame_of
from saes.dictionary import Dictionary, check_model, check_site
from saes.edits import NUMBERS

LATENTS = "latents.safetensors"


@dataclass(frozen=True, eq=False)
class Activity:
    """Of every latent, over some texts."""

    n_tokens: int
    density: Float[Tensor, " d_sae"]
    max_activation: Float[Tensor, " d_sae"]
    """0 of a dead latent."""

    top_value: Float[Tensor, "top d_sae"]
    """Falling; 0 where fewer texts activate the latent."""

    top_row: Int[Tensor, "top d_sae"]
    """The number of each such text; -1 where there is none."""

    top_position: Int[Tensor, "top d_sae"]
    """The position of the token in it."""

    @property
    def alive(self) -> Bool[Tensor, " d_sae"]:
        return self.density > 0

    @property
    def l0(self) -> float:
        """Mean number of latents of a token that are not zero."""
        return float(self.density.double().sum())

    def save(self, folder: str | Path) -> Path:
        """Write density and maximum beside the weights of a dictionary.

        Raises:
            RunError: if it cannot be written.
        """
        file = Path(folder) / LATENTS
        kept = {"density": self.density.cpu(), "max_activation": self.max_activation.cpu()}
        with writing(file), whole(file) as part:
            part.write_bytes(to_bytes(kept, metadata={"n_tokens": str(self.n_tokens)}))
        return file

    @staticmethod
    def load(folder: str | Path, d_sae: int) -> "Activity":
        """What :meth:`save` wrote; without top texts.

        Raises:
            InputError: if the folder has none.
            VectorError: if it is damaged, or of another dictionary.
        """
        file = Path(folder) / LATENTS
        if not file.exists():
            raise InputError(f"{folder} has no {LATENTS}. `latent_activity` over some texts makes it.")
        try:
            with safe_open(file, "pt") as opened:
                n_tokens = int(opened.metadata()["n_tokens"])
                density, largest = opened.get_tensor("density"), opened.get_tensor("max_activation")
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise VectorError(f"{file} is damaged: {error}. Make it again with `latent_activity`.") from None
        for name, values in (("density", density), ("max_activation", largest)):
            good = values.shape == (d_sae,) and values.dtype == torch.float32
            if not good or not torch.isfinite(values).all() or (values < 0).any():
                raise VectorError(
                    f"{file}: {name} is {values.dtype} of shape {tuple(values.shape)}; for this dictionary "
                    f"it must be finite float32 of shape ({d_sae},), and not negative."
                )
        nothing = torch.empty(0, d_sae)
        return Activity(n_tokens, density, largest, nothing, nothing.long(), nothing.long())


@dataclass(frozen=True, eq=False)
class Encoded:
    """The latents of some tokens; whole rows, or a part of one that is too long to be encoded at once."""

    row: Int[Tensor, " token"]
    position: Int[Tensor, " token"]
    token: Int[Tensor, " token"]
    x: Float[Tensor, "token d_in"]
    z: Float[Tensor, "token d_sae"]

    def rows(self) -> Iterator[tuple[int, slice]]:
        """The number of each row, and which of the tokens are its."""
        numbers, counts = torch.unique_consecutive(self.row, return_counts=True)
        start = 0
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            yield number, slice(start, start + count)
            start += count


@torch.no_grad()
def encoded(
    lm: LanguageModel,
    rows: Sequence[Row],
    dictionary: Dictionary,
    *,
    site: Site | None = None,
    positions: Positions = everything,
    any_model: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> Iterator[Encoded]:
    """The latents of the selected tokens of many rows, a few rows at a time; nothing is kept.

    Tokens that stand for no text, such as begin-of-text, are left out.

    Args:
        site: None takes the dictionary's own.
        any_model: Allow a dictionary that was trained on another model of the same width.

    Raises:
        VectorError: if the dictionary is of another model or site.
        InputError: if ``site`` is left out and the dictionary names none.
        EmptySelectionError: at the end, if no token was selected.
    """
    site = site_for(lm, dictionary, site, any_model=any_model)
    home, most = dictionary.W_dec.device, max(1, NUMBERS // dictionary.d_sae)
    special = torch.tensor(sorted(special_ids(lm.tokenizer)), dtype=torch.long, device=lm.device)
    met = False
    for batch, acts in stream(lm, rows, [site], window=WINDOW):
        if batch.start == 0:
            chosen = positions.select(frame_of(lm, batch.whole, positions.texts))
            chosen &= ~torch.isin(batch.whole.input_ids, special)
        here = chosen[:, batch.columns]
        x = acts[site][here.to(acts[site].device)].to(home, torch.float32)
        met |= len(x) > 0
        number = batch.row[:, None].expand_as(here)[here].to(home)
        where = batch.position_ids[here].to(home)
        token = batch.input_ids[here].to(home)
        for part in _parts(number, most):
            z = dictionary.encode(x[part])
            yield Encoded(number[part], where[part], token[part], x[part], z)
        if on_tokens is not None:
            on_tokens(int(batch.attention_mask.sum()))
    if not met:
        raise EmptySelectionError(
            f"The selection {positions} matches no token of {len(rows)} rows that stands for text."
        )


def latent_activity(
    lm: LanguageModel,
    rows: Sequence[Row],
    dictionary: Dictionary,
    *,
    site: Site | None = None,
    positions: Positions = everything,
    top: int = 0,
    any_model: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> Activity:
    """How often, how strongly and where every latent is active. Raises as :func:`encoded` does.

    Args:
        rows: Texts as token rows. Where a model has no begin-of-text token, its first token takes that
            part: pass ``positions=everything - first(1)``.
        top: How many top activating texts to find for each latent.

    Example:
        >>> activity = latent_activity(lm, rows, sae, top=8)
        >>> rows[activity.top_row[0, 117]], activity.top_position[0, 117]
    """
    tally = Tally(dictionary.d_sae)
    value = torch.zeros(top, dictionary.d_sae)
    row, position = torch.full((2, top, dictionary.d_sae), -1)
    for part in encoded(
        lm, rows, dictionary, site=site, positions=positions, any_model=any_model, on_tokens=on_tokens
    ):
        tally.add(part.z)
        if not top:
            continue
        values, numbers, places = [value], [row], [position]
        for number, tokens in part.rows():
            largest, at = part.z[tokens].max(0)
            values.append(largest.cpu()[None])
            numbers.append(torch.full_like(row[:1], number))
            places.append(part.position[tokens][at].cpu()[None])
        value, kept = torch.cat(values).topk(top, dim=0)
        row, position = (torch.cat(of).gather(0, kept) for of in (numbers, places))
        row = torch.where(value > 0, row, -1)
    return Activity(
        n_tokens=tally.n_tokens,
        density=(tally.active / tally.n_tokens).float(),
        max_activation=tally.largest,
        top_value=value,
        top_row=row,
        top_position=position,
    )


class Tally:
    """In how many tokens each latent is active, and its largest activation."""

    def __init__(self, d_sae: int) -> None:
        self.n_tokens = 0
        self.active = torch.zeros(d_sae, dtype=torch.float64)
        self.largest = torch.zeros(d_sae)

    def add(self, z: Float[Tensor, "token d_sae"]) -> None:
        if len(z):
            self.n_tokens += len(z)
            self.active += (z != 0).sum(0).cpu()
            self.largest = self.largest.maximum(z.amax(0).cpu())


def site_for(
    lm: LanguageModel, dictionary: Dictionary, site: Site | None, *, any_model: bool = False
) -> Site:
    """Where a dictionary is read: at ``site``, or at its own; checked.

    Raises:
        VectorError, InputError: as :func:`encoded`.
    """
    check_model(dictionary, lm, any_model=any_model)
    site = site or dictionary.origin.site
    if site is None:
        raise InputError("The dictionary does not say which site it reads; pass site=Site(12, 'resid_post').")
    site = lm.anatomy.resolve(site)
    check_site(dictionary.origin, site)
    return site


def _parts(number: Int[Tensor, " token"], most: int) -> Iterator[slice]:
    """Stretches of up to ``most`` tokens that end where a row ends, if the row fits one at all."""
    counts = torch.unique_consecutive(number, return_counts=True)[1].tolist()
    start = stop = 0
    for count in counts:
        if stop > start and stop + count - start > most:
            yield slice(start, stop)
            start = stop
        stop += count
        while stop - start > most:
            yield slice(start, start + most)
            start += most
    if stop > start:
        yield slice(start, stop)
