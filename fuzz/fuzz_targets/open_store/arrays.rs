//! Shards whose arrays a reader accepts at first sight, or at second: they belong to a file, and lengths, forms and
//! hashes fit. What is in their chunks need not.

use arbitrary::Arbitrary;
use qstore_container::{
    ArrayKey, ArrayRef, ChunkForm, ChunkRecord, ChunkShape, Dtype, Encoding, FileContent, Finite, Given,
    Hash128, KnownMatrix, Lanes, OriginalFile, Part, Sha256Hex, ShardPlan, StoredArray, VariantName, View,
};
use qstore_kernels::SymbolTable;

use crate::Shard;
use crate::described::{
    Bits, Matrix, Place, Seen, Source, Values, finite, key, layout, shape_in_words, words_of,
};

/// An array, with as many chunks as its shape asks for.
#[derive(Debug, Arbitrary)]
pub struct Array {
    dtype: u8,
    rows: u8,
    cols: u8,
    /// Dimensions beside rows and columns.
    more: Vec<u8>,
    rows_of_chunk: u8,
    /// Where it is not what the encoding asks for.
    cols_of_chunk: Option<u8>,
    is_wide: bool,
    kind: Kind,
    /// For a kind that a bundle may have: a bundle, of one slice.
    is_bundle: bool,
    /// For a matrix: whether it is a part, the only one, of a tensor which lies the other way round, or in another
    /// order.
    part_of: Option<(bool, Option<[u8; 2]>)>,
    head: Vec<u8>,
    /// Symbols of its tables; without any the head is taken as it is.
    tables: Vec<Vec<u8>>,
    chunks: Vec<Vec<u8>>,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Reference { to: u8, is_own: bool, view: Option<Seen> },
    FloatSplit,
    Bytes,
    Zstd,
    Raw,
    Codes { transposed: bool, packing: Option<Bits> },
    CodeResidual { given: Box<Matrix>, own: Box<Values>, transposed: bool, packing: Option<Bits> },
    Residual { given: Box<Matrix>, transposed: bool },
    StepResidual { given: Box<Matrix>, subdivisions: i8, transposed: bool },
    Refine { known: Vec<Known>, own: Box<Values>, transposed: bool, packing: Option<Bits> },
    RefineFloats { known: Vec<Known>, transposed: bool },
    Rounded { floats: Place, dtype: u8, own: Box<Values>, transposed: bool, packing: Option<Bits> },
    Near { floats: Place, dtype: u8, times: f32 },
}

/// A matrix from which something is known.
#[derive(Debug, Arbitrary)]
struct Known {
    matrix: Box<Matrix>,
    ends: Option<[f32; 2]>,
    around: Option<Vec<f32>>,
}

impl Known {
    fn in_plan(&self, shape: [u64; 2], lower: &mut Lower) -> KnownMatrix {
        let ends = self.ends.map(|ends| ends.map(|end| finite(end).unwrap_or_else(one)));
        let around = self.around.as_ref().map(|around| {
            let mut around = around.clone();
            around.sort_by(f32::total_cmp);
            around.into_iter().filter_map(finite).take(20).collect()
        });
        KnownMatrix { matrix: self.matrix.quantised(shape, lower), ends, around }
    }
}

fn one() -> Finite {
    1.0.try_into().expect("a number")
}

const FLOATS: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];
const BYTES: [Dtype; 4] = [Dtype::U8, Dtype::I8, Dtype::F8_E8M0, Dtype::F8_E4M3];
const ANY: [Dtype; 4] = [Dtype::U8, Dtype::I64, Dtype::BF16, Dtype::F4];
/// Tensors of a variant, beside those that descriptions ask for.
const MOST: usize = 20;

/// A variant of one shard and what the manifest must say of it.
pub struct Built {
    pub shard: Shard,
    pub file: OriginalFile,
    pub tensors: u64,
    pub tensor_bytes: u64,
}

/// What a variant is made of.
struct Builder {
    plan: ShardPlan,
    records: Vec<ChunkRecord>,
    streams: Vec<(ArrayKey, u64)>,
    data: Vec<u8>,
    tables: Vec<u8>,
}

/// Arrays by number, of the lower variant, or of this one.
struct Lower<'a> {
    variant: VariantName,
    builder: &'a mut Builder,
}

