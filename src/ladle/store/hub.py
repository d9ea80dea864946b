"""Model folders on the Hugging Face Hub: ``hub:user/name``, or ``hub:user/name@revision``.

A repository is a stranger's folder. Of it, only what is asked for is fetched, at one commit, and no file that is
larger than the caller can use.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle.machine import need
from ladle.store.files import ModelError

PREFIX = "hub:"
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
EXACT = "exact.safetensors"  # the model in whole numbers, where something was compressed with it
FILES = ("config.json", "model.safetensors", EXACT, "README.md", "log.jsonl", "report.html")  # and the pictures
SECONDS = 20.0  # to wait for the Hub's word on a repository


def is_hub(name: str | Path) -> bool:
    """
    >>> is_hub("hub:user/name"), is_hub("runs/one")
    (True, False)
    """
    return str(name).startswith(PREFIX)


class Repository:
    """A repository of a model, at one commit.

    Args:
        name: ``hub:user/name`` or ``hub:user/name@revision``.

    Raises:
        ModelError: for a bad name, a repository that is not there or not to be seen, and the Hub out of reach.
        MissingPackage: without ``huggingface_hub``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        plain, at, self.revision = name.removeprefix(PREFIX).partition("@")
        self.id = checked(plain)
        if at and not self.revision:
            raise ModelError(f"'{name}': the revision after '@' must be a branch, a tag or a commit")
        self.revision = self.revision or "main"
        self.hub = need("huggingface_hub", "hub")
        self.cached: Path | None = None
        self.sizes: dict[str, int | None] = {}
        with _told(name):
            try:
                found = self.hub.HfApi().model_info(
                    self.id, revision=self.revision, files_metadata=True, timeout=SECONDS
                )
            except Exception as error:
                self.cached = self._cached() if _out_of_reach(error) else None
                if self.cached is None:
                    raise
            else:
                self.commit = found.sha
                self.sizes = {file.rfilename: file.size for file in found.siblings or []}

    def _cached(self) -> Path | None:
        """What was fetched before, for when the Hub is out of reach."""
        try:
            wanted = ["config.json", "model.safetensors", EXACT]
            return Path(
                self.hub.snapshot_download(
                    self.id, revision=self.revision, allow_patterns=wanted, local_files_only=True
                )
            )
        except Exception:  # nothing is there: what to tell people is why the Hub was not reached
            return None

    def fetch(self, file: str, most: int) -> Path:
        """A file of the repository, from the cache where it is there.

        Args:
            file: its name.
            most: bytes; a larger one is not fetched.
        """
        if self.cached is not None:
            return self.cached / file
        if file not in self.sizes:
            raise ModelError(f"no {file} in '{self.name}': it is not a model that ladle pushed")
        size = self.sizes[file]
        if size is None or size > most:
            raise ModelError(f"'{self.name}': {file} must be at most {most:,} bytes; the Hub says {size}")
        with _told(self.name):
            path = Path(self.hub.hf_hub_download(self.id, file, revision=self.revision))
        if path.parent.name != self.commit:
            raise ModelError(f"'{self.name}' was changed while it was fetched; try again")
        return path


def checked(name: str) -> str:
    """The name of a repository, ``user/name``.

    Raises:
        ModelError: for anything else.
    """
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ModelError(f"a repository on the Hub is called user/name, got '{name}'")
    return name


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Make a repository of a model folder, or a new commit in it.

    Only the model goes there: its files and pictures, neither checkpoints nor what loggers wrote.

    Args:
        folder: what ``fit`` wrote.
        name: ``user/name``.
        private: of a repository that is made; one that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        ModelError: for a bad name, and where the Hub refuses or is out of reach.
        MissingPackage: without ``huggingface_hub``.
    """
    checked(name)
    hub = need("huggingface_hub", "hub")
    model = sorted(p.name for p in folder.iterdir() if p.is_file() and (p.name in FILES or p.suffix == ".png"))
    with _told(name):
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[glob.escape(file) for file in model],
            commit_message="A model by Ladle",
        )
    return str(commit.commit_url)


def _out_of_reach(error: Exception) -> bool:
    """Whether the Hub did not answer at all; a server's answer has a status."""
    return getattr(error, "response", None) is None and not isinstance(error, ValueError)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one line what went wrong."""
    errors = need("huggingface_hub.errors", "hub")
    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(f"'{name}' asks that you agree to its terms on the Hub, and for `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"'{name}': the repository has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"no model '{name}' on the Hub, or it is private and there is no token for it: `hf auth login` or HF_TOKEN"
        ) from None
    except errors.LocalTokenNotFoundError:
        raise ModelError("the Hub wants a token: `hf auth login`, or the variable HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise ModelError(
                f"the Hub does not let you into '{name}' ({status}): "
                "log in by `hf auth login` or HF_TOKEN, with a token that may write to push"
            ) from None
        raise ModelError(f"the Hub cannot serve '{name}': {_line(error)}") from None
    except errors.HFValidationError as error:
        raise ModelError(f"a repository on the Hub is called user/name, got '{name}': {_line(error)}") from None
    except Exception as error:  # no network, offline mode, a server that is not the Hub
        raise ModelError(f"the Hub is out of reach for '{name}': {_line(error)}") from None


def _line(error: Exception) -> str:
    told = str(error).strip().splitlines() or [type(error).__name__]
    return told[0][:300]
