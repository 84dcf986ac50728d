"""A stand-in of the W&B server on 127.0.0.1: enough for the real client's sweeps, agents, runs and artifacts."""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY, SWEEP = "lab", "sweep1"
KEY = "0123456789" * 4  # made up


class Run:
    """What a server knows of a run."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.exit_code: int | None = None
        self.about: dict[str, Any] = {}


class StandIn:
    """A server with one sweep, whose runs take the first value of each parameter, then the second, and so on.

    It answers what the client of wandb 0.31 asks; `unknown` are the operations that it could not answer.
    """

    def __init__(self) -> None:
        self.sweep: dict[str, Any] = {}
        self.project = ""
        self.num_started, self.states = 0, list[dict[str, bool]]()
        self.runs: dict[str, Run] = defaultdict(Run)
        self.artifacts: list[dict[str, Any]] = []
        self.unknown: set[str] = set()
        self.url = ""

    def answer(self, operation: str, words: dict[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL operation; None where it is not known."""
        known = getattr(self, f"on_{operation}", None)
        if known is None:
            self.unknown.add(operation)
            return None
        return known(words)

    def on_Viewer(self, words: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY, "id": "team"}}]}
        return {"viewer": {"id": "me", "entity": ENTITY, "username": "me", "email": "", "flags": "{}", "teams": teams}}

    def on_ServerFeaturesQuery(self, words: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_UpsertSweep(self, words: dict[str, Any]) -> dict[str, Any]:
        self.sweep, self.project = yaml.safe_load(words["config"]), words["projectName"]
        project = {"id": "project", "name": self.project, "entity": {"id": "team", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, words: dict[str, Any]) -> dict[str, Any]:
        about = {"id": "sweep", "name": SWEEP, "state": "RUNNING", "config": yaml.safe_dump(self.sweep)}
        return {"project": {"sweep": about | {"runs": {"edges": []}}}}

    def on_CreateAgent(self, words: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def on_Heartbeat(self, words: dict[str, Any]) -> dict[str, Any]:
        running, commands = json.loads(words["runState"]), []
        self.states.append(running)
        if not running:
            number, self.num_started = self.num_started, self.num_started + 1
            args = {}
            for name, choice in self.sweep["parameters"].items():
                values = choice.get("values", [choice.get("value", choice.get("min"))])
                args[name] = {"value": values[number % len(values)]}
            commands = [{"type": "run", "run_id": f"run{number}", "program": self.sweep["program"], "args": args}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}

    def on_RunResumeStatus(self, words: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"id": "project", "name": words["project"], "entity": {"name": ENTITY}, "bucket": None}}

    def on_UpsertBucket(self, words: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[words["name"]]
        run.about |= {key: value for key, value in words.items() if value is not None}
        if words.get("config"):
            run.config = {key: of["value"] for key, of in json.loads(words["config"]).items() if key != "_wandb"}
        if words.get("summaryMetrics"):
            run.summary |= json.loads(words["summaryMetrics"])
        project = {"id": "project", "name": words["project"], "entity": {"id": "team", "name": ENTITY}}
        bucket = {"id": words["name"], "name": words["name"], "displayName": words["name"], "config": "{}"}
        bucket |= {"description": None, "sweepName": words.get("sweep"), "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def on_CreateRunFiles(self, words: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{words['run']}/{name}"} for name in words["files"]]
        return {"createRunFiles": {"runID": words["run"], "uploadHeaders": [], "files": files}}

    def on_CreateArtifact(self, words: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(words["input"] | {"files": {}, "committed": False})
        about = {
            "id": f"artifact{len(self.artifacts)}",
            "state": "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": about}}

    def on_CreateArtifactManifest(self, words: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self.manifest(words["artifactID"])}}

    def on_UpdateArtifactManifest(self, words: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self.manifest(words["artifactManifestID"])}}

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of an artifact; it has the artifact's id, as others may have been begun in the meantime."""
        file = {"id": name, "uploadUrl": f"{self.url}/artifact/{name}/manifest.json", "uploadHeaders": []}
        return {"id": name, "file": file}

    def on_CreateArtifactFiles(self, words: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": of["name"],
                "uploadUrl": f"{self.url}/artifact/{of['artifactID']}/{of['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": of["artifactID"]},
            }
            for of in words["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_CommitArtifact(self, words: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifact(words["artifactID"])
        artifact["committed"] = True
        return {"commitArtifact": {"artifact": {"id": words["artifactID"], "digest": artifact["digest"]}}}

    def artifact(self, name: str) -> dict[str, Any]:
        """The artifact of an id; tables of runs are sent beside networks."""
        return self.artifacts[int(name.removeprefix("artifact")) - 1]

    def receive(self, path: str, body: bytes) -> None:
        """A file, or the lines of a run's stream; what the client tells of itself is passed over."""
        kind, _, rest = path.strip("/").partition("/")
        if kind == "artifact":
            name, _, file = rest.partition("/")
            self.artifact(name)["files"][file] = body
            return
        if kind == "upload":
            run, _, name = rest.partition("/")
            self.runs[run].files[name] = body
            return
        if not path.endswith("/file_stream"):
            return
        run, content = self.runs[path.split("/")[-2]], json.loads(body)
        files = content.get("files") or {}
        run.history += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary |= json.loads(line)
        if content.get("complete"):
            run.exit_code = content.get("exitcode")


@contextmanager
def standing_in() -> Iterator[StandIn]:
    """The server, within the `with` block."""
    state, one_at_a_time = StandIn(), threading.Lock()  # requests come in threads

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def respond(self, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.rstrip("/") != "/graphql":
                with one_at_a_time:
                    state.receive(self.path, body)
                self.respond({"exitcode": None, "limits": {}})
                return
            asked = json.loads(body)
            operation = re.search(r"(?:query|mutation|subscription)\s+(\w+)", asked["query"])
            with one_at_a_time:
                data = state.answer(operation.group(1) if operation else asked["query"], asked.get("variables") or {})
            self.respond({"data": data} if data is not None else {"errors": [{"message": "unknown here"}]})

        do_PUT = do_POST

        def do_GET(self) -> None:
            self.respond({})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # a client that ends leaves its connections
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