impl Source for Lower<'_> {
    fn named(&self, number: u8) -> ArrayRef {
        ArrayRef { variant: self.variant.clone(), array: key(usize::from(number) % (2 * MOST)) }
    }

    fn made(&mut self, dtype: Dtype, shape: Vec<u64>) -> ArrayRef {
        let bytes = shape.iter().product::<u64>() * dtype.bitsize() as u64 / 8;
        let (rows, cols) = (1 << 12, 256);
        let number = self.builder.plan.arrays.len();
        if bytes <= 1 << 16 && number < 8 * MOST {
            let array = StoredArray {
                key: key(number),
                dtype,
                shape,
                mantissa: None,
                hash: Some(Hash128(0)),
                chunk: ChunkShape { rows, cols, lanes: Lanes::Narrow },
                encoding: Encoding::Raw,
            };
            self.builder.push(array, &[], &[]);
        }
        ArrayRef { variant: self.variant.clone(), array: key(number) }
    }
}

/// Two variants, of which the second is given the first.
pub fn build(names: &[VariantName; 2], low: &[Array], high: &[Array]) -> Option<(Built, Built)> {
    let [mut lower, mut upper] = names.clone().map(Builder::new);
    for array in low.iter().take(MOST) {
        let mut own = Builder::new(names[0].clone());
        let built = array.stored(
            &names[0],
            lower.plan.arrays.len(),
            &mut Lower { variant: names[0].clone(), builder: &mut own },
        );
        lower.add(array, built);
    }
    for array in high.iter().take(MOST) {
        let number = upper.plan.arrays.len();
        let built =
            array.stored(&names[1], number, &mut Lower { variant: names[0].clone(), builder: &mut lower });
        upper.add(array, built);
    }
    let low = lower.finish(Vec::new())?;
    let content = crate::content_of(&low.file);
    Some((low, upper.finish(vec![Given { variant: names[0].clone(), content }])?))
}

impl Array {
    fn stored(&self, own: &VariantName, number: usize, lower: &mut Lower) -> StoredArray {
        let shape = [u64::from(self.rows), u64::from(self.cols)];
        let turned = |transposed: bool| if transposed { [shape[1], shape[0]] } else { shape };
        let pick = |dtypes: &[Dtype]| dtypes[usize::from(self.dtype) % dtypes.len()];
        let whole =
            || shape.into_iter().chain(self.more.iter().take(2).map(|&n| n.into())).collect::<Vec<_>>();
        // Codes of so many rows and columns lie in words of another shape.
        let words = |transposed: bool, packing: &Option<Bits>| {
            let packing = packing.as_ref().map(Bits::packing);
            let [rows, cols] = shape_in_words(packing.as_ref(), shape);
            let shape = if transposed { vec![cols, rows] } else { vec![rows, cols] };
            (packing.as_ref().map_or(pick(&BYTES), words_of), shape, cols)
        };
        let (encoding, dtype, shape, cols) = match &self.kind {
            Kind::Reference { to, is_own, view } => {
                let mut to = lower.named(*to);
                if *is_own {
                    to.variant = own.clone();
                }
                let view = view.as_ref().map_or(View::WHOLE, Seen::view);
                (Encoding::Reference { to, view }, pick(&ANY), whole(), shape[1])
            }
            Kind::FloatSplit => (Encoding::FloatSplit, pick(&FLOATS), whole(), shape[1]),
            Kind::Bytes => (Encoding::Codes { layout: layout(false, None) }, pick(&BYTES), whole(), shape[1]),
            Kind::Zstd => (Encoding::Zstd, pick(&ANY), whole(), shape[1]),
            Kind::Raw => (Encoding::Raw, pick(&ANY), whole(), shape[1]),
            Kind::Codes { transposed, packing } => {
                let (dtype, shape, cols) = words(*transposed, packing);
                (Encoding::Codes { layout: layout(*transposed, packing.as_ref()) }, dtype, shape, cols)
            }
            Kind::CodeResidual { given, own: values, transposed, packing } => {
                let given = Box::new(given.quantised(shape, lower));
                let own = Box::new(values.values(shape, lower));
                let layout = layout(*transposed, packing.as_ref());
                let (dtype, shape, cols) = words(*transposed, packing);
                (Encoding::CodeResidual { given, own, layout }, dtype, shape, cols)
            }
            Kind::Residual { given, transposed } => {
                let given = Box::new(given.quantised(turned(*transposed), lower));
                let encoding = Encoding::Residual { given, transposed: *transposed };
                (encoding, pick(&FLOATS), shape.to_vec(), turned(*transposed)[1])
            }
            Kind::StepResidual { given, subdivisions, transposed } => {
                let given = Box::new(given.quantised(turned(*transposed), lower));
                let (subdivisions, transposed) = (*subdivisions % 10, *transposed);
                let encoding = Encoding::StepResidual { given, subdivisions, transposed };
                (encoding, pick(&FLOATS), shape.to_vec(), turned(transposed)[1])
            }
            Kind::Refine { known, own: values, transposed, packing } => {
                let known = known.iter().take(4).map(|known| known.in_plan(shape, lower)).collect();
                let own = Box::new(values.values(shape, lower));
                let layout = layout(*transposed, packing.as_ref());
                let (dtype, shape, cols) = words(*transposed, packing);
                (Encoding::Refine { known, own, layout }, dtype, shape, cols)
            }
            Kind::RefineFloats { known, transposed } => {
                let known =
                    known.iter().take(4).map(|known| known.in_plan(turned(*transposed), lower)).collect();
                let encoding = Encoding::RefineFloats { known, transposed: *transposed };
                (encoding, pick(&FLOATS), shape.to_vec(), turned(*transposed)[1])
            }
            Kind::Rounded { floats, dtype, own: values, transposed, packing } => {
                let dtype = FLOATS[usize::from(*dtype) % FLOATS.len()];
                let floats = floats.field(dtype, shape, None, lower);
                let own = Box::new(values.values(shape, lower));
                let layout = layout(*transposed, packing.as_ref());
                let (dtype, shape, cols) = words(*transposed, packing);
                (Encoding::Rounded { floats, own, layout }, dtype, shape, cols)
            }
            Kind::Near { floats, dtype, times } => {
                let floats = floats.field(FLOATS[usize::from(*dtype) % FLOATS.len()], shape, None, lower);
                let times = if times.is_finite() { *times } else { 1.0 };
                let times = times.try_into().expect("a finite number");
                (Encoding::Near { floats, times }, pick(&FLOATS), shape.to_vec(), shape[1])
            }
        };
        let is_float_of_16_bits = dtype == Dtype::F16 && self.is_wide;
        let has_mantissa =
            is_float_of_16_bits && (encoding == Encoding::FloatSplit || encoding.is_of_floats());
        StoredArray {
            key: key(number),
            dtype,
            shape,
            mantissa: has_mantissa.then_some(7),
            hash: Some(Hash128(0)),
            chunk: ChunkShape {
                rows: u64::from(self.rows_of_chunk).max(1),
                cols: self.cols_of_chunk.map_or(cols, u64::from).max(1),
                lanes: if self.is_wide { Lanes::Wide } else { Lanes::Narrow },
            },
            encoding,
        }
    }

