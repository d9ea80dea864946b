"""The command line: thin faces over the Python API."""

from ladle.cli import apply, choose, files, learn
from ladle.cli.app import app, main

__all__ = ["app", "apply", "choose", "files", "learn", "main"]
