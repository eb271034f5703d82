//! `qstore quantize`.

use std::time::Instant;

use qstore_quantize::{Gptq, GptqBits, ZeroPoint};

use crate::args::{Precision, Quantize};
use crate::failure::Failure;
use crate::output::{Console, count, time};

pub(crate) fn run(arguments: &Quantize, console: &Console) -> Result<(), Failure> {
    let began = Instant::now();
    let Quantize { source, output, .. } = arguments;
    let precision = precision(arguments)?;
    let quantized =
        qstore_quantize::quantize(source, output, precision, &console.options.machine(), &console.bars)?;
    let seconds = time(began.elapsed());
    let (made, kept) = (count(quantized.quantized, "tensor"), quantized.kept);
    console.note(format_args!(
        "wrote {} in {seconds}: {made} quantized, {kept} kept as they were",
        output.display()
    ))
}

/// What the options ask for together.
fn precision(arguments: &Quantize) -> Result<qstore_quantize::Precision, Failure> {
    let Quantize { to, group_size, asymmetric, .. } = arguments;
    let bits = match to {
        Precision::Int8 => {
            let given = [("--group-size", group_size.is_some()), ("--asymmetric", *asymmetric)];
            return match given.iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Failure::Usage(format!(
                    "{option} is for --to gptq8 and gptq4; INT8 has no such choice"
                ))),
                None => Ok(qstore_quantize::Precision::Int8),
            };
        }
        Precision::Gptq8 => GptqBits::Eight,
        Precision::Gptq4 => GptqBits::Four,
    };
    let zero_point = if *asymmetric { ZeroPoint::MinMax } else { ZeroPoint::Symmetric };
    Ok(qstore_quantize::Precision::Gptq(Gptq {
        bits,
        group_size: group_size.unwrap_or_default(),
        zero_point,
    }))
}
