"""The arithmetic of the proof: what lies between two programs' logits, and what the criterion lets pass."""

from copy import deepcopy
from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from hooks import LanguageModel, adopt, inject
from hooks.errors import InputError, VectorError
from interop.cases import PLACEMENTS, Case, cases, check
from interop.compare import ROUNDING, Difference, Verdict, common_prefix, difference, holds, judge
from interop.ours import continuations, logits
from interp.contrast import contrast
from interp.pairs import Pair

LENGTHS = [2, 1]


def drawn(seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((3, 50))).astype(np.float32)


def test_the_difference_is_the_one_worked_out_by_hand():
    ours = np.log(np.array([[0.5, 0.5, 0.0005], [0.25, 0.75, 0.0005]]), dtype=np.float32)
    theirs = np.log(np.array([[0.25, 0.75, 0.0005], [0.25, 0.75, 0.0005]]), dtype=np.float32)
    found = difference(ours, theirs, [1, 1])
    kl = (0.5 * log(2) + 0.5 * log(2 / 3)) / 1.0005
    assert found.kl_of_prompts == pytest.approx((kl, 0.0), abs=1e-7)
    assert (found.kl, found.kl_max) == pytest.approx((kl / 2, kl), abs=1e-7)
    assert found.logprob_max == pytest.approx(log(2), abs=1e-6)
    assert found.logprob_mean == pytest.approx((log(2) + log(1.5)) / 4, abs=1e-6)
    assert (found.positions, found.tokens) == (2, 4)  # the third token is too rare to us
    assert found.top1 == 0.5


def test_a_shift_of_all_logits_is_no_difference_of_the_distribution():
    ours = drawn(0)
    found = difference(ours, ours + np.float32(4), LENGTHS)
    assert found.kl == pytest.approx(0.0, abs=1e-10)
    assert found.logit_max == pytest.approx(4, rel=1e-5)
    assert found.top1 == 1.0


def test_the_difference_does_not_depend_on_how_positions_are_taken_in_turn(monkeypatch):
    ours, theirs = drawn(0), drawn(1)
    whole = difference(ours, theirs, LENGTHS)
    monkeypatch.setattr("interop.compare.ROWS", 1)
    piecewise = difference(ours, theirs, LENGTHS).as_json()
    assert piecewise == {name: pytest.approx(value) for name, value in whole.as_json().items()}


def test_a_prompt_counts_by_its_positions():
    ours, theirs = drawn(0), drawn(1)
    found = difference(ours, theirs, LENGTHS)
    assert found.kl == pytest.approx((2 * found.kl_of_prompts[0] + found.kl_of_prompts[1]) / 3)


@pytest.mark.parametrize(
    ("theirs", "lengths"),
    [
        (drawn(1)[:2], LENGTHS),
        (drawn(1), [2, 2]),
        (drawn(1), [3, 0]),
        (np.full((3, 50), np.nan, np.float32), LENGTHS),
    ],
)
def test_logits_that_cannot_be_compared_are_refused(theirs, lengths):
    with pytest.raises(ValueError, match=r"Logits (of shape|that are no numbers)"):
        difference(drawn(0), theirs, lengths)


@pytest.mark.parametrize(
    ("theirs", "n"), [([1, 2, 3], 3), ([1, 2, 3, 4], 3), ([1, 2], 2), ([1, 5, 3], 1), ([5, 2, 3], 0), ([], 0)]
)
def test_the_common_prefix_ends_at_the_first_other_token(theirs, n):
    assert common_prefix([1, 2, 3], theirs) == n


def of(*kl_of_prompts: float) -> Difference:
    mean = sum(kl_of_prompts) / len(kl_of_prompts)
    return Difference(mean, max(kl_of_prompts), kl_of_prompts, 0.0, 0.0, 0.0, 1.0, 9, 9)


def test_a_vector_that_is_as_near_as_no_vector_and_far_from_a_misplaced_one_passes():
    verdict = judge(of(1e-3, 2e-3), of(2e-3, 3e-3), {"late": of(0.1, 0.2)})
    assert verdict == Verdict(True, {"late": True})
    assert holds({0.3: verdict}, exact=True)


def test_a_vector_that_is_farther_than_the_yardstick_fails():
    verdict = judge(of(1e-3, 2e-3), of(4e-3, 3e-3), {"late": of(0.1, 0.2)})
    assert not verdict.within
    assert not holds({0.3: verdict}, exact=False)


@pytest.mark.parametrize("late", [of(2e-3, 3e-3), of(4e-3, 5e-3), of(1e-3, 0.9)])
def test_a_misplaced_vector_that_is_as_near_or_nearer_in_one_prompt_is_not_told_apart(late):
    verdict = judge(of(1e-3, 2e-3), of(2e-3, 3e-3), {"late": late})
    assert verdict == Verdict(True, {"late": False})
    assert not holds({0.3: verdict}, exact=False)


