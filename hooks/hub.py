"""Files of a repository on the Hugging Face hub: up in one commit, down by name and checked.

A commit holds all of a push or none of it, and is refused if the repository has changed since it was read.
Down come only the files that were chosen from the listing, all of one commit, each compared, every time, with
the hash that the hub gave for it and the cache keeps it by: sha256 for large files, git's own for small ones
(not on a disk without symbolic links). Nothing is unpickled; a pickled file is not even fetched.

Source: huggingface_hub, whose cache, login and environment (HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE)
hold here too. Differs from it: progress bars are off, and its errors come as :class:`InputError`.
"""

import glob
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    HfUri,
    ResolvedRevision,
    constants,
    get_cached_repo_tree,
    parse_hf_uri,
    snapshot_download,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is the transport's
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HfUriError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from hooks.errors import InputError, UnlatchError, VectorError

CARD = "README.md"
PICKLED = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib", ".msgpack", ".h5")
"""Endings of files that may run code when they are read."""

LOG_IN = "log in with `hf auth login`, or pass token="
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def reference(name: str | Path) -> HfUri | None:
    """What ``hf://user/repo[@revision][/file]`` points at; None for any other name.

    A path that was made of it has one slash less, and means the same.

    Raises:
        InputError: if it is one, and malformed, or of a repository that is no model's.
    """
    text = str(name)
    if not text.startswith("hf:/"):
        return None
    try:
        found = parse_hf_uri("hf://" + text.removeprefix("hf:").lstrip("/"))
    except (HfUriError, HFValidationError) as error:
        raise InputError(f"{error} Write hf://user/repo, or hf://user/repo@revision/file.") from None
    if found.type != "model":
        raise InputError(
            f"{text} is a {found.type}; vectors and dictionaries are kept in model repositories."
        )
    return found


def within(name: str) -> str:
    """The name of a file or folder, if it stays inside of where it is put.

    Raises:
        InputError: for an absolute path, one with ``..``, a backslash, a colon or a control character.
    """
    parts = name.split("/")
    if (
        {"", ".", ".."} & set(parts)
        or re.search(r"[\\:\x00-\x1f\x7f]", name)
        or PurePosixPath(name).is_absolute()
    ):
        raise InputError(
            f"{name!r} is no name of a file in a repository: write folders and file with / between them, and "
            "no .. among them."
        )
    return name


def plain(name: str) -> str:
    """A name to upload under: letters, digits, dots, dashes, underscores, and / between folders.

    Raises:
        InputError: for any other.
    """
    if not _PLAIN.fullmatch(within(name)):
        raise InputError(
            f"{name!r} cannot be a name in a repository: use letters, digits, dots, dashes and underscores, "
            "with / between folders."
        )
    return name


