"""repeng: our file read by its own ``ControlVector.import_gguf``, and applied by its ``ControlModel``."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from repeng import ControlModel, ControlVector
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main(folder):
    asked = json.loads((folder / "request.json").read_text())
    torch.set_num_threads(asked["threads"])
    base = AutoModelForCausalLM.from_pretrained(
        asked["model"],
        torch_dtype=torch.float32,
        rope_theta=asked["rope_theta"],  # which its transformers does not find in a config of ours
    ).eval()
    for case in asked["cases"]:
        if case["file"] is None:
            model = base
        else:
            vector = ControlVector.import_gguf(case["file"])
            model = ControlModel(base, list(vector.directions))
            model.set_control(vector, 1.0)
        logits = [model(torch.tensor([row])).logits[0].numpy() for row in asked["rows"]]
        np.save(folder / f"{case['name']}.npy", np.concatenate(logits))
        if model is not base:
            model.unwrap()
    versions = {name: version(name) for name in ("repeng", "transformers", "torch", "numpy")}
    (folder / "answer.json").write_text(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
