"""Which encoders there are, as a table on screen."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spahgc.ingest.networks.survey import EncoderRow

_CAPTION = (
    "M params: parameters, in millions; px: width of the input; µm/px: scale it was trained at, "
    "where it is one; hf: huggingface.co. Not here: ask for access on that page if it is gated, "
    "`hf auth login`, `hf download OWNER/NAME`; or pass the file from there as `--weights FILE`. "
    "--json says what each needs."
)


def print_encoders(rows: Sequence[EncoderRow], *, console: Console) -> None:
    """List encoders with what they give, what they ask for, and what is missing to use them."""
    table = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption=_CAPTION,
        caption_justify="left",
    )
    table.add_column("encoder", no_wrap=True)
    for column in ("M params", "dim", "px", "µm/px"):
        table.add_column(column, justify="right")
    table.add_column("licence", no_wrap=True)
    table.add_column("gated")
    table.add_column("here")
    table.add_column("weights", overflow="fold")
    for row in rows:
        table.add_row(
            row.name,
            *(_number(value) for value in (row.parameters, row.size, row.input_px)),
            _number(row.microns_per_pixel),
            Text(row.licence or "–"),
            "–" if row.is_gated is None else "yes" if row.is_gated else "no",
            Text("yes", style="green") if row.is_usable else Text("no", style="red"),
            Text(row.weights),
        )
    console.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
