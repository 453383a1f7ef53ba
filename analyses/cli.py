"""The command line: one subcommand a question, flags from its config, heavy imports only when it runs."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from analyses.configs import (
    BUNDLED,
    ElicitConfig,
    LayersConfig,
    ModeConfig,
    PasskConfig,
    SaeFeaturesConfig,
    SaeTrainConfig,
    SteerConfig,
    ThinkingConfig,
    VectorConfig,
    VerbosityConfig,
)

SUMMARY = """Find out what post-training added to a language model, and what was already there.

  unlatch demo          verbosity and layers, small, on the bundled model
  unlatch verbosity     is verbosity one direction, and what does it cost to turn it down?
  unlatch layers        where does knowledge sit, and where does reasoning over the prompt?
  unlatch sae-train     how much of a model's activations can a sparse dictionary keep?
  unlatch sae-features  what does a latent stand for, and what does it do when it is set?
  unlatch mode          is there a feature that switches reasoning on, set for one step?
  unlatch elicit        which keys open a model's problems, at what cost, and which does none?
  unlatch passk         does training reach what many samples of the base do not?
  unlatch thinking      what does thinking before an answer change?
  unlatch vector        a steering vector for any model and concept, with its reliability
  unlatch steer         a prompt answered plain and steered, side by side
  unlatch play          the same in a browser, as it comes, with a slider for every dose
  unlatch export        a steering vector for llama.cpp, repeng, vLLM and others
  unlatch import        a vector of theirs as a steering vector
  unlatch gguf-lint     what makes llama.cpp refuse or misplace a control vector, and its repair
  unlatch push          a steering vector or dictionaries to the Hugging Face hub, with a card
  unlatch replay        a run again, from its config
  unlatch verify        does a model say the same however it is run? for one that you do not know
  unlatch doctor        versions, machine and the self-check of a model, in one paste

