//! Chunks of one-byte codes: INT8 weights, FP8, anything whose bytes are not evenly spread.
//!
//! ```text
//! exceptions  u32
//! classes     ceil(log2(tables)) bits a row, as a bit plane
//! states      a u32 for each lane
//! exceptions  x (index in the chunk u32, code u8)
//! words       u16 ...
//! ```
//!
//! An exception is a code that its row's table lacks (tables may come from a sample); the stream has that table's
//! likeliest symbol in its place.

use std::sync::OnceLock;

use crate::Scratch;
use crate::backend::Backend;
use crate::bits::{pack_plane, plane_bytes, unpack_plane};
use crate::classes::{BUCKETS, ClassRuns, Classifier, check_classes, class_width};
use crate::cost::log2_q16;
use crate::error::{DecodeError, EncodeError};
use crate::rows::Rows;
use crate::stream::{Layout, States, WordReader, WordWriter};
use crate::symbols::{self, DecodeTable, EncodeTable};
use crate::table::SymbolTable;

/// The bucket of a row of codes: its mean magnitude on a logarithmic scale.
#[must_use]
pub fn code_bucket(row: &[u8]) -> u8 {
    // Short sums, so that compilers make vector code of it.
    let sum_of = |part: &[u8]| part.iter().map(|&c| u16::from(c.cast_signed().unsigned_abs())).sum::<u16>();
    let sum: u64 = row.chunks(256).map(|part| u64::from(sum_of(part))).sum();
    // The mean in 1/16, on a scale of twelve steps an octave from 4 up to 128.
    let mean = sum * 16 / (row.len().max(1) as u64);
    let steps = ((log2_q16(mean) * 12) >> 16).saturating_sub(6 * 12);
    u8::try_from(steps.min(BUCKETS as u64 - 1)).unwrap_or(0)
}

/// Codes chunks of bytes with the tables of one tensor.
#[derive(Debug, Clone)]
pub struct CodesCoder {
    tables: Tables,
}

impl CodesCoder {
    /// A coder for a tensor with these tables (1 to 16).
    ///
    /// # Errors
    /// No table, or more than 16.
    pub fn new(tables: Vec<SymbolTable>, layout: Layout) -> Result<Self, DecodeError> {
        Ok(Self { tables: Tables::new(tables, layout)? })
    }

    /// The same coder on another backend, for tests and measurements. What it writes is the same.
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        Self { tables: self.tables.on(backend) }
    }

    /// How its streams are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.tables.layout()
    }

    /// The tables, one for each class.
    #[must_use]
    pub fn tables(&self) -> &[SymbolTable] {
        self.tables.all()
    }

    /// One chunk.
    ///
    /// # Errors
    /// Too many elements, or so many exceptions that it would not shrink.
    pub fn encode(
        &self,
        codes: &[u8],
        cols: usize,
        classifier: &Classifier,
        scratch: &mut Scratch,
    ) -> Result<Vec<u8>, EncodeError> {
        let rows = Rows::new(codes.len(), cols);
        let classes: Vec<u8> = rows.iter().map(|row| classifier.class(code_bucket(&codes[row]))).collect();
        let mut exceptions = Exceptions::new(codes.len())?;
        let words = &mut scratch.words;
        let states = self.tables.encode(codes, rows, &classes, words, &mut exceptions)?;
        let words = words.words();
        let mut out = Vec::with_capacity(2048 + words.len());
        out.extend(exceptions.count()?.to_le_bytes());
        pack_plane(classes.iter().map(|&c| u16::from(c)), self.tables.class_width(), &mut out);
        states.write(&mut out);
        for index in exceptions.sorted() {
            out.extend(index.to_le_bytes());
            out.push(codes[index as usize]);
        }
        out.extend(words);
        Ok(out)
    }

    /// Decodes a chunk of `out.len()` codes in rows of `cols`.
    ///
    /// # Errors
    /// The chunk is truncated or damaged; `out` then holds anything.
    pub fn decode(&self, chunk: &[u8], cols: usize, out: &mut [u8]) -> Result<(), DecodeError> {
        let rows = Rows::new(out.len(), cols);
        let mut input = Input(chunk);
        let exceptions = input.u32()? as usize;
        let classes = input.classes(rows.count(), self.tables.all().len())?;
        let states = input.states(self.tables.layout())?;
        let exceptions = input.items::<5>(exceptions)?;
        self.tables.decode(states, input.0, rows, &classes, out)?;
        for &[a, b, c, d, code] in exceptions {
            let index = u32::from_le_bytes([a, b, c, d]) as usize;
            *out.get_mut(index).ok_or(DecodeError::Corrupt("an exception outside the chunk"))? = code;
        }
        Ok(())
    }
}

