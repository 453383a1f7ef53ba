"""A steering vector or dictionaries on the Hugging Face hub, with a card of what is known of them.

unlatch push runs/brief/vectors/verbosity.safetensors ada/brief-smollm2 --private True --license apache-2.0
unlatch push runs/sae/dictionaries ada/smollm2-saes
"""

from pathlib import Path
from typing import Any

from hooks.errors import InputError
from interp.steering_vector import SteeringVector
from saes import push_to_hub
from saes.formats.saelens import CONFIG


def push(what: Path, repo_id: str, *, name: str | None = None, **options: Any) -> str:
    """Upload a file as a vector, a folder as dictionaries; the address of the commit.

    Args:
        name: In the repository.
        options: As :meth:`interp.SteeringVector.push_to_hub` and :func:`saes.push_to_hub` have alike.

    Raises:
        InputError: if it is neither, or as those two.
        VectorError: if it is damaged.
    """
    if what.is_file() and what.suffix == ".safetensors":
        return SteeringVector.load(what).push_to_hub(repo_id, filename=name or what.name, **options)
    if what.is_dir() and any(what.rglob(CONFIG)):
        return push_to_hub(what, repo_id, sae_id=name, **options)
    vectors = sorted(str(file) for file in what.rglob("*.safetensors")) if what.is_dir() else []
    raise InputError(
        f"{what} is neither a steering vector's .safetensors file nor a folder with a dictionary's {CONFIG} "
        "in or "
        f"below it." + (f" Pass one of {', '.join(vectors[:5])}." if vectors else "")
    )
