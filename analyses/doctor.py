"""What is here, in one paste: versions, machine, devices, and whether a model passes its self-check.

unlatch doctor Qwen/Qwen3-0.6B
"""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from hooks import load
from hooks.errors import UnlatchError
from hooks.gguf import cache_folder
from hooks.language_model import LanguageModel
from hooks.self_check import self_check

ROOT = Path(__file__).parents[1]

SETTINGS = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "UNLATCH_CACHE",
)
"""Variables that change what is computed or found. None of them is a secret."""


def doctor(model: str | None, *, device: str | None = None) -> str:
    """Lines of ``name: value`` that an issue can be filed with; never the name of a home folder.

    Args:
        model: What to load and check; None checks no model. One that cannot be loaded, or is refused, is a
            line that says why.
    """
    lines = [*_software(), *_machine(), *([] if model is None else _checked(model, device))]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name + ':':<{width + 1}} {_anonymous(value)}" for name, value in lines)


def _software() -> Iterator[tuple[str, str]]:
    commit = _commit()
    yield "unlatch", importlib.metadata.version("unlatch") + (f" ({commit})" if commit else "")
    yield "python", f"{platform.python_version()} {platform.python_implementation()}"
    for extra, names in _asked_for().items():
        yield extra, ", ".join(f"{name} {_version(name)}" for name in names)


def _asked_for() -> dict[str, list[str]]:
    """What the package asks for, without an extra and for each; tools for development are left out."""
    asked: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("unlatch") or []:
        requirement = Requirement(line)
        extra = re.search(r'extra == ["\'](\w+)["\']', str(requirement.marker))
        asked.setdefault(f"extra {extra[1]}" if extra else "libraries", []).append(requirement.name)
    asked.pop("extra dev", None)
    return asked


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str | None:
    """The commit of a checkout, and whether files of it were changed; None outside one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        said = [
            subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True)
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    commit, changed = (done.stdout.strip() for done in said)
    return f"commit {commit}, changed" if changed else f"commit {commit}"


def _machine() -> Iterator[tuple[str, str]]:
    memory = psutil.virtual_memory()
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    instructions = torch.backends.cpu.get_cpu_capability()
    yield "processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {instructions}"
    yield "memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        yield (
            f"cuda:{i}",
            f"{torch.cuda.get_device_name(i)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
            f"CUDA {torch.version.cuda}",
        )
    if not torch.cuda.device_count():
        yield "accelerator", "mps" if torch.backends.mps.is_available() else "none"
    yield "model cache", str(cache_folder())
    told = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    yield "settings", ", ".join(told) or "none"


def _checked(model: str, device: str | None) -> Iterator[tuple[str, str]]:
    yield "model", model
    try:
        lm = load(model, device=device, check=False)
    except UnlatchError as error:
        yield "not loaded", str(error)
        return
    yield "it is", _described(lm)
    findings = self_check(lm).findings
    failed = [finding for finding in findings if not finding.passed]
    yield "self-check", f"{len(findings) - len(failed)} of {len(findings)} pass"
    for finding in failed[:3]:
        yield "failed", f"{finding.what} (off by {finding.difference:.2g})"


def _described(lm: LanguageModel) -> str:
    template = "no chat template" if lm.template_hash is None else f"chat template {lm.template_hash}"
    return (
        f"{type(lm.model).__name__}, {lm.n_layers} blocks of {lm.d_model}, {lm.d_vocab} tokens, {lm.dtype} "
        f"on {lm.device}, attention {lm.model.config._attn_implementation}, weights {lm.fingerprint}, "
        f"{template}"
    )


def _anonymous(value: str) -> str:
    """Without the home folder, which names a person."""
    return value.replace(str(Path.home()), "~")
