"""Decodes chunks of codes and floats given intervals: sections 8.6 to 8.8 of docs/format.md.

Written from that document alone, as `second_decoder` is; plain rather than fast.
"""

from __future__ import annotations

import math
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
    classed_symbols,
    decode_floats,
    exception_of,
    put_exceptions,
    signed_magnitudes,
    values_of_magnitudes,
)

WIDEST, NARROWEST, LEAST_SCALE = np.float32(2.0**120), np.float32(2.0**-100), np.float32(2.0**-98)
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
    def of(cls, levels: Levels, result: str) -> Ranks:
        """Those of codes whose weights were rounded to `result` first."""
        ranks = cls.of_levels(levels)
        if result == "f32" or levels.bits > 4 or levels.table is not None:
            return ranks
        middles = ranks.edges.astype(np.float64) - ranks.base
        ulp = np.where(middles == 0, 0, np.ldexp(1.0, np.frexp(middles)[1] - 1 - (7 if result == "bf16" else 10)))
        above = np.argsort(ranks.of_code)[1:]
        number = levels.of_codes(above) if levels.are_integers else above & ((1 << (levels.bits - 1)) - 1)
        edges = middles + np.where(number.astype(np.int64) % 2 == 0, -ulp, ulp) / 2 + ranks.base
        return ranks._replace(mirror=None, edges=edges.astype(np.float32))

    @classmethod
    def of_levels(cls, levels: Levels) -> Ranks:
        codes = np.arange(1 << levels.bits)
        half = 1 << (levels.bits - 1)
        if levels.are_integers:
            base = 0 if levels.kind == "unsigned" else half
            edges = np.arange(1, codes.size, dtype=np.float32) - np.float32(0.5)
            return cls(levels.of_codes(codes) + base, np.float32(base), np.float32(codes.size - 1), edges)
        if levels.table is not None:
            check(codes.size <= 16 and (np.abs(levels.table) <= WIDEST / 2).all(), "a table that is too large")
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
        ranks = Ranks.of(values.levels, (values.rule or {}).get("result", "f32"))
        scale, zero = values.of_elements()
        z, turned = zero.astype(np.float32) + ranks.base, scale < 0
        tells = np.isfinite(scale) & (ranks.mirror is not None or ~turned)
        if ranks.mirror is not None:
            z = np.where(turned, ranks.mirror - z, z)
        tells = tells & (np.abs(z) <= WIDEST)
        return cls(ranks, z, np.maximum(np.abs(scale), LEAST_SCALE), turned & tells, tells)

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
    def narrowed(self, below: Ints, above: Ints, z: Ints, s: Ints, tells: Ints) -> Interval:
        """By two edges (8.6)."""
        least = np.maximum((below - z) * s, self.lo)
        most = np.minimum((above - z) * s, self.hi)
        is_met = tells & (least <= most)
        return Interval(np.where(is_met, least, self.lo), np.where(is_met, most, self.hi))


@dataclass(frozen=True)
class Known:
    """What the codes of a matrix say: their ranks, where their bins end, and which of them there are."""

    scaled: Scaled
    rank: Ints
    edges: Ints
    there: Ints

    @classmethod
    def of(cls, values: Values, codes: Ints, ends: Json, shape: list[int]) -> Known:
        """`values` are those of the matrix, which is not yet of the shape that is coded, as `codes` are."""
        check(isinstance(ends, list) and len(ends) == 2, "two ends")
        both = [binary32(end) for end in ends]
        check(both[0] <= both[1], "ends of which the first is above the second")
        with np.errstate(all="ignore"):
            has_negative = bool((values.scales < 0).any())
        scaled = Scaled.of(values.fitted(*shape))
        edges = scaled.ranks.with_ends(both, has_negative)
        return cls(scaled, scaled.turn(scaled.ranks.of_code[codes]), edges, are_there(values, shape))

    def cut(self, rows: slice, cols: slice) -> Known:
        """That of some rows and columns."""
        there, rank = self.there[rows, cols], self.rank[rows, cols]
        return replace(self, scaled=self.scaled.cut(rows, cols), rank=rank, there=there)

    def narrow(self, known: Interval, _stretches: Ints) -> Interval:
        of, rank = self.scaled, self.rank
        return known.narrowed(self.edges[rank], self.edges[rank + 1], of.z, of.s, of.tells & self.there)


