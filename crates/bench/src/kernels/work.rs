//! What is timed.

use std::sync::{Mutex, PoisonError};

use qstore_kernels::{
    Backend, ClassFit, CodesCoder, Half, Histograms, Layout, PART, ResidualCoder, Rows, Scratch, SplitCoder,
    SplitWindow, SymbolTable, code_bucket, split_bucket, split_histogram, zero_symbols,
};
use rayon::ThreadPool;

use super::data::{CHUNK, COLS, Weights};
use super::refine::{Refined, Refiners};
use super::rounded::Rounding;
use crate::error::{Error, Result};

/// The coders of one backend.
pub(super) struct Coders {
    backend: Backend,
    codes: CodesCoder,
    classes: ClassFit,
    residual: ResidualCoder,
    split: SplitCoder,
    split_classes: ClassFit,
    refiners: Refiners,
    rounding: Rounding,
}

/// All chunks as one backend has coded them.
pub(super) struct Coded {
    codes: Vec<Vec<u8>>,
    residual: Vec<Vec<u8>>,
    split: Vec<Vec<u8>>,
    refined: Refined,
    rounded: Vec<Vec<u8>>,
}

/// Memory that every piece of work writes into, and the threads that do.
pub(super) struct Room {
    values: Vec<Half>,
    codes: Vec<u8>,
    team: Team,
}

/// Threads, and what each keeps from chunk to chunk.
struct Team {
    pool: ThreadPool,
    locals: Vec<Mutex<Local>>,
}

/// One piece of work: all chunks, on so many threads.
pub(super) type Work = fn(&mut Room, &Coders, &Coded, &Weights, usize) -> Result<()>;

pub(super) const ALL: [(&str, Work); 12] = [
    ("decode codes", decode_codes),
    ("decode both to BF16", decode_both),
    ("decode residual, codes at hand", decode_residual),
    ("decode float split", decode_split),
    ("encode both, with statistics, decode, compare", encode_both),
    ("encode float split", encode_split),
    ("make intervals of 4 bits at hand", make_intervals),
    ("decode 8 bits, intervals in the cache", refine_level),
    ("decode 8 bits given 4 bits at hand", refine_codes),
    ("decode BF16 given 4 and 8 bits at hand", refine_floats),
    ("encode 8 bits given 4 bits, decode, compare", encode_refined),
    ("decode archived 8 bits, weights at hand", round_weights),
];

/// Rows of which statistics are taken: as of a matrix of 16 million weights, a million.
const SAMPLED: usize = 16;

fn fit_codes(codes: &[u8]) -> ClassFit {
    let mut histograms = Histograms::default();
    for row in Rows::new(codes.len(), COLS).iter().step_by(SAMPLED) {
        histograms.add_row(code_bucket(&codes[row.clone()]), codes[row].iter().copied());
    }
    ClassFit::new(&histograms, SAMPLED as u64)
}

impl Coders {
    pub(super) fn new(weights: &Weights, backend: Backend) -> Result<Self> {
        let classes = fit_codes(&weights.codes);
        let mut zeros = [0; 256];
        for (codes, values, bins) in weights.chunks().step_by(SAMPLED) {
            zero_symbols(codes, values, Rows::new(codes.len(), COLS), &bins, 7)
                .for_each(|symbol| zeros[usize::from(symbol)] += 1);
        }
        let sample = || weights.values.chunks(COLS).step_by(SAMPLED);
        let bits = |row: &[Half]| row.iter().map(|half| u16::from_le_bytes(*half)).collect::<Vec<_>>();
        let window = SplitWindow::best(5, &split_histogram(sample().flat_map(bits), 5));
        let mut histograms = Histograms::default();
        for row in sample().map(bits) {
            let symbols = row.iter().filter_map(|&value| window.symbol(value));
            histograms.add_row(split_bucket(window, 7, row.iter().copied()), symbols);
        }
        let split_classes = ClassFit::new(&histograms, SAMPLED as u64);
        let layout = Layout::Wide;
        let codes = CodesCoder::new(classes.tables.clone(), layout).map_err(failed)?.on(backend);
        let zeros = SymbolTable::from_histogram(&zeros);
        let residual = ResidualCoder::new(7, zeros, layout).map_err(failed)?.on(backend);
        let split = SplitCoder::new(window, 7, split_classes.tables.clone(), layout);
        let split = split.map_err(failed)?.on(backend);
        let (refiners, rounding) = (Refiners::new(weights, backend)?, Rounding::new(backend)?);
        Ok(Self { backend, codes, classes, residual, split, split_classes, refiners, rounding })
    }

