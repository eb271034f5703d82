//! From a plan's entry to a reader: of the array, of what it refers to, and of what it is given. Nothing is read for
//! that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use qstore_checkpoint::{Error, FloatKind, IoContext as _, Result, zeroed};
use qstore_container::{
    ArrayKey, ArrayRef, ChunkForm, Dequantization, Encoding, Field, Finite, KnownMatrix, QuantMatrix, View,
};

use super::array::{ArrayReader, Chunks, Location};
use super::bytes::ArrayBytes as _;
use super::given::{Described, GivenReader, Kind, Told, Value};
use super::matrix::MatrixReader;
use super::parts::{Part, Parts, Rows};
use crate::fetch::{Group, Needs, Place, fetch};
use crate::formats::Checkpoint;
use crate::variant::{Variant, about_array, coded_shape};

/// Opens readers of many arrays of a variant. What several of them lie in, refer to or are given has one reader: each
/// knows where all of its chunks lie.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    shared: Vec<Shared>,
}

/// Readers of a variant that many may share, by their places.
#[derive(Debug)]
struct Shared {
    variant: Arc<Variant>,
    readers: HashMap<(usize, usize), Arc<ArrayReader>>,
}

impl Readers {
    /// A reader of one array of a variant; of a reference to all of another that one's.
    pub(crate) fn open(&mut self, variant: &Arc<Variant>, key: &ArrayKey) -> Result<Arc<ArrayReader>> {
        match &variant.stored_array(key)?.encoding {
            Encoding::Reference { to, view } if view.is_whole() => self.open_referred(variant, to),
            _ => Ok(Arc::new(self.open_at(variant, place_of(variant, key)?)?)),
        }
    }

    /// A reader of an array that a variant's plan refers to.
    fn open_referred(&mut self, variant: &Arc<Variant>, to: &ArrayRef) -> Result<Arc<ArrayReader>> {
        let variant = variant.referred(to)?;
        match &variant.stored_array(&to.array)?.encoding {
            Encoding::Reference { to, view } if view.is_whole() => self.open_referred(&variant, to),
            _ => self.open_shared(&variant, place_of(&variant, &to.array)?),
        }
    }

    /// The reader of the array at a place of the variant that many may share.
    fn open_shared(&mut self, variant: &Arc<Variant>, place: (usize, usize)) -> Result<Arc<ArrayReader>> {
        let index = self.of_variant(variant);
        if let Some(reader) = self.shared[index].readers.get(&place) {
            return Ok(reader.clone());
        }
        let reader = Arc::new(self.open_at(variant, place)?);
        self.shared[index].readers.insert(place, reader.clone());
        Ok(reader)
    }

    /// Where those of a variant are.
    fn of_variant(&mut self, variant: &Arc<Variant>) -> usize {
        let known = self.shared.iter().position(|shared| Arc::ptr_eq(&shared.variant, variant));
        known.unwrap_or_else(|| {
            self.shared.push(Shared { variant: variant.clone(), readers: HashMap::new() });
            self.shared.len() - 1
        })
    }

    /// A reader of the array at a place of the variant, which is no reference to all of another.
    fn open_at(&mut self, variant: &Arc<Variant>, place: (usize, usize)) -> Result<ArrayReader> {
        let array = variant.array_at(place);
        let (file, index) = (variant.shard(place.0), place.1);
        let damaged = |what: &dyn ToString| damaged_array(variant, place, what);
        let location = match &array.encoding {
            Encoding::Slice { .. } => {
                let (bundle, start) = file.slice(index).ok_or_else(|| damaged(&"it has no bundle"))?;
                Location::Slice { bundle: self.open_shared(variant, (place.0, bundle))?, start }
            }
            Encoding::Parts { parts } => {
                let part = |part: &qstore_container::Part| {
                    let placed = part.view.place(&array.shape).map_err(|e| damaged(&e))?;
                    Ok(Part { placed, array: self.open(variant, &part.array)? })
                };
                let parts = parts.iter().map(part).collect::<Result<_>>()?;
                Location::Parts(Parts { parts, width: array.width() })
            }
            Encoding::Reference { to, view } => Location::Rows(self.rows(variant, to, view)?),
            _ => Location::Chunks(Box::new(self.chunks(variant, place)?)),
        };
        let bytes = array.bytes().map_err(|e| damaged(&e))?;
        Ok(ArrayReader::new(variant.clone(), place, bytes, location))
    }

    /// The matrix of the array `to`, which a plan of `variant` may refer to, that `view` takes.
    fn rows(&mut self, variant: &Arc<Variant>, to: &ArrayRef, view: &View) -> Result<Rows> {
        let target = variant.stored(to)?;
        let of = self.open_referred(variant, to)?;
        let placed = view.place(&target.shape).map_err(|e| of.damaged(&e))?;
        Ok(Rows::new(placed, target.width(), of))
    }

