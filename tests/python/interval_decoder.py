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
        if result == "f32" or levels.table is not None:
            return ranks
        middles = ranks.edges.astype(np.float64) - ranks.base
        ulp = np.where(middles == 0, 0, np.ldexp(1.0, np.frexp(middles)[1] - 1 - (7 if result == "bf16" else 10)))
        above = np.argsort(ranks.of_code)[1 : ranks.last + 1]
        number = levels.of_codes(above) if levels.are_integers else above & ((1 << (levels.bits - 1)) - 1)
        edges = middles + np.where(number.astype(np.int64) % 2 == 0, -ulp, ulp) / 2 + ranks.base
        return ranks._replace(mirror=None, edges=edges.astype(np.float32))

    @classmethod
    def of_levels(cls, levels: Levels) -> Ranks:
        codes = np.arange(1 << levels.bits)
        half = 1 << (levels.bits - 1)
        if levels.between is not None:
            least, most = levels.between
            edges = np.arange(1, most - least + 1, dtype=np.float32) - np.float32(0.5)
            of_code = (levels.of_codes(codes) - least) % 256
            return cls(of_code, np.float32(-least), np.float32(most - least), edges)
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
        return int(self.edges.size)

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
        of, is_one = self.scaled, self.rank <= self.scaled.ranks.last
        rank = np.where(is_one, self.rank, 0)
        return known.narrowed(self.edges[rank], self.edges[rank + 1], of.z, of.s, of.tells & self.there & is_one)


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
    def of(cls, values: Values, codes: Ints, around: Json, shape: list[int], factors: list[Ints] | None) -> Around:
        """As of `Known`; `factors` are what each element's scale is multiplied with: those of columns, then of rows."""
        check(isinstance(around, list) and 3 <= len(around) <= 17, "3 to 17 distances")
        edges = np.array([binary32(edge) for edge in around], np.float32)
        check((edges[:-1] <= edges[1:]).all(), "distances that do not ascend")
        check((np.abs(edges[1:-1]) <= WIDEST / 2).all(), "distances that are too large")
        scale, zero = values.fitted(*shape).of_elements()
        level, zero = values.levels.of_codes(codes).astype(np.float32), zero.astype(np.float32)
        z = np.where(scale < 0, level - zero, zero - level)
        tells = np.isfinite(scale) & (np.abs(z) <= WIDEST)
        s = np.abs(scale)
        for factor in [] if factors is None else factors:
            s = s * factor
        s = np.minimum(s, np.finfo(np.float32).max)
        return cls(edges, z, np.maximum(s, LEAST_SCALE), tells & are_there(values, shape))

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
    coder = Coder(states, chunk.rest())
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
    code_of_rank[own.ranks.of_code] = np.arange(own.ranks.of_code.size)
    return code_of_rank[ranks]


def read_factors(head: Cursor, of: str, shape: list[int]) -> list[Ints]:
    """The factors at the front of a head (8.8), as rows and columns."""
    check(of in ("columns", "both"), f"factors of {of}")
    columns = head.array("<f2", shape[1])[None, :]
    rows = head.array("<f2", shape[0])[:, None] if of == "both" else np.ones((1, 1), np.float16)
    normal = all(((each >= 2.0**-14) & np.isfinite(each)).all() for each in (columns, rows))
    check(normal, "a factor that is none")
    return [columns.astype(np.float32), rows.astype(np.float32)]


def decode_refine_floats(
    head: Cursor, chunk: Cursor, kind: str, told: list[Told], lanes: int, skipped: int = 0
) -> Ints:
    """Floats from a chunk of `refine-floats` (8.8); `kind` is that of the floats. So many bytes of the head are
    factors."""
    head.take(skipped)
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
    counts = [chunk.number("<u4") for _ in range(3)]
    states = chunk.array("<u4", lanes)
    floats = FloatsOf(kind)
    mantissas, signs = chunk.plane(counts[1], floats.mantissa_bits), chunk.plane(counts[2], 1)
    exceptions = chunk.array(exception_of("<u2"), counts[0])
    coder, intervals = Coder(states, chunk.rest()), SlotsOf.of(floats, known)
    coded = np.empty(known.lo.shape, np.int64)
    is_near = np.zeros(coded.shape, bool)
    for row in range(len(coded)):

        def find(part: slice, slots: Ints, row: int = row) -> tuple[Ints, Ints, Ints]:
            bits, first, end, is_near[row, part] = intervals.cut(row, part).find(slots)
            return bits, first, end - first

        coded[row] = shares(coder, coded.shape[1], find)
    both = intervals.both_signs[is_near]
    check((is_near.sum(), both.sum()) == (counts[1], counts[2]), "another number of floats near zero")
    exponent = np.maximum(0, intervals.top[is_near] - coder.symbols(table, counts[1]).astype(np.int64))
    coder.finish()
    sign = intervals.mirrored[is_near].astype(np.int64)
    sign[both] = signs
    coded[is_near] = sign << 15 | exponent << floats.mantissa_bits | mantissas
    return put_exceptions(coded.astype("<u2").reshape(-1), exceptions)


