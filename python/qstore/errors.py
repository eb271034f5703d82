"""What qstore raises: every exception is a `QStoreError`, and one of Python's own where there is one that means the
same."""

from __future__ import annotations

import os
from dataclasses import dataclass


class QStoreError(Exception):
    """Anything that qstore refuses or fails to do. Its text says what is wrong, and what to do."""

    #: The file or folder that it is about, if it is about one.
    path: str | os.PathLike[str] | None = None
    #: The variant that it is about.
    variant: str | None = None
    #: The original file of the variant that it is about.
    file: str | None = None
    #: The tensor that it is about.
    tensor: str | None = None
    #: The chunk of the tensor or file that it is about.
    chunk: int | None = None


class UsageError(QStoreError, ValueError):
    """The request makes no sense: a target that exists, an unknown framework. Nothing was changed."""


class UnknownNameError(QStoreError, KeyError):
    """The store has no variant, or the variant no tensor or file, of that name."""

    def __str__(self) -> str:
        # KeyError would show its text in quotes.
        return str(self.args[0]) if self.args else ""


class InputError(QStoreError, ValueError):
    """A checkpoint that cannot be stored exactly as it is. Nothing was stored."""


@dataclass(frozen=True)
class Problem:
    """Something that `verify` found, in words and as data; as a string it is its text."""

    text: str
    variant: str
    file: str | None = None
    tensor: str | None = None
    chunk: int | None = None

    def __str__(self) -> str:
        return self.text


class DamagedError(QStoreError):
    """A store, or what was restored from it, is not what was written."""

    #: Everything that `verify` found.
    problems: tuple[Problem, ...] = ()


class BusyError(QStoreError):
    """Another process is changing the store. Try again later."""


class ChangedError(QStoreError):
    """The store is another one than when it was opened: what is asked for is not there any more. Open it again."""


class FileError(QStoreError, OSError):
    """The system refused to read or write a file; `errno` and `filename` say what and where."""

    def __str__(self) -> str:
        # All is in the text: the file, the operation and the system's reason.
        return str(self.strerror)


class NotFoundError(FileError, FileNotFoundError):
    """There is no store, folder or file of that name."""


class ForbiddenError(FileError, PermissionError):
    """The system does not allow to read or write a file."""


class OutOfMemoryError(QStoreError, MemoryError):
    """Memory does not suffice for a tensor."""


class QStoreWarning(UserWarning):
    """Something worth knowing that is no error, such as a variant that does not fit the others."""
