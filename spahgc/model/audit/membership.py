"""Checks of who was where: which slides taught, lent, judged, and whose they are."""

from collections.abc import Iterator

from spahgc.model.audit.evidence import Evidence, Finding, verdict_of
from spahgc.model.copies import find_copies
from spahgc.store.splits import BY_PATIENT, UNKNOWN, caveat_of


def check_parts(evidence: Evidence) -> Iterator[Finding]:
    """Check that no slide is in two parts."""
    record = evidence.run.record
    parts = {
        "train": set(record.train),
        "validation": set(record.validation),
        "test": set(record.test),
    }
    leaks = [
        f"{', '.join(sorted(both))} is for {one} and for {other}"
        for one, other in (("train", "test"), ("validation", "test"), ("train", "validation"))
        if (both := parts[one] & parts[other])
    ]
    yield verdict_of(
        "parts",
        leaks,
        clean=f"{len(record.train)} train, {len(record.validation)} validation and "
        f"{len(record.test)} test slides, no slide in two parts",
    )


def check_index(evidence: Evidence) -> Iterator[Finding]:
    """Check that only training slides were borrowed from."""
    record = evidence.run.record
    strangers = sorted(set(record.references) - set(record.train))
    leaks = [f"{name} was borrowed from, but is no training slide" for name in strangers]
    leaks += [
        f"{name} was borrowed from, but is for test"
        for name in sorted(set(record.references) & set(record.test) - set(strangers))
    ]
    named = ", ".join(record.references)
    if leaks or evidence.has_networks:
        yield verdict_of("index", leaks, clean=f"borrowed from {named}, all of them teachers")
        return
    text = (
        "the model predicts without borrowing, so there is no index to check; how near spots lie "
        f"to those of {named} is checked under trust"
    )
    yield Finding(check="index", verdict="absent", text=text)


def check_copies(evidence: Evidence) -> Iterator[Finding]:
    """Look for a test image among the teachers', or part of one."""
    record, cohort = evidence.run.record, evidence.cohort
    teachers = (*record.train, *record.validation)
    twins = cohort.twins(record.test, teachers)
    leaks = [f"{one} and {other} have the same image or counts" for one, other in twins]
    embedding = next(iter(record.fingerprints))
    for judged in record.test:
        own_SD = cohort[judged].read_embedding(embedding)
        for teacher in teachers:
            share = find_copies(own_SD, cohort[teacher].read_embedding(embedding))
            if share is not None and (judged, teacher) not in twins:
                leaks.append(f"{share:.0%} of the patches of {judged} are also in {teacher}")
    yield verdict_of("copies", leaks, clean="no test image is among the teachers, nor part of one")


def check_patients(evidence: Evidence) -> Iterator[Finding]:
    """Check that no patient is on both sides unsaid."""
    record, cohort = evidence.run.record, evidence.cohort
    teachers = (*record.train, *record.validation)
    owners = {
        name: patient or UNKNOWN
        for name, patient in cohort.patients((*teachers, *record.test)).items()
    }
    shared = sorted({owners[name] for name in record.test} & {owners[name] for name in teachers})
    if not shared:
        yield Finding(check="patients", verdict="clean", text="no patient is on both sides")
        return
    is_hidden = set(shared) != set(record.shared_patients) or record.split == BY_PATIENT
    text = caveat_of(shared) or ""
    if is_hidden:
        text = f"{text}; the run does not say so"
    yield Finding(check="patients", verdict="leak" if is_hidden else "caveat", text=text)
