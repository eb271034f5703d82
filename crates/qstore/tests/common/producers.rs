//! Quantised twins of a model, as producers make them that the parent module does not know, from their definitions.

use half::bf16;
use qstore::Dtype;

use super::{Gptq, Tensor, Tensors, gptq_tensors, words};

/// Every `X_proj.weight` in other tensors, which `make` has of its name without `.weight` and itself.
fn twin(tensors: &Tensors, make: impl Fn(&str, &Tensor) -> Tensors) -> Tensors {
    let of = |(name, tensor): (&String, &Tensor)| match name.strip_suffix(".weight") {
        Some(base) if base.ends_with("_proj") => make(base, tensor),
        _ => Tensors::from([(name.clone(), tensor.clone())]),
    };
    tensors.iter().flat_map(of).collect()
}

fn in_bf16(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

/// The code of the nearest of the levels of float codes, which ascend, with the sign above them; of two the even one.
fn float_code(levels: &[f32], value: f32) -> u8 {
    let above = levels.partition_point(|level| *level < value.abs()).min(levels.len() - 1);
    let below = above.saturating_sub(1);
    let (down, up) = (value.abs() - levels[below], levels[above] - value.abs());
    let magnitude = if down < up || down == up && below % 2 == 0 { below } else { above };
    magnitude as u8 | if value.is_sign_negative() { levels.len() as u8 } else { 0 }
}

fn e4m3() -> Vec<f32> {
    let level = |code: u8| {
        let (exponent, mantissa) = (i32::from(code >> 3), f32::from(code & 7));
        if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) }
    };
    // That of NaN, which no weight is near, counts as a number.
    (0..128).map(level).collect()
}

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Two codes a byte, the first one in its low bits.
fn nibbles(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect()
}

/// As many whole codes in each word as there is room for, low bits first.
fn whole_in_words(codes: &[i32], bits: u32) -> Vec<u32> {
    let mask = (1i64 << bits) - 1;
    let word = |codes: &[i32]| {
        codes.iter().rev().fold(0, |word, code| word << bits | (i64::from(*code) & mask) as u32)
    };
    codes.chunks((32 / bits) as usize).map(word).collect()
}

