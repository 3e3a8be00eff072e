"""A store in a bucket or on a web server, read and written through obstore."""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import HTTPStore, ObjectStore, S3Store

from spahgc.errors import DamagedStoreError, StoreError
from spahgc.store import layout
from spahgc.store.locations.location import Found, Location, check_key

Result = TypeVar("Result")

PATIENCE: Final = 12.0
"""Seconds after its first try in which a request that failed is tried again."""

PARALLEL: Final = 8
"""Requests under way at once where many files are asked for."""

_REQUEST: Final[Any] = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=10),
    "timeout": timedelta(minutes=10),  # of the whole answer: large files take their time
}
_RETRIES: Final[Any] = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=2)},
}


class RemoteLocation(Location):
    """Files behind a URL: of a bucket, which can be written, or of a web server."""

    def __init__(self, url: str, objects: ObjectStore, *, is_writable: bool) -> None:
        super().__init__(url, address=url)
        self.objects = objects
        self._is_writable = is_writable

    @property
    def is_writable(self) -> bool:
        """Whether files can be put here at all."""
        return self._is_writable

    @property
    def can_list(self) -> bool:
        """Whether it can say what it holds; web servers cannot."""
        return self._is_writable

    def exists(self) -> bool:
        """Whether there is anything here."""
        if not self.is_writable:
            return True  # a web server cannot be asked; the first read tells
        if self.size(layout.ROOT_DOCUMENT) is not None:
            return True  # a listing alone is not trusted: some servers answer with an empty page
        return bool(self._ask("", lambda: list(self._listed("", n=1))))

    def read(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read one file whole."""
        check_key(key, where=self.where)

        def ask() -> bytes:
            answer = obstore.get(self.objects, key)
            self._check_size(key, answer.meta["size"], at_most)
            content = bytes(answer.bytes())
            if len(content) != answer.meta["size"]:
                raise GenericError(f"{len(content)} of {answer.meta['size']} bytes came")
            return content

        return self._ask(key, ask)

    def read_part(self, key: str, *, start: int, stop: int) -> bytes:
        """Read bytes ``start`` to ``stop`` (not included) of one file."""
        check_key(key, where=self.where)

        def ask() -> bytes:
            content = bytes(obstore.get_range(self.objects, key, start=start, end=stop))
            if len(content) != stop - start:
                raise GenericError(f"{len(content)} of {stop - start} bytes came")
            return content

        return self._ask(key, ask)

    def size(self, key: str) -> int | None:
        """Give the size of one file in bytes, None if there is none of that key."""
        check_key(key, where=self.where)
        try:
            return int(self._ask(key, lambda: obstore.head(self.objects, key))["size"])
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str, keys: Iterable[str]) -> dict[str, int | None]:
        """Give the sizes of many files below ``prefix``, by key relative to it."""
        keys = list(keys)
        if self.is_writable:
            found = {file.key: file.size for file in self.list_files(prefix)}
            return {key: found.get(f"{prefix}/{key}") for key in keys}
        with ThreadPoolExecutor(PARALLEL) as pool:
            sizes = pool.map(lambda key: self.size(f"{prefix}/{key}"), keys)
            return dict(zip(keys, sizes, strict=True))

    def list_files(self, prefix: str) -> Iterator[Found]:
        """Give every file below the folder ``prefix``, in no order; none if it is not there."""
        if not self.is_writable:
            return super().list_files(prefix)
        return iter(self._ask(prefix, lambda: list(self._listed(f"{prefix}/"))))

    def put(self, key: str, content: bytes) -> None:
        """Write one file whole, in the place of what was there."""
        self._check_writable(key)
        self._ask(key, lambda: obstore.put(self.objects, key, content, use_multipart=False))

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write one file whole unless there is another of that key; tell whether it is there.

        True also where the very same bytes were there: an answer that got lost makes a request
        meet its own work.
        """
        self._check_writable(key)

        def ask() -> bool:
            try:
                obstore.put(self.objects, key, content, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return self._holds(key, content)
            return True

        return self._ask(key, ask)

    def _holds(self, key: str, content: bytes) -> bool:
        try:
            return bytes(obstore.get(self.objects, key).bytes()) == content
        except (NotFoundError, FileNotFoundError):
            # some services refuse a second writer before the first one's file can be seen
            raise GenericError(f"{key} is there and not there") from None

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; those that are not there any more are no error."""
        doomed = list(keys)
        for key in doomed:
            self._check_writable(key)
        if doomed:
            self._ask(doomed[0], lambda: obstore.delete(self.objects, doomed))

    def keeps_put_if_absent(self) -> bool:
        """Try out whether of two writers of one key only the first succeeds."""
        probe = f"staging/probe-{uuid.uuid4().hex}"
        try:
            return self.put_if_absent(probe, b"1") and not self.put_if_absent(probe, b"2")
        finally:
            self.delete([probe])

    def _check_writable(self, key: str) -> None:
        self.refuse_reading_only()
        check_key(key, where=self.where)

    def _listed(self, prefix: str, *, n: int | None = None) -> Iterator[Found]:
        for chunk in obstore.list(self.objects, prefix or None, chunk_size=n or 1000):
            for file in chunk:
                yield Found(file["path"], file["size"], file["last_modified"])
            if n is not None:
                return

    def _ask(self, key: str, request: Callable[[], Result]) -> Result:
        """Make one request, again where that may help, and say in our words why it failed."""
        last_try = time.monotonic() + PATIENCE
        pause = 0.2
        while True:
            try:
                return request()
            except (NotFoundError, FileNotFoundError):
                raise FileNotFoundError(f"{self.where}/{key}") from None
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StoreError(
                    f"{self.where}/{key}: access is denied ({_first_line(error)}); credentials "
                    "come from the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                ) from None
            except DamagedStoreError:
                raise
            except (BaseError, OSError) as error:
                if time.monotonic() > last_try:
                    raise StoreError(
                        f"{self.where}/{key} cannot be reached: {_first_line(error)}"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, 2.0)


def open_bucket(url: str) -> RemoteLocation:
    """Open ``s3://bucket/prefix``, with what ``AWS_…`` variables say of endpoint and rights."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc:
        raise StoreError(f"{url} names no bucket; write s3://bucket/name.zarr")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
    if "AWS_REGION" not in os.environ and "AWS_DEFAULT_REGION" not in os.environ:
        settings["region"] = "us-east-1"
    if not any(name in os.environ for name in _SIGNING):
        settings["skip_signature"] = True  # a public bucket
    is_plain = endpoint is not None and endpoint.startswith("http://")
    objects = S3Store(
        parts.netloc,
        prefix=prefix or None,
        **settings,
        client_options=_client_options(is_plain=is_plain),
        retry_config=_RETRIES,
    )
    return RemoteLocation(url, objects, is_writable=True)


_SIGNING = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def open_web(url: str) -> RemoteLocation:
    """Open a folder of a web server."""
    is_plain = url.startswith("http://")
    objects = HTTPStore.from_url(
        url,
        client_options=_client_options(is_plain=is_plain),
        retry_config=_RETRIES,
    )
    return RemoteLocation(url, objects, is_writable=False)


def _client_options(*, is_plain: bool) -> Any:  # noqa: ANN401  obstore names the type in a stub
    return {**_REQUEST, "allow_http": is_plain}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
