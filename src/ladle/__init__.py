"""Ladle: variational autoencoders put to work.

>>> import ladle
>>> data = ladle.read("digits")
>>> assembly = ladle.assemble(data.schema, recipe="vae", size="xs")
>>> *_, last = ladle.fit(assembly, data, epochs=1)
>>> last.kind
'done'
"""

__version__ = "0.1.0"

from ladle.annealed import Sandwich
from ladle.assemble import Assembly, Training, assemble
from ladle.choice import Choice, best
from ladle.coding import CodingError
from ladle.data import DataError, Dataset, Schema, Split, read, write
from ladle.estimators import POSTERIORS, estimator
from ladle.evidence import Evidence, Items
from ladle.extras import MissingPackage
from ladle.families import NotAvailable
from ladle.folder import Model, ModelError, load
from ladle.health import Finding, Health, check
from ladle.loggers import LoggerError
from ladle.machine import MachineError
from ladle.recipes import recipe
from ladle.records import Step
from ladle.refine import amortisation_gap
from ladle.report.report import Report, report
from ladle.select.choice import select
from ladle.select.selection import Selection
from ladle.spec import SpecError, build, parts, to_spec
from ladle.tasks.compress import compress, export_decoder
from ladle.tasks.decompress import decompress, info, verify
from ladle.tasks.encode import decode, encode
from ladle.tasks.interpolate import interpolate
from ladle.tasks.laplace import Interval, Laplace, laplace, last_layer, predictive, read_laplace, write_laplace
from ladle.tasks.push import push
from ladle.tasks.reconstruct import reconstruct
from ladle.tasks.sample import sample
from ladle.tasks.score import evidence, measure, sandwich, score
from ladle.train import TrainingError, fit

__all__ = [
    "POSTERIORS",
    "Assembly",
    "Choice",
    "CodingError",
    "DataError",
    "Dataset",
    "Evidence",
    "Finding",
    "Health",
    "Interval",
    "Items",
    "Laplace",
    "LoggerError",
    "MachineError",
    "MissingPackage",
    "Model",
    "ModelError",
    "NotAvailable",
    "Report",
    "Sandwich",
    "Schema",
    "Selection",
    "SpecError",
    "Split",
    "Step",
    "Training",
    "TrainingError",
    "amortisation_gap",
    "assemble",
    "best",
    "build",
    "check",
    "compress",
    "decode",
    "decompress",
    "encode",
    "estimator",
    "evidence",
    "export_decoder",
    "fit",
    "info",
    "interpolate",
    "laplace",
    "last_layer",
    "load",
    "measure",
    "parts",
    "predictive",
    "push",
    "read",
    "read_laplace",
    "recipe",
    "reconstruct",
    "report",
    "sample",
    "sandwich",
    "score",
    "select",
    "to_spec",
    "verify",
    "write",
    "write_laplace",
]