    /// Codes everything, and checks that it decodes to what it was.
    pub(super) fn code(&self, weights: &Weights) -> Result<Coded> {
        let scratch = &mut Scratch::default();
        let (refined, rounded) = (self.refiners.code(weights)?, self.rounding.code(weights)?);
        let mut coded =
            Coded { codes: Vec::new(), residual: Vec::new(), split: Vec::new(), refined, rounded };
        for (codes, values, bins) in weights.chunks() {
            coded
                .codes
                .push(self.codes.encode(codes, COLS, &self.classes.classifier, scratch).map_err(failed)?);
            coded.residual.push(
                self.residual
                    .encode(codes, values, Rows::new(codes.len(), COLS), &bins, scratch)
                    .map_err(failed)?,
            );
            let split = self.split.encode(values, COLS, &self.split_classes.classifier, scratch);
            coded.split.push(split.map_err(failed)?);
        }
        let mut room = Room::new(weights, 1)?;
        for work in [decode_both, decode_split, refine_floats] {
            room.values.fill([0; 2]);
            work(&mut room, self, &coded, weights, 1)?;
            if room.values != weights.values {
                return Err(Error::Peer("a coder does not decode to what it has encoded".to_owned()));
            }
        }
        for (work, want) in [(refine_codes as Work, &weights.eight), (round_weights, &weights.codes)] {
            room.codes.fill(0);
            work(&mut room, self, &coded, weights, 1)?;
            if room.codes != *want {
                return Err(Error::Peer("a coder does not decode to what it has encoded".to_owned()));
            }
        }
        room.codes.fill(0);
        refine_level(&mut room, self, &coded, weights, 1)?;
        if room.codes.chunks(PART).any(|part| part != &weights.eight[..PART]) {
            return Err(Error::Peer("a coder does not decode to what it has encoded".to_owned()));
        }
        Ok(coded)
    }
}

impl Coded {
    /// Bits a weight of the codes and of the residual.
    pub(super) fn bits(&self, weights: &Weights) -> [f64; 2] {
        [&self.codes, &self.residual].map(|chunks| bits_of(chunks, weights))
    }

    /// The same of refined codes and of floats given intervals.
    pub(super) fn refined_bits(&self, weights: &Weights) -> [f64; 2] {
        self.refined.bits(weights)
    }
}

impl Room {
    /// For up to `threads` threads.
    pub(super) fn new(weights: &Weights, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::Peer(format!("cannot start {threads} threads: {e}")))?;
        let locals = (0..threads).map(|_| Mutex::new(Local::new())).collect();
        let team = Team { pool, locals };
        Ok(Self { values: weights.values.clone(), codes: weights.codes.clone(), team })
    }

    /// Does `work` for the codes of each chunk, by its number, on so many threads.
    fn codes_on(
        &mut self,
        threads: usize,
        work: impl Fn(&mut Local, usize, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let chunks = self.codes.chunks_mut(CHUNK).enumerate();
        self.team.on_threads(threads, chunks, |local, (chunk, out)| work(local, chunk, out))
    }

    /// What everything is compared with.
    pub(super) fn copy(&mut self, weights: &Weights, threads: usize) -> Result<()> {
        // As large pieces as there can be.
        let piece = weights.len().div_ceil(threads);
        let pairs = self.values.chunks_mut(piece).zip(weights.values.chunks(piece));
        self.team.on_threads(threads, pairs, |_, (to, from)| {
            to.copy_from_slice(from);
            Ok(())
        })
    }
}

fn decode_codes(room: &mut Room, coders: &Coders, coded: &Coded, _: &Weights, threads: usize) -> Result<()> {
    let chunks = coded.codes.iter().zip(room.codes.chunks_mut(CHUNK));
    room.team
        .on_threads(threads, chunks, |_, (chunk, out)| coders.codes.decode(chunk, COLS, out).map_err(failed))
}

fn decode_both(
    room: &mut Room,
    coders: &Coders,
    coded: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    let chunks = coded.codes.iter().zip(&coded.residual).zip(weights.chunks());
    room.team.on_threads(
        threads,
        chunks.zip(room.values.chunks_mut(CHUNK)),
        |local, (((codes, residual), given), out)| {
            // The codes stay in a core's cache.
            coders.codes.decode(codes, COLS, &mut local.codes).map_err(failed)?;
            coders
                .residual
                .decode(
                    residual,
                    &local.codes,
                    Rows::new(local.codes.len(), COLS),
                    &given.2,
                    &mut local.scratch,
                    out,
                )
                .map_err(failed)
        },
    )
}

fn decode_residual(
    room: &mut Room,
    coders: &Coders,
    coded: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    let chunks = coded.residual.iter().zip(weights.chunks()).zip(room.values.chunks_mut(CHUNK));
    room.team.on_threads(threads, chunks, |local, ((residual, (codes, _, bins)), out)| {
        coders
            .residual
            .decode(residual, codes, Rows::new(codes.len(), COLS), &bins, &mut local.scratch, out)
            .map_err(failed)
    })
}

