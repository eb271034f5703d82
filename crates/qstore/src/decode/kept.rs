//! Chunks that are kept while one is decoded that is given several: what each of these is given is decoded once.

use std::cell::RefCell;
use std::collections::HashMap;

/// Which chunk it is: the address of its open variant, and its place there.
pub(super) type KeptId = (usize, (usize, usize, u64));

#[derive(Default)]
struct Kept {
    /// How many of the chunks that are being decoded are given several.
    depth: usize,
    chunks: HashMap<KeptId, Vec<u8>>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Does `work`, during which this thread keeps the chunks that it decodes: of codes that the outermost chunk is given,
/// and of those that they are given, which the plan's check has found among them.
pub(super) fn keeping<R>(work: impl FnOnce() -> R) -> R {
    struct Scope;
    impl Drop for Scope {
        fn drop(&mut self) {
            KEPT.with_borrow_mut(|kept| {
                kept.depth -= 1;
                if kept.depth == 0 {
                    kept.chunks = HashMap::new();
                }
            });
        }
    }
    KEPT.with_borrow_mut(|kept| kept.depth += 1);
    let _scope = Scope;
    work()
}

/// Does `work`, of whose chunks none is kept.
pub(super) fn pausing<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(Kept);
    impl Drop for Restore {
        fn drop(&mut self) {
            KEPT.set(std::mem::take(&mut self.0));
        }
    }
    let _restore = Restore(KEPT.take());
    work()
}

/// Fills `out` with a chunk, if it is kept.
pub(super) fn copy(id: KeptId, out: &mut [u8]) -> bool {
    KEPT.with_borrow(|kept| {
        let chunk = kept.chunks.get(&id).filter(|chunk| chunk.len() == out.len());
        chunk.is_some_and(|chunk| {
            out.copy_from_slice(chunk);
            true
        })
    })
}

/// Keeps a chunk, if any are.
pub(super) fn keep(id: KeptId, chunk: &[u8]) {
    KEPT.with_borrow_mut(|kept| {
        if kept.depth > 0 {
            kept.chunks.insert(id, chunk.to_vec());
        }
    });
}
