//! `qstore quantize`.

use std::time::Instant;

use crate::args::{Precision, Quantize};
use crate::failure::Failure;
use crate::output::{Console, count, time};

pub(crate) fn run(arguments: &Quantize, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let Quantize { source, to, output } = arguments;
    let quantized = match to {
        Precision::Int8 => qstore::quantize(source, output, &console.options, &console.bars)?,
    };
    let seconds = time(began.elapsed());
    let (made, kept) = (count(quantized.quantized, "tensor"), quantized.kept);
    console.note(format_args!(
        "wrote {} in {seconds}: {made} quantized, {kept} kept as they were",
        output.display()
    ))
}