class FloatsOf:
    """The magnitudes of a kind of floats (8.8)."""

    def __init__(self, kind: str) -> None:
        self.is_cut = kind == "F32"
        self.mantissa_bits, infinity = FLOATS[kind]
        self.infinity = infinity >> 16 if self.is_cut else infinity
        numbers = values_of_magnitudes("BF16" if self.is_cut else kind, MAGNITUDES[: self.infinity])
        # One exponent more, as if it were one of numbers.
        doubled = numbers[-(1 << self.mantissa_bits) :].astype(np.float64) * 2
        self.values = np.concatenate([numbers.astype(np.float64), doubled])

    def down(self, number: Ints) -> Ints:
        return np.minimum(np.searchsorted(self.values, number, "right") - 1, self.infinity)

    def up(self, number: Ints) -> Ints:
        return self.down(number) if self.is_cut else np.minimum(np.searchsorted(self.values, number), self.infinity)


class SlotsOf(NamedTuple):
    """The floats of intervals, and their slots (8.8)."""

    floats: FloatsOf
    begin: Ints
    density: Ints
    last: Ints
    near: Ints
    mirrored: Ints
    both_signs: Ints
    top: Ints

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, floats: FloatsOf, known: Interval) -> SlotsOf:
        (lo, hi), values = known, floats.values
        from_, to = np.minimum(np.abs(lo), np.abs(hi)), np.maximum(np.abs(lo), np.abs(hi))
        mirrored = np.signbit(hi) | (np.abs(lo) > np.abs(hi))
        both_signs = np.signbit(lo) != np.signbit(hi)
        wide = both_signs | (from_ < 2.0**-100) | ~(to * np.float32(0.125) <= from_)
        begin = np.where(both_signs, -values[floats.down(from_) + 1], values[floats.up(from_)])
        last = np.where(both_signs, floats.down(to), np.maximum(floats.down(to), floats.up(from_)))
        bound = values[floats.up(np.ldexp(1.0, np.frexp(to)[1] - 4))]
        near = np.where(wide & (begin < bound), bound, 0)
        every = wide & ((to < 2.0**-100) | (values[last] < near))
        top = np.where(every, floats.down(to), floats.up(near) - 1) >> floats.mantissa_bits
        last = np.where(every, floats.down(np.float64(1)), last)
        begin = np.where(every, 1, begin).astype(np.float32)
        density = SLOTS / (values[last + 1].astype(np.float32) - begin)
        near = np.where(every, 3, near)
        return cls(floats, begin, density, last, near, mirrored, both_signs | every, top)

    def cut(self, row: int, part: slice) -> SlotsOf:
        """Those of a part of a row."""
        return SlotsOf(self.floats, *(of[row, part] for of in self[1:]))

    def slot(self, edge: Ints) -> Ints:
        share = (edge.astype(np.float32) - self.begin) * self.density
        return np.rint(np.minimum(np.maximum(share, np.float32(0)), SLOTS)).astype(np.int64)

    def find(self, slot: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """The bits of what has each slot, its first slot and the first that it has not, and whether it is near zero."""
        values = self.floats.values
        below, above = self.slot(-self.near), self.slot(self.near)
        is_near, negative = (below <= slot) & (slot < above), slot < below
        sign = np.where(negative, -1, 1)
        # Slots descend with magnitudes of negative floats: for either sign the greatest that does not go too far.
        least, most = self.floats.up(self.near), np.where(negative, self.floats.infinity, self.last)
        while (least < most).any():
            middle = (least + most + 1) // 2
            start = self.slot(sign * values[middle])
            is_beyond = np.where(negative, start <= slot, start > slot)
            least = np.where(is_beyond | (least >= most), least, middle)
            most = np.where(is_beyond, np.maximum(least, middle - 1), most)
        edges = [self.slot(sign * values[least + beside]) for beside in (0, 1)]
        first, end = np.where(is_near, below, np.minimum(*edges)), np.where(is_near, above, np.maximum(*edges))
        return (negative ^ self.mirrored).astype(np.int64) << 15 | least, first, end, is_near
