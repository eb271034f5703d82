//! Work on many threads, results in order, a bounded amount of it in flight.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use rayon::{ThreadPool, Yield};

use crate::error::{Error, Result};

/// Bytes that a chunk in flight may take, its working memory included.
pub const CHUNK_MEMORY: u64 = 32 << 20;

/// How much may be begun and not yet handed over, which bounds memory.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Jobs.
    pub jobs: usize,
    /// Bytes that they hold together; one job may hold more by itself.
    pub bytes: u64,
}

/// Runs `work` on each of `jobs` in the pool and hands the results to `sink` in the order of the jobs. `jobs` and
/// `sink` run on one thread of the pool, which works as well while it waits; so no more threads are busy than the pool
/// has. `holds` says how many bytes a job and its result hold, which `window` bounds.
///
/// # Errors
/// The first error of a job, of the work on it or of `sink`. After it no work is begun.
pub fn ordered<J: Send, R: Send>(
    pool: &ThreadPool,
    window: Window,
    jobs: impl Iterator<Item = Result<J>> + Send,
    holds: impl Fn(&J) -> u64 + Sync,
    work: impl Fn(J) -> Result<R> + Sync,
    mut sink: impl FnMut(R) -> Result<()> + Send,
) -> Result<()> {
    let stopped = AtomicBool::new(false);
    pool.scope_fifo(|scope| {
        let (work, stopped) = (&work, &stopped);
        let mut jobs = jobs.fuse().peekable();
        let mut waiting = VecDeque::new();
        let mut held = 0u64;
        let mut run = || loop {
            while waiting.len() < window.jobs.max(1) {
                let bytes = jobs.peek().and_then(|job| job.as_ref().ok()).map_or(0, &holds);
                if !waiting.is_empty() && held.saturating_add(bytes) > window.bytes {
                    break;
                }
                let Some(job) = jobs.next() else { break };
                let job = job?;
                held = held.saturating_add(bytes);
                let (sender, receiver) = sync_channel(1);
                scope.spawn_fifo(move |_| {
                    if !stopped.load(Ordering::Relaxed) {
                        // A send fails only if this function has returned early; the result is of no use then.
                        drop(sender.send(work(job)));
                    }
                });
                waiting.push_back((receiver, bytes));
            }
            let Some((first, bytes)) = waiting.pop_front() else { return Ok(()) };
            sink(wait(&first)??)?;
            held = held.saturating_sub(bytes);
        };
        let result = run();
        stopped.store(true, Ordering::Relaxed);
        result
    })
}

/// The result of a job; does others until it is there.
fn wait<R>(result: &Receiver<R>) -> Result<R> {
    // The sender is dropped unsent only by a panic, which the scope passes on.
    let failed = || Error::internal("a worker thread failed");
    loop {
        match result.try_recv() {
            Ok(result) => return Ok(result),
            Err(TryRecvError::Disconnected) => return Err(failed()),
            Err(TryRecvError::Empty) => {}
        }
        if rayon::yield_now() != Some(Yield::Executed) {
            // No job is left to do: another thread has this one.
            return result.recv().map_err(|_| failed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap()
    }

    const EIGHT: Window = Window { jobs: 8, bytes: 100 };

    #[test]
    fn no_more_is_held_than_may_be() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        // One job is larger than all may be together: it comes alone.
        let sizes = |job: &u64| if job.is_multiple_of(50) { 150 } else { 10 + job % 40 };
        let work = |job: u64| {
            let now = held.fetch_add(sizes(&job), Ordering::Relaxed) + sizes(&job);
            most.fetch_max(now, Ordering::Relaxed);
            Ok(job)
        };
        ordered(&pool(), EIGHT, (0..300).map(Ok), sizes, work, |job| {
            held.fetch_sub(sizes(&job), Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(most.into_inner(), 150);
        assert_eq!(held.into_inner(), 0);
    }

    #[test]
    fn keeps_the_order() {
        let mut seen = Vec::new();
        let jobs = (0..500u64).map(Ok);
        let work = |job: u64| {
            if job.is_multiple_of(7) {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            Ok(job * 2)
        };
        ordered(
            &pool(),
            EIGHT,
            jobs,
            |_| 0,
            work,
            |r| {
                seen.push(r);
                Ok(())
            },
        )
        .unwrap();
        assert!(seen.iter().copied().eq((0..500).map(|j| j * 2)));
    }

    #[test]
    fn stops_at_the_first_error() {
        let begun = std::sync::atomic::AtomicUsize::new(0);
        let jobs = (0..1000usize).map(|j| if j == 40 { Err(Error::usage("job")) } else { Ok(j) });
        let work = |job| {
            begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if job == 30 { Err(Error::usage("work")) } else { Ok(job) }
        };
        let error = ordered(&pool(), Window { jobs: 4, ..EIGHT }, jobs, |_| 0, work, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "work");
        assert!(begun.into_inner() < 40);
    }
}
