"""One lossless store for one model in every precision that it ships in.

    import qstore

    qstore.pack({"bf16": "Llama-3.1-8B", "int8": "Llama-3.1-8B-int8"}, "llama.qstore")

    with qstore.open("llama.qstore") as store:
        weight = store["int8"].get_tensor("model.layers.0.mlp.up_proj.weight")   # reads nothing of bf16

`qstore.numpy` and `qstore.torch` load whole variants, `qstore.transformers` models. What a store, a folder or the
system does wrong is a `QStoreError`.
"""

import importlib
from typing import Any

from qstore import _core, errors
from qstore.errors import (
    BusyError,
    ChangedError,
    DamagedError,
    FileError,
    ForbiddenError,
    InputError,
    NotFoundError,
    OutOfMemoryError,
    Problem,
    QStoreError,
    QStoreWarning,
    UnknownNameError,
    UsageError,
)
from qstore.inspection import FileInspection, Inspection, TensorInspection, Unshared, VariantInspection, inspect
from qstore.operations import VariantVerification, Verification, add, pack, remove, unpack, verify
from qstore.progress import Bar
from qstore.store import Store, TensorSlice, Variant, open, safe_open

__version__ = _core.VERSION

__all__ = [
    "Bar",
    "BusyError",
    "ChangedError",
    "DamagedError",
    "FileError",
    "FileInspection",
    "ForbiddenError",
    "InputError",
    "Inspection",
    "NotFoundError",
    "OutOfMemoryError",
    "Problem",
    "QStoreError",
    "QStoreWarning",
    "Store",
    "TensorInspection",
    "TensorSlice",
    "UnknownNameError",
    "Unshared",
    "UsageError",
    "Variant",
    "VariantInspection",
    "VariantVerification",
    "Verification",
    "__version__",
    "add",
    "errors",
    "inspect",
    "open",
    "pack",
    "remove",
    "safe_open",
    "unpack",
    "verify",
]

#: Modules that are imported when they are first used.
_MODULES = ("numpy", "torch", "transformers")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"qstore.{name}")
    raise AttributeError(f"module 'qstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
