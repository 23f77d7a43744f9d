"""A local Hugging Face Hub server on 127.0.0.1 for tests with the real `huggingface_hub` client (`HF_ENDPOINT`).

It implements the part of the Hub's HTTP protocol used by downloads, `push_to_hub`, `upload_folder` and `create_commit`
for model and dataset repositories: repository info, trees, `resolve` with ETag and ranges, pre-upload, Git LFS with
basic transfers, NDJSON commits, branches and tags. Repositories are kept in memory as a list of commits, and blobs
have git's ids. Large files are transferred by LFS; the client's alternative protocol, xet, is disabled in
`LoopbackHub.env`. `LoopbackHub.inject` makes selected requests fail: a dropped connection, an HTTP error, or a file
with wrong bytes.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_repository import Commit, HubError, Repository, file_entry, folder_entry, is_lfs

USER = "tester"
TOKEN = "hf_loopback"
DATE = "2026-01-01T00:00:00.000Z"


class Request(NamedTuple):
    """One entry of the log; `status` is the HTTP status of the response, 0 for a dropped connection."""

    method: str
    path: str
    status: int


@dataclass
class Fault:
    method: str
    path: re.Pattern
    action: str | int
    nth: int
    times: int
    seen: int = 0


@dataclass
class Response:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def _json(payload: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(payload).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class LoopbackHub:
    """The server, a context manager; see the module's docstring.

    `endpoint` is its address, `requests` the log of all requests in order of completion.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._faults: list[Fault] = []

    def __enter__(self) -> "LoopbackHub":
        self._folder = tempfile.TemporaryDirectory(prefix="loopback-hub-")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._folder.cleanup()

    def env(self) -> dict[str, str]:
        """Environment variables of a subprocess that uses this Hub: logged in, online, with its own empty caches.

        Each call simulates a new machine; pass the same dictionary twice to keep the caches.
        """
        home = Path(tempfile.mkdtemp(dir=self._folder.name))
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home / "huggingface"),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def create_repo(self, repo_id: str, files: dict[str, bytes], *, repo_type: str = "model") -> str:
        """Creates the repository if it is new, commits exactly `files` to its main branch, and returns the hash."""
        with self.lock:
            repository = self._repositories.setdefault((f"{repo_type}s", repo_id), Repository())
            return repository.commit("main", "files of the test", files).oid

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> dict[str, bytes]:
        """Content of every file at a branch, tag or commit, by path."""
        with self.lock:
            return dict(self._repositories[(f"{repo_type}s", repo_id)].at(revision).files)

    def commits(self, repo_id: str, *, repo_type: str = "model") -> list[Commit]:
        """Every commit of the repository, oldest (the empty one) first."""
        with self.lock:
            return list(self._repositories[(f"{repo_type}s", repo_id)].commits.values())

    def inject(self, method: str, path: str, action: str | int, *, nth: int = 1, times: int = 1) -> None:
        """Makes requests `nth` to `nth + times - 1`, of those whose path matches the regular expression, fail.

        action: an HTTP status; "drop": the connection is reset after half of the request body was read or half of the
        response sent; "corrupt": the second half of the response body is inverted, with the original headers. The
        client repeats most requests after a connection error or a 5xx, waiting 1, 2, 4, 8 and 8 s; of the 4xx it
        repeats only 408 and 429, and it does not repeat the POST of a commit.
        """
        with self.lock:
            self._faults.append(Fault(method, re.compile(path), action, nth, times))

    def _fault(self, method: str, path: str) -> str | int | None:
        with self.lock:
            for fault in self._faults:
                if fault.method == method and fault.path.search(path):
                    fault.seen += 1
                    if fault.nth <= fault.seen < fault.nth + fault.times:
                        return fault.action
        return None

    # Routes. The arguments are the named parts of the path (percent-decoded), the query, headers and body.

    def _repository(self, parts: dict[str, str]) -> Repository:
        repository = self._repositories.get((parts["kind"], parts["repo"]))
        if repository is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repository

    def whoami(self, parts, query, headers, body) -> Response:
        return _json({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self, parts, query, headers, body) -> Response:
        header = re.match(r"---\s*\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(header[1]) if header else None
        except yaml.YAMLError as error:
            return _json({"errors": [{"message": f"invalid YAML: {error}"}], "warnings": []}, 400)
        warnings = [] if isinstance(metadata, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        return _json({"errors": [], "warnings": warnings})

    def create(self, parts, query, headers, body) -> Response:
        request = json.loads(body)
        kind, repo = f"{request.get('type', 'model')}s", f"{request.get('organization') or USER}/{request['name']}"
        url = f"{self.endpoint}/{'' if kind == 'models' else kind + '/'}{repo}"
        if (kind, repo) in self._repositories:
            return _json({"error": "You already created this repo", "url": url}, 409)
        self._repositories[kind, repo] = Repository()
        return _json({"url": url, "name": repo, "id": repo})

    def info(self, parts, query, headers, body) -> Response:
        commit = self._repository(parts).at(parts["revision"] or "main")
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        if query.get("blobs"):
            entries = [file_entry(path, data) for path, data in sorted(commit.files.items())]
            siblings = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]} for e in entries]
        repo = parts["repo"]
        state = {"private": False, "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}
        dates = {"lastModified": DATE, "createdAt": DATE}
        author = repo.split("/")[0]
        return _json({"id": repo, "author": author, "sha": commit.oid, **dates, **state, "siblings": siblings})

    def list_commits(self, parts, query, headers, body) -> Response:
        commits = reversed(self._repository(parts).commits.values())
        return _json(
            [
                {"id": commit.oid, "title": commit.title, "message": "", "authors": [], "date": DATE}
                for commit in commits
            ]
        )

    def tree(self, parts, query, headers, body) -> Response:
        commit = self._repository(parts).at(parts["revision"])
        root = parts["path"].rstrip("/") + "/" if parts["path"] else ""
        files = {path: data for path, data in sorted(commit.files.items()) if path.startswith(root)}
        if root and not files:
            raise HubError(404, f"{parts['path']} does not exist", "EntryNotFound", commit.oid)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = {}
        for path, data in files.items():
            names = path[len(root) :].split("/")
            for depth in range(1, len(names)) if recursive else range(1, min(2, len(names))):
                folder = root + "/".join(names[:depth])
                entries[folder] = folder_entry(folder, commit.files)
            if recursive or len(names) == 1:
                entries[path] = file_entry(path, data)
        return _json(list(entries.values()))

    def paths_info(self, parts, query, headers, body) -> Response:
        commit = self._repository(parts).at(parts["revision"])
        if headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode())["paths"]
        found = []
        for path in paths:
            if path in commit.files:
                found.append(file_entry(path, commit.files[path]))
            elif any(name.startswith(path.rstrip("/") + "/") for name in commit.files):
                found.append(folder_entry(path.rstrip("/"), commit.files))
        return _json(found)

    def resolve(self, parts, query, headers, body) -> Response:
        commit = self._repository(parts).at(parts["revision"])
        if parts["path"] not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", commit.oid)
        data = commit.files[parts["path"]]
        entry = file_entry(parts["path"], data)
        response_headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            response_headers |= {"ETag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(len(data))}
            response_headers["X-Linked-ETag"] = response_headers["ETag"]
        bounds = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", ""))
        if bounds is None or bounds.group(1, 2) == ("", ""):
            return Response(data, 200, response_headers)
        if bounds[1] == "":  # the last n bytes
            start, stop = max(len(data) - int(bounds[2]), 0), len(data)
        else:
            start, stop = int(bounds[1]), min(int(bounds[2]) + 1, len(data)) if bounds[2] else len(data)
        if start >= stop:
            return Response(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        content_range = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return Response(data[start:stop], 206, response_headers | content_range)

    def preupload(self, parts, query, headers, body) -> Response:
        commit = self._repository(parts).at(parts["revision"])
        modes = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if is_lfs(file["path"], file["size"]) else "regular"
            info = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in commit.files:
                entry = file_entry(file["path"], commit.files[file["path"]])
                info["oid"] = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
            modes.append(info)
        return _json({"files": modes, "commitOid": commit.oid})

    def lfs_batch(self, parts, query, headers, body) -> Response:
        repository = self._repository(parts)
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in repository.lfs:
                href = f"{self.endpoint}/lfs-storage/{parts['kind']}/{parts['repo']}/{item['oid']}"
                item["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        kind = {"Content-Type": "application/vnd.git-lfs+json"}
        return _json({"transfer": "basic", "objects": objects}, headers=kind)

    def lfs_put(self, parts, query, headers, body) -> Response:
        if hashlib.sha256(body).hexdigest() != parts["oid"]:
            raise HubError(400, f"the uploaded content does not match {parts['oid']}")
        self._repository(parts).lfs[parts["oid"]] = body
        return Response(b"")

    def lfs_verify(self, parts, query, headers, body) -> Response:
        if len(self._repository(parts).lfs.get(parts["oid"], b"")) != json.loads(body)["size"]:
            raise HubError(404, f"object {parts['oid']} was not uploaded")
        return _json({})

    def commit(self, parts, query, headers, body) -> Response:
        if query.get("create_pr"):
            raise HubError(501, "the loopback Hub does not support pull requests")
        repository = self._repository(parts)
        parent = repository.at(parts["revision"])
        files, title = dict(parent.files), ""
        for line in body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent.oid):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in repository.lfs:
                    raise HubError(400, f"LFS object {value['oid']} of {value['path']} was not uploaded")
                files[value["path"]] = repository.lfs[value["oid"]]
            elif key in ("deletedFile", "deletedFolder"):
                prefix = value["path"].rstrip("/") + "/"
                gone = [p for p in files if p == value["path"] or (key == "deletedFolder" and p.startswith(prefix))]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                for path in gone:
                    del files[path]
            else:
                raise HubError(400, f"unknown operation {key}")
        oid = repository.commit(parts["revision"], title, files).oid
        prefix = "" if parts["kind"] == "models" else parts["kind"] + "/"
        return _json({"commitOid": oid, "commitUrl": f"{self.endpoint}/{prefix}{parts['repo']}/commit/{oid}"})

    def branch(self, parts, query, headers, body) -> Response:
        repository = self._repository(parts)
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        return self._set_ref(repository, parts["revision"], start)

    def tag(self, parts, query, headers, body) -> Response:
        return self._set_ref(self._repository(parts), json.loads(body)["tag"], parts["revision"])

    def _set_ref(self, repository: Repository, name: str, start: str) -> Response:
        if name in repository.refs:
            raise HubError(409, f"Reference already exists: {name}")
        repository.refs[name] = repository.at(start).oid
        return _json({})


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPO}"
_GIT = rf"/(?:(?P<kind>datasets)/)?{_REPO}"
_STORAGE = rf"/lfs-storage/(?P<kind>models|datasets)/{_REPO}/(?P<oid>[0-9a-f]{{64}})"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    (method, re.compile(pattern), route)
    for method, pattern, route in [
        ("GET", r"/api/whoami-v2", LoopbackHub.whoami),
        ("POST", r"/api/validate-yaml", LoopbackHub.validate_yaml),
        ("POST", r"/api/repos/create", LoopbackHub.create),
        ("GET", rf"{_API}(?:/revision/{_REVISION})?", LoopbackHub.info),
        ("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", LoopbackHub.tree),
        ("GET", rf"{_API}/commits/{_REVISION}", LoopbackHub.list_commits),
        ("POST", rf"{_API}/paths-info/{_REVISION}", LoopbackHub.paths_info),
        ("GET", rf"{_GIT}/resolve/{_REVISION}/(?P<path>.+)", LoopbackHub.resolve),
        ("POST", rf"{_API}/preupload/{_REVISION}", LoopbackHub.preupload),
        ("POST", rf"{_GIT}\.git/info/lfs/objects/batch", LoopbackHub.lfs_batch),
        ("PUT", _STORAGE, LoopbackHub.lfs_put),
        ("POST", rf"{_STORAGE}/verify", LoopbackHub.lfs_verify),
        ("POST", rf"{_API}/commit/{_REVISION}", LoopbackHub.commit),
        ("POST", rf"{_API}/branch/(?P<revision>.+)", LoopbackHub.branch),
        ("POST", rf"{_API}/tag/{_REVISION}", LoopbackHub.tag),
    ]
]
# Routes without authentication: reading, and the storage, whose addresses are returned to authenticated clients only.
_OPEN = (
    *(LoopbackHub.info, LoopbackHub.list_commits, LoopbackHub.tree, LoopbackHub.paths_info, LoopbackHub.resolve),
    LoopbackHub.lfs_put,
)


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; one write per response."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        hub: LoopbackHub = self.server.hub
        split = urlsplit(self.path)
        path = unquote(split.path)
        action = hub._fault(self.command, path)
        try:
            body = self._read_body(half=action == "drop")
            if action == "drop" and body:
                return self._drop(path, b"")
            response = self._answer(hub, split.path, parse_qs(split.query), body, action)
        except HubError as error:
            response = _json({"error": str(error)}, error.status, error.headers)
        except Exception as error:  # an unsupported request: 400, as the client would repeat it after a 5xx
            response = _json({"error": f"the loopback Hub failed: {error!r}"}, 400)
        if action == "corrupt":
            middle = len(response.body) // 2
            response.body = response.body[:middle] + bytes(255 - byte for byte in response.body[middle:])
        head = [f"HTTP/1.1 {response.status} {self.responses[response.status][0]}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        head.append(f"Content-Length: {len(response.body)}")
        content = "\r\n".join([*head, "", ""]).encode("latin-1") + (b"" if self.command == "HEAD" else response.body)
        if action == "drop":
            return self._drop(path, content[: len(content) - (len(response.body) + 1) // 2])
        hub.requests.append(Request(self.command, path, response.status))
        self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self, hub: LoopbackHub, raw_path: str, query: dict, body: bytes, action: str | int | None) -> Response:
        if isinstance(action, int):
            raise HubError(action, "failure injected by the test")
        method = "GET" if self.command == "HEAD" else self.command
        for route_method, pattern, route in ROUTES:
            if route_method == method and (match := pattern.fullmatch(raw_path)):
                if route not in _OPEN and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise HubError(401, "Invalid username or password.")
                parts = {name: unquote(value) if value else "" for name, value in match.groupdict().items()}
                parts["kind"] = parts.get("kind") or "models"
                with hub.lock:
                    return route(hub, parts, query, self.headers, body)
        raise HubError(404, f"the loopback Hub has no route {self.command} {raw_path}")

    def _read_body(self, half: bool) -> bytes:
        """The request body; with `half` only its first half or chunk, so that the client is still sending."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read((length + 1) // 2 if half else length)
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
            if half:
                return chunks[0]
        self.rfile.readline()
        return b"".join(chunks)

    def _drop(self, path: str, sent: bytes) -> None:
        """Sends `sent` and resets the connection."""
        self.server.hub.requests.append(Request(self.command, path, 0))
        self.wfile.write(sent)
        if not sent:  # SO_LINGER of zero seconds: closing sends RST, which would also discard sent data
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
