"""One slide in a store: typed access, nothing read before it is asked for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata._io.specs.registry import IORegistryError
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spahgc.errors import DamagedStoreError, MismatchError, MissingError
from spahgc.lattices import fit_lattice, recognise_lattice
from spahgc.schema import Lattice, Thumbnail
from spahgc.store import layout
from spahgc.store.commits import Store
from spahgc.store.committed import open_array, open_group, read_array
from spahgc.store.embedding_names import options_of
from spahgc.store.entries import SlideEntry
from spahgc.store.manifest import FileRecord, Manifest
from spahgc.store.scrutiny import check_manifest

_UNREADABLE = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError),
    *(ValueError, IORegistryError),
)
"""What AnnData and Zarr raise where attributes or bytes are not what they should be."""

_names_digests: dict[tuple[str, str], str] = {}
"""Of spot names, by address of the store and digest of the slide's manifest."""


class StoredSlide:
    """Typed view of one committed slide.

    Letters: S spots, G genes, D embedding size. A view keeps reading the version it was
    opened on, whatever is committed later.
    """

    def __init__(self, store: Store, name: str, entry: SlideEntry) -> None:
        """Look at ``entry``, one of the slides of a commit of ``store``."""
        self.name = name
        self.entry = entry
        self.store = store

    @cached_property
    def manifest(self) -> Manifest:
        """Every file this version consists of.

        Raises
        ------
        DamagedStoreError
            If it is damaged, or declares what cannot be.
        """
        document = self.store.read_document(layout.manifest_key, self.entry.manifest)
        try:
            manifest = Manifest.parse(document)
            check_manifest(manifest, self.entry)
        except DamagedStoreError as error:
            raise DamagedStoreError(f"{self.store.where}: slide {self.name}: {error}") from None
        return manifest

    def spell_manifest(self) -> bytes:
        """Give the bytes of the document that `manifest` was read from."""
        return self.store.read_blob(layout.manifest_key, self.entry.manifest)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What is known of the slide beside its arrays: image, scale, findings, who made it."""
        record = {**self.stored_record, "patient": self.entry.patient, **self.entry.about}
        if isinstance(image := record.get("image"), dict) and "path" in image:
            record["image"] = {**image, "path": self.entry.image}
        return record

    @cached_property
    def stored_record(self) -> dict[str, Any]:
        """What was known of the slide when it was ingested."""
        text = str(self._read_array(layout.RECORD))
        with self._damage_of(layout.RECORD):
            return dict(json.loads(text))

    @property
    def image_path(self) -> Path | None:
        """Where its image lies; None where it has none, or only the image's name is known."""
        path = None if self.entry.image is None else Path(self.entry.image)
        return path if path is not None and path.is_absolute() else None

    @property
    def patient(self) -> str | None:
        """None means unknown."""
        return self.entry.patient

    @property
    def n_spots(self) -> int:
        """S."""
        return self.entry.n_spots

    @property
    def has_expression(self) -> bool:
        """Whether anything was measured on it."""
        return self.entry.n_genes > 0

    @cached_property
    def spots(self) -> pd.DataFrame:
        """S rows indexed by barcode or spot id; see `spahgc.schema.Slide.spots`."""
        return self._read(layout.OBS)

    @cached_property
    def spot_names(self) -> pd.Index:
        """S barcodes or spot ids: the index of `spots`, read without the rest."""
        return self._read_names(layout.OBS)

    @cached_property
    def array(self) -> NDArray[np.int64] | None:
        """(S, 2) ``array_col``, ``array_row`` of each spot; None where there are none."""
        return array_of(self.spots)

    @cached_property
    def lattice(self) -> Lattice | None:
        """How the spots are laid: as recorded, or recognised where the store is older than that."""
        recorded = self.record.get("lattice")
        if recorded in get_args(Lattice):
            return recorded
        if self.array is None:
            return None
        array_S2 = self.array.astype(np.float64)
        fit = fit_lattice(array_S2, self.centers)
        return None if fit is None else recognise_lattice(array_S2, fit)

    @property
    def is_scaled_wrong(self) -> bool:
        """Whether a version that knew no 2k array took its pixel size wrong by half."""
        is_old = self.entry.platform == "st" and "lattice" not in self.record
        sources = self.record.get("microns_per_pixel_sources")
        is_by_pitch = isinstance(sources, dict) and next(iter(sources), None) == "pitch"
        return is_old and is_by_pitch and self.lattice == "staggered"

    @cached_property
    def genes(self) -> pd.DataFrame:
        """G rows indexed by gene id, with the column ``symbol``."""
        return self._read(layout.VAR)

    @cached_property
    def gene_ids(self) -> pd.Index:
        """G gene ids: the index of `genes`, read without the rest."""
        return self._read_names(layout.VAR)

    @cached_property
    def centers(self) -> NDArray[np.float64]:
        """(S, 2) spot centers as x, y in full-resolution pixels; NaN where there are none."""
        return np.asarray(self._read_array(layout.CENTERS))

    def read_counts(self) -> csr_matrix:
        """Read the (S, G) raw counts."""
        with anndata.settings.override(use_sparse_array_on_read=False):
            return self._read(layout.COUNTS)

    def read_embedding(self, name: str) -> NDArray[np.float32]:
        """Read the (S, D) patch embeddings called ``name``, row for row with `spots`.

        Raises
        ------
        MissingError
            If the slide has no embedding of that name.
        MismatchError
            If it was made for other spots than the slide has.
        """
        if self.embedding_record(name)["obs_names"] != self.names_digest():
            raise MismatchError(
                f"slide {self.name}: embedding {name!r} was made for other spots; "
                f"run `spahgc ingest … --replace` and embed again"
            )
        with self._damage_of(f"{layout.EMBEDDINGS}/{name}"):
            key = f"{layout.EMBEDDINGS}/{name}"
            vectors = read_array(self.store.location, self.entry.group, key, self.manifest)
            embedding_SD = np.asarray(vectors, dtype=np.float32)
        if not np.isfinite(embedding_SD).all():
            raise DamagedStoreError(
                f"slide {self.name}: embedding {name!r} has values that were never written; "
                "`spahgc store verify --deep` lists all damage"
            )
        return embedding_SD

    def open_embedding(self, name: str) -> zarr.Array[Any]:
        """Open the (S, D) embedding called ``name`` without reading it."""
        if name not in self.entry.encoders:
            raise MissingError(self._why_not_embedded(name))
        key = f"{layout.EMBEDDINGS}/{name}"
        with self._damage_of(key):
            return open_array(self.store.location, self.entry.group, key, self.manifest)

    def embedding_record(self, name: str) -> dict[str, Any]:
        """Say what made an embedding: ``fingerprint``, its digest, the spots it was made for."""
        attributes: Any = self.open_embedding(name).attrs
        with self._damage_of(f"{layout.EMBEDDINGS}/{name}"):
            record = dict(attributes[layout.STORE_ATTRIBUTE])
            if not isinstance(record["obs_names"], str):
                raise TypeError("its record names no spots")
        return record

    def read_file(self, key: str) -> bytes:
        """Read one file of this version and compare its sha256.

        Raises
        ------
        DamagedStoreError
            If it is missing or another one.
        """
        location, place = self.store.location, f"{self.entry.group}/{key}"
        try:
            content = location.read(place, at_most=self.manifest.files[key].size)
        except FileNotFoundError:
            raise DamagedStoreError(f"{location.where}: {place} is missing") from None
        if FileRecord.of(content) != self.manifest.files[key]:
            raise DamagedStoreError(
                f"{location.where}: {place} is damaged: its digest is another one"
            )
        return content

    def read_thumbnail(self, name: str = "hires") -> Thumbnail | None:
        """Read the ``hires`` or ``lowres`` picture of the whole slide, if there is one."""
        place = f"{layout.PICTURES}/{self.name}"
        if f"{place}/images/{name}" not in self.manifest.documents:
            return None
        return Thumbnail(
            pixels=self._read(f"{place}/images/{name}"),
            scale=float(self._read(f"{place}/scalefactors/tissue_{name}_scalef")),
        )

    def read_thumbnails(self) -> dict[str, Thumbnail]:
        """Read all pictures there are, by scanpy's names for them, ``hires`` and ``lowres``."""
        found = {name: self.read_thumbnail(name) for name in ("hires", "lowres")}
        return {name: picture for name, picture in found.items() if picture is not None}

    def names_digest(self) -> str:
        """Give `digest_names` of the spots, which a process reads but once of each version."""
        version = (self.store.location.address, self.entry.manifest)
        if version not in _names_digests:
            _names_digests[version] = digest_names(self.spot_names)
        return _names_digests[version]

    def _why_not_embedded(self, name: str) -> str:
        if self.entry.image is None:
            return (
                f"slide {self.name} has no embedding {name!r} because it has no full-resolution "
                "image; ingest it again with its image and `--replace`"
            )
        return (
            f"slide {self.name} has no embedding {name!r}; "
            f"run `spahgc embed --store {self.store.where} {' '.join(options_of([name]))}`"
        )

    @cached_property
    def _group(self) -> zarr.Group:
        return open_group(self.store.location, self.entry.group, self.manifest)

    def _read(self, key: str) -> Any:  # noqa: ANN401  AnnData elements have no common type
        with self._damage_of(key):
            return anndata.io.read_elem(self._group[key])

    def _read_names(self, key: str) -> pd.Index:
        with self._damage_of(key):
            location, group = self.store.location, self.entry.group
            column = self.manifest.documents[key]["attributes"]["_index"]
            names = open_array(location, group, f"{key}/{column}", self.manifest)[:]
            return pd.Index(np.asarray(names, object))

    def _read_array(self, key: str) -> Any:  # noqa: ANN401  a string, or numbers
        """Read one array, and no other's metadata."""
        with self._damage_of(key):
            return open_array(self.store.location, self.entry.group, key, self.manifest)[...]

    @contextmanager
    def _damage_of(self, key: str) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            raise DamagedStoreError(
                f"slide {self.name}: {key} cannot be read ({_first_line(error)}); "
                "`spahgc store verify --deep` lists all damage"
            ) from error


def digest_names(names: pd.Index) -> str:
    """Digest spot names in their order; embeddings carry it so that rows never meet by position."""
    return sha256("\n".join(map(str, names)).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def array_of(spots: pd.DataFrame) -> NDArray[np.int64] | None:
    """Give (S, 2) ``array_col``, ``array_row`` of spots; None where these are no whole numbers."""
    names = ["array_col", "array_row"]
    if not set(names) <= set(spots.columns):
        return None
    if not all(pd.api.types.is_integer_dtype(spots[name]) for name in names):
        return None
    if spots[names].isna().any(axis=None):
        return None
    return spots[names].to_numpy(np.int64)
