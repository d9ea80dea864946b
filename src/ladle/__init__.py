"""Ladle: variational autoencoders put to work.

The public names are imported when they are first used, so that a part of the package, such as ``ladle.data``, can be
imported without the rest.

>>> import ladle
>>> data = ladle.read("digits")
>>> assembly = ladle.assemble(data.schema, recipe="vae", size="xs")
>>> *_, last = ladle.fit(assembly, data, epochs=1)
>>> last.kind
'done'
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# Where each public name is defined.
_PUBLIC: dict[str, tuple[str, ...]] = {
    "coding.errors": ("CodingError",),
    "comparison.select": ("select",),
    "comparison.selection": ("Selection",),
    "data": ("Column", "DataError", "Dataset", "Schema", "Split", "read", "write"),
    "families.family": ("NotAvailable",),
    "health.amortisation": ("amortisation_gap",),
    "health.check": ("check",),
    "health.findings": ("Finding", "Health"),
    "inference.annealed": ("Sandwich",),
    "inference.evidence": ("Evidence", "Items"),
    "machine": ("MachineError", "MissingPackage"),
    "recipes": ("recipe",),
    "recipes.assemble": ("Assembly", "Training", "assemble"),
    "recipes.default": ("Choice", "best"),
    "recipes.estimators": ("POSTERIORS", "estimator"),
    "reporting.report": ("Report", "report"),
    "spec": ("SpecError", "build", "parts", "to_spec"),
    "store.files": ("ModelError",),
    "store.folder": ("Model", "load"),
    "tasks.compress": ("compress", "export_decoder"),
    "tasks.decompress": ("decompress", "info", "verify"),
    "tasks.encode": ("decode", "decode_batches", "encode", "encode_batches"),
    "tasks.interpolate": ("interpolate", "interpolate_batches"),
    "tasks.laplace": ("Interval", "Laplace", "laplace", "last_layer", "predictive", "read_laplace", "write_laplace"),
    "tasks.push": ("push",),
    "tasks.reconstruct": ("reconstruct", "reconstruct_batches"),
    "tasks.sample": ("sample", "sample_batches"),
    "tasks.score": ("evidence", "measure", "sandwich", "score", "score_batches"),
    "training.fit": ("TrainingError", "fit"),
    "training.loggers": ("LoggerError",),
    "training.records": ("Step",),
    "version": ("__version__",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(name for name in _MODULE_OF if not name.startswith("_"))


def __getattr__(name: str) -> Any:
    """A public name, or one of the package's modules."""
    if name in _MODULE_OF:
        value = getattr(import_module(f"ladle.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"ladle.{name}") is not None:
        return import_module(f"ladle.{name}")
    raise AttributeError(f"module 'ladle' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]


if TYPE_CHECKING:  # the same names, for type checkers and editors
    from ladle.coding.errors import CodingError
    from ladle.comparison.select import select
    from ladle.comparison.selection import Selection
    from ladle.data import Column, DataError, Dataset, Schema, Split, read, write
    from ladle.families.family import NotAvailable
    from ladle.health.amortisation import amortisation_gap
    from ladle.health.check import check
    from ladle.health.findings import Finding, Health
    from ladle.inference.annealed import Sandwich
    from ladle.inference.evidence import Evidence, Items
    from ladle.machine import MachineError, MissingPackage
    from ladle.recipes import recipe
    from ladle.recipes.assemble import Assembly, Training, assemble
    from ladle.recipes.default import Choice, best
    from ladle.recipes.estimators import POSTERIORS, estimator
    from ladle.reporting.report import Report, report
    from ladle.spec import SpecError, build, parts, to_spec
    from ladle.store.files import ModelError
    from ladle.store.folder import Model, load
    from ladle.tasks.compress import compress, export_decoder
    from ladle.tasks.decompress import decompress, info, verify
    from ladle.tasks.encode import decode, decode_batches, encode, encode_batches
    from ladle.tasks.interpolate import interpolate, interpolate_batches
    from ladle.tasks.laplace import Interval, Laplace, laplace, last_layer, predictive, read_laplace, write_laplace
    from ladle.tasks.push import push
    from ladle.tasks.reconstruct import reconstruct, reconstruct_batches
    from ladle.tasks.sample import sample, sample_batches
    from ladle.tasks.score import evidence, measure, sandwich, score, score_batches
    from ladle.training.fit import TrainingError, fit
    from ladle.training.loggers import LoggerError
    from ladle.training.records import Step
    from ladle.version import __version__
