"""The settings of every command, free of torch so that help is quick.

A config holds only what changes the result, in plain types. Where to write and on which device to
run are matters of the command line.
"""

from dataclasses import dataclass
from typing import Literal

KindName = Literal["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
EstimatorName = Literal["mean_difference", "pca", "logistic", "lda"]
CovariateName = Literal["prompt_tokens", "logp", "corrupted_logp", "subject_tokens", "subject_to_end"]
BUNDLED = "smollm2-135m-instruct"  # as hooks.gguf has it, which imports torch


@dataclass(frozen=True, kw_only=True)
class VerbosityConfig:
    """Is verbosity one direction, and what does it cost to turn it down?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    tasks: str = "word-problems"
    """Problems: word-problems (built in), gym:NAME, a .jsonl, .json or .csv file, or a hub data set id."""

    prompt_field: str | None = None
    """Field of the task file that holds the prompt; guessed where not given."""

    answer_field: str | None = None
    """Field of the task file that holds the answer; guessed where not given."""

    pairs: str | None = None
    """JSONL of {"prompt", "positive": brief, "negative": long}; made from pair_tasks if not given."""

    pair_tasks: str = "word-problems"
    """Problems whose worked solutions make the pairs: word-problems, or a file such as GSM8K's."""

    pair_answers: Literal["worked", "own"] = "worked"
    """worked: solutions of pair_tasks; own: the model's answers to them, with pair_prompt and without."""

    pair_prompt: str = "Answer in one short sentence."
    """What is added to a problem for the brief answer of an own pair."""

    n_pairs: int = 50
    """Pairs that the vector is estimated from."""

    n_select: int = 32
    """Problems that choose the layer and the dose. They never score them."""

    n_confirm: int = 120
    """Problems that score the main conditions."""

    n_control: int = 120
    """The first so many of the confirm problems, on which shuffled labels and minus are scored."""

    n_random: int = 20
    """Random directions of the same norm."""

    n_random_problems: int = 16
    """The first so many of the confirm problems, on which each random direction is scored."""

    layers: tuple[int, ...] = ()
    """Layers to try; none given means every one from 20% to 90% of the depth."""

    n_layer_problems: int = 8
    """The first so many of the select problems, on which layers are compared."""

    kl_target: float = 0.1
    """Layers are compared at the dose where one edited position has this mean KL, in nats."""

    doses: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6)
    """Doses of the frontier, as a fraction of the median residual norm."""

    accuracy_tolerance: float = 0.05
    """Loss of accuracy on the select problems that a dose may have and still be recommended."""

    eps: float = 1e-3
    """KL in nats at one position that the cap bounds."""

    max_new_tokens: int = 256
    """Budget of every response, the same in all conditions."""

    estimator: Literal["mean_difference", "logistic", "lda"] = "mean_difference"
    """How the vector is estimated; pca cannot see labels, so it has no shuffled control."""

    read: str = "response"
    """Positions whose mean activation is contrasted, e.g. response or last(1)."""

    brief_prompt: str = "Be concise."
    """What the prompt condition adds to the problem."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    chunk: int = 192
    """Rows that run, and are written, together."""

    seed: int = 0
    """Seed of the pairs, the controls and the intervals."""


@dataclass(frozen=True, kw_only=True)
class VectorConfig:
    """Estimate a steering vector from contrast pairs, for any model and any concept."""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    concept: Literal["verbosity", "reasoning"] = "verbosity"
    """Built-in pairs: brief against long, or step by step against at once. Not used with --pairs."""

    pairs: str | None = None
    """JSONL of {"prompt"?, "positive", "negative"}: texts, or lists of chat messages."""

    poles: tuple[str, str] | None = None
    """What the positive and the negative text of --pairs are called."""

    n_pairs: int = 50
    """How many of the built-in pairs to use."""

    kinds: tuple[KindName, ...] = ("resid_post",)
    """Site kinds; with several, every combination is estimated and written."""

    layers: tuple[int, ...] = ()
    """Layers; none given means all."""

    estimators: tuple[EstimatorName, ...] = ("mean_difference",)
    """Estimators; the first combination is the main file, the others stand beside it."""

    reads: tuple[str, ...] = ("response", "last(1)")
    """Positions whose mean activation is contrasted."""

    n_null: int = 20
    """Shuffled-label draws behind each null."""

    seed: int = 0
    """Seed of the pairs and the nulls."""


@dataclass(frozen=True, kw_only=True)
class SteerConfig:
    """Answer a prompt plain and steered, side by side."""

    vector: str
    """A steering vector's .safetensors file, or hf://user/repo/file."""

    model: str | None = None
    """The model; not given means the one that the vector was made for."""

    dose: float | None = None
    """Fraction of the median residual norm; negative steers the other way; default: recommended."""

    layer: int | None = None
    """Default: recommended."""

    positions: str = "generated"
    """Which tokens are edited, e.g. generated, all, steps(0, 8)."""

    max_new_tokens: int = 256
    """Budget of each response."""

    temperature: float = 0.0
    """0 is greedy."""

    top_p: float = 1.0
    """Nucleus to sample from."""

    seed: int = 0
    """Seed of sampling."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    any_model: bool = False
    """Allow a vector that was made for another model."""


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """Where does knowledge sit, and where does reasoning over the prompt?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    tuned: str | None = None
    """A second model of the same shapes, such as the tuned one: weight change and grafting."""

    relations: tuple[str, ...] = ()
    """JSON files of facts in the form of the LRE relations data, beside the tables of the package."""

    per_kind: int = 40
    """Facts asked of one table."""

    n_reasoning: int = 720
    """Reasoning items asked."""

    n_items: int = 200
    """Matched items of each family; of more, the most alike are kept."""

    matched_in: tuple[CovariateName, ...] = ("prompt_tokens", "logp")
    """What the two of a matched pair are alike in."""

    n_floor: int = 32
    """The first so many matched pairs, on which random directions are measured."""

    n_random: int = 4
    """Random directions that injection is compared with."""

    n_pairs: int = 50
    """Contrast pairs of the reasoning and of the verbosity vector."""

    dose: float = 0.05
    """Dose of an injection at equal norm, as a fraction of the median residual norm."""

    kl_target: float = 0.01
    """Mean KL in nats of an injection at equal KL."""

    steps: int = 8
    """Points of the integrated gradients between the two prompts."""

    n_check: int = 16
    """Matched pairs on which attribution is held against exact patching."""

    probe_folds: int = 4
    """Folds of the probes; an answer that too few questions share to fill them twice is not probed."""

    n_control: int = 3
    """Deals of random labels behind each probe's selectivity."""

    n_thoughts: int = 60
    """Items of each family that are answered at once and after thinking; 0 leaves this out."""

    max_new_tokens: int = 96
    """Budget of a thought."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    n_maps: int = 2
    """Matched pairs of which every token is patched."""

    n_resamples: int = 10_000
    """Resamples and relabellings behind the statistic."""

    chunk: int = 32
    """Prompts that are measured, and written, together."""

    seed: int = 0
    """Seed of items, partners, controls and intervals."""


@dataclass(frozen=True, kw_only=True)
class SaeTrainConfig:
    """How much of a model's activations can a sparse dictionary keep?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    layers: tuple[int, ...] = ()
    """Layers, a dictionary each, captured in one pass; none given means the middle one."""

    kind: KindName = "resid_post"
    """The site of each layer."""

    text: tuple[str, ...] = ("own:300", "word-problems:2000", "python-docs")
    """own:N (its conversations with itself), word-problems:N, python-docs, files, folders, hub ids."""

    max_new_tokens: int = 256
    """Budget of each turn of a conversation."""

    context: int = 256
    """Tokens of a row; a longer document becomes several."""

    architecture: Literal["topk", "batchtopk", "standard"] = "topk"
    """standard is ReLU with an L1 penalty."""

    expansion: int = 8
    """Latents for each dimension of the site."""

    k: int = 32
    """Latents of an activation; on average, for batchtopk."""

    l1: float = 1.0
    """Weight of the penalty of standard."""

    vectors: int = 2**21
    """Activations trained on; fewer of them give several rounds."""

    batch: int = 2048
    """Activations of a step."""

    lr: float | None = None
    """Not given means 2e-4 / sqrt(latents / 16384)."""

    dead_after: int = 2**18
    """Activations without which a latent is taken for dead, and learns from what the others leave."""

    judged_tokens: int = 20_000
    """Tokens of held-out rows that the dictionary is judged on."""

    activity_tokens: int = 200_000
    """Tokens over which density and largest activation of each latent are counted."""

    weights: Literal["float32", "float16"] = "float32"
    """How the weights are written; they are read as float32."""

    chunk: int = 64
    """Conversations that are made, and written, together."""

    seed: int = 0
    """Seed of the text, the weights and the order of the activations."""


