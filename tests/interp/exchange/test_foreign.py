"""Files as other programs write them, built here to the letter, and what of them cannot be read."""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file

from hooks import generate
from hooks.errors import InputError, VectorError
from hooks.positions import everything, generated, response
from interp.exchange import (
    FORMATS,
    export_vector,
    foreign_edits,
    import_vector,
    read_vector,
    recognised,
    vector_of,
)
from interp.exchange.repeng import from_directions, to_directions
from interp.exchange.steering_vectors import from_object, to_fields, to_object
from interp.residual_norm import own_residual_norms
from tests.interp.exchange.cases import random_vector

D = 32
A = torch.randn(D, generator=torch.Generator().manual_seed(1))
B = torch.randn(D, generator=torch.Generator().manual_seed(2))


def written(path, value):
    path.write_text(json.dumps(value))
    return path


def repeng_gguf(path, directions, *, hint="mistral"):
    """As ControlVector.export_gguf writes it, its keys being whatever integers it was trained at."""
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def lens_tensor(tensor, *, compress=False):
    """As vllm-lens's serialize_tensor writes it."""
    stored = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    data = stored.numpy().tobytes()
    if compress:
        pyarrow = pytest.importorskip("pyarrow")
        data = pyarrow.compress(data, codec="zstd", asbytes=True)
    return {
        "data": base64.b64encode(data).decode(),
        "dtype": str(stored.numpy().dtype),
        "original_dtype": str(tensor.dtype),
        "shape": list(tensor.shape),
        **({"compression": "zstd"} if compress else {}),
    }


def easysteer_wire(vectors):
    """As EasySteer's to_json_payload writes it."""
    tensors, digest = {}, hashlib.sha256(b"direction:1")
    for name, vector in sorted((f"layer.{i}", v) for i, v in vectors.items()):
        raw = vector.numpy().tobytes()
        tensors[name] = {"shape": list(vector.shape), "data": base64.b64encode(raw).decode()}
        for part in (name.encode(), str(tuple(vector.shape)).encode(), raw):
            digest.update(part)
    return {
        "version": 1,
        "kind": "direction",
        "tensors": tensors,
        "extra": {},
        "sha256": digest.hexdigest(),
    }


EVERYWHERE = {"prompt": "all", "generation": "all"}


def test_a_svec_without_its_optional_fields_and_with_them(tmp_path):
    bare = {"model_type": "llama", "directions": {"14": A.tolist(), "3": [B.tolist()]}}
    full = bare | {"explained_variances": {"14": 0.4, "3": 0.2}, "probe_accuracies": {"14:0": 0.9}}
    for value in (bare, full):
        found = read_vector(written(tmp_path / "v.svec", value))
        assert found.layers == [3, 14]
        assert torch.equal(found.vectors[14], A)
        assert torch.equal(found.vectors[3], B)
        assert (found.model, found.positions, found.facts) == ("llama", response, None)


def test_repengs_gguf_with_layers_that_llama_cpp_takes_and_with_one_that_it_does_not(tmp_path):
    fine = repeng_gguf(tmp_path / "a.gguf", {np.int64(2): A, 1: B})
    assert recognised(fine).name == "gguf"
    with_zero = repeng_gguf(tmp_path / "b.gguf", {0: B, 1: A})
    assert recognised(with_zero).name == "repeng"
    for path, layers in ((fine, [1, 2]), (with_zero, [0, 1])):
        found = read_vector(path, "repeng")
        assert found.layers == layers
        assert torch.equal(found.vectors[layers[1]], A)
        assert (found.model, found.positions) == ("mistral", everything)
    half = repeng_gguf(tmp_path / "c.gguf", {1: A.half()})
    assert torch.equal(read_vector(half, "repeng").vectors[1], A.half().float())


