"""Every code block of README and docs is run, or parsed by what it is written for; none is passed over."""

from pathlib import Path

import pytest

from hooks import LanguageModel
from hooks.gguf import BUNDLED
from interp.heads import bridge
from tests.docs.blocks import OTHER_PROGRAMS, PAGES, ROOT, Block, blocks_of, count
from tests.docs.runner import Page, loaded, one_model
from tests.stand_in_hub import WRITE, Hub

NOT_INSTALLED = {"repeng", "steering_vectors"}
"""Libraries of which pages speak and which `make setup` does not install; `make bench` does."""


@pytest.fixture
def login(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  # which starts without one
    monkeypatch.setenv("HF_TOKEN", WRITE)


@pytest.fixture
def page(tmp_path: Path, llama: LanguageModel, login: None):  # noqa: ARG001
    """A page whose substitutions may name a tiny model, and the bundled one as other libraries take it.

    Its hub is the one of :mod:`tests.stand_in_hub`, where the reader is logged in as ada.
    """
    given = {
        "tiny": llama,
        "bundled_bridge": lambda: bridge(loaded(BUNDLED)),
        "bundled_model": lambda **_: loaded(BUNDLED).model,
        "bundled_tokenizer": lambda: loaded(BUNDLED).tokenizer,
    }
    folder = tmp_path / "page"
    folder.mkdir()
    with one_model():
        yield Page(folder, given)


@pytest.mark.bundled
@pytest.mark.parametrize(
    "path", [p for p in PAGES if "```" in p.read_text("utf-8")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_blocks_of_a_page_do_what_it_says(path: Path, page: Page):
    blocks = blocks_of(path)
    for block in blocks:
        page.run(block)
    assert page.ran == len(blocks)


def test_every_kind_of_block_is_among_them():
    counts = count()
    for kind in ("python run", "commands run", "commands parsed", "output compared", "json parsed"):
        assert counts[kind] > 0, counts


def test_only_blocks_of_libraries_that_setup_leaves_out_are_not_run():
    left = {
        b.library for p in PAGES for b in blocks_of(p) if b.language == "python" and b.kind != "python run"
    }
    assert left <= NOT_INSTALLED


def test_every_program_that_is_not_run_is_spoken_of():
    used = {words[0] for p in PAGES for b in blocks_of(p) if b.language == "bash" for words in b.commands}
    assert set(OTHER_PROGRAMS) <= used, "a reason for a program that no page names"


# --- a broken block is seen


def written(folder: Path, text: str) -> list[Block]:
    (folder / "page.md").write_text(text, "utf-8")
    return blocks_of(folder / "page.md", folder)


BROKEN = {
    "raises": "```python\nx = 1 / 0\n```",
    "imports a name that is gone": "```python\nfrom hooks import no_such_name\n```",
    "needs what another page made": "```python\nprint(vector)\n```",
    "substitutes nothing": '``` { .python data-run="y -> z" }\nx = 1\n```',
    "raises nothing": '``` { .python data-raises="ValueError" }\nx = 1\n```',
    "raises another error": '``` { .python data-raises="KeyError" }\n[][0]\n```',
    "says another thing": '``` { .python data-raises="IndexError" }\n[][0]\n```\n\n```text\nno\n```',
    "prints another thing": "```python\nprint(1)\n```\n\n``` { .text data-output }\n2\n```",
    "names no command": "```bash\nunlatch verbocity --out runs/x\n```",
    "names no flag": "```bash\nunlatch vector --out runs/x --concpet reasoning\n```",
    "leaves out what is required": "```bash\nunlatch vector\n```",
    "names no choice": "```bash\nunlatch vector --out runs/x --concept kindness\n```",
    "fails when it is run": '``` { .bash data-run="" }\nunlatch steer --vector none.safetensors Hi\n```',
    "ends well against what it says": '``` { .bash data-run="" data-exit="2" }\nunlatch steer --help\n```',
    "names no target of make": "```bash\nmake coffee\n```",
    "names no module": "```bash\npython -m benchmarks.coffee\n```",
    "names no extra": "```bash\npip install -e '.[coffee]'\n```",
    "is of a program that nobody knows": "```bash\nbrew install unlatch\n```",
    "is no JSON": '```json\n{"prompt": }\n```',
    "has a line that is no JSON": '```jsonl\n{"a": 1}\n{"b"}\n```',
    "uses a library by names it does not have": (
        '``` { .python data-lib="repeng" }\nfrom repeng import ControlVector\nControlVector.learn()\n```'
    ),
    "is of a library that nobody knows": '``` { .python data-lib="no_such_library" }\nx = 1\n```',
    "is in a tab": '=== "ours"\n\n    ```python\n    raise ValueError\n    ```',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_block_fails_that(text: str, page: Page):
    blocks = written(page.folder, text)
    assert blocks
    with pytest.raises(BaseException) as failed:  # noqa: PT011, PT012
        for block in blocks:
            page.run(block)
    assert not isinstance(failed.value, (SystemExit, KeyboardInterrupt))


@pytest.mark.parametrize("fence", ["```yaml", "```", "```python title='x'", '``` { .python data-skip="" }'])
def test_a_fence_that_no_test_would_read_is_refused(fence: str, tmp_path: Path):
    with pytest.raises(AssertionError, match=r"page\.md:1"):
        written(tmp_path, f"{fence}\nx\n```\n")


def test_a_block_that_is_only_indented_is_refused(tmp_path: Path):
    with pytest.raises(AssertionError, match="write a fence"):
        written(tmp_path, "Text.\n\n    x = 1\n")


def test_blocks_share_a_page_and_not_another_librarys_names(page: Page):
    text = (
        "```python\nx = 2\n```\n\n"
        '``` { .python data-lib="json" }\nassert "x" not in globals()\nx = 9\n```\n\n'
        '``` { .python data-run="x + 1 -> x + 2" }\nprint(x + 1)\n```\n\n'
        "``` { .text data-output }\n4\n```"
    )
    for block in written(page.folder, text):
        page.run(block)
    assert page.ran == 4


def test_what_a_page_pushes_is_on_the_stand_in_hub(page: Page, hub: Hub):
    text = (
        '```python\nfrom saes import BUNDLED, push_to_hub\npush_to_hub(BUNDLED, "ada/sae", sae_id="one")\n```'
    )
    for block in written(page.folder, text):
        page.run(block)
    assert {"README.md", "one/cfg.json"} <= set(hub.repos["ada/sae"].files())


def test_a_command_that_is_parsed_is_not_run(page: Page):
    (block,) = written(page.folder, "```bash\nunlatch vector --out runs/x   # a comment\n```")
    page.run(block)
    assert not (page.folder / "runs").exists()
