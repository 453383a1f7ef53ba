"""What an edited run wrote, cell by cell, and a one-line assertion that it was what was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int

from hooks.errors import ReceiptError
from hooks.positions import NEVER, Frame, Positions
from hooks.sites import Site


@dataclass(frozen=True)
class Receipt:
    """One entry for each (site, row, position) cell written, in aligned columns."""

    sites: tuple[Site, ...]
    """The sites that were edited."""

    site: Int[np.ndarray, " writes"]
    """Index into ``sites``."""

    row: Int[np.ndarray, " writes"]
    position: Int[np.ndarray, " writes"]
    """Absolute position in the row, counted without padding."""

    ratio: Float[np.ndarray, " writes"]
    """Size of the change over the size of the residual before it, ``|dh| / |h|``."""

    prompt_length: Mapping[int, int]
    """By row number, for every row that ran, edited or not."""

    given_length: Mapping[int, int]
    seen: Mapping[int, int]
    """Tokens of each row that went through the model."""

    found: Mapping[str, Mapping[int, int]]
    """Where each text that a selection looks for was completed, by row."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def phase(self) -> list[str]:
        """``prompt`` or ``generated`` for each write, by where its token came from."""
        lengths = [self.prompt_length[int(r)] for r in self.row]
        return ["prompt" if p < n else "generated" for p, n in zip(self.position, lengths, strict=True)]

    def check(
        self,
        positions: Positions,
        *,
        rows: Sequence[int] | None = None,
        sites: Sequence[Site] | None = None,
    ) -> None:
        """Assert that exactly the selected cells were written, each once or more, and no other.

        Args:
            positions: What should have been written, e.g. ``generated``: every generated token and
                no prompt token but the last.
            rows: Which rows; None means every row that ran. Other rows must be untouched.
            sites: At which sites; None means every edited one.

        Raises:
            ReceiptError: naming the first cell that is missing, or that should not be there.
        """
        chosen = sorted(self.seen) if rows is None else list(rows)
        wanted_sites = self.sites if sites is None else tuple(sites)
        missing_text = positions.texts - self.found.keys()
        if missing_text:
            raise ReceiptError(f"This run did not look for {sorted(missing_text)}; check what it did.")
        expected = {
            (site, row, position)
            for row in chosen
            for position in self._selected(positions, row)
            for site in wanted_sites
        }
        written = {
            (self.sites[s], int(r), int(p))
            for s, r, p in zip(self.site, self.row, self.position, strict=True)
        }
        for cells, what in ((expected - written, "was not"), (written - expected, "was also")):
            if cells:
                site, row, position = min(cells)
                raise ReceiptError(
                    f"Expected exactly {positions} of {len(chosen)} rows to be written, "
                    f"{len(expected)} cells; position {position} of row {row} at {site} {what} "
                    f"written ({len(cells)} such cells; its prompt has {self.prompt_length[row]} tokens)."
                )

    def of_site(self, site: Site) -> "Receipt":
        """The entries of one site."""
        mine = self.site == self.sites.index(site)
        return replace(
            self,
            sites=(site,),
            site=np.zeros(int(mine.sum()), dtype=np.int64),
            row=self.row[mine],
            position=self.position[mine],
            ratio=self.ratio[mine],
        )

    def of_rows(self, rows: range) -> "Receipt":
        """The entries of consecutive rows, numbered from 0, at the sites where they were edited."""
        here = (self.row >= rows.start) & (self.row < rows.stop)
        sites = [int(i) for i in np.unique(self.site[here])]

        def renumbered(known: Mapping[int, int]) -> dict[int, int]:
            return {number - rows.start: known[number] for number in rows if number in known}

        return Receipt(
            sites=tuple(self.sites[i] for i in sites),
            site=np.searchsorted(np.array(sites, dtype=np.int64), self.site[here]),
            row=self.row[here] - rows.start,
            position=self.position[here],
            ratio=self.ratio[here],
            prompt_length=renumbered(self.prompt_length),
            given_length=renumbered(self.given_length),
            seen=renumbered(self.seen),
            found={text: renumbered(at) for text, at in self.found.items()},
        )

    def _selected(self, positions: Positions, row: int) -> list[int]:
        completed = {t: torch.tensor([at.get(row, NEVER)]) for t, at in self.found.items()}
        frame = Frame(
            row=torch.tensor([row]),
            position=torch.arange(self.seen[row])[None],
            prompt_length=torch.tensor([self.prompt_length[row]]),
            given_length=torch.tensor([self.given_length[row]]),
            completed=completed,
        )
        return [int(p) for p in positions.select(frame)[0].nonzero()[:, 0]]

    def of_row(self, row: int) -> str:
        """One line on what was written into a row."""
        mine = self.row == row
        if not mine.any():
            return f"row {row}: nothing written"
        spans = _spans(sorted({int(p) for p in self.position[mine]}))
        sites = ", ".join(str(self.sites[i]) for i in sorted({int(s) for s in self.site[mine]}))
        return (
            f"row {row}: positions {spans} of {self.seen[row]} (prompt {self.prompt_length[row]}) "
            f"at {sites}, |dh|/|h| median {np.median(self.ratio[mine]):.3f}"
        )

    def __str__(self) -> str:
        if not len(self):
            return f"receipt: nothing written in {len(self.seen)} rows"
        from_prompt = self.phase.count("prompt")
        low, middle, high = np.quantile(self.ratio, [0, 0.5, 1])
        return (
            f"receipt: {len(self)} cells written in {len(set(self.row.tolist()))} of "
            f"{len(self.seen)} rows ({from_prompt} on prompt tokens, {len(self) - from_prompt} on "
            f"generated ones) at {', '.join(map(str, self.sites))}; "
            f"|dh|/|h| median {middle:.3f} ({low:.3f} to {high:.3f})"
        )


def _spans(numbers: Sequence[int]) -> str:
    """``[1, 2, 3, 7]`` as ``1-3, 7``."""
    breaks = [i + 1 for i, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    edges = [0, *breaks, len(numbers)]
    runs = [numbers[a:b] for a, b in pairwise(edges)]
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
