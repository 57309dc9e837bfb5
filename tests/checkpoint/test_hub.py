"""The hub: the real client against a server of the test's own, good, refusing, silent, broken and absent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.checkpoints import save_tiny
from tests.serving import serving

import pytest

ROOT = Path(__file__).parents[2]
SHA = "a" * 40
CHILD = """
import sys
import tinymi
from tinymi.checkpoint.find import folder_for
try:
    folder = folder_for(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None)
    print(folder)
    print(tinymi.load(folder).config.n_layers)
except tinymi.TinymiError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""
# Many sources that must all be refused, in one process: what each is told.
CHILD_OF_MANY = """
import json, sys
from tinymi.errors import TinymiError
from tinymi.checkpoint.find import folder_for
told = {}
for source in sys.argv[1:]:
    try:
        told[source] = "a folder: " + str(folder_for(source))
    except TinymiError as error:
        told[source] = str(error)
print(json.dumps(told))
"""


@dataclass
class Repo:
    """One repository: its files, and how the server answers for it."""

    files: dict[str, bytes]
    status: int = 200  # of everything
    file_status: int = 200  # of files only
    code: str = ""  # the X-Error-Code that goes with it
    short: int = 0  # bytes that the weights lack (or have more) when they are sent
    cut: int | None = None  # bytes of a file after which the first connection breaks
    sha: str = SHA
    served: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if self.server.silent:
            time.sleep(30)
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repo = self.server.repos.get((api or file)[1]) if (api or file) else None  # type: ignore[index]
        if repo is None:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif repo.status != 200:
            self.reply(repo.status, b"{}", {"X-Error-Code": repo.code} if repo.code else {})
        elif api and api[3] == "missing":
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif api and api[2] == "tree":
            self.reply(200, json.dumps([entry(name, data) for name, data in repo.files.items()]).encode(), {})
        elif api:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in repo.files.items()]
            self.reply(200, json.dumps({"id": api[1], "sha": repo.sha, "siblings": siblings}).encode(), {})
        elif file:
            self.send_file(repo, file[3])

    def send_file(self, repo: Repo, name: str) -> None:
        if repo.file_status != 200:
            return self.reply(repo.file_status, b"{}", {"X-Error-Code": repo.code} if repo.code else {})
        if name not in repo.files:
            return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        data = repo.files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.command == "GET":
            repo.served.append(f"{name}@{start}")
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if repo.cut is not None and self.command == "GET" and name.endswith(".safetensors"):
            self.reply(206 if start else 200, data[start:], headers, send=repo.cut)
            repo.cut = self.server.cut_again
            return None
        if repo.short and self.command == "GET" and name.endswith(".safetensors"):
            data = data[: -repo.short] if repo.short > 0 else data + bytes(-repo.short)
        return self.reply(206 if start else 200, data[start:], headers)

    def reply(self, status: int, body: bytes, headers: dict[str, str], send: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:send])
        if send is not None:
            self.close_connection = True


def entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha256(data).hexdigest()[:40]}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    silent = False
    cut_again: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(save_tiny(tmp_path_factory.mktemp("single")))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(save_tiny(tmp_path_factory.mktemp("sharded"), save={"max_shard_size": "20KB"}))


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def ask(url: str, home: Path, *arguments: str, code: str = CHILD, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment | {"TINYMI_HOME": str(home / "tinymi")} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def folder_of(done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 0, done.stderr
    folder, n_layers = done.stdout.splitlines()
    assert n_layers == "2"
    return Path(folder)


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


JUNK = {
    "pytorch_model.bin": b"no",
    "consolidated.safetensors": b"no",
    "original/model.safetensors": b"no",
    "model.fp16.safetensors": b"no",
    "modeling_evil.py": b"no",
    "README.md": b"no",
}


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_a_good_repository_is_fetched_once_and_only_what_is_needed(
    kind: str, server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = request.getfixturevalue(kind) | {"tokenizer_config.json": b"{}"}
    server.repos["owner/model"] = repo = Repo(files | JUNK)
    done = ask(server.url, tmp_path, "owner/model")
    folder = folder_of(done)
    assert re.fullmatch(r"tinymi: downloading owner/model from the hub, 0\.\d MB, to .*/hub\n", done.stderr)
    assert {file.name for file in folder.iterdir()} == files.keys()
    assert all((folder / name).read_bytes() == files[name] for name in files)
    assert len(files) == 5 if kind == "single" else len(files) > 7
    repo.served.clear()
    again = ask(server.url, tmp_path, "owner/model")
    assert folder_of(again) == folder
    assert again.stderr == ""
    assert repo.served == []
    # without a hub: told to be offline, and finding nobody
    server.repos.clear()
    assert folder_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1")) == folder
    alone = ask("http://127.0.0.1:9", tmp_path, "owner/model")
    assert folder_of(alone) == folder
    assert "using the copy of owner/model" in alone.stderr


def test_a_repository_without_a_tokenizer_is_fetched(server: Server, tmp_path: Path, single: dict[str, bytes]) -> None:
    files = {name: data for name, data in single.items() if name in ("config.json", "model.safetensors")}
    server.repos["owner/model"] = Repo(files)
    assert {file.name for file in folder_of(ask(server.url, tmp_path, "owner/model")).iterdir()} == files.keys()
    assert folder_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1")).is_dir()


def test_a_revision_is_asked_for_and_kept_apart(server: Server, tmp_path: Path, single: dict[str, bytes]) -> None:
    server.repos["owner/model"] = Repo(single)
    assert folder_of(ask(server.url, tmp_path, "owner/model", "v1.0")).name == SHA
    assert folder_of(ask(server.url, tmp_path, "owner/model", "v1.0", HF_HUB_OFFLINE="1")).name == SHA
    line = line_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1"))  # main was never fetched
    assert "not complete in the cache" in line
    assert "HF_HUB_OFFLINE" in line
    assert "no revision 'missing'" in line_of(ask(server.url, tmp_path, "owner/model", "missing"))
    assert "is not a name" in line_of(ask(server.url, tmp_path, "owner/model", "../../evil"))


def test_a_revision_without_a_hub_id_is_refused(server: Server, tmp_path: Path) -> None:
    assert "needs a hub id" in line_of(ask(server.url, tmp_path, str(tmp_path), "main"))


# What is wrong with a repository -> what its asker must be told.
NO_WEIGHTS: dict[str, bytes | None] = {"model.safetensors": None}
INDEX = "model.safetensors.index.json"
WRONG: list[tuple[dict[str, Any], dict[str, bytes | None], list[str]]] = [
    ({"status": 403, "code": "GatedRepo"}, {}, ["gated", "accept its licence at http", "hf auth login", "HF_TOKEN"]),
    ({"file_status": 403, "code": "GatedRepo"}, {}, ["gated", "accept its licence at http", "HF_TOKEN"]),
    ({"file_status": 401, "code": "GatedRepo"}, {}, ["gated"]),
    ({"status": 401, "code": "RepoNotFound"}, {}, ["neither a folder here nor a model on the hub", "hf auth login"]),
    ({"status": 401}, {}, ["answered 401", "hf auth login", "HF_TOKEN"]),
    ({"status": 404, "code": "RepoNotFound"}, {}, ["neither a folder here", "check the name"]),
    ({"status": 403}, {}, ["answered 403", "HF_TOKEN"]),
    ({"status": 500}, {}, ["answered 500", "later"]),
    ({"status": 429}, {}, ["answered 429", "later"]),
    ({"sha": "../../../evil"}, {}, ["'../../../evil'", "40 hex digits"]),
    ({}, {"config.json": None}, ["has no config.json"]),
    ({}, NO_WEIGHTS | {"pytorch_model.bin": b"x"}, ["pytorch_model.bin, a pickle", "never opened"]),
    ({}, NO_WEIGHTS | {"consolidated.safetensors": b"x"}, ["neither model.safetensors nor"]),
    ({}, NO_WEIGHTS | {INDEX: b"not json"}, ["index.json: cannot be read", "not JSON"]),
    ({}, NO_WEIGHTS | {INDEX: b"[]"}, ["index.json: cannot be read", "not an object"]),
    ({}, NO_WEIGHTS | {INDEX: b'{"weight_map": {"a": "../../evil.safetensors"}}'}, ["'../../evil.safetensors'"]),
    ({}, NO_WEIGHTS | {INDEX: b'{"weight_map": {"a": "/etc/evil.safetensors"}}'}, ["'/etc/evil.safetensors'"]),
    ({}, NO_WEIGHTS | {INDEX: b'{"weight_map": {"a": 5}}'}, ["places tensor 'a' in '5'"]),
    ({}, NO_WEIGHTS | {INDEX: b'{"weight_map": {"a": ["b"]}}'}, ["places tensor 'a' in"]),
    ({}, NO_WEIGHTS | {INDEX: b'{"weight_map": {"a": "model-9.safetensors"}}'}, ["has no model-9.safetensors"]),
]


def test_a_hub_that_refuses_and_repositories_that_do_not_fit(
    server: Server, tmp_path: Path, single: dict[str, bytes]
) -> None:
    for number, (how, change, _) in enumerate(WRONG):
        files = {name: data for name, data in (single | change).items() if data is not None}
        server.repos[f"owner/model{number}"] = Repo(files, **how)
    done = ask(server.url, tmp_path / "home", *server.repos, code=CHILD_OF_MANY)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for number, (_, _, expected) in enumerate(WRONG):
        line = told[f"owner/model{number}"]
        assert f"owner--model{number}" in line or f"owner/model{number}" in line
        assert "\n" not in line
        for words in expected:
            assert words in line
    assert not list(tmp_path.rglob("*evil*"))


def test_a_download_that_breaks_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    files = files_of(
        save_tiny(tmp_path / "large", hidden_size=512, vocab_size=6000)
    )  # the client writes 10 MiB at a time
    server.repos["owner/model"] = repo = Repo(files, cut=15_000_000)
    folder = folder_of(ask(server.url, tmp_path / "home", "owner/model"))
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert any(re.fullmatch(r"model.safetensors@[1-9]\d*", served) for served in repo.served), repo.served


def test_a_download_that_always_breaks_ends_and_poisons_nothing(
    server: Server, tmp_path: Path, single: dict[str, bytes]
) -> None:
    server.cut_again = 0
    server.repos["owner/model"] = repo = Repo(single, cut=10_000)
    line = line_of(ask(server.url, tmp_path, "owner/model"))
    assert "could not be fetched" in line
    assert "not complete in the cache" in line_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1"))
    repo.cut = None
    folder = folder_of(ask(server.url, tmp_path, "owner/model"))
    assert (folder / "model.safetensors").read_bytes() == single["model.safetensors"]


@pytest.mark.parametrize("short", [1000, -1000])
def test_a_file_of_another_length_than_the_hub_says_is_never_used(
    short: int, server: Server, tmp_path: Path, single: dict[str, bytes]
) -> None:
    server.repos["owner/model"] = repo = Repo(single, short=short)
    assert "could not be fetched" in line_of(ask(server.url, tmp_path, "owner/model"))
    assert "not complete in the cache" in line_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1"))
    repo.short = 0
    folder = folder_of(ask(server.url, tmp_path, "owner/model"))
    assert (folder / "model.safetensors").read_bytes() == single["model.safetensors"]


def test_a_damaged_copy_is_fetched_again(server: Server, tmp_path: Path, single: dict[str, bytes]) -> None:
    server.repos["owner/model"] = Repo(single)
    weights = folder_of(ask(server.url, tmp_path, "owner/model")) / "model.safetensors"
    os.truncate(weights, 5000)
    assert "damaged or incomplete" in line_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1"))
    folder_of(ask(server.url, tmp_path, "owner/model"))
    assert weights.read_bytes() == single["model.safetensors"]


def test_a_disk_that_fills_up_on_the_way(server: Server, tmp_path: Path, single: dict[str, bytes]) -> None:
    server.repos["owner/model"] = Repo(single)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    assert "File too large" in line_of(ask(server.url, tmp_path, "owner/model", code=limit + CHILD))
    assert (folder_of(ask(server.url, tmp_path, "owner/model")) / "config.json").is_file()


def test_nobody_there(tmp_path: Path) -> None:
    line = line_of(ask("http://127.0.0.1:9", tmp_path, "owner/model"))
    assert "could not be fetched from the hub at http://127.0.0.1:9" in line
    assert "check the network" in line


def test_a_hub_that_never_answers(server: Server, tmp_path: Path) -> None:
    server.silent = True
    start = time.perf_counter()
    line = line_of(ask(server.url, tmp_path, "owner/model", HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1"))
    assert time.perf_counter() - start < 20
    assert "could not be fetched" in line
    assert "imeout" in line


@pytest.mark.parametrize(
    "setting", [{"HF_HUB_ETAG_TIMEOUT": "abc"}, {"HF_ENDPOINT": "http://[::1"}, {"HF_ENDPOINT": "x"}]
)
def test_a_setting_that_the_client_cannot_read(setting: dict[str, str], server: Server, tmp_path: Path) -> None:
    line = line_of(ask(server.url, tmp_path, "owner/model", **setting))
    assert "the hub's client cannot start" in line or "could not be fetched from the hub at x" in line


def test_a_shard_with_a_star_in_its_name_is_one_file(server: Server, tmp_path: Path, single: dict[str, bytes]) -> None:
    files = {name: data for name, data in single.items() if name != "model.safetensors"}
    index = {"weight_map": {"model.norm.weight": "*.safetensors"}}
    files |= {INDEX: json.dumps(index).encode(), "*.safetensors": b"x", "other.safetensors": b"y"}
    server.repos["owner/model"] = repo = Repo(files)
    assert "damaged or incomplete" in line_of(ask(server.url, tmp_path, "owner/model"))
    assert "other.safetensors@0" not in repo.served


def test_offline_with_nothing_in_the_cache(server: Server, tmp_path: Path) -> None:
    line = line_of(ask(server.url, tmp_path, "owner/model", HF_HUB_OFFLINE="1"))
    assert "not complete in the cache" in line
    assert "unset HF_HUB_OFFLINE" in line


def test_a_full_disk_is_said_in_numbers(server: Server, tmp_path: Path, single: dict[str, bytes]) -> None:
    server.repos["owner/model"] = Repo(single)
    full = tmp_path / "sitecustomize.py"
    full.write_text("import shutil\nshutil.disk_usage = lambda path: shutil._ntuple_diskusage(9, 8, 1)\n")
    line = line_of(ask(server.url, tmp_path, "owner/model", PYTHONPATH=f"{tmp_path}:{ROOT}"))
    assert re.search(r"has 0 MB free and 0 MB are needed.*HF_HOME", line)
