from hashlib import sha256

import pytest

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store import layout
from spahgc.store.opening import create_store

CONTENT = b'{"a": 1}'
DIGEST = sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path):
    return create_store(tmp_path / "data.zarr")


def test_bytes_are_found_again_by_their_digest(store):
    assert store.put_blob(layout.page_key, CONTENT) == DIGEST
    assert store.put_blob(layout.page_key, CONTENT) == DIGEST
    assert store.read_blob(layout.page_key, DIGEST) == CONTENT
    assert store.read_document(layout.page_key, DIGEST) == {"a": 1}
    assert store.path_of(layout.page_key(DIGEST)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("left", "message"),
    [
        pytest.param(None, "is missing", id="nothing"),
        pytest.param(CONTENT[:-1], "is damaged: its digest is another one", id="cut"),
    ],
)
def test_what_is_not_what_its_name_says_is_damage(store, left, message):
    place = store.path_of(layout.page_key(store.put_blob(layout.page_key, CONTENT)))
    place.unlink()
    if left is not None:
        place.write_bytes(left)
    with pytest.raises(DamagedStoreError, match=f"pages/{DIGEST}.json {message}"):
        store.read_blob(layout.page_key, DIGEST)


@pytest.mark.parametrize("digest", ["", "../../secret", DIGEST.upper(), DIGEST + "\n"])
def test_only_a_digest_leads_to_a_file(store, digest):
    with pytest.raises(DamagedStoreError, match="is no sha256"):
        store.read_blob(layout.page_key, digest)


@pytest.mark.parametrize("content", [b"[1]", b"{", b"[" * 100_000], ids=["list", "cut", "deep"])
def test_a_document_that_is_no_object_is_damage(store, content):
    digest = store.put_blob(layout.page_key, content)
    with pytest.raises(DamagedStoreError, match="is no JSON object"):
        store.read_document(layout.page_key, digest)


def test_a_store_elsewhere_has_no_folder(store, tmp_path, s3_place):
    assert store.path == tmp_path / "data.zarr"
    with pytest.raises(StoreError, match="is no folder of this machine"):
        _ = create_store(s3_place).path
