//! Checking a variant whose plans have been read: that they fit its files, the manifest and each other.

use std::fmt::Display;

use qstore_checkpoint::{Error, FloatKind, Result};
use qstore_container::limits::{MAX_TRANSPOSED_BYTES, MAX_VALUES_BYTES};
use qstore_container::{
    ArrayKey, ArrayRef, Axis, Dequantization, Encoding, FileContent, Finite, FormatError, QuantMatrix,
    SafetensorsHeader, StoredArray, VariantName, View,
};

use super::aside::slab_bytes;
use super::shape::coded_shape;
use super::{Variant, about_array, content_hash};
use crate::quant::check_codes;

/// An array whose codes another is given, and the levels at which their bins end, if it is known from these.
pub(crate) type GivenSource = (ArrayRef, Option<[Finite; 2]>);

impl Variant {
    /// Whether all that arrays and files refer to is there and fits.
    pub(super) fn check(&self) -> Result<()> {
        self.check_arrays()?;
        self.check_files()?;
        self.check_aside()
    }

    /// Whether what arrays refer to fits them.
    fn check_arrays(&self) -> Result<()> {
        for shard in &self.shards {
            for array in &shard.plan().arrays {
                let damaged = |what: &str| {
                    let error = Error::damaged(&shard.path, format!("{}: {what}", array.key));
                    about_array(error, &self.entry.name, &array.key)
                };
                if matches!(array.encoding, Encoding::Verbatim { .. }) != self.entry.verbatim {
                    return Err(damaged(
                        "the manifest says otherwise of whether its variant is kept as it is",
                    ));
                }
                match &array.encoding {
                    Encoding::Reference { to, view } => self.check_reference(array, to, view, damaged)?,
                    _ => self.check_all_given(array, damaged)?,
                }
            }
        }
        Ok(())
    }

    /// Whether an array may refer to a matrix of another.
    fn check_reference(
        &self,
        array: &StoredArray,
        to: &ArrayRef,
        view: &View,
        damaged: impl Fn(&str) -> Error,
    ) -> Result<()> {
        let target = self.stored(to)?;
        // Else readers could go round in circles: from a reference to parts, from these to references to arrays, and no
        // further.
        match target.encoding {
            Encoding::Reference { .. } => return Err(damaged("it refers to another reference")),
            Encoding::Parts { .. } if matches!(array.key, ArrayKey::Part(_)) => {
                return Err(damaged("a part that refers to what is made of parts"));
            }
            _ => {}
        }
        let bytes = if view.is_whole() {
            target.bytes().ok()
        } else {
            let placed = view.place(&target.shape).map_err(|e| damaged(&e.to_string()))?;
            if !target.dtype.bitsize().is_multiple_of(8) {
                return Err(damaged("view: of elements that are no whole bytes"));
            }
            if !placed.is_contiguous() && slab_bytes(target, &placed) > MAX_TRANSPOSED_BYTES {
                return Err(damaged("view.slab: larger than a reader accepts"));
            }
            placed.shape[0].checked_mul(placed.shape[1]).and_then(|count| count.checked_mul(target.width()))
        };
        if bytes != array.bytes().ok() {
            return Err(damaged("it refers to a tensor of another size"));
        }
        Ok(())
    }

    /// Whether an array may be given what it is.
    fn check_all_given(&self, array: &StoredArray, damaged: impl Fn(&str) -> Error) -> Result<()> {
        let mut sources = Vec::new();
        for given in array.encoding.given() {
            self.check_given(given, &damaged)?;
            let (variant, source) = self.source_of(&given.codes.array)?;
            if array.encoding.layout().is_some() && !chunks_align(array, source) {
                return Err(damaged("its chunks are not those of the codes that it is given"));
            }
            if array.encoding.known().is_empty() {
                continue;
            }
            // A reader decodes each of them once, and nothing else.
            for needed in source.encoding.given() {
                let needed = variant.source_id(&needed.codes.array)?;
                if !sources.contains(&needed) {
                    return Err(damaged("known: it lacks what the codes of another one are given"));
                }
            }
            sources.push(self.source_id(&given.codes.array)?);
        }
        if let Some(floats) = array.encoding.floats() {
            if floats.array.variant == self.entry.name {
                return Err(damaged("it is given its own variant"));
            }
            let (stored, (_, source)) = (self.stored(&floats.array)?, self.source_of(&floats.array)?);
            let placed = floats.view.place(&stored.shape).map_err(|e| damaged(&format!("floats.{e}")))?;
            let fits = Some(placed.shape) == coded_shape(array) && FloatKind::of(stored.dtype).is_some();
            if !fits || is_elsewhere(&source.encoding) {
                return Err(damaged("floats: no matrix of as many floats, or one that lies in parts"));
            }
            // Else a reader of what codes stand for could need one array for another, and so on.
            if array.encoding.is_near() && source.encoding.is_given() {
                return Err(damaged("floats: what is itself given others"));
            }
        }
        if let Some(own) = array.encoding.own() {
            self.check_values(own, "own", damaged)?;
        }
        Ok(())
    }

