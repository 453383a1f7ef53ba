"""Run by the environment that has repeng: times it beside plain transformers there, and prints JSON.

    .venv-repeng/bin/python benchmarks/peers/repeng_job.py MODEL_FOLDER < inputs.json

Imports nothing of this project, which asks for a later numpy and transformers. The inputs are texts in
pairs, token rows of one length, a count of new tokens and of repeats; jobs alternate as in ours.
"""

import json
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO

import torch
from repeng import ControlModel, ControlVector, DatasetEntry
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def alternate(jobs, repeats):
    """Seconds of each job, run in turn forwards and backwards, after one round that warms up."""
    seconds = {name: [] for name in jobs}
    for number in range(repeats + 1):
        for name in list(jobs) if number % 2 == 0 else reversed(list(jobs)):
            began = time.perf_counter()
            jobs[name]()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main(folder, asked):
    torch.set_num_threads(asked["threads"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{folder}/tokenizer.json", eos_token=asked["eos"], pad_token=asked["eos"]
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, rope_theta=asked["rope_theta"]
    ).eval()
    repeats = asked["repeats"]
    times = {}

    entries = [DatasetEntry(positive=first, negative=second) for first, second in asked["texts"]]
    strings = [text for pair in asked["texts"] for text in pair]

    @torch.no_grad()
    def body():
        model.model(**tokenizer(strings, padding=True, return_tensors="pt"), use_cache=False)

    def train():
        ControlVector.train(model, tokenizer, entries, batch_size=len(strings))

    if entries:
        times["extraction"] = alternate({"bare body": body, "repeng": train}, repeats)

    if asked["prompts"]:
        ids = torch.tensor(asked["prompts"])
        options = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": asked["new_tokens"],
            "do_sample": False,
            "eos_token_id": asked["stops"],
            "pad_token_id": tokenizer.pad_token_id,
        }
        layer = model.config.num_hidden_layers // 2
        vector = {layer: 1e-4 * torch.randn(model.config.hidden_size)}
        control = ControlModel(model, [layer])

        @torch.no_grad()
        def unsteered():
            control.reset()
            return model.generate(ids, **options)

        @torch.no_grad()
        def steered():
            control.set_raw_control(vector)
            return model.generate(ids, **options)

        times["generation"] = alternate({"unsteered": unsteered, "steered": steered}, repeats)
    versions = {name: version(name) for name in ("repeng", "transformers", "torch", "numpy")}
    return {"times": times, "versions": versions}


if __name__ == "__main__":
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        answer = main(sys.argv[1], json.load(sys.stdin))
    print(json.dumps(answer))
