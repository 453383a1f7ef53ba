"""The arithmetic of ``docs/scale.md``, against transformers' own counts and sums done by hand."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks import scale
from hooks.errors import InputError


def test_the_committed_page_is_what_its_inputs_make():
    inputs = json.loads(scale.INPUTS.read_text(encoding="utf-8"))
    assert scale.PAGE.read_text(encoding="utf-8") == scale.render(inputs), "run `python -m benchmarks.scale`"


def test_another_measurement_makes_another_page():
    inputs = json.loads(scale.INPUTS.read_text(encoding="utf-8"))
    changed = scale.render({**inputs, "capture_over_bare_body": 2.0})
    assert changed != scale.render({**inputs, "capture_over_bare_body": 1.0})


def test_a_shape_has_as_many_weights_as_transformers_makes():
    shape = scale.LLAMA_70B
    config = LlamaConfig(
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.d_head,
        intermediate_size=shape.d_mlp,
        vocab_size=shape.d_vocab,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert shape.weight_bytes == 2 * matrices
    assert shape.weight_bytes == pytest.approx(2 * sum(p.numel() for p in model.parameters()), rel=1e-4)
    blocks = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    assert shape.operations(context=0, unembedding=False) == 2 * blocks
    assert shape.operations(context=0, unembedding=True) == 2 * (blocks + shape.d_vocab * shape.d_model)


TINY = scale.Shape(
    "tiny", n_layers=2, d_model=10, kv_heads=1, d_head=5, n_heads=2, d_mlp=20, d_vocab=100
)  # 2 x (2 x 10 x 5 x 3 + 3 x 10 x 20) = 1,800 block weights; 7,600 bytes with two matrices of 1,000
GPU = scale.Gpu("made up", memory=20_000.0, flops=1e12, bandwidth=1e9)


def test_a_shape_by_hand():
    assert TINY.block_weights == 1800
    assert TINY.weight_bytes == 7600
    assert TINY.kv_bytes == 2 * 2 * 2 * 5
    assert TINY.operations(context=3, unembedding=False) == 3600 + 4 * 2 * 10 * 3


def test_a_capture_takes_its_operations_over_the_rate():
    one = scale.Setting(GPU, 1, tensor=False)
    seconds = scale.capture_seconds(TINY, one, 0.5, context=6)
    assert seconds == pytest.approx(1e9 * (3600 + 240) / 0.5e12)


def test_layers_on_several_gpus_are_no_faster_and_layers_across_them_are():
    good, bad = scale.ASSUMED.tensor

    def seconds(n, tensor, copies=1, is_bad=False):
        setting = scale.Setting(GPU, n, tensor=tensor, copies=copies)
        return scale.capture_seconds(TINY, setting, 0.5, context=6, bad=is_bad)

    one = seconds(1, tensor=False)
    assert seconds(4, tensor=False) == one
    assert seconds(1, tensor=True) == one
    assert seconds(4, tensor=True) == pytest.approx(one / (4 * good))
    assert seconds(4, tensor=True, is_bad=True) == pytest.approx(one / (4 * bad))
    assert seconds(4, tensor=True, copies=3) == pytest.approx(one / (4 * good) / 3)


def test_as_many_rows_fit_as_the_memory_beside_the_weights_holds():
    one = scale.Setting(GPU, 1, tensor=False)
    assert scale.rows_that_fit(TINY, one, context=10) == (18_000 - 7_600) // 400
    small = scale.Setting(scale.Gpu("small", 8_000.0, 1e12, 1e9), 1, tensor=False)
    assert scale.rows_that_fit(TINY, small, context=10) == 0


def test_a_step_of_few_rows_reads_and_a_step_of_many_multiplies():
    one = scale.Setting(GPU, 1, tensor=False)
    launch = 2 * scale.ASSUMED.launch[0]
    read = (7600 + 400) / (1e9 * scale.ASSUMED.reading[0])
    assert scale.step_seconds(TINY, one, 1, 1.0, context=10) == pytest.approx(read + launch)
    slow = scale.Setting(scale.Gpu("slow", 20_000.0, 1e6, 1e9), 1, tensor=False)
    work = 8 * (5600 + 4 * 2 * 10 * 10) / (1e6 * scale.ASSUMED.utilisation[0])
    assert scale.step_seconds(TINY, slow, 8, 1.5, context=10) == pytest.approx(1.5 * (work + launch))


def test_the_rate_is_rows_over_the_step_for_every_copy():
    two = scale.Setting(GPU, 1, tensor=False, copies=2)
    step = scale.step_seconds(TINY, two, 4, 1.0, context=10)
    assert scale.decoding_rate(TINY, two, 1.0, context=10, most_rows=4) == pytest.approx(2 * 4 / step)


def test_the_bad_end_of_every_assumption_is_slower():
    for setting in scale.SETTINGS:
        ends = [
            scale.decoding_rate(scale.LLAMA_70B, setting, 1.0, context=1024, bad=b) for b in (False, True)
        ]
        assert ends[0] > ends[1] > 0


def test_every_setting_of_the_page_holds_the_model():
    for setting in scale.SETTINGS:
        assert scale.rows_that_fit(scale.LLAMA_70B, setting, context=1024) > 0, str(setting)


@pytest.fixture
def results():
    facts = {
        "capture": {"over_bare_body": 1.03, "fraction_of_ceiling": 0.6},
        "generation": {"steered_over_unsteered": 1.01},
        "decoding": {"ceiling": 1e11, "fraction_of_ceiling_1_rows": 0.04, "fraction_of_ceiling_64_rows": 0.5},
    }
    environment = {
        "quick": False,
        "model": "tiny",
        "processor": "a processor",
        "threads": 2,
        "dtype": "float32",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.4.6"},
    }
    return {"environment": environment, "results": {n: {"facts": f} for n, f in facts.items()}}


def test_the_inputs_are_what_the_benchmarks_measured(results):
    inputs = scale.measured(results)
    assert inputs["capture_over_bare_body"] == 1.03
    assert inputs["decoding_fraction_of_ceiling_by_rows"] == {"1": 0.04, "64": 0.5}
    page = scale.render(inputs)
    assert re.search(r"capture of every layer, over the bare body \| 1\.030", page)
    assert "1: 4%, 64: 50%" in page
    assert "quick run" not in page


def test_results_without_what_is_needed_are_refused(results):
    del results["results"]["decoding"]
    with pytest.raises(InputError, match="The results hold no decoding"):
        scale.measured(results)
