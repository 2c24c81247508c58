"""A small hub on 127.0.0.1: as much of the API of the Hugging Face hub as pushing and loading adapters needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

GOOD_TOKEN = "hf_good"


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    pull_requests: int = 0  # the first one is the branch refs/pr/1, ...
    titles: list[str] = field(default_factory=list)  # of the commits

    def files(self, revision: str) -> dict[str, bytes] | None:
        by_commit = {self.commit(branch): files for branch, files in self.branches.items()}
        return self.branches.get(revision, by_commit.get(revision))

    def commit(self, branch: str) -> str:
        files = self.branches[branch]
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        return hashlib.sha1(branch.encode() + content).hexdigest()

    def commit_of(self, revision: str) -> str:
        return self.commit(revision) if revision in self.branches else revision


class HubStub:
    """The state of the hub, and its server while it is used as a context."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []

    def __enter__(self) -> HubStub:
        stub = self

        class Handler(_Handler):
            hub = stub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


_ROUTES = (
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", r"/api/models", "listing"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/discussions", "open_request"),
    ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/discussions/(?P<number>[0-9]+)", "show_request"),
    ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/discussions/(?P<number>[0-9]+)/status", "set_status"),
    ("HEAD|GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)


class _Handler(BaseHTTPRequestHandler):
    hub: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._dispatch()

    do_POST = do_HEAD = do_GET

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.hub.requests.append(f"{self.command} {url.path}")
        for methods, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and self.command in methods.split("|"):
                groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                getattr(self, name)(**groups)
                return
        self._error(404, "EntryNotFound")

    # Answers

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str = "") -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {GOOD_TOKEN}"

    def _readable(self, repo: str) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self._may_write()):
            self._error(404 if self._may_write() else 401, "RepoNotFound")
            return None
        return found

    # Routes

    def create(self) -> None:
        if not self._may_write():
            return self._error(401)
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.hub.endpoint}/{repo}"
        if repo in self.hub.repositories:
            return self._json({"error": "exists", "url": url}, 409)
        self.hub.repositories[repo] = Repository(
            private="private" in (asked.get("visibility"), asked.get("private") and "private")
        )
        return self._json({"url": url, "name": repo, "id": repo})

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def listing(self) -> None:
        tag = self.query.get("filter", [""])[0]
        public = {name: repo for name, repo in self.hub.repositories.items() if not repo.private}
        self._json([self._described(name, repo) for name, repo in public.items() if tag.encode() in self._card(repo)])

    @staticmethod
    def _card(repo: Repository) -> bytes:
        return repo.branches["main"].get("README.md", b"")

    def _described(self, name: str, repo: Repository, revision: str = "main") -> dict[str, Any]:
        base = re.search(rb'base_model: "(.*)"', self._card(repo))
        files = repo.files(revision) or {}
        return {
            "id": name,
            "modelId": name,
            "sha": repo.commit_of(revision),
            "private": repo.private,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(files)],
            "cardData": {"base_model": base[1].decode()} if base else {},
        }

    def info(self, repo: str, revision: str = "main") -> None:
        found = self._readable(repo)
        if found is None:
            return
        if found.files(revision) is None:
            return self._error(404, "RevisionNotFound")
        self._json(self._described(repo, found, revision))

    def tree(self, repo: str, revision: str) -> None:
        found = self._readable(repo)
        if found is not None:
            files = found.files(revision) or {}
            self._json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in sorted(files.items())
                ]
            )

    def preupload(self, repo: str, revision: str) -> None:
        if not self._may_write():
            return self._error(403)
        paths = [entry["path"] for entry in json.loads(self.body)["files"]]
        self._json({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})

    def commit(self, repo: str, revision: str) -> None:
        if not self._may_write():
            return self._error(403)
        found = self.hub.repositories[repo]
        files = found.branches.get(revision)
        if files is None:
            return self._error(404, "RevisionNotFound")
        for line in self.body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                found.titles.append(entry["value"]["summary"])
            elif entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        oid = found.commit(revision)
        url = f"{self.hub.endpoint}/{repo}/commit/{oid}"
        self._json({"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def open_request(self, repo: str) -> None:
        found = self.hub.repositories[repo]
        found.pull_requests += 1
        found.branches[f"refs/pr/{found.pull_requests}"] = dict(found.branches["main"])
        self._json({"num": found.pull_requests})

    def show_request(self, repo: str, number: str) -> None:
        self._json(
            {
                "num": int(number),
                "title": "",
                "author": {"name": "me"},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "status": "draft",
                "repo": {"name": repo, "type": "model"},
                "isPullRequest": True,
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
                "events": [],
            }
        )

    def set_status(self, repo: str, number: str) -> None:
        event = {"id": "1", "type": "status-change", "createdAt": "2026-01-01T00:00:00.000Z", "author": {"name": "me"}}
        self._json({"newStatus": {**event, "data": {"status": "open"}}})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self._readable(repo)
        if found is None:
            return
        files = found.files(revision)
        if files is None:
            return self._error(404, "RevisionNotFound")
        if path not in files:
            return self._error(404, "EntryNotFound")
        etag = hashlib.sha1(files[path]).hexdigest()
        self._send(200, files[path], {"X-Repo-Commit": found.commit_of(revision), "ETag": f'"{etag}"'})
