"""Pairs of prompts for the methods that compare two runs."""

import pytest
import torch

from hooks.rows import Row
from interp.prompt_pairs import PromptPair


@pytest.fixture(scope="session")
def pairs():
    """Pairs of 9, 6 and 12 tokens that differ in one, two and three of them; answers drawn at random."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for length, subject in ((9, (3, 4)), (6, (1, 3)), (12, (6, 9))):
        clean, other = torch.randint(8, 100, (2, length), generator=generator).tolist()
        corrupted = [*clean[: subject[0]], *other[slice(*subject)], *clean[subject[1] :]]
        right, wrong = torch.randperm(100, generator=generator)[:2].tolist()
        made.append(
            PromptPair(Row(tuple(clean), length), Row(tuple(corrupted), length), right, wrong, subject)
        )
    return made
