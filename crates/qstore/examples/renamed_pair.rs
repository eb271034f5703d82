//! Makes very many tiny matrices in BF16, and LLM.int8() of them under another prefix: `cargo run --release -p qstore
//! --example renamed_pair -- COUNT FOLDER`. `qstore pack` of the two takes time in proportion to COUNT.

#[path = "../tests/common/mod.rs"]
mod common;

use std::error::Error;
use std::path::Path;

use common::{renamed_pair, write_checkpoint};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [count, folder] = &arguments[..] else { return Err("usage: renamed_pair COUNT FOLDER".into()) };
    let [high, low] = renamed_pair(count.parse()?);
    write_checkpoint(&Path::new(folder).join("bf16"), &high);
    write_checkpoint(&Path::new(folder).join("int8"), &low);
    Ok(())
}
