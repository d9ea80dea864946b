"""The command line: thin faces over the Python API."""

from ladle.cli import apply, learn
from ladle.cli.app import app, main

__all__ = ["app", "apply", "learn", "main"]
