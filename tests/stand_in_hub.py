"""A hub on loopback that answers what huggingface_hub asks, and believes nothing that it is told.

Repositories with branches of commits, tokens that may read or write, large files stored by their sha256 and
only if hash and size are right, commits that are whole and refused if their parent is not the head any more.
Hidden repositories are not found, as on the hub. ``requests`` lists what was asked; ``fail`` and ``stall``
make the next request that matches fail, or wait for ever.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

READ, WRITE, OTHER = "hf_read", "hf_write", "hf_other"
TOKENS = {READ: ("ada", False), WRITE: ("ada", True), OTHER: ("eve", True)}
"""Token to user, and whether it may write."""

LARGE = (".safetensors", ".pt", ".bin", ".npz")


@dataclass(frozen=True)
class Stored:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def blob(self) -> str:
        """git's name for it; for a large file, for the pointer to it."""
        text = self.content
        if self.large:
            text = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
                self.sha256.encode(),
                len(self.content),
            )
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Kept:
    """A repository."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, files: dict[str, Stored], branch: str = "main", message: str = "initial commit") -> str:
        self.messages.append(message)
        told = [branch, len(self.messages), *((name, file.sha256) for name, file in sorted(files.items()))]
        commit = hashlib.sha1(json.dumps(told).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {name: file.content for name, file in self.commits[self.branches[revision]].items()}


class Hub(ThreadingHTTPServer):
    """The hub's state, and its address."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repos: dict[str, Kept] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self._faults: list[tuple[str, int, dict[str, str], int]] = []
        self._stalls: list[tuple[str, threading.Event]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """Where large files are: another host, which is not to see a token."""
        return f"http://localhost:{self.server_address[1]}/cdn"

    def repo(self, name: str, files: dict[str, bytes] | None = None, **options: Any) -> Kept:
        """A repository with these files, as if it had always been there."""
        kept = self.repos[name] = Kept(**options)
        kept.add({".gitattributes": Stored(b"*.safetensors filter=lfs\n", large=False)} | stored(files or {}))
        return kept

    def fail(self, request: str, status: int, times: int = 1, **headers: str) -> None:
        """Answer the next requests that match with an error."""
        self._faults.append((request, status, {k.replace("_", "-"): v for k, v in headers.items()}, times))

    def stall(self, request: str) -> threading.Event:
        """Never answer the next request that matches; the event is set when it has come."""
        come = threading.Event()
        self._stalls.append((request, come))
        return come

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no failure of a test."""


def stored(files: dict[str, bytes]) -> dict[str, Stored]:
    return {name: Stored(content, name.endswith(LARGE)) for name, content in files.items()}


@contextmanager
def running() -> Iterator[Hub]:
    """A hub, for as long as the block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        address = urlsplit(self.path)
        self.route, self.query = address.path, parse_qs(address.query)
        asked = f"{method} {unquote(self.route)}"
        hub = self.server
        with hub.lock:
            hub.requests.append(asked)
            stalls = [stall for stall in hub._stalls if re.search(stall[0], asked)]
            faults = [fault for fault in hub._faults if re.search(fault[0], asked)]
            for stall in stalls:
                hub._stalls.remove(stall)
            for fault in faults[:1]:
                hub._faults.remove(fault)
                if fault[3] > 1:
                    hub._faults.append((*fault[:3], fault[3] - 1))
        if stalls:
            stalls[0][1].set()
            self.close_connection = True
            self.connection.settimeout(None)
            while self.connection.recv(1 << 16):  # until the client is gone
                pass
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        else:
            self.body = self.rfile.read(length)
        if faults:
            _, status, headers, _ = faults[0]
            self._send(status, {"error": f"made to fail with {status}"}, headers)
            return
        try:
            with hub.lock:
                self._routed(method)
        except _Refused as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, {"error": str(error)}, headers)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self) -> Any:
        return json.loads(self.body)

    # --- who asks

    def _user(self) -> tuple[str | None, bool]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None, False
        if token not in TOKENS:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return TOKENS[token]

    def _repo(self, name: str, *, write: bool = False, files: bool = False) -> Kept:
        user, writes = self._user()
        kept = self.server.repos.get(name)
        mine = user is not None and name.split("/")[0] == user
        if kept is None or (kept.private and not mine):
            raise _Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if files and kept.gated and not mine:
            raise _Refused(401 if user is None else 403, "Access to this model is restricted", "GatedRepo")
        if write and user is None:
            raise _Refused(401, "Invalid username or password.")
        pull = bool(self.query.get("create_pr"))
        if write and not (pull or (mine and writes)):
            raise _Refused(403, "You don't have the rights to write to this repo")
        return kept

    def _commit_of(self, kept: Kept, revision: str) -> str:
        commit = kept.resolve(unquote(revision))
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return commit

    # --- what is asked

    def _routed(self, method: str) -> None:
        routes = {
            ("POST", r"/api/repos/create"): self._create,
            ("POST", r"/api/validate-yaml"): self._validate,
            ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?"): self._info,
            ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)"): self._tree,
            ("GET", r"/api/models/([^/]+/[^/]+)/refs"): self._refs,
            ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)"): self._branch,
            ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)"): self._preupload,
            ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)"): self._commit,
            ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch"): self._batch,
            ("PUT", r"/upload/(\w+)"): self._upload,
            ("POST", r"/verify/([^/]+/[^/]+)"): self._verify,
            ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"): self._resolve,
            ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"): self._resolve,
            ("GET", r"/cdn/(\w+)"): self._cdn,
        }
        for (verb, pattern), answer in routes.items():
            if verb == method and (match := re.fullmatch(pattern, self.route)):
                answer(*match.groups())
                return
        raise _Refused(404, f"no route {method} {self.route}")

    def _create(self) -> None:
        """Its refusal of a repository that is there has the address of it."""
        user, writes = self._user()
        told = self._json()
        if user is None:
            raise _Refused(401, "Invalid username or password.")
        owner = told.get("organization") or user
        name = f"{owner}/{told['name']}"
        if owner != user or not writes:
            raise _Refused(403, f"You don't have the rights to create a model under the namespace {owner}")
        if name in self.server.repos:
            self._send(
                409, {"error": "You already created this model repo", "url": f"{self.server.endpoint}/{name}"}
            )
            return
        self.server.repo(name, private=told.get("visibility") == "private")
        self._send(200, {"url": f"{self.server.endpoint}/{name}", "id": name})

    def _validate(self) -> None:
        front = re.match(r"\s*---\r?\n(.*?)\r?\n---", self._json()["content"], re.DOTALL)
        try:
            said = yaml.safe_load(front[1]) if front else {}
            bad = None if isinstance(said, dict) else "the front matter is no mapping"
        except yaml.YAMLError as error:
            bad = str(error)
        errors = [] if bad is None else [{"message": bad}]
        self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def _info(self, name: str, revision: str | None) -> None:
        kept = self._repo(name)
        commit = self._commit_of(kept, revision or "main")
        siblings = [{"rfilename": path} for path in kept.commits[commit]]
        self._send(
            200,
            {"_id": "1", "id": name, "sha": commit, "private": kept.private, "gated": kept.gated}
            | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0},
        )

    def _tree(self, name: str, revision: str) -> None:
        kept = self._repo(name)
        files = kept.commits[self._commit_of(kept, revision)]
        rows = []
        for path, file in files.items():
            row: dict[str, Any] = {"type": "file", "path": path, "oid": file.blob, "size": len(file.content)}
            if file.large:
                row["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
            rows.append(row)
        self._send(200, rows)

    def _refs(self, name: str) -> None:
        kept = self._repo(name)
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
            for branch, commit in kept.branches.items()
        ]
        self._send(200, {"branches": branches, "converts": [], "tags": []})

    def _branch(self, name: str, branch: str) -> None:
        kept = self._repo(name, write=True)
        if unquote(branch) in kept.branches:
            raise _Refused(409, "Reference already exists")
        kept.branches[unquote(branch)] = kept.branches["main"]
        self._send(200, {})

    def _preupload(self, name: str, revision: str) -> None:
        kept = self._repo(name, write=True)
        files = kept.commits[self._commit_of(kept, revision)]
        said = []
        for file in self._json()["files"]:
            old = files.get(file["path"])
            oid = None if old is None else old.sha256 if old.large else old.blob
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            said.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": said})

    def _batch(self, name: str) -> None:
        self._repo(name, write=True) if self.query else self._repo(name)
        told = self._json()
        if told["operation"] != "upload" or "basic" not in told["transfers"]:
            raise _Refused(400, "only basic uploads")
        objects = []
        for one in told["objects"]:
            answer: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.large:
                upload = f"{self.server.endpoint}/upload/{one['oid']}?size={one['size']}"
                verify = f"{self.server.endpoint}/verify/{name}"
                answer["actions"] = {"upload": {"href": upload, "header": {}}, "verify": {"href": verify}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid or len(self.body) != int(self.query["size"][0]):
            raise _Refused(400, "hash or size of what was sent is not what was announced")
        self.server.large[oid] = self.body
        self._send(200)

    def _verify(self, name: str) -> None:
        self._repo(name)
        told = self._json()
        if len(self.server.large.get(told["oid"], b"")) != told["size"]:
            raise _Refused(404, "no such object")
        self._send(200, {})

    def _commit(self, name: str, revision: str) -> None:
        kept = self._repo(name, write=True)
        branch, pull = unquote(revision), bool(self.query.get("create_pr"))
        head = self._commit_of(kept, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, files = lines[0]["value"], dict(kept.commits[head])
        if header.get("parentCommit") not in (None, head):
            raise _Refused(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            told = line["value"]
            if line["key"] == "file":
                files[told["path"]] = Stored(base64.b64decode(told["content"]), large=False)
            elif line["key"] == "lfsFile":
                content = self.server.large.get(told["oid"])
                if content is None or len(content) != told["size"]:
                    raise _Refused(400, f"{told['path']} points to a large file that was not uploaded")
                files[told["path"]] = Stored(content, large=True)
            else:
                raise _Refused(400, f"unknown operation {line['key']}")
        if branch not in kept.branches:
            raise _Refused(400, "commits go to branches")
        where = f"refs/pr/{1 + sum(b.startswith('refs/pr') for b in kept.branches)}" if pull else branch
        commit = kept.add(files, where, header["summary"])
        page = f"{self.server.endpoint}/{name}"
        self._send(
            200,
            {"success": True, "commitOid": commit, "commitUrl": f"{page}/commit/{commit}"}
            | ({"pullRequestUrl": f"{page}/discussions/{where.rpartition('/')[2]}"} if pull else {}),
        )

    def _resolve(self, name: str, revision: str, path: str) -> None:
        kept = self._repo(name, files=True)
        commit = self._commit_of(kept, revision)
        file = kept.commits[commit].get(unquote(path))
        if file is None:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit}
        if not file.large:
            self._send(200, file.content, headers | {"ETag": f'"{file.blob}"'})
            return
        self.server.large.setdefault(file.sha256, file.content)
        linked = {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        self._send(302, None, headers | linked | {"Location": f"{self.server.cdn}/{file.sha256}"})

    def _cdn(self, oid: str) -> None:
        if "Authorization" in self.headers or not (self.headers.get("Host") or "").startswith("localhost"):
            raise _Refused(400, "signed addresses take no token")
        self._send(200, self.server.large[oid], {"ETag": f'"{oid}"'})
