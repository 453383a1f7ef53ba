"""A push is one commit or nothing; what comes down is what was committed; an error says what would work."""

import multiprocessing
import re
import socket

import pytest
from huggingface_hub import constants

from hooks.errors import InputError, VectorError
from hooks.hub import Repo, plain, reference, within
from tests.stand_in_hub import OTHER, READ, WRITE, stored

NAME = "ada/things"
BIG = bytes(range(256)) * 40


def push(name=NAME, files=None, *, card="# ours\n", token=WRITE, revision=None, **options):
    repo = Repo(name, revision, token)
    files = {"a.safetensors": BIG, "b/cfg.json": b"{}"} if files is None else files
    return repo.commit(files, lambda _, text: (text or "") + card, message="push", **options)


def read(name=NAME, *wanted, **options):
    return Repo(name, **options).fetch(lambda _: list(wanted))


# --- up


def test_what_is_pushed_is_there_in_one_commit_with_its_card(hub, tmp_path):
    (tmp_path / "c.json").write_bytes(b'{"c": 1}')
    address = push(files={"a.safetensors": BIG, "c.json": tmp_path / "c.json"})
    kept = hub.repos[NAME]
    files = kept.files()
    assert {"a.safetensors": BIG, "c.json": b'{"c": 1}', "README.md": b"# ours\n"}.items() <= files.items()
    assert kept.messages == ["initial commit", "push"]
    assert address == f"{hub.endpoint}/{NAME}/commit/{kept.branches['main']}"
    assert len(hub.asked("PUT /upload")) == 1  # the large file; small ones are in the commit


def test_the_same_push_again_uploads_nothing_and_makes_no_commit(hub):
    push(card="")
    hub.requests.clear()
    push(card="")
    assert hub.repos[NAME].messages == ["initial commit", "push"]
    assert not hub.asked("PUT /upload") + hub.asked("/commit/")


def test_a_branch_is_made_and_main_stays(hub):
    push(revision="trial")
    kept = hub.repos[NAME]
    assert "a.safetensors" in kept.files("trial")
    assert "a.safetensors" not in kept.files("main")
    push(revision="trial", files={"d.safetensors": BIG})
    assert {"a.safetensors", "d.safetensors"} <= kept.files("trial").keys()


def test_whoever_may_not_write_may_suggest(hub):
    hub.repo(NAME)
    with pytest.raises(InputError, match=r"this login may not .*write access .*create_pr=True.*Nothing was"):
        push(token=OTHER)
    assert push(token=OTHER, create_pr=True) == f"{hub.endpoint}/{NAME}/discussions/1"
    assert "a.safetensors" not in hub.repos[NAME].files()
    assert hub.repos[NAME].files("refs/pr/1")["a.safetensors"] == BIG


def test_a_new_repository_is_private_if_asked_and_an_old_one_is_not_made_so(hub):
    push(private=True)
    assert hub.repos[NAME].private
    hub.repo("ada/open")
    with pytest.raises(InputError, match=r"ada/open is public already.*Nothing was uploaded"):
        push("ada/open", private=True)
    assert hub.repos["ada/open"].messages == ["initial commit"]


def test_a_name_without_a_user_is_of_who_is_logged_in(hub):
    push("things")
    assert "a.safetensors" in hub.repos["ada/things"].files()


def test_a_repository_that_changed_meanwhile_is_left_as_it_is(hub):
    kept = hub.repo(NAME)

    def meanwhile(_repo, _text):
        kept.add(stored({"theirs.json": b"1"}), message="somebody else")
        return "# ours\n"

    with pytest.raises(InputError, match=r"it changed while .* Push again\. Nothing was committed"):
        Repo(NAME, token=WRITE).commit({"a.safetensors": BIG}, meanwhile, message="push")
    assert kept.files() == {"theirs.json": b"1"}


@pytest.mark.parametrize("when", ["PUT /upload", "POST .*/commit/"])
def test_a_push_that_is_killed_leaves_nothing_and_can_be_given_again(hub, when):
    before = hub.repo(NAME, {"README.md": b"# theirs\n"}).files()
    come = hub.stall(when)
    child = multiprocessing.get_context("fork").Process(target=push)
    child.start()
    assert come.wait(20)
    child.kill()
    child.join()
    assert hub.repos[NAME].files() == before
    push()
    assert hub.repos[NAME].files().keys() == before.keys() | {"a.safetensors", "b/cfg.json"}
    assert hub.repos[NAME].files()["README.md"] == b"# theirs\n# ours\n"


