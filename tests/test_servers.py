"""The servers other tests lean on do what those tests assume of them."""

import urllib.error
import urllib.request
from http.client import IncompleteRead
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from tests.faulty import serve_folder, stand_before
from tests.servers import start_rclone_http


def open_place(place):
    parts = urlsplit(place)
    return S3Store(parts.netloc, prefix=parts.path.strip("/"), client_options={"allow_http": True})


def test_seaweed_refuses_what_is_already_there(s3_place):
    store = open_place(s3_place)
    obstore.put(store, "key", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"second", mode="create")
    assert bytes(obstore.get(store, "key").bytes()) == b"first"


def test_rclone_overwrites_what_is_already_there(careless_s3_place):
    store = open_place(careless_s3_place)
    obstore.put(store, "key", b"first", mode="create")
    obstore.put(store, "key", b"second", mode="create")
    assert bytes(obstore.get(store, "key").bytes()) == b"second"


def read(url, *, patience=5, **headers):
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  our own server
    with urllib.request.urlopen(request, timeout=patience) as answer:  # noqa: S310
        return answer.read()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    return tmp_path


def test_a_plain_web_server_gives_whole_files_and_parts(folder):
    with start_rclone_http(folder) as url, stand_before(url) as front, serve_folder(folder) as own:
        for server in (url, front.url, own.url):
            assert read(f"{server}/file") == b"0123456789"
            assert read(f"{server}/file", Range="bytes=2-4") == b"234"
            assert read(f"{server}/file", Range="bytes=-3") == b"789"
        assert [request.range for request in front.requests] == [None, "bytes=2-4", "bytes=-3"]


@pytest.mark.parametrize("failure", ["short", "drop"])
def test_a_faulty_server_breaks_off_and_heals(folder, failure):
    with serve_folder(folder) as server:
        server.fail(failure, times=1, where="file$")
        with pytest.raises((IncompleteRead, ConnectionResetError)):
            read(f"{server.url}/file")
        assert read(f"{server.url}/file") == b"0123456789"


def test_a_faulty_server_answers_as_it_is_told(folder):
    with serve_folder(folder) as server:
        server.fail("cut", times=1)
        server.fail(429, times=1)
        server.fail("html", times=1)
        server.fail("stall", times=1)
        assert read(f"{server.url}/file") == b"01234"
        with pytest.raises(urllib.error.HTTPError, match="429"):
            read(f"{server.url}/file")
        assert b"<html>" in read(f"{server.url}/file")
        with pytest.raises(TimeoutError):
            read(f"{server.url}/file", patience=0.2)
        server.fail("html")
        server.heal()
        assert read(f"{server.url}/file") == b"0123456789"