@dataclass(frozen=True, kw_only=True)
class SaeFeaturesConfig:
    """What does a latent of a dictionary stand for, and what does it do when it is set?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    dictionary: str = "bundled"
    """Folder or file of a sparse dictionary, or hf://user/repo/id; bundled is that of the bundled model."""

    any_model: bool = False
    """Allow a dictionary that was trained on another model of the same width."""

    latents: tuple[int, ...] = ()
    """Which; none given means those that a prompt for steps raises most over one for the answer."""

    n_latents: int = 12
    """How many, where none are given."""

    n_rank: int = 60
    """Problems on which they are ranked then."""

    cot_prompt: str = "Let's think step by step."
    """The prompt for steps."""

    direct_prompt: str = "The answer is a single number. Write only that number."
    """The prompt for the answer alone."""

    text: tuple[str, ...] = ("word-problems:300",)
    """Where latents are looked for: word-problems:N, own:N, python-docs, files, folders, or hub ids."""

    context: int = 256
    """Tokens of a row; a longer document becomes several."""

    n_texts: int = 5
    """Top activating texts of each latent."""

    n_steered: int = 12
    """Problems that are answered while a latent is held at its largest activation."""

    max_new_tokens: int = 96
    """Budget of every answer."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    chunk: int = 192
    """Rows that run, and are written, together."""

    seed: int = 0
    """Seed of the problems, the text and the intervals."""


@dataclass(frozen=True, kw_only=True)
class ModeConfig:
    """Is there a feature that switches reasoning on, when it is set for one step?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    dictionary: str = "bundled"
    """Folder or file of a sparse dictionary, or hf://user/repo/id; bundled is that of the bundled model."""

    any_model: bool = False
    """Allow a dictionary that was trained on another model of the same width."""

    tasks: str = "word-problems"
    """Problems: word-problems (built in), gym:NAME, a .jsonl, .json or .csv file, or a hub data set id."""

    prompt_field: str | None = None
    """Field of the task file that holds the prompt; guessed where not given."""

    answer_field: str | None = None
    """Field of the task file that holds the answer; guessed where not given."""

    direct_prompt: str = "The answer is a single number. Write only that number."
    """What the direct condition adds to a problem."""

    cot_prompt: str = "Let's think step by step."
    """What the chain-of-thought condition adds to a problem."""

    override_prompt: str = "Do not think and do not explain. Reply with one number and nothing else."
    """The instruction not to think, against which the feature is set."""

    n_fit: int = 100
    """Problems on which latents are ranked."""

    n_select: int = 24
    """Problems on which candidates and strengths are tried."""

    n_confirm: int = 120
    """Problems that score the main conditions. They choose nothing."""

    n_candidates: int = 6
    """Latents that the differential proposes; each other selector adds a third as many."""

    strengths: tuple[float, ...] = (1.0, 2.0)
    """What is added to a latent's pre-activation, in units of its largest activation."""

    min_density: float = 1e-5
    """Latents that fire on a smaller share of tokens are taken for dead."""

    fdr: float = 0.05
    """False discovery rate at which latents are reported."""

    n_resamples: int = 100
    """Resamples of the prompts behind the stability of a rank."""

    activity_tokens: int = 20_000
    """Tokens of the model's answers that activity is counted on, where the dictionary has none with it."""

    n_random: int = 20
    """Random latents, matched in frequency and decoder norm."""

    n_random_problems: int = 32
    """The first so many of the confirm problems, on which each random latent is scored."""

    max_new_tokens: int = 128
    """Budget of every response, the same in all conditions."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    chunk: int = 192
    """Rows that run, and are written, together."""

    seed: int = 0
    """Seed of the controls and the intervals."""


@dataclass(frozen=True, kw_only=True)
class ElicitConfig:
    """The keys side by side: what does each open, and what does none?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    tuned: str | None = None
    """The tuned model, to which the gap is measured."""

    tasks: tuple[str, ...] = ("word-problems",)
    """Families of problems, each a source: word-problems, gym:NAME, block-stacking, a file, a hub id."""

    find_rung: bool = True
    """Of a family that has a ladder of difficulty, take the rung on which the model solves 10% to 60%."""

    n_rung: int = 24
    """Problems a rung, on which it is found; others than those that score."""

    keys: tuple[str, ...] = ()
    """Keys and combinations such as cot+vector; none given means every key that the settings allow."""

    vector: str | None = None
    """A steering vector's .safetensors file, or hf://user/repo; made from the two prompts where not given."""

    dictionary: str | None = None
    """Folder or file of a sparse dictionary, or bundled, for the key `feature`."""

    any_model: bool = False
    """Allow a dictionary that was trained on another model of the same width."""

    direct_prompt: str = "The answer is a single number. Write only that number."
    """What the key `direct` adds to a problem."""

    cot_prompt: str = "Let's think step by step."
    """What the key `cot` adds to a problem."""

    n_shots: int = 3
    """Worked examples of the key `few-shot`."""

    beginnings: tuple[str, ...] = ("To", "First,", "Let's", "Step 1:")
    """First words that the key `forced` chooses from."""

    k: int = 10
    """Paths of the key `cot-decoding`."""

    n_samples: int = 10
    """Samples of the key `self-consistency`."""

    temperature: float = 0.7
    """At which they are drawn."""

    layers: tuple[int, ...] = ()
    """Layers that the key `vector` chooses from; none given means three: a third, half, two thirds up."""

    doses: tuple[float, ...] = (0.1, 0.2)
    """Doses that it chooses from, as fractions of the median residual norm."""

    n_latents: int = 3
    """Latents that the key `feature` chooses from."""

    strengths: tuple[float, ...] = (1.0, 2.0)
    """What is added to a latent's pre-activation, in units of its largest activation."""

    n_fit: int = 40
    """Problems of each family that keys are fitted on."""

    n_select: int = 16
    """Problems of each family that choose first words, layers, doses and latents."""

    n_confirm: int = 60
    """Problems of each family that score every key. They choose nothing."""

    n_random: int = 8
    """Random directions, and matched random latents, at the layer and dose that were chosen."""

    n_random_problems: int = 16
    """The first so many of the confirm problems of each family, on which each of them is scored."""

    max_new_tokens: int = 128
    """Budget of every response, and of every path of one."""

    budget: int | None = None
    """Tokens that a problem may cost in the column at equal budget; not given: a response and its ending."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    chunk: int = 64
    """Problems that run, and are written, together under one key."""

    seed: int = 0
    """Seed of the problems, the samples, the controls and the intervals."""


@dataclass(frozen=True, kw_only=True)
class PasskConfig:
    """Does training, or an edit, reach problems that many samples of the base do not?"""

    model: str = BUNDLED
    """The base. Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    tuned: str | None = None
    """A second model, such as the tuned one. One of the two is in memory at a time."""

    vector: str | None = None
    """In place of tuned: a steering vector's .safetensors file, or hf://user/repo, added to the base."""

    layer: int | None = None
    """Layer of the vector; default: recommended."""

    dose: float | None = None
    """Dose of the vector, a fraction of the median residual norm; default: recommended."""

    positions: str = "generated"
    """Which tokens the vector is added to, e.g. generated, all, steps(0, 8)."""

    any_model: bool = False
    """Allow a vector that was made for another model."""

    prompt: str = ""
    """What is added to every problem."""

    second_prompt: str | None = None
    """What the second setting adds in place of prompt; alone, it makes the second setting."""

    tasks: tuple[str, ...] = ("word-problems",)
    """Families of problems, each judged alone: word-problems, .jsonl, .json or .csv files, hub data sets."""

    n_problems: int = 100
    """Problems of each family."""

    n_samples: int = 64
    """Samples of each problem under each setting."""

    n_screen: int = 0
    """More samples of the base, which choose the problems that it never solves; 0 leaves this out."""

    k: tuple[int, ...] = ()
    """Draws at which curves are compared; none given means 1, 2, 4, ... and n_samples."""

    temperature: float = 0.6
    """Of sampling, above 0."""

    top_p: float = 0.95
    """Nucleus to sample from."""

    max_new_tokens: int = 256
    """Budget of every response, the same in all settings."""

    n_traces: int = 100
    """Problems of each family whose first right and wrong response the base reads; 0 leaves this out."""

    think: bool | None = None
    """Thinking on or off, where the chat template has it."""

    chunk: int = 512
    """Samples that run, and are written, together."""

    seed: int = 0
    """Seed of the problems, the samples and the intervals."""


