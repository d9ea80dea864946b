"""What the commands share: the app, their options, and how they end.

Exit status: 0 done, 2 wrong usage or bad input, 1 a failure of ours or a model that `ladle check` finds ill, 130 and
143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import json as jsonlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import ladle
from ladle.cli.console import ending
from ladle.tasks.common import fitted_to
from ladle.training.progress import counter, note

app = typer.Typer(
    name="ladle",
    help="Variational autoencoders put to work: from a folder of data to a model you can trust.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BAD_INPUT = (
    ladle.DataError, ladle.ModelError, ladle.SpecError, ladle.MachineError, ladle.NotAvailable,
    ladle.LoggerError, ladle.MissingPackage, ladle.CodingError,
)  # fmt: skip
CommandLineError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
OURS = (None, errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of the failures of files, those that are no bad input

Run = Annotated[str, typer.Argument(help="A model folder, as `ladle fit` writes, or hub:user/name.", metavar="RUN")]
Data = Annotated[str, typer.Argument(help="A folder, a file or the name of a data set.", metavar="DATA")]
Out = Annotated[Path, typer.Argument(help="Where to write; the suffix says how.", metavar="OUT")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Seed = Annotated[int, typer.Option(help="The seed of all noise.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Part = Annotated[str | None, typer.Option("--split", help="train, valid, test or all; of a name test, of a file all.")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave; bad input ends with one line on stderr and status 2."""
    with warnings.catch_warnings(), ending():
        warnings.simplefilter("ignore")  # torch and Lightning speak of what their users can do nothing about
        logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
        try:
            arguments = sys.argv[1:] if arguments is None else arguments
            status = app(arguments or ["--help"], prog_name="ladle", standalone_mode=False, obj=arguments)
        except BAD_INPUT as error:
            fail(str(error), 2)
        except CommandLineError as error:
            fail(error.format_message(), 2)  # type: ignore[attr-defined]
        except OSError as error:
            where = f"'{error.filename}': " if error.filename else ""
            what = f"{error.strerror[:1].lower()}{error.strerror[1:]}" if error.strerror else str(error)
            fail(where + what, 1 if error.errno in OURS else 2)
        except ladle.TrainingError as error:
            fail(str(error), 1)
        except (KeyboardInterrupt, typer.Abort):
            fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int) -> NoReturn:
    """Say what is wrong, and leave."""
    print(f"ladle: {message}", file=sys.stderr)
    sys.exit(status)


def tell(result: dict[str, Any], json: bool, text: str) -> None:
    """One JSON object, or a sentence, on stdout."""
    print(jsonlib.dumps(result, allow_nan=False) if json else text)


def use_all_cores() -> None:
    """This process is ours alone: let torch use every core it may."""
    import torch

    from ladle.machine import cores

    torch.set_num_threads(cores())


def _version(asked: bool) -> None:
    if asked:
        print(f"ladle {ladle.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `ladle` itself."""
    use_all_cores()


def read(data: str | Path, **options: Any) -> ladle.Dataset:
    """The data set, with progress, and what was done on the way told."""
    dataset = ladle.read(data, progress=counter("reading"), **options)
    for told in dataset.notes:
        note(told)
    return dataset


def named(model: ladle.Model) -> str:
    """The name of the data set that a model was fitted to, where it has one."""
    found = fitted_to(model)
    if found is None:
        raise ladle.DataError(
            f"DATA must be given: '{model.schema.source}' was a file or folder, and only its name is kept"
        )
    return found
