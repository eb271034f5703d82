//! Chunks of the fuzzer's in every coder, with tables of the fuzzer's: decoding returns; what a coder encodes, it
//! decodes to the same; and every backend does what the scalar one does.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore_kernels::{
    Backend, BinTable, ClassFit, CodesCoder, DecodeError, EncodeError, Half, Histograms, Layout,
    ResidualCoder, Rows, Scratch, SplitCoder, SplitWindow, SymbolTable, code_bucket, split_bucket,
    split_histogram, zero_symbols,
};

#[derive(Debug, Arbitrary)]
struct Input {
    /// Histograms that the tables are made of; or, parsed, tables themselves.
    counts: Vec<Vec<u16>>,
    stored_tables: Option<Vec<u8>>,
    /// Whether what is encoded fits the tables and bins.
    fits: bool,
    wide: bool,
    cols: u16,
    /// Bins: least magnitude and width, per code.
    bins: Vec<(u16, u16)>,
    row_bins: Vec<u8>,
    /// Columns at which rows are cut, each piece with bins of its own.
    ends: Vec<u8>,
    shift: u8,
    base: u16,
    mantissa: u8,
    codes: Vec<u8>,
    values: Vec<Half>,
    /// How often codes and values are repeated: short inputs, too, then fill the blocks that backends work on.
    repeat: u8,
    /// A chunk to decode; without one, what the coder encodes.
    chunk: Option<Vec<u8>>,
    /// Bits to flip in what the coder encodes, and how much to cut off.
    damage: Vec<(u16, u8)>,
    cut: u16,
    coder: u8,
}

fuzz_target!(|input: Input| {
    let mut input = input;
    let times = 1 + usize::from(input.repeat % 32);
    (input.codes, input.values) = (input.codes.repeat(times), input.values.repeat(times));
    let cols = usize::from(input.cols % 300) + 1;
    let layout = if input.wide { Layout::Wide } else { Layout::Narrow };
    let tables = tables(&input);
    match input.coder % 3 {
        0 => codes(&input, cols, layout, tables),
        1 => split(&input, cols, layout, tables),
        _ => residual(&input, cols, layout, tables),
    }
});

fn tables(input: &Input) -> Vec<SymbolTable> {
    if let Some(stored) = &input.stored_tables {
        let mut rest = &stored[..];
        let parsed: Vec<_> = std::iter::from_fn(|| SymbolTable::read(&mut rest).ok()).take(17).collect();
        if !parsed.is_empty() {
            return parsed;
        }
    }
    let table = |counts: &Vec<u16>| {
        let mut histogram = [0u64; 256];
        counts.iter().zip(&mut histogram).for_each(|(count, slot)| *slot = u64::from(*count));
        SymbolTable::from_histogram(&histogram)
    };
    input.counts.iter().take(17).map(table).collect()
}

/// What every backend makes of the same input.
fn alike<T: PartialEq>(mut run: impl FnMut(Backend) -> T) -> T {
    let wanted = run(Backend::SCALAR);
    for backend in Backend::available().into_iter().filter(|&backend| backend != Backend::SCALAR) {
        assert!(run(backend) == wanted, "{backend} differs from the scalar backend");
    }
    wanted
}

/// Decodes `chunk` to `bytes` bytes on every backend. After an error the output holds anything, so it is not compared.
fn decode(
    chunk: &[u8],
    bytes: usize,
    mut run: impl FnMut(Backend, &[u8], &mut [u8]) -> Result<(), DecodeError>,
) -> Result<Vec<u8>, DecodeError> {
    alike(|backend| {
        // Both end where their allocations end; neither output nor its halves are aligned.
        let chunk = chunk.to_vec().into_boxed_slice();
        let mut memory = vec![0xa5; 1 + bytes].into_boxed_slice();
        run(backend, &chunk, &mut memory[1..])?;
        assert_eq!(memory[0], 0xa5, "a write ahead of the output");
        Ok(memory[1..].to_vec())
    })
}

/// The fuzzer's chunk, or, where there is none, what `encode` makes of `data`, whole and damaged.
fn check(
    input: &Input,
    data: &[u8],
    scratch: &mut Scratch,
    mut run_encode: impl FnMut(Backend, &mut Scratch) -> Result<Vec<u8>, EncodeError>,
    mut run_decode: impl FnMut(Backend, &mut Scratch, &[u8], &mut [u8]) -> Result<(), DecodeError>,
) {
    let mut decode = |chunk: &[u8], scratch: &mut Scratch| {
        decode(chunk, data.len(), |backend, chunk, out| run_decode(backend, scratch, chunk, out))
    };
    if let Some(chunk) = &input.chunk {
        let _ = decode(chunk, scratch);
        return;
    }
    let Ok(mut chunk) = alike(|backend| run_encode(backend, scratch)) else { return };
    let decoded = decode(&chunk, scratch).expect("what was encoded decodes");
    assert!(decoded == data, "what was encoded decodes to something else");
    if input.damage.is_empty() && input.cut == 0 {
        return;
    }
    for &(at, bits) in &input.damage {
        let at = usize::from(at) % chunk.len();
        chunk[at] ^= bits;
    }
    chunk.truncate(chunk.len().saturating_sub(usize::from(input.cut)));
    let _ = decode(&chunk, scratch);
}

