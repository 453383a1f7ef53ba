"""Whatever a file holds, a reader returns a dictionary that runs, or raises an error of ours."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hooks.errors import UnlatchError
from saes import (
    GatedSAE,
    JumpReLUSAE,
    StandardSAE,
    TopKSAE,
    load_dictionary,
    load_transcoder,
    save_dictionary,
)
from saes.formats.saelens import SCALER

EXAMPLES = 150


def sparsify(folder: Path) -> None:
    folder.mkdir()
    shapes = {"encoder.weight": (20, 6), "encoder.bias": (20,), "W_dec": (20, 6), "b_dec": (6,)}
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": 6, "num_latents": 20, "k": 4, "transcode": False}))


def gemma_scope(folder: Path) -> None:
    folder.mkdir()
    shapes = {"W_enc": (6, 20), "b_enc": (20,), "threshold": (20,), "W_dec": (20, 6), "b_dec": (6,)}
    np.savez(folder / "params.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})


def scaled(folder: Path) -> None:
    save_dictionary(StandardSAE(6, 20), folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(
        json.dumps(config | {"normalize_activations": "expected_average_only_in"})
    )
    (folder / SCALER).write_text(json.dumps({"scaling_factor": 0.5}))


def transcoder(folder: Path) -> None:
    save_dictionary(StandardSAE(6, 20), folder)
    config = json.loads((folder / "cfg.json").read_text())
    changes = {"architecture": "transcoder", "d_out": 6, "apply_b_dec_to_input": False}
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def flat(folder: Path) -> None:
    save_dictionary(StandardSAE(6, 20), folder)
    settings = {"d_in": 6, "d_sae": 20, "hook_point": "blocks.1.hook_mlp_out", "activation_fn_str": "relu"}
    (folder / "cfg.json").write_text(json.dumps(settings))


MAKERS = {
    "standard": lambda folder: save_dictionary(StandardSAE(6, 20), folder),
    "topk": lambda folder: save_dictionary(TopKSAE(6, 20, 4), folder),
    "jumprelu": lambda folder: save_dictionary(JumpReLUSAE(6, 20), folder),
    "gated": lambda folder: save_dictionary(GatedSAE(6, 20), folder),
    "scaled": scaled,
    "transcoder": transcoder,
    "flat": flat,
    "sparsify": sparsify,
    "gemma_scope": gemma_scope,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of every layout, as it should be."""
    root = tmp_path_factory.mktemp("sound")
    for name, make in MAKERS.items():
        make(root / name)
        read(root / name)
    return root


def read(folder: Path) -> None:
    """The dictionary, if it is one, works; else the error is ours."""
    coder = load_transcoder(folder) if folder.name == "transcoder" else load_dictionary(folder)
    x = torch.linspace(-1, 1, 2 * coder.d_in).reshape(2, coder.d_in)
    z = coder.encode(x)
    assert z.shape == (2, coder.d_sae)


def tried(sound: Path, name: str, spoil) -> bool:
    """Whether a copy of the folder is still read after ``spoil(file)`` of one of its files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(sound / name, Path(scratch) / name))
        spoil(folder)
        try:
            read(folder)
        except UnlatchError:
            return False
        return True


fuzzed = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
every = pytest.mark.parametrize("name", MAKERS)


@every
@fuzzed
@given(data=st.data())
def test_flipped_bytes(sound, name, data):
    def spoil(folder):
        file = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(file.read_bytes())
        head = data.draw(st.sampled_from([64, 512, len(content)]))  # headers are most of what can break
        places = st.integers(0, min(head, len(content)) - 1)
        for place, byte in data.draw(st.dictionaries(places, st.integers(0, 255), min_size=1)).items():
            content[place] = byte
        file.write_bytes(content)

    tried(sound, name, spoil)


@every
@fuzzed
@given(data=st.data())
def test_truncated_and_extended_files(sound, name, data):
    def spoil(folder):
        file = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = file.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        file.write_bytes(content[:cut] + data.draw(st.binary(max_size=40)))

    tried(sound, name, spoil)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [0, -1, 2**63, 10**40, "none", "topk", "gated", "batchtopk", "layer_norm", "hook_z", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
with_settings = pytest.mark.parametrize("name", [name for name in MAKERS if name != "gemma_scope"])


@with_settings
@fuzzed
@given(data=st.data())
def test_settings_removed_and_retyped(sound, name, data):
    def spoil(folder):
        file = data.draw(st.sampled_from(sorted(folder.glob("*.json"))))
        content = json.loads(file.read_text())
        target = content
        if "metadata" in content and data.draw(st.booleans()):
            target = content["metadata"]
        known = st.sampled_from(
            [*content, "rescale_acts_by_decoder_norm", "d_out", "hook_name", "model_name", "k"]
        )
        for key in data.draw(st.lists(known, min_size=1, max_size=3)):
            if data.draw(st.booleans()):
                target.pop(key, None)
            else:
                target[key] = data.draw(JSON)
        file.write_text(json.dumps(content))

    tried(sound, name, spoil)


TENSORS = st.sampled_from(
    [torch.float32, torch.float16, torch.float64, torch.int64, torch.bool, torch.bfloat16]
)


@every
@fuzzed
@given(data=st.data())
def test_tensors_removed_reshaped_and_retyped(sound, name, data):
    def spoil(folder):
        from safetensors.torch import load_file

        npz = folder / "params.npz"
        if npz.exists():
            held = {key: torch.from_numpy(value) for key, value in np.load(npz).items()}
        else:
            (file,) = folder.glob("*.safetensors")
            held = load_file(file)
        key = data.draw(
            st.sampled_from([*held, "threshold", "log_threshold", "scaling_factor", "topk_threshold"])
        )
        held.pop(key, None)
        if data.draw(st.booleans()):
            shape = data.draw(st.lists(st.sampled_from([0, 1, 6, 20]), max_size=3))
            fill = data.draw(st.sampled_from([0.0, 1.0, float("nan"), float("inf"), -1e38]))
            dtype = data.draw(TENSORS)
            whole = not dtype.is_floating_point
            held[key] = torch.full(shape, 1.0 if whole else fill, dtype=torch.float64).to(dtype)
        if npz.exists():
            arrays = {k: (v.float() if v.dtype == torch.bfloat16 else v).numpy() for k, v in held.items()}
            np.savez(npz, **arrays)
        else:
            save_file(held, file)

    tried(sound, name, spoil)


@every
def test_the_fuzzing_would_see_an_error_that_is_not_ours(sound, name, monkeypatch):
    """And what is not spoiled is read."""
    assert tried(sound, name, lambda _: None)
    monkeypatch.setattr("saes.load.read_saelens", lambda *_, **__: {}["missing"])
    monkeypatch.setattr("saes.load.read_sparsify", lambda *_: {}["missing"])
    monkeypatch.setattr("saes.load.read_gemma_scope", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        tried(sound, name, lambda _: None)
