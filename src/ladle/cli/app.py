"""The command line application: shared options, error handling and output.

Exit status: 0 on success, 2 for wrong usage or bad input, 1 for other failures or if `ladle check` finds problems, and
130 or 143 if stopped by Ctrl-C or SIGTERM.
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
from ladle.cli.console import exit_on_sigterm
from ladle.tasks.common import fitted_to
from ladle.training.progress import counter, note

app = typer.Typer(
    name="ladle",
    help="Variational autoencoders: train, encode, sample, score, compress, report.",
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
MACHINE_ERRORS = (None, errno.ENOSPC, errno.EDQUOT, errno.EIO)  # file errors that are not caused by bad input

Run = Annotated[str, typer.Argument(help="A model folder written by `ladle fit`, or hub:user/name.", metavar="RUN")]
Data = Annotated[str, typer.Argument(help="A folder, a file or the name of a data set.", metavar="DATA")]
Out = Annotated[Path, typer.Argument(help="The output; its suffix determines the format.", metavar="OUT")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Seed = Annotated[int, typer.Option(help="The seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="The device: auto, cpu or cuda.")]
Part = Annotated[
    str | None,
    typer.Option(
        "--split", help="train, valid, test or all [default: test for named data sets, all for your own files]."
    ),
]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit. Bad input ends with one line on stderr and status 2."""
    with warnings.catch_warnings(), exit_on_sigterm():
        warnings.simplefilter("ignore")  # torch and Lightning emit warnings that users cannot act on
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
            fail(where + what, 1 if error.errno in MACHINE_ERRORS else 2)
        except ladle.TrainingError as error:
            fail(str(error), 1)
        except (KeyboardInterrupt, typer.Abort):
            fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int) -> NoReturn:
    """Print an error message and exit."""
    print(f"ladle: {message}", file=sys.stderr)
    sys.exit(status)


def tell(result: dict[str, Any], json: bool, text: str) -> None:
    """Print a result on stdout, as one JSON object or as text."""
    print(jsonlib.dumps(result, allow_nan=False) if json else text)


def use_all_cores() -> None:
    """Let torch use all cores that are available to this process."""
    import torch

    from ladle.machine import cores

    torch.set_num_threads(cores())


def _version(requested: bool) -> None:
    if requested:
        print(f"ladle {ladle.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `ladle` itself."""
    use_all_cores()


def read(data: str | Path, **options: Any) -> ladle.Dataset:
    """Read a data set, and print progress and the notes of the reader."""
    dataset = ladle.read(data, progress=counter("reading"), **options)
    for message in dataset.notes:
        note(message)
    return dataset


def training_data_name(model: ladle.Model) -> str:
    """The name of the named data set that a model was trained on.

    Raises:
        DataError: if it was trained on files.
    """
    name = fitted_to(model)
    if name is None:
        raise ladle.DataError(
            f"DATA must be given: '{model.schema.source}' was a file or folder, and its path is not stored in the model"
        )
    return name
