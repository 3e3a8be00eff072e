"""Servers on loopback that tests and benchmarks read from and write to, started and stopped here.

`start_seaweed` is a real S3 with put-if-absent, `start_rclone_s3` one without it,
`start_rclone_http` a plain web server. Their programs come with the ``dev`` extra.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.waiting import wait_until

BUCKET = "lab"
ACCESS_KEY = "spahgc-test"
SECRET_KEY = "spahgc-test-secret"  # noqa: S105  of a server that only tests can reach
READER = ("spahgc-reader", "spahgc-reader-secret")
"""Key and secret of one who may only read."""
PATIENCE = 60.0
"""Seconds a server may take until it answers."""
_SILENT = "a test server did not answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """An S3 server that runs, with one empty bucket called `BUCKET`."""

    endpoint: str
    """As ``http://127.0.0.1:8333``."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """What a client must find in its environment."""

    reader: tuple[str, str] = ("", "")
    """Key and secret of one who may only read, where there is one."""

    def url(self, prefix: str) -> str:
        """Spell a place in the bucket as ``s3://lab/prefix``."""
        return f"s3://{BUCKET}/{prefix}"


class NotInstalledError(Exception):
    """A server's program is not in this environment."""


@contextmanager
def start_seaweed(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS below ``folder``: S3 with put-if-absent (``If-None-Match: *``)."""
    with reserve_ports(8) as (master, master2, volume, volume2, filer, filer2, s3, s3_2):
        command = [
            find_program("weed"),
            *("server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-master.port={master}", f"-master.port.grpc={master2}"),
            *(f"-volume.port={volume}", f"-volume.port.grpc={volume2}"),
            *(f"-filer.port={filer}", f"-filer.port.grpc={filer2}"),
            *(f"-s3.port={s3}", f"-s3.port.grpc={s3_2}", "-s3", "-s3.port.iceberg=0"),
            *("-s3.port.lance=0", f"-s3.config={_write_identities(folder)}"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=200", "-volume.minFreeSpace=100MiB"),
            *(f"-filer.localSocket={folder}/f.sock", f"-s3.localSocket={folder}/s.sock"),
        ]
    server = replace(_describe(s3), reader=READER)
    with _run(command, folder):
        _wait_for_bucket(server)
        yield server


@contextmanager
def start_rclone_s3(folder: Path) -> Iterator[S3Server]:
    """Run ``rclone serve s3`` below ``folder``: S3 that overwrites whatever the condition says."""
    with reserve_ports(1) as (port,):
        command = [
            *(find_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", os.devnull, str(folder)),
        ]
    (folder / BUCKET).mkdir()
    server = _describe(port)
    with _run(command, folder):
        _wait_for_bucket(server)
        yield server


@contextmanager
def start_rclone_http(folder: Path) -> Iterator[str]:
    """Run ``rclone serve http`` over ``folder`` and give its URL, without a slash at its end."""
    with reserve_ports(1) as (port,):
        command = [
            *(find_program("rclone"), "serve", "http", "--addr", f"127.0.0.1:{port}"),
            *("--read-only", "--dir-cache-time", "0s", "--config", os.devnull, str(folder)),
        ]
    with _run(command, folder.parent):
        wait_until(lambda: _is_listening(port), told=_SILENT, seconds=PATIENCE)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def reserve_ports(n_ports: int) -> Iterator[Sequence[int]]:
    """Find free ports, all of them different; they are free again when the context ends."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n_ports)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        yield [listener.getsockname()[1] for listener in sockets]


def find_program(name: str) -> str:
    """Find a program beside this Python or on the path.

    Raises
    ------
    NotInstalledError
        If there is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise NotInstalledError(f"{name} is not installed: `pip install 'spahgc[dev]'`")
    return found


def _describe(port: int) -> S3Server:
    endpoint = f"http://127.0.0.1:{port}"
    return S3Server(
        endpoint=endpoint,
        environment={
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        },
    )


def _write_identities(folder: Path) -> Path:
    path = folder / "identities.json"
    keys = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    identity = {"name": "lab", "credentials": [keys], "actions": ["Admin"]}
    read = {"accessKey": READER[0], "secretKey": READER[1]}
    reader = {"name": "reader", "credentials": [read], "actions": ["Read", "List"]}
    path.write_text(json.dumps({"identities": [identity, reader]}))
    return path


@contextmanager
def _run(command: Sequence[str], folder: Path) -> Iterator[None]:
    """Run a server until the context ends, and never longer."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, stdin=subprocess.DEVNULL
        )
    try:
        yield
    finally:
        process.kill()  # asked politely, SeaweedFS takes a minute
        process.wait()


def _wait_for_bucket(server: S3Server) -> None:
    store = S3Store(
        BUCKET,
        endpoint=server.endpoint,
        region=server.environment["AWS_REGION"],
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )

    def is_ready() -> bool:
        try:
            obstore.put(store, "ready", b"")  # SeaweedFS makes the bucket
        except BaseError:
            return False
        obstore.delete(store, "ready")
        return True

    wait_until(is_ready, told=_SILENT, seconds=PATIENCE)


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
