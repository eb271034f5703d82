"""Decodes single chunks: sections 7 to 9 of docs/format.md, which the section numbers cite.

Written from that document alone, as `second_decoder` is; plain rather than fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

Ints = npt.NDArray[Any]

#: Per kind of floats: mantissa bits of the (high half's) 16 bits, and the magnitude of infinity. `short F16` is F16 without
#: the three zeros at the end of each mantissa (8.2).
FLOATS = {"BF16": (7, 0x7F80), "F16": (10, 0x7C00), "short F16": (7, 0xF80), "F32": (7, 0x7F80_0000)}
LONG = np.dtype([("at", "<u4"), ("value", "<u2")])


class DamageError(Exception):
    """The store is not what the format says."""


def check(condition: object, problem: str) -> None:
    if not condition:
        raise DamageError(problem)


def unzstd(frame: bytes, limit: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
        data = reader.read(limit + 1)
    check(len(data) <= limit, "a Zstandard frame holds more than it may")
    return data


def exception_of(dtype: str) -> np.dtype[np.void]:
    """An element that no symbol stands for: its index in the chunk, and its value (8)."""
    return np.dtype([("at", "<u4"), ("value", dtype)])


def unpacked(rows: Ints, width: int, count: int) -> Ints:
    """The first `count` values of the bit planes (7.1) that lie along the last axis, as bytes."""
    bits = np.unpackbits(rows, axis=-1, bitorder="little")[..., : count * width]
    values = np.zeros((*rows.shape[:-1], count), np.uint32)
    for bit in range(width):
        values |= bits[..., bit::width].astype(np.uint32) << np.uint32(bit)
    return values


def packed(values: Ints, width: int) -> Ints:
    """Inverse of `unpacked`: the planes' bytes, of which the last are whole."""
    bits = values[..., None] >> np.arange(width, dtype=np.uint32) & 1
    return np.packbits(bits.astype(np.uint8).reshape(*values.shape[:-1], -1), axis=-1, bitorder="little")


