"""Decodes single chunks: sections 7 to 9 of docs/format.md, which the section numbers cite.

Written from that document alone, as `second_decoder` is; plain rather than fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

Ints = npt.NDArray[Any]
Json = dict[str, Any]

MIB = 1 << 20

#: Per kind of floats: mantissa bits of the (high half's) 16 bits, and the magnitude of infinity. `short F16` is F16
#: without the three zeros at the end of each mantissa (8.2).
FLOATS = {"BF16": (7, 0x7F80), "F16": (10, 0x7C00), "short F16": (7, 0xF80), "F32": (7, 0x7F80_0000)}
LONG = np.dtype([("at", "<u4"), ("value", "<u2")])
#: Per small float: bits, mantissa bits, bias, and the greatest magnitude that is a number (9.3).
SMALL_FLOATS = {"e4m3": (8, 3, 7, 126), "e5m2": (8, 2, 15, 123), "e2m1": (4, 1, 1, 7)}
INTEGERS = ("unsigned", "signed", "offset")
#: The dtypes of arrays that have each type of numbers (9.1), those of codes apart.
NUMBERS = {
    "f32": ("F32",),
    "f16": ("F16",),
    "bf16": ("BF16",),
    "e4m3": ("F8_E4M3", "U8"),
    "e5m2": ("F8_E5M2", "U8"),
    "e8m0": ("F8_E8M0", "U8"),
}


class DamageError(Exception):
    """The store is not what the format says."""


def check(condition: object, problem: str) -> None:
    if not condition:
        raise DamageError(problem)


def has_fields(value: Json, required: str, optional: str = "") -> None:
    """Unknown fields are an error (2, 4)."""
    check(isinstance(value, dict), f"no object: {value!r}")
    names, needed = set(value), set(required.split())
    check(needed <= names <= needed | set(optional.split()), f"fields {sorted(names)}, not {required}")


def is_integer(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def is_pair(value: object, least: int, most: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_integer(each, least, most) for each in value)


def bits_of(dtype: str) -> int:
    return 8 if dtype == "BOOL" else int(re.findall(r"\d+", dtype)[0])


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

    def advance(self, lanes: Ints | slice, states: Ints) -> None:
        """Sets the states of some lanes, which take words where they are small."""
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
            self.advance(lanes, table.frequency[slot] * (states >> 12) + table.offset[slot])
        return row

    def uniform(self, frequencies: Ints, coded: Ints) -> Ints:
        """One row of `r`, each uniform with its own frequency; 0, and no lane used, where not `coded`."""
        row = np.zeros(coded.size, np.uint32)
        for begin in range(0, coded.size, self.states.size):
            lanes = np.flatnonzero(coded[begin : begin + self.states.size])
            states, frequency = self.states[lanes], frequencies[begin + lanes]
            slot = states & 0xFFFF
            row[begin + lanes] = r = slot // frequency
            self.advance(lanes, frequency * (states >> 16) + slot - r * frequency)
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


class Packing(NamedTuple):
    """How numbers lie in words (9.2)."""

    bits: int
    word: int
    along_rows: bool
    order: list[int] | None

    @classmethod
    def of(cls, packing: Json) -> Packing:
        has_fields(packing, "bits word along", "order")
        bits, word, order = packing["bits"], packing["word"], packing.get("order")
        check(is_integer(bits, 1, 8) and word in (8, 16, 32, 64), f"no packing: {packing}")
        check(packing["along"] in ("rows", "columns"), "numbers lie along rows or columns")
        whole = order is None or (word % bits == 0 and sorted(order) == list(range(word // bits)))
        check(whole, "an order that is no permutation of a word's numbers")
        return cls(bits, word, packing["along"] == "rows", order)

    def shape(self, words: list[int]) -> list[int]:
        """The rows and columns of the numbers in a matrix of words."""
        rows, cols = words
        if self.along_rows:
            return [rows * self.word // self.bits, cols]
        return [rows, cols * self.word // self.bits]

    def fills(self, words: list[int]) -> bool:
        """Whether nothing is left of the last word."""
        return words[0 if self.along_rows else 1] * self.word % self.bits == 0

    def unpack(self, words: Ints) -> Ints:
        """The numbers in a matrix of words."""
        if self.along_rows:
            return np.transpose(self._unpack(words.T))
        return self._unpack(words)

    def pack(self, codes: Ints) -> Ints:
        """Inverse of `unpack`, where codes fill the words."""
        if self.along_rows:
            return np.transpose(self._pack(codes.T))
        return self._pack(codes)

    def _places(self, order: list[int]) -> Ints:
        return np.array([place * self.bits for place in order], np.uint64)

    def _unpack(self, words: Ints) -> Ints:
        rows, count = words.shape[0], words.shape[1] * self.word // self.bits
        if self.order is None:
            data = np.frombuffer(words.tobytes(), np.uint8).reshape(rows, words.shape[1] * self.word // 8)
            return unpacked(data, self.bits, count).astype(np.int64)
        numbers: Ints = words.astype(np.uint64)[..., None] >> self._places(self.order)
        numbers &= np.uint64((1 << self.bits) - 1)
        return numbers.reshape(rows, count).astype(np.int64)

    def _pack(self, codes: Ints) -> Ints:
        (rows, cols), dtype = codes.shape, np.dtype(f"<u{self.word // 8}")
        words = cols * self.bits // self.word
        if self.order is None:
            data = packed(codes.astype(np.uint32), self.bits).tobytes()
            return np.frombuffer(data, dtype).reshape(rows, words)
        numbers = codes.astype(np.uint64).reshape(rows, words, len(self.order)) << self._places(self.order)
        joined: Ints = np.bitwise_or.reduce(numbers, axis=2)
        return joined.astype(dtype)


@dataclass(frozen=True)
class Part:
    """An array that says something of a matrix."""

    dtype: str
    shape: list[int]
    data: bytes

    @property
    def width(self) -> int:
        """Bytes of an element (6)."""
        return max(1, bits_of(self.dtype) // 8)

    def viewed(self, view: Json) -> Ints:
        """The matrix that a view takes out of it, as unsigned integers (9.2)."""
        return View.of(view, self.dtype, self.shape).of_bytes(self.data)


@dataclass(frozen=True)
class View:
    """A matrix in an array (9.2): some rows of its elements, turned or not, and of these some in an order."""

    width: int
    rows: int
    pitch: int
    slab: tuple[int, int]
    transposed: bool
    order: tuple[int, int] | None
    taken: tuple[int, int]

    @classmethod
    def of(cls, view: Json, dtype: str, shape: list[int]) -> View:
        """A view of an array, once it was checked."""
        has_fields(view, "", "pitch slab transposed order rows")
        check(view.get("transposed", True) is True, "transposed where it is not")
        bits, count = bits_of(dtype), math.prod(shape)
        if bits < 8:
            count = count * bits // 8
        width = max(1, bits // 8)
        check(width in (1, 2, 4, 8), f"a view of {dtype}")
        pitch = view.get("pitch", shape[-1] if shape else 1)
        check(is_integer(pitch, 1, 1 << 62) and count % pitch == 0, f"rows of {pitch}")
        slab = some_of(count // pitch, view.get("slab"))
        transposed = "transposed" in view
        order = None
        lines = pitch if transposed else slab[1] - slab[0]
        if "order" in view:
            check(is_pair(view["order"], 1, 1 << 62), "no order of rows")
            order = view["order"][0], view["order"][1]
            check(lines % (order[0] * order[1]) == 0, "blocks of rows that are not filled")
        is_large = (slab[1] - slab[0]) * pitch * width > 256 * MIB
        check(not is_large or not (transposed or order), "a slab that is too large")
        return cls(width, count // pitch, pitch, slab, transposed, order, some_of(lines, view.get("rows")))

    @property
    def slab_shape(self) -> tuple[int, int]:
        """Rows and columns of the slab, turned or not."""
        rows = self.slab[1] - self.slab[0]
        return (self.pitch, rows) if self.transposed else (rows, self.pitch)

    @property
    def shape(self) -> list[int]:
        return [self.taken[1] - self.taken[0], self.slab_shape[1]]

    @property
    def is_all(self) -> bool:
        """Whether it is the whole array as it lies there."""
        in_order = not self.transposed and self.order is None
        return in_order and self.slab == (0, self.rows) and self.taken == (0, self.rows)

    def _slab_of(self, elements: Ints) -> Ints:
        slab = elements.reshape(self.rows, self.pitch)[slice(*self.slab)]
        return slab.T if self.transposed else slab

    def _old_rows(self) -> Ints:
        """Of each row, which one of the slab it was."""
        old = np.arange(self.slab_shape[0])
        if self.order:
            old = old.reshape(-1, *self.order).swapaxes(1, 2).reshape(-1)
        return old[slice(*self.taken)]

    def of_bytes(self, data: bytes) -> Ints:
        """The matrix that it takes out of an array's bytes."""
        matrix = self._slab_of(np.frombuffer(data, f"<u{self.width}"))
        return matrix[self._old_rows()] if self.order else matrix[slice(*self.taken)]

    def put(self, elements: Ints, data: bytes) -> None:
        """Puts a matrix's bytes where they belong in an array's elements."""
        self._slab_of(elements)[self._old_rows()] = np.frombuffer(data, elements.dtype).reshape(self.shape)


