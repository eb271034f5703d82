//! Reading one tensor of an open variant, whole or in part.

use std::ops::Range;
use std::sync::Arc;

use qstore_checkpoint::{Error, IoContext as _, Options, Result, TensorBytes, size};
use qstore_container::{ArrayKey, Dtype, StoredArray};

use super::load::load_bytes;
use super::work::decode_all;
use crate::decode::{ArrayBytes as _, ArrayReader};
use crate::fetch::{Fetched, Needs, fetch};
use crate::variant::Variant;

/// A tensor of an open variant: its tables are read, its elements are not. Whoever reads several parts of it keeps it.
///
/// ```no_run
/// use qstore::{Options, Store, Tensor};
///
/// let store = Store::open("llama.qstore".as_ref())?;
/// let bf16 = store.variant(&"bf16".parse().expect("a name"))?;
/// let tensor = Tensor::open(&bf16, "model.layers.0.mlp.up_proj.weight")?;
/// let options = Options::default();
/// // The second eighth of the rows, and of the columns, as engines share a matrix out among eight.
/// let [rows, columns] = [tensor.shape()[0], tensor.shape()[1]].map(|count| count / 8..count / 4);
/// let of_rows = tensor.read_rows(rows, &options)?;
/// let of_columns = tensor.read_block(0..tensor.shape()[0], columns, &options)?;
/// # Ok::<(), qstore::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tensor {
    variant: Arc<Variant>,
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    reader: Arc<ArrayReader>,
}

/// A tensor as rows of its last dimension.
struct Lines {
    rows: u64,
    cols: u64,
    /// Bytes of an element.
    width: u64,
}

impl Tensor {
    /// The tensor of that name; no element of it is read.
    ///
    /// # Errors
    /// [`Error::UnknownName`], damage, or an I/O error.
    pub fn open(variant: &Arc<Variant>, name: &str) -> Result<Self> {
        let key = ArrayKey::Tensor(name.to_owned());
        let StoredArray { dtype, shape, .. } = variant.stored_array(&key)?;
        let (dtype, shape) = (*dtype, shape.clone());
        let reader = ArrayReader::open(variant, &key)?;
        Ok(Self { variant: variant.clone(), name: name.to_owned(), dtype, shape, reader })
    }

    /// Its name; `FILE:NAME` where another file of the variant has one of that name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Shape; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Decodes all of it, a large one on several threads.
    ///
    /// # Errors
    /// Damage, an I/O error, or too little memory.
    pub fn read(&self, options: &Options) -> Result<TensorBytes> {
        let mut data = self.room(self.reader.bytes())?;
        load_bytes(&self.variant, &self.reader, 0, &mut data, options)?;
        Ok(data)
    }

    /// Decodes all of it into memory that the caller has.
    ///
    /// # Errors
    /// As [`read`](Self::read); `out` of another length than the tensor.
    pub fn read_into(&self, out: &mut [u8], options: &Options) -> Result<()> {
        let bytes = self.reader.bytes();
        if out.len() as u64 != bytes {
            let text = format!("{}: it has {bytes} bytes, and memory for {} was given", self.name, out.len());
            return Err(Error::usage(text));
        }
        load_bytes(&self.variant, &self.reader, 0, out, options)
    }

    /// Decodes rows `rows` along its first dimension, many on several threads. Only the chunks that hold them are read.
    ///
    /// # Errors
    /// Rows that it does not have, rows that are no whole bytes, damage, an I/O error, or too little memory.
    pub fn read_rows(&self, rows: Range<u64>, options: &Options) -> Result<TensorBytes> {
        let (bytes, count) = (self.reader.bytes(), self.shape.first().copied().unwrap_or(0));
        if rows.start > rows.end || rows.end > count {
            let (start, end) = (rows.start, rows.end);
            let text = format!("{}: rows {start}..{end} of a tensor that has {count}", self.name);
            return Err(Error::usage(text));
        }
        if rows.is_empty() {
            return self.room(0);
        }
        if !bytes.is_multiple_of(count) {
            return Err(Error::usage(format!("{}: its rows do not begin on whole bytes", self.name)));
        }
        let row = bytes / count;
        let mut data = self.room((rows.end - rows.start) * row)?;
        load_bytes(&self.variant, &self.reader, rows.start * row, &mut data, options)?;
        Ok(data)
    }

    /// Decodes columns `columns` of rows `rows`, many on several threads. Columns are along the last dimension; a row
    /// has one element of each dimension before it. Only the chunks that hold them are read.
    ///
    /// # Errors
    /// Rows or columns that it does not have, elements that are no whole bytes, damage, an I/O error, or too little
    /// memory.
    pub fn read_block(
        &self,
        rows: Range<u64>,
        columns: Range<u64>,
        options: &Options,
    ) -> Result<TensorBytes> {
        let lines = self.lines()?;
        let is_within = |range: &Range<u64>, count: u64| range.start <= range.end && range.end <= count;
        if !is_within(&rows, lines.rows) || !is_within(&columns, lines.cols) {
            let text = format!(
                "{}: rows {}..{} and columns {}..{} of a tensor of {} x {}",
                self.name, rows.start, rows.end, columns.start, columns.end, lines.rows, lines.cols
            );
            return Err(Error::usage(text));
        }
        // Within the tensor.
        let row_bytes = (columns.end - columns.start) * lines.width;
        let mut data = self.room((rows.end - rows.start) * row_bytes)?;
        if data.is_empty() {
            return Ok(data);
        }
        // Each part begins where a chunk does, but for the first.
        let step = self.reader.rows_at_once();
        let mut parts = Vec::new();
        let (mut rest, mut first) = (&mut data[..], rows.start);
        while first < rows.end {
            let next = (first - first % step).saturating_add(step).min(rows.end);
            let (out, tail) = std::mem::take(&mut rest).split_at_mut(size((next - first) * row_bytes));
            parts.push((first..next, out));
            (rest, first) = (tail, next);
        }
        let matrix = [lines.cols, lines.width];
        let needs = |(rows, _): &(Range<u64>, &mut [u8])| {
            let mut needs = Needs::default();
            self.reader.needs_columns(matrix, rows.clone(), columns.clone(), &mut needs)?;
            Ok(needs)
        };
        let decode = |(rows, out): (Range<u64>, &mut [u8]), from: &Fetched| {
            self.reader.decode_columns(from, matrix, rows, columns.clone(), out)
        };
        let threads = options.threads_for(parts.len());
        if threads < 2 {
            let read = parts.into_iter().try_for_each(|part| {
                let from = fetch(self.variant.storage(), needs(&part)?)?;
                decode(part, &from)
            });
            read.map_err(|error| self.variant.or_changed(error))?;
        } else {
            let pool = Options { threads, ..options.clone() }.pool()?;
            decode_all(&self.variant, (&pool, options.memory), parts, needs, decode)?;
        }
        Ok(data)
    }

    fn lines(&self) -> Result<Lines> {
        let bits = self.dtype.bitsize() as u64;
        let Some((cols, before)) = self.shape.split_last().filter(|_| bits.is_multiple_of(8)) else {
            return Err(Error::usage(format!("{}: a tensor that has no columns of whole bytes", self.name)));
        };
        let rows = before.iter().fold(1, |product: u64, dimension| product.saturating_mul(*dimension));
        Ok(Lines { rows, cols: *cols, width: bits / 8 })
    }

    fn room(&self, bytes: u64) -> Result<TensorBytes> {
        TensorBytes::zeroed(bytes).at(self.variant.folder(), "cannot hold the tensor")
    }
}