class Cursor:
    """Reads the fields of a head or of a chunk one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        check(self.at + size <= len(self.data), "a chunk ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def array(self, dtype: npt.DTypeLike, count: int) -> Ints:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def number(self, dtype: str) -> int:
        return int(self.array(dtype, 1)[0])

    def plane(self, count: int, width: int) -> Ints:
        """A bit plane (7.1)."""
        data = np.frombuffer(self.take((count * width + 7) // 8), np.uint8)
        check(not np.unpackbits(data, bitorder="little")[count * width :].any(), "unused bits are set")
        return unpacked(data, width, count)

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        check(self.at == len(self.data), "bytes are left over")


class Table(NamedTuple):
    """A symbol table (7.2), each of the three looked up by slot."""

    symbol: Ints
    frequency: Ints
    offset: Ints

    @classmethod
    def read(cls, head: Cursor, lanes: int) -> Table:
        frequencies = np.zeros(256, np.uint32)
        for present in np.flatnonzero(np.unpackbits(head.array("u1", 32), bitorder="little")):
            frequency = head.number("u1")
            if frequency & 0x80:
                frequency = frequency & 0x7F | head.number("u1") << 7
            check(1 <= frequency <= 4095, "a frequency is out of range")
            frequencies[present] = frequency
        check(frequencies.sum() == 4096, "frequencies do not add up to 4096")
        if lanes == 128:
            symbol, offset = alias_slots(frequencies)
            return cls(symbol, frequencies[symbol], offset)
        symbol = np.repeat(np.arange(256, dtype=np.uint8), frequencies)
        start = np.cumsum(frequencies, dtype=np.uint32) - frequencies
        return cls(symbol, frequencies[symbol], np.arange(4096, dtype=np.uint32) - start[symbol])

    @classmethod
    def read_list(cls, head: Cursor, lanes: int) -> list[Table]:
        count = head.number("u1")
        check(1 <= count <= 16, "a list of tables has 1 to 16")
        return [cls.read(head, lanes) for _ in range(count)]


def alias_slots(frequencies: Ints) -> tuple[Ints, Ints]:
    """The symbol and the offset of each slot in buckets of 16 (7.2)."""
    rest = frequencies.astype(np.int64)
    poor, rich = [s for s in range(256) if rest[s] < 16], [s for s in range(256) if rest[s] > 16]
    symbol, offset = np.repeat(np.arange(256), 16), np.tile(np.arange(16), 256)
    for bucket in poor:  # grows while it is gone through
        if not rich:
            break
        giver, own = rich[0], rest[bucket]
        rest[giver] -= 16 - own
        symbol[16 * bucket + own : 16 * bucket + 16] = giver
        offset[16 * bucket + own : 16 * bucket + 16] = rest[giver] + np.arange(16 - own)
        if rest[giver] <= 16:
            rich.pop(0)
        if rest[giver] < 16:
            poor.append(giver)
    return symbol.astype(np.uint8), offset.astype(np.uint32)


class Coder:
    """The lanes of a stream (7.3): elements of a row whose lanes follow one another decode at once."""

    def __init__(self, states: Ints, words: bytes) -> None:
        check((states >= 1 << 16).all() and len(words) % 2 == 0, "states too small, or half a word")
        self.states, self.words, self.at = states.astype(np.uint32), np.frombuffer(words, "<u2"), 0

    def _advance(self, lanes: Ints | slice, states: Ints) -> None:
        small = np.flatnonzero(states < 1 << 16)
        words = self.words[self.at : self.at + small.size]
        check(words.size == small.size, "the words end too early")
        self.at += small.size
        states[small] = states[small] << 16 | words
        self.states[lanes] = states

    def symbols(self, table: Table, count: int) -> Ints:
        """One row of symbols (7.4)."""
        row = np.empty(count, np.uint8)
        all_lanes = self.states.size
        for begin in range(0, count, all_lanes):
            lanes = slice(0, min(all_lanes, count - begin))
            states = self.states[lanes]
            slot = states & 0xFFF
            row[begin : begin + all_lanes] = table.symbol[slot]
            self._advance(lanes, table.frequency[slot] * (states >> 12) + table.offset[slot])
        return row

    def uniform(self, frequencies: Ints, coded: Ints) -> Ints:
        """One row of `r`, each uniform with its own frequency; 0, and no lane used, where not `coded`."""
        row = np.zeros(coded.size, np.uint32)
        for begin in range(0, coded.size, self.states.size):
            lanes = np.flatnonzero(coded[begin : begin + self.states.size])
            states, frequency = self.states[lanes], frequencies[begin + lanes]
            slot = states & 0xFFFF
            row[begin + lanes] = r = slot // frequency
            self._advance(lanes, frequency * (states >> 16) + slot - r * frequency)
        return row

    def finish(self) -> None:
        check(self.at == self.words.size, "words are left over")
        check((self.states == 1 << 16).all(), "a lane does not end as it began")


def put_exceptions(values: Ints, exceptions: Ints) -> Ints:
    check((exceptions["at"] < values.size).all(), "an exception lies behind the chunk")
    values[exceptions["at"]] = exceptions["value"]
    return values


def decode_classed(
    tables: list[Table], chunk: Cursor, elements: int, cols: int, lanes: int, width: int, value: str
) -> tuple[Ints, Ints, Ints]:
    """Symbols, bit plane (of `width` bits) and exceptions, which chunks of 8.1 and 8.2 have alike (7.4)."""
    count = chunk.number("<u4")
    classes = chunk.plane(math.ceil(elements / cols), (len(tables) - 1).bit_length())
    check((classes < len(tables)).all(), "a row is of a class without a table")
    states, plane = chunk.array("<u4", lanes), chunk.plane(elements, width)
    exceptions = chunk.array(exception_of(value), count)
    coder, symbols = Coder(states, chunk.rest()), np.empty(elements, np.uint8)
    for row in np.argsort(classes, kind="stable"):
        begin, end = row * cols, min((row + 1) * cols, elements)
        symbols[begin:end] = coder.symbols(tables[classes[row]], end - begin)
    coder.finish()
    return symbols, plane, exceptions


def classed_symbols(tables: list[Table], chunk: Cursor, elements: int, cols: int, lanes: int) -> Ints:
    symbols, _, exceptions = decode_classed(tables, chunk, elements, cols, lanes, 0, "u1")
    return put_exceptions(symbols, exceptions)


def decode_codes(head: Cursor, chunk: Cursor, elements: int, cols: int, lanes: int) -> Ints:
    """A chunk of `codes` (8.1)."""
    tables = Table.read_list(head, lanes)
    head.end()
    return classed_symbols(tables, chunk, elements, cols, lanes)


def decode_float_split(head: Cursor, chunk: Cursor, elements: int, cols: int, lanes: int) -> Ints:
    """The bits of 16-bit floats, or of the high halves of F32, from a chunk of `float-split` (8.2)."""
    shift, base, tables = head.number("u1"), head.number("<u2"), Table.read_list(head, lanes)
    head.end()
    check(1 <= shift <= 14 and 1 <= base <= 32767, "shift or base is out of range")
    symbols, plane, exceptions = decode_classed(tables, chunk, elements, cols, lanes, shift + 1, "<u2")
    high = np.where(symbols == 0, 0, base - 1 + symbols.astype(np.uint32))
    low, sign = plane & ((1 << shift) - 1), plane >> shift
    bits = sign << 15 | (high << shift) & 0x7FFF | low
    return put_exceptions(bits.astype("<u2"), exceptions)


class Bins(NamedTuple):
    """`lo[k]` and `f[k]` of each row, k from 0 to 127 (9.2, 9.3)."""

    lo: Ints
    frequency: Ints


def decode_residual(head: Cursor, chunk: Cursor, mantissa_bits: int, codes: Ints, of_row: Bins, lanes: int) -> Ints:
    """The bits of 16-bit floats, or of the high halves of F32, from a chunk of `residual` (8.3)."""
    table = Table.read(head, lanes)
    head.end()
    lo, frequency = of_row.lo, of_row.frequency
    is_zero, k = codes == 0, np.minimum(np.abs(codes.astype(np.int16)), 127)
    row_of_zero = np.nonzero(is_zero)[0]
    count, states = chunk.number("<u4"), chunk.array("<u4", lanes)
    plane = chunk.plane(row_of_zero.size, mantissa_bits + 1)
    exceptions = chunk.array(exception_of("<u2"), count)
    coder = Coder(states, chunk.rest())

    below = coder.symbols(table, row_of_zero.size).astype(np.int64)
    exponent = np.maximum(0, (lo[row_of_zero, 1] >> mantissa_bits) - below)
    mantissa, sign = plane & ((1 << mantissa_bits) - 1), plane >> mantissa_bits
    bits = np.empty(codes.shape, "<u2")
    bits[is_zero] = sign << 15 | exponent << mantissa_bits | mantissa
    for row, at in enumerate(k):
        r = coder.uniform(frequency[row, at], at != 0)
        magnitude = (lo[row, at] + r) & 0x7FFF
        bits[row] = np.where(at == 0, bits[row], (codes[row] < 0) * 0x8000 | magnitude)
    coder.finish()
    return put_exceptions(bits.reshape(-1), exceptions)


@dataclass(frozen=True)
class Grid:
    """What the codes of a matrix stand for (9.1): bits of a packed code, a group of each column, and of each row and
    group a scale and a zero-point."""

    bits: int | None
    groups: Ints
    scales: Ints
    zeros: Ints

    @property
    def is_symmetric(self) -> bool:
        """Whether bin 127 ends early (9.3)."""
        return self.bits is None or bool((self.zeros == 1 << (self.bits - 1)).all())

    def codes(self, stored: bytes, cols: int) -> Ints:
        """The codes of an array, in rows of the quantised matrix (9.1)."""
        if self.bits is None:
            return np.frombuffer(stored, np.int8).reshape(-1, cols).astype(np.int64)
        words = np.frombuffer(stored, "<u4").reshape(cols * self.bits // 32, -1)
        return unpacked(np.ascontiguousarray(words.T).view(np.uint8), self.bits, cols).astype(np.int64)

    def sorted_columns(self) -> tuple[Ints, int]:
        """The columns by group, and the stride (8.4)."""
        sizes = np.unique(self.groups, return_counts=True)[1]
        stride = math.gcd(*(int(size) for size in sizes))
        check(stride >= 32 or stride == self.groups.size, "groups of too few columns")
        return np.argsort(self.groups, kind="stable"), stride

    def of(self, rows: slice) -> tuple[Ints, Ints]:
        """Scale and zero-point of each element of some rows."""
        return self.scales[rows][:, self.groups], self.zeros[rows][:, self.groups]


@np.errstate(all="ignore")
def expected_codes(codes: Ints, given: Grid, own: Grid, rows: slice) -> Ints:
    """What the codes of some rows let expect of those of another quantiser (8.6)."""
    (scale, zero), (own_scale, own_zero) = given.of(rows), own.of(rows)
    ratio = scale / own_scale
    offset = own_zero.astype(np.float32) - zero.astype(np.float32) * ratio
    value = np.rint(codes.astype(np.float32) * ratio + offset)
    least, most = (-127, 127) if own.bits is None else (0, (1 << own.bits) - 1)
    return np.clip(np.where(np.isnan(value), least, value), least, most).astype(np.int64)


def decode_code_residual(
    head: Cursor, chunk: Cursor, codes: Ints, given: Grid, own: Grid, rows: slice, lanes: int
) -> bytes:
    """The bytes of a chunk of `code-residual` (8.6), which is given `codes`."""
    shifts = decode_codes(head, chunk, codes.size, codes.shape[1], lanes).reshape(codes.shape)
    shifted = expected_codes(codes, given, own, rows) + shifts
    if own.bits is None:
        return (shifted & 0xFF).astype(np.uint8).tobytes()
    return packed((shifted & ((1 << own.bits) - 1)).astype(np.uint32), own.bits).tobytes()


def decode_packed(head: Cursor, chunk: Cursor, bits: int, rows: int, words: int, lanes: int) -> bytes:
    """The bytes of a chunk of `packed` (8.5)."""
    if bits != 3:
        return decode_codes(head, chunk, rows * words * 4, words * 4, lanes).tobytes()
    cols = 16 * words // 3
    pairs = decode_codes(head, chunk, rows * cols, cols, lanes).reshape(rows, cols, 1)
    codes = np.concatenate([pairs & 7, pairs >> 3 & 7], axis=2).reshape(rows, 2 * cols)
    return packed(codes.astype(np.uint32), 3).tobytes()


def decode_step_residual(
    head: Cursor, chunk: Cursor, kind: str, codes: Ints, given: Grid, steps: int, rows: slice, lanes: int
) -> Ints:
    """Floats from a chunk of `step-residual` (8.4), which is given `codes`; `kind` is that of the floats."""
    tables = Table.read_list(head, lanes)
    part = Cursor(chunk.take(chunk.number("<u4")))
    shifts = classed_symbols(tables, part, codes.size, codes.shape[1], lanes).reshape(codes.shape)
    part.end()
    _, zero = given.of(rows)
    multiples = ((codes - zero) * steps + shifts & 0xFF).astype(np.uint8).view(np.int8)
    order, stride = given.sorted_columns()
    scales = given.scales[rows][:, given.groups[order][::stride]].reshape(-1)
    of_row = step_bins(kind, scales, steps, given.is_symmetric)

    def decode(part: Cursor) -> Ints:
        in_order = multiples[:, order].reshape(-1, stride)
        halves = decode_residual(head, part, FLOATS[kind][0], in_order, of_row, lanes).reshape(codes.shape)
        back = np.empty_like(halves)
        back[:, order] = halves
        return back.reshape(-1)

    return decode_floats(chunk, kind, decode)


def decode_zstd(chunk: Cursor, elements: int, width: int) -> bytes:
    """A chunk of `zstd` (8.7)."""
    planes = unzstd(chunk.rest(), elements * width)
    check(len(planes) == elements * width, "a Zstandard frame holds less than it should")
    return np.frombuffer(planes, np.uint8).reshape(width, elements).T.tobytes()


def decode_floats(chunk: Cursor, kind: str, decode: Callable[[Cursor], Ints]) -> Ints:
    """Floats of any kind, where `decode` does 16-bit ones (8.2)."""
    if kind == "F32":
        halves = decode(Cursor(chunk.take(chunk.number("<u4"))))
        width = chunk.number("u1")
        check(width <= 16, "low halves are wider than 16 bits")
        return halves.astype("<u4") << 16 | chunk.plane(halves.size, width) << (16 - width)
    if kind == "short F16":
        long = chunk.array(LONG, chunk.number("<u4"))
        halves = decode(Cursor(chunk.rest())).astype(np.uint32)
        return put_exceptions((halves & 0x8000 | halves << 3 & 0x7FFF).astype("<u2"), long)
    return decode(Cursor(chunk.rest()))


def values(kind: str, magnitudes: Ints) -> Ints:
    """The values of magnitudes (9.2)."""
    if kind in ("F16", "short F16"):
        shifted = magnitudes << 3 if kind == "short F16" else magnitudes
        return shifted.astype(np.uint16).view(np.float16).astype(np.float32)
    bits = magnitudes << 16 if kind == "BF16" else magnitudes
    return bits.astype(np.uint32).view(np.float32)


@np.errstate(all="ignore")
def int8_bins(kind: str, scales: Ints, rule: str) -> Bins:
    """The bins of LLM.int8() for rows of some scales (9.2)."""
    one, top = np.float32(1), np.float32(127)
    toward = {"reciprocal-up-times127": np.inf, "reciprocal-down-times127": -np.inf}.get(rule)
    check(toward or rule in ("reciprocal-times127", "quotient127"), f"unknown rounding {rule!r}")
    reciprocal = one / scales if toward is None else np.nextafter(one / scales, np.float32(toward))
    factor = (top / scales if rule == "quotient127" else reciprocal * top)[:, None]

    def reached(magnitudes: Ints) -> Ints:
        half = values(kind, magnitudes).astype(np.float16).astype(np.float32)
        return np.concatenate([code_reached(half[:, :127], factor), half[:, 127:] > scales[:, None]], axis=1)

    return bins(kind, scales.size, reached)


@np.errstate(all="ignore")
def step_bins(kind: str, scales: Ints, steps: int, is_symmetric: bool) -> Bins:
    """The bins of steps for rows of some scales (9.3)."""
    factor, last = (np.float32(steps) / scales)[:, None], np.float32(128 if is_symmetric else 175)

    def reached(magnitudes: Ints) -> Ints:
        value = values(kind, magnitudes)
        beyond = np.rint(value[:, 127:] * factor) > last
        return np.concatenate([code_reached(value[:, :127], factor), beyond], axis=1)

    return bins(kind, scales.size, reached)


def code_reached(weights: Ints, factor: Ints) -> Ints:
    """Whether the weight in column k - 1 has a code of k or more."""
    return np.rint(weights * factor) >= np.arange(1, 128, dtype=np.float32)


@np.errstate(all="ignore")
def bins(kind: str, rows: int, reached: Callable[[Ints], Ints]) -> Bins:
    """Bins from their edges, which are the least magnitudes of which `reached` holds (9.2)."""
    low = np.zeros((rows, 128), np.int64)  # column k - 1 becomes first[k]
    high = np.full_like(low, FLOATS[kind][1] + 1)
    while (low < high).any():
        middle = (low + high) // 2
        yes = reached(middle)
        low = np.where(yes | (low == high), low, middle + 1)
        high = np.where(yes, middle, high)
    first = low
    first[:, 127] = np.maximum(first[:, 127], first[:, 126])

    half_shift = 16 if kind == "F32" else 0
    lo = first[:, :127] >> half_shift
    last = np.maximum(lo, (first[:, 1:] - 1) >> half_shift)
    size = np.minimum(last - lo + 1, 1 << 15)
    zero, whole = np.zeros((rows, 1), np.int64), np.ones((rows, 1), np.int64)
    lo, size = np.concatenate([zero, lo], axis=1), np.concatenate([whole, size], axis=1)
    return Bins(lo, np.minimum(65535, 65536 // size).astype(np.uint32))
