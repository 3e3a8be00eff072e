"""What a run was trained with, read back from its record, which may say anything."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

from spahgc.model.committee_fitting import CommitteeConfig
from spahgc.model.features import FeatureConfig
from spahgc.model.graph import GraphConfig
from spahgc.model.network import NetworkConfig
from spahgc.model.spots import NearConfig, NearRing
from spahgc.model.training import TrainingConfig
from spahgc.store.run_record import RunRecord, damaged
from spahgc.store.runs import Run
from spahgc.store.shapes import fits, from_json, spell_kind, spell_value

Config = TypeVar("Config")

_MOST: Final = 2**31 - 1
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "n_refer": (1, 10_000),
    "n_close": (0, 10_000),
    "hidden_size": (1, _MOST),
    "n_layers": (0, 1_000),
    "n_heads": (1, _MOST),
    "slope": (0, 1),
    "input_dropout": (0, 1),
    "attention_dropout": (0, 1),
    "embedding_size": (1, _MOST),
    "n_genes": (1, _MOST),
    "seed": (0, 2**32 - 1),
    "n_components": (1, _MOST),
    "n_programmes": (1, _MOST),
    "square": (4, 8),
    "staggered": (4, 8),
}
"""Least and greatest of what decides how a model is built again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A run's settings, each of the kind and within the bounds that it has to have."""

    features: FeatureConfig
    """What is seen of a spot."""

    graph: GraphConfig
    """Edges."""

    near: NearConfig | None
    """Which spots of a slide are near each other; None takes the six nearest."""

    rings: Mapping[str, NearRing]
    """How far near spots reach on each training slide; empty where nobody said."""

    network: NetworkConfig | None
    """Shape of the network, or of each on the committee; None where none was trained."""

    training: TrainingConfig
    """Optimiser, masks, stopping, seed."""

    committee: CommitteeConfig | None
    """Who else predicts; None is the paper's network alone."""


def settings_of(run: Run) -> Settings:
    """Read a run's settings.

    What decides how training went may come from an older version: settings that are no more are
    passed over, those that were not yet have their default. What decides a prediction may not.

    Raises
    ------
    DamagedStoreError
        If one is missing, or nothing that a run can have been trained with.
    """
    record = run.record
    where = run.folder or "this"
    network = record.network or (None if record.committee is not None else {})
    settings = Settings(
        features=_read(FeatureConfig, record.features, "features", where),
        graph=_read(GraphConfig, _without_rings(record.graph), "graph", where),
        near=_read(NearConfig, record.near, "near", where) if record.near else None,
        rings={
            name: _read(NearRing, ring, f"rings.{name}", where)
            for name, ring in record.rings.items()
        },
        network=None if network is None else _read(NetworkConfig, network, "network", where),
        training=_read(TrainingConfig, record.training, "training", where, is_strict=False),
        committee=None
        if record.committee is None
        else _read(CommitteeConfig, record.committee, "committee", where, is_strict=False),
    )
    _check_embeddings(settings.features, record, where)
    return settings


def _without_rings(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the choice of an earlier version that nobody made."""
    return {key: value for key, value in graph.items() if (key, value) != ("n_rings", 0)}


def _read(
    kind: type[Config],
    plain: Mapping[str, Any],
    name: str,
    where: Path | str,
    *,
    is_strict: bool = True,
) -> Config:
    kinds = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}  # type: ignore[arg-type]
    lacking = sorted((set(kinds) if is_strict else needed) - set(plain))
    strange = sorted(set(plain) - set(kinds)) if is_strict else []
    if lacking or strange:
        found = f"has {spell_value(strange[0])}" if strange else f"lacks {', '.join(lacking)}"
        raise damaged(where, f"its {name} {found}, expected {', '.join(kinds)}")
    known = {key: value for key, value in plain.items() if key in kinds}
    for key, value in known.items():
        known[key] = _read_one(kinds[key], value, f"{name}.{key}", where)
    return kind(**known)


def _read_one(kind: Any, value: Any, name: str, where: Path | str) -> Any:  # noqa: ANN401
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise damaged(where, f"its {name} is {spell_value(value)}, expected an object")
        return _read(kind, value, name, where, is_strict=False)
    value = from_json(value, kind)
    least, most = _BOUNDS.get(name.rpartition(".")[2], (None, None))
    expected = spell_kind(kind)
    if not fits(value, kind):
        raise damaged(where, f"its {name} is {spell_value(value)}, expected {expected}")
    if least is not None and most is not None and not least <= value <= most:
        expected += f" from {least} to {most}"
        raise damaged(where, f"its {name} is {spell_value(value)}, expected {expected}")
    return value


def _check_embeddings(features: FeatureConfig, record: RunRecord, where: Path | str) -> None:
    if tuple(features.embeddings) != tuple(record.fingerprints):
        raise damaged(
            where,
            f"its features.embeddings are {spell_value(features.embeddings)}, expected those of "
            f"its fingerprints, {spell_value(list(record.fingerprints))}",
        )
