"""Publish a model."""

from __future__ import annotations

from pathlib import Path

from ladle.store.folder import ModelError, load
from ladle.store.hub import checked, is_hub, upload


def push(run: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a model folder to the Hugging Face Hub, where ``ladle.load("hub:user/name")`` finds it.

    Args:
        run: what ``fit`` wrote; it is opened first, so that only a whole model is published.
        name: ``user/name``; the repository is made if it is not there.
        private: of a repository that is made; one that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        ModelError: for a folder that is no model, a bad name, and where the Hub refuses or is out of reach.
        MissingPackage: without ``huggingface_hub``: ``pip install 'ladle[hub]'``.
    """
    checked(name)
    if is_hub(run):
        raise ModelError(f"what is pushed must be a folder of this machine, got '{run}'")
    load(Path(run), "cpu")
    return upload(Path(run), name, private)
