//! Times the coders of each backend against memcpy of what they decode, interleaved.
use qstore_kernels::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let cols: usize = std::env::args().nth(1).map_or(4096, |a| a.parse().unwrap());
    let rows_per_chunk = (1 << 19) / cols;
    let chunks = 1;
    let mut seed = 1u64;
    let mut uniform = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut data = Vec::new();
    let mut tables: HashMap<u32, Arc<BinTable>> = HashMap::new();
    for _ in 0..chunks {
        let (mut codes, mut values, mut scales) = (Vec::new(), Vec::<Half>::new(), Vec::new());
        for _ in 0..rows_per_chunk {
            let sigma = 0.02 * (1.0 + 0.2 * uniform());
            let row: Vec<u16> = (0..cols / 2)
                .flat_map(|_| {
                    let (a, b) = (uniform().max(1e-300), uniform());
                    let r = (-2.0 * a.ln()).sqrt() * sigma;
                    let t = std::f64::consts::TAU * b;
                    [r * t.cos(), r * t.sin()]
                })
                .map(|x| {
                    let b = (x as f32).to_bits();
                    ((b + 0x7fff + ((b >> 16) & 1)) >> 16) as u16
                })
                .collect();
            let f = |v: u16| f32::from_bits(u32::from(v) << 16);
            let scale = row.iter().map(|&v| f(v).abs()).fold(0.0, f32::max);
            let factor = (1.0 / scale) * 127.0;
            codes.extend(row.iter().map(|&v| (f(v) * factor).round_ties_even() as i8 as u8));
            values.extend(row.iter().map(|v| v.to_le_bytes()));
            tables.entry(scale.to_bits()).or_insert_with(|| {
                let (mut lo, mut width) = ([0u16; 128], [0u16; 128]);
                for m in 0..0x7f80u16 {
                    let c = (f(m) * factor).round_ties_even();
                    if c > 127.0 {
                        break;
                    }
                    let c = c as usize;
                    if f(m) > scale {
                        break;
                    }
                    if width[c] == 0 {
                        lo[c] = m;
                    }
                    width[c] += 1;
                }
                width[0] = 1;
                Arc::new(BinTable::new(&lo, &width))
            });
            scales.push(scale.to_bits());
        }
        data.push((codes, values, scales));
    }
    let n = data.len() * rows_per_chunk * cols;
    println!("{} weights, {} distinct scales", n, tables.len());
    let mut histograms = Histograms::default();
    for (codes, ..) in &data[..1] {
        for row in codes.chunks(cols) {
            histograms.add_row(code_bucket(row), row.iter().copied());
        }
    }
    let fit = ClassFit::new(&histograms, 32);
    println!("{} classes", fit.tables.len());
    let bins: Vec<Vec<&BinTable>> =
        data.iter().map(|(.., scales)| scales.iter().map(|s| &*tables[s]).collect()).collect();
    let mut zero = [0; 256];
    zero_symbols(&data[0].0, &data[0].1, cols, &bins[0], 7).for_each(|s| zero[s as usize] += 1);
    let zero = SymbolTable::from_histogram(&zero);
    let mut shist = split_histogram(data[0].1.iter().map(|v| u16::from_le_bytes(*v)), 5);
    shist[0] += 1;
    let window = SplitWindow::best(5, &shist);
    let mut hs = Histograms::default();
    for row in data[0].1.chunks(cols) {
        let it = || row.iter().map(|v| u16::from_le_bytes(*v));
        hs.add_row(split_bucket(window, 7, it()), it().filter_map(|v| window.symbol(v)));
    }
    let sfit = ClassFit::new(&hs, 64);
    let mut scratch = Scratch::default();
    let mut out = vec![[0u8; 2]; n];
    let raw: Vec<Half> = data.iter().flat_map(|d| d.1.clone()).collect();
    let mut code_out = vec![0u8; rows_per_chunk * cols];
    let per = rows_per_chunk * cols;
    let time = |f: &mut dyn FnMut()| {
        f();
        let t = Instant::now();
        for _ in 0..20 {
            f();
        }
        t.elapsed().as_secs_f64() * 1e9 / n as f64 / 20.0
    };
    for backend in Backend::available().into_iter().rev().skip(1) {
        let codes_coder = CodesCoder::new(fit.tables.clone(), Layout::Wide).unwrap().on(backend);
        let residual = ResidualCoder::new(7, zero.clone(), Layout::Wide).unwrap().on(backend);
        let split = SplitCoder::new(window, 7, sfit.tables.clone(), Layout::Wide).unwrap().on(backend);
        let mut results: Vec<(&str, Vec<f64>)> = vec![];
        let mut add = |name: &'static str, t: f64| match results.iter_mut().find(|r| r.0 == name) {
            Some(r) => r.1.push(t),
            None => results.push((name, vec![t])),
        };
        let mut size = (0, 0, 0);
        for _ in 0..std::env::var("REPS").map_or(5, |v| v.parse().unwrap()) {
            add("memcpy", time(&mut || out.copy_from_slice(std::hint::black_box(&raw))));
            let mut c: Vec<Vec<u8>> = Vec::new();
            add(
                "encode codes",
                time(&mut || {
                    for d in &data {
                        c.clear();
                        c.push(codes_coder.encode(&d.0, cols, &fit.classifier, &mut scratch).unwrap());
                    }
                }),
            );
            let mut r: Vec<Vec<u8>> = Vec::new();
            add(
                "encode residual",
                time(&mut || {
                    for (d, b) in data.iter().zip(&bins) {
                        r.clear();
                        r.push(residual.encode(&d.0, &d.1, cols, b, &mut scratch).unwrap());
                    }
                }),
            );
            let mut s: Vec<Vec<u8>> = Vec::new();
            add(
                "encode split",
                time(&mut || {
                    for d in &data {
                        s.clear();
                        s.push(split.encode(&d.1, cols, &sfit.classifier, &mut scratch).unwrap());
                    }
                }),
            );
            size = (
                c.iter().map(Vec::len).sum::<usize>(),
                r.iter().map(Vec::len).sum::<usize>(),
                s.iter().map(Vec::len).sum::<usize>(),
            );
            add(
                "codes",
                time(&mut || {
                    for c in &c {
                        codes_coder.decode(c, cols, &mut code_out).unwrap();
                        std::hint::black_box(&code_out);
                    }
                }),
            );
            add(
                "both",
                time(&mut || {
                    for (((c, r), b), out) in c.iter().zip(&r).zip(&bins).zip(out.chunks_mut(per)) {
                        codes_coder.decode(c, cols, &mut code_out).unwrap();
                        residual.decode(r, &code_out, cols, b, &mut scratch, out).unwrap();
                    }
                }),
            );
            assert!(out == raw);
            add(
                "residual",
                time(&mut || {
                    for (((d, r), b), out) in data.iter().zip(&r).zip(&bins).zip(out.chunks_mut(per)) {
                        residual.decode(r, &d.0, cols, b, &mut scratch, out).unwrap();
                    }
                }),
            );
            add(
                "split",
                time(&mut || {
                    for (s, out) in s.iter().zip(out.chunks_mut(per)) {
                        split.decode(s, cols, &mut scratch, out).unwrap();
                    }
                }),
            );
            assert!(out == raw);
            add("memcpy", time(&mut || out.copy_from_slice(std::hint::black_box(&raw))));
        }
        let median = |v: &mut Vec<f64>| {
            v.sort_by(f64::total_cmp);
            v[0]
        };
        let base = median(&mut results[0].1);
        println!(
            "{backend}: bits codes {:.3} residual {:.3} split {:.3}",
            size.0 as f64 * 8.0 / n as f64,
            size.1 as f64 * 8.0 / n as f64,
            size.2 as f64 * 8.0 / n as f64
        );
        for (name, v) in &mut results {
            let m = median(v);
            println!("  {name:16} {m:.3} ns  {:.2} x", m / base);
        }
    }
}
