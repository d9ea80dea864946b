"""A local stand-in for the Hugging Face Hub, with the few endpoints that pushing and downloading a model use.

Repositories are held in memory: each is a list of commits, and each commit a dictionary of files. As on the Hub,
weights are uploaded as large files (LFS), and all other files within the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"  # the only token with write access


class StandIn:
    """The state and the address of the stand-in.

    Attributes:
        commits: the files of every commit of every repository, by repository and commit.
        private: the repositories that are accessible only with a token.
        requests: every request, as ``"GET /path"``.
        sizes: false sizes to report for files, by file name.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.sizes: dict[str, int] = {}
        self.address = ""

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add a commit on top of the last one, and return its id."""
        commits = self.commits.setdefault(name, {})
        tree = {**(list(commits.values())[-1] if commits else {}), **files}
        sha = hashlib.sha1(repr((len(commits), sorted(tree))).encode()).hexdigest()
        commits[sha] = tree
        return sha

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """A commit by its id or as ``main``. Raises ``KeyError`` if it does not exist."""
        commits = self.commits[name]
        sha = list(commits)[-1] if revision == "main" else revision
        return sha, commits[sha]


@contextmanager
def running() -> Iterator[StandIn]:
    """Run the stand-in until the block is left."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answer(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_PUT(self) -> None:
        body = self._body()
        if f"/{hashlib.sha256(body).hexdigest()}" == self.path.removeprefix("/large"):
            self.hub.large[hashlib.sha256(body).hexdigest()] = body
            return self._send(200)
        return self._refuse(400, "the file does not match its checksum")

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Invalid username or password.")
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            front = json.loads(body)["content"].startswith("---\n")
            return self._json({"errors": [] if front else [{"message": "no metadata"}], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            large = (".safetensors", ".png")
            return self._json({"files": [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith(large) else "regular"}
                for file in json.loads(body)["files"]
            ]})  # fmt: skip
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._json({"transfer": "basic", "objects": [
                {**thing, "actions": {"upload": {"href": f"{self.hub.address}/large/{thing['oid']}"}}}
                for thing in json.loads(body)["objects"]
            ]})  # fmt: skip
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        return self._refuse(404, "no such endpoint")

    def _create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        status = 409 if name in self.hub.commits else 200
        if status == 200:
            self.hub.commits[name] = {}
            private = request.get("private") or request.get("visibility") == "private"
            self.hub.private |= {name} if private else set()
        self._json({"url": f"{self.hub.address}/{name}"}, status)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"])
                 for line in lines if line["key"] == "file"}  # fmt: skip
        files |= {line["value"]["path"]: self.hub.large[line["value"]["oid"]]
                  for line in lines if line["key"] == "lfsFile"}  # fmt: skip
        sha = self.hub.commit(name, files)
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    def _get(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        if not match:
            return self._refuse(404, "no such endpoint")
        name, revision = match[1], match[2] or "main"
        seen = name not in self.hub.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name not in self.hub.commits or not seen:
            return self._refuse(401, "Invalid username or password.", "RepoNotFound")
        try:
            sha, files = self.hub.at(name, revision)
        except (KeyError, IndexError):
            return self._refuse(404, "Invalid rev id", "RevisionNotFound")
        if info:
            siblings = [{"rfilename": n, "size": self.hub.sizes.get(n, len(b))} for n, b in files.items()]
            return self._json({"id": name, "sha": sha, "siblings": siblings, "private": name in self.hub.private})
        if file[3] not in files:
            return self._refuse(404, "Entry not found", "EntryNotFound")
        content = files[file[3]]
        tag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}
        return self._send(200, content, tag)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, data: Any, status: int = 200) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