# --- down


def test_what_is_read_is_what_was_pushed_and_nothing_else_is(hub):
    hub.repo(NAME, {"a.safetensors": BIG, "b/cfg.json": b"{}", "evil.pt": b"pickle", "README.md": b"#"})
    folder = read(NAME, "a.safetensors", "b/cfg.json")
    assert (folder / "a.safetensors").read_bytes() == BIG
    assert (folder / "b/cfg.json").read_bytes() == b"{}"
    assert not hub.asked("evil|README")


def test_the_second_time_nothing_is_downloaded_and_without_a_network_nothing_is_asked(hub):
    hub.repo(NAME, {"a.safetensors": BIG})
    first = read(NAME, "a.safetensors")
    hub.requests.clear()
    assert read(NAME, "a.safetensors") == first
    assert hub.requests == [f"GET /api/models/{NAME}"]
    hub.requests.clear()
    assert read(NAME, "a.safetensors", local_files_only=True) == first
    hub.shutdown()
    assert read(NAME, "a.safetensors", local_files_only=True) == first
    assert hub.requests == []


def test_offline_is_as_if_local_files_only(hub, monkeypatch):
    hub.repo(NAME, {"a.safetensors": BIG})
    first = read(NAME, "a.safetensors")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read(NAME, "a.safetensors") == first
    assert hub.requests == []
    with pytest.raises(InputError, match="Cannot write to ada/things: HF_HUB_OFFLINE is set"):
        push()


