"""A hub of one's own: a server that answers as huggingface.co does, and the cache of huggingface_hub in a folder."""

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from vision_jax.errors import ConfigError
from vision_jax.weights import hub as hub_module
from vision_jax.weights.hub import fetch
from vision_jax.weights.readers import WEIGHT_FILES, open_tensors
from vision_jax.weights.safetensors import write_safetensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ["config.json", WEIGHT_FILES]


class Handler(http.server.BaseHTTPRequestHandler):
    """/OWNER/NAME/resolve/REVISION/FILE, with the headers and errors that huggingface_hub goes by."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        super().__init__(*arguments)

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        owner, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        path = self.folder / owner / name / file
        error = (
            "RepoNotFound" if not path.parent.is_dir()
            else "RevisionNotFound" if revision not in ("main", "v1", COMMIT)
            else "EntryNotFound" if not path.is_file() else ""
        )  # fmt: skip
        if name == "gated":
            error = "GatedRepo"
        data = b"" if error else path.read_bytes()
        self.send_response(403 if error == "GatedRepo" else 404 if error else 200)
        if error:
            self.send_header("X-Error-Code", error)
        if error not in ("RepoNotFound", "RevisionNotFound"):
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """(folder of the models, its address)"""
    pytest.importorskip("huggingface_hub")
    model = tmp_path / "hub" / "org" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    write_safetensors(model / "model-1.safetensors", {"a": np.arange(3)})
    write_safetensors(model / "model-2.safetensors", {"b": np.ones(2)})
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, tmp_path / "hub"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path / "hub", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetched(hub, tmp_path):
    """fetch in a process of its own, as the environment is read when huggingface_hub is imported: a folder or a message."""

    def run(source, filenames=FILES, revision=None, **environment):
        code = (
            "import json, sys\n"
            "from vision_jax.errors import ConfigError\n"
            "from vision_jax.weights.hub import fetch\n"
            "try: print(fetch(*json.loads(sys.argv[1])))\n"
            "except ConfigError as error: print('ConfigError', error)\n"
        )
        arguments = json.dumps([source, filenames, ["preprocessor_config.json"], revision])
        settings = dict(
            HF_ENDPOINT=hub[1],
            HF_HOME=str(tmp_path / "cache"),
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_HUB_DISABLE_XET="1",
        )
        done = subprocess.run(
            [sys.executable, "-c", code, arguments], env={**os.environ, **settings, **environment}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        return line

    return run


def test_fetched_once_and_found_in_the_cache(hub, fetched):
    folder = fetched("org/model")
    assert folder.endswith(f"snapshots/{COMMIT}")
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
    ]
    assert {name: found.read().tolist() for name, found in open_tensors(folder).items()} == {
        "a": [0, 1, 2],
        "b": [1, 1],
    }
    (hub[0] / "org/model/config.json").unlink()
    assert fetched("hf-hub:org/model", HF_HUB_OFFLINE="1") == folder
    assert fetched("org/model", ["config.json"], "v1").startswith(
        "ConfigError cannot get config.json of 'org/model' from the hub: the model has no"
    )
    missing = fetched("org/other", HF_HUB_OFFLINE="1")
    assert (
        missing.startswith("ConfigError cannot get config.json of 'org/other'") and "HF_HUB_OFFLINE is set" in missing
    )


def test_what_the_hub_does_not_have(hub, fetched):
    assert "no such model, or it is private" in fetched("org/absent")
    assert "has no revision 'v9'" in fetched("org/model", revision="v9")
    assert "cannot get x.bin or y.bin of 'org/model' from the hub: the model has no such file" in fetched(
        "org/model", [["x.bin", "y.bin"]]
    )
    assert "cannot get preprocessor_config.json of 'org/model'" in fetched("org/model", [])
    (hub[0] / "org/gated").mkdir()
    assert "must grant access" in fetched("org/gated")
    (hub[0] / "org/model/model-2.safetensors").unlink()
    assert "cannot get model-2.safetensors of 'org/model'" in fetched("org/model")


def test_local_files_and_folders_pass_through(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"")
    for source in (tmp_path, str(tmp_path), tmp_path / "x.pt"):
        assert str(fetch(source, FILES)) == str(source)


@pytest.mark.parametrize("source", ["/no/such/folder", "./absent.pt", "~/absent", "a/b/c", "mae.pth", ""])
def test_paths_that_are_no_ids(source):
    with pytest.raises(ConfigError, match="no such file or folder, and no id of a model"):
        fetch(source, FILES)


def test_ids_of_no_sense():
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ConfigError, match=r"cannot get config\.json of 'a b\.\.c/d' from the hub"):
        fetch("a b..c/d", FILES)


@pytest.mark.parametrize("answers", [True, False])
def test_no_connection(monkeypatch, answers):
    """The hub is tried once, not once a file, as each try has its own repetitions; not at all where nothing answers."""
    huggingface_hub, calls = pytest.importorskip("huggingface_hub"), []
    monkeypatch.setattr(hub_module, "_is_reachable", lambda endpoint: answers)

    def download(model, file, *, revision, local_files_only):
        calls.append(local_files_only)
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nlong advice")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(
        ConfigError, match=r"cannot get a or b of 'org/model' from the hub: the hub cannot be reached"
    ) as caught:
        fetch("org/model", [["a", "b"]])
    assert calls == [not answers, True] and str(caught.value).isprintable()


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="not installed: pip install huggingface_hub"):
        fetch("org/model", FILES)
