//! Chunks of the fuzzer's in every coder, with tables of the fuzzer's: decoding returns; and what a coder encodes, it decodes to the same.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qstore_kernels::{
    BinTable, ClassFit, CodesCoder, Histograms, ResidualCoder, RowBins, Rows, SplitCoder, SplitWindow,
    SymbolTable, code_bucket, split_bucket, split_histogram, zero_symbols,
};

#[derive(Debug, Arbitrary)]
struct Input {
    /// Histograms that the tables are made of; or, parsed, tables themselves.
    counts: Vec<Vec<u16>>,
    stored_tables: Option<Vec<u8>>,
    cols: u16,
    /// Bins: least magnitude and width, per code.
    bins: Vec<(u16, u16)>,
    row_bins: Vec<u8>,
    shift: u8,
    base: u16,
    mantissa: u8,
    codes: Vec<u8>,
    values: Vec<u16>,
    /// A chunk to decode; without one, what the coder encodes.
    chunk: Option<Vec<u8>>,
    coder: u8,
}

fuzz_target!(|input: Input| {
    let cols = usize::from(input.cols % 300) + 1;
    let tables = tables(&input);
    match input.coder % 3 {
        0 => codes(&input, cols, tables),
        1 => split(&input, cols, tables),
        _ => residual(&input, cols, tables),
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

fn codes(input: &Input, cols: usize, tables: Vec<SymbolTable>) {
    let mut out = vec![0; input.codes.len()];
    if let Some(chunk) = &input.chunk {
        let Ok(coder) = CodesCoder::new(tables) else { return };
        let _ = coder.decode(chunk, cols, &mut out);
        return;
    }
    let mut histograms = Histograms::default();
    for row in Rows::new(input.codes.len(), cols).iter() {
        let row = &input.codes[row];
        histograms.add_row(code_bucket(row), row.iter().copied());
    }
    let fit = ClassFit::new(&histograms, 1);
    // Half of the time with tables that do not fit.
    let tables = if input.shift % 2 == 0 || tables.len() < fit.tables.len() { fit.tables } else { tables };
    let Ok(coder) = CodesCoder::new(tables) else { return };
    if let Ok(chunk) = coder.encode(&input.codes, cols, &fit.classifier) {
        coder.decode(&chunk, cols, &mut out).expect("what was encoded decodes");
        assert_eq!(out, input.codes);
    }
}

fn split(input: &Input, cols: usize, tables: Vec<SymbolTable>) {
    let shift = u32::from(input.shift % 16);
    let mantissa = u32::from(input.mantissa % 15);
    let mut out = vec![0; input.values.len()];
    if let Some(chunk) = &input.chunk {
        let Ok(window) = SplitWindow::new(shift, input.base) else { return };
        let Ok(coder) = SplitCoder::new(window, mantissa, tables) else { return };
        let _ = coder.decode(chunk, cols, &mut out);
        return;
    }
    let shift = shift.clamp(1, 14);
    let window = SplitWindow::best(shift, &split_histogram(input.values.iter().copied(), shift));
    let mut histograms = Histograms::default();
    for row in Rows::new(input.values.len(), cols).iter() {
        let row = &input.values[row];
        let bucket = split_bucket(window, mantissa, row.iter().copied());
        histograms.add_row(bucket, row.iter().filter_map(|&v| window.symbol(v)));
    }
    let fit = ClassFit::new(&histograms, 1);
    let tables = if input.base % 2 == 0 || tables.len() < fit.tables.len() { fit.tables } else { tables };
    let Ok(coder) = SplitCoder::new(window, mantissa, tables) else { return };
    if let Ok(chunk) = coder.encode(&input.values, cols, &fit.classifier) {
        coder.decode(&chunk, cols, &mut out).expect("what was encoded decodes");
        assert_eq!(out, input.values);
    }
}

fn residual(input: &Input, cols: usize, tables: Vec<SymbolTable>) {
    let mantissa = u32::from(input.mantissa % 16);
    let mut bins = RowBins::default();
    for table in 0..1 + input.bins.len() / 128 {
        let mut edges = [(1u16, 1u16); 128];
        input.bins.iter().skip(table * 128).zip(&mut edges).for_each(|(bin, edge)| *edge = *bin);
        bins.add_table(BinTable::new(&edges));
    }
    for row in 0..Rows::new(input.values.len(), cols).count() {
        // Rows without a table are the caller's mistake, and an error.
        bins.add_row(input.row_bins.get(row).map_or(0, |table| u32::from(*table % 3)));
    }
    let mut codes = input.codes.clone();
    if input.shift != 0 {
        codes.resize(input.values.len(), 1);
    }
    let mut out = vec![0; input.values.len()];
    let zero = match (&input.chunk, tables.into_iter().next()) {
        (_, Some(table)) if input.base % 2 == 0 => table,
        _ => {
            let mut histogram = [0; 256];
            zero_symbols(&codes, &input.values, cols, &bins, mantissa)
                .for_each(|s| histogram[usize::from(s)] += 1);
            SymbolTable::from_histogram(&histogram)
        }
    };
    let Ok(coder) = ResidualCoder::new(mantissa, zero) else { return };
    if let Some(chunk) = &input.chunk {
        let _ = coder.decode(chunk, &codes, cols, &bins, &mut out);
    } else if let Ok(chunk) = coder.encode(&codes, &input.values, cols, &bins) {
        coder.decode(&chunk, &codes, cols, &bins, &mut out).expect("what was encoded decodes");
        assert_eq!(out, input.values);
    }
}
