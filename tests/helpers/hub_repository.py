"""A repository of the loopback Hub: commits with their complete content, refs, LFS objects, and ids as in git.

Also the JSON that describes a file, and the error that the client converts to its own exceptions.
"""

import hashlib
import json
from dataclasses import dataclass

LFS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".npz", ".parquet", ".mp4", ".webm", ".tar", ".zip")
LFS_THRESHOLD = 10 * 2**20  # bytes; the Hub takes no larger file as a plain git blob


class HubError(Exception):
    """Sent as an HTTP error with the `X-Error-Code` from which the client selects its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message}
        if code is not None:
            self.headers["X-Error-Code"] = code
        if commit is not None:
            self.headers["X-Repo-Commit"] = commit


def git_hash(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_THRESHOLD)


def file_entry(path: str, data: bytes) -> dict:
    """The description of a file in the tree and paths-info routes."""
    if not is_lfs(path, len(data)):
        return {"type": "file", "path": path, "size": len(data), "oid": git_hash("blob", data)}
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    lfs = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
    return {"type": "file", "path": path, "size": len(data), "oid": git_hash("blob", pointer), "lfs": lfs}


def folder_entry(path: str, files: dict[str, bytes]) -> dict:
    contents = sorted((name, git_hash("blob", data)) for name, data in files.items() if name.startswith(path + "/"))
    return {"type": "directory", "path": path, "size": 0, "oid": git_hash("tree", json.dumps(contents).encode())}


@dataclass(frozen=True)
class Commit:
    """A commit with the complete content of the repository."""

    oid: str
    title: str
    files: dict[str, bytes]


class Repository:
    """Commits, refs and LFS objects of one repository."""

    def __init__(self):
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}  # sha256 → uploaded content
        self.commit("main", "initial commit", {})

    def commit(self, branch: str, title: str, files: dict[str, bytes]) -> Commit:
        """Make `files` the content of `branch`."""
        blobs = [(path, hashlib.sha1(data).hexdigest()) for path, data in sorted(files.items())]
        content = json.dumps([self.refs.get(branch), len(self.commits), title, blobs]).encode()
        commit = Commit(git_hash("commit", content), title, dict(files))
        self.commits[commit.oid] = commit
        self.refs[branch] = commit.oid
        self.lfs.update({hashlib.sha256(data).hexdigest(): data for data in files.values()})
        return commit

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag or full hash."""
        commit = self.commits.get(self.refs.get(revision, revision))
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit
