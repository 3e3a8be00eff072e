"""What a copy would bring, slide by slide: told before anything is brought."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from spahgc.errors import MissingError, SlideExistsError
from spahgc.store import layout
from spahgc.store.cohort import Cohort
from spahgc.store.commits import Commit
from spahgc.store.manifest import Manifest
from spahgc.store.slide import StoredSlide

Outcome: TypeAlias = Literal["copied", "grown", "kept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one slide needs to be in the target as it is in the source."""

    slide: StoredSlide
    """In the source."""

    embeddings: tuple[str, ...]
    """Of those asked for, the ones that the target lacks."""

    is_new: bool
    """Whether the target lacks the slide altogether."""

    @property
    def manifest(self) -> Manifest:
        """Of the slide with the embeddings asked for."""
        manifest = self.slide.manifest
        for name in set(self.slide.entry.encoders) - set(self.embeddings):
            manifest = manifest.without_member(f"{layout.EMBEDDINGS}/{name}")
        return manifest

    @property
    def n_bytes(self) -> int:
        """To bring."""
        if self.is_new:
            return self.manifest.n_bytes
        members = (f"{layout.EMBEDDINGS}/{name}" for name in self.embeddings)
        return sum(self.slide.manifest.member(key).n_bytes for key in members)

    @property
    def outcome(self) -> Outcome:
        """What the slide will have been."""
        return "copied" if self.is_new else "grown" if self.embeddings else "kept"


def plan_copy(
    source: Cohort,
    head: Commit,
    *,
    slides: Collection[str] | None = None,
    encoders: Collection[str] | None = None,
) -> list[Plan]:
    """Compare a source with what a target holds, before anything is brought.

    Raises
    ------
    SlideExistsError
        If the target has another slide of one of the names, or another embedding.
    MissingError
        If the source lacks a slide or an embedding that was asked for.
    """
    names = list(source.slides) if slides is None else list(dict.fromkeys(slides))
    have = {name for slide in names for name in source[slide].entry.encoders}
    for unknown in sorted(set(encoders or ()) - have):
        raise MissingError(
            f"no slide to copy from {source.where} has an embedding {unknown!r}; there are "
            f"{', '.join(sorted(have)) or 'none'}"
        )
    return [_plan_slide(source[name], head, encoders) for name in names]


def _plan_slide(slide: StoredSlide, head: Commit, encoders: Collection[str] | None) -> Plan:
    name, entry = slide.name, slide.entry
    wanted = {n: d for n, d in entry.encoders.items() if encoders is None or n in encoders}
    known = head.catalogue.spelled_like(name)
    if known is None:
        return Plan(slide=slide, embeddings=tuple(sorted(wanted)), is_new=True)
    found = head.slides[known]
    if known != name or found.content != entry.content:
        raise SlideExistsError(
            f"the target has a slide {known!r} with other content; `spahgc store remove` it "
            "there, or leave it out with `--slides`"
        )
    for embedding, digest in wanted.items():
        alike = layout.spelled_like(embedding, found.encoders)
        if alike is not None and embedding not in found.encoders:
            raise SlideExistsError(
                f"slide {name}: the target has an embedding {alike!r}, and {embedding!r} differs "
                "from it in case only; leave it out with `--encoders`"
            )
        if found.encoders.get(embedding, digest) != digest:
            raise SlideExistsError(
                f"slide {name}: the target has another embedding of the name {embedding!r}; "
                "leave it out with `--encoders`"
            )
    missing = tuple(sorted(set(wanted) - set(found.encoders)))
    return Plan(slide=slide, embeddings=missing, is_new=False)