    /// Which array has the bytes of one that this variant's plan refers to.
    fn source_id(&self, to: &ArrayRef) -> Result<ArrayRef> {
        let (variant, source) = self.source_of(to)?;
        Ok(ArrayRef { variant: variant.entry.name.clone(), array: source.key.clone() })
    }

    /// Which array has the bytes of one of its own, and which ones have the codes that this is given, each with the
    /// levels at which its bins end, if it is known from these.
    pub(crate) fn source_and_given(&self, key: &ArrayKey) -> Result<(ArrayRef, Vec<GivenSource>)> {
        let own = ArrayRef { variant: self.entry.name.clone(), array: key.clone() };
        let (variant, source) = self.source_of(&own)?;
        let ends = source.encoding.known().iter().map(|known| known.ends).chain(std::iter::repeat(None));
        let given = source.encoding.given().zip(ends);
        let given = given.map(|(given, ends)| Ok((variant.source_id(&given.codes.array)?, ends)));
        Ok((self.source_id(&own)?, given.collect::<Result<_>>()?))
    }

    /// Whether a quantised matrix of another variant may be given to an array of this.
    fn check_given(&self, given: &QuantMatrix<ArrayRef>, damaged: &impl Fn(&str) -> Error) -> Result<()> {
        for array in given.arrays() {
            if array.variant == self.entry.name {
                return Err(damaged("it is given its own variant"));
            }
        }
        // Else opening one could take as many steps as there are paths through all the variants.
        let (_, source) = self.source_of(&given.codes.array)?;
        let is_rounded = matches!(source.encoding, Encoding::Rounded { .. });
        if source.encoding.is_of_floats() || is_rounded {
            return Err(damaged("it is given what is itself a residual of floats, or rounded from floats"));
        }
        if is_elsewhere(&source.encoding) {
            return Err(damaged("it is given what lies in parts, or in a part of another tensor"));
        }
        let codes = self.stored(&given.codes.array)?;
        let misfit = |e: FormatError| damaged(&format!("given.codes.{e}"));
        check_codes(&given.codes, codes.dtype, &codes.shape, given.shape).map_err(misfit)?;
        self.check_values(&given.values, "given", damaged)
    }

    /// Whether arrays may say what codes stand for.
    fn check_values(
        &self,
        values: &Dequantization<ArrayRef>,
        side: &str,
        damaged: impl Fn(&str) -> Error,
    ) -> Result<()> {
        for (name, field) in values.fields() {
            // Else a reader of one could need another, and so on. What is near others needs these and no more.
            let (_, source) = self.source_of(&field.array)?;
            let is_residual = source.encoding.is_given() && !source.encoding.is_near();
            if is_residual || is_elsewhere(&source.encoding) {
                let array = &field.array.array;
                return Err(damaged(&format!("{side}: {array} is itself a residual, or lies in parts")));
            }
            let array = self.stored(&field.array)?;
            let placed =
                field.view.place(&array.shape).map_err(|e| damaged(&format!("{side}.{name}.{e}")))?;
            if slab_bytes(array, &placed) > MAX_VALUES_BYTES {
                return Err(damaged(&format!("{side}.{name}: larger than a reader accepts")));
            }
        }
        Ok(())
    }

