"""Where a model computes: on one device, over several, or with weights that are read as they are used.

``accelerate`` spreads a model by hooks on its modules, which bring inputs and weights to the device
that computes; weights that wait on disk or in main memory are ``meta`` tensors between passes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import PreTrainedModel


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: where its hook brings things to, else where its weights are."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if (device := getattr(one, "execution_device", None)) is not None:
                return torch.device(device)
    return next(module.parameters()).device


def entrance(model: PreTrainedModel) -> torch.device:
    """Where the inputs of a forward pass go, and its logits come back to."""
    embeddings: Any = model.get_input_embeddings()
    return device_of(embeddings)


def weights_of(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, tied ones once; one that waits elsewhere is read while it is looked at."""
    tied = model.all_tied_weights_keys  # a pair of them is one parameter only until it is offloaded
    wanted = {name for name, weight in model.named_parameters() if not (weight.is_meta and name in tied)}
    for path, module in model.named_modules():
        with align_module_device(module):
            for name, weight in module.named_parameters(recurse=False):
                if (full := f"{path}.{name}".lstrip(".")) in wanted:
                    yield full, weight.detach()