def test_below_rounding_no_program_is_worse_and_none_is_told_apart():
    verdict = judge(of(0.0, 0.0), of(ROUNDING, ROUNDING), {"late": of(2 * ROUNDING, 2 * ROUNDING)})
    assert verdict == Verdict(True, {"late": False})


def test_quantised_arithmetic_may_hide_a_misplacement_at_one_dose_but_not_at_all():
    hidden, shown = Verdict(True, {"late": False}), Verdict(True, {"late": True})
    assert holds({0.1: hidden, 1.0: shown}, exact=False)
    assert not holds({0.1: hidden, 1.0: shown}, exact=True)
    assert not holds({0.1: hidden, 1.0: hidden}, exact=False)


def test_a_program_that_was_never_shown_a_misplaced_vector_proves_nothing():
    assert not holds({0.3: Verdict(True, {})}, exact=False)
    assert not holds({}, exact=True)


# --- planted: our own model stands in for the other program, steered by the file that the program reads


@pytest.fixture(scope="module")
def deep(llama) -> LanguageModel:
    """A tiny Llama of four blocks, so that block 2 has a neighbour on either side that can be steered."""
    config = deepcopy(llama.model.config)
    config.num_hidden_layers = 4
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3)
    return adopt(model, llama.tokenizer, name="deep")


@pytest.fixture(scope="module")
def deep_vector(deep):
    pairs = [Pair(f"{n}", f"yes {n} {n}", f"no {n}") for n in range(4)]
    return contrast(deep, pairs, layers=[2], n_null=2)


def steered_by(file, model, rows) -> np.ndarray:
    """Logits of the bare model, each direction of a file added to the output of the block of its number."""
    handles = []
    for tensor in GGUFReader(file).tensors if file else ():
        block = model.model.layers[int(tensor.name.removeprefix("direction."))]
        direction = torch.from_numpy(np.array(tensor.data))
        handles.append(block.register_forward_hook(lambda _m, _i, out, d=direction: out + d))
    with torch.no_grad():
        found = [model(torch.tensor([row.tokens])).logits[0].numpy() for row in rows]
    for handle in handles:
        handle.remove()
    return np.concatenate(found)


@pytest.fixture(scope="module")
def planted(deep, deep_vector, rows, tmp_path_factory):
    """By case: how far the bare model, steered by the case's exported file, is from our edit."""
    folder = tmp_path_factory.mktemp("files")

    def found(case: Case) -> Difference:
        ours = logits(
            deep, rows, [replace(case, placement="right").edit(deep_vector, 2)] if case.dose else []
        )
        file = case.export(deep_vector, 2, folder) if case.dose else None
        return difference(ours, steered_by(file, deep.model, rows), [len(row.tokens) for row in rows])

    return {case: found(case) for case in cases([0.3], tuple(PLACEMENTS))}


def test_a_file_at_its_block_passes_and_one_at_a_neighbour_or_turned_is_told_apart(planted):
    right, unsteered = planted[Case(0.3)], planted[Case()]
    wrong = {case.placement: found for case, found in planted.items() if case.placement != "right"}
    verdict = judge(unsteered, right, wrong)
    assert verdict == Verdict(True, {"a block early": True, "a block late": True, "sign turned": True})
    assert holds({0.3: verdict}, exact=True)


@pytest.mark.parametrize("placement", [name for name in PLACEMENTS if name != "right"])
def test_a_program_that_misplaces_the_right_file_fails(planted, placement):
    verdict = judge(planted[Case()], planted[Case(0.3, placement)], {"late": planted[Case(0.3)]})
    assert verdict == Verdict(False, {"late": False})
    assert not holds({0.3: verdict}, exact=False)


def test_our_logits_are_the_model_s_own_steered_at_every_position(deep, deep_vector, rows):
    edit = Case(0.3).edit(deep_vector, 2)
    found = logits(deep, rows, [edit])
    with torch.no_grad(), inject(deep, [edit]) as injection:
        last = deep.model(torch.tensor([rows[-1].tokens])).logits[0].numpy()
    assert len(injection.receipt()) == len(rows[-1].tokens)
    np.testing.assert_array_equal(found[-len(last) :], last)
    assert len(found) == sum(len(row.tokens) for row in rows)


def test_our_continuations_are_greedy_under_the_edit(deep, deep_vector, rows):
    edit = Case(0.3).edit(deep_vector, 2)
    first = [line[0] for line in continuations(deep, rows, [edit], 3)]
    ends = np.cumsum([len(row.tokens) for row in rows]) - 1
    assert first == logits(deep, rows, [edit])[ends].argmax(axis=1).tolist()


def test_a_layer_that_the_programs_cannot_steer_beside_is_refused(deep, deep_vector, llama):
    assert check(deep_vector, None, deep) == 2
    for layer in (1, 3):
        with pytest.raises(InputError, match="pass one from 2 to 2"):
            check(deep_vector, layer, deep)
    with pytest.raises(InputError, match="resid_post"):
        check(replace(deep_vector, kind="mlp_out"), 2, deep)
    with pytest.raises(VectorError):
        check(deep_vector, 2, llama)
