"""SAELens loads from the hub what we pushed, and we what it would have uploaded."""

import torch

from saes import from_pretrained, push_to_hub
from tests.stand_in_hub import WRITE

KINDS = ("standard", "topk", "jumprelu", "gated")


def test_saelens_and_we_load_the_same_from_one_repository(theirs, hub, tmp_path, x):
    from sae_lens import SAE

    for kind in KINDS:
        theirs(kind).save_model(tmp_path / kind)
    push_to_hub({kind: tmp_path / kind for kind in KINDS}, "ada/saes", token=WRITE)
    for kind in KINDS:
        sae, ours = SAE.from_pretrained("ada/saes", kind), from_pretrained("ada/saes", sae_id=kind)
        assert all(torch.equal(sae.state_dict()[n], w) for n, w in theirs(kind).state_dict().items())
        torch.testing.assert_close(ours.encode(x), sae.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.decode(sae.encode(x), x), sae(x), atol=1e-5, rtol=1e-5)
    files = {f"l1/{file.name}": file.read_bytes() for file in (tmp_path / "gated").iterdir()}
    hub.repo("ada/theirs", files)
    torch.testing.assert_close(from_pretrained("hf://ada/theirs/l1").encode(x), theirs("gated").encode(x))