/// Indices of the elements that a stream cannot hold.
pub(crate) struct Exceptions {
    indices: Vec<u32>,
    limit: usize,
}

impl Exceptions {
    /// For a chunk of `len` elements, of which at most a fifth may be exceptions: more would not shrink it.
    pub(crate) fn new(len: usize) -> Result<Self, EncodeError> {
        u32::try_from(len).map_err(|_| EncodeError::Shape)?;
        Ok(Self { indices: Vec::new(), limit: len / 5 + 1 })
    }

    pub(crate) fn push(&mut self, index: usize) {
        // `new` checked that indices fit; past the limit only their number counts.
        self.indices.push(u32::try_from(index).unwrap_or(u32::MAX));
    }

    pub(crate) fn count(&self) -> Result<u32, EncodeError> {
        if self.indices.len() > self.limit {
            return Err(EncodeError::Incompressible);
        }
        u32::try_from(self.indices.len()).map_err(|_| EncodeError::Shape)
    }

    pub(crate) fn sorted(mut self) -> Vec<u32> {
        self.indices.sort_unstable();
        self.indices
    }
}

/// The tables of the row classes of one tensor, ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    backend: Backend,
    layout: Layout,
    tables: Vec<SymbolTable>,
    decode: Vec<DecodeTable>,
    /// Made when the first chunk is encoded; readers need none.
    encode: OnceLock<Vec<EncodeTable>>,
}

impl Tables {
    pub(crate) fn new(tables: Vec<SymbolTable>, layout: Layout) -> Result<Self, DecodeError> {
        if !(1..=crate::classes::MAX_CLASSES).contains(&tables.len()) {
            return Err(DecodeError::Corrupt("a number of row classes other than 1 to 16"));
        }
        let none =
            Self { backend: Backend::SCALAR, layout, tables, decode: Vec::new(), encode: OnceLock::new() };
        Ok(none.on(Backend::best()))
    }

    /// The same for another backend.
    pub(crate) fn on(self, backend: Backend) -> Self {
        let decode = self.tables.iter().map(|table| DecodeTable::new(table, self.layout, backend)).collect();
        Self { backend, decode, ..self }
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn all(&self) -> &[SymbolTable] {
        &self.tables
    }

    pub(crate) fn class_width(&self) -> u32 {
        class_width(self.tables.len())
    }

    /// The table of a row of this class.
    pub(crate) fn of(&self, class: u8) -> Result<&SymbolTable, EncodeError> {
        self.tables.get(usize::from(class)).ok_or(EncodeError::Shape)
    }

    /// Codes `symbols` by class and row into `words`, and returns the states. Symbols that their table lacks become
    /// exceptions.
    pub(crate) fn encode(
        &self,
        symbols: &[u8],
        rows: Rows,
        classes: &[u8],
        words: &mut WordWriter,
        exceptions: &mut Exceptions,
    ) -> Result<States, EncodeError> {
        if symbols.len() != rows.len() || classes.len() != rows.count() {
            return Err(EncodeError::Shape);
        }
        words.begin(symbols.len());
        let mut states = States::first(self.layout);
        let tables = self
            .encode
            .get_or_init(|| self.tables.iter().map(|table| EncodeTable::new(table, self.layout)).collect());
        for run in ClassRuns::new(rows, classes, self.layout).iter().rev() {
            let table = tables.get(usize::from(run.class)).ok_or(EncodeError::Shape)?;
            let symbols = &symbols[run.elements.clone()];
            symbols::encode_row(self.backend, &mut states, words, table, symbols, &mut |range| {
                let missing = range.filter(|&at| table.lacks(symbols[at]));
                missing.for_each(|at| exceptions.push(run.elements.start + at));
            });
        }
        Ok(states)
    }

    /// Inverse of [`encode`](Self::encode), but for the exceptions. The classes have been checked.
    pub(crate) fn decode(
        &self,
        mut states: States,
        words: &[u8],
        rows: Rows,
        classes: &[u8],
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let mut words = WordReader::new(words)?;
        for run in ClassRuns::new(rows, classes, self.layout).iter() {
            let table = &self.decode[usize::from(run.class)];
            symbols::decode_row(
                self.backend,
                &mut states,
                &mut words,
                table,
                &mut out[run.elements.clone()],
            )?;
        }
        words.finish()?;
        states.finish()
    }
}

/// The unread rest of a chunk.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// The states of a stream.
    pub(crate) fn states(&mut self, layout: Layout) -> Result<States, DecodeError> {
        States::read(layout, self.take(layout.state_bytes())?)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// `count` records of `N` bytes.
    pub(crate) fn items<const N: usize>(&mut self, count: usize) -> Result<&'a [[u8; N]], DecodeError> {
        let bytes = count.checked_mul(N).ok_or(DecodeError::Truncated)?;
        Ok(self.take(bytes)?.as_chunks().0)
    }

