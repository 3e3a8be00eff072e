"""What a store holds, as a table on screen."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spahgc.store.entries import SlideEntry
from spahgc.store.summary import StoreSummary
from spahgc.store.words import spell_plain


def print_slides(slides: Mapping[str, SlideEntry], *, console: Console, title: str) -> None:
    """List slides with what they can be used for.

    Parameters
    ----------
    slides
        Entries of one commit, by slide name.
    console
        Where to.
    title
        Above the table.
    """
    table = Table(title=Text(spell_plain(title)), title_justify="left")
    table.add_column("slide", no_wrap=True)
    table.add_column("platform")
    table.add_column("patient")
    for column in ("spots", "genes", "µm/px"):
        table.add_column(column, justify="right")
    table.add_column("image")
    table.add_column("embeddings")
    for name, entry in sorted(slides.items()):
        scale = entry.microns_per_pixel
        table.add_row(
            name,
            Text(spell_plain(entry.platform)),
            Text(spell_plain(entry.patient or "unknown")),  # free text: its brackets are no markup
            str(entry.n_spots),
            str(entry.n_genes) if entry.n_genes else "–",
            "–" if scale is None else f"{scale:.4g}",
            "yes" if entry.image else "no",
            Text(", ".join(sorted(entry.encoders)) or "–"),
        )
    console.print(table)


def print_summary(summary: StoreSummary, *, console: Console) -> None:
    """Say in a few lines what a store holds."""

    def count(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{name} ({n})" for name, n in sorted(counts.items())) or "none"

    changed = f"{summary.changed_at} by {summary.changed_by or 'somebody'}: {summary.message}"
    table = Table(show_header=False, box=None)
    for name, value in (
        ("store", summary.where),
        ("format", str(summary.store_format)),
        ("digest", summary.digest),
        ("commit", f"{summary.commit}, {changed}" if summary.commit else "none yet"),
        ("slides", f"{summary.n_slides} of {summary.n_patients} known patients"),
        ("spots", f"{summary.n_spots:,}"),
        ("size", f"{summary.n_bytes / 1e6:,.1f} MB"),
        ("platforms", count(summary.platforms)),
        ("embeddings", count(summary.embeddings)),
        ("indexes", ", ".join(summary.indexes) or "none"),
        *((f"licence of {what}", "; ".join(notes)) for what, notes in summary.licences.items()),
        *(("note", note) for note in summary.notes),
    ):
        table.add_row(name, Text(spell_plain(value), overflow="fold"))
    console.print(table)