    /// Whether files and arrays make up each other.
    fn check_files(&self) -> Result<()> {
        let Some(last) = self.shards.last() else {
            return Err(Error::damaged(self.folder(), format!("variant {} has no shard", self.entry.name)));
        };
        let variant = self.entry.name.as_str();
        let damaged = |what: String| {
            Error::damaged(&last.path, what).about(|subject| subject.variant = Some(variant.to_owned()))
        };
        if content_hash(&last.plan().files, &last.plan().empty_folders) != self.entry.content {
            return Err(damaged("its list of files is not the one that the manifest names".to_owned()));
        }
        // Which arrays are of a file; by far most come in the order of the files.
        let mut parts: Vec<Vec<bool>> =
            self.shards.iter().map(|s| vec![false; s.plan().arrays.len()]).collect();
        let mut next = (0, 0);
        let mut last_slice = None;
        let (mut tensors, mut tensor_bytes, mut raw_bytes) = (0, 0u64, 0u64);
        for file in &last.plan().files {
            let wrong = |what: &dyn Display| {
                let error = damaged(format!("{}: {what}", file.path));
                error.about(|subject| subject.file = Some(file.path.to_string()))
            };
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
        let arrays = self.shards.iter().zip(&parts).flat_map(|(s, parts)| s.plan().arrays.iter().zip(parts));
        // A bundle and a part are of no file: slices and what is made of parts are.
        if arrays.into_iter().any(|(array, part)| *part == is_inner(&array.key)) {
            return Err(damaged("it has arrays that belong to no file".to_owned()));
        }
        let entry = &self.entry;
        let described = (entry.tensors, entry.tensor_bytes, entry.files, entry.raw_bytes);
        if described != (tensors, tensor_bytes, last.plan().files.len() as u64, raw_bytes) {
            return Err(damaged("its files are not those that the manifest counts".to_owned()));
        }
        Ok(())
    }

    /// The stored array that has the bytes of one that this variant's plan refers to, and the variant that has it.
    pub(super) fn source_of(&self, to: &ArrayRef) -> Result<(&Self, &StoredArray)> {
        let stored = self.stored(to)?;
        let variant = self.known(&to.variant);
        match &stored.encoding {
            Encoding::Reference { to: next, view } if view.is_whole() => {
                Ok((variant.known(&next.variant), variant.stored(next)?))
            }
            _ => Ok((variant, stored)),
        }
    }

    /// The variant of that name among those that it is given, else itself.
    fn known(&self, name: &VariantName) -> &Self {
        self.given.iter().find(|given| given.entry.name == *name).map_or(self, |given| given)
    }

    /// Where a tensor of its own is, which is likely to come next in the plan.
    fn place_from(&self, next: (usize, usize), name: &str) -> Option<(usize, usize)> {
        let (shard, mut at) = next;
        let arrays = &self.shards.get(shard)?.plan().arrays;
        while arrays.get(at).is_some_and(|array| is_inner(&array.key)) {
            at += 1;
        }
        let found = arrays.get(at).is_some_and(|array| array.key.tensor() == Some(name));
        if found { Some((shard, at)) } else { self.place(&ArrayKey::Tensor(name.to_owned())) }
    }
}

/// Whether it is an array within others.
fn is_inner(key: &ArrayKey) -> bool {
    matches!(key, ArrayKey::Bundle(_) | ArrayKey::Part(_))
}

/// Whether an array that is stored so has no chunks that are its own, so that what is done chunk by chunk could take
/// many for each.
pub(crate) fn is_elsewhere(encoding: &Encoding) -> bool {
    matches!(encoding, Encoding::Parts { .. } | Encoding::Reference { .. })
}

/// Whether each chunk of a matrix of codes is given one chunk of `source`, if that is itself given codes. Else each
/// could ask for two, and each of these for two of the next, and so on.
pub(crate) fn chunks_align(array: &StoredArray, source: &StoredArray) -> bool {
    let across = |array: &StoredArray| array.chunks_across().unwrap_or(0);
    if across(array) > 1 && code_cols(array) != code_cols(source) {
        // Each of the chunks side by side would decode all that are below them.
        return false;
    }
    if !source.encoding.is_given() {
        return true;
    }
    let is_one = |array: &StoredArray| array.chunk_count().is_ok_and(|count| count == 1);
    if is_one(array) && is_one(source) {
        return true;
    }
    let (Some(own), Some(given)) = (code_rows(array), code_rows(source)) else { return false };
    own == given && (across(array) == 1 && across(source) == 1 || code_cols(array) == code_cols(source))
}

/// Columns of codes of a matrix, and of a chunk of it.
fn code_cols(array: &StoredArray) -> Option<(u64, u64)> {
    let cols = coded_shape(array)?[1];
    let of_chunk = match array.encoding.packing() {
        Some(packing) if packing.along == Axis::Columns => packing.numbers_in(array.chunk.cols)?,
        _ => array.chunk.cols,
    };
    Some((cols, of_chunk))
}

/// Rows of codes of a matrix, and of a chunk of it.
fn code_rows(array: &StoredArray) -> Option<(u64, u64)> {
    let rows = coded_shape(array)?[0];
    let per_row = match array.encoding.packing() {
        Some(packing) if packing.along == Axis::Rows => {
            u64::from(packing.word) / u64::from(packing.bits.max(1))
        }
        _ => 1,
    };
    Some((rows, array.chunk.rows.saturating_mul(per_row)))
}