def some_of(count: int, rows: list[int] | None) -> tuple[int, int]:
    """Where some of so many rows begin and end: all of them if nothing is said."""
    if rows is None:
        return 0, count
    check(is_pair(rows, 0, count) and rows[0] <= rows[1], f"no rows {rows}")
    return rows[0], rows[1]


#: Finds the array that a REF leads to.
Fetch = Callable[[Json], Part]


@dataclass(frozen=True)
class Field:
    """Numbers in an array (9.2): words, of which each is a number where there is no packing."""

    dtype: str
    words: Ints
    packing: Packing | None

    @classmethod
    def of(cls, field: Json, fetch: Fetch) -> Field:
        has_fields(field, "array", "view packing")
        part = fetch(field["array"])
        packing = Packing.of(field["packing"]) if "packing" in field else None
        check(not packing or packing.word == part.width * 8, f"words of another length in {part.dtype}")
        return cls(part.dtype, part.viewed(field.get("view", {})), packing)

    @classmethod
    def of_values(cls, field: Json, fetch: Fetch) -> Field:
        """One of a VALUES (11)."""

        def small(ref: Json) -> Part:
            part = fetch(ref)
            check(len(part.data) <= 128 * MIB, "too much that says what codes stand for")
            return part

        return cls.of(field, small)

    def codes(self) -> Ints:
        """Numbers of some bits, or of a byte each."""
        if self.packing:
            return self.packing.unpack(self.words)
        check(self.words.dtype.itemsize == 1, f"codes of {self.dtype}")
        return self.words.astype(np.int64)

    @np.errstate(all="ignore")
    def numbers(self, kind: str) -> Ints:
        """Numbers of a type, as binary32 (9.1)."""
        if kind in ("unsigned", "signed"):
            return Levels.of(kind, self.packing).of_codes(self.codes()).astype(np.float32)
        check(self.dtype in NUMBERS.get(kind, ()), f"{kind} in {self.dtype}")
        if kind in ("e4m3", "e5m2"):
            return Levels.of({"float": kind}, self.packing).of_codes(self.codes())
        check(not self.packing, f"a packing of {kind}")
        if kind == "e8m0":
            powers = np.exp2(self.words.astype(np.float64) - 127).astype(np.float32)
            return np.where(self.words == 255, np.float32(np.nan), powers)
        words = np.ascontiguousarray(self.words)
        if kind == "bf16":
            return (words.astype(np.uint32) << 16).view(np.float32)
        return words.view(np.float16 if kind == "f16" else np.float32).astype(np.float32)


