"""The same weights without quantisation: a GGUF file's tensors dequantised, everything else copied.

llama.cpp multiplies quantised weights with activations that it rounds to 8 bits; we multiply the
dequantised ones in float32. On this copy it does as we do, and what is left is rounding.
"""

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize

from hooks.files import whole
from hooks.gguf import as_folder

ARCHITECTURE, FILE_TYPE = "general.architecture", "general.file_type"


def as_float32(file: Path) -> Path:
    """A float32 copy of a GGUF model, written once beside its converted folder in the cache."""
    folder = as_folder(file)
    copy = folder.with_name(f"{folder.name}-f32.gguf")
    if not copy.exists():
        with whole(copy) as part:
            _write(GGUFReader(file), part)
    return copy


def _write(source: GGUFReader, path: Path) -> None:
    writer = GGUFWriter(path, str(source.fields[ARCHITECTURE].contents()))
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name in (ARCHITECTURE, FILE_TYPE):
            continue
        items = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], items)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for tensor in source.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