    /// The class of each of `rows` rows.
    pub(crate) fn classes(&mut self, rows: usize, tables: usize) -> Result<Vec<u8>, DecodeError> {
        let width = class_width(tables);
        let plane = self.take(plane_bytes(rows, width))?;
        let mut classes = vec![0; rows];
        unpack_plane(plane, rows, width, |row, class| classes[row] = class.to_le_bytes()[0])?;
        check_classes(&classes, tables)?;
        Ok(classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::{ClassFit, Histograms};
    use proptest::prelude::*;

    fn fit(codes: &[u8], cols: usize) -> ClassFit {
        let mut histograms = Histograms::default();
        for row in Rows::new(codes.len(), cols).iter() {
            histograms.add_row(code_bucket(&codes[row.clone()]), codes[row].iter().copied());
        }
        ClassFit::new(&histograms, 1)
    }

    fn round_trip(codes: &[u8], cols: usize, sample: &[u8], layout: Layout) -> usize {
        let fit = fit(sample, cols);
        let coder = CodesCoder::new(fit.tables, layout).unwrap();
        let Ok(chunk) = coder.encode(codes, cols, &fit.classifier, &mut Scratch::default()) else {
            return codes.len();
        };
        let mut back = vec![0xaa; codes.len()];
        coder.decode(&chunk, cols, &mut back).unwrap();
        assert_eq!(back, codes);
        for cut in 0..chunk.len().min(700) {
            assert!(coder.decode(&chunk[..cut], cols, &mut back).is_err(), "cut at {cut}");
        }
        chunk.len()
    }

    proptest! {
        #[test]
        fn any_codes(codes in proptest::collection::vec(any::<u8>(), 0..3000), cols in 1usize..400, seen in 0usize..3000) {
            for layout in [Layout::Narrow, Layout::Wide] {
                round_trip(&codes, cols, &codes, layout);
                // Tables from a sample: the rest are exceptions.
                round_trip(&codes, cols, &codes[..seen.min(codes.len())], layout);
            }
        }
    }

    #[test]
    fn skewed_codes_shrink_to_their_entropy() {
        let codes: Vec<u8> = (0..100_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).leading_zeros().min(7)).to_le_bytes()[0])
            .collect();
        // Geometric with ratio 1/2: two bits each.
        let bytes = round_trip(&codes, 1000, &codes, Layout::Wide);
        assert!(bytes < 100_000 * 2 / 8 + 800, "{bytes}");
    }

    #[test]
    fn damage_is_noticed_or_harmless_never_a_panic() {
        let codes: Vec<u8> = (0..2000u32).map(|i| (i * i % 23).to_le_bytes()[0]).collect();
        let fit = fit(&codes, 100);
        let coder = CodesCoder::new(fit.tables, Layout::Wide).unwrap();
        let chunk = coder.encode(&codes, 100, &fit.classifier, &mut Scratch::default()).unwrap();
        let mut noticed = 0;
        for bit in 0..chunk.len() * 8 {
            let mut bad = chunk.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut back = vec![0; codes.len()];
            noticed += usize::from(coder.decode(&bad, 100, &mut back).is_err() || back != codes);
        }
        // Every bit of this chunk carries meaning.
        assert_eq!(noticed, chunk.len() * 8);
    }
}
