from io import StringIO

from rich.console import Console

from spahgc.ingest.networks.survey import EncoderRow
from spahgc.report.encoders import print_encoders


def test_what_is_not_known_beforehand_is_a_dash_and_brackets_are_no_markup():
    console = Console(width=140, file=StringIO())
    rows = [EncoderRow(name="mine", is_usable=True, weights="my-lab [red] 0.1")]
    print_encoders(rows, console=console)
    (line,) = [line.strip() for line in console.file.getvalue().splitlines() if "mine" in line]
    assert line.split(maxsplit=8) == ["mine", *["–"] * 6, "yes", "my-lab [red] 0.1"]
