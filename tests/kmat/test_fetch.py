"""``kmat fetch`` against a server of the hub's protocol, with a tiny random model in BiomedCLIP's layout."""

import hashlib
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kmat.cli import main
from kmat.model.backbone import load_backbone

REPO = "someone/tiny"
BIN = "open_clip_pytorch_model.bin"


def git_digest(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Hub(ThreadingHTTPServer):
    """Small files as they are, with git's digest; weights by a redirection that tells their SHA-256."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = files, []
        self.cut = None  # after how many bytes a connection breaks
        self.ranges, self.damaged = True, False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if data := self.answer():
            part = data if self.server.cut is None else data[: self.server.cut]
            self.wfile.write(part)
            self.close_connection = True

    def answer(self):
        hub, prefix = self.server, f"/{REPO}/resolve/main/"
        name = self.path.removeprefix(prefix).removeprefix("/elsewhere/")
        data = hub.files.get(name)
        hub.asked.append((self.command, name, self.headers.get("Range")))
        if data is None:
            self.send_error(404)
            return None
        if self.path.startswith(prefix) and name == BIN:
            self.send_response(302)
            self.send_header("Location", f"/elsewhere/{name}")
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Repo-Commit", "c0ffee")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        start = 0
        if (asked := self.headers.get("Range")) and hub.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{git_digest(data)}"')
        self.send_header("X-Repo-Commit", "c0ffee")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        return bytes(255 - byte for byte in data[start:]) if hub.damaged else data[start:]


@pytest.fixture(scope="module")
def snapshot(tiny_dir, tmp_path_factory):
    """The files of a model whose weights are a ``.bin``, as BiomedCLIP's are."""
    weights = tmp_path_factory.mktemp("weights") / BIN
    torch.save(load_file(tiny_dir / "open_clip_model.safetensors"), weights)
    files = {file.name: file.read_bytes() for file in tiny_dir.iterdir() if file.suffix != ".safetensors"}
    return files | {BIN: weights.read_bytes(), "README.md": b"not wanted"}


@pytest.fixture
def hub(snapshot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Hub(dict(snapshot))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fetch(hub, capsys):
    def run(*arguments):
        code = main(["fetch", f"hf-hub:{REPO}", "--endpoint", hub.url, "--out", "model", *arguments])
        return code, *capsys.readouterr()

    return run


def test_what_was_fetched_is_what_the_printed_backbone_loads(hub, fetch, tiny):
    code, out, err = fetch()
    assert code == 0, err
    first, name = out.splitlines()
    assert f"{REPO}, commit c0ffee: 5 files" in first
    option, name = name.split()
    assert (option, name) == ("--backbone", "local-dir:model")
    assert not Path("model/README.md").exists()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd="model", check=True)  # noqa: S607
    fetched = load_backbone(name)
    texts = ["a photo of the round shape", "dark"]
    torch.testing.assert_close(fetched.encode_texts(texts), tiny.encode_texts(texts), rtol=0, atol=0)
    hub.asked.clear()
    assert fetch()[0] == 0
    assert {command for command, *_ in hub.asked} == {"HEAD"}, "what is there is not downloaded again"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, fetch, snapshot):
    hub.cut = len(snapshot[BIN]) // 3
    code, _, err = fetch()
    assert code == 0, err
    assert Path("model", BIN).read_bytes() == snapshot[BIN]
    parts = [asked for command, name, asked in hub.asked if command == "GET" and name == BIN and asked]
    assert f"bytes={hub.cut}-" in parts
    assert not list(Path("model").glob("*.partial"))


def test_an_interrupted_command_is_taken_up_by_the_next(hub, fetch, snapshot):
    hub.cut = 0
    code, _, err = fetch()
    assert code == 1
    assert "0.0 of 0.0 MB, then the server closed the connection; the same command goes on from there" in err
    digest = hashlib.sha256(snapshot[BIN]).hexdigest()
    Path("model", f"{BIN}.{digest[:12]}.partial").write_bytes(snapshot[BIN][:1000])
    hub.cut = None
    assert fetch()[0] == 0
    assert ("GET", BIN, "bytes=1000-") in hub.asked
    assert Path("model", BIN).read_bytes() == snapshot[BIN]


def test_a_server_that_gives_no_parts_gives_the_whole_again(hub, fetch, snapshot):
    digest = hashlib.sha256(snapshot[BIN]).hexdigest()
    Path("model").mkdir()
    Path("model", f"{BIN}.{digest[:12]}.partial").write_bytes(b"x" * 1000)
    hub.ranges = False
    assert fetch()[0] == 0
    assert Path("model", BIN).read_bytes() == snapshot[BIN]


def test_content_that_does_not_fit_its_digest_is_deleted(hub, fetch):
    hub.damaged = True
    code, _, err = fetch()
    assert code == 1
    assert "open_clip_config.json: its content does not fit its digest" in " ".join(err.split())
    assert not list(Path("model").iterdir())


def test_another_version_replaces_what_is_there(hub, fetch):
    assert fetch()[0] == 0
    hub.files["vocab.txt"] += b"new\n"
    assert fetch()[0] == 0
    assert Path("model/vocab.txt").read_bytes() == hub.files["vocab.txt"]


def test_what_is_no_model_and_what_cannot_be_reached_is_one_line(hub, fetch, capsys):
    del hub.files[BIN]
    code, _, err = fetch()
    assert code == 1
    assert "has no open_clip_model.safetensors or open_clip_pytorch_model.bin of someone/tiny" in " ".join(err.split())
    for arguments, says in (
        (["--endpoint", "http://127.0.0.1:1"], "cannot reach http://127.0.0.1:1/microsoft/BiomedCLIP"),
        (["--endpoint", "file:///etc"], "expected a URL that starts with https:// or http://"),
        (["phantom:seed0"], "'phantom:seed0': expected biomedclip or hf-hub:OWNER/REPO"),
    ):
        assert main(["fetch", *arguments]) == 1
        assert says in " ".join(capsys.readouterr().err.split())
