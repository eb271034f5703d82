//! Decoding many pieces on all threads, with what they need read ahead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use qstore_checkpoint::{Error, Result};
use rayon::ThreadPool;

use crate::fetch::{Ahead, Fetched, Needs};
use crate::variant::Variant;

/// Decodes `pieces` on all threads of the pool, in their order as far as there is one. At most `memory` bytes are read
/// ahead.
pub(super) fn decode_all<P: Send>(
    variant: &Variant,
    (pool, memory): (&ThreadPool, u64),
    pieces: Vec<P>,
    needs: impl Fn(&P) -> Result<Needs>,
    decode: impl Fn(P, &Fetched) -> Result<()> + Sync,
) -> Result<()> {
    let needed = pieces.iter().map(needs).collect::<Result<_>>()?;
    let ahead = Ahead::new(variant.storage(), memory, pool.current_num_threads(), needed);
    let pieces = Mutex::new(pieces.into_iter().enumerate());
    let failed = AtomicBool::new(false);
    let work = |_: rayon::BroadcastContext| {
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        while !failed.load(Ordering::Relaxed)
            && let Some((index, piece)) = next()
        {
            let done = ahead.get(index).and_then(|batch| decode(piece, batch.fetched()));
            if done.is_err() {
                failed.store(true, Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    };
    // Where one fails, others may have been stopped by that.
    let errors = pool.broadcast(work).into_iter().filter_map(Result::err);
    let first = errors.reduce(|first, other| if matches!(first, Error::Stopped) { other } else { first });
    first.map_or(Ok(()), |error| Err(variant.or_changed(error)))
}
