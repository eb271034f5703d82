//! Floats that may equal floats of a variant below, where one of the two is a part of a tensor. Whole tensors are found
//! by hash.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qstore_checkpoint::{FloatKind, IoContext as _, Result, Source, SourceArray, zeroed};
use qstore_container::{ArrayKey, ArrayRef, Dtype, View};

use super::endings::Endings;
use super::rounded::FloatPair;
use crate::decode::Rows;
use crate::formats::Checkpoint;
use crate::names::{ArrayInfo, canonical, cuts};
use crate::variant::Variant;

/// Bytes that are compared at a time.
const PIECE: u64 = 1 << 20;

/// A matrix of a stored variant.
#[derive(Debug, Clone)]
pub(crate) struct Twin {
    variant: Arc<Variant>,
    array: ArrayKey,
    pub(super) view: View,
}

impl Twin {
    /// What a reference to it says, and a reader of it, if `array` equals it. Every byte is compared.
    pub(crate) fn matches(
        &self,
        source: &Source,
        array: &SourceArray,
    ) -> Result<Option<((ArrayRef, View), Rows)>> {
        let is_part = matches!(array.key, ArrayKey::Part(_));
        let Some((to, view)) = self.variant.matrix_of(&self.array, &self.view, is_part) else {
            return Ok(None);
        };
        let rows = Rows::open(&self.variant, &to, &view)?;
        let piece = array.bytes.min(PIECE);
        let hold = || zeroed(piece).at(source.path(), "cannot hold a chunk");
        let (mut own, mut other) = (hold()?, hold()?);
        let mut at = 0;
        while at < array.bytes {
            let length = usize::try_from((array.bytes - at).min(PIECE)).unwrap_or(0);
            source.read(array, at, &mut own[..length])?;
            rows.read(at, &mut other[..length])?;
            if own[..length] != other[..length] {
                return Ok(None);
            }
            at += length as u64;
        }
        Ok(Some(((to, view), rows)))
    }
}

/// The matrices of floats of a variant, those included that are parts of tensors.
pub(super) struct Floats<'a> {
    by_name: HashMap<String, Vec<Float<'a>>>,
}

struct Float<'a> {
    array: &'a ArrayInfo,
    view: View,
    shape: [u64; 2],
}

impl<'a> Floats<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        let mut by_name: HashMap<String, Vec<Float>> = HashMap::new();
        for array in checkpoint.tensors.iter().filter(|array| FloatKind::of(array.dtype).is_some()) {
            let parts = cuts(array, &checkpoint.config).into_iter().flat_map(|cut| cut.parts);
            for part in parts {
                by_name.entry(part.name).or_default().push(Float {
                    array,
                    view: part.view,
                    shape: part.shape,
                });
            }
            if let &[rows, cols] = &array.shape[..] {
                let whole = Float { array, view: View::WHOLE, shape: [rows, cols] };
                by_name.entry(canonical(&array.name).into_owned()).or_default().push(whole);
            }
        }
        Self { by_name }
    }

    /// Those of that name and shape that codes may be given.
    pub(super) fn of_codes(&self, variant: &Arc<Variant>, name: &str, shape: [u64; 2]) -> Vec<FloatPair> {
        let named = self.by_name.get(name).into_iter().flatten();
        let alike = named.filter(|float| float.shape == shape);
        alike.filter_map(|float| FloatPair::new(variant, &float.array.key, &float.view)).collect()
    }

    /// Whether there is one of that name and shape.
    pub(super) fn has(&self, name: &str, shape: [u64; 2]) -> bool {
        self.by_name.get(name).into_iter().flatten().any(|float| float.shape == shape)
    }

    /// The names of all but those that are `taken`, in order.
    pub(super) fn names(&self, taken: &HashSet<String>) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.by_name.keys().filter(|name| !taken.contains(*name)).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The endings of these names, by their number.
    pub(super) fn endings<'n>(&self, names: &[&'n str]) -> Endings<'n> {
        let mut endings = Endings::default();
        for (index, name) in names.iter().enumerate() {
            let shapes: HashSet<_> = self.by_name[*name].iter().map(|float| float.shape).collect();
            shapes.into_iter().for_each(|shape| endings.add(name, shape, index));
        }
        endings
    }

    /// Those of that name, element type and shape.
    pub(super) fn twins<'s>(
        &'s self,
        variant: &'s Arc<Variant>,
        name: &str,
        dtype: Dtype,
        shape: [u64; 2],
    ) -> impl Iterator<Item = Twin> + use<'s, 'a> {
        let named = self.by_name.get(name).into_iter().flatten();
        let alike = named.filter(move |float| float.array.dtype == dtype && float.shape == shape);
        alike.map(|float| Twin {
            variant: variant.clone(),
            array: float.array.key.clone(),
            view: float.view.clone(),
        })
    }
}
