"""Dictionaries of SAELens itself, with weights that are all at work, and folders of them."""

import json
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

D_IN, D_SAE, K = 6, 20, 4
MODEL, HOOK = "gpt2-small", "blocks.1.hook_resid_post"


def shaken(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The module with random weights; rows of W_dec of all lengths."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(module.named_parameters()):
            weight.copy_(0.6 * torch.randn(weight.shape, generator=generator, dtype=torch.float32))
        if hasattr(module, "topk_threshold"):
            module.topk_threshold.fill_(0.4)
    return module.requires_grad_(False)


@pytest.fixture(scope="session")
def saelens() -> None:
    """SAELens, imported; it asks TransformerLens for a module that has another name now."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
        import_module("sae_lens")


@pytest.fixture(scope="session")
def theirs(saelens: None) -> Callable[..., nn.Module]:  # noqa: ARG001
    """A dictionary of SAELens: ``theirs("topk", apply_b_dec_to_input=False)``."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    def make(architecture: str, *, metadata: dict[str, Any] | None = None, **options: Any) -> nn.Module:
        kind, config = get_sae_class(architecture)
        said = {"model_name": MODEL, "hook_name": HOOK} | (metadata or {})
        options = {"d_in": D_IN, "d_sae": D_SAE} | ({"k": K} if architecture == "topk" else {}) | options
        return shaken(kind(config(**options, metadata=SAEMetadata(**said))))

    return make


@pytest.fixture(scope="session")
def in_training(saelens: None) -> Callable[..., nn.Module]:  # noqa: ARG001
    """A dictionary of SAELens as its trainer holds it: ``in_training("batchtopk")``."""
    from sae_lens.registry import get_sae_training_class

    def make(architecture: str, **options: Any) -> nn.Module:
        kind, config = get_sae_training_class(architecture)
        return shaken(kind(config(d_in=D_IN, d_sae=D_SAE, **options)))

    return make


@pytest.fixture(scope="session")
def x() -> torch.Tensor:
    return 2 * torch.randn(7, 3, D_IN, generator=torch.Generator().manual_seed(5)) + 0.5


@pytest.fixture
def rewritten() -> Callable[..., None]:
    """Change settings of a JSON file; None takes one out."""

    def rewrite(file: Path, **changes: Any) -> None:
        settings = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))

    return rewrite