def binary32(number: float | Decimal) -> np.float32:
    """A NUMBER: the binary32 nearest to a decimal number (9.1)."""
    check(type(number) in (int, float, Decimal) and math.isfinite(number), f"{number!r} is no number")
    exact = Fraction(number)
    check(abs(exact) < 1 << 128, f"{number} is too large")
    near = np.float32(float(exact))
    with np.errstate(all="ignore"):
        beside = [np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)]
    check(np.isfinite(near), f"{number} is too large")
    return min(
        (each for each in (near, *beside) if np.isfinite(each)),
        key=lambda each: (abs(Fraction(float(each)) - exact), int(each.view(np.uint32)) & 1),
    )


class Levels(NamedTuple):
    """What codes of some bits are before scale and zero-point (9.1): `kind` is that of integers, a small float, or a
    table; integers may be cut to fewer than there are codes."""

    kind: str
    bits: int
    table: Ints | None = None
    between: tuple[int, int] | None = None

    @classmethod
    def of(cls, levels: object, packing: Packing | None) -> Levels:
        """The levels of codes in this packing, or of a byte each."""
        bits = packing.bits if packing else 8
        if not isinstance(levels, dict):
            check(levels in INTEGERS, f"unknown levels {levels!r}")
            return cls(str(levels), bits)
        if "float" in levels:
            has_fields(levels, "float")
            kind = levels["float"]
            check(kind in SMALL_FLOATS and SMALL_FLOATS[kind][0] == bits, f"{kind} of {bits} bits")
            return cls(kind, bits)
        if "between" in levels:
            has_fields(levels, "between")
            least, most = levels["between"]
            check(is_integer(least, -128, 0) and is_integer(most, 1, 127) and bits == 8, "levels between none")
            return cls("signed", bits, between=(least, most))
        has_fields(levels, "table")
        check(len(levels["table"]) == 1 << bits, "a table of another size")
        return cls("table", bits, np.array([binary32(number) for number in levels["table"]], np.float32))

    @property
    def are_integers(self) -> bool:
        return self.kind in INTEGERS

    @property
    def middle(self) -> int:
        """The middle of the codes (9.5)."""
        return 1 << (self.bits - 1) if self.kind == "unsigned" else 0

    @property
    def last_bin(self) -> int:
        """K (9.4)."""
        return (1 << (self.bits - 1)) - 1 if self.are_integers else SMALL_FLOATS[self.kind][3]

    def of_codes(self, codes: Ints) -> Ints:
        """The levels of codes: of integers as such, of others as binary32."""
        half = 1 << (self.bits - 1)
        if self.kind == "signed":
            return (codes.astype(np.int64) ^ half) - half
        if self.are_integers:
            return codes.astype(np.int64) - (half if self.kind == "offset" else 0)
        of_all = self._floats() if self.table is None else self.table
        return np.take(of_all, codes)

    def _floats(self) -> Ints:
        """The small float of each code (9.3)."""
        _, mantissa_bits, bias, greatest = SMALL_FLOATS[self.kind]
        magnitudes = np.arange(1 << (self.bits - 1))
        exponent, mantissa = magnitudes >> mantissa_bits, magnitudes & ((1 << mantissa_bits) - 1)
        whole = mantissa + np.where(exponent > 0, 1 << mantissa_bits, 0)
        positive = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - bias - mantissa_bits)
        positive[greatest + 1 :] = np.nan
        if self.kind == "e5m2":
            positive[greatest + 1] = np.inf
        return np.concatenate([positive, -positive]).astype(np.float32)

    def bins(self, codes: Ints) -> Ints:
        """The bins of codes (8.3)."""
        return self.of_codes(codes) if self.are_integers else signed_magnitudes(codes, self.bits, 0)

    def ranks(self) -> Ints:
        """The rank of each code, not yet modulo 256 (8.5)."""
        codes = np.arange(1 << self.bits)
        if self.are_integers:
            return self.of_codes(codes)
        if self.table is None:
            return signed_magnitudes(codes, self.bits, -1)
        return np.argsort(np.argsort(self.table, kind="stable"))

    def of_ranks(self, ranks: Ints) -> Ints:
        """The codes that have these ranks, modulo 256 (8.5)."""
        modulus = 1 << self.bits if self.are_integers else 256
        code: Ints = np.full(modulus, -1)
        code[self.ranks() % modulus] = np.arange(1 << self.bits)
        codes: Ints = code[ranks % modulus]
        check((codes >= 0).all(), "a rank that no code has")
        return codes

    @np.errstate(all="ignore")
    def nearest(self, x: Ints) -> Ints:
        """The ranks of the levels nearest to `x`, which is binary32 (8.5)."""
        if self.are_integers:
            half = 1 << (self.bits - 1)
            least = {"unsigned": 0, "signed": 1 - half, "offset": -half}[self.kind]
            most = 2 * half - 1 if self.kind == "unsigned" else half - 1
            least, most = self.between or (least, most)
            return np.clip(np.where(np.isnan(x), least, np.rint(x)), least, most).astype(np.int64)
        if self.table is None:
            size = np.minimum(self.magnitudes(np.abs(x)), SMALL_FLOATS[self.kind][3])
            size = np.where(np.isnan(x), 0, size).astype(np.int64)
            return np.where(x < 0, -1 - size, size)
        in_order = np.sort(self.table, kind="stable")
        not_below = np.searchsorted(in_order, x, "left")
        below, above = np.maximum(not_below - 1, 0), np.minimum(not_below, in_order.size - 1)
        is_below = np.abs(x - in_order[below]) <= np.abs(x - in_order[above])
        return np.where(np.isnan(x), 0, np.where(is_below, below, above))

    @np.errstate(all="ignore")
    def magnitudes(self, x: Ints) -> Ints:
        """The magnitudes of small floats (9.3), infinity and NaN as they are."""
        _, mantissa_bits, bias, _ = SMALL_FLOATS[self.kind]
        wide = np.maximum(x.astype(np.float64), 0)
        finite = np.where(np.isfinite(wide), wide, 1)
        exponent = np.maximum(np.where(finite > 0, np.frexp(finite)[1] - 1, 1 - bias), 1 - bias)
        steps = np.rint(np.ldexp(finite, mantissa_bits - exponent))
        return np.where(np.isfinite(wide), steps + (exponent - (1 - bias)) * 2.0**mantissa_bits, wide)


