"""What a run says of itself, ``run.json``: what it was made of, and the digests of its files."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

from spahgc.errors import DamagedStoreError, FormatVersionError, MissingError
from spahgc.store.drafts import digest_fingerprint
from spahgc.store.durable import write_durably
from spahgc.store.gene_names import GeneNames, NamedBy
from spahgc.store.shapes import fits, from_json, spell_kind, spell_value

RUN_VERSION: Final = 2
RECORD: Final = "run.json"
FILES: Final = "files"
"""Key in ``run.json`` of the sha256 of every other file of the run."""
DIGEST: Final = "sha256"
"""Key in ``run.json`` of the sha256 of all else in it."""
KERNEL_RIDGE: Final = "kernel ridge on gene programs"
"""What the default preset is called wherever methods are named: no network, graph or retrieval."""
STACKED: Final = "SpaHGC networks + kernel ridge, stacked"
"""The same with graph networks beside the ridge (`--networks N`)."""
PAPER: Final = "SpaHGC (paper)"
"""The paper's network alone (`--preset paper`)."""
RELATIVE: Final = "relative within the slide: compare its spots, not slides"
"""What values are where features are standardised slide by slide; see docs/predicting.md."""
OLD_NAMES: Final = ("SpaHGC", "SpaHGC, paper")
"""What scores written earlier call any of them; `RunRecord.method` says which it was."""
CURE: Final = "copy the whole run again, or train again with `spahgc train`"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything about a run but its weights: enough to repeat it and to audit it."""

    store: str
    """Path of the store it was trained from."""

    commit: int
    """Number of the store's commit it read."""

    features: Mapping[str, Any]
    """`spahgc.model.features.FeatureConfig` as a mapping: names of embeddings, what is done."""

    fingerprints: Mapping[str, str]
    """Digest of the encoder fingerprint of each embedding, by its name."""

    encoders: Mapping[str, Mapping[str, Any]]
    """The encoder fingerprints themselves, to embed an image in the same way."""

    train: Mapping[str, str]
    """Training slides, which are also the references, and the content digest of each."""

    validation: tuple[str, ...]
    """Slides that chose the checkpoint."""

    test: tuple[str, ...]
    """Slides read once, after training."""

    groups: Mapping[str, str]
    """What a slide never borrows from: slides of the same group."""

    panel: tuple[str, ...]
    """Genes predicted, in column order."""

    panel_rule: str
    """How the panel was chosen, from training slides only."""

    panel_digest: str
    """Digest of the panel's names in order."""

    wide: tuple[str, ...]
    """Genes that programmes were found in; empty for a model that does not look for any."""

    target_sum: float
    """Counts per spot after scaling to library size, before log1p."""

    network: Mapping[str, Any]
    """`spahgc.model.network.NetworkConfig` as a mapping; empty where no network was trained."""

    graph: Mapping[str, int]
    """`spahgc.model.graph.GraphConfig` as a mapping."""

    training: Mapping[str, Any]
    """`spahgc.model.training.TrainingConfig` as a mapping."""

    best_epoch: int
    """Epoch whose weights were kept, or that held-out slides chose; counted from 1."""

    validation_pcc: float
    """Mean PCC over genes on the validation slides, or on training slides held out in turn."""

    committee: Mapping[str, Any] | None = None
    """`spahgc.model.committee_fitting.CommitteeConfig` as a mapping; None for the paper's model."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of spahgc, Python and the libraries that decide numbers."""

    made_at: str = ""
    """ISO 8601, UTC."""

    split: str = ""
    """Rule or file that divided the slides."""

    shared_patients: tuple[str, ...] = ()
    """Patients on both sides of the test; each makes the scores weaker evidence."""

    references: tuple[str, ...] = ()
    """Slides that the index was asked about, as it was asked: those that were borrowed from."""

    judged: Mapping[str, str] = field(default_factory=dict)
    """Content digest of each validation and test slide."""

    microns_per_pixel: Mapping[str, float | None] = field(default_factory=dict)
    """Of each training slide's full-resolution image, in µm; None where unknown."""

    gene_names: str = "id"
    """`spahgc.store.gene_names.NamedBy`: what genes of slides were named by."""

    gene_symbols: Mapping[str, str] = field(default_factory=dict)
    """Symbols of gene ids, where a file gave them."""

    near: Mapping[str, int] = field(default_factory=dict)
    """`spahgc.model.spots.NearConfig` as a mapping; empty where the six nearest spots are near, as
    in runs of older versions."""

    rings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """`spahgc.model.spots.NearRing` of each training slide as a mapping."""

    version: int = RUN_VERSION
    """Version of this record's form."""

    @property
    def method(self) -> str:
        """What the model is called in tables, pictures and JSON: by what was trained."""
        if self.committee is None:
            return PAPER
        return STACKED if self.network else KERNEL_RIDGE

    @property
    def is_relative(self) -> bool:
        """Whether features are standardised slide by slide, and values so relative to a slide's."""
        return bool(self.features.get("standardise"))

    @property
    def units(self) -> str:
        """What the predicted values are."""
        units = f"log1p of counts per {self.target_sum:g}, predicted"
        return f"{units}, {RELATIVE}" if self.is_relative else units


