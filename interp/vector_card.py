"""The card of a steering vector: what its file says of it, beside its controls, and what it cannot show."""

import json

from hooks.card import code, fenced, front_matter, number, shown_name, table, with_section
from interp.steering_vector import SteeringVector

TAGS = ("unlatch", "steering-vector", "activation-steering", "interpretability")
PROMPT = "How many legs do 3 cats have?"
_MEASURED = (("split-half", "split_half"), ("left-out", "left_out"), ("AUROC", "auroc"))
_LENGTH = (("cos, lengths matched", "cos_matched"), ("cos, position out", "cos_position_out"))


def vector_card(
    vector: SteeringVector,
    repo_id: str,
    filename: str,
    *,
    card: str | None = None,
    license: str | None = None,
) -> str:
    """A repository's card with the section about this file.

    Args:
        repo_id: Where the file is.
        card: The card as it is; None where there is none.
        license: Of the vector.

    Raises:
        InputError: as :func:`hooks.card.with_section`; for a licence that is no identifier.
    """
    parts = (
        f"## Steering vector {code(filename)}",
        _facts(vector),
        "### Can it be trusted?",
        _reliability(vector),
        "### How to use it",
        _usage(vector, repo_id, filename),
        "### What it cannot show",
        _limits(vector),
        "*Written by unlatch from the metadata of the file.*",
    )
    return with_section(
        card,
        filename,
        "\n\n".join(parts),
        front_matter(TAGS, vector.model, license),
        repo_id.rpartition("/")[2],
    )


def _facts(vector: SteeringVector) -> str:
    layers = vector.layers
    versions = ", ".join(f"{code(name)} {code(version)}" for name, version in sorted(vector.versions.items()))
    return "\n".join(
        f"- {line}"
        for line in (
            f"**Plus is toward the first pole.** First pole: {code(vector.poles[0])}. "
            f"Second pole: {code(vector.poles[1])}.",
            f"One direction for each of {len(layers)} layers, {layers[0]} to {layers[-1]} (0-based blocks), "
            f"at {code(vector.kind)}, {vector.d_model} wide.",
            f"Estimator {code(vector.estimator)}, reading {code(vector.read)}, from "
            f"{number(vector.n_pairs, ',')} pairs with hash {code(vector.pairs_hash)}, seed "
            f"{number(vector.seed, 'd')}.",
            _recommended(vector),
            _sign(vector),
            f"Made for {code(shown_name(vector.model))}: weights {code(vector.fingerprint)}, tokenizer "
            f"{code(vector.tokenizer_hash)}, chat template {code(vector.template_hash or 'none')}.",
            f"Versions: {versions or 'not given'}.",
        )
    )


def _recommended(vector: SteeringVector) -> str:
    if vector.recommended is None:
        return "Recommended layer and dose: none; nobody has chosen them on problems."
    chosen = vector.recommended
    return (
        f"Recommended: layer {number(chosen.layer, 'd')}, dose {number(chosen.dose)} of the median norm of "
        f"the residual stream at that site. How they were chosen: {code(chosen.how, 600)}."
    )


def _sign(vector: SteeringVector) -> str:
    test = vector.sign_test
    if test is None:
        return "Sign test: none was made; that plus does what the first pole says is an assumption."
    return (
        f"Sign test {'passed' if test.passed else '**failed**'} on {code(test.outcome)}, which the first "
        f"pole {code(test.first_pole)}: mean {number(test.plus)} at dose +{number(test.dose)}, "
        f"{number(test.plain)} without, {number(test.minus)} at dose -{number(test.dose)}; minus less plus, "
        f"95% interval paired over problems, [{number(test.low)}, {number(test.high)}], n = "
        f"{number(test.n, 'd')}."
    )


def _reliability(vector: SteeringVector) -> str:
    measured, length = vector.reliability, vector.length_control
    header = ["layer", "norm", "median residual norm"]
    header += [column for name, _ in _MEASURED for column in (name, f"{name}, null")] if measured else []
    header += ["above null"] if measured else []
    header += [name for name, _ in _LENGTH] if length else []
    rows = []
    for layer in vector.layers:
        row = [str(layer), number(float(vector.vectors[layer].norm())), number(vector.resid_norm[layer])]
        if measured:
            of = measured.get(layer)
            for _, field in _MEASURED:
                row += [number(getattr(of, name, None), ".2f") for name in (field, f"{field}_null")]
            row.append("–" if of is None else "yes" if of.trusted else "no")
        if length:
            row += [number(length.get(layer, {}).get(field), ".2f") for _, field in _LENGTH]
        rows.append(row)
    said = []
    if measured:
        one = next(iter(measured.values()))
        said.append(
            "Cosine of vectors from two halves of the pairs, cosine of a left-out pair with the vector of "
            "the others, and AUROC on held-out pairs. Each stands beside its null: the 95th percentile of "
            f"the same number over {number(one.n_null, 'd')} draws in which a coin swaps the poles of each "
            f"pair ({number(one.n_pairs, 'd')} pairs). At or below its null a vector is one of nothing."
        )
    else:
        said.append(
            "Its reliability was not measured: nothing says that other pairs would give the same vector."
        )
    if length:
        said.append(
            "Length: cosine with the vector from tokens at matched positions, and with the vector from which "
            "the direction of later positions was taken out. Near 1, the poles' lengths did not make it."
        )
    else:
        said.append("Length control: none; texts of different length may have made it.")
    return "\n\n".join((said[0], table(header, rows), said[1]))


def _usage(vector: SteeringVector, repo_id: str, filename: str) -> str:
    layer = vector.layers[len(vector.layers) // 2]
    at, flags = ("", "") if vector.recommended else (f"{layer}, dose=0.1", f"--layer {layer} --dose 0.1 ")
    python = "\n".join(
        (
            "from hooks import generate, load",
            "from interp import SteeringVector",
            "",
            f"lm = load({json.dumps(shown_name(vector.model))})",
            f'vector = SteeringVector.from_pretrained("{repo_id}", lm, filename="{filename}")',
            f"edit = vector.at({at})  # dose below zero: toward the second pole",
            f'steered = generate(lm, ["{PROMPT}"], edits=[edit])',
            "print(steered.texts[0])",
            "print(steered.receipt)  # where it was written, and how much",
        )
    )
    shell = f'unlatch steer --vector hf://{repo_id}/{filename} {flags}"{PROMPT}"'
    return f"{fenced(python, 'python')}\n\n{fenced(shell, 'sh')}"


def _limits(vector: SteeringVector) -> str:
    said = [
        "That it stands for what its poles are called: it is the difference of two sets of texts, with all "
        "else in which they differ.",
        "That it does more than the prompt that asks for the same, or than random directions of the same "
        "norm: compare.",
        "What it does to another model, tokenizer or chat template: loading refuses them.",
        "What it costs in accuracy at other doses, layers and tasks than those that it was chosen on.",
    ]
    if vector.reliability and not all(of.trusted for of in vector.reliability.values()):
        said.append("Anything at a layer that is not above its null.")
    if vector.sign_test is not None and not vector.sign_test.passed:
        said.append("That its sign is right: it failed its sign test, and `vector.at` refuses it.")
    return "\n".join(f"- {line}" for line in said)