`unlatch COMMAND --help` lists a command's settings."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is written, and where the model runs."""

    out: Path
    """Run folder to create, or to continue if it holds an unfinished run of the same settings."""

    device: str | None = None
    """Device of the model, e.g. cpu or cuda:0; default: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class Cluster(Place):
    """Where a run is written, and who does its work."""

    ray: str | None = None
    """Address of a Ray cluster that answers, e.g. 10.0.0.1:6379; default: the model in this process."""


def demo(place: Annotated[Cluster, tyro.conf.arg(name="")]) -> Path:
    """Both questions in a small setting on the bundled model: verbosity and layers, a report of each."""
    from analyses.demo import demo

    return demo(place.out, device=place.device, ray=place.ray)


def verbosity(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[VerbosityConfig, tyro.conf.arg(name="")],
) -> Path:
    """Is verbosity one direction, and what does it cost to turn it down?

    Estimates the vector (brief minus long), chooses a layer and a dose on problems that do not
    score them, tests the sign, and compares it with the prompt and with random directions.
    """
    from analyses import verbosity

    return verbosity.run(config, place.out, device=place.device, ray=place.ray)


def layers(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[LayersConfig, tyro.conf.arg(name="")],
) -> Path:
    """Where does knowledge sit, and where does reasoning over the prompt?

    Asks items of both families, matches those that the model answers right, and measures every layer by
    causal and by reading methods; one statistic with its interval, or a report that says it is not settled.
    """
    from analyses.layers.run import run

    return run(config, place.out, device=place.device, ray=place.ray)


def sae_train(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[SaeTrainConfig, tyro.conf.arg(name="")],
) -> Path:
    """How much of a model's activations can a sparse dictionary keep?

    Gathers text, captures its activations at all layers in one pass, trains a dictionary of each with
    SAELens's trainer, and judges it on rows that were held out.
    """
    from analyses.dictionaries.train import run

    return run(config, place.out, device=place.device, ray=place.ray)


def sae_features(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[SaeFeaturesConfig, tyro.conf.arg(name="")],
) -> Path:
    """What does a latent of a dictionary stand for, and what does it do when it is set?

    The texts in which it fires most, how often it does, which next tokens it favours, and what the model
    answers while it is held at its largest activation.
    """
    from analyses.dictionaries.features import run

    return run(config, place.out, device=place.device, ray=place.ray)


def mode(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[ModeConfig, tyro.conf.arg(name="")],
) -> Path:
    """Is there a feature that switches reasoning on, when it is set for one step?

    Ranks the latents of a dictionary on problems that score nothing, tries the best on others, and
    confirms one beside matched random latents, its suppression, and the dense vector of the same norm.
    """
    from analyses.dictionaries.mode import run

    return run(config, place.out, device=place.device, ray=place.ray)


def elicit(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[ElicitConfig, tyro.conf.arg(name="")],
) -> Path:
    """Which keys open a model's problems, what do they cost, and which problems does none open?

    Prompts, first words, decodings, a vector, a latent and a tuned model, each and together, on the same
    problems: accuracy, tokens, accuracy at equal cost, and what one key alone opens.
    """
    from analyses.elicit.run import run

    return run(config, place.out, device=place.device, ray=place.ray)


def passk(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[PasskConfig, tyro.conf.arg(name="")],
) -> Path:
    """Does training, or an edit, reach problems that many samples of the base do not?

    Samples every problem many times under both settings: pass@k curves with intervals, which problems
    either solves beside a guessing floor, and "sharpens" or "expands" only where the intervals allow it.
    """
    from analyses.passk.run import run

    return run(config, place.out, device=place.device, ray=place.ray)


def thinking(
    place: Annotated[Cluster, tyro.conf.arg(name="")],
    config: Annotated[ThinkingConfig, tyro.conf.arg(name="")],
) -> Path:
    """What does thinking before an answer change: right, wrong, and a number that is missing?

    The same problems without and with thinking, at several budgets; what thoughts make of the right
    answer; and whether the model notices, and asks for, a number that a problem lacks.
    """
    from analyses.thinking.run import run

    return run(config, place.out, device=place.device, ray=place.ray)


def vector(
    place: Annotated[Place, tyro.conf.arg(name="")], config: Annotated[VectorConfig, tyro.conf.arg(name="")]
) -> Path:
    """A steering vector for any model and concept, with the table that says whether to trust it."""
    from analyses import vector

    return vector.run(config, place.out, device=place.device)


def steer(
    prompt: Annotated[str, tyro.conf.Positional],
    config: Annotated[SteerConfig, tyro.conf.arg(name="")],
    device: str | None = None,
) -> None:
    """A prompt answered plain and steered, side by side, with the receipt.

    Args:
        prompt: What to answer.
        device: Device of the model, e.g. cpu or cuda:0; default: a GPU where there is one.
    """
    from rich.console import Console

    from analyses.steer import show, steer

    show(steer(config, prompt, device=device), Console())


def play(
    model: Annotated[str, tyro.conf.Positional] = BUNDLED,
    vector: tuple[str, ...] = (),
    dictionary: tuple[str, ...] = (),
    any_model: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str | None = None,
) -> None:
    """A page to play with: a prompt answered plain and steered, side by side, as it comes.

    Vectors and latents at once, each with its layer and dose; KL, receipt, and the same as Python. It is
    served to this machine alone.

    Args:
        model: Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct.
        vector: Steering vectors' .safetensors files.
        dictionary: Folders of sparse dictionaries; bundled is the bundled model's.
        any_model: Allow vectors and dictionaries that were made for another model.
        host: Address to serve on. Any but this machine's own lets others in, with no password.
        port: Default: the first that is free from 7860 on.
        device: Device of the model, e.g. cpu or cuda:0; default: a GPU where there is one.
    """
    from analyses.play.serve import serve

    serve(model, vector, dictionary, any_model=any_model, host=host, port=port, device=device)


def export(
    vector: Annotated[Path, tyro.conf.Positional],
    out: Path,
    to: Literal[
        "gguf",
        "repeng",
        "steering-vectors",
        "aisteer360",
        "vllm-lens",
        "hotwire",
        "easysteer",
        "neuronpedia",
        "safetensors",
    ] = "gguf",
    layer: tuple[int, ...] = (),
    dose: float | None = None,
) -> Path:
    """A steering vector as a file that another program reads, with the dose baked in: strength 1 is the dose.

    Says on stderr what the other program does otherwise, and what of the vector the file does not hold.

    Args:
        vector: A steering vector's .safetensors file.
        out: The file to write: .gguf for gguf (llama.cpp) and repeng, .safetensors for steering-vectors and
            safetensors, .svec for aisteer360, .pt for hotwire, .json for the others.
        to: The program, or safetensors for anybody.
        layer: One, or several that share the dose; default: recommended.
        dose: Fraction of the median residual norm that strength 1 adds; default: recommended.
    """
    from interp.exchange import export_vector
    from interp.steering_vector import SteeringVector

    layers = layer if len(layer) > 1 else (*layer, None)[0]
    made = export_vector(SteeringVector.load(vector), out, to=to, layer=layers, dose=dose)
    for what in made.differs:
        print(f"differs: {what}", file=sys.stderr)
    for what in made.left_behind:
        print(f"left behind: {what}", file=sys.stderr)
    return made.files[0]


def import_(
    file: Annotated[Path, tyro.conf.Positional],
    out: Path,
    format: str | None = None,
    model: str | None = None,
    any_model: bool = False,
    device: str | None = None,
) -> Path:
    """A vector of another program as a steering vector, whose recommended dose is what strength 1 adds there.

    Args:
        file: What `unlatch export` writes, or what others write in those formats.
        out: The .safetensors file to write.
        format: gguf, repeng, steering-vectors, aisteer360, vllm-lens, hotwire, easysteer, neuronpedia or
            safetensors; default: by what the file holds.
        model: The model that it steers; needed for a file that is not ours, to measure its residual norms.
        any_model: Take a file of ours that was made for another model.
        device: Device of the model, e.g. cpu or cuda:0; default: a GPU where there is one.
    """
    from hooks import load
    from hooks.errors import InputError
    from interp.exchange import import_vector, read_vector

    if out.suffix != ".safetensors":
        raise InputError(f"A steering vector ends in .safetensors, and --out is {out}.")
    read_vector(file, format)  # a file that is none is refused before a model is loaded
    lm = None if model is None else load(model, device=device)
    vector = import_vector(file, lm, format=format, any_model=any_model)
    if vector.recommended is None:
        print("several layers, so none is recommended: pass a layer and a dose to steer", file=sys.stderr)
    else:
        chosen = vector.recommended
        print(f"layer {chosen.layer}, dose {chosen.dose:g}: {chosen.how}", file=sys.stderr)
    return vector.save(out)


def gguf_lint(file: Annotated[Path, tyro.conf.Positional], fix: Path | None = None) -> Path | None:
    """What makes llama.cpp refuse a control vector, or misplace it? Exits 2 where it would refuse.

    Args:
        file: A .gguf control vector, whoever wrote it.
        fix: Write what can be kept to this file, which llama.cpp reads.
    """
    from hooks.errors import VectorError
    from interp.exchange.gguf import lint, repair

    findings = lint(file) if fix is None else repair(file, fix)
    for finding in findings:
        print(finding.what, f"({finding.repair})" if fix and finding.repair else "", file=sys.stderr)
    if fix is None and any(finding.refused for finding in findings):
        raise VectorError(f"llama.cpp would refuse {file}. --fix OUT writes what can be kept.")
    return fix


def push(
    what: Annotated[Path, tyro.conf.Positional],
    repo_id: Annotated[str, tyro.conf.Positional],
    private: bool | None = None,
    license: str | None = None,
    filename: str | None = None,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a steering vector or dictionaries to the Hugging Face hub, with a card of what is known of them.

    The login is that of `hf auth login`, or HF_TOKEN. Commands read them back as hf://user/repo/file.

    Args:
        what: A steering vector's .safetensors file; or a dictionary's folder, or a folder of such.
        repo_id: user/repo; made if it is not there.
        private: Whether a new repository is; default: as the hub's settings say.
        license: For the card, e.g. apache-2.0 or mit.
        filename: Name in the repository; default: the file's, or for a dictionary its site's.
        revision: Branch to commit to; default: main.
        message: Of the commit.
        create_pr: Suggest it as a pull request.
    """
    from analyses.push import push

    return push(
        what,
        repo_id,
        name=filename,
        private=private,
        license=license,
        revision=revision,
        commit_message=message,
        create_pr=create_pr or None,
    )


