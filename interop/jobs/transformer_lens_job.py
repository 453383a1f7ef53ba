"""TransformerLens: our numbers added at ``blocks.N.hook_resid_post`` of its model, weights as they are."""

import json
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import hooked_transformer
from hooks import load


def add(value: Tensor, *, vector: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    return value + vector


@torch.no_grad()
def main(folder: Path) -> None:
    asked = json.loads((folder / "request.json").read_text())
    added = np.load(folder / "added.npz")
    torch.set_num_threads(asked["threads"])
    model = hooked_transformer(load(asked["model"], dtype=torch.float32, device="cpu"))
    for case in asked["cases"]:
        hooks = []
        if case["file"] is not None:
            vector = torch.from_numpy(added[case["name"]])
            hooks.append((f"blocks.{case['block']}.hook_resid_post", partial(add, vector=vector)))
        logits = [
            model.run_with_hooks(torch.tensor([row]), fwd_hooks=hooks)[0].numpy() for row in asked["rows"]
        ]
        np.save(folder / f"{case['name']}.npy", np.concatenate(logits))
    versions = {name: version(name) for name in ("transformer-lens", "transformers", "torch", "numpy")}
    (folder / "answer.json").write_text(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
