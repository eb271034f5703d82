"""A second decoder of QStore stores, written from docs/format.md alone: it shares no code with the first.

It is there to keep that document honest, so it is plain rather than fast. Section numbers cite the document.
`chunk_decoder` and `interval_decoder` hold sections 7 to 9.
Usage: python second_decoder.py STORE VARIANT TARGET
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, lru_cache, partial
from pathlib import Path, PurePosixPath

import numpy as np
import xxhash

from chunk_decoder import (
    FLOATS,
    MIB,
    Cursor,
    DamageError,
    Fetch,
    Field,
    Ints,
    Json,
    Packing,
    Part,
    Values,
    View,
    binary32,
    bits_of,
    check,
    decode_code_residual,
    decode_codes,
    decode_dequantized,
    decode_float_split,
    decode_floats,
    decode_near,
    decode_packed,
    decode_residual,
    decode_rounded,
    decode_step_residual,
    decode_zstd,
    has_fields,
    is_integer,
    unzstd,
)
from interval_decoder import Around, Known, Scaled, Told, decode_refine, decode_refine_floats, read_factors

FORM_HEAD, FORM_CODED, FORM_RAW = 0, 1, 2
FLOAT_RESIDUALS = ("residual", "step-residual", "refine-floats")
FLOATS_OF_CODES = (*FLOAT_RESIDUALS, "dequantized")
RESIDUALS = (*FLOATS_OF_CODES, "code-residual", "refine", "rounded")
GIVEN_KINDS = (*RESIDUALS, "near")
#: Those whose elements are floats.
OF_FLOATS = (*FLOATS_OF_CODES, "near")
KINDS_WITH_HEAD = (*FLOAT_RESIDUALS, "code-residual", "rounded", "float-split", "codes")
KINDS_ELSEWHERE = ("reference", "slice", "parts")
KINDS_WITHOUT_STREAM = (*KINDS_ELSEWHERE, "verbatim")
KINDS_OF_BUNDLES = ("float-split", "codes", "zstd", "raw")
KINDS_OF_SHORT_FLOATS = (*FLOAT_RESIDUALS, "float-split")
#: The fields of each kind of encoding beside `kind`, and those that may be there (4).
FIELDS = {
    "reference": ("to", "view"),
    "parts": ("parts", ""),
    "slice": ("of offset", ""),
    "verbatim": ("file offset", ""),
    "residual": ("given", "transposed"),
    "dequantized": ("given", "transposed"),
    "step-residual": ("given subdivisions", "transposed"),
    "code-residual": ("given own", "layout"),
    "refine": ("known own", "layout"),
    "rounded": ("floats own", "layout"),
    "refine-floats": ("known", "transposed"),
    "near": ("floats times", ""),
    "codes": ("", "layout"),
}
#: The sections of a shard's tail, in their order (3).
TAIL = ("tables", "chunks", "plan")
RECORD = np.dtype([("length", "<u4"), ("form", "u1"), ("zero", "u1", 3), ("hash", "<u8")])


def xxh3_128(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def parse(text: bytes) -> Json:
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise DamageError(f"no JSON: {error}") from None
    check(isinstance(value, dict), "no JSON object")
    return dict(value)


def relative(path: str) -> str:
    """Refuses what is no relative path (1): restored files must stay below their folder."""
    bad = {"", ".", ".."} & set(path.split("/")) or set("\\\0") & set(path) or path.encode()[1:2] == b":"
    check(not bad and len(path.encode()) <= 4096, f"not a relative path: {path!r}")
    return path


@dataclass(frozen=True)
class Array:
    """An array of a plan (4), its head, the records of its chunks (5), where the first of these lies, and which
    other variants it may refer to."""

    plan: Json
    head: bytes
    records: Ints
    source: Path
    begin: int
    given: frozenset[str]

    @property
    def width(self) -> int:
        """Bytes of an element (6)."""
        return max(1, bits_of(self.plan["dtype"]) // 8)

    @property
    def kind(self) -> str:
        return str(self.plan["encoding"]["kind"])

    @property
    def layout(self) -> Json:
        """Where codes lie that are not elements of a byte in the array's order (4)."""
        return dict(self.plan["encoding"].get("layout", {}))

    @property
    def packing(self) -> Packing | None:
        return Packing.of(self.layout["packing"]) if "packing" in self.layout else None

    @property
    def transposed(self) -> bool:
        """Whether what is coded is the transposed matrix (6)."""
        return "transposed" in self.plan["encoding"] or "transposed" in self.layout

    @property
    def coded_shape(self) -> list[int]:
        """The shape of the matrix that is coded, of words where codes are packed (6)."""
        shape = list(self.plan["shape"])
        if "pitch" in self.layout:
            count, pitch = math.prod(shape), self.layout["pitch"]
            check(not self.transposed and is_integer(pitch, 1, 1 << 62) and count % pitch == 0, "a pitch that is none")
            shape = [count // pitch, pitch]
        check(len(shape) == 2, f"{self.plan['key']} is no matrix")
        return shape[::-1] if self.transposed else shape

    def numbers_of(self, words: list[int]) -> list[int]:
        """The rows and columns that codes have in some rows and columns of it (9.2)."""
        return self.packing.shape(words) if self.packing else words

    @property
    def part_views(self) -> list[View]:
        """Where its parts lie in it (4.2)."""
        parts = self.plan["encoding"]["parts"]
        return [View.of(part["view"], self.plan["dtype"], self.plan["shape"]) for part in parts]

    @property
    def is_matrix(self) -> bool:
        """Whether its encoding is for a matrix (6)."""
        return self.kind in GIVEN_KINDS or "layout" in self.plan["encoding"]

    @property
    def chunk_shape(self) -> list[int]:
        """Rows and columns of a chunk (6)."""
        return [self.plan["chunk"]["rows"], self.plan["chunk"]["cols"]]

    @property
    def blocks(self) -> list[tuple[slice, slice]]:
        """The rows and columns of the matrix that each chunk has (6)."""
        lines = [
            [slice(start, min(start + step, count)) for start in range(0, count, step)]
            for count, step in zip(self.coded_shape, self.chunk_shape, strict=True)
        ]
        return [(rows, cols) for rows in lines[0] for cols in lines[1]]

    @property
    def chunk_of_matrix(self) -> list[int]:
        """Rows and columns of its longest chunk."""
        return [min(rows, of_chunk) for rows, of_chunk in zip(self.coded_shape, self.chunk_shape, strict=True)]

    @property
    def matrices(self) -> list[Json]:
        """The quantised matrices that it is given (4)."""
        encoding = self.plan["encoding"]
        one = [encoding["given"]] if "given" in encoding else []
        return one + [known["matrix"] for known in encoding.get("known", [])]

    def meets(self, source: Array) -> bool:
        """Whether the chunks of codes hold those of codes that they are given (4)."""
        if len(source.chunk_sizes) == len(self.chunk_sizes) == 1:
            return True
        counts = [
            (array.numbers_of(array.coded_shape), array.numbers_of(array.chunk_shape)) for array in (self, source)
        ]
        (own, own_chunk), (other, other_chunk) = counts
        rows_meet = (own[0], own_chunk[0]) == (other[0], other_chunk[0])
        if own_chunk[1] == own[1] and other_chunk[1] == other[1]:
            return rows_meet
        return rows_meet and (own[1], own_chunk[1]) == (other[1], other_chunk[1])

    def in_words(self, codes: Ints) -> bytes:
        """The bytes of rows of codes, as the array has them (9.2)."""
        return (self.packing.pack(codes) if self.packing else codes.astype(np.uint8)).tobytes()

    @property
    def floats(self) -> str:
        """The kind of floats that it has (8.2)."""
        return "short F16" if "mantissa" in self.plan else str(self.plan["dtype"])

    def check(self) -> None:
        """Whether the plan says of it what it may (4, 6, 11)."""
        plan, encoding, kind = self.plan, self.plan["encoding"], self.kind
        if kind == "slice":
            has_fields(plan, "key dtype shape encoding")
        elif kind == "parts":
            has_fields(plan, "key dtype shape hash encoding")
        else:
            has_fields(plan, "key dtype shape hash chunk encoding", "mantissa")
            has_fields(plan["chunk"], "rows cols", "lanes")
            rows, cols = plan["chunk"]["rows"], plan["chunk"]["cols"]
            check(is_integer(rows, 1, 1 << 62) and is_integer(cols, 1, 1 << 62), f"{plan['key']} has no chunks")
        has_fields(encoding, "kind " + FIELDS.get(kind, ("", ""))[0], FIELDS.get(kind, ("", ""))[1])
        whole = math.prod(plan["shape"]) * bits_of(plan["dtype"]) % 8 == 0
        check(whole and len(plan["shape"]) <= 1024, f"{plan['key']} has broken bytes, or too many dimensions")
        is_short = (plan["dtype"], plan.get("mantissa")) == ("F16", 7) and kind in KINDS_OF_SHORT_FLOATS
        check(is_short or "mantissa" not in plan, f"{plan['key']} is no short F16")
        if plan["key"].startswith(("bundle:", "part:")):
            number = plan["key"].partition(":")[2]
            check(re.fullmatch(r"0|[1-9]\d{0,9}", number, re.ASCII) and int(number) < 1 << 32, f"key {plan['key']}")
        if kind in GIVEN_KINDS or "layout" in encoding:
            self._check_matrix()
        elif kind in ("codes", "float-split"):
            check(min(-(-self.size // (self.width * cols)), rows) <= 1 << 20, "chunks of too many rows")

    def _check_matrix(self) -> None:
        plan, encoding, kind = self.plan, self.plan["encoding"], self.kind
        check(encoding.get("transposed", True) is True, "transposed where it is not")
        if "layout" in encoding:
            has_fields(self.layout, "", "transposed pitch packing")
            check(self.layout and self.layout.get("transposed", True) is True, "a layout that is none")
        coded_rows, cols = self.coded_shape
        chunk_rows, chunk_cols = self.chunk_shape
        rows, of_chunk = (self.numbers_of([count, cols])[0] for count in (coded_rows, chunk_rows))
        if chunk_cols != cols:
            is_cut = self.packing is not None and chunk_cols < cols
            check(is_cut, f"{plan['key']} is in rows of another length")
            check(self.packing and self.packing.fills([1, chunk_cols]), "chunks of broken codes")
        check(rows <= 1 << 22 and min(rows, of_chunk) <= 1 << 14, "too many rows")
        check(not self.transposed or self.size <= 256 * MIB, "a transposed matrix that is too large")
        if kind in OF_FLOATS:
            check(plan["dtype"] in FLOATS, f"{plan['key']} has no floats")
        elif self.packing:
            packing = self.packing
            check(packing.word == self.width * 8, f"words of another length in {plan['key']}")
            whole = packing.fills([coded_rows, cols]) and (not packing.along_rows or packing.word % packing.bits == 0)
            check(whole, "codes of broken words")
        else:
            check(self.width == 1, f"{plan['key']} has no codes")
        if "layout" in encoding:
            count = math.prod(self.numbers_of([min(coded_rows, chunk_rows), chunk_cols]))
            check(count <= 1 << 24, "chunks of too many codes")
        if kind == "step-residual":
            check(is_integer(encoding["subdivisions"], -8, 7), "a number of subdivisions")
        if "known" in encoding:
            for known in encoding["known"]:
                has_fields(known, "matrix", "ends around factors")
                check("factors" not in known or "around" in known, "factors of what was not moved")
            check(any(len(known) > 1 for known in encoding["known"]), "nothing is known")
            around = [known for known in encoding["known"] if "around" in known]
            check(not around or kind == "refine-floats", "codes in stretches")
            check(len(around) <= 1 and all("ends" not in known for known in around), "stretches of several, or ends")
            count = len(encoding["known"])
            check(count <= 16 and count * self.width * math.prod(self.chunk_of_matrix) <= 64 * MIB, "too much is known")

    @property
    def lanes(self) -> int:
        lanes = self.plan["chunk"].get("lanes", 64)
        check(lanes in (64, 128), "a coder has 64 or 128 lanes")
        return int(lanes)

    @property
    def size(self) -> int:
        return math.prod(self.plan["shape"]) * bits_of(self.plan["dtype"]) // 8

    @property
    def chunk_sizes(self) -> list[int]:
        """Decoded bytes of each chunk (6)."""
        if self.kind in KINDS_ELSEWHERE:
            return []
        if self.is_matrix:
            shapes = [(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in self.blocks]
            return [self.width * math.prod(shape) for shape in shapes]
        starts = range(0, self.size, self.width * math.prod(self.chunk_shape)) if self.size else range(0)
        return [min(starts.step, self.size - start) for start in starts]

    def stored(self) -> Iterator[tuple[int, bytes]]:
        """Form and stored bytes of each chunk, once their hash was checked (5)."""
        with self.source.open("rb") as file:
            file.seek(self.begin)
            for record in self.records:
                data = file.read(int(record["length"]))
                check(xxhash.xxh3_64_intdigest(data) == record["hash"], f"{self.source}: a chunk is damaged")
                yield int(record["form"]), data


class Shard:
    """A shard (3): its plan, and its arrays."""

    def __init__(self, path: Path, entry: Json, kept: Callable[[str], Path]) -> None:
        """Opens a shard that the manifest has an entry of; `kept` finds files of a verbatim variant."""
        size, sizes = path.stat().st_size, [entry["tail"][name] for name in TAIL]
        check(size == entry["bytes"], f"{path} has another size")
        with path.open("rb") as file:
            file.seek(size - sum(sizes))
            tail = Cursor(file.read(sum(sizes)))
        check(xxh3_128(tail.data) == entry["id"], f"{path}: the tail is damaged")
        tables, chunks, plan = (tail.take(count) for count in sizes)
        check(len(chunks) % RECORD.itemsize == 0, f"{path}: a broken list of chunks")
        self.path, records = path, np.frombuffer(chunks, RECORD)
        self.plan = parse(unzstd(plan, min(512 * MIB, MIB + 50 * len(plan))))
        has_fields(self.plan, "variant given arrays", "files empty_folders")
        check(not records["zero"].any(), f"{path}: a record's zeros are not")
        heads, arrays, streams = Cursor(tables), list[Array](), dict[str, int]()
        given = frozenset(variant["variant"] for variant in self.plan["given"])
        for array_plan in self.plan["arrays"]:
            array = Array(array_plan, b"", records, path, sum(streams.values()), given)
            array.check()
            if array.kind in KINDS_WITH_HEAD:
                array, records = replace(array, head=self._head(heads, records)), records[1:]
            count = len(array.chunk_sizes)
            array, records = replace(array, records=records[:count]), records[count:]
            check(array.records.size == count, f"{path}: the list of chunks is too short")
            if array.kind == "verbatim":
                encoding = array_plan["encoding"]
                check(is_integer(encoding["offset"], 0, 1 << 63), f"offset of {array_plan['key']}")
                array = replace(array, source=kept(encoding["file"]), begin=encoding["offset"])
            elif array.kind not in KINDS_WITHOUT_STREAM:
                streams[array_plan["key"]] = int(array.records["length"].sum(dtype=np.uint64))
            arrays.append(array)
        heads.end()
        check(not records.size, f"{path}: records of no array")
        start = size - sum(sizes) - sum(streams.values())
        self._check_header(start, streams | {f"qstore.{name}": entry["tail"][name] for name in TAIL})
        self.arrays = [
            array if array.kind == "verbatim" else replace(array, begin=start + array.begin) for array in arrays
        ]

    def _head(self, heads: Cursor, records: Ints) -> bytes:
        """The next head, once it was checked (5, 11)."""
        check(records.size, f"{self.path}: the list of chunks is too short")
        length, form = int(records[0]["length"]), int(records[0]["form"])
        check(form == FORM_HEAD and length <= 1 << 14, f"{self.path}: a head is missing, or too long")
        head = heads.take(length)
        check(xxhash.xxh3_64_intdigest(head) == records[0]["hash"], f"{self.path}: a head is damaged")
        return head

    def _check_header(self, start: int, sections: dict[str, int]) -> None:
        """Whether the header is the one that follows from the rest (3)."""
        check(8 <= start <= 8 + 100_000_000, f"{self.path}: no room for a header, or too much")
        header: Json = {"__metadata__": {"format": "qstore", "format_version": "1"}}
        at = 0
        for name, size in sections.items():
            header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        with self.path.open("rb") as file:
            found = file.read(start)
        expected = (start - 8).to_bytes(8, "little") + text.ljust(start - 8)
        check(found == expected, f"{self.path}: the header is not what follows from the rest")


def check_bundles(arrays: list[Array]) -> None:
    """Whether the slices of a shard fill its bundles, type by type and in order (4, 11)."""
    bundles = {array.plan["key"]: array for array in arrays if array.plan["key"].startswith("bundle:")}
    for key, bundle in bundles.items():
        plain = bundle.kind in KINDS_OF_BUNDLES and not bundle.layout and len(bundle.plan["shape"]) == 1
        check(plain and bundle.size <= MIB, f"{key} is too large, or no list of elements")
    filled, current = dict[str, int](), dict[str, str]()
    for array in arrays:
        if array.kind != "slice":
            continue
        key, of, dtype = array.plan["key"], array.plan["encoding"]["of"], array.plan["dtype"]
        check(key.startswith("tensor:") and of in bundles, f"{key} is a slice of {of}")
        check(bundles[of].plan["dtype"] == dtype, f"{key} has another type than {of}")
        before = current.setdefault(dtype, of)
        full = before == of or filled[before] == bundles[before].size
        check(full and array.plan["encoding"]["offset"] == filled.get(of, 0), f"{key} comes out of order")
        current[dtype], filled[of] = of, filled.get(of, 0) + array.size
    sizes = {key: bundle.size for key, bundle in bundles.items()}
    check(filled == sizes, "a bundle has bytes of no tensor, or a slice ends outside of it")


def check_parts(arrays: list[Array]) -> None:
    """Whether parts come right before their tensors, and fill these (4.2)."""
    parts = list[Array]()
    for array in arrays:
        key = array.plan["key"]
        if key.startswith("part:"):
            check(array.kind not in ("slice", "verbatim", "parts"), f"{key} is of the kind {array.kind}")
            parts.append(array)
        elif array.kind == "parts":
            check(key.startswith("tensor:"), f"{key} is no tensor")
            check_parts_of(array, parts)
            parts = []
        else:
            check(not parts, f"parts before {key}")
    check(not parts, "parts of no tensor")


def check_parts_of(tensor: Array, parts: list[Array]) -> None:
    """Whether these are the parts of a tensor, each element of which is in one (4.2)."""
    key, dtype, entries = tensor.plan["key"], tensor.plan["dtype"], tensor.plan["encoding"]["parts"]
    for entry in entries:
        has_fields(entry, "array view")
    check([entry["array"] for entry in entries] == [part.plan["key"] for part in parts], f"other parts of {key}")
    check(parts and bits_of(dtype) % 8 == 0, f"{key} has no parts, or no elements of whole bytes")
    views = tensor.part_views
    for view, part in zip(views, parts, strict=True):
        same = (part.plan["dtype"], part.plan["shape"]) == (dtype, view.shape)
        check(same, f"{part.plan['key']} is another matrix than {key} has there")
    check(len({view.pitch for view in views}) == 1, f"rows of {key} have several lengths")
    rows_done, slabs_done = 0, 0
    for before, view in zip([None, *views[:-1]], views, strict=True):
        if before and (before.slab, before.transposed, before.order) == (view.slab, view.transposed, view.order):
            check(view.taken[0] == rows_done, f"rows of {key} are left out, or there twice")
        else:
            check(not before or rows_done == before.slab_shape[0], f"the last rows of a slab of {key} are left out")
            check(view.slab[0] == slabs_done and view.taken[0] == 0, f"{key}: a slab begins elsewhere")
        rows_done, slabs_done = view.taken[1], view.slab[1]
    filled = rows_done == views[-1].slab_shape[0] and slabs_done == views[-1].rows
    check(filled, f"the parts of {key} end elsewhere")


def check_tensors(file: Json, arrays: dict[str, Array]) -> None:
    """Whether the tensors of a file are those of its header (4)."""
    path, header = file["path"], parse(file["content"]["header"].encode())
    header.pop("__metadata__", None)
    in_order = sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0]))
    for name, (own_name, tensor) in zip(file["content"]["tensors"], in_order, strict=True):
        check(name in (own_name, f"{path}:{own_name}"), f"{path} has another {own_name}")
        plan = arrays[f"tensor:{name}"].plan
        same = (plan["dtype"], plan["shape"]) == (tensor["dtype"], tensor["shape"])
        check(same, f"{name} is another array than the header of {path} says")


#: Decodes a chunk of some rows and columns of an array, from its head and the chunk.
Decode = Callable[[Cursor, Cursor, tuple[slice, slice]], bytes]


@dataclass(frozen=True)
class Contents:
    """What the shards of a variant hold together (4)."""

    arrays: dict[str, Array]
    files: list[Json]
    empty_folders: list[str]


class Store:
    """An open store, whose manifest is checked (2)."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.variants = folder, dict[str, Json]()
        self.contents = cache(self._contents)
        self.kept_array = lru_cache(32)(self.array)
        file = self._file("qstore.json")
        check(file.stat().st_size <= 16 * MIB, "the manifest is too large")
        manifest = parse(file.read_bytes())
        has_fields(manifest, "format format_version variants checksum")
        check((manifest["format"], manifest["format_version"]) == ("qstore", 1), "not a store of version 1")
        unsigned = json.dumps(manifest | {"checksum": None}, separators=(",", ":"), ensure_ascii=False)
        check(xxh3_128(unsigned.encode()) == manifest["checksum"], "the manifest is damaged")
        check(len(manifest["variants"]) <= 256, "too many variants")
        shards = set[str]()
        for variant in manifest["variants"]:
            fields = "name scheme dtype given content tensors tensor_bytes files raw_bytes shards"
            has_fields(variant, fields, "verbatim given_only archived levels excluded unshared")
            for note in variant.get("unshared", ()):
                has_fields(note, "first matrices why", "with")
            name = variant["name"]
            check(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name), f"not a name: {name!r}")
            check(name not in self.variants and name != "qstore.json", f"a second {name!r}")
            only = variant.get("given_only", list(self.variants))
            check(len(only) <= 256, f"{name} may be given too many")
            reach = set(only)
            for lower, entry in reversed(self.variants.items()):
                reach |= {given["variant"] for given in entry["given"]} if lower in reach else set()
            for given in variant["given"]:
                has_fields(given, "variant content")
                check(given["variant"] in reach, f"{name} is given more than it may be")
                pinned = self.variants.get(given["variant"], {}).get("content")
                check(pinned == given["content"], f"{name} was coded against another {given['variant']}")
            check(1 <= len(variant["shards"]) <= 1_000_000, f"{name} has no shards, or too many")
            for entry in variant["shards"]:
                has_fields(entry, "name bytes tail id")
                has_fields(entry["tail"], " ".join(TAIL))
                check(entry["name"] == f"{name}-{entry['id'][:12]}.safetensors", f"a shard named {entry['name']}")
                check(entry["name"] not in shards, f"a second {entry['name']}")
                shards.add(entry["name"])
                sizes = list(entry["tail"].values())
                check(all(is_integer(size, 0, 1 << 30) for size in sizes), f"tail of {entry['name']}")
                fits = is_integer(entry["bytes"], 8 + sum(sizes), 1 << 63) and sum(sizes) <= 1 << 30
                check(fits, f"the tail of {entry['name']} is too long")
            self.variants[name] = variant

    def _file(self, path: str) -> Path:
        """A file of the store: regular, or a link into `blobs` of a Hugging Face cache (1)."""
        file = self.folder / relative(path)
        if file.is_symlink():
            above = self.folder.absolute().parents
            blobs = next((up.parent / "blobs" for up in above if up.name == "snapshots"), None)
            check(blobs and file.resolve().parent == blobs.resolve(), f"{path} is a link")
        else:
            check(file.resolve().is_relative_to(self.folder.resolve()), f"{path} is outside the store")
        check(file.is_file(), f"{path} is no file")
        return file

    def _contents(self, name: str) -> Contents:
        """All shards of a variant, whose `content` is checked (2, 3, 4, 5)."""
        variant, contents = self.variants[name], Contents({}, [], [])
        for entry in variant["shards"]:
            shard = Shard(self._file(entry["name"]), entry, lambda path: self._file(f"{name}/{relative(path)}"))
            plan = shard.plan
            check(plan["variant"] == name, f"{shard.path} is of another variant")
            check(all(given in variant["given"] for given in plan["given"]), f"{shard.path}: given")
            for array in shard.arrays:
                key = array.plan["key"]
                check(key not in contents.arrays, f"a second {key}")
                is_verbatim = array.kind == "verbatim"
                check(is_verbatim == ("verbatim" in variant), f"{key} is of the kind {array.kind}")
                contents.arrays[key] = array
            check_bundles(shard.arrays)
            check_parts(shard.arrays)
            is_last = entry is variant["shards"][-1]
            check(is_last == ("files" in plan) and plan.get("empty_folders", ["none"]), f"{shard.path}: files")
            check(is_last or "empty_folders" not in plan, f"{shard.path}: empty folders too early")
            contents.files.extend(plan.get("files", []))
            contents.empty_folders.extend(plan.get("empty_folders", []))
        named = [f"tensor:{name}" for file in contents.files for name in file["content"].get("tensors", [])]
        whole = [f"file:{file['path']}" for file in contents.files if file["content"]["kind"] == "opaque"]
        of_files = [key for key in contents.arrays if not key.startswith(("bundle:", "part:"))]
        check(sorted(of_files) == sorted(named + whole), f"arrays of {name} that are of no file, or lack")
        for file in contents.files:
            if file["content"]["kind"] == "safetensors":
                check_tensors(file, contents.arrays)
        tensors = [contents.arrays[key].size for key in named]
        counts = len(tensors), sum(tensors), len(contents.files), sum(file["bytes"] for file in contents.files)
        said = tuple(variant[key] for key in ("tensors", "tensor_bytes", "files", "raw_bytes"))
        check(counts == said, f"{name} has {counts} tensors and files, not {said}")
        slices = {key for key, array in contents.arrays.items() if array.kind == "slice"}
        in_order = [key for key in contents.arrays if key in slices] == [key for key in named if key in slices]
        check(in_order, f"slices of {name} do not come in the order of its files")
        lines = [f"{file['sha256']} {file['bytes']} {relative(file['path'])}\n" for file in contents.files]
        lines += [f"{relative(folder)}/\n" for folder in contents.empty_folders]
        check(xxh3_128("".join(lines).encode()) == variant["content"], f"{name} is not what its content says")
        paths = [file["path"] for file in contents.files] + contents.empty_folders
        above = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        apart = len(set(paths)) == len(paths) and not above & set(paths)
        check(apart and len(contents.files) <= 1_000_000, f"files of {name}")
        return contents

    def _find(self, variant: str, array: Array, ref: Json) -> tuple[str, str]:
        """The variant and the key that a REF of an array leads to (4)."""
        has_fields(ref, "variant array")
        check(ref["variant"] in {variant} | array.given, f"{array.plan['key']} is not given {ref['variant']}")
        check(not ref["array"].startswith("bundle:"), f"{variant} refers to a bundle")
        check(ref["array"] in self.contents(ref["variant"]).arrays, f"{variant} refers to no array")
        return ref["variant"], ref["array"]

    def array(self, variant: str, key: str) -> bytes:
        """The bytes of an array (8), once their hash was checked (4)."""
        array = self.contents(variant).arrays[key]
        encoding = array.plan["encoding"]
        if encoding["kind"] == "reference":
            name, to = self._find(variant, array, encoding["to"])
            target = self.contents(name).arrays[to]
            is_last = target.kind != "reference" and not (target.kind == "parts" and key.startswith("part:"))
            check(is_last, f"{key} of {variant} leads to what is a {target.kind}")
            if "view" in encoding:
                dtype, shape = target.plan["dtype"], target.plan["shape"]
                view = View.of(encoding["view"], dtype, shape)
                check(bits_of(dtype) % 8 == 0 and not view.is_all, f"{key} of {variant} is no part of {to}")
                check(math.prod(view.shape) * view.width == array.size, f"{key} of {variant} has another size")
                data = view.of_bytes(self.kept_array(name, to)).tobytes()
            else:
                data = self.array(name, to)
        elif encoding["kind"] == "parts":
            elements = np.empty(math.prod(array.plan["shape"]), f"<u{array.width}")
            for view, part in zip(array.part_views, encoding["parts"], strict=True):
                view.put(elements, self.array(variant, part["array"]))
            data = elements.tobytes()
        elif encoding["kind"] == "slice":
            begin = encoding["offset"]
            data = self.kept_array(variant, encoding["of"])[begin : begin + array.size]
        else:
            chunks = self._chunks(variant, array)
            if array.is_matrix:
                matrix = np.empty(array.coded_shape, f"V{array.width}")
                for (rows, cols), chunk in zip(array.blocks, chunks, strict=True):
                    block = np.frombuffer(chunk, matrix.dtype)
                    matrix[rows, cols] = block.reshape(matrix[rows, cols].shape)
                data = (matrix.T if array.transposed else matrix).tobytes()
            else:
                data = b"".join(chunks)
        check(len(data) == array.size, f"{key} of {variant} has another size")
        own_hash = array.kind == "slice" or xxh3_128(data) == array.plan["hash"]
        check(own_hash, f"{key} of {variant} is damaged")
        return data

    def _source(self, name: str, key: str) -> Array:
        """The array that has the bytes of another one, if that is a reference (4)."""
        array = self.contents(name).arrays[key]
        if array.kind != "reference":
            return array
        name, key = self._find(name, array, array.plan["encoding"]["to"])
        return self.contents(name).arrays[key]

    def _fetch(
        self, variant: str, array: Array, refused: tuple[str, ...] = RESIDUALS, may_be_own: bool = False
    ) -> Fetch:
        """Finds arrays that a residual of a variant needs, if they may be such (4)."""

        def fetch(ref: Json) -> Part:
            name, key = self._find(variant, array, ref)
            check(may_be_own or name != variant, f"{key} is of {variant} itself")
            plan, source = self.contents(name).arrays[key].plan, self._source(name, key)
            check("view" not in plan["encoding"] and source.kind != "parts", f"{key} is not stored in one")
            check(source.kind not in refused, f"{key} is itself a residual")
            return Part(plan["dtype"], plan["shape"], self.array(name, key))

        return fetch

    def _given(self, variant: str, array: Array, given: Json) -> tuple[Ints, Values]:
        """The codes of a matrix that an array is given, and what they stand for (9.1)."""
        has_fields(given, "shape codes values")
        rows, cols = given["shape"]
        check(is_integer(rows, 1, 1 << 22) and is_integer(cols, 1, 1 << 24), f"a matrix of {rows} x {cols}")
        field = Field.of(given["codes"], self._fetch(variant, array, (*FLOATS_OF_CODES, "rounded")))
        check(not field.packing or field.packing.fills(list(field.words.shape)), "codes of broken words")
        codes = field.codes()
        check(codes.shape[0] >= rows and codes.shape[1] >= cols, "codes that do not fit")
        values = Values.of(given["values"], [rows, cols], field.packing, self._fetch(variant, array))
        return codes[:rows, :cols], values

    def _check_given(self, variant: str, array: Array) -> None:
        """Whether chunks meet those of codes that they are given, and all that is needed is known (4)."""
        found = list[tuple[str, str]]()
        for given in array.matrices:
            name, key = self._find(variant, array, given["codes"]["array"])
            source = self._source(name, key)
            if array.kind not in FLOATS_OF_CODES and source.kind in RESIDUALS:
                check(array.meets(source), "chunks of codes that do not meet")
            if "known" in array.plan["encoding"]:
                of_source = self._source_id(name, key)[0]
                for needed in source.matrices:
                    ids = self._source_id(*self._find(of_source, source, needed["codes"]["array"]))
                    check(ids in found, "what the codes of a matrix are given is not known")
                found.append(self._source_id(name, key))

    def _source_id(self, name: str, key: str) -> tuple[str, str]:
        """The variant and the key of the array that has the bytes of another one (4)."""
        array = self.contents(name).arrays[key]
        return (name, key) if array.kind != "reference" else self._find(name, array, array.plan["encoding"]["to"])

    def _told(self, variant: str, array: Array, shape: list[int]) -> list[Told]:
        """What is told of the weights of a matrix of this shape, in order (8.6, 8.8)."""
        told = list[Told]()
        for matrix in array.plan["encoding"]["known"]:
            codes, values = self._given(variant, array, matrix["matrix"])
            of_all = values.fitted(*shape).fitted_codes(codes)
            if "ends" in matrix:
                told.append(Known.of(values, of_all, matrix["ends"], shape))
            elif "around" in matrix:
                head = Cursor(array.head)
                factors = read_factors(head, matrix["factors"], shape) if "factors" in matrix else None
                told.append(Around.of(values, of_all, matrix["around"], shape, factors))
        return told

    def _residual(self, variant: str, array: Array) -> Decode:
        """Decodes chunks of a residual: of its rows, from the head and the chunk (8.3 to 8.8)."""
        encoding, lanes, kind = array.plan["encoding"], array.lanes, array.floats
        shape = array.numbers_of(array.coded_shape)
        self._check_given(variant, array)
        own: Values | None = None
        if array.kind == "near":
            return self._near(variant, array)
        if "own" in encoding:
            own = Values.of(encoding["own"], shape, array.packing, self._fetch(variant, array, may_be_own=True))
        if "floats" in encoding:
            assert own is not None
            return self._rounded(variant, array, own)
        if "known" in encoding:
            told = self._told(variant, array, shape)
            # What tables come behind.
            of_factors = [known["factors"] for known in encoding["known"] if "factors" in known]
            skipped = sum(2 * (shape[1] + (shape[0] if of == "both" else 0)) for of in of_factors)
            if own is None:
                return lambda head, chunk, block: decode_refine_floats(
                    head, chunk, kind, [each.cut(*block) for each in told], lanes, skipped
                ).tobytes()
            scaled = Scaled.of(own)
            return lambda _, chunk, block: array.in_words(
                decode_refine(chunk, [each.cut(*block) for each in told], scaled.cut(*block), lanes)
            )
        codes, given = self._given(variant, array, encoding["given"])
        given = given.fitted(*shape)
        codes = given.fitted_codes(codes)
        if array.kind == "dequantized":
            return lambda _, chunk, block: decode_dequantized(
                chunk, array.plan["dtype"], codes[block], given.cut(*block)
            )
        if array.kind == "residual":
            whole = given.levels.kind in ("signed", "offset") and given.levels.between is None
            may_be = whole or "float" in encoding["given"]["values"]["levels"]
            check(may_be and given.rule and "zero" not in encoding["given"]["values"], "codes that no rule makes")
            return lambda head, chunk, block: decode_residual(
                head, chunk, kind, codes[block], given.cut(*block), lanes
            ).tobytes()
        if array.kind == "step-residual":
            subdivisions = encoding["subdivisions"]
            return lambda head, chunk, block: decode_step_residual(
                head, chunk, kind, codes[block], given.cut(*block), subdivisions, lanes
            ).tobytes()
        assert own is not None
        return lambda head, chunk, block: array.in_words(
            decode_code_residual(head, chunk, codes[block], given.cut(*block), own.cut(*block), lanes)
        )

    def _rounded(self, variant: str, array: Array, own: Values) -> Decode:
        """Decodes chunks of codes that floats are rounded to (8.9)."""
        floats = self._floats(variant, array, ())
        return lambda head, chunk, block: array.in_words(
            decode_rounded(head, chunk, floats[block], own.cut(*block), array.lanes)
        )

    def _near(self, variant: str, array: Array) -> Decode:
        """Decodes chunks of floats that are near others (8.10)."""
        floats, times = self._floats(variant, array, GIVEN_KINDS), binary32(array.plan["encoding"]["times"])
        return lambda _, chunk, block: decode_near(chunk, array.plan["dtype"], floats[block], times)

    def _floats(self, variant: str, array: Array, refused: tuple[str, ...]) -> Ints:
        """The floats that an array is given, as binary32 (8.9)."""
        field = Field.of(array.plan["encoding"]["floats"], self._fetch(variant, array, refused))
        check(field.dtype in FLOATS and not field.packing, f"no floats: {field.dtype}")
        floats = field.numbers(field.dtype.lower())
        check(list(floats.shape) == array.numbers_of(array.coded_shape), "floats of another shape")
        return floats

    def _chunks(self, variant: str, array: Array) -> Iterator[bytes]:
        """The decoded chunks of an array that is no reference (5, 6, 8)."""
        kind, cols = array.kind, array.plan["chunk"]["cols"]
        lanes, stored, head = array.lanes, array.stored(), array.head
        residual = self._residual(variant, array) if kind in GIVEN_KINDS else None
        for number, (size, (form, data)) in enumerate(zip(array.chunk_sizes, stored, strict=True)):
            check(size <= 16 * MIB, "a chunk is too large")
            if form == FORM_RAW:
                check(len(data) == size, "a raw chunk has another size")
                yield data
                continue
            check(form == FORM_CODED and len(data) < size, "a coded chunk is not shorter than a raw one")
            chunk, elements = Cursor(data), size // array.width
            if residual is not None:
                rows, columns = array.blocks[number]
                begin = array.numbers_of([rows.start, columns.start])
                end = array.numbers_of([rows.stop, columns.stop])
                yield residual(Cursor(head), chunk, (slice(begin[0], end[0]), slice(begin[1], end[1])))
            elif kind == "zstd":
                yield decode_zstd(chunk, elements, array.width)
            elif kind == "codes" and array.packing:
                rows, columns = array.blocks[number]
                words = [rows.stop - rows.start, columns.stop - columns.start]
                codes = decode_packed(Cursor(head), chunk, array.packing, words, lanes)
                yield array.in_words(codes)
            elif kind == "codes" and array.width == 1:
                yield decode_codes(Cursor(head), chunk, elements, cols, lanes).tobytes()
            elif kind == "float-split" and array.plan["dtype"] in FLOATS:
                split = partial(decode_float_split, Cursor(head), elements=elements, cols=cols, lanes=lanes)
                yield decode_floats(chunk, array.floats, split).tobytes()
            else:
                raise DamageError(f"a coded chunk of {kind} {array.plan['dtype']}")
            check(chunk.at == len(data), "a chunk is too long")

    def files(self, variant: str) -> Iterator[tuple[str, bytes]]:
        """Each original file of a variant, once its size and SHA-256 were checked (10)."""
        for file in self.contents(variant).files:
            has_fields(file, "path bytes sha256 content")
            content = file["content"]
            if content["kind"] == "opaque":
                has_fields(content, "kind")
                data = self.array(variant, f"file:{file['path']}")
            else:
                has_fields(content, "kind header tensors")
                check(content["kind"] == "safetensors", f"unknown content {content['kind']!r}")
                header = content["header"].encode()
                tensors = (self.array(variant, f"tensor:{name}") for name in content["tensors"])
                data = b"".join([len(header).to_bytes(8, "little"), header, *tensors])
            check(len(data) == file["bytes"], f"{file['path']} has another size")
            check(hashlib.sha256(data).hexdigest() == file["sha256"], f"{file['path']} is not the original")
            yield file["path"], data

    def restore(self, variant: str, target: Path) -> None:
        """Writes a variant's original files and empty folders below the new folder `target`."""
        target.mkdir(parents=True)
        for path, data in self.files(variant):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(data)
        for folder in self.contents(variant).empty_folders:
            (target / folder).mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    store_folder, variant_name, target_folder = sys.argv[1:]
    Store(Path(store_folder)).restore(variant_name, Path(target_folder))
