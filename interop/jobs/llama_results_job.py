"""llama.cpp's program llama-results with ``--control-vector FILE``: its own loader, and its tokenizer."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np

PROGRAM = Path(sys.prefix) / "bin" / "llama-results"


def logits_of(asked, text, tokens, file, out):
    """The logits that the program finds on a text, which it must read as the same tokens."""
    where = ["-m", asked["model"], "-p", text, "-o", out]
    plain = ["-t", str(asked["threads"]), "-c", "512", "--no-repack"]
    exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"] if asked["float32"] else []
    vector = [] if file is None else ["--control-vector", file]
    done = subprocess.run(
        [PROGRAM, *where, *plain, *exact, *vector], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-400:] or f"llama-results ended with {done.returncode}")
    found = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(out).tensors}
    if found["tokens"].ravel().tolist() != tokens:
        raise RuntimeError(f"llama-results reads other tokens in {text[:40]!r}")
    return found["logits"].ravel().reshape(len(tokens), -1)


def main(folder):
    asked = json.loads((folder / "request.json").read_text())
    for case in asked["cases"]:
        logits = [
            logits_of(asked, text, row, case["file"], folder / "out.gguf")
            for text, row in zip(asked["texts"], asked["rows"], strict=True)
        ]
        np.save(folder / f"{case['name']}.npy", np.concatenate(logits))
    versions = {name: version(name) for name in ("llama-cpp-python", "gguf", "numpy")}
    (folder / "answer.json").write_text(json.dumps({"versions": versions}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
