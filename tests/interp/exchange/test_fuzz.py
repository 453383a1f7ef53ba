"""Whatever a file holds, a reader gives vectors that are finite, or raises an error of ours."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hooks.errors import UnlatchError
from interp.exchange import FORMATS, export_vector, import_vector, read_vector
from tests.interp.exchange.cases import random_vector

JSON = ("aisteer360", "vllm-lens", "easysteer", "neuronpedia")
EXAMPLES = 60
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([-1, 10**6, 2**63, 1e308, "", "1", "layer.2", "AAAA", [], {}, [[]], 10**400])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def good(llama, tmp_path_factory):
    """A small good file of each format, by name."""
    folder, vector = tmp_path_factory.mktemp("good"), random_vector(llama, width=4)
    made = {}
    for name, target in FORMATS.items():
        path = folder / name / f"v{target.suffix}"
        layer = [1, 2] if target.many else 1
        made[name] = export_vector(vector, path, to=name, layer=layer, dose=0.3).files
    return made


def read_as(path: Path, name: str) -> None:
    """Any way to read it: only our errors, or finite numbers."""
    for attempt in (lambda: read_vector(path, name), lambda: read_vector(path)):
        try:
            found = attempt()
        except UnlatchError:
            continue
        assert all(torch.isfinite(v).all() and v.dtype == torch.float32 for v in found.vectors.values())
        assert sum(v.numel() for v in found.vectors.values()) < 2**16
    try:
        import_vector(path, format=name)
    except UnlatchError:
        return


fuzzed = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@fuzzed
def test_bytes_that_were_changed_or_cut_end_in_an_error_of_ours_or_in_numbers(name, good, data):
    files = {path.name: bytearray(path.read_bytes()) for path in good[name]}
    raw = files[data.draw(st.sampled_from(sorted(files)))]
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(bytes(content))
        read_as(Path(folder) / good[name][0].name, name)


def places(value, at=()):
    """The paths to all parts of a JSON value."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from places(value[number], (*at, number))


@pytest.mark.parametrize("name", JSON)
@given(data=st.data())
@fuzzed
def test_json_with_other_values_in_it_ends_in_an_error_of_ours_or_in_numbers(name, good, data):
    value = json.loads(good[name][0].read_text(encoding="utf-8"))
    at = data.draw(st.sampled_from([place for place in places(value) if place]))
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[at[-1]] = data.draw(WILD)
    else:
        del inner[at[-1]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / good[name][0].name
        path.write_text(json.dumps(value), encoding="utf-8")
        read_as(path, name)