    /// What comes before the chunks.
    fn head(&self, encoding: &Encoding) -> Vec<u8> {
        if self.tables.is_empty() {
            return self.head.clone();
        }
        let mut tables = self.tables.iter().take(16).map(|symbols| {
            let mut histogram = [0; 256];
            symbols.iter().for_each(|symbol| histogram[usize::from(*symbol)] += 1);
            SymbolTable::from_histogram(&histogram)
        });
        let (mut head, mut last) = (Vec::new(), Vec::new());
        if encoding.is_of_floats()
            && let Some(zero) = tables.next()
        {
            zero.write(&mut last);
        }
        let has_stretches = encoding.known().iter().any(|known| known.around.is_some());
        let has_one = matches!(encoding, Encoding::Residual { .. } | Encoding::RefineFloats { .. });
        if !has_one || has_stretches {
            let tables: Vec<_> = tables.collect();
            head.extend(u8::try_from(tables.len()));
            tables.iter().for_each(|table| table.write(&mut head));
        }
        [head, last].concat()
    }
}

impl Builder {
    fn new(variant: VariantName) -> Self {
        let plan = ShardPlan { variant, given: vec![], arrays: vec![], files: vec![], empty_folders: vec![] };
        Self { plan, records: vec![], streams: vec![], data: vec![], tables: vec![] }
    }

