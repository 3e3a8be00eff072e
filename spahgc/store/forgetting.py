"""Take embeddings from a slide, so that they can be made again."""

import shutil
from collections.abc import Collection

from spahgc.errors import CommitConflictError
from spahgc.store import layout
from spahgc.store.bringing import ignore_bytes, place_slide
from spahgc.store.commits import Commit
from spahgc.store.copy_plans import Plan
from spahgc.store.placing import lock_slide, release_claim
from spahgc.store.slide import StoredSlide


def forget_embeddings(slide: StoredSlide, embeddings: Collection[str]) -> StoredSlide:
    """Lay a slide anew without some of its embeddings; who reads the old version still can.

    Returns
    -------
    StoredSlide
        As it is then; the same one if it has none of them.

    Raises
    ------
    CommitConflictError
        If another writer changed the slide meanwhile.
    """
    store, name, before = slide.store, slide.name, slide.entry
    kept = tuple(sorted(set(before.encoders) - set(embeddings)))
    if len(kept) == len(before.encoders):
        return slide
    store.check_writable()

    def change(head: Commit) -> Commit:
        if head.slides.get(name) != before:
            raise CommitConflictError(
                f"slide {name} was changed by another writer; run the command again"
            )
        return head.with_slide(name, after)

    with lock_slide(store, name):
        plan = Plan(slide=slide, embeddings=kept, is_new=True)
        after = place_slide(plan, store, ignore_bytes)
        gone = ", ".join(sorted(set(before.encoders) & set(embeddings)))
        try:
            store.commit(change, message=f"forget {gone} of {name}")
        except CommitConflictError:
            if store.location.folder is not None:
                shutil.rmtree(store.path_of(after.group), ignore_errors=True)
            raise
        release_claim(store, after.group)
    # readers that know nothing of commits must not take the old version for the new one
    store.location.delete([f"{before.group}/{layout.ROOT_DOCUMENT}"])
    return StoredSlide(store, name, after)