def test_a_repeng_object_in_memory_goes_there_and_back(llama):
    vector = random_vector(llama)
    directions = to_directions(vector, layer=2, dose=0.3)
    assert {i: (d.dtype, d.shape) for i, d in directions.items()} == {2: (np.float32, (D,))}
    addition = from_directions({np.int64(2): directions[2].astype(np.float64)}, model_type="llama")
    back = vector_of(addition, llama, how="a test")
    assert torch.equal(back.at().parameters()[0], vector.at(2, dose=0.3).parameters()[0])
    with pytest.raises(VectorError, match="layer -1; layers are counted from 0"):
        from_directions({-1: directions[2]})
    with pytest.raises(VectorError, match="floats are due"):
        from_directions({1: np.arange(4)})


@dataclass
class SteeringVectorOfTheirs:
    """The fields of steering_vectors.SteeringVector 0.12.2."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"
    others: dict[str, int] = field(default_factory=dict)


def test_a_steering_vectors_object_in_memory_goes_there_and_back(llama):
    vector = random_vector(llama)
    fields = to_fields(vector, layer=2, dose=-0.3)
    assert fields.keys() == {"layer_activations", "layer_type"}
    theirs = SteeringVectorOfTheirs(**fields)
    back = vector_of(from_object(theirs), llama, how="a test")
    assert torch.equal(back.at().parameters()[0], vector.at(2, dose=-0.3).parameters()[0])
    reshaped = SteeringVectorOfTheirs({1: A.reshape(1, 1, -1)})
    assert torch.equal(from_object(reshaped).vectors[1], A)
    for kind in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"):
        with pytest.raises(VectorError, match=rf"'{kind}' is not the output of a block"):
            from_object(SteeringVectorOfTheirs({1: A}, kind))
    with pytest.raises(VectorError, match="at layer -1"):
        from_object(SteeringVectorOfTheirs({-1: A}))
    with pytest.raises(VectorError, match="has no layer_activations"):
        from_object(theirs.layer_activations)
    if find_spec("steering_vectors") is None:
        with pytest.raises(InputError, match="pip install steering-vectors"):
            to_object(vector, layer=2, dose=-0.3)
    else:
        made = to_object(vector, layer=2, dose=-0.3)
        assert torch.equal(made.layer_activations[2], fields["layer_activations"][2])


def test_the_safetensors_of_steering_vectors_makes_its_object_in_two_lines(llama, tmp_path):
    path = tmp_path / "v.safetensors"
    export_vector(random_vector(llama), path, to="steering-vectors", layer=[1, 2], dose=0.3)
    tensors = load_file(path)
    theirs = SteeringVectorOfTheirs({int(name.split(".")[1]): tensor for name, tensor in tensors.items()})
    assert {i: v.tolist() for i, v in from_object(theirs).vectors.items()} == {
        i: v.tolist() for i, v in read_vector(path).vectors.items()
    }


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_request_of_vllm_lens_with_its_scale(dtype, compress, tmp_path):
    rows = torch.stack([A, B]).to(dtype)
    request = {
        "activations": lens_tensor(rows, compress=compress),
        "layer_indices": [18, 4],
        "scale": 2.5,
        "norm_match": False,
        "position_indices": None,
    }
    for value in (request, [request]):
        found = read_vector(written(tmp_path / "v.json", value))
        assert torch.equal(found.vectors[18], rows[0].float() * 2.5)
        assert torch.equal(found.vectors[4], rows[1].float() * 2.5)
        assert found.positions == everything
    small = {"activations": lens_tensor(rows, compress=compress), "layer_indices": [18, 4]}
    assert torch.equal(read_vector(written(tmp_path / "v.json", small)).vectors[18], rows[0].float())


def test_a_compressed_tensor_that_swells_is_refused_before_it_does(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    bomb = pyarrow.compress(bytes(2**26), codec="zstd", asbytes=True)
    assert len(bomb) < 2**14
    fields = lens_tensor(torch.zeros(1, 4)) | {
        "data": base64.b64encode(bomb).decode(),
        "compression": "zstd",
    }
    path = written(tmp_path / "v.json", {"activations": fields, "layer_indices": [1]})
    with pytest.raises(VectorError, match="has 17 bytes"):
        read_vector(path)


@pytest.mark.parametrize(
    ("entry", "positions"),
    [({}, everything), ({"decode_only": False}, everything), ({"decode_only": True}, response)],
)
def test_hotwires_matrix_and_its_request(entry, positions, tmp_path):
    torch.save(torch.stack([A, B, torch.zeros(D)]), tmp_path / "calm.pt")
    assert read_vector(tmp_path / "calm.pt").layers == [0, 1]
    request = {"id": "calm", "layer": 1, "scale": 1.5} | entry
    for value in (request, [request]):
        written(tmp_path / "calm.json", value)
        found = read_vector(tmp_path / "calm.pt")
        assert found.layers == [1]
        assert torch.equal(found.vectors[1], B * 1.5)
        assert found.positions == positions
    assert read_vector(written(tmp_path / "calm.json", request)).layers == [1]


def test_hotwires_other_shapes(tmp_path):
    torch.save({"v": A.bfloat16()}, tmp_path / "v.pt")
    with pytest.raises(VectorError, match="is one vector, for any layer"):
        read_vector(tmp_path / "v.pt")
    written(tmp_path / "v.json", {"id": "v", "layer": 20, "scale": -1.0})
    assert torch.equal(read_vector(tmp_path / "v.pt").vectors[20], -A.bfloat16().float())


@pytest.mark.parametrize(
    ("clause", "positions"),
    [
        ({"prompt": "all", "generation": "all"}, everything),
        ({"prompt_positions": [-1], "generation": "all"}, generated),
        ({"generation": "all"}, response),
    ],
)
def test_a_spec_of_easysteer_with_the_vector_in_it(clause, positions, tmp_path):
    vector = {"data": easysteer_wire({10: A, 2: B}), "scale": 2.0, "apply": clause}
    for body in ({"spec": {"vectors": [vector], "conflict": "priority"}}, {"vectors": [vector]}):
        found = read_vector(written(tmp_path / "v.json", body))
        assert found.layers == [2, 10]
        assert torch.equal(found.vectors[10], 2 * A)
        assert found.positions == positions
    part = vector | {"layers": [2], "algorithm": "direct", "normalize": False, "name": "x"}
    assert read_vector(written(tmp_path / "v.json", {"vectors": [part]})).layers == [2]


def test_what_we_write_for_easysteer_is_what_it_would_have_written(llama, tmp_path):
    path, vector = tmp_path / "v.json", random_vector(llama)
    export_vector(vector, path, to="easysteer", layer=[1, 2], dose=0.3)
    ((spec,), ours) = json.loads(path.read_text())["spec"]["vectors"], read_vector(path)
    assert spec["data"] == easysteer_wire(ours.vectors)
    assert spec["apply"] == {"prompt_positions": [-1], "generation": "all"}


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_resid_post"])
def test_a_vector_for_neuronpedia(hook, tmp_path):
    body = {
        "modelId": "gemma-2-2b",
        "layerNumber": 12,
        "hookType": hook,
        "vector": [0.5] * D,
        "vectorDefaultSteerStrength": -20,
        "vectorLabel": "formal",
    }
    found = read_vector(written(tmp_path / "v.json", body))
    assert (found.layers, f"hook_{found.kind}", found.model) == ([12], hook, "gemma-2-2b")
    assert torch.equal(found.vectors[12], torch.full((D,), -10.0))


def test_tensors_named_after_sites_in_any_spelling(tmp_path):
    for name in ("blocks.3.hook_mlp_out", "mlp_out.3", "mlp_out(3)"):
        save_file({name: A.double()}, tmp_path / "v.safetensors")
        found = read_vector(tmp_path / "v.safetensors")
        assert (found.layers, found.kind) == ([3], "mlp_out")
        assert torch.equal(found.vectors[3], A)


# --- imported


@pytest.fixture
def theirs(tmp_path):
    return repeng_gguf(tmp_path / "happy.gguf", {1: 3 * A})


def test_a_strangers_vector_takes_its_unit_from_the_models_own_answers(theirs, llama):
    vector = import_vector(theirs, llama)
    (norm,) = own_residual_norms(llama, [vector.at().site]).values()
    assert vector.resid_norm == {1: norm}
    assert vector.recommended.dose == pytest.approx(float((3 * A).norm()) / norm)
    assert vector.recommended.how == "strength 1 of happy.gguf, gguf"
    assert (vector.poles, vector.fingerprint) == (("added", "subtracted"), llama.fingerprint)
    (edit,) = foreign_edits(theirs, llama, strength=1.0)
    moved = [
        generate(llama, ["What is 3 + 3?"], edits=edits, max_new_tokens=4, logprobs=True)[0].logprobs
        for edits in ([vector.at(positions=everything)], [edit], [])
    ]
    assert moved[0] == moved[1] != moved[2]


def test_several_layers_are_kept_and_none_is_recommended(llama, tmp_path):
    path = repeng_gguf(tmp_path / "v.gguf", {1: A, 2: B, 0: torch.zeros(D)})
    vector = import_vector(path, llama)
    assert (vector.layers, vector.recommended) == ([1, 2], None)
    with pytest.raises(VectorError, match="no recommended layer"):
        vector.at()


def test_without_a_model_a_strangers_file_is_refused(theirs):
    with pytest.raises(InputError, match=r"is not a file of ours.*--model"):
        import_vector(theirs)


def test_a_vector_that_does_not_fit_the_model_is_refused(llama, tmp_path):
    with pytest.raises(VectorError, match=r"block 7; tiny-llama has blocks 0\.\.2"):
        import_vector(repeng_gguf(tmp_path / "a.gguf", {7: A}), llama)
    with pytest.raises(VectorError, match="are 8 wide"):
        import_vector(repeng_gguf(tmp_path / "b.gguf", {1: A[:8]}), llama)
    with pytest.raises(VectorError, match="adds nothing"):
        import_vector(repeng_gguf(tmp_path / "c.gguf", {1: torch.zeros(D)}), llama)


# --- refused

WIRE = easysteer_wire({1: A})
LENS = {"activations": lens_tensor(A[None]), "layer_indices": [1]}
SVEC = {"model_type": "llama", "directions": {"1": A.tolist()}}
PEDIA = {
    "modelId": "m",
    "layerNumber": 1,
    "hookType": "hook_resid_post",
    "vector": A.tolist(),
    "vectorDefaultSteerStrength": 1,
}
SPEC = {"data": WIRE, "apply": EVERYWHERE}
REFUSED = [
    ("aisteer360", {"directions": {"1": A.tolist()}}, "no model_type"),
    ("aisteer360", SVEC | {"directions": {}}, "holds no vector"),
    ("aisteer360", SVEC | {"directions": {"1": [A.tolist()] * 2}}, "has 2 rows"),
    ("aisteer360", SVEC | {"num_heads": 4, "head_dim": 8}, "directions of single heads"),
    ("aisteer360", SVEC | {"directions": {"01": A.tolist(), "1": A.tolist()}}, "names layer 1 twice"),
    ("aisteer360", SVEC | {"directions": {"-1": A.tolist()}}, "0-based layer"),
    ("aisteer360", SVEC | {"directions": {"1": ["x"]}}, "list of numbers"),
    ("aisteer360", SVEC | {"directions": {"1": [1e39]}}, "infinite entries in float32"),
    ("aisteer360", SVEC | {"directions": {"1": [10**400]}}, "integer that no float holds"),
    ("aisteer360", SVEC | {"directions": {"1": [1.0], "2": [1.0, 2.0]}}, "one width is needed"),
    ("vllm-lens", LENS | {"norm_match": True}, "norm_match"),
    ("vllm-lens", LENS | {"position_indices": [3]}, "position_indices"),
    ("vllm-lens", LENS | {"activations": lens_tensor(A[None, None])}, "3 dimensions"),
    ("vllm-lens", LENS | {"layer_indices": [1, 2]}, "has 1 vectors and layer_indices"),
    ("vllm-lens", LENS | {"scale": "2"}, "finite number is due"),
    ("vllm-lens", [LENS, LENS], "names layer 1 twice"),
    ("vllm-lens", LENS | {"activations": LENS["activations"] | {"shape": [1, 31]}}, "has 128 bytes"),
    ("vllm-lens", LENS | {"activations": LENS["activations"] | {"shape": [2**40, 2**40]}}, "has the shape"),
    ("vllm-lens", LENS | {"activations": LENS["activations"] | {"dtype": "object"}}, "floats are due"),
    ("vllm-lens", LENS | {"activations": LENS["activations"] | {"compression": "lzma"}}, "zstd or nothing"),
    ("vllm-lens", LENS | {"activations": {"cloudpickle": "gASVCg=="}}, "has the shape None"),
    ("easysteer", {"vectors": [SPEC | {"algorithm": "erase"}]}, "only direct adds a vector"),
    ("easysteer", {"vectors": [SPEC | {"normalize": True}]}, "asks for normalize"),
    ("easysteer", {"vectors": [SPEC | {"apply": {"generation_window": [0, 8]}}]}, "Only these clauses"),
    ("easysteer", {"vectors": [SPEC | {"source": "a/b/c.gguf", "data": None}]}, "--format repeng"),
    ("easysteer", {"vectors": [SPEC | {"data": WIRE | {"kind": "reft"}}]}, "payload of kind 'reft'"),
    ("easysteer", {"vectors": [SPEC | {"data": WIRE | {"sha256": "0" * 64}}]}, "was altered"),
    ("easysteer", {"vectors": [SPEC, SPEC]}, "two vectors at layer 1"),
    ("easysteer", {"vectors": [SPEC | {"layers": [3]}]}, "holds no vector"),
    ("easysteer", {"vectors": []}, "holds no vectors"),
    ("neuronpedia", PEDIA | {"hookType": "resid-pre"}, "hook_resid_pre and hook_resid_post are known"),
    ("neuronpedia", PEDIA | {"vectorDefaultSteerStrength": 301}, "takes 24576 and 300"),
    ("neuronpedia", PEDIA | {"vector": [0.1] * 24_577}, "has 24577 numbers"),
    ("neuronpedia", PEDIA | {"vector": []}, "list of numbers is due"),
    ("neuronpedia", PEDIA | {"layerNumber": 1.5}, "0-based layer"),
    ("neuronpedia", PEDIA | {"vector": [True, False]}, "list of numbers is due"),
]


@pytest.mark.parametrize(("to", "value", "said"), REFUSED)
def test_what_is_not_one_added_vector_is_refused_by_name(to, value, said, tmp_path):
    with pytest.raises(VectorError, match=said):
        read_vector(written(tmp_path / f"v{FORMATS[to].suffix}", value), to)


@pytest.mark.parametrize(
    "text", ['{"model_type": "m", "directions": {"1": [NaN]}}', "[" * 100_000, "{", "\x00"]
)
def test_what_is_not_json_is_refused(text, tmp_path):
    (tmp_path / "v.svec").write_text(text)
    with pytest.raises(VectorError, match="is not JSON that can be read"):
        read_vector(tmp_path / "v.svec", "aisteer360")


@pytest.mark.parametrize(
    ("tensors", "metadata", "to", "said"),
    [
        ({"layer_activations.1": A}, {"layer_type": "mlp"}, "steering-vectors", "'mlp' is not the output"),
        ({"layer.1": A}, {"layer_type": "decoder_block"}, "steering-vectors", "no layer_activations.N"),
        ({"x": A}, None, "safetensors", "names no site"),
        (
            {"blocks.1.hook_resid_post": A, "blocks.1.hook_resid_pre": B},
            None,
            "safetensors",
            "mixes the sites",
        ),
        ({"blocks.1.hook_resid_post": A, "resid_post.1": B}, None, "safetensors", "twice"),
        ({"blocks.-1.hook_resid_post": A}, None, "safetensors", "names layer -1"),
        ({"blocks.1.hook_resid_post": A.long()}, None, "safetensors", "floats are due"),
        ({"blocks.1.hook_resid_post": A / 0}, None, "safetensors", "NaN or infinite"),
        ({"blocks.1.hook_resid_post": A.reshape(4, 8)}, None, "safetensors", "one dimension"),
    ],
)
def test_safetensors_of_another_form_are_refused(tensors, metadata, to, said, tmp_path):
    save_file(tensors, tmp_path / "v.safetensors", metadata=metadata)
    with pytest.raises(VectorError, match=said):
        read_vector(tmp_path / "v.safetensors", to)


class Hostile:
    """Runs code where it is unpickled by a reader that allows it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pt_file_that_carries_code_is_refused_and_the_code_is_not_run(tmp_path):
    ran = tmp_path / "ran"
    torch.save({"v": A, "extra": Hostile(ran)}, tmp_path / "v.pt")
    with pytest.raises(VectorError, match="cannot be read as plain data, and nothing else in it is run"):
        read_vector(tmp_path / "v.pt")
    assert not ran.exists()
    torch.load(tmp_path / "v.pt", weights_only=False)["extra"].close()  # the file is what it seems
    assert ran.exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, "holds no tensor"),
        (A.reshape(2, 4, 4), "holds no tensor"),
        (torch.eye(4).to_sparse(), "holds no tensor"),
        (torch.zeros(0, 4), "holds no tensor"),
        (torch.ones(4, 4, dtype=torch.long), "floats are due"),
        (torch.full((4, 4), torch.nan), "NaN or infinite"),
        (torch.zeros(1).expand(2**20, 2**20), "floats are due"),
    ],
)
def test_a_pt_file_of_anything_else_is_refused(value, said, tmp_path):
    torch.save(value, tmp_path / "v.pt")
    with pytest.raises(VectorError, match=said):
        read_vector(tmp_path / "v.pt")