@dataclass(frozen=True)
class Repo:
    """A model repository on the hub, and how to reach it.

    Raises:
        InputError: if its id is none.
    """

    id: str
    revision: str | None = None
    """Branch, tag or commit; None is the main branch."""

    token: str | bool | None = None
    """None takes the one that is logged in, if any; False none."""

    endpoint: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.id)
        except HFValidationError:
            raise InputError(
                f"{self.id!r} is no folder that is here, and no hub id: those are user/repo, in letters, "
                "digits, dots, dashes and underscores."
            ) from None

    @property
    def page(self) -> str:
        return f"{self._api.endpoint}/{self.id}"

    @property
    def _api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self.token, library_name="unlatch")

    def fetch(self, choose: Callable[[Sequence[str]], Sequence[str]]) -> Path:
        """Download files of one commit into the hub's cache.

        What is there already is not downloaded again. Without a network, or with ``local_files_only``, what
        is there is used.

        Args:
            choose: From the names of all files to those to fetch.

        Returns:
            The folder that holds them, under their names.

        Raises:
            InputError: if there is no such repository or revision, or none that this login may see; if the
                hub cannot be reached; whatever ``choose`` raises.
            VectorError: if a file is not what the commit says it is.
        """
        offline = self.local_files_only or constants.is_offline_mode()
        with _quiet(), self._explained("read"):
            commit = self._api.resolve_revision(
                self.id, revision=self.revision, cache_dir=self.cache_dir, local_files_only=offline
            )
            chosen = [within(name) for name in choose(sorted(self._listing(commit, offline)))]
            folder = Path(
                snapshot_download(
                    self.id,
                    revision=commit,
                    allow_patterns=[glob.escape(name) for name in chosen],
                    token=self.token,
                    endpoint=self.endpoint,
                    cache_dir=self.cache_dir,
                    local_files_only=offline,
                    library_name="unlatch",
                )
            )
        for name in chosen:
            _check(folder / name, f"{name} of {self.id}")
        return folder

    def _listing(self, commit: ResolvedRevision, offline: bool) -> list[str]:
        """The files of a commit; from the cache, where they are known."""
        try:
            return [
                file.path for file in get_cached_repo_tree(self.id, revision=commit, cache_dir=self.cache_dir)
            ]
        except CachedRepoTreeNotFoundError:
            if offline:
                raise
            return self._api.list_repo_files(self.id, revision=commit.resolved)

    def commit(
        self,
        files: Mapping[str, bytes | Path],
        card: Callable[[str, str | None], str],
        *,
        message: str,
        private: bool | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Add files and the card in one commit, to a repository that is made if it is not there.

        Args:
            files: Contents, or files that hold them, by their names in the repository.
            card: From the full repository id and the text of its card, if it has one, to the text that it
                should have.
            private: Whether it should be; None leaves that to the hub, or as it is.
            create_pr: Suggest the commit as a pull request.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            InputError: if this login may not write there, the hub cannot be reached or refuses, or the
                repository changed meanwhile. Nothing is committed then.
        """
        names = [plain(name) for name in files]
        with _quiet(), self._explained("write to"):
            made = self._api.create_repo(self.id, private=private, exist_ok=True)
            repo = self if "/" in self.id else replace(self, id=made.repo_id)
            if self.revision not in (None, constants.DEFAULT_REVISION) and not create_pr:
                self._api.create_branch(repo.id, branch=str(self.revision), exist_ok=True)
            head = self._api.repo_info(repo.id, revision=self.revision)
            assert isinstance(head, ModelInfo)
            if private is not None and head.private is not None and head.private != private:
                raise InputError(
                    f"{repo.id} is {'private' if head.private else 'public'} already, and a push does not "
                    f"change that. Change it in the settings of {repo.page}, push to another repository, or "
                    "leave private out. Nothing was uploaded."
                )
            text = card(repo.id, repo._card(head)).encode()
            additions = [
                CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
                for name, content in (*zip(names, files.values(), strict=True), (CARD, text))
            ]
            commit = self._api.create_commit(
                repo.id,
                additions,
                commit_message=message,
                revision=self.revision,
                create_pr=create_pr,
                parent_commit=head.sha,
            )
        return str(commit.pr_url or commit.commit_url)

    def _card(self, head: ModelInfo) -> str | None:
        """The card at a commit, as it is, or None."""
        if CARD not in {file.rfilename for file in head.siblings or ()}:
            return None
        with TemporaryDirectory(prefix="unlatch-") as folder:
            path = self._api.hf_hub_download(self.id, CARD, revision=head.sha, cache_dir=folder)
            try:
                return Path(path).read_bytes().decode("utf-8-sig")
            except UnicodeDecodeError:
                raise InputError(
                    f"The card of {self.id} is no UTF-8 text. Save it as such, and push again."
                ) from None

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn the hub's errors into what was asked, what is true, and what would work."""
        try:
            yield
        except (HTTPError, OSError, ValueError, RuntimeError, *_NOT_CACHED) as error:
            if isinstance(error, UnlatchError):
                raise
            kept = " Nothing was committed." if doing == "write to" else ""
            raise InputError(f"Cannot {doing} {self.id}: {self._why(_cause(error))}{kept}") from error

    def _why(self, error: BaseException) -> str:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        match error:
            case LocalTokenNotFoundError():
                return f"token=True asks for a login, and there is none; {LOG_IN}."
            case GatedRepoError():
                return f"it is gated. Ask for access on {self.page}, then {LOG_IN}."
            case RepositoryNotFoundError():
                return (
                    f"{self._api.endpoint} has no such model repository, or not for this login. Check the "
                    f"name; if it is private, {LOG_IN}."
                )
            case RevisionNotFoundError():
                return f"it has no revision {self.revision!r}; it has {self._revisions()}."
            case RevisionResolutionError() | LocalEntryNotFoundError() | CachedRepoTreeNotFoundError():
                return (
                    "it is not in the cache, or not all of it, and the hub cannot be asked: get it once with "
                    "a network, and without local_files_only=True or HF_HUB_OFFLINE."
                )
            case OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set, and this needs the network. Unset it."
        said = _said(error)
        if status == 401:
            return f"{self._api.endpoint} does not know this login ({said}); {LOG_IN}."
        if status == 403:
            return (
                f"this login may not ({said}). Use a token with write access to it, push to a repository of "
                "yours, or suggest the change with create_pr=True."
            )
        if status in (409, 412):
            return f"it changed while this was being uploaded ({said}). Push again."
        if status == 429:
            return f"too many requests ({said}). Wait, and try again."
        if status is not None and status >= 500:
            return f"{self._api.endpoint} answers {status} ({said}). Try again later."
        if status is None and isinstance(error, (HTTPError, ConnectionError)):
            return (
                f"{self._api.endpoint} cannot be reached ({said}). Check the network; what was downloaded "
                "before is read with local_files_only=True."
            )
        return f"{said}."

    def _revisions(self) -> str:
        with self._explained("read"):
            refs = self._api.list_repo_refs(self.id)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return some(names)


def located(
    repo_id_or_folder: str | Path,
    part: str | None,
    pick: Callable[[Sequence[str], str | None, str], str],
    access: Callable[[str], Repo],
    *,
    revision: str | None = None,
    contents: Sequence[str] | None = None,
) -> Path:
    """One file or folder of a repository, downloaded, or of a folder that is here.

    Args:
        repo_id_or_folder: ``user/repo``, ``hf://user/repo[@revision][/part]``, or a folder that is here.
        part: Its name, where the reference does not say it; None leaves it to ``pick``.
        pick: From the names of all files, ``part``, and what to call the place, to the part's name.
        access: From a repository's id to how it is reached; its revision is set here.
        contents: The names of what is fetched of a folder; None where the part is a file.

    Raises:
        InputError, VectorError: as :meth:`Repo.fetch`; for a part that leaves the place; whatever ``pick``
            raises.
    """
    if (found := reference(repo_id_or_folder)) is not None:
        repo_id_or_folder = found.id
        part, revision = found.path_in_repo or part, found.revision or revision
    if part is not None:
        within(part)
    folder, where = Path(repo_id_or_folder), str(repo_id_or_folder)
    if folder.is_dir():
        names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        return folder / pick(names, part, where)
    picked: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        picked.append(pick(names, part, where))
        if contents is None:
            return picked
        wanted = {f"{picked[0]}/{file}".removeprefix("./") for file in contents}
        return [name for name in names if name in wanted]

    return replace(access(where), revision=revision).fetch(choose) / picked[0]


_NOT_CACHED = (RevisionResolutionError, CachedRepoTreeNotFoundError)


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first of some names that anybody may have chosen, on one line."""
    more = f" … ({len(names) - limit} more)" if len(names) > limit else ""
    return (", ".join(_line(name, 100) for name in names[:limit]) or "nothing") + more


def _said(error: BaseException) -> str:
    """The hub's own words, on one line."""
    said: Any = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return _line(str(said), 300).rstrip(".")


def _line(text: str, length: int) -> str:
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= length else flat[:length] + "…"


def _cause(error: BaseException) -> BaseException:
    """What it failed of: an error of one file, or one for which the cache was no help, wraps another."""
    wraps = (RuntimeError, RevisionResolutionError, LocalEntryNotFoundError)
    while isinstance(error, wraps) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _check(path: Path, name: str) -> None:
    kept = path.resolve()
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", kept.name):
        return
    with kept.open("rb") as file:
        if len(kept.name) == 64:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            git = hashlib.sha1(b"blob %d\0" % kept.stat().st_size, usedforsecurity=False)
            actual = hashlib.file_digest(file, lambda: git).hexdigest()
    if actual != kept.name:
        raise VectorError(
            f"{name} is damaged or altered: its hash is {actual}, not {kept.name}. Delete {kept} and get it "
            "again."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, unless the environment asks for them."""
    if are_progress_bars_disabled() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