@dataclass(frozen=True)
class Around:
    """Codes that were moved: distances from their levels between which stretches lie, and for each `z`, `s` and whether
    it tells anything (8.8)."""

    edges: Ints
    z: Ints
    s: Ints
    tells: Ints

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, values: Values, codes: Ints, around: Json, shape: list[int]) -> Around:
        """As of `Known`."""
        check(isinstance(around, list) and 3 <= len(around) <= 17, "3 to 17 distances")
        edges = np.array([binary32(edge) for edge in around], np.float32)
        check((edges[:-1] <= edges[1:]).all(), "distances that do not ascend")
        check((np.abs(edges[1:-1]) <= WIDEST / 2).all(), "distances that are too large")
        scale, zero = values.fitted(*shape).of_elements()
        level, zero = values.levels.of_codes(codes).astype(np.float32), zero.astype(np.float32)
        z = np.where(scale < 0, level - zero, zero - level)
        tells = np.isfinite(scale) & (np.abs(z) <= WIDEST)
        return cls(edges, z, np.maximum(np.abs(scale), LEAST_SCALE), tells & are_there(values, shape))

    def cut(self, rows: slice, cols: slice) -> Around:
        """That of some rows and columns."""
        z, s, tells = (of[rows, cols] for of in (self.z, self.s, self.tells))
        return replace(self, z=z, s=s, tells=tells)

    def narrow(self, known: Interval, stretches: Ints) -> Interval:
        is_one = stretches < self.edges.size - 1
        at = np.where(is_one, stretches, 0).reshape(self.z.shape)
        tells = self.tells & is_one.reshape(self.z.shape)
        return known.narrowed(self.edges[at], self.edges[at + 1], self.z, self.s, tells)


#: What is told of weights.
Told = Known | Around


def are_there(values: Values, shape: list[int]) -> Ints:
    """Which elements of a matrix of this shape one that has these values has."""
    rows, cols = values.a.shape[0], values.groups.size
    there: Ints = (np.arange(shape[0])[:, None] < rows) & (np.arange(shape[1]) < cols)
    return there


def shape_of(told: list[Told]) -> tuple[int, ...]:
    """Rows and columns of the weights that something is told of."""
    shape: tuple[int, ...] = (told[0].z if isinstance(told[0], Around) else told[0].rank).shape
    return shape


def narrowed(told: list[Told], stretches: Ints) -> Interval:
    """What all that is told of some weights says."""
    known = Interval.unknown(shape_of(told))
    for each in told:
        known = each.narrow(known, stretches)
    return known


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


def decode_refine(chunk: Cursor, told: list[Told], own: Scaled, lanes: int) -> Ints:
    """The codes of a chunk of `refine` (8.7)."""
    known = narrowed(told, np.zeros(0, np.uint8))
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


def decode_refine_floats(head: Cursor, chunk: Cursor, kind: str, told: list[Told], lanes: int) -> Ints:
    """Floats from a chunk of `refine-floats` (8.8); `kind` is that of the floats."""
    has_stretches = any(isinstance(each, Around) for each in told)
    tables = Table.read_list(head, lanes) if has_stretches else []
    table = Table.read(head, lanes)
    head.end()

    def decode(part: Cursor) -> Ints:
        stretches = np.zeros(0, np.uint8)
        if has_stretches:
            shape = shape_of(told)
            of_stretches = Cursor(part.take(part.number("<u4")))
            stretches = classed_symbols(tables, of_stretches, math.prod(shape), shape[1], lanes)
            of_stretches.end()
        return decode_in_intervals(table, part, kind, narrowed(told, stretches), lanes)

    return decode_floats(chunk, kind, decode)


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
