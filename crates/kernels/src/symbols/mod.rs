//! Streams of symbols coded with tables: the rows of `codes` and `float-split`, and the codes of 0 of a residual.

#![allow(clippy::cast_possible_truncation, reason = "symbols are below 256")]

#[cfg(target_arch = "x86_64")]
mod alias512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod small512;

use std::ops::Range;

use crate::alias::Alias;
use crate::backend::{Backend, Kind};
use crate::error::DecodeError;
use crate::slots::{Framed, SLOTS};
use crate::stream::{Layout, States, WordReader, WordWriter};
use crate::table::{SymbolTable, TABLE_BITS};

/// A table in the form that its backend decodes with.
#[derive(Debug, Clone)]
pub(crate) enum DecodeTable {
    /// For each slot the symbol (8 bits), its frequency (12) and the slot's offset in it (12), from the low end.
    Slots(Box<Framed>),
    /// Bytes by bucket or symbol, for backends that look them up in registers.
    Planes(Box<AliasPlanes>),
}

/// An alias table, a byte of each entry in a plane of its own.
#[derive(Debug, Clone)]
pub(crate) struct AliasPlanes {
    own: [u8; 256],
    other: [u8; 256],
    /// What makes of the place in the bucket the offset in the other symbol: `first - own`, modulo 2^16.
    adjust: [[u8; 256]; 2],
    /// Of a symbol.
    frequency: [[u8; 256]; 2],
    /// Whether some frequency takes both bytes.
    large: bool,
}

impl DecodeTable {
    pub(crate) fn new(table: &SymbolTable, layout: Layout, backend: Backend) -> Self {
        match (layout, backend.kind()) {
            #[cfg(target_arch = "x86_64")]
            (Layout::Wide, Kind::Avx512) => Self::Planes(Box::new(AliasPlanes::new(table))),
            _ => {
                let entry = |(symbol, offset): (u8, u16)| {
                    u32::from(offset) << 20 | table.frequency(symbol) << 8 | u32::from(symbol)
                };
                Self::Slots(Framed::new(arrangement(table, layout).into_iter().map(entry)))
            }
        }
    }
}

impl AliasPlanes {
    #[cfg(target_arch = "x86_64")]
    fn new(table: &SymbolTable) -> Self {
        let alias = Alias::new(table);
        let planes = |value: &dyn Fn(usize) -> u16| {
            [0, 1].map(|byte| std::array::from_fn(|index| value(index).to_le_bytes()[byte]))
        };
        Self {
            own: alias.own,
            other: alias.other,
            adjust: planes(&|bucket| alias.first[bucket].wrapping_sub(u16::from(alias.own[bucket]))),
            frequency: planes(&|symbol| (table.frequency(symbol as u8) & 0xfff) as u16),
            large: (0..=255).any(|symbol| table.frequency(symbol) > 0xff),
        }
    }
}

/// For each slot its symbol, and which of the symbol's slots it is.
fn arrangement(table: &SymbolTable, layout: Layout) -> Vec<(u8, u16)> {
    match layout {
        Layout::Narrow => (0..=255u8)
            .flat_map(|symbol| {
                (0..table.frequency(symbol)).map(move |offset| (symbol, (offset & 0xfff) as u16))
            })
            .collect(),
        Layout::Wide => {
            let alias = Alias::new(table);
            (0..1 << TABLE_BITS).map(|slot| alias.at(slot)).collect()
        }
    }
}

/// A table as encoders use it.
#[derive(Debug, Clone)]
pub(crate) struct EncodeTable {
    /// For each symbol the sum of the frequencies below it, and its frequency 16 bits above. A symbol that the table
    /// lacks has those of the likeliest one, and [`MISSING`] set.
    entries: Box<[u32; 256]>,
    /// For each symbol `floor((2^32 - 1) / frequency)`.
    reciprocals: Box<[u32; 256]>,
    /// The bytes of the entries, each in a plane of its own, for backends that look them up in registers.
    #[cfg(target_arch = "x86_64")]
    planes: Box<[[u8; 256]; 4]>,
    /// The same and more in another form, if all frequencies are bytes and the slots do not ascend.
    #[cfg(target_arch = "x86_64")]
    small: Option<Box<SmallPlanes>>,
    /// The slots of each symbol, one symbol after another. `None` if they ascend.
    slots: Option<Box<[u32; SLOTS]>>,
}

/// What an encoder needs of each symbol of a table whose frequencies are bytes, a byte of each entry in a plane of its
/// own.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone)]
struct SmallPlanes {
    /// The sum of the frequencies below it; in the top bit whether the table lacks it.
    start: [[u8; 256]; 2],
    frequency: [u8; 256],
    /// `2^16 / frequency` rounded down, but at most `2^16 - 1`.
    factor: [[u8; 256]; 2],
}

