"""steering-vectors: our numbers in its ``SteeringVector``, applied by its own ``apply``."""

import json
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from steering_vectors import SteeringVector
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main(folder):
    asked = json.loads((folder / "request.json").read_text())
    added = np.load(folder / "added.npz")
    torch.set_num_threads(asked["threads"])
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).eval()
    for case in asked["cases"]:
        if case["file"] is None:
            steered = nullcontext()
        else:
            vector = SteeringVector({case["block"]: torch.from_numpy(added[case["name"]])}, "decoder_block")
            steered = vector.apply(model)
        with steered:
            logits = [model(torch.tensor([row])).logits[0].numpy() for row in asked["rows"]]
        np.save(folder / f"{case['name']}.npy", np.concatenate(logits))
    versions = {name: version(name) for name in ("steering-vectors", "transformers", "torch", "numpy")}
    (folder / "answer.json").write_text(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
