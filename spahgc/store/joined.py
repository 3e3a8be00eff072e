"""Slides of several stores, read as if they lay in one."""

from collections.abc import Mapping, Sequence

from spahgc.errors import MissingError
from spahgc.store.cohort import Cohort
from spahgc.store.slide import StoredSlide


class JoinedCohort(Cohort):
    """The slides of several cohorts; a name that several have is followed by its store's.

    It is for reading: its ``store`` and ``commit`` are those of the first cohort.
    """

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        """Join at least one cohort; the first one's slides keep their names."""
        super().__init__(cohorts[0].store, cohorts[0].commit)
        self._wheres = [cohort.where for cohort in cohorts]
        self._joined = _join(cohorts)

    @property
    def where(self) -> str:
        """All stores' locations."""
        return " and ".join(self._wheres)

    @property
    def slides(self) -> Mapping[str, StoredSlide]:  # type: ignore[override]
        """Every slide by its name here."""
        return self._joined

    def __getitem__(self, name: str) -> StoredSlide:
        """Give one slide; see `spahgc.store.cohort.Cohort`."""
        if name not in self._joined:
            known = ", ".join(self._joined) or "none at all"
            raise MissingError(f"{self.where} have no slide {name!r}; they have {known}")
        return self._joined[name]


def _join(cohorts: Sequence[Cohort]) -> dict[str, StoredSlide]:
    joined: dict[str, StoredSlide] = {}
    for cohort in cohorts:
        for name, slide in cohort.slides.items():
            joined[name if name not in joined else f"{name} of {cohort.where}"] = slide
    return joined