    /// Where the chunks of an array lie, and what they are given.
    fn chunks(&mut self, variant: &Arc<Variant>, place: (usize, usize)) -> Result<Chunks> {
        let array = variant.array_at(place);
        let (file, index) = (variant.shard(place.0), place.1);
        let damaged = |what: &dyn ToString| damaged_array(variant, place, what);
        let (name, mut next, verbatim) = match &array.encoding {
            Encoding::Verbatim { file, offset } => {
                (format!("{}/{file}", variant.name()).into(), *offset, true)
            }
            _ => {
                let stream = file.stream(index).ok_or_else(|| damaged(&"it has no stream"))?;
                (file.name.clone(), stream.start, false)
            }
        };
        let records = file.records(index);
        let mut places = Vec::with_capacity(records.len());
        for (chunk, record) in (0u64..).zip(records) {
            let (stored, decoded) =
                (u64::from(record.length), array.bytes_of_chunk(chunk).map_err(|e| damaged(&e))?);
            let fits = match record.form {
                ChunkForm::Raw => stored == decoded,
                ChunkForm::Coded => stored < decoded,
                ChunkForm::Head => false,
            };
            if !fits {
                return Err(damaged(&"a chunk has a length that its rows cannot have"));
            }
            places.push(Place { file: name.clone(), start: next, length: stored });
            next = next.saturating_add(stored);
        }
        Ok(Chunks { places, codec: OnceLock::new(), given: self.given(variant, place)?, verbatim })
    }

    /// What the array at a place is given, if anything.
    fn given(&mut self, variant: &Arc<Variant>, place: (usize, usize)) -> Result<Option<GivenReader>> {
        let array = variant.array_at(place);
        let damaged = |what: &str| damaged_array(variant, place, &what);
        let given: Vec<_> = array.encoding.read_given().collect();
        if !array.encoding.is_given() {
            return Ok(None);
        }
        let shape = coded_shape(array).ok_or_else(|| damaged("a residual that is no matrix"))?;
        let float = || FloatKind::of_stored(array).ok_or_else(|| damaged("a residual of other elements"));
        let told = |known: &KnownMatrix| match (known.ends, &known.around) {
            (Some(ends), _) => Some(Told::Bins(ends.map(Finite::get))),
            (None, Some(around)) => Some(Told::Around(around.iter().map(|edge| edge.get()).collect())),
            (None, None) => None,
        };
        let told = |known: &[KnownMatrix]| known.iter().filter_map(told).collect();
        let of_floats = |floats: &Field<ArrayRef>| {
            let float = FloatKind::of(variant.stored(&floats.array)?.dtype);
            float.ok_or_else(|| damaged("floats: an array of something else"))
        };
        let kind = match &array.encoding {
            Encoding::Residual { .. } => Kind::Bins(float()?),
            Encoding::Dequantized { .. } => Kind::Values,
            Encoding::StepResidual { subdivisions, .. } => Kind::Subdivisions(*subdivisions, float()?),
            Encoding::CodeResidual { own, layout, .. } => Kind::Codes(own.clone(), layout.bits()),
            Encoding::RefineFloats { known, .. } => Kind::Floats(told(known)),
            Encoding::Rounded { floats, own, layout } => {
                Kind::Rounded(of_floats(floats)?, own.clone(), layout.bits())
            }
            Encoding::Near { floats, times } => Kind::Near(of_floats(floats)?, times.get()),
            Encoding::Refine { known, own, layout } => Kind::Refined(told(known), own.clone(), layout.bits()),
            _ => return Ok(None),
        };
        let of_given = given.iter().flat_map(|given| given.values.fields());
        let of_own = array.encoding.own().into_iter().flat_map(Dequantization::fields);
        let fields = of_given.map(|(name, field)| ("given", name, field));
        let fields = fields.chain(of_own.map(|(name, field)| ("own", name, field)));
        let value = |(side, name, field): (&str, &str, &Field<ArrayRef>)| {
            let stored = variant.stored(&field.array)?;
            let placed = field.view.place(&stored.shape);
            let elements = placed.map_err(|e| damaged(&format!("{side}.{name}.{e}")))?.elements();
            Ok(Value {
                name: field.array.clone(),
                dtype: stored.dtype,
                shape: stored.shape.clone(),
                bytes: elements.start * stored.width()..elements.end * stored.width(),
                array: self.open_referred(variant, &field.array)?,
            })
        };
        let values = fields.map(value).collect::<Result<_>>()?;
        let mut reader = |given: &&QuantMatrix<ArrayRef>| {
            let codes = variant.stored(&given.codes.array)?;
            let of = self.open_referred(variant, &given.codes.array)?;
            let reader = MatrixReader::codes(of, &given.codes, (codes.dtype, &codes.shape), given.shape);
            let reader = reader.map_err(|e| damaged(&format!("given.codes.{e}")))?;
            Ok((reader, is_in_step(variant, &array.encoding, given)?))
        };
        let mut readers = given.iter().map(&mut reader).collect::<Result<Vec<_>>>()?;
        if let Some(floats) = array.encoding.floats() {
            let (stored, of) = (variant.stored(&floats.array)?, self.open_referred(variant, &floats.array)?);
            let reader = MatrixReader::floats(of, floats, (stored.dtype, &stored.shape), shape);
            readers.push((reader.map_err(|e| damaged(&format!("floats.{e}")))?, false));
        }
        let described = Described {
            variant: variant.name().clone(),
            path: variant.shard(place.0).path.clone(),
            key: array.key.clone(),
            given: given.into_iter().cloned().collect(),
            shape,
            kind,
            values,
            values_group: Group::default(),
        };
        Ok(Some(GivenReader::described(readers, described)))
    }
}

