//! The coders by themselves, each backend against memcpy of what it decodes, in one loop.

mod chain;
mod data;
mod refine;
mod rounded;
mod work;

use std::time::Instant;

use qstore_kernels::Backend;
use serde::Serialize;

use crate::error::Result;
use crate::machine::Machine;
use crate::options::Progress;
use crate::report::Table;
use crate::statistics::Repeats;
use chain::Chain;
use data::Weights;
use work::{Coded, Coders};

/// What [`kernels`] measured.
#[derive(Debug, Clone, Serialize)]
pub struct KernelReport {
    /// Where.
    pub machine: Machine,
    /// Weights that every time is for.
    pub weights: u64,
    /// Bits a weight that the codes take and the residual takes.
    pub bits: [f64; 2],
    /// Bits a weight that codes of 8 bits take given ones of 4, and weights given both.
    pub refined_bits: [f64; 2],
    /// Nanoseconds a weight that memcpy of the weights as BF16 takes, by the threads that do it.
    pub memcpy: Vec<MemcpyFacts>,
    /// The coders.
    pub kernels: Vec<KernelFacts>,
}

/// How fast memory is.
#[derive(Debug, Clone, Serialize)]
pub struct MemcpyFacts {
    /// Threads.
    pub threads: usize,
    /// Nanoseconds a weight.
    pub nanoseconds: Repeats,
}

/// How fast a coder is.
#[derive(Debug, Clone, Serialize)]
pub struct KernelFacts {
    /// Which instructions it uses.
    pub backend: &'static str,
    /// What it does.
    pub work: &'static str,
    /// Threads.
    pub threads: usize,
    /// Nanoseconds a weight.
    pub nanoseconds: Repeats,
    /// That as a multiple of one thread's memcpy, repeat by repeat.
    pub times_memcpy: Repeats,
}

/// Times the coders of every backend, `repeats` times. Memcpy and all coders take turns.
///
/// # Errors
/// A coder that does not decode what it has encoded.
pub fn kernels(repeats: u32, progress: &dyn Progress) -> Result<KernelReport> {
    let machine = Machine::look(&std::env::temp_dir());
    progress.begin(u64::from(repeats) + 2);
    progress.step("making weights");
    let weights = Weights::new();
    let thread_counts = if machine.cores > 1 { vec![1, machine.cores] } else { vec![1] };
    let mut backends = Backend::available();
    backends.reverse();
    let coders =
        backends.iter().map(|&backend| Coders::new(&weights, backend)).collect::<Result<Vec<_>>>()?;
    let coded = coders.iter().map(|coders| coders.code(&weights)).collect::<Result<Vec<Coded>>>()?;
    progress.step("making a chain");
    let mut chain = Chain::new()?;
    let mut room = work::Room::new(&weights, machine.cores)?;
    let mut memcpy = vec![Vec::new(); thread_counts.len()];
    let mut times: Vec<(Timed, Vec<f64>)> = Vec::new();
    for repeat in 0..repeats {
        progress.step(&format!("repeat {} of {repeats}", repeat + 1));
        for (threads, times) in thread_counts.iter().zip(&mut memcpy) {
            times.push(timed(weights.len() as u64, || room.copy(&weights, *threads))?);
        }
        // Readers use the fastest backend, which is the first.
        for (name, variant) in chain::ALL {
            let time = timed(chain.weights(), || chain.read(variant))?;
            note(&mut times, (0, name, 1), time);
        }
        for (index, (coders, coded)) in coders.iter().zip(&coded).enumerate() {
            for (name, work) in work::ALL {
                for &threads in &thread_counts {
                    // Of slower backends one thread says enough.
                    if threads > 1 && index > 0 {
                        continue;
                    }
                    let time =
                        timed(weights.len() as u64, || work(&mut room, coders, coded, &weights, threads))?;
                    note(&mut times, (index, name, threads), time);
                }
            }
        }
    }
    let one = memcpy[0].clone();
    let facts = times.into_iter().filter_map(|((index, work, threads), all)| {
        let times_memcpy = Repeats::of(all.iter().zip(&one).map(|(time, memcpy)| time / memcpy).collect())?;
        let nanoseconds = Repeats::of(all)?;
        Some(KernelFacts { backend: backends[index].name(), work, threads, nanoseconds, times_memcpy })
    });
    let memcpy = thread_counts
        .iter()
        .zip(memcpy)
        .filter_map(|(&threads, all)| Some(MemcpyFacts { threads, nanoseconds: Repeats::of(all)? }));
    Ok(KernelReport {
        machine,
        weights: weights.len() as u64,
        bits: coded[0].bits(&weights),
        refined_bits: coded[0].refined_bits(&weights),
        kernels: facts.collect(),
        memcpy: memcpy.collect(),
    })
}

/// What was timed: the backend's index, the work and the threads.
type Timed = (usize, &'static str, usize);

fn note(times: &mut Vec<(Timed, Vec<f64>)>, what: Timed, time: f64) {
    match times.iter_mut().find(|(known, _)| *known == what) {
        Some((_, all)) => all.push(time),
        None => times.push((what, vec![time])),
    }
}

/// Nanoseconds a weight that `work` takes on so many.
fn timed(weights: u64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1e9 / crate::statistics::real(weights))
}

impl KernelReport {
    /// What was measured, in a sentence.
    #[must_use]
    pub fn summary(&self) -> String {
        let memcpy = self.memcpy.iter().map(|facts| {
            format!(
                "{:.3} ns with {} thread{}",
                facts.nanoseconds.median,
                facts.threads,
                if facts.threads == 1 { "" } else { "s" }
            )
        });
        format!(
            "{} weights of BF16 with LLM.int8() codes: {:.2} bits for the codes, {:.2} for what the weights add\n\
             given codes of 4 bits, those of 8 take {:.2} bits, and the weights given both {:.2}\n{}\nmemcpy of a weight: {}",
            self.weights,
            self.bits[0],
            self.bits[1],
            self.refined_bits[0],
            self.refined_bits[1],
            self.machine.in_short(),
            memcpy.collect::<Vec<_>>().join(", "),
        )
    }

    /// The figures as a table.
    #[must_use]
    pub fn table(&self) -> Table {
        let row = |facts: &KernelFacts| {
            let (time, times) = (&facts.nanoseconds, &facts.times_memcpy);
            vec![
                facts.work.to_owned(),
                facts.backend.to_owned(),
                facts.threads.to_string(),
                format!("{:.3}", time.median),
                format!("{:.2} ({:.2} - {:.2})", times.median, times.lowest, times.highest),
            ]
        };
        let header = ["work", "backend", "threads", "ns a weight", "times memcpy"];
        Table {
            title: "Coders against memcpy of the BF16 weights by one thread".to_owned(),
            header: header.map(str::to_owned).to_vec(),
            rows: self.kernels.iter().map(row).collect(),
        }
    }
}
