//! An operation whose progress says to stop ends with that error, wherever it is by then, and leaves everything as it
//! was.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::atomic::{AtomicI64, Ordering};

use common::{llm_int8, model, options, spec, tree, write_checkpoint, write_options, write_pair};
use qstore::{Dtype, Error, Progress, Result, Silent, Stop, Store, add, load, pack, remove, unpack, verify};

/// Says to stop after so many calls of `advance`.
struct StopAfter(AtomicI64);

impl Progress for StopAfter {
    fn begin(&self, _: &str, _: u64) -> Result<(), Stop> {
        Ok(())
    }

    fn advance(&self, _: u64) -> Result<(), Stop> {
        if self.0.fetch_sub(1, Ordering::Relaxed) > 0 { Ok(()) } else { Err(Stop) }
    }

    fn warn(&self, _: &str) -> Result<(), Stop> {
        Ok(())
    }
}

#[test]
fn every_operation_stops_where_it_is_told_to_and_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let tensors = model(31, Dtype::BF16, &[(700, 900), (600, 1000)]);
    write_pair(root, &tensors);
    let mut tuned = llm_int8(&tensors);
    tuned.retain(|name, _| !name.ends_with("bias"));
    write_checkpoint(&root.join("tuned"), &tuned);
    let (store, out, new) = (root.join("store"), root.join("out"), root.join("new"));
    pack(&[spec(root, "bf16"), spec(root, "int8")], &store, &write_options(), &Silent).unwrap();
    let open = Store::open(&store).unwrap();
    let bf16 = "bf16".parse().unwrap();
    let int8 = "int8".parse().unwrap();

    type Operation<'a> = Box<dyn Fn(&dyn Progress) -> Result<()> + 'a>;
    let operations: [(&str, Operation); 7] = [
        ("pack", Box::new(|p| pack(&[spec(root, "bf16"), spec(root, "int8")], &new, &write_options(), p))),
        ("add", Box::new(|p| add(&store, &spec(root, "tuned"), &write_options(), p))),
        ("remove", Box::new(|p| remove(&store, &int8, &write_options(), p))),
        ("unpack", Box::new(|p| unpack(&open, &bf16, &out, &options(), p))),
        ("verify", Box::new(|p| verify(&open, None, false, &options(), p).map(drop))),
        ("verify --quick", Box::new(|p| verify(&open, None, true, &options(), p).map(drop))),
        ("load", Box::new(|p| load(&open.variant(&bf16)?, &options(), p).map(drop))),
    ];
    let before = tree(root);
    for (name, operation) in &operations {
        for calls in 0..3 {
            let outcome = operation(&StopAfter(AtomicI64::new(calls)));
            assert!(matches!(outcome, Err(Error::Stopped)), "{name} after {calls}: {outcome:?}");
            assert!(tree(root) == before, "{name} after {calls} left something behind");
        }
    }
    // They would have gone through otherwise.
    for (name, operation) in &operations[3..] {
        operation(&Silent).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
