"""Who may read and write a store elsewhere: where credentials come from, and what is said without.

Every error is one line that names the remedy and repeats no secret.
"""

import http.server
import json
import os
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from spahgc.cli import cli
from spahgc.clusters import Cluster, connected
from spahgc.errors import StoreError, WorkerError
from spahgc.store.cohort import open_cohort
from spahgc.store.copying import copy_store, open_source
from spahgc.store.locations import credentials, remote
from spahgc.store.opening import create_store, open_store
from spahgc.store.staging import add_slide
from tests.conftest import build_slide
from tests.servers import ACCESS_KEY, SECRET_KEY, find_program, reserve_ports

PASSWORD = "hunter2"  # noqa: S105  of nobody
REMEDY = "AWS_ACCESS_KEY_ID.*AWS_PROFILE.*AWS_SKIP_SIGNATURE=true"


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """Forget whatever credentials this machine has, and find none on it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/.aws").mkdir(parents=True)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote, "PATIENCE", 1.0)


@pytest.fixture
def place(seaweed, request, monkeypatch):
    """A store in a bucket, and how to reach its server without any credentials."""
    with monkeypatch.context() as owner:
        for name, value in seaweed.environment.items():
            owner.setenv(name, value)
        place = seaweed.url(f"{request.node.name.partition('[')[0]}.zarr")
        add_slide(create_store(place), build_slide("A1"))
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.setenv(name, seaweed.environment[name])
    return place


def without_boto3(monkeypatch):
    monkeypatch.setattr(credentials, "find_spec", lambda _: None)


def profile(tmp_path, name="lab", **settings):
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, **settings}
    lines = [f"[{name}]", *(f"{key} = {value}" for key, value in keys.items() if value)]
    (tmp_path / "home/.aws/credentials").write_text("\n".join(lines))


def spahgc(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), prog_name="spahgc")


def the_error(*arguments):
    result = spahgc(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert SECRET_KEY not in line
    assert PASSWORD not in line
    return line


def test_keys_of_the_environment_sign(place, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    without_boto3(monkeypatch)
    assert list(open_cohort(place).slides) == ["A1"]


def test_a_profile_signs(place, monkeypatch, tmp_path):
    profile(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert list(open_cohort(place).slides) == ["A1"]
    add_slide(open_store(place), build_slide("B1"))
    assert set(open_cohort(place).slides) == {"A1", "B1"}


def test_the_default_profile_signs_and_names_the_server(place, monkeypatch, tmp_path):
    profile(tmp_path, "default")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    config = f"[default]\nregion = us-east-1\nendpoint_url = {endpoint}\n"
    (tmp_path / "home/.aws/config").write_text(config)
    assert list(open_cohort(place).slides) == ["A1"]


def test_keys_of_the_environment_go_before_a_profile(place, monkeypatch, tmp_path):
    profile(tmp_path, aws_secret_access_key=PASSWORD)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    assert list(open_cohort(place).slides) == ["A1"]


@pytest.mark.parametrize("has_boto3", [True, False])
def test_the_role_of_the_machine_signs(place, monkeypatch, has_boto3):
    if not has_boto3:
        without_boto3(monkeypatch)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with serve_role() as address:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        assert list(open_cohort(place).slides) == ["A1"]


@contextmanager
def serve_role():
    """Answer as a machine of Amazon's does that has a role."""
    expires = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": ""}
    keys |= {"Code": "Success", "Expiration": expires, "LastUpdated": expires}

    class Role(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            self.answer("token")

        def do_GET(self):
            is_role = self.path.rstrip("/").endswith("security-credentials")
            self.answer("lab" if is_role else json.dumps(keys))

        def answer(self, text):
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Role)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("has_boto3", [True, False])
def test_without_credentials_nothing_is_read_unsigned_unless_that_is_asked_for(
    place, monkeypatch, has_boto3
):
    if not has_boto3:
        without_boto3(monkeypatch)
    with pytest.raises(StoreError, match=rf"^s3://lab/.* no credentials are found; .*{REMEDY}$"):
        open_cohort(place)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(StoreError, match=rf"access is denied \(AccessDenied\).*{REMEDY}"):
        open_cohort(place)


def test_a_role_that_does_not_answer_is_no_credentials(place, monkeypatch):
    without_boto3(monkeypatch)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(remote._RETRIES, "max_retries", 0)
    with pytest.raises(StoreError, match=rf"no credentials are found .*{REMEDY}$"):
        open_cohort(place)


def test_a_profile_that_nobody_can_read_here_names_what_to_install(place, monkeypatch, tmp_path):
    without_boto3(monkeypatch)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "pip install 'spahgc[s3]'" in the_error("store", "ls", place)
    monkeypatch.delenv("AWS_PROFILE")
    profile(tmp_path)
    assert "pip install 'spahgc[s3]'" in the_error("store", "ls", place)


def test_a_profile_that_is_not_there_is_named(place, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "profile (nobody) could not be found" in the_error("store", "ls", place)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ((ACCESS_KEY, PASSWORD), "access is denied ("),
        (("nobody", SECRET_KEY), "access is denied ("),
        ((ACCESS_KEY, None), "cannot be opened: Missing SecretAccessKey; give AWS_"),
    ],
)
def test_wrong_keys_are_one_line(place, monkeypatch, keys, reason):
    for name, key in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys, strict=True):
        if key is not None:
            monkeypatch.setenv(name, key)
    assert reason in the_error("store", "ls", place)
    assert reason in the_error("store", "init", f"{place}-new")


