"""A local stand-in for W&B's server, with what the client needs for runs, artifacts, workspaces and sweeps.

It answers the client's GraphQL queries from memory, accepts file streams and uploads, and records every
request. It was written from the requests of the locked client version. The real server may reject requests
that this one accepts. It can fail at any request, in every way that a server or a network fails.
"""

import gzip
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ENTITY = "somebody"

#: Which way a request fails, by method, path and body; "" lets it pass.
#: "503" and other codes: nothing is done. "cut": the connection closes before anything is done. "lost": it is
#: done, and the connection closes without an answer. "half": done, and the answer is cut in its middle.
#: "garbage": nothing is done, a web page comes back. "slow:2": done, and answered after 2 s.
Fault = Callable[[str, str, bytes], str]


class Once:
    """A fault at the n-th request alone, counted from 0."""

    def __init__(self, number: int, fault: str) -> None:
        self.number, self.fault, self.seen = number, fault, 0
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str, body: bytes) -> str:
        with self._lock:
            self.seen += 1
            return self.fault if self.seen == self.number + 1 else ""


@dataclass
class Artifact:
    """One version of an artifact."""

    id: str
    type: str
    name: str
    version: int
    digest: str
    metadata: dict[str, Any]
    aliases: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    made_by: str = ""
    used_by: set[str] = field(default_factory=set)
    committed: bool = False


@dataclass
class StandIn:
    """The server's state.

    Attributes:
        runs: By id: name, displayName, group, jobType, config, summary, history (lines), state,
            project, entity.
        deleted: Ids of runs that were deleted on the site, which the service refuses for ever.
        requests: Method, path and body of each request, in order.
        unknown: Names of GraphQL operations that are not implemented.
        broken: Whether all requests are cut.
        fault: How each request fails.
    """

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    sweeps: dict[str, dict[str, Any]] = field(default_factory=dict)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    broken: bool = False
    fault: Fault = lambda method, path, body: ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def artifact(self, name: str) -> Artifact:
        """Look up "name:version" or "name:alias"."""
        name, _, alias = name.partition(":")
        [match] = [a for a in self.artifacts if a.name == name and alias in {*a.aliases, f"v{a.version}"}]
        return match

    def run_called(self, name: str) -> dict[str, Any]:
        [match] = [run for run in self.runs.values() if run["displayName"] == name]
        return match


@contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[StandIn]:
    """Run a stand-in on a free port of this machine."""
    stand_in = StandIn()

    class Handler(_Handler):
        state = stand_in

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]  # a client that hung up
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    stand_in.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body, path = self._body(), urlsplit(self.path).path
        self.state.requests.append((self.command, self.path, body))
        fault = "cut" if self.state.broken else self.state.fault(self.command, path, body)
        if fault == "cut":
            self._hang_up()
        elif fault.isdigit():
            self._fail(int(fault), f"stand-in: {fault}")
        elif fault == "garbage":
            self._send(b"<html>Sign in to the hotel's network</html>", "text/html")
        else:
            status, kind, data = self._act(path, body)
            if fault.startswith("slow:"):
                time.sleep(float(fault.removeprefix("slow:")))
            if fault != "lost":
                self._send(data, kind, status, cut=fault == "half")
            if fault in ("lost", "half"):
                self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _fail(self, status: int, message: str) -> None:
        self._send(json.dumps({"errors": [{"message": message}]}).encode(), "application/json", status)

    def _act(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Do what a request asks for; returns status, content type and content of the answer."""
        status, answer = 200, dict[str, Any]()
        if self.command == "GET":
            if path in self.state.uploads:
                return 200, "application/octet-stream", self.state.uploads[path]
            status = 404
        elif self.command == "PUT":
            self.state.uploads[path] = body
        elif path.endswith("/graphql"):
            asked = json.loads(body)
            variables = asked.get("variables") or {}
            with self.state.lock:
                if "UpsertBucket" in asked["query"] and variables.get("name") in self.state.deleted:
                    text = f"run {variables['name']} was previously created and deleted; try a new run name"
                    status, answer = 409, {"errors": [{"message": text}]}
                elif variables.get("input", {}).get("runName") in self.state.deleted:
                    status, answer = 404, {"errors": [{"message": "run not found"}]}
                else:
                    answer = {"data": self._resolve(asked["query"], variables)}
        elif path.endswith("/file_stream"):
            with self.state.lock:
                self._stream(path.split("/")[-2], json.loads(body))
            answer = {"exitcode": None, "limits": {}}
        return status, "application/json", json.dumps(answer).encode()

    def _resolve(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation[1] if operation else ""
        answer = getattr(self, f"_on_{name}", None)
        if answer is None:
            self.state.unknown.append(name)
            return {}
        result: dict[str, Any] = answer(variables, query)
        return result

    def _stream(self, run_id: str, content: dict[str, Any]) -> None:
        run = self.state.runs[run_id]
        for name, file in (content.get("files") or {}).items():
            lines = [json.loads(line) for line in file["content"]]
            if name == "wandb-history.jsonl":
                run["history"][file["offset"] :] = lines
            elif name == "wandb-summary.json":
                run["summary"] = lines[-1]
        if content.get("complete"):
            run["state"] = "finished" if not content.get("exitcode") else "failed"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, data: bytes, kind: str, status: int = 200, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    # The client's GraphQL operations, by name.

    def _on_Viewer(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        account = {"id": "v", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": {**account, "teams": {"edges": []}}}

    def _on_RunResumeStatus(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        run = self.state.runs.get(asked["name"])
        return {
            "model": None
            if run is None
            else {
                "id": "p",
                "name": asked["project"],
                "entity": _entity(),
                "bucket": {
                    "id": asked["name"],
                    "name": asked["name"],
                    "displayName": run["displayName"],
                    "summaryMetrics": json.dumps(run["summary"]),
                    "config": run["config"] or "{}",
                    "historyLineCount": len(run["history"]),
                    "eventsLineCount": 0,
                    "logLineCount": 0,
                    "historyTail": json.dumps([json.dumps(line) for line in run["history"][-1:]]),
                    "eventsTail": "[]",
                    "tags": run["tags"],
                    "notes": "",
                    "wandbConfig": '{"t": 1}',
                },
            }
        }

    def _on_UpsertBucket(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        name = asked["name"]
        inserted = name not in self.state.runs
        run = self.state.runs.setdefault(
            name, {"name": name, "config": "", "summary": {}, "history": [], "state": "running", "tags": []}
        )
        keys = {
            "displayName": "displayName",
            "groupName": "group",
            "jobType": "jobType",
            "tags": "tags",
            "config": "config",
            "sweep": "sweep",
            "notes": "notes",
        }
        run |= {key: asked[field] for field, key in keys.items() if asked.get(field) is not None}
        run |= {"project": asked["project"], "entity": asked.get("entity") or ENTITY}
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.get("displayName", name),
            "description": "",
            "config": run["config"],
            "sweepName": run.get("sweep"),
            "project": _project(asked["project"], run["entity"]),
            "historyLineCount": len(run["history"]),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _on_CreateRunFiles(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.state.url}/upload/{asked['run']}/{name}"}
            for name in asked["files"]
        ]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _on_ArtifactType(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        artifact = self._find(asked["name"])
        described = None if artifact is None else {"artifactType": {"name": artifact.type}}
        return {"project": {"artifact": described}}

    def _find(self, name: str) -> Artifact | None:
        try:
            return self.state.artifact(name.rpartition("/")[2])
        except ValueError:
            return None

    def _on_ServerFeaturesQuery(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _on_CreateArtifact(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        given = asked["input"]
        name = given["artifactCollectionName"]
        versions = [artifact for artifact in self.state.artifacts if artifact.name == name]
        made = next((artifact for artifact in versions if artifact.digest == given["digest"]), None)
        if made is None:
            made = Artifact(
                id=f"artifact-{len(self.state.artifacts)}",
                type=given["artifactTypeName"],
                name=name,
                version=len(versions),
                digest=given["digest"],
                metadata=json.loads(given["metadata"] or "{}"),
                made_by=given["runName"],
            )
            self.state.artifacts.append(made)
        aliases = {alias["alias"] for alias in given["aliases"] or []}
        for other in versions:
            other.aliases -= aliases
        made.aliases |= aliases
        return {
            "createArtifact": {
                "artifact": {
                    "id": made.id,
                    "state": "COMMITTED" if made.committed else "PENDING",
                    "artifactSequence": {"latestArtifact": {"id": versions[-1].id} if versions else None},
                }
            }
        }

    def _on_CreateArtifactManifest(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        name = f"manifest-{asked['artifactID']}"
        file = {"id": name, "uploadUrl": f"{self.state.url}/upload/{name}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}

    def _on_UpdateArtifactManifest(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        name = asked["artifactManifestID"]
        file = {"id": name, "uploadUrl": f"{self.state.url}/upload/{name}", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}

    def _on_CreateArtifactFiles(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        edges = []
        for given in asked["input"]["artifactFiles"]:
            path = f"/upload/{given['artifactID']}/{given['name']}"
            node = {
                "storagePath": path,
                "uploadUrl": self.state.url + path,
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": given["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_CommitArtifact(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        [artifact] = [a for a in self.state.artifacts if a.id == asked["artifactID"]]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _on_ArtifactMembershipByName(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        artifact = self._find(asked["name"])
        if artifact is None:
            return {"project": {"artifactCollectionMembership": None}}
        project = {"internalId": "1", **_project(asked["project"])}
        collection = {"__typename": "ArtifactSequence", "name": artifact.name, "project": project}
        aliases = [
            {"__typename": "ArtifactAlias", "id": alias, "alias": alias} for alias in sorted(artifact.aliases)
        ]
        now = "2026-01-01T00:00:00Z"
        described = {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": collection,
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED" if artifact.committed else "PENDING",
            "size": 0,
            "digest": artifact.digest,
            "commitHash": artifact.digest,
            "fileCount": 0,
            "createdAt": now,
            "updatedAt": now,
            "aliases": [{"artifactCollection": collection, **alias} for alias in aliases],
        }
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": now,
            "aliases": aliases,
            "artifactCollection": collection,
            "artifact": described,
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def _on_UseArtifact(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        given = asked.get("input", asked)
        [artifact] = [a for a in self.state.artifacts if a.id == given["artifactID"]]
        artifact.used_by.add(given["runName"])
        return {"useArtifact": {"artifact": {"id": artifact.id}}}

    def _on_GetDefaultEntity(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        return {"viewer": {"id": "v", "entity": ENTITY}}

    def _on_UpsertView2(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        known = [view for view in self.state.views if view["id"] == asked.get("id")]
        view = known[0] if known else {"id": f"view-{len(self.state.views)}"}
        view |= {key: asked[key] for key in ("name", "displayName", "projectName")}
        view["spec"] = json.loads(asked["spec"])
        if not known:
            self.state.views.append(view)
        return {"upsertView": {"view": {"id": view["id"], "name": view["name"]}, "inserted": not known}}

    def _on_View(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        views = [view for view in self.state.views if view["name"] == asked["viewName"]]
        edges = [{"node": {**view, "spec": json.dumps(view["spec"])}} for view in views]
        return {"project": {"allViews": {"edges": edges}}}

    # Sweeps: an agent gets one of the test's proposals per heartbeat, then no more commands.

    def _on_UpsertSweep(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        name = f"sweep{len(self.state.sweeps)}"
        self.state.sweeps[name] = {"config": asked["config"], "agents": []}
        sweep = {"id": name, "name": name, "method": "random", "state": "RUNNING", "project": _project("p")}
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}

    def _on_CreateAgent(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        self.state.sweeps[asked["sweep"]]["agents"].append(asked["host"])
        return {"createAgent": {"agent": {"id": "agent"}}}

    def _on_Heartbeat(self, asked: dict[str, Any], query: str) -> dict[str, Any]:
        busy = json.loads(asked["runState"] or "{}")
        commands = [self.state.proposals.pop(0)] if self.state.proposals and not busy else []
        return {"agentHeartbeat": {"agent": {"id": asked["id"]}, "commands": json.dumps(commands)}}


def _entity(name: str = ENTITY) -> dict[str, str]:
    return {"id": "e", "name": name}


def _project(name: str, entity: str = ENTITY) -> dict[str, Any]:
    return {"id": "p", "name": name, "entity": _entity(entity)}