const MISSING: u32 = 1 << 31;

impl EncodeTable {
    pub(crate) fn new(table: &SymbolTable, layout: Layout) -> Self {
        let entry = |symbol| table.start(symbol) | table.frequency(symbol) << 16;
        let stand_in = entry(table.likeliest()) | MISSING;
        let mut entries = Box::new([stand_in; 256]);
        for (symbol, slot) in (0..=255u8).zip(entries.iter_mut()) {
            if table.frequency(symbol) > 0 {
                *slot = entry(symbol);
            }
        }
        let slots = (layout == Layout::Wide).then(|| {
            let mut slots = Box::new([0; SLOTS]);
            for (slot, (symbol, offset)) in (0..).zip(arrangement(table, layout)) {
                slots[(table.start(symbol) + u32::from(offset)) as usize % SLOTS] = slot;
            }
            slots
        });
        #[cfg(target_arch = "x86_64")]
        let planes = Box::new(std::array::from_fn(|byte| entries.map(|entry| entry.to_le_bytes()[byte])));
        #[cfg(target_arch = "x86_64")]
        let small = slots.is_some().then(|| SmallPlanes::new(&entries)).flatten().map(Box::new);
        let reciprocals = Box::new(entries.map(|entry| u32::MAX / frequency_of(entry)));
        Self {
            entries,
            reciprocals,
            #[cfg(target_arch = "x86_64")]
            planes,
            #[cfg(target_arch = "x86_64")]
            small,
            slots,
        }
    }

    /// Whether the table lacks `symbol`.
    pub(crate) fn lacks(&self, symbol: u8) -> bool {
        self.entries[usize::from(symbol)] & MISSING != 0
    }
}

/// The frequency in an entry of an [`EncodeTable`].
fn frequency_of(entry: u32) -> u32 {
    entry >> 16 & 0xfff
}

#[cfg(target_arch = "x86_64")]
impl SmallPlanes {
    /// `None` if a frequency takes more than a byte.
    fn new(entries: &[u32; 256]) -> Option<Self> {
        if entries.iter().any(|entry| frequency_of(*entry) > 0xff) {
            return None;
        }
        let plane = |value: &dyn Fn(u32) -> u32, byte: usize| entries.map(|e| value(e).to_le_bytes()[byte]);
        let start = |entry| entry & 0xfff | (entry & MISSING) >> 16;
        let factor = |entry| ((1 << 16) / frequency_of(entry)).min(0xffff);
        Some(Self {
            start: [plane(&start, 0), plane(&start, 1)],
            frequency: plane(&frequency_of, 0),
            factor: [plane(&factor, 0), plane(&factor, 1)],
        })
    }
}

/// Decodes one row.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn decode_row(
    backend: Backend,
    states: &mut States,
    words: &mut WordReader,
    table: &DecodeTable,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    match (table, backend.kind()) {
        (DecodeTable::Slots(table), Kind::Scalar) => scalar::decode_row(states, words, &table.slots, out),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        (DecodeTable::Slots(table), Kind::Avx2) => unsafe { avx2::decode_row(states, words, table, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (DecodeTable::Slots(table), Kind::Avx512) => unsafe {
            avx512::decode_row(states, words, &table.slots, out)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (DecodeTable::Planes(table), Kind::Avx512) => unsafe {
            alias512::decode_row(states, words, table, out)
        },
        // A coder makes its tables for its own backend.
        (DecodeTable::Planes(_), _) => Err(DecodeError::Corrupt("a table of another backend")),
    }
}

/// Codes one row, its last element first. In the place of a symbol that the table lacks there is the likeliest one;
/// `lacking` gets short ranges in which there are such, the last one first.
#[allow(unsafe_code, reason = "calls functions that need instructions")]
pub(crate) fn encode_row(
    backend: Backend,
    states: &mut States,
    words: &mut WordWriter,
    table: &EncodeTable,
    symbols: &[u8],
    lacking: &mut dyn FnMut(Range<usize>),
) {
    match backend.kind() {
        Kind::Scalar => scalar::encode_row(states, words, table, symbols, lacking),
        // SAFETY: a backend of this kind exists only where the processor has its instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::encode_row(states, words, table, symbols, lacking) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe {
            match (&table.small, &table.slots) {
                (Some(small), Some(slots)) => {
                    small512::encode_row(states, words, (small, slots), symbols, lacking)
                }
                _ => avx512::encode_row(states, words, table, symbols, lacking),
            }
        },
    }
}