fn codes(input: &Input, cols: usize, layout: Layout, tables: Vec<SymbolTable>) {
    let codes = &input.codes;
    let mut histograms = Histograms::default();
    for row in Rows::new(codes.len(), cols).iter() {
        let row = &codes[row];
        histograms.add_row(code_bucket(row), row.iter().copied());
    }
    let fit = ClassFit::new(&histograms, 1);
    let tables = fitting(input, tables, fit.tables);
    let Ok(coder) = CodesCoder::new(tables, layout) else { return };
    check(
        input,
        codes,
        &mut Scratch::default(),
        |backend, scratch| coder.clone().on(backend).encode(codes, cols, &fit.classifier, scratch),
        |backend, _, chunk, out| coder.clone().on(backend).decode(chunk, cols, out),
    );
}

/// The fuzzer's tables; or, to encode, those of `fit`, if so wished or if the fuzzer has too few.
fn fitting(input: &Input, tables: Vec<SymbolTable>, fit: Vec<SymbolTable>) -> Vec<SymbolTable> {
    let wished = input.fits || tables.len() < fit.len();
    if input.chunk.is_none() && wished { fit } else { tables }
}

fn split(input: &Input, cols: usize, layout: Layout, tables: Vec<SymbolTable>) {
    let mantissa = u32::from(input.mantissa % 15);
    let values: Vec<u16> = input.values.iter().map(|half| u16::from_le_bytes(*half)).collect();
    let shift = u32::from(input.shift % 16);
    let window = if input.fits {
        let shift = shift.clamp(1, 14);
        SplitWindow::best(shift, &split_histogram(values.iter().copied(), shift))
    } else {
        let Ok(window) = SplitWindow::new(shift, input.base) else { return };
        window
    };
    let mut histograms = Histograms::default();
    for row in Rows::new(values.len(), cols).iter() {
        let row = &values[row];
        let bucket = split_bucket(window, mantissa, row.iter().copied());
        histograms.add_row(bucket, row.iter().filter_map(|&v| window.symbol(v)));
    }
    let fit = ClassFit::new(&histograms, 1);
    let tables = fitting(input, tables, fit.tables);
    let Ok(coder) = SplitCoder::new(window, mantissa, tables, layout) else { return };
    check(
        input,
        input.values.as_flattened(),
        &mut Scratch::default(),
        |backend, scratch| coder.clone().on(backend).encode(&input.values, cols, &fit.classifier, scratch),
        |backend, scratch, chunk, out| {
            coder.clone().on(backend).decode(chunk, cols, scratch, out.as_chunks_mut().0)
        },
    );
}

fn residual(input: &Input, cols: usize, layout: Layout, tables: Vec<SymbolTable>) {
    let mantissa = u32::from(input.mantissa % 16);
    let edges: Vec<_> = (0..1 + input.bins.len() / 128)
        .map(|table| {
            let (mut lo, mut width) = ([1; 128], [1; 128]);
            let edges = lo.iter_mut().zip(&mut width);
            input.bins.iter().skip(table * 128).zip(edges).for_each(|(bin, edge)| (*edge.0, *edge.1) = *bin);
            (lo, width)
        })
        .collect();
    let bin_tables: Vec<_> = edges.iter().map(|(lo, width)| BinTable::new(lo, width)).collect();
    let table_of = |row| input.row_bins.get(row).map_or(0, |&table| usize::from(table) % edges.len());
    // Too few codes or rows are the caller's mistake, and an error.
    let mut codes = input.codes.clone();
    if input.shift != 0 {
        codes.resize(input.values.len(), 1);
    }
    let mut ends: Vec<usize> = input.ends.iter().map(|end| usize::from(*end)).collect();
    ends.retain(|end| (1..cols).contains(end));
    ends.push(cols);
    ends.sort_unstable();
    ends.dedup();
    let rows = Rows::cut(input.values.len(), &ends);
    let count = if input.shift == 1 { rows.count().saturating_sub(1) } else { rows.count() };
    let bins: Vec<_> = (0..count).map(|row| &bin_tables[table_of(row)]).collect();
    let mut values = input.values.clone();
    if input.fits {
        // All but one in eight of those with a bin.
        let row_of = rows.iter().enumerate().flat_map(|(row, range)| range.map(move |_| row));
        for (row, (value, &code)) in row_of.zip(values.iter_mut().zip(&codes)) {
            let (lo, width) = &edges[table_of(row)];
            let bin = usize::from(code.cast_signed().unsigned_abs().min(127));
            if bin != 0 && value[0] % 8 != 0 {
                let place = u16::from_le_bytes(*value) % width[bin].max(1);
                let sign = u16::from(code & 0x80) << 8;
                *value = (lo[bin].wrapping_add(place) & 0x7fff | sign).to_le_bytes();
            }
        }
    }
    let zero = match tables.into_iter().next() {
        Some(table) if !input.fits => table,
        _ => {
            let mut histogram = [0; 256];
            zero_symbols(&codes, &values, rows, &bins, mantissa).for_each(|s| histogram[usize::from(s)] += 1);
            SymbolTable::from_histogram(&histogram)
        }
    };
    let Ok(coder) = ResidualCoder::new(mantissa, zero, layout) else { return };
    check(
        input,
        values.as_flattened(),
        &mut Scratch::default(),
        |backend, scratch| coder.clone().on(backend).encode(&codes, &values, rows, &bins, scratch),
        |backend, scratch, chunk, out| {
            coder.clone().on(backend).decode(chunk, &codes, rows, &bins, scratch, out.as_chunks_mut().0)
        },
    );
}