@dataclass(frozen=True, kw_only=True)
class ThinkingConfig:
    """What does thinking before an answer change: right, wrong, and a number that is missing?"""

    model: str = BUNDLED
    """Hub id, local folder, .gguf file, or the bundled smollm2-135m-instruct."""

    switch: Literal["template", "prompt", "tags"] = "template"
    """How thinking is turned on: by the chat template; by cot_prompt or direct_prompt; by an open <think>."""

    tasks: str = "word-problems"
    """Problems: word-problems (built in), gym:NAME, a .jsonl, .json or .csv file, or a hub data set id."""

    prompt_field: str | None = None
    """Field of the task file that holds the prompt; guessed where not given."""

    answer_field: str | None = None
    """Field of the task file that holds the answer; guessed where not given."""

    direct_prompt: str = "The answer is a single number. Write only that number."
    """What the switch prompt adds to a problem for thinking off."""

    cot_prompt: str = "Let's think step by step."
    """What the switch prompt adds to a problem for thinking on."""

    n_problems: int = 100
    """Problems that are answered without and with thinking."""

    n_budget: int = 50
    """The first so many of them, answered at every budget."""

    n_gains: int = 60
    """The first so many of them, whose thoughts are judged by what they make of the right answer."""

    budgets: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Budgets of a thought: up to 1 a share of max_new_tokens, above it a number of tokens."""

    extensions: int = 2
    """How often at most a thought that ends early is made to go on."""

    go_on: str = "\nWait"
    """What it is made to go on with."""

    n_fit_triples: int = 96
    """Problems with a number missing that the direction and its layer are chosen on."""

    n_confirm_triples: int = 96
    """Such problems of other templates, on which probes and the direction are scored; 0 leaves this out."""

    n_asked: int = 24
    """The first so many of these, on which the direction is injected, and a short thought is made."""

    layers: tuple[int, ...] = ()
    """Layers that are probed; none given means all."""

    doses: tuple[float, ...] = (-0.2, 0.1, 0.2)
    """Doses of the direction, as a fraction of the median residual norm."""

    n_random: int = 20
    """Random directions of the same norm."""

    thought_tokens: int = 32
    """Tokens of the thought before a reply that asks or states."""

    max_new_tokens: int = 256
    """Budget of every response, the same with thinking and without."""

    chunk: int = 64
    """Rows that run, and are written, together."""

    seed: int = 0
    """Seed of the problems, the controls and the intervals."""


DEMO_VERBOSITY = VerbosityConfig(
    pair_answers="own",
    read="steps(1, 9)",
    n_pairs=24,
    n_select=16,
    n_confirm=28,
    n_control=16,
    n_random=20,
    n_random_problems=2,
    n_layer_problems=6,
    layers=(10, 12, 14, 16),
    kl_target=0.1,
    doses=(0.1, 0.15, 0.2),
    max_new_tokens=128,
)
"""The verbosity of ``unlatch demo``, in a small setting."""

DEMO_LAYERS = LayersConfig(
    per_kind=10,
    n_reasoning=200,
    n_items=30,
    n_floor=4,
    n_random=1,
    n_pairs=12,
    steps=2,
    n_check=2,
    probe_folds=2,
    n_control=1,
    n_thoughts=8,
    max_new_tokens=40,
    n_maps=1,
)
"""The layers of ``unlatch demo``, in a small setting."""
