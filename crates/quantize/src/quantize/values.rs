//! Weights as numbers: reading, rounding and writing the three float types.

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use qstore_checkpoint::FloatKind;

/// Appends the values of little-endian `bytes`. FP16 and BF16 values are FP32 values too, so nothing is lost.
pub(super) fn read(kind: FloatKind, bytes: &[u8], out: &mut Vec<f32>) {
    let pairs = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match kind {
        FloatKind::Bf16 => out.extend(pairs().map(|bits| f32::from_bits(u32::from(bits) << 16))),
        FloatKind::F16 | FloatKind::ShortF16 => {
            // The library converts many at once several times faster than one by one.
            let halves: Vec<f16> = pairs().map(f16::from_bits).collect();
            let begin = out.len();
            out.resize(begin + halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut out[begin..]);
        }
        FloatKind::F32 => {
            out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
    }
}

/// Rounds values of type `from` to type `to`, half to even, as `torch.Tensor.to` does.
pub(super) fn round(values: &mut [f32], from: FloatKind, to: FloatKind) {
    match to {
        _ if from == to => {}
        FloatKind::F32 => {}
        FloatKind::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
        FloatKind::F16 | FloatKind::ShortF16 => {
            values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32())
        }
    }
}

/// Appends values, which type `kind` has exactly or rounds to, in little-endian.
pub(super) fn write(kind: FloatKind, values: &[f32], out: &mut Vec<u8>) {
    match kind {
        FloatKind::Bf16 => out.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
        FloatKind::F16 | FloatKind::ShortF16 => {
            out.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()))
        }
        FloatKind::F32 => out.extend(values.iter().flat_map(|&v| v.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [FloatKind; 3] = [FloatKind::Bf16, FloatKind::F16, FloatKind::F32];

    #[test]
    fn values_of_16_bits_come_back() {
        for kind in [FloatKind::Bf16, FloatKind::F16] {
            let is_nan = |bits: u16| u32::from(bits & 0x7fff) > kind.infinity();
            let bytes: Vec<u8> = (0..=u16::MAX).filter(|&b| !is_nan(b)).flat_map(u16::to_le_bytes).collect();
            let mut values = Vec::new();
            read(kind, &bytes, &mut values);
            let mut again = Vec::new();
            write(kind, &values, &mut again);
            assert_eq!(again, bytes, "{kind:?}");
        }
    }

    #[test]
    fn rounds_half_to_even() {
        let source = [1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 65520.0, 1e-8, -0.0];
        let rounded = |to| {
            let mut values = source;
            round(&mut values, FloatKind::F32, to);
            values
        };
        assert_eq!(rounded(FloatKind::F32), source);
        // torch.tensor([...]).to(torch.bfloat16)
        assert_eq!(rounded(FloatKind::Bf16), [1.0, 1.0, 1.015_625, 65536.0, 1.001_171_8e-8, -0.0]);
        assert_eq!(rounded(FloatKind::F16), [1.0, 1.003_906_3, 1.011_718_8, f32::INFINITY, 0.0, -0.0]);
        for kind in KINDS {
            let mut values = [0.1];
            round(&mut values, kind, kind);
            assert_eq!(values, [0.1]);
        }
    }
}
