"""Plain safetensors: a tensor for each site, under the name that TransformerLens gives the site.

    blocks.15.hook_resid_post    float32 [d_model]: what strength 1 adds there

and metadata for whoever reads them: ``about`` says in words what they are and how to use them, ``poles``,
``model`` and ``positions`` are as they read. Any site kind can be written, the only format of which that
is true.
"""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save as to_bytes

from hooks.errors import SiteNotFoundError, VectorError
from hooks.files import whole
from hooks.positions import generated
from hooks.sites import KINDS, Site
from interp.exchange.addition import KEY, Addition, Content, Format, packed, unpacked
from interp.exchange.wire import as_vector, read_safetensors


def write(path: Path, addition: Addition, called: str) -> Sequence[str]:
    """Write the tensors, and in words what they are."""
    tensors = {
        str(Site(layer, addition.kind)): vector.clone() for layer, vector in sorted(addition.vectors.items())
    }
    metadata = {
        "about": f"{called}. Add each tensor to the residual stream of {addition.model or 'the model'} at "
        "the site it is named after (TransformerLens's names; blocks are counted from 0) to get the dose "
        "that was exported: the last prompt token and every later one was meant.",
        "model": addition.model,
        "positions": str(generated),
        KEY: packed(addition),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_bytes(to_bytes(tensors, metadata=metadata))
    return ()


def read(path: Path) -> Addition:
    """The tensors that are named after sites of one kind.

    Raises:
        InputError: if there is no such file.
        VectorError: if a tensor is named otherwise, or there are several kinds.
    """
    tensors, metadata = read_safetensors(path)
    vectors, kinds = {}, set()
    for name, tensor in tensors.items():
        try:
            site = Site.parse(name)
        except SiteNotFoundError:
            raise VectorError(
                f"{path} has a tensor {name!r}, which names no site. Call it blocks.N.hook_resid_post."
            ) from None
        kinds.add(site.kind)
        if site.layer in vectors and len(kinds) == 1:
            raise VectorError(f"{path} names {site} twice.")
        vectors[site.layer] = as_vector(tensor, name)
    if len(kinds) > 1:
        raise VectorError(f"{path} mixes the sites {', '.join(sorted(kinds))}. Keep one kind in a file.")
    return Addition(
        vectors,
        kind=kinds.pop() if kinds else "resid_post",
        positions=generated,
        model=metadata.get("model", ""),
        facts=unpacked(metadata.get(KEY)),
    )


def recognise(content: Content) -> bool:
    """By the names of its tensors."""
    if content.container != "safetensors" or not content.names:
        return False
    try:
        return all(Site.parse(name).layer >= 0 for name in content.names)
    except SiteNotFoundError:
        return False


FORMAT = Format(
    name="safetensors",
    suffix=".safetensors",
    program="anybody",
    holds="any site, dose baked in; the positions that are meant, in words",
    write=write,
    read=read,
    recognise=recognise,
    positions=generated,
    where="at the last prompt token and every later one, as the file says",
    kinds=KINDS,
)
