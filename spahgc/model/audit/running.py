"""Run every check on a run beside its store."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from spahgc.errors import MismatchError
from spahgc.model.audit.choosing import check_choices, check_trust
from spahgc.model.audit.evidence import Evidence, Finding
from spahgc.model.audit.membership import (
    check_copies,
    check_index,
    check_parts,
    check_patients,
)
from spahgc.model.audit.refitting import check_networks, check_ridge, check_statistics
from spahgc.model.audit.reworking import check_checkpoint, check_panel, check_scores
from spahgc.model.settings import settings_of
from spahgc.store.cohort import Cohort
from spahgc.store.runs import Run

CHECKS: Final[Sequence[Callable[[Evidence], Iterator[Finding]]]] = (
    check_parts,
    check_panel,
    check_statistics,
    check_ridge,
    check_choices,
    check_networks,
    check_trust,
    check_index,
    check_scores,
    check_checkpoint,
    check_copies,
    check_patients,
)


def audit_run(run: Run, cohort: Cohort) -> list[Finding]:
    """Work out again what a run was made of, and name what leaked and what was not checked.

    Returns
    -------
    list[Finding]
        One or more per check, in the order of `CHECKS`.

    Raises
    ------
    MissingError
        If a slide of the run, or its index, is not in the store.
    MismatchError
        If a slide has changed since: then nothing can be worked out again.
    DamagedStoreError
        If the run's record holds settings that none can have.
    """
    record = run.record
    for name, content in {**record.train, **record.judged}.items():
        if cohort[name].entry.content != content:
            raise MismatchError(
                f"slide {name} in {cohort.where} is not the one this run was made with, so "
                "nothing can be worked out again; audit it beside the store of commit "
                f"{record.commit}, or train again"
            )
    evidence = Evidence(run=run, cohort=cohort, settings=settings_of(run))
    return [finding for check in CHECKS for finding in check(evidence)]
