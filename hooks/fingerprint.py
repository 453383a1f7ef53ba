"""Short hashes that tell whether a vector meets the model, tokenizer and template it was made for."""

import hashlib
import json

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooks.placement import weights_of

_SAMPLES = 64  # values of each parameter that enter the hash


def _short(digest: "hashlib._Hash") -> str:
    return digest.hexdigest()[:16]


@torch.no_grad()
def model_fingerprint(model: PreTrainedModel) -> str:
    """Hash of every parameter's name, shape and 64 evenly spaced values, rounded to bfloat16.

    The rounding makes a checkpoint hash alike in float32 and in bfloat16; quantised weights, being
    other weights, hash differently. A fine-tuned copy differs wherever training moved a sample.
    """
    samples: dict[str, bytes] = {}
    for name, weight in weights_of(model):
        flat = weight.reshape(-1)
        n = min(_SAMPLES, len(flat))
        at = torch.arange(n, device=flat.device) * (len(flat) - 1) // max(1, n - 1)
        values = flat[at].to(torch.bfloat16).view(torch.int16).cpu().numpy()
        samples[name] = f"{name}{tuple(weight.shape)}".encode() + values.tobytes()
    digest = hashlib.sha256()
    for _, sample in sorted(samples.items()):
        digest.update(sample)
    return _short(digest)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the vocabulary, with each token's id."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    return _short(hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")))


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Hash of the chat template's text; None where there is none."""
    template = tokenizer.chat_template
    return None if template is None else _short(hashlib.sha256(str(template).encode()))
