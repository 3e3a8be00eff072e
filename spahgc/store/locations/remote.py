"""A store in a bucket or on a web server, read and written through obstore."""

import re
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

from spahgc.errors import StoreError
from spahgc.store import layout
from spahgc.store.locations.credentials import REMEDY, bucket_settings, web_headers
from spahgc.store.locations.location import Found, Location, check_key

Result = TypeVar("Result")

PATIENCE: Final = 12.0
"""Seconds after its first try in which a request that failed is tried again."""

LARGEST_PUT: Final = 2**30
"""Bytes that are put in one request; S3 takes 5 GiB, slow networks not so many in one answer."""

PART: Final = 2**26
"""Bytes of a part of a larger file."""

_MOST_PARTS: Final = 10_000
"""That S3 puts together."""

_NO_CREDENTIALS: Final = re.compile(
    r"latest/(api/token|meta-data)|Missing (SecretAccessKey|AccessKeyId)|credential"
)
"""In obstore's errors where nothing can be signed."""

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
        self._ask(key, lambda: self._put(key, content))

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write one file whole unless there is another of that key; tell whether it is there.

        True also where the very same bytes were there: an answer that got lost makes a request
        meet its own work. A file larger than `LARGEST_PUT` goes in parts, which S3 puts together
        without a condition: it is looked for before, and who puts one at the same moment must put
        the same bytes. Those that large are named by their digest or lie below a claim, so they do.
        """
        self._check_writable(key)

        def ask() -> bool:
            if len(content) > LARGEST_PUT:
                if self.size(key) is not None:
                    return self._holds(key, content)
                self._put(key, content)
                return True
            try:
                obstore.put(self.objects, key, content, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return self._holds(key, content)
            return True

        return self._ask(key, ask)

    def _put(self, key: str, content: bytes) -> None:
        if len(content) <= LARGEST_PUT:
            obstore.put(self.objects, key, content, use_multipart=False)
        else:
            part = max(PART, -(-len(content) // _MOST_PARTS))
            obstore.put(self.objects, key, content, use_multipart=True, chunk_size=part)

    def _holds(self, key: str, content: bytes) -> bool:
        try:
            if len(content) <= LARGEST_PUT:
                return bytes(obstore.get(self.objects, key).bytes()) == content
            size = int(obstore.head(self.objects, key)["size"])
            return size == len(content) and all(
                bytes(
                    obstore.get_range(self.objects, key, start=start, end=min(start + PART, size))
                )
                == content[start : start + PART]
                for start in range(0, size, PART)
            )
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
        is_first = self.put_if_absent(probe, b"1")
        try:
            return is_first and not self.put_if_absent(probe, b"2")
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
            except (NotFoundError, FileNotFoundError) as error:
                self._refuse_no_bucket(error)
                raise FileNotFoundError(f"{self.where}/{key}") from None
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise StoreError(
                    f"{self.where}/{key}: access is denied ({_reason(error)}); {self._remedy}"
                ) from None
            except StoreError:
                raise
            except (BaseError, OSError) as error:
                self._refuse_no_bucket(error)
                if "AccessDenied" in str(error):  # of an answer about many files
                    raise StoreError(
                        f"{self.where}/{key}: access is denied; {self._remedy}"
                    ) from None
                if _NO_CREDENTIALS.search(_first_line(error)):
                    raise StoreError(
                        f"{self.where}: no credentials are found ({_reason(error)}); {self._remedy}"
                    ) from None
                if time.monotonic() > last_try:
                    raise StoreError(
                        f"{self.where}/{key} cannot be reached: {_first_line(error)}"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _refuse_no_bucket(self, error: Exception) -> None:
        if "<Code>NoSuchBucket</Code>" in str(error):
            raise StoreError(
                f"{self.where}: there is no bucket of that name; make it first, or name another"
            ) from None

    @property
    def _remedy(self) -> str:
        if self.where.startswith("s3://"):
            return REMEDY
        return "a user and password for the server are read from ~/.netrc"


def open_bucket(url: str) -> RemoteLocation:
    """Open ``s3://bucket/prefix``; see `spahgc.store.locations.credentials.bucket_settings`."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if not parts.netloc:
        raise StoreError(f"{url} names no bucket; write s3://bucket/name.zarr")
    settings = bucket_settings(url)
    is_plain = settings.get("endpoint", "").startswith("http://")
    try:
        objects = S3Store(
            parts.netloc,
            prefix=prefix or None,
            **settings,
            client_options=_client_options(is_plain=is_plain),
            retry_config=_RETRIES,
        )
    except BaseError as error:
        raise StoreError(f"{url} cannot be opened: {_reason(error)}; {REMEDY}") from None
    return RemoteLocation(url, objects, is_writable=True)


def open_web(url: str) -> RemoteLocation:
    """Open a folder of a web server."""
    options = _client_options(is_plain=url.startswith("http://"))
    if headers := web_headers(url):
        options["default_headers"] = headers
    objects = HTTPStore.from_url(
        url,
        client_options=options,
        retry_config=_RETRIES,
    )
    return RemoteLocation(url, objects, is_writable=False)


def _client_options(*, is_plain: bool) -> Any:  # noqa: ANN401  obstore names the type in a stub
    return {**_REQUEST, "allow_http": is_plain}


def _reason(error: Exception) -> str:
    """Give what a server says in a word, and nothing of what it was asked."""
    text = str(error).partition("\nDebug source:")[0]
    for pattern in (r"<Code>\s*(\w+)\s*</Code>", r"status code: (\d+ \w+)", r"(Missing \w+)"):
        if (found := re.search(pattern, text)) is not None:
            return found[1]
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
