"""``make bench``: capture, extraction, steered generation and import time, as ratios.

python -m benchmarks [MODEL]
"""

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from analyses.pairs import builtin_pairs
from analyses.tasks import word_problems
from benchmarks.timing import alternate, show
from hooks import Add, LanguageModel, Site, generate, load
from hooks.capture import run_to
from hooks.chat import response_row
from hooks.positions import last
from hooks.rows import batches_of
from interp import contrast


def capture_every_layer(lm: LanguageModel) -> None:
    """All layers of 64 prompts of mixed length, over the bare body on the same batches."""
    problems = word_problems(96)[:64]
    rows = [
        response_row(lm.tokenizer, p.prompt, p.solutions["long" if i % 2 else "brief"])
        for i, p in enumerate(problems)
    ]
    batches = list(
        batches_of(rows, pad_id=lm.pad_id, device=lm.device, row_bytes=lm.token_bytes(), max_rows=16)
    )
    sites = [Site(layer, "resid_post") for layer in range(lm.n_layers)]

    def bare() -> None:
        with torch.no_grad():
            for batch in batches:
                lm.model.base_model(**batch.inputs, use_cache=False)

    def captured() -> None:
        for batch in batches:
            run_to(lm, batch, sites)

    medians = alternate({"bare model body": bare, f"capture, {lm.n_layers} layers": captured})
    show("Capture, 64 prompts of mixed length", medians, {f"capture, {lm.n_layers} layers": "aim: 1.05"})


def extract_a_vector(lm: LanguageModel) -> None:
    """The mean difference at the last token of 16 pairs, every layer, over steering-vectors."""
    pairs = builtin_pairs("verbosity", word_problems(), 16, 0)
    jobs: dict[str, Callable[[], object]] = {
        "unlatch, no reliability": lambda: contrast(lm, pairs, read=last(1), n_null=0),
    }
    try:
        theirs = f"steering-vectors {version('steering-vectors')}"
    except PackageNotFoundError:
        print("\nsteering-vectors is not installed: `make bench` installs it")
    else:
        from steering_vectors import train_steering_vector

        texts = [
            tuple(
                str(lm.tokenizer.decode(response_row(lm.tokenizer, p.prompt, text).tokens))
                for text in (p.positive, p.negative)
            )
            for p in pairs
        ]
        for size in (1, 16):
            jobs[f"{theirs}, batch size {size}"] = lambda size=size: train_steering_vector(
                lm.model, lm.tokenizer, texts, batch_size=size
            )
    show("Extraction, 16 pairs, every layer", alternate(jobs))


def generate_steered(lm: LanguageModel) -> None:
    """32 prompts, 32 tokens each, with and without an edit at the middle layer."""
    prompts = [p.prompt for p in word_problems(96)[:32]]
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    edit = Add(Site(lm.n_layers // 2, "resid_post"), vector, scale=1e-4)
    medians = alternate(
        {
            "unsteered": lambda: generate(lm, prompts, max_new_tokens=32),
            "steered": lambda: generate(lm, prompts, edits=[edit], max_new_tokens=32),
        }
    )
    show("Generation, 32 prompts, 32 new tokens", medians, {"steered": "aim: 1.03"})


def import_time() -> None:
    """Wall time of fresh interpreters."""

    def run(*code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *code], check=True, capture_output=True)
        return time.perf_counter() - start

    for name, code in (
        ("unlatch --help", ("-m", "analyses.cli", "--help")),
        ("unlatch verbosity --help", ("-m", "analyses.cli", "verbosity", "--help")),
        ("import torch, transformers", ("-c", "import torch, transformers")),
        ("import hooks", ("-c", "import hooks")),
    ):
        print(f"  {name:44} {min(run(*code) for _ in range(3)):8.3f} s")


def main(model: str) -> None:
    lm = load(model)
    print(
        f"{lm.name}, {lm.dtype} on {lm.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    capture_every_layer(lm)
    generate_steered(lm)
    extract_a_vector(lm)
    print("\nStart-up, best of 3")
    import_time()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct")