def signed_magnitudes(codes: Ints, bits: int, below: int) -> Ints:
    """Codes without their sign bit, or, where that is set, `below` less that."""
    sign = 1 << (bits - 1)
    return np.where(codes & sign, below - (codes & ~sign), codes)


@dataclass(frozen=True)
class Values:
    """What the codes of a matrix stand for (9.1): a group of each column, and by row and group `a` of the scale (`b` is
    the same everywhere) and a zero-point; and whether all of these are in the middle (9.5)."""

    levels: Levels
    groups: Ints
    a: Ints
    b: np.float32
    zeros: Ints
    has_bias: bool
    are_centred: bool
    rule: Json | None

    @classmethod
    def of(cls, values: Json, shape: list[int], packing: Packing | None, fetch: Fetch) -> Values:
        """Those that are described, of a matrix of this shape whose codes have this packing."""
        has_fields(values, "levels", "scales zero column_groups rule")
        levels, scales, zero = Levels.of(values["levels"], packing), values.get("scales", []), values.get("zero", {})
        check(len(scales) <= 4 and len(zero) <= 1, "too many scales, or several zero-points")
        check(set(zero) <= {"constant", "codes", "bias"}, f"unknown zero-points {list(zero)}")
        tiles = Tiles.of(values, shape, fetch)
        a: Ints = np.ones((shape[0], tiles.starts.size), np.float32)
        b = np.float32(1)
        for number, scale in enumerate(scales):
            check(len(scale) == 1, "a scale is one factor")
            (way, factor), is_last = next(iter(scale.items())), number == len(scales) - 1
            check(way in ("times", "over"), f"unknown scale {way!r}")
            if way == "over" and "constant" in factor and is_last and len(scales) > 1:
                b = np.float32(tiles.factor(factor, fetch))
            else:
                with np.errstate(all="ignore"):
                    of_tiles = tiles.factor(factor, fetch)
                    a = a * of_tiles if way == "times" else a / of_tiles
        rule = values.get("rule")
        check(rule is None or is_rule(rule), f"unknown rule {rule}")
        with np.errstate(all="ignore"):
            if rule and rule["inverse"] == "reciprocal-bf16":
                a = np.float32(1) / rounded(np.float32(1) / a, "bf16")
            if rule and rule["inverse"] == "anchored" and "bias" in zero:
                bias = tiles.numbers(zero["bias"], fetch)
                exact = bias / np.rint(bias / a)
                is_normal = np.isfinite(exact) & (np.abs(exact) >= np.finfo(np.float32).tiny)
                a = np.where(is_normal, exact, a)
        zeros: Ints = np.zeros(a.shape, np.int64)
        if "constant" in zero:
            check(is_integer(zero["constant"], -32768, 32767), "a zero-point that is too large")
            zeros += zero["constant"]
        elif "codes" in zero:
            has_fields(zero["codes"], "field levels tile", "add")
            stored = Field.of_values(zero["codes"]["field"], fetch)
            check(zero["codes"]["levels"] in INTEGERS, "zero-points that are no integers")
            of_stored, add = Levels.of(zero["codes"]["levels"], stored.packing), zero["codes"].get("add", 0)
            check(is_integer(add, 0, 255), "zero-points that lack too much")
            codes = tiles.spread(stored.codes(), zero["codes"]["tile"])
            zeros = of_stored.of_codes(codes + add & ((1 << of_stored.bits) - 1))
        elif "bias" in zero:
            with np.errstate(all="ignore"):
                zeros = -tiles.numbers(zero["bias"], fetch) / (a / b)
        are_centred = "bias" not in zero and bool((zeros == levels.middle).all())
        return cls(levels, tiles.groups, a, b, zeros, "bias" in zero, are_centred, rule)

    @property
    @np.errstate(all="ignore")
    def scales(self) -> Ints:
        return self.a / self.b

    def fitted(self, rows: int, cols: int) -> Values:
        """Those of a matrix with more rows or columns, or fewer (9.1)."""
        old_rows, old_cols = self.a.shape[0], self.groups.size
        row, col = np.minimum(np.arange(rows), old_rows - 1), np.minimum(np.arange(cols), old_cols - 1)
        return replace(self, groups=self.groups[col], a=self.a[row], zeros=self.zeros[row])

    def fitted_codes(self, codes: Ints) -> Ints:
        """The codes of the matrix that these values were `fitted` to, with the fill where there are none (9.1)."""
        (rows, cols), last_zero = (self.a.shape[0], self.groups.size), self.zeros[-1, self.groups[-1]]
        fill = self.levels.of_ranks(self.levels.nearest(np.array(last_zero, np.float32)))
        all_codes = np.full((rows, cols), fill, np.int64)
        codes = codes[:rows, :cols]
        all_codes[: codes.shape[0], : codes.shape[1]] = codes
        return all_codes

    def cut(self, rows: slice, cols: slice) -> Values:
        """Those of some rows and columns."""
        return replace(self, groups=self.groups[cols], a=self.a[rows], zeros=self.zeros[rows])

    def of_elements(self) -> tuple[Ints, Ints]:
        """The scale and the zero-point of each element."""
        return self.scales[:, self.groups], self.zeros[:, self.groups]


