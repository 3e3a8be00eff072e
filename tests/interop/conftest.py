"""The store that write_store.py made, and what spahgc itself read of it."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
FOLDER = Path(os.environ["SPAHGC_INTEROP"])
SLIDES = sorted(item.name for item in (FOLDER / "expected").iterdir())


class Expected(NamedTuple):
    """One slide as spahgc reads it."""

    name: str
    names: dict[str, list[str]]
    arrays: dict[str, np.ndarray]

    def check(self, table) -> None:
        """Compare an AnnData with it."""
        assert list(table.obs_names) == self.names["spots"]
        assert list(table.var_names) == self.names["genes"]
        assert set(self.names["columns"]) <= set(table.obs.columns)
        assert np.array_equal(table.X.toarray(), self.arrays["counts"])
        assert np.array_equal(np.asarray(table.obsm["spatial"]), self.arrays["spatial"])
        for encoder in self.names["encoders"]:
            assert np.array_equal(np.asarray(table.obsm[encoder]), self.arrays[encoder])


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the store lies, and its exports."""
    return FOLDER


@pytest.fixture(params=SLIDES)
def expected(request: pytest.FixtureRequest) -> Expected:
    """Each slide in turn."""
    place = FOLDER / "expected" / request.param
    names = json.loads((place / "names.json").read_text(encoding="utf-8"))
    with np.load(place / "arrays.npz", allow_pickle=False) as arrays:
        return Expected(request.param, names, dict(arrays))