    /// An array of the fuzzer's, in a bundle if it says so.
    fn add(&mut self, of: &Array, stored: StoredArray) {
        let head = of.head(&stored.encoding);
        let may_be = matches!(&stored.encoding, Encoding::FloatSplit | Encoding::Zstd | Encoding::Raw)
            || matches!(&stored.encoding, Encoding::Codes { layout } if layout.is_plain());
        if let (Some((transposed, order)), &[rows, cols]) = (&of.part_of, &stored.shape[..]) {
            let key = ArrayKey::Part(u32::try_from(self.plan.arrays.len()).unwrap_or(0));
            let order = order.map(|[outer, inner]| [outer.into(), inner.into()].into());
            let view = View { transposed: *transposed, order, ..View::WHOLE };
            let whole = StoredArray {
                shape: if *transposed { vec![cols, rows] } else { vec![rows, cols] },
                chunk: ChunkShape::NONE,
                mantissa: None,
                encoding: Encoding::Parts { parts: vec![Part { array: key.clone(), view }] },
                ..stored.clone()
            };
            let before = self.plan.arrays.len();
            self.push(StoredArray { key, ..stored }, &head, &of.chunks);
            if self.plan.arrays.len() > before {
                self.plan.arrays.push(whole);
            }
            return;
        }
        if !(of.is_bundle && may_be) {
            return self.push(stored, &head, &of.chunks);
        }
        let Ok(bytes) = stored.bytes() else { return };
        let Some(elements) = bytes.checked_div(stored.width()).filter(|_| bytes > 0) else { return };
        let bundle = ArrayKey::Bundle(u32::try_from(self.plan.arrays.len()).unwrap_or(0));
        let slice = StoredArray {
            hash: None,
            chunk: ChunkShape::NONE,
            mantissa: None,
            encoding: Encoding::Slice { of: bundle.clone(), offset: 0 },
            ..stored.clone()
        };
        self.push(StoredArray { key: bundle, shape: vec![elements], ..stored }, &head, &of.chunks);
        self.plan.arrays.push(slice);
    }

    fn push(&mut self, stored: StoredArray, head: &[u8], chunks: &[Vec<u8>]) {
        let Ok(count) = stored.chunk_count() else { return };
        let Ok(bytes) = stored.bytes() else { return };
        if count > 1 << 12 || bytes > 1 << 22 {
            return;
        }
        let begun = self.data.len();
        let has_stream = stored.encoding.has_stream();
        if has_stream {
            if stored.has_head() {
                self.records.extend(ChunkRecord::of(ChunkForm::Head, head));
                self.tables.extend(head);
            }
            for index in 0..count {
                let Ok(full) = stored.bytes_of_chunk(index) else { return };
                let full = usize::try_from(full).unwrap_or(0);
                let own = chunks.get(usize::try_from(index).unwrap_or(0)).filter(|own| own.len() < full);
                let (form, chunk) = match own {
                    Some(own) if stored.encoding != Encoding::Raw => (ChunkForm::Coded, own.clone()),
                    // Numbers of any type that are neither none nor all alike.
                    _ => (
                        ChunkForm::Raw,
                        (0..=u8::MAX)
                            .map(|n| [n % 5, 0x3c, n % 3, 0x2c][usize::from(n % 4)])
                            .cycle()
                            .take(full)
                            .collect(),
                    ),
                };
                self.records.extend(ChunkRecord::of(form, &chunk));
                self.data.extend(chunk);
            }
            self.streams.push((stored.key.clone(), (self.data.len() - begun) as u64));
        }
        self.plan.arrays.push(stored);
    }

    /// The shard, with a file that has all of its tensors.
    fn finish(mut self, given: Vec<Given>) -> Option<Built> {
        let mut header = String::from("{");
        let (mut tensors, mut at) = (Vec::new(), 0);
        for array in &self.plan.arrays {
            let Some(name) = array.key.tensor() else { continue };
            let bytes = array.bytes().ok()?;
            let comma = if tensors.is_empty() { "" } else { "," };
            let end = at + bytes;
            header += &format!(
                r#"{comma}"{name}":{{"dtype":"{}","shape":{:?},"data_offsets":[{at},{end}]}}"#,
                array.dtype, array.shape
            );
            (at, tensors) = (end, [tensors, vec![name.to_owned()]].concat());
        }
        header.push('}');
        let file = OriginalFile {
            path: "model.safetensors".parse().ok()?,
            bytes: 8 + header.len() as u64 + at,
            sha256: Sha256Hex([0; 32]),
            content: FileContent::Safetensors { header, tensors: tensors.clone() },
        };
        self.plan.given = given;
        self.plan.files = vec![file.clone()];
        // What contradicts itself is refused when it is written as well; the JSON of other inputs gets to the reader.
        let plan = self.plan.write().ok()?;
        let shard = Shard::new(&self.streams, &self.data, &self.tables, &self.records, &plan);
        Some(Built { shard, file, tensors: tensors.len() as u64, tensor_bytes: at })
    }
}
