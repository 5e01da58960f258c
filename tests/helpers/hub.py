"""A hub on this machine: the routes of the Hugging Face Hub by which a model is made, written, listed and read."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_may_write"


@dataclass
class LocalHub:
    """The state of the hub.

    Attributes:
        models: The files of each version of each model, oldest first.
        asked: Every request.
    """

    address: str = ""
    models: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    is_private: dict[str, bool] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, model: str, number: int) -> str:
        return hashlib.sha1(f"{model} {number}".encode()).hexdigest()

    def files(self, model: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and the files of a version, by commit or for ``main`` the newest."""
        versions = {self.commit(model, i): one for i, one in enumerate(self.models.get(model, []))}
        if revision == "main" and versions:
            revision = list(versions)[-1]
        return (revision, versions[revision]) if revision in versions else None


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def parts(self) -> list[str]:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def do_POST(self) -> None:
        parts, body = self.parts(), self.body()
        if parts == ["api", "validate-yaml"]:
            self.answer(200, {"warnings": [], "errors": []})
        elif not self.may_write:
            self.answer(401, {"error": "Invalid username or password."})
        elif parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            is_new = name not in self.hub.models
            self.hub.models.setdefault(name, [])
            self.hub.is_private.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
            self.answer(200 if is_new else 409, {"url": f"{self.hub.address}/{name}"})
        elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular",
                 "shouldIgnore": False}
                for one in files
            ]  # fmt: skip
            self.answer(200, {"files": modes})
        elif parts[-1] == "batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif parts[:2] == ["api", "models"] and parts[4] == "commit":
            self.write_commit("/".join(parts[2:4]), body)
        else:
            self.answer(404, {"error": "no such route"})

    def write_commit(self, model: str, body: bytes) -> None:
        versions = self.hub.models[model]
        files = dict(versions[-1]) if versions else {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
        versions.append(files)
        oid = self.hub.commit(model, len(versions) - 1)
        address = f"{self.hub.address}/{model}/commit/{oid}"
        self.answer(200, {"commitUrl": address, "commitOid": oid, "success": True})

    def do_PUT(self) -> None:
        oid, content = self.parts()[-1], self.body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.uploaded[oid] = content
        self.answer(200)

    def do_GET(self) -> None:
        parts = self.parts()
        is_api = parts[:2] == ["api", "models"]
        model = "/".join(parts[2:4] if is_api else parts[:2])
        after = parts[4:] if is_api else parts[2:]
        verb, revision, *path = after if len(after) > 1 else ["revision", "main"]
        found = self.hub.files(model, revision)
        if model not in self.hub.models:
            self.answer(
                401 if not self.may_write else 404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
            )
        elif self.hub.is_private[model] and not self.may_write:
            self.answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif found is None:
            self.answer(404, {"error": "Revision not found"}, X_Error_Code="RevisionNotFound")
        elif is_api and verb == "tree":
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in found[1].items()
            ]
            self.answer(200, listed)
        elif is_api:
            siblings = [{"rfilename": name} for name in found[1]]
            facts = {"id": model, "modelId": model, "sha": found[0], "siblings": siblings, "tags": [], "private": False}
            self.answer(200, facts)
        elif "/".join(path) in found[1]:
            content = found[1]["/".join(path)]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(200, content, ETag=etag, X_Repo_Commit=found[0])
        else:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")

    do_HEAD = do_GET