def test_a_new_commit_is_seen_and_an_old_one_can_be_had(hub):
    kept = hub.repo(NAME, {"a.safetensors": BIG})
    old = kept.branches["main"]
    read(NAME, "a.safetensors")
    kept.add(stored({"a.safetensors": b"new"}))
    assert (read(NAME, "a.safetensors") / "a.safetensors").read_bytes() == b"new"
    assert (read(NAME, "a.safetensors", revision=old) / "a.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("file", ["a.safetensors", "cfg.json"])
def test_a_file_altered_in_the_cache_is_refused(hub, file):
    hub.repo(NAME, {file: BIG})
    where = (read(NAME, file) / file).resolve()
    where.write_bytes(BIG[:-1] + b"x")
    with pytest.raises(
        VectorError, match=rf"{file} of {NAME} is damaged or altered: .*Delete .* get it again"
    ):
        read(NAME, file)


def test_the_hub_is_another_one_if_it_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    options = {"endpoint": hub.endpoint, "token": WRITE, "cache_dir": tmp_path / "c"}
    Repo(NAME, **options).commit({"a.safetensors": BIG}, lambda _, __: "#", message="push")
    assert (read(NAME, "a.safetensors", **options) / "a.safetensors").read_bytes() == BIG


def test_a_private_repository_is_read_with_its_token_alone(hub):
    hub.repo(NAME, {"a.safetensors": BIG}, private=True)
    assert (read(NAME, "a.safetensors", token=READ) / "a.safetensors").read_bytes() == BIG
    for token in (OTHER, False):
        with pytest.raises(
            InputError, match=r"no such model repository, or not for this login.*hf auth login"
        ):
            read(NAME, "a.safetensors", token=token)


# --- errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {},
            r"no such model repository.*Check the name; if it is private, log in with `hf auth login`",
        ),
        (
            {"token": "hf_wrong"},
            r"does not know this login \(Invalid credentials.*log in with `hf auth login`",
        ),
        ({"token": True}, r"token=True asks for a login, and there is none; log in"),
        ({"local_files_only": True}, r"it is not in the cache.*get it once with a network"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_repository_that_cannot_be_read_says_why(options, said):
    with pytest.raises(InputError, match=f"Cannot read {NAME}: .*{said}"):
        read(NAME, "a.safetensors", **options)


def test_a_gated_repository_says_where_to_ask(hub):
    hub.repo(NAME, {"a.safetensors": BIG}, gated=True)
    for token in (OTHER, False):
        with pytest.raises(
            InputError, match=rf"it is gated\. Ask for access on {hub.endpoint}/{NAME}, then log"
        ):
            read(NAME, "a.safetensors", token=token)


def test_a_missing_revision_says_which_there_are(hub):
    hub.repo(NAME, {"a.safetensors": BIG}).branches["v2"] = "f" * 40
    with pytest.raises(InputError, match=r"it has no revision 'v3'; it has main, v2\."):
        read(NAME, "a.safetensors", revision="v3")


@pytest.mark.parametrize(
    ("status", "said"), [(503, "answers 503 .* Try again later"), (429, "too many requests")]
)
def test_a_hub_that_is_down_or_busy_says_so(hub, status, said):
    hub.repo(NAME, {"a.safetensors": BIG})
    hub.fail("GET /api/models", status)
    with pytest.raises(InputError, match=said) as info:
        read(NAME, "a.safetensors")
    assert "committed" not in str(info.value)
    hub.fail("POST .*/commit/", status)
    with pytest.raises(InputError, match=said + r".*Nothing was committed\.$"):
        push()
    assert hub.repos[NAME].messages == ["initial commit"]


def test_an_upload_that_is_refused_commits_nothing(hub):
    hub.fail("PUT /upload", 403, X_Error_Message="signature expired")
    with pytest.raises(InputError, match=r"may not \(signature expired.*\).*Nothing was committed"):
        push()
    assert hub.repos[NAME].messages == ["initial commit"]


def test_what_the_hub_says_is_shown_on_one_line_without_control_characters(hub):
    hub.fail("POST .*/commit/", 400, X_Error_Message="bad \x1b[2J thing")
    with pytest.raises(InputError) as info:
        push()
    assert str(info.value).isprintable()


def test_an_unreachable_hub_says_what_can_be_done(hub):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for act in (
        lambda: read(NAME, "a.safetensors", endpoint=nowhere),
        lambda: Repo(NAME, endpoint=nowhere, token=WRITE).commit({}, lambda _, __: "#", message="push"),
    ):
        with pytest.raises(InputError, match=rf"{nowhere} cannot be reached .*local_files_only=True"):
            act()
    assert hub.requests == []


@pytest.mark.parametrize("token", [False, READ])
def test_who_is_not_logged_in_or_may_only_read_cannot_push(hub, token):
    with pytest.raises(InputError, match=r"Cannot write to ada/things: .*(hf auth login|write access)"):
        push(token=token)
    assert hub.repos == {}


# --- names


@pytest.mark.parametrize("name", ["../x", "a/../x", "/etc/x", "a//x", "a\\x", "c:/x", "a/\nx", "", "."])
def test_a_name_that_leads_elsewhere_is_refused(hub, name):
    with pytest.raises(InputError, match="is no name of a file"):
        within(name)
    with pytest.raises(InputError, match="is no name of a file"):
        push(files={name: b"x"})
    assert hub.requests == []


def test_a_listing_that_leads_elsewhere_is_refused(hub, tmp_path):
    hub.repo(NAME, {"../../../../outside.safetensors": BIG})
    with pytest.raises(InputError, match="is no name of a file"):
        Repo(NAME).fetch(lambda names: [name for name in names if "outside" in name])
    assert not list(tmp_path.rglob("outside*"))


def test_names_of_uploads_are_plain():
    assert plain("a-b/C.1_x.safetensors") == "a-b/C.1_x.safetensors"
    for name in ("a b", "é.json", ".hidden", "a/-x", "a>b"):
        with pytest.raises(InputError, match="letters, digits"):
            plain(name)


@pytest.mark.parametrize("name", ["a/b/c", "a b/c", "../x", "a/..", "-a/b", "", "x" * 200])
def test_what_is_no_hub_id_says_what_one_is(name):
    with pytest.raises(InputError, match=r"no folder that is here, and no hub id: those are user/repo"):
        Repo(name)


@pytest.mark.parametrize("slashes", ["//", "/"])  # a Path has one
def test_a_reference_names_repository_revision_and_file(slashes):
    found = reference(f"hf:{slashes}ada/things@v2/deep/a.safetensors")
    assert (found.id, found.revision, found.path_in_repo) == (NAME, "v2", "deep/a.safetensors")
    assert reference(f"hf:{slashes}{NAME}").revision is None


def test_other_names_are_no_references_and_bad_ones_say_how_to_write_them():
    assert reference("runs/a.safetensors") is None
    assert reference("ada/things") is None
    for bad, said in (("hf://ada", "hf://user/repo"), ("hf://datasets/ada/x", "is a dataset")):
        with pytest.raises(InputError, match=re.escape(said)):
            reference(bad)