def test_a_bucket_that_is_not_there_is_one_line(rclone, monkeypatch, tmp_path):
    for name, value in rclone.environment.items():
        monkeypatch.setenv(name, value)
    add_slide(create_store(tmp_path / "data.zarr"), build_slide("A1"))
    for command in (
        ("ls", "s3://nowhere/data.zarr"),
        ("init", "s3://nowhere/data.zarr"),
        ("copy", "s3://nowhere/data.zarr", tmp_path / "copy.zarr"),
        ("copy", tmp_path / "data.zarr", "s3://nowhere/data.zarr"),
    ):
        assert "there is no bucket of that name" in the_error("store", *command)
    assert not (tmp_path / "copy.zarr").exists()


def test_a_bucket_that_may_only_be_read_is_one_line(place, seaweed, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.reader[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.reader[1])
    assert list(open_cohort(place).slides) == ["A1"]
    before = open_store(place).head
    add_slide(create_store(tmp_path / "b.zarr"), build_slide("B1"))
    line = the_error("store", "copy", tmp_path / "b.zarr", place)
    assert "access is denied (AccessDenied)" in line
    assert "access is denied" in the_error("store", "set", "A1", "tissue=breast", "--store", place)
    assert open_store(place).head == before
    copy_store(open_source(place), tmp_path / "b.zarr")
    assert set(open_cohort(tmp_path / "b.zarr").slides) == {"A1", "B1"}


def test_no_credentials_are_kept_in_a_store(place, monkeypatch, tmp_path):
    profile(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    copy_store(open_source(place), tmp_path / "copy.zarr", keep_paths=True)
    location = open_store(place).location
    written = [location.read(found.key) for found in location.list_files("commits")]
    written += [path.read_bytes() for path in tmp_path.glob("copy.zarr/**/*") if path.is_file()]
    assert len(written) > 10
    assert not any(key.encode() in raw for raw in written for key in (ACCESS_KEY, SECRET_KEY))


@pytest.mark.parametrize(
    "url",
    [
        f"https://jane:{PASSWORD}@lab.example/data.zarr",
        f"http://jane:{PASSWORD}@127.0.0.1:9/data.zip",
        f"https://{PASSWORD}@lab.example/data.zarr",
        f"https://jane:{PASSWORD}/x@lab.example/data.zarr",
        f"https://jane:12#{PASSWORD}?@lab.example/data.zarr",
        f"s3://AKIA:{PASSWORD}/x@lab/data.zarr",
        f"ftp://jane:{PASSWORD}@lab.example/data.zarr",
        f"HTTPS://jane:{PASSWORD}@[lab/data.zarr",
    ],
)
def test_a_password_in_a_url_is_refused_and_never_repeated(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_slide(create_store("data.zarr"), build_slide("A1"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command in (
        ("store", "ls", url),
        ("store", "ls", "--store", url),
        ("store", "ls", f"--store={url}"),
        ("store", "copy", url, "copy.zarr"),
        ("store", "copy", "data.zarr", url),
        ("store", "pack", "data.zarr", url),
        ("store", "merge", "data.zarr", "--into", url),
        ("train", "--store", url, "--test", "A1"),
        ("embed", "--scheduler", url),
    ):
        assert "user or password in it is refused" in the_error(*command)
    monkeypatch.setenv("SPAHGC_STORE", url)
    assert "user or password in it is refused" in the_error("store", "info")
    with pytest.raises(StoreError, match="is refused") as told:
        open_cohort(url)
    assert PASSWORD not in str(told.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_password_in_the_address_of_a_service_is_refused_and_never_repeated(monkeypatch):
    secret = f"http://jane:{PASSWORD}@127.0.0.1:9"
    with (
        pytest.raises(WorkerError, match="is refused") as told,
        connected(Cluster(scheduler=secret.replace("http", "tls")), deaths=1),
    ):
        pass
    assert PASSWORD not in str(told.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", secret)
    assert "AWS_ENDPOINT_URL: a http:// URL" in the_error("store", "ls", "s3://lab/data.zarr")


def test_an_address_with_an_at_that_is_no_password_is_none():
    assert credentials.scheme_with_password("s3://lab/jane@lab.example/data.zarr") is None
    assert credentials.scheme_with_password("see https://lab.example or jane@lab.example") is None
    assert credentials.scheme_with_password("https://lab.example/a%40b/data.zarr") is None


@pytest.fixture
def guarded(tmp_path):
    """A web server that asks for a password, with a store."""
    import subprocess

    from tests.waiting import wait_until

    add_slide(create_store(tmp_path / "www/data.zarr"), build_slide("A1"))
    with reserve_ports(1) as (port,):
        command = [find_program("rclone"), "serve", "http", "--addr", f"127.0.0.1:{port}"]
    command += ["--user", "jane", "--pass", PASSWORD, "--read-only", "--config", os.devnull]
    server = subprocess.Popen([*command, tmp_path / "www"], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_listening(port), told="no answer", seconds=60)
        yield f"http://127.0.0.1:{port}/data.zarr"
    finally:
        server.kill()
        server.wait()


def is_listening(port):
    import socket

    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_password_for_a_web_server_is_read_from_netrc(guarded, tmp_path):
    assert "read from ~/.netrc" in the_error("store", "ls", guarded)
    netrc = tmp_path / "home/.netrc"
    netrc.write_text(f"machine other.example login jane password {PASSWORD}\n")
    assert "access is denied (401 Unauthorized)" in the_error("store", "ls", guarded)
    netrc.write_text(f"machine 127.0.0.1 login jane password {PASSWORD}\n")
    assert list(open_cohort(guarded).slides) == ["A1"]
    netrc.write_text(f"machine 127.0.0.1 login jane passwd {PASSWORD}\n")
    assert ".netrc cannot be read: line 1" in the_error("store", "ls", guarded)
