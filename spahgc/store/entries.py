"""What a commit knows of a slide, and the pages that keep a thousand of them quick to open."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Self

from spahgc.errors import DamagedStoreError
from spahgc.store import layout

PAGES: Final = 64
"""Most pages that the slides of a commit are spread over."""

_READERS = 16
"""Pages read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideEntry:
    """One slide as a commit knows it: where it lies, and enough to list it."""

    group: str
    """Key of its Zarr group, as ``tables/C2``."""

    manifest: str
    """sha256 of its manifest."""

    content: str
    """Digest of what was ingested; the same input gives the same digest."""

    platform: str
    """Which reader made it."""

    patient: str | None
    """None means unknown."""

    n_spots: int
    """Rows of every table of this slide."""

    n_genes: int
    """0 for an image without expression."""

    microns_per_pixel: float | None
    """Of full-resolution pixels, in µm."""

    image: str | None
    """Where the full-resolution image was at ingest."""

    counts_digest: str | None = None
    """Digest of the raw counts alone; None for an image without expression."""

    image_digest: str | None = None
    """sha256 of the image file."""

    n_bytes: int = 0
    """Of all its files."""

    encoders: Mapping[str, str] = field(default_factory=dict)
    """Digest of each embedding's encoder fingerprint, by the embedding's name."""

    licences: Mapping[str, str] = field(default_factory=dict)
    """What binds the use of an embedding, by its name; only those that carry a note."""

    about: Mapping[str, str] = field(default_factory=dict)
    """What people said of it after it was ingested: tissue, licence, …"""

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, name: str) -> Self:
        """Take one entry apart, trusting nothing.

        Raises
        ------
        DamagedStoreError
            If it names a place that is not a slide's, or lacks something.
        """
        try:
            entry = cls(**document)
            layout.check_slide_name(name)
            entry._check()
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise DamagedStoreError(
                f"the entry of slide {name[:80]!r} is refused: {error}"
            ) from None
        return entry

    def _check(self) -> None:
        layout.check_group(self.group)
        for digest in (self.manifest, self.content, *self.encoders.values()):
            if not layout.DIGEST.fullmatch(digest):
                raise ValueError(f"{digest[:80]!r} is no sha256")
        for embedding in (*self.encoders, *self.licences):
            layout.check_embedding_name(embedding)
        for count in (self.n_spots, self.n_genes, self.n_bytes):
            if not isinstance(count, int) or not 0 <= count < 2**63:
                raise ValueError(f"{count!r} is no count")
        self._check_words()

    def _check_words(self) -> None:
        optional = (self.patient, self.image, self.counts_digest, self.image_digest)
        facts = (*self.licences.values(), *self.about, *self.about.values())
        for word in (self.platform, *facts, *(word for word in optional if word is not None)):
            if not isinstance(word, str):
                raise TypeError(f"{str(word)[:80]} is no word")
        scale = self.microns_per_pixel
        if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale)):
            raise ValueError(f"{str(scale)[:80]!r} is no scale")


class Catalogue(Mapping[str, SlideEntry]):
    """The slides of one commit by name, read page by page when they are first asked for.

    A slide's page follows from its name alone, so finding one slide reads one page, however
    many slides there are.
    """

    def __init__(
        self, pages: Mapping[str, "PageRecord"], read: Callable[[str], Mapping[str, Any]]
    ) -> None:
        """Look at ``pages``, by page name; ``read`` gives the document of a digest."""
        self._pages = dict(pages)
        self._read = read
        self._loaded: dict[str, dict[str, SlideEntry]] = {}

    @property
    def pages(self) -> dict[str, "PageRecord"]:
        """The records of its pages, by page name."""
        return dict(self._pages)

    def __getitem__(self, name: str) -> SlideEntry:
        return self.on_page(page_of(name))[name]

    def __iter__(self) -> Iterator[str]:
        self._load_all()
        return iter(sorted(name for page in self._pages for name in self.on_page(page)))

    def __len__(self) -> int:
        return sum(record.n_slides for record in self._pages.values())

    def on_page(self, page: str) -> Mapping[str, SlideEntry]:
        """Give the slides of one page by name; none if there is no page of that name."""
        if page not in self._pages:
            return {}
        if page not in self._loaded:
            self._loaded[page] = self._parse(page, self._read(self._pages[page].sha256))
        return self._loaded[page]

    def spelled_like(self, name: str) -> str | None:
        """Give the slide of this name, ignoring case, or None."""
        alike = (known for known in self.on_page(page_of(name)) if known.lower() == name.lower())
        return next(alike, None)

    def with_entry(self, name: str, entry: SlideEntry) -> "Catalogue":
        """Add one slide, or put it in the place of the one of that name."""
        page = page_of(name)
        return self._with_page(page, {**self.on_page(page), name: entry})

    def without(self, name: str) -> "Catalogue":
        """Leave one slide out."""
        page = page_of(name)
        return self._with_page(page, {n: e for n, e in self.on_page(page).items() if n != name})

    def write(self, put: Callable[[Mapping[str, Any]], str]) -> dict[str, "PageRecord"]:
        """Put the pages that changed, with ``put``, and give the records of all."""
        for page, record in self._pages.items():
            if not record.sha256:
                entries = {name: asdict(entry) for name, entry in self._loaded[page].items()}
                digest = put({"slides": entries})
                self._pages[page] = replace(record, sha256=digest)
        return dict(self._pages)

    def digest(self) -> str:
        """Digest every slide but for the place where it lies, so that a copy has the same."""
        entries = {name: {**asdict(self[name]), "group": None} for name in self}
        return sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

    def _with_page(self, page: str, entries: Mapping[str, SlideEntry]) -> "Catalogue":
        pages = {**self._pages, page: PageRecord(sha256="", n_slides=len(entries))}
        if not entries:
            del pages[page]
        changed = Catalogue(pages, self._read)
        changed._loaded = {**self._loaded, page: dict(entries)}
        return changed

    def _parse(self, page: str, document: Mapping[str, Any]) -> dict[str, SlideEntry]:
        try:
            slides = dict(document["slides"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedStoreError(f"page {page} of a commit cannot be read: {error}") from None
        if any(page_of(name) != page for name in slides):
            raise DamagedStoreError(f"page {page} of a commit holds slides of another page")
        return {name: SlideEntry.parse(entry, name=name) for name, entry in slides.items()}

    def _load_all(self) -> None:
        missing = [page for page in self._pages if page not in self._loaded]
        if missing:
            with ThreadPoolExecutor(_READERS) as pool:
                list(pool.map(self.on_page, missing))


@dataclass(frozen=True, slots=True)
class PageRecord:
    """One page of a catalogue as its commit knows it."""

    sha256: str
    """Of its document; empty while it is not written yet."""

    n_slides: int
    """On it."""


def page_of(name: str) -> str:
    """Name the page of a slide; names that differ only in case share one."""
    return f"{sha256(name.lower().encode()).digest()[0] % PAGES:02x}"


def catalogue_of(slides: Mapping[str, SlideEntry]) -> Catalogue:
    """Make a catalogue of slides that no commit has named yet."""
    catalogue = Catalogue({}, _nothing)
    for name, entry in slides.items():
        catalogue = catalogue.with_entry(name, entry)
    return catalogue


def _nothing(digest: str) -> Mapping[str, Any]:
    raise DamagedStoreError(f"page {digest} was never written")