def test_a_pt_file_that_swells_or_is_no_zip_is_refused(tmp_path):
    torch.save(A, tmp_path / "v.pt")
    raw = bytearray((tmp_path / "v.pt").read_bytes())
    struct.pack_into("<I", raw, raw.index(b"PK\x01\x02") + 24, 2**32 - 16)  # what its first entry unpacks to
    (tmp_path / "v.pt").write_bytes(bytes(raw))
    with pytest.raises(VectorError, match="more than any steering vector"):
        read_vector(tmp_path / "v.pt")
    torch.save(A, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(VectorError, match=r"before 1\.6"):
        read_vector(tmp_path / "old.pt", "hotwire")


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"id": "v", "layer": 9, "scale": 1.0}, "has rows 0..1"),
        ({"id": "v", "scale": 1.0}, "0-based layer"),
        ({"id": "v", "layer": 1}, "finite number is due"),
        ([{"id": "v", "layer": 1, "scale": 1.0}] * 2, "names layer 1 twice"),
        (
            [{"layer": 0, "scale": 1, "decode_only": True}, {"layer": 1, "scale": 1}],
            "in decoding only and others everywhere",
        ),
        ("v", "a JSON object is due"),
        ([], "holds no vector"),
    ],
)
def test_a_request_that_hotwire_would_not_serve_as_it_reads_is_refused(request_, said, tmp_path):
    torch.save(torch.stack([A, B]), tmp_path / "v.pt")
    written(tmp_path / "v.json", request_)
    with pytest.raises(VectorError, match=said):
        read_vector(tmp_path / "v.pt")


def test_a_gguf_that_repeng_reads_otherwise_or_not_at_all_is_refused(tmp_path):
    twice = repeng_gguf(tmp_path / "a.gguf", {"1": A, "01": A})
    with pytest.raises(VectorError, match=r"names layer 1 twice: repeng keeps the last, llama\.cpp adds"):
        read_vector(twice, "repeng")
    with pytest.raises(VectorError, match="which names no layer"):
        read_vector(repeng_gguf(tmp_path / "b.gguf", {"x": A}), "repeng")