fn decode_split(room: &mut Room, coders: &Coders, coded: &Coded, _: &Weights, threads: usize) -> Result<()> {
    room.team.on_threads(
        threads,
        coded.split.iter().zip(room.values.chunks_mut(CHUNK)),
        |local, (chunk, out)| coders.split.decode(chunk, COLS, &mut local.scratch, out).map_err(failed),
    )
}

fn encode_both(room: &mut Room, coders: &Coders, _: &Coded, weights: &Weights, threads: usize) -> Result<()> {
    let fit = fit_codes(&weights.codes);
    let coder = CodesCoder::new(fit.tables, Layout::Wide).map_err(failed)?.on(coders.backend);
    room.team.on_threads(threads, weights.chunks(), |local, (codes, values, bins)| {
        let Local { scratch, codes: codes_back, values: back } = local;
        let coded = coder.encode(codes, COLS, &fit.classifier, scratch).map_err(failed)?;
        coder.decode(&coded, COLS, codes_back).map_err(failed)?;
        let residual = coders
            .residual
            .encode(codes, values, Rows::new(codes.len(), COLS), &bins, scratch)
            .map_err(failed)?;
        coders
            .residual
            .decode(&residual, codes, Rows::new(codes.len(), COLS), &bins, scratch, back)
            .map_err(failed)?;
        if codes_back == codes && back == values {
            return Ok(());
        }
        Err(Error::Peer("a coder does not decode to what it has encoded".to_owned()))
    })
}

fn encode_split(
    room: &mut Room,
    coders: &Coders,
    _: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    room.team.on_threads(threads, weights.values.chunks(CHUNK), |local, values| {
        let classifier = &coders.split_classes.classifier;
        coders.split.encode(values, COLS, classifier, &mut local.scratch).map(drop).map_err(failed)
    })
}

fn refine_codes(
    room: &mut Room,
    coders: &Coders,
    coded: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    room.codes_on(threads, |_, chunk, out| coders.refiners.decode_codes(weights, &coded.refined, chunk, out))
}

fn make_intervals(
    room: &mut Room,
    coders: &Coders,
    _: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    let chunks = 0..weights.len() / CHUNK;
    room.team.on_threads(threads, chunks, |_, chunk| coders.refiners.make_intervals(weights, chunk))
}

fn refine_level(room: &mut Room, coders: &Coders, coded: &Coded, _: &Weights, threads: usize) -> Result<()> {
    room.codes_on(threads, |_, _, out| coders.refiners.decode_level(&coded.refined, out))
}

fn round_weights(
    room: &mut Room,
    coders: &Coders,
    coded: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    room.codes_on(threads, |_, chunk, out| coders.rounding.decode(weights, &coded.rounded, chunk, out))
}

fn refine_floats(
    room: &mut Room,
    coders: &Coders,
    coded: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    let chunks = room.values.chunks_mut(CHUNK).enumerate();
    room.team.on_threads(threads, chunks, |_, (chunk, out)| {
        coders.refiners.decode_floats(weights, &coded.refined, chunk, out)
    })
}

fn encode_refined(
    room: &mut Room,
    coders: &Coders,
    _: &Coded,
    weights: &Weights,
    threads: usize,
) -> Result<()> {
    room.codes_on(threads, |local, chunk, out| {
        coders.refiners.encode_verified(weights, chunk, &mut local.scratch, out)
    })
}

/// What a thread keeps from chunk to chunk.
struct Local {
    scratch: Scratch,
    codes: Vec<u8>,
    values: Vec<Half>,
}

impl Local {
    fn new() -> Self {
        Self { scratch: Scratch::default(), codes: vec![0; CHUNK], values: vec![[0; 2]; CHUNK] }
    }
}

impl Team {
    /// Does `work` on each of `chunks`, on so many threads, each taking the next one.
    fn on_threads<C: Send>(
        &self,
        threads: usize,
        chunks: impl Iterator<Item = C> + Send,
        work: impl Fn(&mut Local, C) -> Result<()> + Sync,
    ) -> Result<()> {
        let chunks = Mutex::new(chunks);
        let next = || chunks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = |local: &Mutex<Local>| {
            let local = &mut *local.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(chunk) = next() {
                work(local, chunk)?;
            }
            Ok(())
        };
        if threads == 1 {
            return run(&self.locals[0]);
        }
        let results = self.pool.broadcast(|context| self.locals.get(context.index()).map_or(Ok(()), run));
        results.into_iter().collect()
    }
}

/// Bits a weight that coded chunks take.
pub(super) fn bits_of(chunks: &[Vec<u8>], weights: &Weights) -> f64 {
    let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    8.0 * crate::statistics::ratio(bytes, weights.len() as u64)
}

pub(super) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Peer(format!("a coder failed: {error}"))
}