@dataclass(frozen=True)
class Tiles:
    """The groups of a matrix (9.1): that of each column, the first column of each, and whether they come from a list,
    so that numbers are looked up by group."""

    rows: int
    groups: Ints
    starts: Ints
    are_listed: bool

    @classmethod
    def of(cls, values: Json, shape: list[int], fetch: Fetch) -> Tiles:
        rows, cols = shape
        widths = set()
        for tile in (described["tile"] for described in tiled(values)):
            check(is_pair(tile, 1, 1 << 62), f"no tile: {tile}")
            widths.add(tile[1])
        if "column_groups" in values:
            has_fields(values["column_groups"], "field count")
            count = values["column_groups"]["count"]
            check(is_integer(count, 1, min(2 * cols, 1 << 17)), "a number of groups")
            field = Field.of_values(values["column_groups"]["field"], fetch)
            fits = field.words.shape[0] >= cols and field.words.shape[1] == 1
            check(field.dtype == "I32" and not field.packing and fits, "groups that do not fit")
            groups = field.words[:cols, 0].astype(np.int64)
            check((groups < count).all(), "a group that there is not")
            return cls(rows, groups, np.arange(count), True)
        check(all(-(-cols // width) <= 1 << 17 for width in widths), "too many groups")
        in_order = np.array(sorted({start for width in (cols, *widths) for start in range(0, cols, width)}))
        check(in_order.size <= 1 << 17, "too many groups")
        return cls(rows, np.searchsorted(in_order, np.arange(cols), "right") - 1, in_order, False)

    def spread(self, numbers: Ints, tile: list[int]) -> Ints:
        """The number of each row and group, of a field that has one for each tile."""
        row = np.arange(self.rows) // tile[0]
        col = self.starts if self.are_listed else self.starts // tile[1]
        for has, asks in zip(numbers.shape, (row[-1] + 1, col[-1] + 1), strict=True):
            check(asks <= has <= 2 * asks + 64, f"{numbers.shape} numbers where tiles ask for {asks}")
        check((row[-1] + 1) * self.starts.size <= 1 << 26, "too many tiles")
        return numbers[row[:, None], col]

    def numbers(self, numbers: Json, fetch: Fetch) -> Ints:
        has_fields(numbers, "field number tile")
        return self.spread(Field.of_values(numbers["field"], fetch).numbers(numbers["number"]), numbers["tile"])

    def factor(self, factor: Json, fetch: Fetch) -> Ints:
        """A constant, or the number of each row and group."""
        if "constant" in factor:
            has_fields(factor, "constant")
            check(binary32(factor["constant"]) != 0, "a factor of 0")
            return np.array(binary32(factor["constant"]))
        if "nested" in factor:
            has_fields(factor, "nested")
            return self.nested(factor["nested"], fetch)
        has_fields(factor, "numbers")
        return self.numbers(factor["numbers"], fetch)

    @np.errstate(all="ignore")
    def nested(self, nested: Json, fetch: Fetch) -> Ints:
        """Numbers that are quantised as well (9.1)."""
        has_fields(nested, "codes table scales block offset")
        has_fields(nested["codes"], "field number tile")
        check(nested["codes"]["number"] == "unsigned" and is_integer(nested["block"], 1, 1 << 62), "nested codes")
        of_codes = Field.of_values(nested["codes"]["field"], fetch)
        codes = of_codes.codes()

        def column(name: str, needed: int) -> Ints:
            numbers = Field.of_values(nested[name], fetch).numbers("f32")
            check(numbers.shape[1] == 1 and needed <= len(numbers) <= 2 * needed + 64, f"a nested {name}")
            return numbers[:, 0]

        block = np.arange(codes.size).reshape(codes.shape) // nested["block"]
        table = column("table", 1 << (of_codes.packing.bits if of_codes.packing else 8))
        numbers = table[codes] * column("scales", int(block.max()) + 1)[block] + binary32(nested["offset"])
        return self.spread(numbers, nested["codes"]["tile"])


def tiled(values: Json) -> list[Json]:
    """Each NUMBERS of a VALUES, and its zero-points: what has tiles."""
    factors = [factor for scale in values.get("scales", []) for factor in scale.values()]
    numbers = [factor["numbers"] for factor in factors if "numbers" in factor]
    numbers += [factor["nested"]["codes"] for factor in factors if "nested" in factor]
    zero = values.get("zero", {})
    return numbers + [zero[kind] for kind in ("codes", "bias") if kind in zero]


@np.errstate(all="ignore")
def expected_ranks(codes: Ints, given: Values, own: Values) -> Ints:
    """What the codes of some rows let expect of those of another quantiser (8.5)."""
    (scale, zero), (own_scale, own_zero) = given.of_elements(), own.of_elements()
    ratio = scale / own_scale
    offset = own_zero.astype(np.float32) - zero.astype(np.float32) * ratio
    x = given.levels.of_codes(codes).astype(np.float32) * ratio + offset
    return own.levels.nearest(x)


def decode_code_residual(head: Cursor, chunk: Cursor, codes: Ints, given: Values, own: Values, lanes: int) -> Ints:
    """The codes of a chunk of `code-residual` (8.5), which is given `codes`."""
    shifts = decode_codes(head, chunk, codes.size, codes.shape[1], lanes).reshape(codes.shape)
    return own.levels.of_ranks(expected_ranks(codes, given, own) + shifts)


@np.errstate(all="ignore")
def decode_rounded(head: Cursor, chunk: Cursor, floats: Ints, own: Values, lanes: int) -> Ints:
    """The codes of a chunk of `rounded` (8.9), which is given `floats` as binary32."""
    shifts = decode_codes(head, chunk, floats.size, floats.shape[1], lanes).reshape(floats.shape)
    _, zeros = own.of_elements()
    levels = results_by_rule(floats, own.a[:, own.groups], own.b, own.rule or {"inverse": "division"})
    return own.levels.of_ranks(own.levels.nearest(levels + zeros.astype(np.float32)) + shifts)


@np.errstate(all="ignore")
def decode_near(chunk: Cursor, dtype: str, floats: Ints, times: np.float32) -> bytes:
    """The floats of a chunk of `near` (8.10), which is given `floats` as binary32."""
    kind = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}[dtype]
    numbers = np.frombuffer(decode_zstd(chunk, floats.size, np.dtype(kind).itemsize), kind).reshape(floats.shape)
    return of_distances(numbers, floats * times, dtype)


@np.errstate(all="ignore")
def decode_dequantized(chunk: Cursor, dtype: str, codes: Ints, given: Values) -> bytes:
    """The floats of a chunk of `dequantized` (8.11)."""
    scale, zero = given.of_elements()
    numbers = given.levels.of_codes(codes).astype(np.float32) - zero.astype(np.float32)
    kind = np.dtype(np.uint32 if dtype == "F32" else np.uint16)
    distances = np.frombuffer(decode_zstd(chunk, codes.size, kind.itemsize), kind).reshape(codes.shape)
    return of_distances(distances, scale * numbers, dtype)


@np.errstate(all="ignore")
def of_distances(numbers: Ints, near: Ints, dtype: str) -> bytes:
    """Floats that lie so far off expected ones (8.10)."""
    kind = numbers.dtype.type
    one, half = kind(1), kind(1) << kind(np.iinfo(kind).bits - 1)
    if dtype == "F16":
        bits: Ints = near.astype(np.float16).view(np.uint16)
    else:
        bits = rounded(near, dtype.lower()).view(np.uint32)
        bits = (bits >> 16).astype(np.uint16) if dtype == "BF16" else bits
    bits = np.where(np.isnan(near), kind(0), bits)
    ordinals = np.where(bits < half, bits | half, ~bits)
    ordinals = ordinals + np.where(numbers & one, ~(numbers >> one), numbers >> one)
    return np.where(ordinals < half, ~ordinals, ordinals ^ half).astype(kind).tobytes()


def decode_packed(head: Cursor, chunk: Cursor, packing: Packing, words: list[int], lanes: int) -> Ints:
    """The codes of a chunk of `codes` with a packing (8.1), which is a matrix of words."""
    (rows, cols), bits = packing.shape(words), packing.bits
    run = 8 // bits
    runs = -(-cols // run)
    symbols = decode_codes(head, chunk, rows * runs, runs, lanes).reshape(rows, runs, 1)
    codes: Ints = symbols >> np.arange(run, dtype=np.uint8) * np.uint8(bits) & np.uint8((1 << bits) - 1)
    return codes.reshape(rows, runs * run)[:, :cols]


class Bins(NamedTuple):
    """`lo[k]` and `f[k]`, k from 0 to 127, of each row and run (8.3, 9.4)."""

    lo: Ints
    frequency: Ints


def decode_places(
    table: Table, chunk: Cursor, mantissa_bits: int, bins: Ints, groups: Ints, of_run: Bins, lanes: int
) -> Ints:
    """The bits of 16-bit floats, or of the high halves of F32, from a chunk that is as those of 8.3.

    `bins` has the bin of each weight, `groups` the group of each column; `of_run` has those with a column.
    """
    order, runs = np.argsort(groups, kind="stable"), np.unique(groups, return_inverse=True)[1]
    run_of_column = runs[order]
    ends = np.cumsum(np.bincount(runs))
    in_order = bins[:, order]
    is_zero, j = in_order == 0, np.minimum(np.abs(in_order), 127)
    row_of_zero, col_of_zero = np.nonzero(is_zero)
    check(len(bins) * ends.size <= 1 << 17, "a chunk of too many groups")
    count, states = chunk.number("<u4"), chunk.array("<u4", lanes)
    plane = chunk.plane(row_of_zero.size, mantissa_bits + 1)
    exceptions = chunk.array(exception_of("<u2"), count)
    coder = Coder(states, chunk.rest())

    below = coder.symbols(table, row_of_zero.size).astype(np.int64)
    lowest = of_run.lo[row_of_zero, run_of_column[col_of_zero], 1]
    exponent = np.maximum(0, (lowest >> mantissa_bits) - below)
    mantissa, sign = plane & ((1 << mantissa_bits) - 1), plane >> mantissa_bits
    coded = np.empty(bins.shape, "<u2")
    coded[is_zero] = sign << 15 | exponent << mantissa_bits | mantissa
    for row in range(len(bins)):
        for run, end in enumerate(ends):
            part = slice(ends[run - 1] if run else 0, end)
            at = j[row, part]
            r = coder.uniform(of_run.frequency[row, run, at], at != 0)
            magnitude = (of_run.lo[row, run, at] + r) & 0x7FFF
            signed = (in_order[row, part] < 0) * 0x8000 | magnitude
            coded[row, part] = np.where(at == 0, coded[row, part], signed)
    coder.finish()
    coded = put_exceptions(coded.reshape(-1), exceptions).reshape(bins.shape)
    back = np.empty_like(coded)
    back[:, order] = coded
    return back.reshape(-1)


def decode_residual(head: Cursor, chunk: Cursor, kind: str, codes: Ints, given: Values, lanes: int) -> Ints:
    """Floats from a chunk of `residual` (8.3), which is given `codes`; `kind` is that of the floats."""
    table = Table.read(head, lanes)
    head.end()
    of_run, bins = rule_bins(kind, given), given.levels.bins(codes)
    return decode_floats(
        chunk, kind, lambda part: decode_places(table, part, FLOATS[kind][0], bins, given.groups, of_run, lanes)
    )


def decode_step_residual(
    head: Cursor, chunk: Cursor, kind: str, codes: Ints, given: Values, subdivisions: int, lanes: int
) -> Ints:
    """Floats from a chunk of `step-residual` (8.4), which is given `codes`; `kind` is that of the floats."""
    tables, table = Table.read_list(head, lanes), Table.read(head, lanes)
    head.end()
    part = Cursor(chunk.take(chunk.number("<u4")))
    shifts = classed_symbols(tables, part, codes.size, codes.shape[1], lanes).reshape(codes.shape)
    part.end()
    multiples = (expected_multiples(codes, given, subdivisions) + shifts & 0xFF).astype(np.uint8).view(np.int8)
    of_run, bins = step_bins(kind, given, subdivisions), multiples.astype(np.int64)
    return decode_floats(
        chunk, kind, lambda part: decode_places(table, part, FLOATS[kind][0], bins, given.groups, of_run, lanes)
    )


@np.errstate(all="ignore")
def expected_multiples(codes: Ints, given: Values, subdivisions: int) -> Ints:
    """The multiples that codes let expect (8.4)."""
    levels, (_, zeros) = given.levels.of_codes(codes), given.of_elements()
    if given.levels.are_integers and not given.has_bias and subdivisions >= 0:
        return (levels - zeros) << subdivisions
    unit = np.float32(2.0**subdivisions)
    offset = -(zeros.astype(np.float32) * unit)
    multiple = np.rint(levels.astype(np.float32) * unit + offset)
    return np.clip(np.where(np.isnan(multiple), -127, multiple), -127, 127).astype(np.int64)


def decode_zstd(chunk: Cursor, elements: int, width: int) -> bytes:
    """A chunk of `zstd` (8.12)."""
    planes = unzstd(chunk.rest(), elements * width)
    check(len(planes) == elements * width, "a Zstandard frame holds less than it should")
    by_byte = np.frombuffer(planes, np.uint8).reshape(width, elements)
    return np.ascontiguousarray(by_byte.T).tobytes()


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


def is_rule(rule: Json) -> bool:
    has_fields(rule, "inverse", "weights result")
    roundings = ("reciprocal", "reciprocal-up", "reciprocal-down", "reciprocal-bf16")
    inverses = ("division", "quotient", "anchored", *roundings)
    rounded_to = {rule.get("weights", "f32"), rule.get("result", "f32")}
    return rule["inverse"] in inverses and rounded_to <= {"f32", "f16", "bf16"}


def values_of_magnitudes(kind: str, magnitudes: Ints) -> Ints:
    """The values of floats without a sign (9.4)."""
    if kind in ("F16", "short F16"):
        shifted = magnitudes << 3 if kind == "short F16" else magnitudes
        return shifted.astype(np.uint16).view(np.float16).astype(np.float32)
    bits = magnitudes << 16 if kind == "BF16" else magnitudes
    return bits.astype(np.uint32).view(np.float32)


def rounded(numbers: Ints, to: str) -> Ints:
    """Binary32 numbers that are rounded to another type (9.4)."""
    if to == "f16":
        return numbers.astype(np.float16).astype(np.float32)
    if to == "bf16":
        bits = numbers.view(np.uint32)
        up = bits + 0x7FFF + (bits >> 16 & 1) & np.uint32(0xFFFF_0000)
        return np.where(np.isnan(numbers), numbers, up.view(np.float32))
    return numbers


@np.errstate(all="ignore")
def results_by_rule(weights: Ints, a: Ints, b: np.float32, rule: Json) -> Ints:
    """What a rule takes weights to, before that becomes a code (9.4)."""
    weights, one, inverse = rounded(weights, rule.get("weights", "f32")), np.float32(1), rule["inverse"]
    if inverse in ("division", "anchored"):
        level = weights / (a / b)
    elif inverse == "reciprocal-bf16":
        level = weights * (rounded(one / a, "bf16") * b)
    elif inverse == "quotient":
        level = weights * (b / a)
    else:
        toward = {"reciprocal-up": np.inf, "reciprocal-down": -np.inf}.get(inverse)
        reciprocal = one / a if toward is None else np.nextafter(one / a, np.float32(toward))
        level = weights * (reciprocal * b)
    return rounded(level, rule.get("result", "f32"))


def rule_bins(kind: str, given: Values) -> Bins:
    """The bins of each row and run by the matrix's rule (9.4)."""
    rule, levels = given.rule, given.levels
    assert rule is not None
    a = given.a[:, np.unique(given.groups)]

    def codes(weights: Ints) -> Ints:
        results = results_by_rule(weights, a[..., None], given.b, rule)
        return np.rint(results) if levels.are_integers else levels.magnitudes(results)

    return bins_of(kind, a.shape, codes, levels.last_bin, levels.last_bin)


def step_bins(kind: str, given: Values, subdivisions: int) -> Bins:
    """The bins of each row and run by subdivisions of its scale (9.5)."""
    scales = given.scales[:, np.unique(given.groups)]
    with np.errstate(all="ignore"):
        factor = np.float32(2.0**subdivisions) / scales
    end = 128 if given.are_centred else 175
    return bins_of(kind, scales.shape, lambda weights: np.rint(weights * factor[..., None]), 127, end)


@np.errstate(all="ignore")
def bins_of(kind: str, shape: tuple[int, ...], codes: Callable[[Ints], Ints], last_bin: int, end: int) -> Bins:
    """The bins of rows and runs, of which `codes` has the codes of weights (9.4)."""
    reach = np.append(np.arange(1, last_bin + 1), end + 1)
    low = np.zeros((*shape, last_bin + 1), np.int64)  # column k - 1 becomes first[k]
    high = np.full_like(low, FLOATS[kind][1] + 1)
    while (low < high).any():
        middle = (low + high) // 2
        yes = codes(values_of_magnitudes(kind, middle)) >= reach
        low = np.where(yes | (low == high), low, middle + 1)
        high = np.where(yes, middle, high)
    first = low
    if last_bin:
        first[..., last_bin] = np.maximum(first[..., last_bin], first[..., last_bin - 1])

    half_shift = 16 if kind == "F32" else 0
    lo, size = np.zeros((*shape, 128), np.int64), np.ones((*shape, 128), np.int64)
    lo[..., 1 : last_bin + 1] = first[..., :-1] >> half_shift
    last = np.maximum(lo[..., 1 : last_bin + 1], (first[..., 1:] - 1) >> half_shift)
    size[..., 1 : last_bin + 1] = np.minimum(last - lo[..., 1 : last_bin + 1] + 1, 1 << 15)
    return Bins(lo, np.minimum(65535, 65536 // size).astype(np.uint32))
