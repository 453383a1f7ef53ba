"""``params.npz`` is read as SAELens and the paper read it, and its origin from where it lies."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch

from hooks import Site
from hooks.errors import InputError, VectorError
from saes import JumpReLUSAE, Origin, load_dictionary, load_transcoder

SHAPES = {"W_enc": (6, 20), "W_dec": (20, 6), "b_enc": (20,), "b_dec": (6,), "threshold": (20,)}
FOLDER = "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"


def arrays(**changes):
    generator = np.random.default_rng(0)
    made = {name: 0.6 * generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    made["threshold"] = np.abs(made["threshold"])
    return {name: value for name, value in (made | changes).items() if value is not None}


def written(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **arrays(**changes))
    return folder / "params.npz"


def test_it_is_the_jumprelu_of_the_paper(tmp_path, x):
    a, ours = arrays(), load_dictionary(written(tmp_path / FOLDER))
    assert isinstance(ours, JumpReLUSAE)
    pre = x.numpy() @ a["W_enc"] + a["b_enc"]
    z = np.where(pre > a["threshold"], np.maximum(pre, 0), 0)
    assert 0.05 < (z > 0).mean() < 0.95
    np.testing.assert_allclose(ours.encode(x), z, atol=1e-5)
    np.testing.assert_allclose(ours(x), z @ a["W_dec"] + a["b_dec"], atol=1e-5)


def test_saelens_reads_it_alike(tmp_path, x, theirs):
    sae = theirs("jumprelu", apply_b_dec_to_input=False)
    sae.load_state_dict({name: torch.from_numpy(value) for name, value in arrays().items()})
    ours = load_dictionary(written(tmp_path / FOLDER).parent)
    torch.testing.assert_close(ours.encode(x), sae.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), sae(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("folder", "model", "site", "hook_name"),
    [
        (FOLDER, "google/gemma-2-2b", Site(12, "resid_post"), "blocks.12.hook_resid_post"),
        (
            "models--google--gemma-scope-9b-it-res/snapshots/ab12/layer_20/width_131k/average_l0_81",
            "google/gemma-2-9b-it", Site(20, "resid_post"), "blocks.20.hook_resid_post",
        ),
        ("gemma-scope-2b-pt-mlp/layer_0/w", "google/gemma-2-2b", Site(0, "mlp_out"), "blocks.0.hook_mlp_out"),
        ("gemma-scope-27b-pt-att/layer_3/w", "google/gemma-2-27b", None, "blocks.3.attn.hook_z"),
        ("gemma-scope-2b-pt-res/moved", "google/gemma-2-2b", None, None),
        ("somewhere/layer_12/else", None, None, None),
    ],
)  # fmt: skip
def test_its_origin_is_in_its_path(tmp_path, folder, model, site, hook_name):
    origin = load_dictionary(written(tmp_path / folder)).origin
    assert (origin.model, origin.site, origin.hook_name) == (model, site, hook_name)


def test_a_file_under_another_name_is_of_unknown_origin(tmp_path):
    file = written(tmp_path / "a").rename(tmp_path / "a" / "mine.npz")
    assert load_dictionary(file).origin == Origin()
    assert load_dictionary(file, site=Site(3, "resid_pre")).origin.site == Site(3, "resid_pre")


def test_a_transcoder_is_known_by_its_path(tmp_path, x):
    file = written(tmp_path / "gemma-scope-2b-pt-transcoders/layer_4/width_16k/average_l0_5")
    ours = load_transcoder(file)
    assert (ours.origin.hook_name, ours.site_out) == ("blocks.4.ln2.hook_normalized", Site(4, "mlp_out"))
    plain = load_dictionary(written(tmp_path / FOLDER))
    torch.testing.assert_close(ours(x), plain(x))
    with pytest.raises(InputError, match="Read it with load_transcoder"):
        load_dictionary(file)


def test_names_in_small_letters_and_other_dtypes_are_read(tmp_path, x):
    a = arrays()
    small = {"w_enc": a["W_enc"].astype(np.float64), "w_dec": a["W_dec"], "W_enc": None, "W_dec": None}
    ours, same = load_dictionary(written(tmp_path / "a", **small)), load_dictionary(written(tmp_path / "b"))
    torch.testing.assert_close(ours(x), same(x))
    assert ours.W_enc.dtype == torch.float32


def test_a_dictionary_of_the_embeddings_is_refused(tmp_path):
    file = written(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6")
    with pytest.raises(InputError, match="of the embeddings, whose scale is another one"):
        load_dictionary(file)


# --- refusals


@pytest.mark.parametrize("name", SHAPES)
def test_a_missing_array_is_named(tmp_path, name):
    with pytest.raises(VectorError, match=rf"lacks {name}|no W_enc and W_dec"):
        load_dictionary(written(tmp_path / "a", **{name: None}))


@pytest.mark.parametrize("name", ["W_dec", "b_enc", "b_dec", "threshold"])
def test_an_array_of_another_shape_is_refused(tmp_path, name):
    with pytest.raises(VectorError, match=rf"{name} has shape \(3, 3\)"):
        load_dictionary(written(tmp_path / "a", **{name: np.ones((3, 3), np.float32)}))


@pytest.mark.parametrize("value", [np.ones(4, np.float32), np.ones((0, 5), np.float32)])
def test_an_encoder_that_is_no_matrix_is_refused(tmp_path, value):
    with pytest.raises(VectorError, match="no W_enc and W_dec that are matrices"):
        load_dictionary(written(tmp_path / "a", W_enc=value))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_arrays_that_are_not_finite_are_refused(tmp_path, bad):
    with pytest.raises(VectorError, match="20 of the 20 numbers of threshold are not finite"):
        load_dictionary(written(tmp_path / "a", threshold=np.full(20, bad, np.float32)))


def test_a_pickled_array_is_not_unpickled(tmp_path):
    """An array of objects is how a pickle hides in this format."""

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was run",)

    traps = np.empty(20, object)
    traps[:] = Trap()
    stream = io.BytesIO()
    np.lib.format.write_array(stream, traps, allow_pickle=True)
    file = written(tmp_path / "a", threshold=None)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("threshold.npy", stream.getvalue())
    with pytest.raises(VectorError, match=r"Object arrays cannot be loaded when allow_pickle=False"):
        load_dictionary(file)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    file = written(tmp_path / "a")
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(VectorError, match="damaged, cut off, or no archive of arrays"):
        load_dictionary(file)


def test_an_array_that_claims_to_be_larger_than_the_world_is_refused(tmp_path):
    file = written(tmp_path / "a", threshold=None)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("threshold.npy", header.getvalue())
    with pytest.raises(VectorError, match="damaged, cut off, or no archive of arrays"):
        load_dictionary(file)
