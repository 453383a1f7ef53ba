"""From a name to a model that may be trusted: hub id, folder, GGUF file, or the bundled one."""

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from hooks.anatomy import find_anatomy
from hooks.compiled import compile_where_it_pays
from hooks.errors import InputError, ModelNotFoundError
from hooks.gguf import BUNDLED, as_folder, bundled_gguf
from hooks.language_model import LanguageModel
from hooks.self_check import self_check

DeviceMap = str | Mapping[str, int | str | torch.device]
"""As ``accelerate`` has it: a way to spread a model, or the device of each module path."""


def load(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    compile: bool = False,
) -> LanguageModel:
    """Load a model and its tokenizer, find its sites, and check that they mean what they say.

    Prints nothing. The bundled ``smollm2-135m-instruct`` and ``.gguf`` files need no network; they
    are dequantised to float32 once and kept in ``$UNLATCH_CACHE`` (default ``~/.cache/unlatch``).

    Args:
        name: A hub id, a local folder, a ``.gguf`` file, or ``smollm2-135m-instruct``.
        device: Where to put it; None takes a GPU where there is one; "auto" is ``device_map="auto"``.
        device_map: Spread it, as transformers does: "auto" fills the GPUs, then main memory, then reads
            what is left from disk as it runs; or a device ("cpu", 0, "disk") for each module path.
        dtype: As in transformers; "auto" takes the checkpoint's own.
        trust_remote_code: Run the model repository's own Python code. Leave it off unless you
            have read that code.
        check: Pass False for a model that is only to be looked at, by :func:`hooks.verify.verify`.
        compile: Try torch.compile, and keep it where it pays: :func:`hooks.compiled.compile_where_it_pays`.

    Raises:
        InputError: if both a device and a device map are given.
        ModelNotFoundError: if there is no such model, or the hub cannot be reached.
        ModelRefusedError: if it fails the self-check, with what failed.
    """
    if device_map is not None and device is not None:
        raise InputError(f"device={device} and device_map={device_map}: pass one of them.")
    if device == "auto":
        device, device_map = None, "auto"
    quiet = _Quiet()
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        with quiet:
            source = _source(str(name))
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, device_map=device_map, **options
            )
    except (OSError, HFValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelNotFoundError(
            f"Cannot load {str(name)!r} as a causal language model: {reason}{_hint(str(name))}"
        ) from error
    if device_map is None:
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)  # type: ignore[arg-type]  # transformers' decorator loses the signature
    model.eval()
    lm = adopt(model, tokenizer, name=str(name), check=check)
    if compile:
        compile_where_it_pays(lm)
    return lm


def adopt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str | None = None,
    check: bool = True,
) -> LanguageModel:
    """Take a model that is already in memory, as it is; it must be in eval mode.

    Args:
        check: Pass False for a model that is only to be looked at, by :func:`hooks.verify.verify`.

    Raises:
        InputError: for a model in training mode.
        ModelRefusedError: if it fails the self-check, with what failed.
    """
    if model.training:
        raise InputError(
            "The model is in training mode, where dropout makes every pass differ; call model.eval()."
        )
    called = name or str(model.config.name_or_path or type(model).__name__)
    lm = LanguageModel(model, tokenizer, find_anatomy(model), called)
    if check:
        self_check(lm).require()
    return lm


def _source(name: str) -> str:
    """The folder or hub id behind a name."""
    if name == BUNDLED:
        return str(as_folder(bundled_gguf()))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"No file {path}. Pass the path of an existing .gguf file.")
        return str(as_folder(path))
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelNotFoundError(f"No folder {path}. Pass a folder that holds config.json.")
    return name


def _hint(name: str) -> str:
    if name != BUNDLED and difflib.get_close_matches(name.lower(), [BUNDLED], cutoff=0.6):
        return f" Did you mean {BUNDLED}?"
    return (
        f" A name is a hub id such as Qwen/Qwen3-0.6B (which needs the network once), a local folder, "
        f"a .gguf file, or {BUNDLED}."
    )


class _Quiet:
    """Silence transformers' progress bars and notes while a model loads."""

    def __enter__(self) -> None:
        self._bars = transformers_logging.is_progress_bar_enabled()
        self._level = transformers_logging.get_verbosity()
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._level)
        if self._bars:
            transformers_logging.enable_progress_bar()