def gene_names_of(record: RunRecord) -> GeneNames:
    """Give what a run's slides name their genes by."""
    by: NamedBy = "symbol" if record.gene_names == "symbol" else "id"
    return GeneNames(by=by, symbols=tuple(record.gene_symbols.items()))


def write_record(record: RunRecord, folder: Path, *, files: Mapping[str, str]) -> None:
    """Write a record, and the digests of the files beside it."""
    document = {**asdict(record), FILES: dict(files)}
    document[DIGEST] = _digest_of(document)
    write_durably(folder / RECORD, json.dumps(document, indent=1).encode())


def read_record(path: Path) -> RunRecord:
    """Read a run's record alone; for what may be raised see `spahgc.store.runs.read_run`."""
    return read_listing(path)[0]


def read_listing(path: Path) -> tuple[RunRecord, dict[str, str]]:
    """Read a run's record, and the sha256 of each of its files by name."""
    document = _read_document(path)
    stated = document.pop(DIGEST, None)
    if stated is not None and stated != _digest_of(document):
        raise damaged(path, f"{RECORD} was changed since it was written")
    files = document.pop(FILES, None)
    if not fits(files, Mapping[str, str]):
        raise damaged(path, f"its {FILES} is {spell_value(files)}, expected digests by name")
    problem = next(_misfits(document), None)
    if problem is None:
        kinds = get_type_hints(RunRecord)
        record = RunRecord(**{name: from_json(v, kinds[name]) for name, v in document.items()})
        problem = next(_contradictions(record), None)
    if problem is not None:
        raise damaged(path, problem)
    return record, files


def damaged(path: Path | str, problem: str) -> DamagedStoreError:
    """Say that a run is not as it was written, and what helps."""
    return DamagedStoreError(f"{path} is a damaged run: {problem}; {CURE}")


def _misfits(document: Mapping[str, Any]) -> Iterator[str]:
    kinds = get_type_hints(RunRecord)
    needed = {f.name for f in fields(RunRecord) if f.default is f.default_factory is MISSING}
    if lacking := sorted(needed - set(document)):
        yield f"{RECORD} lacks {', '.join(lacking)}"
    if strange := sorted(set(document) - set(kinds)):
        yield f"{RECORD} has {spell_value(strange)}, which no run has"
    for name, value in document.items():
        if not fits(from_json(value, kinds[name]), kinds[name]):
            yield f"its {name} is {spell_value(value)}, expected {spell_kind(kinds[name])}"


def _contradictions(record: RunRecord) -> Iterator[str]:
    yield from _strange_names(record)
    for name in ("panel", "wide", "validation", "test"):
        twice = [item for item, n in Counter(getattr(record, name)).items() if n > 1]
        if twice:
            yield f"its {name} names {spell_value(twice[0])} twice"
    for name in ("train", "panel", "fingerprints"):
        if not getattr(record, name):
            yield f"its {name} is empty, expected at least one"
    if strangers := sorted(set(record.train) - set(record.groups)):
        yield f"its groups lack {spell_value(strangers[0])}, which it was trained on"
    if record.committee is not None and not record.wide:
        yield "it has a committee, but its wide names no gene to find programs in"
    if not (isfinite(record.target_sum) and record.target_sum > 0):
        yield f"its target_sum is {record.target_sum}, expected more than 0"
    for name, digest in record.fingerprints.items():
        if name not in record.encoders or digest_fingerprint(record.encoders[name]) != digest:
            yield f"its encoders do not have what its fingerprint of {spell_value(name)} is of"


def _strange_names(record: RunRecord) -> Iterator[str]:
    known = get_args(NamedBy)
    if record.gene_names not in known:
        yield f"its gene_names is {spell_value(record.gene_names)}, expected {' or '.join(known)}"


def _digest_of(document: Mapping[str, Any]) -> str:
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _read_document(path: Path) -> dict[str, Any]:
    if not (path / RECORD).is_file():
        raise MissingError(f"{path} is not a run: no {RECORD}; `spahgc train` makes one")
    try:
        document: dict[str, Any] = json.loads((path / RECORD).read_bytes())
        json.dumps(document, ensure_ascii=False).encode()  # JSON can spell what is no text
        version = int(document["version"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if version > RUN_VERSION:
        raise FormatVersionError(
            f"{path} was written by a newer spahgc; `pip install --upgrade spahgc`"
        )
    if version < RUN_VERSION:
        raise FormatVersionError(
            f"{path} was written by an older spahgc (form {version}, this one reads "
            f"{RUN_VERSION}); train again with `spahgc train`"
        )
    return document
