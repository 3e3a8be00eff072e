"""What is said where the hub gives nothing; the errors are huggingface_hub's own."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from spahgc.errors import EncoderError
from spahgc.ingest.networks.hub import WEIGHTS, fetch_file, find_cached, revision_of
from tests.ingest.fake_hub import REVISION

REPOSITORY = "lab/net"


def answer(status: int) -> errors.Response:
    """An HTTP response of the library that this huggingface_hub is built on."""
    http = sys.modules[errors.Response.__module__.split(".")[0]]
    url = f"https://huggingface.co/{REPOSITORY}/resolve/main/model.safetensors"
    return errors.Response(status, request=http.Request("GET", url))


def refuse(monkeypatch, *given):
    """Let each download meet the next of ``given``: an error, or a path."""
    waiting = iter(given)

    def download(repository, name, *, revision=None):
        what = next(waiting)
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


def the_error(names=WEIGHTS) -> str:
    with pytest.raises(EncoderError) as caught:
        fetch_file(REPOSITORY, names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_gate_says_where_to_ask_and_what_to_do_then(monkeypatch, hub):
    refuse(monkeypatch, errors.GatedRepoError("403\nLog in", response=answer(403)))
    said = the_error()
    for what in (f"https://huggingface.co/{REPOSITORY}", "hf auth login", "HF_TOKEN", "--weights"):
        assert what in said


def test_an_unknown_or_private_repository_is_named(monkeypatch, hub):
    refuse(monkeypatch, errors.RepositoryNotFoundError("401\nno", response=answer(401)))
    assert f"shows you no {REPOSITORY}" in the_error()


def test_any_other_refusal_is_repeated_in_one_line(monkeypatch, hub):
    refuse(monkeypatch, errors.HfHubHTTPError("503 Service Unavailable\nx", response=answer(503)))
    assert "503 Service Unavailable" in the_error()


def test_the_second_name_is_taken_where_the_first_is_missing(monkeypatch, hub, tmp_path):
    missing = errors.EntryNotFoundError("404")
    refuse(monkeypatch, missing, str(tmp_path / "pytorch_model.bin"))
    assert fetch_file(REPOSITORY, WEIGHTS) == tmp_path / "pytorch_model.bin"


def test_a_repository_without_weights_is_named(monkeypatch, hub):
    refuse(monkeypatch, *[errors.EntryNotFoundError("404")] * 2)
    assert "has no model.safetensors or pytorch_model.bin" in the_error()


def test_offline_with_an_empty_cache_says_which_folder_to_bring(hub):
    said = the_error()
    for what in (str(hub.cache), "HF_HUB_OFFLINE", f"hf download {REPOSITORY}", "models--lab--net"):
        assert what in said


def test_a_hub_that_cannot_be_reached_is_told_from_one_that_must_not_be(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refuse(monkeypatch, errors.LocalEntryNotFoundError("no connection"))  # asked for only once
    assert "the hub cannot be reached" in the_error()


def test_what_is_cached_is_taken_without_asking_the_hub(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refuse(monkeypatch)  # any download would fail
    (hub.folder(REPOSITORY) / WEIGHTS[1]).write_bytes(b"x")
    assert fetch_file(REPOSITORY, WEIGHTS).name == WEIGHTS[1]


def test_offline_the_cache_serves(hub):
    folder = hub.add(REPOSITORY, config={"architecture": "test_vit"})
    found = fetch_file(REPOSITORY, ("config.json",))
    assert found == find_cached(REPOSITORY, ("config.json",)) == folder / "config.json"
    assert revision_of(found) == REVISION
    assert find_cached(REPOSITORY, WEIGHTS) is None
    assert find_cached("lab/other", WEIGHTS) is None


def test_a_revision_can_be_asked_for(hub):
    folder = hub.add(REPOSITORY, config={})
    assert fetch_file(f"{REPOSITORY}@{REVISION}", ("config.json",)) == folder / "config.json"
    with pytest.raises(EncoderError, match="not in"):
        fetch_file(f"{REPOSITORY}@{'f' * 40}", ("config.json",))


@pytest.mark.parametrize("name", ["a b", "one/two/three", "../../etc"])
def test_what_cannot_be_a_repository_is_refused(hub, name):
    with pytest.raises(EncoderError, match="is no OWNER/NAME of the Hugging Face hub"):
        fetch_file(name, WEIGHTS)


@pytest.fixture
def gatekeeper(monkeypatch, hub):
    """A hub on this machine that lets nobody in; it keeps what each visitor showed."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            seen.append(self.headers.get("Authorization"))
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield seen
        server.shutdown()
        thread.join()


def test_the_users_token_is_shown_at_the_gate_and_a_refusal_understood(gatekeeper, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    assert f"{REPOSITORY} is gated" in the_error()
    assert set(gatekeeper) == {"Bearer hf_of_the_user"}
