"""llama.cpp through its own interface: reads a control vector to the letter of its loader, and applies it.

The loader itself (common/common.cpp) is not in the library, so it is written again here, on the file as the
package gguf reads it: ``direction.N`` is float32 of one dimension, N >= 1, and goes to place N - 1 of the
buffer that ``llama_set_adapter_cvec`` takes, over all layers, as ``--control-vector`` does.
"""

import ctypes
import json
import sys
from importlib.metadata import version
from pathlib import Path

import gguf
import llama_cpp
import numpy as np


def buffer_of(file):
    """What ``common_control_vector_load`` makes of a file at strength 1."""
    data, width = np.zeros(0, np.float32), None
    for tensor in gguf.GGUFReader(file).tensors:
        word, dot, number = tensor.name.partition(".")
        if word != "direction" or not dot or not number.isdigit() or int(number) == 0:
            raise ValueError(f"{file}: llama.cpp refuses the tensor {tensor.name}")
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or len(tensor.shape) != 1:
            raise ValueError(
                f"{file}: llama.cpp refuses {tensor.name}, which is not float32 of one dimension"
            )
        width = width or int(tensor.shape[0])
        if int(tensor.shape[0]) != width:
            raise ValueError(f"{file}: llama.cpp refuses directions of several widths")
        layer = int(number)
        data = np.concatenate([data, np.zeros(max(0, width * layer - len(data)), np.float32)])
        data[width * (layer - 1) : width * layer] += tensor.data
    return data, width


def steer(context, file, n_layers):
    """Apply a file's vector from now on; None removes any.

    The buffer covers all blocks: a shorter one leaves what an earlier vector wrote to the blocks beyond it.
    """
    if file is None:
        data, pointer, width = [], None, 0
    else:
        found, width = buffer_of(file)
        data = np.zeros(width * (n_layers - 1), np.float32)
        data[: len(found)] = found
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if llama_cpp.llama_set_adapter_cvec(context, pointer, len(data), width, 1, n_layers):
        raise RuntimeError(f"llama.cpp does not take {file}")


def decode(context, batch, n_vocab, tokens):
    """The logits of ``(token, position, sequence)``."""
    batch.n_tokens = len(tokens)
    for place, (token, position, sequence) in enumerate(tokens):
        batch.token[place], batch.pos[place] = token, position
        batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, sequence, 1
    if llama_cpp.llama_decode(context, batch):
        raise RuntimeError("llama.cpp could not decode")
    found = llama_cpp.llama_get_logits(context)
    return np.ctypeslib.as_array(found, shape=(len(tokens), n_vocab)).copy()


def main(folder):
    asked = json.loads((folder / "request.json").read_text())
    rows, n_new = asked["rows"], asked["new_tokens"]
    longest = max(map(len, rows))
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()

    loading = llama_cpp.llama_model_default_params()
    loading.use_extra_bufts = False  # --no-repack: a virtual machine may name AMX tiles and not allow them
    model = llama_cpp.llama_model_load_from_file(asked["model"].encode(), loading)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = len(rows) * (longest + n_new)
    params.n_batch = params.n_ubatch = max(longest, len(rows))
    params.n_seq_max, params.kv_unified = len(rows), True
    params.n_threads = params.n_threads_batch = asked["threads"]
    if asked["float32"]:  # as the program's -fa off -ctk f32 -ctv f32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    context = llama_cpp.llama_init_from_model(model, params)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)

    continued = {}
    for case in asked["cases"]:
        steer(context, case["file"], llama_cpp.llama_model_n_layer(model))
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        logits = [
            decode(context, batch, n_vocab, [(token, i, n) for i, token in enumerate(row)])
            for n, row in enumerate(rows)
        ]
        np.save(folder / f"{case['name']}.npy", np.concatenate(logits))
        last = [int(found[-1].argmax()) for found in logits]
        words = [[token] for token in last]
        for step in range(n_new - 1):
            at = [(token, len(row) + step, n) for n, (token, row) in enumerate(zip(last, rows, strict=True))]
            last = [int(token) for token in decode(context, batch, n_vocab, at).argmax(axis=1)]
            for line, token in zip(words, last, strict=True):
                line.append(token)
        continued[case["name"]] = words
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    versions = {name: version(name) for name in ("llama-cpp-python", "gguf", "numpy")}
    (folder / "answer.json").write_text(json.dumps({"versions": versions, "continued": continued}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