/// compressed-tensors `pack-quantized`, or `int-quantized` of 8 bits where `packed` says no.
pub fn compressed_ints(tensors: &Tensors, bits: u32, group: usize, symmetric: bool, packed: bool) -> Tensors {
    let (least, most) = (-(1 << (bits - 1)) as f32, ((1 << (bits - 1)) - 1) as f32);
    twin(tensors, |base, tensor| {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let (mut codes, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
        for values in values.chunks(cols).flat_map(|row| row.chunks(group)) {
            let low = values.iter().copied().fold(0f32, f32::min);
            let high = values.iter().copied().fold(0f32, f32::max);
            let (scale, zero) = if symmetric {
                (in_bf16(greatest(values) / ((most - least) / 2.0)), 0.0)
            } else {
                let scale = in_bf16((high - low) / (most - least));
                (scale, (least - in_bf16(low / scale)).round_ties_even().clamp(least, most))
            };
            let code =
                |value: &f32| in_bf16(in_bf16(value / scale) + zero).round_ties_even().clamp(least, most);
            codes.extend(values.iter().map(|value| code(value) as i32));
            scales.push(scale);
            zeros.push(zero as i32);
        }
        let groups = cols.div_ceil(group);
        let scale = Tensor::float(Dtype::BF16, &[rows, groups], &scales);
        let mut all = Tensors::from([(format!("{base}.weight_scale"), scale)]);
        if !packed {
            let codes = codes.iter().map(|code| *code as u8).collect();
            all.insert(format!("{base}.weight"), Tensor::new(Dtype::I8, &[rows, cols], codes));
            return all;
        }
        // What is stored is more by half of what there is.
        let stored = |codes: &[i32]| codes.iter().map(|code| code - least as i32).collect::<Vec<_>>();
        let by_row: Vec<u32> =
            codes.chunks(cols).flat_map(|row| whole_in_words(&stored(row), bits)).collect();
        all.insert(format!("{base}.weight_packed"), words(&[rows, by_row.len() / rows], &by_row));
        let shape = [rows, cols].iter().flat_map(|side| (*side as u64).to_le_bytes()).collect();
        all.insert(format!("{base}.weight_shape"), Tensor::new(Dtype::I64, &[2], shape));
        if !symmetric {
            let column = |group: usize| zeros.iter().skip(group).step_by(groups).copied().collect::<Vec<_>>();
            let by_column: Vec<Vec<u32>> =
                (0..groups).map(|group| whole_in_words(&stored(&column(group)), bits)).collect();
            let high = by_column[0].len();
            let zeros: Vec<u32> =
                (0..high).flat_map(|word| by_column.iter().map(move |column| column[word])).collect();
            all.insert(format!("{base}.weight_zero_point"), words(&[high, groups], &zeros));
        }
        all
    })
}

/// FP8 of compressed-tensors with a scale for each row, or of ModelOpt with one for the matrix.
pub fn fp8_rows(tensors: &Tensors, is_modelopt: bool) -> Tensors {
    let levels = e4m3();
    twin(tensors, |base, tensor| {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let each = if is_modelopt { values.len() } else { cols };
        let scales: Vec<f32> = values.chunks(each).map(|row| in_bf16(greatest(row) / 448.0)).collect();
        let code = |(index, value): (usize, &f32)| float_code(&levels, in_bf16(value / scales[index / each]));
        let codes = values.iter().enumerate().map(code).collect();
        let scale = if is_modelopt {
            Tensor::float(Dtype::F32, &[], &scales)
        } else {
            Tensor::float(Dtype::BF16, &[rows, 1], &scales)
        };
        Tensors::from([
            (format!("{base}.weight"), Tensor::new(Dtype::F8_E4M3, &tensor.shape, codes)),
            (format!("{base}.weight_scale"), scale),
        ])
    })
}

/// NVFP4 of compressed-tensors, whose scales are divided by one for the matrix, or of ModelOpt.
pub fn nvfp4(tensors: &Tensors, is_modelopt: bool) -> Tensors {
    let levels = e4m3();
    twin(tensors, |base, tensor| {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let of_all = 448.0 * 6.0 / greatest(&values);
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for values in values.chunks(16) {
            let scale = float_code(&levels, of_all * (greatest(values) / 6.0));
            let whole = levels[usize::from(scale)] / of_all;
            codes.extend(values.iter().map(|value| float_code(&E2M1, value / whole)));
            scales.push(scale);
        }
        let codes = Tensor::new(Dtype::U8, &[rows, cols / 2], nibbles(&codes));
        let scales = Tensor::new(Dtype::F8_E4M3, &[rows, cols / 16], scales);
        let names =
            if is_modelopt { ["weight", "weight_scale_2"] } else { ["weight_packed", "weight_global_scale"] };
        let (of_all, shape) = if is_modelopt { (1.0 / of_all, &[][..]) } else { (of_all, &[1][..]) };
        Tensors::from([
            (format!("{base}.{}", names[0]), codes),
            (format!("{base}.weight_scale"), scales),
            (format!("{base}.{}", names[1]), Tensor::float(Dtype::F32, shape, &[of_all])),
        ])
    })
}

/// MXFP4 of compressed-tensors.
pub fn mxfp4(tensors: &Tensors) -> Tensors {
    twin(tensors, |base, tensor| {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for values in values.chunks(32) {
            // The greatest weight is rounded to two bits of mantissa first.
            let exponent = ((greatest(values).to_bits() + 0x20_0000) >> 23).cast_signed() - 127 - 2;
            codes.extend(values.iter().map(|value| float_code(&E2M1, value / 2f32.powi(exponent))));
            scales.push((exponent + 127) as u8);
        }
        Tensors::from([
            (format!("{base}.weight_packed"), Tensor::new(Dtype::U8, &[rows, cols / 2], nibbles(&codes))),
            (format!("{base}.weight_scale"), Tensor::new(Dtype::U8, &[rows, cols / 32], scales)),
        ])
    })
}

/// NF4 of bitsandbytes, in blocks of 64; with `nested`, scales are quantised as well, in blocks of 256.
pub fn nf4(tensors: &Tensors, nested: bool) -> Tensors {
    const LEVELS: [f32; 16] = [
        -1.0,
        -0.696_192_8,
        -0.525_073_05,
        -0.394_917_5,
        -0.284_441_38,
        -0.184_773_43,
        -0.091_050_036,
        0.0,
        0.079_580_3,
        0.160_930_2,
        0.246_112_3,
        0.337_915_24,
        0.440_709_83,
        0.562_617,
        0.722_956_84,
        1.0,
    ];
    twin(tensors, |base, tensor| {
        let values = tensor.values();
        let scales: Vec<f32> = values.chunks(64).map(greatest).collect();
        let code = |(index, value): (usize, &f32)| {
            let level = value * (1.0 / scales[index / 64]);
            LEVELS.windows(2).take_while(|pair| level > (pair[0] + pair[1]) / 2.0).count() as u8
        };
        let codes: Vec<u8> = values.iter().enumerate().map(code).collect();
        // The first of two in the high bits.
        let bytes: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        let shape = &tensor.shape;
        let offset = scales.iter().sum::<f32>() / scales.len() as f32;
        let of_nested = if nested {
            format!(r#", "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": {offset}"#)
        } else {
            String::new()
        };
        let state = format!(
            r#"{{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [{}, {}]{of_nested}}}"#,
            shape[0], shape[1]
        );
        let weight = format!("{base}.weight");
        let of_scales = if nested {
            let table: Vec<f32> = (0..256u16).map(|code| f32::from(code) / 127.5 - 1.0).collect();
            let off: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
            let greatest: Vec<f32> = off.chunks(256).map(greatest).collect();
            let code = |(index, off): (usize, &f32)| {
                ((off / greatest[index / 256] + 1.0) * 127.5).round_ties_even() as u8
            };
            let codes: Vec<u8> = off.iter().enumerate().map(code).collect();
            vec![
                ("absmax", Tensor::new(Dtype::U8, &[codes.len()], codes)),
                ("nested_absmax", Tensor::float(Dtype::F32, &[greatest.len()], &greatest)),
                ("nested_quant_map", Tensor::float(Dtype::F32, &[256], &table)),
            ]
        } else {
            vec![("absmax", Tensor::float(Dtype::F32, &[scales.len()], &scales))]
        };
        let of_scales = of_scales.into_iter().map(|(end, tensor)| (format!("{weight}.{end}"), tensor));
        of_scales
            .chain([
                (weight.clone(), Tensor::new(Dtype::U8, &[bytes.len(), 1], bytes)),
                (format!("{weight}.quant_map"), Tensor::float(Dtype::F32, &[16], &LEVELS)),
                (
                    format!("{weight}.quant_state.bitsandbytes__nf4"),
                    Tensor::new(Dtype::U8, &[state.len()], state.into_bytes()),
                ),
            ])
            .collect()
    })
}

/// MLX's affine quantisation of so many bits, in groups of 64.
pub fn mlx(tensors: &Tensors, bits: u8) -> Tensors {
    let most = f32::from(u8::MAX >> (8 - bits));
    twin(tensors, |base, tensor| {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let (mut codes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for values in values.chunks(64) {
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let step = ((high - low) / most).max(1e-7);
            let (step, edge) = if low.abs() > high.abs() { (step, low) } else { (-step, high) };
            let steps = (edge / step).round_ties_even();
            let (step, bias) = if steps == 0.0 { (step, 0.0) } else { (edge / steps, edge) };
            let code = |value: &f32| ((value - bias) / step).round_ties_even().clamp(0.0, most) as u32;
            codes.extend(values.iter().map(code));
            scales.push(step);
            biases.push(bias);
        }
        let packed = super::pack_words(codes, bits);
        let weight = words(&[rows, cols * usize::from(bits) / 32], &packed);
        let numbers = |numbers: &[f32]| Tensor::float(Dtype::BF16, &[rows, cols / 64], numbers);
        Tensors::from([
            (format!("{base}.weight"), Tensor { dtype: Dtype::U32, ..weight }),
            (format!("{base}.scales"), numbers(&scales)),
            (format!("{base}.biases"), numbers(&biases)),
        ])
    })
}

/// Integers of torchao, of 8 bits with a scale for each row.
pub fn torchao(tensors: &Tensors) -> Tensors {
    twin(tensors, |base, tensor| {
        let (rows, values) = (tensor.shape[0], tensor.values());
        let each = tensor.shape[1];
        let scales: Vec<f32> = values.chunks(each).map(|row| in_bf16(greatest(row) / 127.5)).collect();
        let code = |(index, value): (usize, &f32)| {
            (value * (1.0 / scales[index / each])).round_ties_even().clamp(-128.0, 127.0) as i8 as u8
        };
        let codes = values.iter().enumerate().map(code).collect();
        Tensors::from([
            (format!("{base}._weight_qdata"), Tensor::new(Dtype::I8, &tensor.shape, codes)),
            (format!("{base}._weight_scale"), Tensor::float(Dtype::F32, &[rows, 1], &scales)),
        ])
    })
}

/// Integers of torchao, of 4 bits in bytes in groups of 32.
pub fn torchao_int4(tensors: &Tensors) -> Tensors {
    twin(tensors, |base, tensor| {
        let (rows, cols, values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        let scales: Vec<f32> =
            values.chunks(32).map(|group| in_bf16(in_bf16(greatest(group)) / 7.5)).collect();
        let code = |(index, value): (usize, &f32)| {
            let quotient = in_bf16(value * in_bf16(1.0 / scales[index / 32]));
            quotient.round_ties_even().clamp(-8.0, 7.0) as i8 as u8
        };
        let codes = values.iter().enumerate().map(code).collect();
        let groups = [rows, cols / 32];
        Tensors::from([
            (format!("{base}._weight_qdata"), Tensor::new(Dtype::I8, &tensor.shape, codes)),
            (format!("{base}._weight_scale"), Tensor::float(Dtype::BF16, &groups, &scales)),
            (format!("{base}._weight_zero_point"), Tensor::new(Dtype::I8, &groups, vec![0; scales.len()])),
        ])
    })
}

/// FP8 of compressed-tensors, and the floats that its codes stand for.
pub fn dequantised_fp8(tensors: &Tensors) -> (Tensors, Tensors) {
    let low = fp8_rows(tensors, false);
    let made = twin(tensors, |base, tensor| {
        let (cols, codes) = (tensor.shape[1], &low[&format!("{base}.weight")].data);
        let scales = low[&format!("{base}.weight_scale")].values();
        let value = |(index, code): (usize, &u8)| {
            let magnitude = f32::from(code & 7) / 8.0;
            let exponent = i32::from(code >> 3 & 15);
            let magnitude =
                if exponent == 0 { magnitude / 64.0 } else { (1.0 + magnitude) * 2f32.powi(exponent - 7) };
            let level = if code & 0x80 == 0 { magnitude } else { -magnitude };
            scales[index / cols] * level
        };
        let values: Vec<f32> = codes.iter().enumerate().map(value).collect();
        Tensors::from([(format!("{base}.weight"), Tensor::float(Dtype::F32, &tensor.shape, &values))])
    });
    (low, made)
}

/// Experts of gpt-oss in MXFP4, and the floats that their codes stand for, which lie the other way round.
pub fn gpt_oss(seed: u64) -> (Tensors, Tensors) {
    const LEVELS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (mut low, mut made) = (Tensors::new(), Tensors::new());
    for (name, rows) in [("gate_up_proj", 512), ("down_proj", 192)] {
        let (experts, cols) = (2, 256);
        let base = format!("model.layers.0.mlp.experts.{name}");
        let byte = |at: usize| (at as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
        let blocks: Vec<u8> = (0..experts * rows * cols / 2).map(byte).collect();
        let scales: Vec<u8> = (0..experts * rows * cols / 32).map(|at| 115 + byte(at) % 5).collect();
        let value = |expert: usize, row: usize, column: usize| {
            let at = (expert * rows + row) * cols + column;
            let code = blocks[at / 2] >> (4 * (at % 2)) & 15;
            let level = LEVELS[usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 };
            level * 2f32.powi(i32::from(scales[at / 32]) - 127)
        };
        let places =
            (0..experts).flat_map(|e| (0..cols).flat_map(move |c| (0..rows).map(move |r| (e, r, c))));
        let values: Vec<f32> = places.map(|(expert, row, column)| value(expert, row, column)).collect();
        made.insert(base.clone(), Tensor::float(Dtype::F32, &[experts, cols, rows], &values));
        let groups = cols / 32;
        low.insert(format!("{base}_blocks"), Tensor::new(Dtype::U8, &[experts, rows, groups, 16], blocks));
        low.insert(format!("{base}_scales"), Tensor::new(Dtype::U8, &[experts, rows, groups], scales));
    }
    (low, made)
}

/// 4 bits in groups of 128 as AutoRound exports them, without `g_idx` and with scales of either sign; or as AWQ does,
/// where `is_awq`, of columns that were multiplied with factors before, and in some matrices rows.
pub fn gptq_like(tensors: &Tensors, is_awq: bool) -> Tensors {
    twin(tensors, |base, tensor| {
        let (rows, cols, mut values) = (tensor.shape[0], tensor.shape[1], tensor.values());
        if is_awq {
            let factor = |at: usize| 0.5 + (at * 37 % 64) as f32 / 40.0;
            for (index, value) in values.iter_mut().enumerate() {
                let of_row = if base.contains("layers.1.") { factor(index / cols + 5) } else { 1.0 };
                *value = in_bf16(*value * factor(index % cols) * of_row);
            }
        }
        let groups = cols / 128;
        let sign = |row: usize, group: usize| if !is_awq && (row + group) % 2 == 1 { -1.0 } else { 1.0 };
        let scale = |row: usize, group: usize| {
            let values = &values[row * cols + group * 128..][..128];
            half::f16::from_f32(sign(row, group) * greatest(values) / 7.5).to_f32()
        };
        let scales: Vec<f32> =
            (0..groups).flat_map(|group| (0..rows).map(move |row| scale(row, group))).collect();
        // A code in sixteen is moved by one.
        let code = |(index, value): (usize, &f32)| {
            let (row, column) = (index / cols, index % cols);
            let moved = if index * 7 % 16 == 3 { 1.0 } else { 0.0 };
            (value / scales[column / 128 * rows + row] + 8.0 + moved).round_ties_even().clamp(0.0, 15.0)
                as u32
        };
        let codes: Vec<u32> = values.iter().enumerate().map(code).collect();
        if !is_awq {
            let how = Gptq { group: 128, ..Gptq::of_bits(4) };
            let (zeros, group_of) = (vec![8; scales.len()], vec![0; cols]);
            let mut all = gptq_tensors(base, [rows, cols], how, (&codes, &scales, &zeros, &group_of));
            all.remove(&format!("{base}.g_idx"));
            return all;
        }
        let word = |codes: [u32; 8]| {
            [0, 2, 4, 6, 1, 3, 5, 7].iter().rev().fold(0, |word, output| word << 4 | codes[*output])
        };
        let of_outputs = |column: usize, first: usize| {
            word(std::array::from_fn(|output| codes[(first + output) * cols + column]))
        };
        let of_column = |column: usize| (0..rows).step_by(8).map(move |first| (column, first));
        let places = (0..cols).flat_map(of_column);
        let qweight: Vec<u32> = places.map(|(column, first)| of_outputs(column, first)).collect();
        let qzeros = vec![word([8; 8]); groups * rows / 8];
        Tensors::from([
            (format!("{base}.qweight"), words(&[cols, rows / 8], &qweight)),
            (format!("{base}.qzeros"), words(&[groups, rows / 8], &qzeros)),
            (format!("{base}.scales"), Tensor::float(Dtype::F16, &[groups, rows], &scales)),
        ])
    })
}
