//! Work on many threads, results in order, a bounded amount of it in flight.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use rayon::{ThreadPool, Yield};

use crate::error::{Error, Result};

/// Runs `work` on each of `jobs` in the pool and hands the results to `sink` in the order of the jobs. `jobs` and `sink` run on one thread of the
/// pool, which works as well while it waits; so no more threads are busy than the pool has. At most `window` jobs are begun and not yet handed
/// over, which bounds memory.
///
/// # Errors
/// The first error of a job, of the work on it or of `sink`. After it no work is begun.
pub(crate) fn ordered<J: Send, R: Send>(
    pool: &ThreadPool,
    window: usize,
    jobs: impl Iterator<Item = Result<J>> + Send,
    work: impl Fn(J) -> Result<R> + Sync,
    mut sink: impl FnMut(R) -> Result<()> + Send,
) -> Result<()> {
    let stopped = AtomicBool::new(false);
    pool.scope_fifo(|scope| {
        let (work, stopped) = (&work, &stopped);
        let mut jobs = jobs.fuse();
        let mut waiting = VecDeque::new();
        let mut run = || loop {
            while waiting.len() < window.max(1) {
                let Some(job) = jobs.next() else { break };
                let job = job?;
                let (sender, receiver) = sync_channel(1);
                scope.spawn_fifo(move |_| {
                    if !stopped.load(Ordering::Relaxed) {
                        // A send fails only if this function has returned early; the result is of no use then.
                        drop(sender.send(work(job)));
                    }
                });
                waiting.push_back(receiver);
            }
            let Some(first) = waiting.pop_front() else { return Ok(()) };
            sink(wait(&first)??)?;
        };
        let result = run();
        stopped.store(true, Ordering::Relaxed);
        result
    })
}

/// The result of a job; does others until it is there.
fn wait<R>(result: &Receiver<R>) -> Result<R> {
    // The sender is dropped unsent only by a panic, which the scope passes on.
    let failed = || Error::usage("a worker thread failed");
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
        ordered(&pool(), 8, jobs, work, |r| {
            seen.push(r);
            Ok(())
        })
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
        let error = ordered(&pool(), 4, jobs, work, |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "work");
        assert!(begun.into_inner() < 40);
    }
}
