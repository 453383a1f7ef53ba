"""What the model reads: the template's own text, tokenized once, with nothing doubled or dropped."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from hooks import Add, inject
from hooks.chat import encode, prompt_row, render, response_row, stop_ids
from hooks.errors import InputError
from hooks.generate import generate
from hooks.positions import THINK_CLOSE, THINK_OPEN, answer, generated, think
from hooks.rows import pad_left
from hooks.sites import Site
from hooks.tracker import frame_of

TURN = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
RAISES = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m['content'] }}{% endfor %}"  # noqa: E501


@pytest.fixture(scope="module")
def chatml(tokenizer_with):
    return tokenizer_with()


@pytest.fixture(scope="module")
def bare(tokenizer_with):
    return tokenizer_with(template=None)


@pytest.fixture
def starting(tokenizer_with):
    """A tokenizer that puts <bos> before every text, as Llama's and Gemma's do."""

    def make(template):
        tokenizer = tokenizer_with(template=template)
        core = tokenizer.backend_tokenizer
        core.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
        return tokenizer

    return make


# --- text


def test_a_text_is_one_user_turn_and_the_start_of_an_answer(chatml):
    assert render(chatml, "the cat") == TURN
    assert render(chatml, [{"role": "user", "content": "the cat"}]) == TURN


def test_turns_are_rendered_in_their_order(chatml):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = render(chatml, turns)
    assert [text.index(part) for part in ("user\na", "assistant\nb", "user\nc")] == sorted(
        text.index(part) for part in ("user\na", "assistant\nb", "user\nc")
    )


def test_a_system_turn_comes_first(chatml):
    assert render(chatml, "the cat", system="be brief") == f"<|im_start|>system\nbe brief<|im_end|>\n{TURN}"


def test_thinking_is_the_templates_own_unless_it_is_turned_on_or_off(chatml):
    assert render(chatml, "the cat", think=True) == TURN + "<think>\n"
    assert render(chatml, "the cat", think=False) == TURN + "<think>\n\n</think>\n"
    assert render(chatml, "the cat", think=None) == TURN


def test_without_a_template_the_text_stands_as_it_is(chatml, bare):
    assert render(bare, "the cat") == "the cat"
    assert render(chatml, "the cat", template=False) == "the cat"


# --- tokens


@pytest.mark.parametrize("think", [None, True, False])
def test_the_ids_are_those_of_transformers_own_road(chatml, think):
    """Rendering then tokenizing equals ``apply_chat_template(tokenize=True)``: no token doubled."""
    turns = [{"role": "user", "content": "the cat é"}]
    options = {} if think is None else {"enable_thinking": think}
    theirs = chatml.apply_chat_template(turns, add_generation_prompt=True, **options)["input_ids"]
    row = prompt_row(chatml, "the cat é", think=think)
    assert list(row.tokens) == theirs
    assert row.prompt_length == len(theirs)


def test_begin_of_text_is_written_once(starting):
    """By the template where there is one that writes it, by the tokenizer where there is none."""
    assert encode(starting("<bos>{{ messages[0]['content'] }}"), "<bos>cat").count(1) == 1
    assert encode(starting(None), "cat").count(1) == 1
    assert encode(starting("{{ messages[0]['content'] }}"), "cat", template=False).count(1) == 1


def test_an_empty_prompt_is_begin_of_text_alone(bare, tokenizer_with):
    assert encode(bare, "") == (1,)
    nothing = tokenizer_with(template=None)
    nothing.bos_token = None
    with pytest.raises(InputError, match="The prompt is empty and this model has no begin-of-text token"):
        encode(nothing, "")


def test_a_response_does_not_change_its_prompts_tokens(chatml, bare):
    """Tokenized together, ``the`` + ``m`` or ``th`` + ``e`` could merge across the border."""
    for tokenizer, prompt in ((chatml, "the cat"), (bare, "so th")):
        start = prompt_row(tokenizer, prompt)
        for response in ("e cat", "ing", " the"):
            row = response_row(tokenizer, prompt, response)
            assert row.tokens[: start.prompt_length] == start.tokens
            assert row.prompt_length == start.prompt_length
            assert tokenizer.decode(row.tokens[row.prompt_length :]) == response


def test_a_response_can_be_given_to_a_text_as_it_stands(chatml):
    row = response_row(chatml, "so the", " cat", template=False)
    assert chatml.decode(row.tokens) == "so the cat"


# --- where a turn ends


def test_a_turn_ends_with_the_configured_ids_the_tokenizers_and_the_templates(tokenizer_with):
    tokenizer = tokenizer_with()
    assert stop_ids(tokenizer, None) == {2}
    assert stop_ids(tokenizer, 9) == {2, 9}
    assert stop_ids(tokenizer, [7, 9]) == {2, 7, 9}
    tokenizer.eos_token = "<pad>"
    assert stop_ids(tokenizer, None) == {0, 2}, (
        "the template's turn end is no end-of-text: as in Gemma or Llama 3"
    )
    assert stop_ids(tokenizer_with(template=None), None) == {2}


def test_ordinary_text_after_a_turn_is_no_end(tokenizer_with):
    tokenizer = tokenizer_with(template="{% for m in messages %}{{ m['content'] }} the end. {% endfor %}")
    assert stop_ids(tokenizer, None) == {2}


def test_the_bundled_model_ends_at_its_turn_end(smollm2):
    assert smollm2.stop_ids == {smollm2.tokenizer.convert_tokens_to_ids("<|im_end|>")}


# --- a thought that the template opens


def test_a_thought_that_the_template_opened_begins_in_the_prompt(llama, vector):
    row = prompt_row(llama.tokenizer, "the cat", think=True)
    batch = pad_left([row], [0], pad_id=0, device=torch.device("cpu"))
    frame = frame_of(llama, batch, {THINK_OPEN, THINK_CLOSE})
    assert think.select(frame)[0].tolist() == [False] * (len(row.tokens) - 2) + [True, True], (
        "<think> and its newline"
    )
    edits = [Add(Site(1, "resid_post"), vector, positions=think)]
    made = generate(llama, ["the cat"], think=True, edits=edits, max_new_tokens=4)
    made.receipt.check(think)
    made.receipt.check(think | generated)


def test_a_thought_that_the_template_closed_is_over_before_the_answer(llama, vector):
    edits = [Add(Site(1, "resid_post"), vector, positions=answer)]
    made = generate(llama, ["the cat"], think=False, edits=edits, max_new_tokens=4)
    made.receipt.check(generated)


def test_a_thought_in_a_given_response_is_found(llama, vector):
    row = response_row(llama.tokenizer, "the cat", "<think>a the</think> so")
    batch = pad_left([row], [0], pad_id=0, device=torch.device("cpu"))
    with torch.no_grad(), inject(llama, [Add(Site(1, "resid_post"), vector, positions=think)]) as injection:
        injection.tracker.begin(batch.row, batch.prompt_length)
        llama.model(**batch.inputs)
    inside = injection.receipt().position.tolist()
    assert llama.tokenizer.decode([row.tokens[i] for i in inside]) == "<think>a the"


# --- refusals


def test_turns_without_a_template_are_refused(bare):
    with pytest.raises(InputError, match="Messages need a chat template; this model has none"):
        render(bare, [{"role": "user", "content": "the cat"}])


@pytest.mark.parametrize("options", [{"system": "be brief"}, {"think": True}])
def test_system_and_think_without_a_template_are_refused(bare, chatml, options):
    for tokenizer, template in ((bare, True), (chatml, False)):
        with pytest.raises(InputError, match="`system` and `think` need a chat template"):
            render(tokenizer, "the cat", template=template, **options)


def test_thinking_is_refused_where_the_template_cannot(tokenizer_with, smollm2):
    for tokenizer in (tokenizer_with(template=NO_SYSTEM), smollm2.tokenizer):
        with pytest.raises(
            InputError, match=r"think=False was asked, .* has no `enable_thinking`. Pass think=None"
        ):
            render(tokenizer, "the cat", think=False)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (NO_SYSTEM, "has no system turn and leaves it out"),
        (RAISES, "refuses these turns: System role not supported"),
    ],
)
def test_a_system_turn_is_refused_where_the_template_would_drop_it(tokenizer_with, template, why):
    tokenizer = tokenizer_with(template=template)
    assert render(tokenizer, "the cat").endswith("the cat")
    with pytest.raises(InputError, match=why):
        render(tokenizer, "the cat", system="be brief")


def test_an_empty_response_is_refused(chatml):
    with pytest.raises(InputError, match="An empty response to 'the cat': there is nothing to read"):
        response_row(chatml, "the cat", "")
