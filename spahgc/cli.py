"""The ``spahgc`` command: every step of the way, by its own words."""

import click

from spahgc.commands.audit import audit
from spahgc.commands.demo import demo
from spahgc.commands.embed import embed
from spahgc.commands.encoders import encoders
from spahgc.commands.evaluate import evaluate
from spahgc.commands.index import index
from spahgc.commands.ingest import ingest
from spahgc.commands.predict import predict
from spahgc.commands.run import run_group
from spahgc.commands.screen import PlainErrors
from spahgc.commands.store import store_group
from spahgc.commands.train import train


@click.group(cls=PlainErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spahgc")
def cli() -> None:
    """Predict spatial gene expression from H&E images.

    By default a kernel ridge predicts gene programs from four fields of view of a spot; the graph
    network of the SpaHGC paper is --preset paper, or --networks N beside the ridge. The way:
    ingest → index build → train → predict; evaluate says what to expect, and audit works out
    again what a run was made of.
    """


for command in (
    ingest,
    embed,
    encoders,
    index,
    train,
    evaluate,
    predict,
    audit,
    run_group,
    store_group,
    demo,
):
    cli.add_command(command)


if __name__ == "__main__":
    cli()
