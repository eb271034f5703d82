"""What the tests ask of arrays, whichever framework made them."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from qstore._core import Memory

#: What is installed here.
FRAMEWORKS = ["np"] + (["pt"] if importlib.util.find_spec("torch") else [])


def raw(array: Any) -> bytes:
    """Its bytes, in the order of its elements."""
    if isinstance(array, np.ndarray):
        return array.tobytes()
    import torch

    # A copy, since strides of a dimension of one element may be anything.
    flat = array.reshape(-1).clone(memory_format=torch.contiguous_format)
    return bytes(flat.view(torch.uint8).numpy())


def type_name(array: Any) -> str:
    """`float32`, `bfloat16`, ..."""
    return str(array.dtype).removeprefix("torch.")


def is_contiguous(array: Any) -> bool:
    return bool(array.flags.c_contiguous if isinstance(array, np.ndarray) else array.is_contiguous())


def held(array: Any) -> int:
    """Bytes of memory that live as long as it does."""
    if not isinstance(array, np.ndarray):
        return int(array.untyped_storage().nbytes())
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base.nbytes if isinstance(array.base, Memory) else array.nbytes


def fill(array: Any) -> None:
    """Writes to all of its memory."""
    if isinstance(array, np.ndarray):
        array.reshape(-1).view(np.uint8)[...] ^= 1
    else:
        import torch

        array.reshape(-1).view(torch.uint8).bitwise_xor_(1)


def same(left: Any, right: Any) -> bool:
    """Whether two arrays are of one kind, type and shape, and bit for bit equal."""
    kind = type(left) is type(right) and left.dtype == right.dtype and left.shape == right.shape
    return kind and raw(left) == raw(right)
