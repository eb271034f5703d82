"""Turning memory into the arrays of a framework, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from qstore.errors import UsageError

if TYPE_CHECKING:
    from qstore._core import Memory


class Framework(Protocol):
    """What makes arrays."""

    def check(self, dtype: str, shape: Sequence[int]) -> None:
        """Raises `UsageError` if it has no arrays of that element type and shape."""

    def array(self, memory: Memory, dtype: str, shape: Sequence[int]) -> Any:
        """An array over `memory`, of the element type that safetensors calls `dtype`."""

    def compact(self, part: Any, memory: Memory) -> Any:
        """`part` of an array over `memory`, contiguous, and not keeping more memory than it needs."""


class Numpy:
    """numpy's arrays, with ml_dtypes for what numpy itself does not know."""

    def __init__(self, device: Any) -> None:
        if device not in (None, "cpu"):
            raise UsageError(f"numpy's arrays are on the CPU, not on {device!r}; use framework='pt'")

    def check(self, dtype: str, shape: Sequence[int]) -> None:
        self._dtype(dtype)

    def array(self, memory: Memory, dtype: str, shape: Sequence[int]) -> Any:
        import numpy as np

        return np.asarray(memory).view(self._dtype(dtype)).reshape(shape)

    def compact(self, part: Any, memory: Memory) -> Any:
        import numpy as np

        # Not `ascontiguousarray`, which makes one dimension of none.
        return np.asarray(part, order="C") if part.nbytes == memory.nbytes else np.array(part, order="C")

    def _dtype(self, name: str) -> Any:
        import numpy as np

        plain = {
            "BOOL": np.bool_,
            "U8": np.uint8,
            "I8": np.int8,
            "U16": np.uint16,
            "I16": np.int16,
            "F16": np.float16,
            "U32": np.uint32,
            "I32": np.int32,
            "F32": np.float32,
            "U64": np.uint64,
            "I64": np.int64,
            "F64": np.float64,
            "C64": np.complex64,
        }
        if name in plain:
            return plain[name]
        import ml_dtypes

        more = {
            "BF16": ml_dtypes.bfloat16,
            "F8_E4M3": ml_dtypes.float8_e4m3fn,
            "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
            "F8_E5M2": ml_dtypes.float8_e5m2,
            "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
            "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        }
        if name in more:
            return more[name]
        raise UsageError(f"numpy has no type for {name}, several of whose elements share a byte; {_OTHERWISE}")


class Torch:
    """torch's tensors, on any of its devices."""

    def __init__(self, device: Any) -> None:
        try:
            import torch
        except ImportError as error:
            raise ModuleNotFoundError(f"torch cannot be imported ({error}): pip install torch", name="torch") from error

        self._torch = torch
        self._device = torch.device("cpu" if device is None else device)

    def check(self, dtype: str, shape: Sequence[int]) -> None:
        self._dtype(dtype)
        if dtype == "F4" and shape and shape[-1] % 2:
            raise UsageError(f"torch has no type for F4 in rows of {shape[-1]}: it holds pairs; {_OTHERWISE}")

    def array(self, memory: Memory, dtype: str, shape: Sequence[int]) -> Any:
        import numpy as np

        bytes_ = self._torch.from_numpy(np.asarray(memory))
        if dtype == "F4" and shape:
            # torch counts pairs.
            shape = [*shape[:-1], shape[-1] // 2]
        return bytes_.view(self._dtype(dtype)).reshape(list(shape)).to(self._device)

    def compact(self, part: Any, memory: Memory) -> Any:
        # On another device `part` is of a copy already, whose size is that of the memory as well.
        return (
            part.contiguous()
            if part.nbytes == memory.nbytes
            else part.clone(memory_format=self._torch.contiguous_format)
        )

    def _dtype(self, name: str) -> Any:
        attribute = {
            "BOOL": "bool",
            "U8": "uint8",
            "I8": "int8",
            "U16": "uint16",
            "I16": "int16",
            "F16": "float16",
            "BF16": "bfloat16",
            "U32": "uint32",
            "I32": "int32",
            "F32": "float32",
            "U64": "uint64",
            "I64": "int64",
            "F64": "float64",
            "C64": "complex64",
            "F8_E4M3": "float8_e4m3fn",
            "F8_E4M3FNUZ": "float8_e4m3fnuz",
            "F8_E5M2": "float8_e5m2",
            "F8_E5M2FNUZ": "float8_e5m2fnuz",
            "F8_E8M0": "float8_e8m0fnu",
            "F4": "float4_e2m1fn_x2",
        }.get(name)
        found = getattr(self._torch, attribute, None) if attribute else None
        if found is None:
            raise UsageError(f"torch {self._torch.__version__} has no type for {name}; {_OTHERWISE}")
        return found


_OTHERWISE = "`qstore.unpack` gives the file that holds them"

#: The names that safetensors knows numpy and torch by.
_BY_NAME: dict[str, type[Numpy | Torch]] = {
    "np": Numpy,
    "numpy": Numpy,
    "pt": Torch,
    "torch": Torch,
    "pytorch": Torch,
}


def framework(name: str, device: Any) -> Framework:
    """The framework of a name."""
    if name not in _BY_NAME:
        raise UsageError(f"framework {name!r} is not known; there are 'np' (numpy) and 'pt' (torch)")
    return _BY_NAME[name](device)
