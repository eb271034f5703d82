//! Checking a variant whose plans have been read: that they fit its files, the manifest and each other.

use std::fmt::Display;

use qstore_container::limits::MAX_GRID_BYTES;
use qstore_container::{
    ArrayKey, ArrayRef, Dtype, Encoding, FileContent, QuantGrid, Quantised, SafetensorsHeader, StoredArray,
};

use super::variant::{Variant, content_hash};
use crate::error::{Error, Result};
use crate::scheme::is_one_a_row;

impl Variant {
    /// Whether all that arrays and files refer to is there and fits.
    pub(super) fn check(&self) -> Result<()> {
        self.check_arrays()?;
        self.check_files()
    }

    /// Whether what arrays refer to fits them.
    fn check_arrays(&self) -> Result<()> {
        for shard in &self.shards {
            for array in &shard.plan.arrays {
                let damaged = |what: &str| Error::damaged(&shard.path, format!("{}: {what}", array.key));
                if matches!(array.encoding, Encoding::Verbatim { .. }) != self.entry.verbatim {
                    return Err(damaged(
                        "the manifest says otherwise of whether its variant is kept as it is",
                    ));
                }
                match &array.encoding {
                    Encoding::Reference { to } => {
                        let target = self.stored(to)?;
                        let sizes = (target.bytes().ok(), array.bytes().ok());
                        if matches!(target.encoding, Encoding::Reference { .. }) || sizes.0 != sizes.1 {
                            return Err(damaged(
                                "it refers to a tensor of another size, or to another reference",
                            ));
                        }
                    }
                    Encoding::Residual { codes, scale, transposed, .. } => {
                        if codes.variant == self.entry.name || scale.variant == self.entry.name {
                            return Err(damaged("it is given its own variant"));
                        }
                        for given in [codes, scale] {
                            self.check_given(given, damaged)?;
                        }
                        if self.source_of(scale)?.encoding.is_residual() {
                            return Err(damaged("the scales that it is given are themselves a residual"));
                        }
                        let (codes, scale) = (self.stored(codes)?, self.stored(scale)?);
                        let mut shape = array.shape.clone();
                        if *transposed {
                            shape.reverse();
                        }
                        let fits = codes.dtype == Dtype::I8 && codes.shape == shape;
                        let is_float = matches!(scale.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
                        if !fits || !is_float || !is_one_a_row(&scale.shape, shape[0]) {
                            return Err(damaged("the codes or scales that it is given do not fit it"));
                        }
                    }
                    Encoding::StepResidual { given, transposed, .. } => {
                        let mut shape = array.shape.clone();
                        if *transposed {
                            shape.reverse();
                        }
                        self.check_quantised(given, &shape, damaged)?;
                    }
                    Encoding::CodeResidual { given, own } => {
                        let shape = code_shape(array.dtype, &array.shape, own)
                            .ok_or_else(|| damaged("its codes do not fill whole words"))?;
                        self.check_quantised(given, &shape, damaged)?;
                        if !chunks_meet(shape[0], array.grid.rows_per_chunk, self.source_of(&given.codes)?) {
                            return Err(damaged("its chunks are not those of the codes that it is given"));
                        }
                        for part in own.needs() {
                            // Else a reader of one could need another, and so on.
                            if self.source_of(part)?.encoding.is_residual()
                                || self.stored(part)?.bytes().is_ok_and(|bytes| bytes > MAX_GRID_BYTES)
                            {
                                return Err(damaged(
                                    "what its codes stand for is itself a residual, or larger than a reader accepts",
                                ));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether an array of another variant may be given to one of this.
    fn check_given(&self, given: &ArrayRef, damaged: impl Fn(&str) -> Error) -> Result<()> {
        if given.variant == self.entry.name {
            return Err(damaged("it is given its own variant"));
        }
        // Else opening one could take as many steps as there are paths through all the variants.
        if self.source_of(given)?.encoding.is_float_residual() {
            return Err(damaged("it is given what is itself a residual"));
        }
        Ok(())
    }

    /// Whether a quantised matrix of another variant may be given to a matrix of this, and has its shape.
    fn check_quantised(
        &self,
        given: &Quantised,
        shape: &[u64],
        damaged: impl Fn(&str) -> Error,
    ) -> Result<()> {
        self.check_given(&given.codes, &damaged)?;
        for part in given.grid.needs() {
            self.check_given(part, &damaged)?;
            if self.stored(part)?.bytes().is_ok_and(|bytes| bytes > MAX_GRID_BYTES) {
                return Err(damaged("what its codes stand for is larger than a reader accepts"));
            }
            if self.source_of(part)?.encoding.is_residual() {
                return Err(damaged("what the codes that it is given stand for is itself a residual"));
            }
        }
        let codes = self.stored(&given.codes)?;
        if code_shape(codes.dtype, &codes.shape, &given.grid).is_none_or(|codes| codes != *shape) {
            return Err(damaged("the codes that it is given do not fit it"));
        }
        Ok(())
    }

    /// Whether files and arrays make up each other.
    fn check_files(&self) -> Result<()> {
        let Some(last) = self.shards.last() else {
            return Err(Error::damaged(
                &self.folder,
                format!("variant {} has no layer file", self.entry.name),
            ));
        };
        let damaged = |what: String| Error::damaged(&last.path, what);
        if content_hash(&last.plan.files, &last.plan.empty_folders) != self.entry.content {
            return Err(damaged("its list of files is not the one that the manifest names".to_owned()));
        }
        // Which arrays are of a file; by far most come in the order of the files.
        let mut parts: Vec<Vec<bool>> =
            self.shards.iter().map(|s| vec![false; s.plan.arrays.len()]).collect();
        let mut next = (0, 0);
        let mut last_slice = None;
        let (mut tensors, mut tensor_bytes, mut raw_bytes) = (0, 0u64, 0u64);
        for file in &last.plan.files {
            let wrong = |what: &dyn Display| damaged(format!("{}: {what}", file.path));
            raw_bytes = raw_bytes.saturating_add(file.bytes);
            match &file.content {
                FileContent::Opaque => {
                    let key = ArrayKey::File(file.path.clone());
                    let place = self.place(&key).ok_or_else(|| wrong(&format!("it lacks {key}")))?;
                    let (shard, at) = place;
                    if self.array_at(place).bytes().ok() != Some(file.bytes) {
                        return Err(wrong(&"it has another size than its array"));
                    }
                    parts[shard][at] = true;
                    next = (shard, at + 1);
                }
                FileContent::Safetensors { header, tensors: names } => {
                    let header = SafetensorsHeader::parse(header.clone().into_bytes(), file.bytes);
                    let spans = header.map_err(|e| wrong(&e))?.tensors;
                    if spans.len() != names.len() {
                        return Err(wrong(&"its header has other tensors"));
                    }
                    for (span, name) in spans.iter().zip(names) {
                        let place = self.place_from(next, name);
                        let place = place.ok_or_else(|| wrong(&format!("it lacks tensor:{name}")))?;
                        let (array, (shard, at)) = (self.array_at(place), place);
                        let qualified = || format!("{}:{}", file.path, span.name);
                        let named = *name == span.name || *name == qualified();
                        if !named || array.dtype != span.dtype || array.shape != span.shape {
                            return Err(wrong(&format!("its header has another {name}")));
                        }
                        tensors += 1;
                        tensor_bytes = tensor_bytes.saturating_add(span.bytes.end - span.bytes.start);
                        parts[shard][at] = true;
                        next = (shard, at + 1);
                        // In the order of the files, a bundle is left for good once the next one of its type begins.
                        if array.encoding.is_slice() && last_slice.replace(place) >= Some(place) {
                            return Err(wrong(&format!("{name} is not in the order of its file")));
                        }
                    }
                }
            }
        }
        let arrays = self.shards.iter().zip(&parts).flat_map(|(s, parts)| s.plan.arrays.iter().zip(parts));
        // A bundle is of no file: its slices are.
        if arrays.into_iter().any(|(array, part)| *part == matches!(array.key, ArrayKey::Bundle(_))) {
            return Err(damaged("it has arrays that belong to no file".to_owned()));
        }
        let entry = &self.entry;
        let described = (entry.tensors, entry.tensor_bytes, entry.files, entry.raw_bytes);
        if described != (tensors, tensor_bytes, last.plan.files.len() as u64, raw_bytes) {
            return Err(damaged("its files are not those that the manifest counts".to_owned()));
        }
        Ok(())
    }

    /// The stored array that has the bytes of one that this variant's plan refers to.
    fn source_of(&self, to: &ArrayRef) -> Result<&StoredArray> {
        match &self.stored(to)?.encoding {
            Encoding::Reference { to: next } => {
                let variant = self.given.iter().find(|g| g.entry.name == to.variant);
                variant.map_or(self, |given| given).stored(next)
            }
            _ => self.stored(to),
        }
    }

    /// Where a tensor of its own is, which is likely to come next in the plan.
    fn place_from(&self, next: (usize, usize), name: &str) -> Option<(usize, usize)> {
        let (shard, mut at) = next;
        let arrays = &self.shards.get(shard)?.plan.arrays;
        while arrays.get(at).is_some_and(|array| matches!(array.key, ArrayKey::Bundle(_))) {
            at += 1;
        }
        let found = arrays.get(at).is_some_and(|array| array.key.tensor() == Some(name));
        if found { Some((shard, at)) } else { self.place(&ArrayKey::Tensor(name.to_owned())) }
    }
}

/// Whether each chunk of a matrix of codes of so many rows is given one chunk of `source`, if that is itself given codes. Else each could ask for two,
/// and each of these for two of the next, and so on.
pub(crate) fn chunks_meet(rows: u64, rows_per_chunk: u64, source: &StoredArray) -> bool {
    let source_rows = match source.shape[..] {
        [rows, _] if !source.encoding.is_transposed() => rows,
        [_, rows] => rows,
        _ => 0,
    };
    !matches!(source.encoding, Encoding::CodeResidual { .. })
        || rows == source_rows && rows_per_chunk.min(rows) == source.grid.rows_per_chunk.min(rows)
}

/// Rows and columns of a matrix of codes; `None` if its elements are not such.
fn code_shape(dtype: Dtype, shape: &[u64], grid: &QuantGrid) -> Option<[u64; 2]> {
    match (grid.packed_bits(), shape, dtype) {
        (None, &[rows, cols], Dtype::I8) => Some([rows, cols]),
        (Some(bits), &[words, rows], Dtype::I32) => {
            let all = words.checked_mul(32)?;
            (bits > 0 && all.is_multiple_of(bits.into())).then(|| [rows, all / u64::from(bits)])
        }
        _ => None,
    }
}
