"""The command line: a thin layer over the Python API."""

from ladle.cli import compress, evaluate, fit, select, tasks
from ladle.cli.app import app, main

__all__ = ["app", "compress", "evaluate", "fit", "main", "select", "tasks"]