def replay(
    run: Annotated[Path, tyro.conf.Positional], place: Annotated[Cluster, tyro.conf.arg(name="")]
) -> Path:
    """Run a run again from its config.json, and say whether the numbers came out the same.

    Args:
        run: The run folder to replay.
    """
    from analyses.replay import replay

    return replay(run, place.out, device=place.device, ray=place.ray)


def verify(
    model: Annotated[str, tyro.conf.Positional],
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
) -> None:
    """Does a model say the same however it is run? Exits 2 where it does not, with what failed.

    Sites that add up, cached and not, batched and alone, padded and not, edited under a cache and in
    one pass, receipts, sampling, transformers' own generate: each with the largest difference found.

    Args:
        model: Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct.
        device: Device of the model, e.g. cpu or cuda:0, or auto to spread it; default: a GPU if there is one.
        dtype: auto is the checkpoint's own.
    """
    from rich.console import Console

    from analyses.verify import show, verify

    result = verify(model, device=device, dtype=dtype)
    show(result, Console())
    result.require()


def doctor(
    model: Annotated[str, tyro.conf.Positional] = "smollm2-135m-instruct",
    device: str | None = None,
    no_model: bool = False,
) -> None:
    """What is here, in one paste: versions, machine, devices, and whether a model passes its self-check.

    Args:
        model: Hub id, local folder or .gguf file; default: the bundled model.
        device: Device of the model, e.g. cpu or cuda:0; default: a GPU where there is one.
        no_model: Load none.
    """
    from analyses.doctor import doctor

    print(doctor(None if no_model else model, device=device))


COMMANDS: dict[str, Callable[..., Path | str | None]] = {
    "demo": demo,
    "verbosity": verbosity,
    "layers": layers,
    "sae-train": sae_train,
    "sae-features": sae_features,
    "mode": mode,
    "elicit": elicit,
    "passk": passk,
    "thinking": thinking,
    "vector": vector,
    "steer": steer,
    "play": play,
    "export": export,
    "import": import_,
    "gguf-lint": gguf_lint,
    "push": push,
    "replay": replay,
    "verify": verify,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: a bug; 2: your input; 130: interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(SUMMARY)
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print(f"unlatch: no command {name!r}. Commands are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        made = tyro.cli(
            COMMANDS[name],
            prog=f"unlatch {name}",
            args=arguments[1:],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        )
    except KeyboardInterrupt:
        print("unlatch: interrupted; give the same command again to go on from there.", file=sys.stderr)
        return 130
    except Exception as error:
        from hooks.errors import UnlatchError  # imports torch: only once something has run

        if not isinstance(error, UnlatchError):
            raise
        print(f"unlatch: {error}", file=sys.stderr)
        return 2
    if made is not None:
        print(made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
