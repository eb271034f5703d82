"""The table of ratios that a run measured."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .cli import tensors_of, variant_of


@dataclass(frozen=True)
class Row:
    """What one pair of folders became."""

    model: str
    high: str
    weights: int
    high_bytes: int
    low_bytes: int
    stored_bytes: int
    low_stored_bytes: int
    #: Stored bits for each weight of the matrices that both variants have, of 8 + the higher one's: codes, scales,
    #: residual.
    paired_bits: float

    @property
    def ratio(self) -> float:
        """The store against both folders."""
        return self.stored_bytes / (self.high_bytes + self.low_bytes)


@dataclass
class Report:
    """Rows in the order in which the tests measured them; a model measured by two tests has one row."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(self, model: str, high: str, weights: int, inspected: dict[str, Any]) -> Row:
        """Records the store that `inspect` described, whose higher variant is named `high`."""
        row = Row(
            model=model,
            high=high.upper(),
            weights=weights,
            high_bytes=variant_of(inspected, high)["raw_bytes"],
            low_bytes=variant_of(inspected, "int8")["raw_bytes"],
            stored_bytes=inspected["stored_bytes"],
            low_stored_bytes=variant_of(inspected, "int8")["stored_bytes"],
            paired_bits=paired_bits(inspected, high),
        )
        self.rows[model, row.high] = row
        return row

    def markdown(self) -> str:
        """The rows as a table that the documentation can carry."""
        return "\n".join(_lines(self.rows.values())) + "\n"


def paired_bits(inspected: dict[str, Any], high: str, shape: list[int] | None = None) -> float:
    """Stored bits for each weight that is stored as a residual, in both variants together; of matrices of `shape`
    alone."""
    low = tensors_of(inspected, "int8")
    stored, weights = 0, 0
    for name, tensor in tensors_of(inspected, high).items():
        if tensor["encoding"] == "residual" and shape in (None, tensor["shape"]):
            parts = (tensor, low[name], low[name.removesuffix("weight") + "SCB"])
            stored += sum(part["stored_bytes"] for part in parts)
            weights += math.prod(tensor["shape"])
    return 8 * stored / weights if weights else math.nan


def _lines(rows: Iterable[Row]) -> Iterable[str]:
    yield "| model | weights | pair | separate files | store | ratio | of it INT8 alone | bits a paired weight |"
    yield "|---|---:|---|---:|---:|---:|---:|---:|"
    for row in rows:
        separate = _mb(row.high_bytes + row.low_bytes)
        yield (
            f"| {row.model} | {row.weights / 1e6:.1f} M | {row.high} + INT8 | {separate} | "
            f"{_mb(row.stored_bytes)} | {row.ratio:.1%} | {_mb(row.low_stored_bytes)} | {row.paired_bits:.2f} |"
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f} MB"