/// Whether the codes of a matrix that is known are refined by what is known from those before it, and nothing else: one
/// that is given it can then narrow the intervals of its weights along with them.
fn is_in_step(variant: &Variant, encoding: &Encoding, matrix: &QuantMatrix<ArrayRef>) -> Result<bool> {
    let stored = variant.stored(&matrix.codes.array)?;
    let Encoding::Refine { known, own, .. } = &stored.encoding else { return Ok(false) };
    let mut places = encoding.known().iter().enumerate().filter(|(_, known)| known.matrix == *matrix);
    let (Some((at, one)), None) = (places.next(), places.next()) else { return Ok(false) };
    let before = &encoding.known()[..at];
    Ok(one.ends.is_some()
        && *known == before
        && **own == matrix.values
        && coded_shape(stored) == Some(matrix.shape))
}

impl ArrayReader {
    /// A reader of one array of a variant; of a reference to all of another that one's.
    pub(crate) fn open(variant: &Arc<Variant>, key: &ArrayKey) -> Result<Arc<Self>> {
        Readers::default().open(variant, key)
    }
}

impl Rows {
    /// The matrix of the array `to`, which a plan of `variant` may refer to, that `view` takes.
    pub(crate) fn open(variant: &Arc<Variant>, to: &ArrayRef, view: &View) -> Result<Self> {
        Readers::default().rows(variant, to, view)
    }
}

fn place_of(variant: &Variant, key: &ArrayKey) -> Result<(usize, usize)> {
    variant.place(key).ok_or_else(|| Error::internal(format!("{key}: it is nowhere")))
}

/// That something is wrong with the array at a place.
fn damaged_array(variant: &Variant, place: (usize, usize), what: &dyn ToString) -> Error {
    let (shard, key) = (variant.shard(place.0), &variant.array_at(place).key);
    let error = Error::damaged(&shard.path, format!("{key}: {}", what.to_string()));
    about_array(error, variant.name(), key)
}

/// Some bytes of a small array.
pub(crate) fn read_part(reader: &ArrayReader, bytes: Range<u64>) -> Result<Vec<u8>> {
    let mut out = zeroed(bytes.end.saturating_sub(bytes.start)).at(reader.folder(), "cannot hold scales")?;
    reader.read(bytes.start, &mut out)?;
    Ok(out)
}

/// All of several small arrays, one after another, which have `bytes` bytes together.
pub(crate) fn read_each<'k>(
    variant: &Arc<Variant>,
    keys: impl Iterator<Item = &'k ArrayKey>,
    bytes: u64,
) -> Result<Vec<u8>> {
    let mut open = Readers::default();
    let readers = keys.map(|key| open.open(variant, key)).collect::<Result<Vec<_>>>()?;
    let mut needs = Needs::default();
    readers.iter().try_for_each(|reader| reader.needs(0..reader.bytes(), &mut needs))?;
    let from = fetch(variant.storage(), needs)?;
    let wrong = || Error::damaged(variant.folder(), "tensors have other sizes than their file says");
    let mut out = zeroed(bytes).at(variant.folder(), "cannot hold tensors")?;
    let mut rest = &mut out[..];
    for reader in readers {
        let own = usize::try_from(reader.bytes()).unwrap_or(usize::MAX);
        let (own, tail) = rest.split_at_mut_checked(own).ok_or_else(wrong)?;
        reader.decode(&from, 0, own)?;
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(wrong());
    }
    Ok(out)
}

/// All of an array.
pub(crate) fn read_whole(variant: &Arc<Variant>, key: &ArrayKey) -> Result<Vec<u8>> {
    let reader = ArrayReader::open(variant, key)?;
    read_part(&reader, 0..reader.bytes())
}

/// What the folder of a variant said of itself.
///
/// # Errors
/// Its `config.json` cannot be read, or a tensor that says what others are.
pub(crate) fn checkpoint(variant: &Arc<Variant>) -> Result<Checkpoint> {
    let keys = variant.files().iter().map(|file| (ArrayKey::File(file.path.clone()), file.bytes));
    let there = keys.filter(|(key, _)| variant.place(key).is_some());
    Checkpoint::new(variant.array_infos(), there, |key| read_whole(variant, key))
}
