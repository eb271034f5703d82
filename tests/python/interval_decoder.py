"""Decodes chunks of codes and floats given intervals: sections 8.6 to 8.8 of docs/format.md.

Written from that document alone, as `second_decoder` is; plain rather than fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from chunk_decoder import (
    FLOATS,
    SMALL_FLOATS,
    Coder,
    Cursor,
    Ints,
    Json,
    Levels,
    Table,
    Values,
    binary32,
    check,
    decode_floats,
    exception_of,
    put_exceptions,
    signed_magnitudes,
    values_of_magnitudes,
)

WIDEST, NARROWEST, LEAST_SCALE = np.float32(2.0**126), np.float32(2.0**-100), np.float32(2.0**-98)
SLOTS = np.float32(65536)
#: As many magnitudes as 16-bit floats have.
MAGNITUDES = np.arange(1 << 15)


class Ranks(NamedTuple):
    """The codes of some levels in ascending order: the rank of each, what is added to a level to get its rank, what a
    rank and the turned one add up to, and the edge below each rank but the first."""

    of_code: Ints
    base: np.float32
    mirror: np.float32 | None
    edges: Ints

    @classmethod
    def of(cls, levels: Levels) -> Ranks:
        codes = np.arange(1 << levels.bits)
        half = 1 << (levels.bits - 1)
        if levels.are_integers:
            base = 0 if levels.kind == "unsigned" else half
            edges = np.arange(1, codes.size, dtype=np.float32) - np.float32(0.5)
            return cls(levels.of_codes(codes) + base, np.float32(base), np.float32(codes.size - 1), edges)
        if levels.table is not None:
            check(codes.size <= 16 and (np.abs(levels.table) <= WIDEST).all(), "a table that is too large")
            in_order = np.sort(levels.table, kind="stable")
            middles = (in_order[:-1] + in_order[1:]) * np.float32(0.5)
            return cls(levels.ranks(), np.float32(0), None, middles)
        _, mantissa_bits, bias, _ = SMALL_FLOATS[levels.kind]
        exponent, mantissa = np.divmod(codes[:half], 1 << mantissa_bits)
        whole = mantissa + np.where(exponent > 0, 1 << mantissa_bits, 0)
        positive = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa_bits)
        in_order = np.concatenate([-positive[::-1], positive])
        middles = ((in_order[:-1] + in_order[1:]) / 2).astype(np.float32)
        return cls(half + signed_magnitudes(codes, levels.bits, -1), np.float32(0), np.float32(0), middles)

    @property
    def last(self) -> int:
        return int(self.of_code.size - 1)

    @np.errstate(all="ignore")
    def with_ends(self, ends: list[np.float32], has_negative: bool) -> Ints:
        """The edge below each rank, and that above the last."""
        least, most = (end + self.base for end in ends)
        if has_negative and self.mirror is not None:
            least, most = min(least, self.mirror - most), max(most, self.mirror - least)
        return np.concatenate([[least], self.edges, [most]]).astype(np.float32)


@dataclass(frozen=True)
class Scaled:
    """Ranks, and for each element of a matrix `z` and `s`, whether ranks are turned, and whether a code tells
    anything."""

    ranks: Ranks
    z: Ints
    s: Ints
    turned: Ints
    tells: Ints

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, values: Values) -> Scaled:
        ranks = Ranks.of(values.levels)
        scale, zero = values.of_elements()
        z, turned = zero.astype(np.float32) + ranks.base, scale < 0
        tells = np.isfinite(scale) & (ranks.mirror is not None or ~turned)
        if ranks.mirror is not None:
            z = np.where(turned, ranks.mirror - z, z)
        tells = tells & (np.abs(z) <= WIDEST)
        return cls(ranks, z, np.maximum(np.abs(scale), LEAST_SCALE), turned, tells)

    def cut(self, rows: slice, cols: slice) -> Scaled:
        """Those of some rows and columns."""
        z, s, turned, tells = (of[rows, cols] for of in (self.z, self.s, self.turned, self.tells))
        return replace(self, z=z, s=s, turned=turned, tells=tells)

    def turn(self, ranks: Ints) -> Ints:
        return np.where(self.turned & (ranks <= self.ranks.last), self.ranks.last - ranks, ranks)


class Interval(NamedTuple):
    """What is known of each weight."""

    lo: Ints
    hi: Ints

    @classmethod
    def unknown(cls, shape: tuple[int, ...]) -> Interval:
        return cls(np.full(shape, -WIDEST), np.full(shape, WIDEST))

    @np.errstate(all="ignore")
    def narrowed(self, codes: Ints, known: Known) -> Interval:
        """By the codes of a matrix that is known (8.6)."""
        scaled = known.scaled
        rank = scaled.turn(scaled.ranks.of_code[codes])
        least = np.maximum((known.edges[rank] - scaled.z) * scaled.s, self.lo)
        most = np.minimum((known.edges[rank + 1] - scaled.z) * scaled.s, self.hi)
        is_met = scaled.tells & known.there & (least <= most)
        return Interval(np.where(is_met, least, self.lo), np.where(is_met, most, self.hi))

    def cut(self, rows: slice, cols: slice) -> Interval:
        return Interval(self.lo[rows, cols], self.hi[rows, cols])


@dataclass(frozen=True)
class Known:
    """What the codes of a matrix say: where their bins end, and which of them there are."""

    scaled: Scaled
    edges: Ints
    there: Ints

    @classmethod
    def of(cls, values: Values, ends: Json, shape: list[int]) -> Known:
        """`values` are those of the matrix, which is not yet of the shape that is coded."""
        check(isinstance(ends, list) and len(ends) == 2, "two ends")
        both = [binary32(end) for end in ends]
        check(both[0] <= both[1], "ends of which the first is above the second")
        rows, cols = values.a.shape[0], values.groups.size
        with np.errstate(all="ignore"):
            has_negative = bool((values.scales < 0).any())
        scaled = Scaled.of(values.fitted(*shape))
        there = (np.arange(shape[0])[:, None] < rows) & (np.arange(shape[1]) < cols)
        return cls(scaled, scaled.ranks.with_ends(both, has_negative), there)


def shares(coder: Coder, count: int, find: Callable[[slice, Ints], tuple[Ints, Ints, Ints]]) -> Ints:
    """One row of numbers with shares of 65,536 slots (8.7): of the elements of a part of it and their slots `find`
    gives the numbers, the first slot of each, and how many it has. One that has all of them uses no lane."""
    row = np.zeros(count, np.int64)
    for begin in range(0, count, coder.states.size):
        part = slice(begin, min(begin + coder.states.size, count))
        lanes = slice(0, part.stop - part.start)
        states = coder.states[lanes]
        slot = states & 0xFFFF
        row[part], first, has = find(part, slot.astype(np.int64))
        coder.advance(lanes, has.astype(np.uint32) * (states >> 16) + slot - first.astype(np.uint32))
    return row


def decode_refine(chunk: Cursor, known: Interval, own: Scaled, lanes: int) -> Ints:
    """The codes of a chunk of `refine` (8.7)."""
    count, states = chunk.number("<u4"), chunk.array("<u4", lanes)
    exceptions = chunk.array(exception_of("u1"), count)
    coder, last = Coder(states, chunk.rest()), own.ranks.last
    ranks = np.empty(known.lo.shape, np.int64)
    for row, (lo, hi, z, s, tells) in enumerate(zip(known.lo, known.hi, own.z, own.s, own.tells, strict=True)):
        with np.errstate(all="ignore"):
            density = SLOTS / np.maximum(hi - lo, NARROWEST)
            edges = (own.ranks.edges - z[:, None]) * s[:, None]
            firsts = np.rint(np.minimum(np.maximum(edges - lo[:, None], np.float32(0)) * density[:, None], SLOTS))
        firsts = np.where(tells[:, None], firsts, 0)
        starts = np.concatenate([np.zeros((lo.size, 1)), firsts, np.full((lo.size, 1), 65536)], axis=1)

        def find(part: slice, slot: Ints, starts: Ints = starts) -> tuple[Ints, Ints, Ints]:
            rank = (starts[part, 1:-1] <= slot[:, None]).sum(axis=1)
            at = np.arange(part.start, part.stop)
            first = starts[at, rank].astype(np.int64)
            return rank, first, starts[at, rank + 1].astype(np.int64) - first

        ranks[row] = shares(coder, lo.size, find)
    coder.finish()
    ranks = own.turn(put_exceptions(ranks.reshape(-1), exceptions).reshape(ranks.shape))
    code_of_rank = np.zeros(256, np.int64)
    code_of_rank[own.ranks.of_code] = np.arange(last + 1)
    return code_of_rank[ranks]


def decode_refine_floats(head: Cursor, chunk: Cursor, kind: str, known: Interval, lanes: int) -> Ints:
    """Floats from a chunk of `refine-floats` (8.8); `kind` is that of the floats."""
    table = Table.read(head, lanes)
    head.end()
    return decode_floats(chunk, kind, lambda part: decode_in_intervals(table, part, kind, known, lanes))


def decode_in_intervals(table: Table, chunk: Cursor, kind: str, known: Interval, lanes: int) -> Ints:
    """The bits of 16-bit floats, or of the high halves of F32."""
    mantissa_bits, infinity = FLOATS[kind]
    infinity >>= 16 if kind == "F32" else 0
    magnitudes = MAGNITUDES[: infinity + 1]
    values = values_of_magnitudes("BF16" if kind == "F32" else kind, magnitudes)
    count, wide_count, sign_count = (chunk.number("<u4") for _ in range(3))
    states = chunk.array("<u4", lanes)
    mantissas, signs = chunk.plane(wide_count, mantissa_bits), chunk.plane(sign_count, 1)
    exceptions = chunk.array(exception_of("<u2"), count)
    coder = Coder(states, chunk.rest())

    negative_lo, negative_hi = np.signbit(known.lo), np.signbit(known.hi)
    low, high = np.minimum(np.abs(known.lo), np.abs(known.hi)), np.maximum(np.abs(known.lo), np.abs(known.hi))
    both_signs = negative_lo != negative_hi
    is_wide = both_signs | (low == 0) | ~(high * np.float32(0.125) <= low)
    # For high halves the one that is cut from it is the greatest that is not above it.
    first = np.searchsorted(values, low, "right") - 1 if kind == "F32" else np.searchsorted(values, low, "left")
    end = np.searchsorted(values, high, "right") - 1
    first, end = np.minimum(first, infinity), np.minimum(end, infinity)
    size = np.where(is_wide, 1, np.maximum(1, end - first + 1)).astype(np.float32)
    share = SLOTS / size
    coded = np.empty(known.lo.shape, np.int64)
    for row in range(len(coded)):

        def find(part: slice, slot: Ints, row: int = row) -> tuple[Ints, Ints, Ints]:
            each, near = share[row, part], (slot * size[row, part].astype(np.float64) / 65536).astype(np.int64)
            near = np.maximum(near - 2, 0)
            start = lambda number: np.rint(number.astype(np.float32) * each)
            for _ in range(4):
                near = np.where(start(near + 1) <= slot, near + 1, near)
            begin = start(near).astype(np.int64)
            return near, begin, start(near + 1).astype(np.int64) - begin

        coded[row] = first[row] + shares(coder, coded.shape[1], find) | negative_hi[row].astype(np.int64) << 15
    lo, hi = known.lo[is_wide], known.hi[is_wide]
    check(lo.size == wide_count, "another number of wide intervals")
    symbols = coder.symbols(table, lo.size).astype(np.int64)
    coder.finish()
    greatest = np.maximum(np.maximum(-lo, hi), np.float32(0))
    top = np.minimum(np.searchsorted(values, greatest, "right") - 1, infinity) >> mantissa_bits
    exponent = np.maximum(0, top - symbols)
    has_sign = ~(lo >= 0) & ~(hi <= 0)
    check(has_sign.sum() == sign_count, "another number of intervals of both signs")
    sign = np.where(lo >= 0, 0, 1)
    sign[has_sign] = signs
    coded[is_wide] = sign << 15 | exponent << mantissa_bits | mantissas
    return put_exceptions(coded.astype("<u2").reshape(-1), exceptions)
