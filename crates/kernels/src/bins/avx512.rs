//! 32 lanes a register. States are kept as their two halves of 16 bits: the low half is the slot, the product of
//! frequency and high half comes as two halves as well, and a state needs a word exactly when its high half is 0.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "parts of masks, and constants of intrinsics"
)]

use std::arch::x86_64::{
    __m512i, __mmask32, _mm512_abs_epi8, _mm512_add_epi16, _mm512_add_epi32, _mm512_and_si512,
    _mm512_cmpge_epu16_mask, _mm512_cmple_epu16_mask, _mm512_cmplt_epu16_mask, _mm512_mask_add_epi16,
    _mm512_mask_cmplt_epu16_mask, _mm512_mask_expand_epi16, _mm512_mask_mov_epi16, _mm512_mask_mulhi_epu16,
    _mm512_maskz_compress_epi16, _mm512_maskz_mov_epi16, _mm512_min_epu8, _mm512_min_epu16,
    _mm512_movepi8_mask, _mm512_movepi16_mask, _mm512_mulhi_epu16, _mm512_mullo_epi16,
    _mm512_permutex2var_epi8, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_setzero_si512, _mm512_srlv_epi16,
    _mm512_sub_epi16, _mm512_ternarylogic_epi32, _mm512_test_epi16_mask, _mm512_testn_epi8_mask,
    _mm512_testn_epi16_mask,
};
use std::array::from_mut;

use super::{BinTable, MAGNITUDE, RESIDUAL_BITS, SIGN, StreamInputs, ZEROS_SLACK, scalar};
use crate::Half;
use crate::error::DecodeError;
use crate::stream::{LANES, States, WINDOW, WordReader, WordWriter};
use crate::symbols::avx512::{put, widen_both};
use crate::x86::avx512::{
    Halves, count32, in_order, interleave, load, load_32_words, load_lanes, store, store_lanes,
};

/// A table of 128 bytes.
#[derive(Clone, Copy)]
struct Plane([__m512i; 2]);

impl Plane {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn load(bytes: &[u8; 128]) -> Self {
        let halves: &[[u8; 64]] = bytes.as_chunks().0;
        Self([load(&halves[0]), load(&halves[1])])
    }

    /// The entry of each index, of which seven bits count.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn look_up(self, indices: __m512i) -> __m512i {
        _mm512_permutex2var_epi8(self.0[0], indices, self.0[1])
    }
}

/// The tables of one row.
#[derive(Clone, Copy)]
struct Planes {
    lo: [Plane; 2],
    frequency: [Plane; 2],
    factor: [Plane; 2],
    shift: Plane,
}

impl Planes {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    fn load(table: &BinTable) -> Self {
        let planes = &table.planes;
        Self {
            lo: [Plane::load(&planes.lo[0]), Plane::load(&planes.lo[1])],
            frequency: [Plane::load(&planes.frequency[0]), Plane::load(&planes.frequency[1])],
            factor: [Plane::load(&planes.factor[0]), Plane::load(&planes.factor[1])],
            shift: Plane::load(&planes.shift),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn decode(
    states: &mut States,
    words: &mut WordReader,
    given: &StreamInputs,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    if states.sets().len() == 1 {
        decode_chunk::<1>(states, words, given, out)
    } else {
        decode_chunk::<2>(states, words, given, out)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_chunk<const SETS: usize>(
    states: &mut States,
    words: &mut WordReader,
    given: &StreamInputs,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let mut lanes: [Halves; SETS] = std::array::from_fn(|set| Halves::load(states.set(set)));
    let mut zeros = Zeros { list: given.zeros, used: 0 };
    for (table, range) in given.bins.iter().zip(given.rows.iter()) {
        let (codes, out) = (&given.codes[range.clone()], &mut out[range]);
        if table.planes.wide {
            decode_row::<SETS, true>(&mut lanes, words, table, codes, &mut zeros, out)?;
        } else {
            decode_row::<SETS, false>(&mut lanes, words, table, codes, &mut zeros, out)?;
        }
    }
    for (set, lanes) in lanes.iter().enumerate() {
        lanes.store(states.set(set));
    }
    Ok(())
}

/// The values of codes of 0 that are still to come.
struct Zeros<'a> {
    list: &'a [Half],
    used: usize,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_row<const SETS: usize, const WIDE: bool>(
    lanes: &mut [Halves; SETS],
    words: &mut WordReader,
    table: &BinTable,
    codes: &[u8],
    zeros: &mut Zeros,
    out: &mut [Half],
) -> Result<(), DecodeError> {
    let planes = Planes::load(table);
    let mut groups = codes.chunks_exact(SETS * LANES);
    let mut outs = out.chunks_exact_mut(SETS * LANES);
    // A copy, and no loop over the sets: so they stay in registers.
    let mut sets = *lanes;
    for (codes, out) in (&mut groups).zip(&mut outs) {
        let mut blocks = codes.as_chunks::<LANES>().0.iter().zip(out.as_chunks_mut::<LANES>().0);
        if let Some((codes, out)) = blocks.next() {
            let window = words.window()?;
            let used = decode_block::<WIDE>(&mut sets[0], window, &planes, codes, u64::MAX, zeros, out);
            words.skip(used);
        }
        if SETS == 2
            && let Some((codes, out)) = blocks.next()
        {
            let window = words.window()?;
            let used =
                decode_block::<WIDE>(&mut sets[SETS - 1], window, &planes, codes, u64::MAX, zeros, out);
            words.skip(used);
        }
    }
    *lanes = sets;
    let rest = groups.remainder().chunks(LANES).zip(outs.into_remainder().chunks_mut(LANES));
    for (lanes, (rest, out)) in lanes.iter_mut().zip(rest) {
        let (mut codes, mut values) = ([1; LANES], [[0; 2]; LANES]);
        codes[..rest.len()].copy_from_slice(rest);
        let active = u64::MAX >> (LANES - rest.len());
        let used = decode_block::<WIDE>(lanes, words.window()?, &planes, &codes, active, zeros, &mut values);
        words.skip(used);
        out.copy_from_slice(&values[..rest.len()]);
    }
    Ok(())
}

/// Decodes a value in each lane of `active`; returns how many words were read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn decode_block<const WIDE: bool>(
    lanes: &mut Halves,
    window: &[u8; WINDOW],
    planes: &Planes,
    codes: &[u8; LANES],
    active: u64,
    zeros: &mut Zeros,
    out: &mut [Half; LANES],
) -> usize {
    let none = _mm512_setzero_si512();
    let codes = in_order(load(codes));
    let bin = _mm512_min_epu8(_mm512_abs_epi8(codes), _mm512_set1_epi8(127));
    // In the high bytes: there their signs are those of the values.
    let codes = interleave(none, codes);
    let lo = interleave(planes.lo[0].look_up(bin), planes.lo[1].look_up(bin));
    let frequency = interleave(planes.frequency[0].look_up(bin), planes.frequency[1].look_up(bin));
    let factor_high = if WIDE { planes.factor[1].look_up(bin) } else { none };
    let factor = interleave(planes.factor[0].look_up(bin), factor_high);
    let shift = if WIDE { interleave(planes.shift.look_up(bin), none) } else { [none; 2] };

    let one = _mm512_set1_epi16(1);
    let mut used = 0;
    for (half, out) in out.as_flattened_mut().as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let (low, high) = (lanes.low[half], lanes.high[half]);
        let (codes, frequency) = (codes[half], frequency[half]);
        let zero = _mm512_testn_epi16_mask(codes, codes);
        let active = _mm512_test_epi16_mask(codes, codes) & (active >> (32 * half)) as __mmask32;
        // The slot divided by the frequency: the estimate or one more.
        let mut place = _mm512_mulhi_epu16(low, factor[half]);
        if WIDE {
            place = _mm512_srlv_epi16(place, shift[half]);
        }
        let offset = _mm512_sub_epi16(low, _mm512_mullo_epi16(place, frequency));
        let more = _mm512_cmpge_epu16_mask(offset, frequency);
        // The smaller one: less than nothing is much in these.
        let offset = _mm512_min_epu16(offset, _mm512_sub_epi16(offset, frequency));
        let place = _mm512_mask_add_epi16(place, more, place, one);
        // The next state, frequency * high + offset, in halves. Lanes that are not active keep theirs.
        let product = _mm512_mullo_epi16(frequency, high);
        let next_low = _mm512_mask_add_epi16(low, active, product, offset);
        let carry = _mm512_mask_cmplt_epu16_mask(active, next_low, product);
        let upper = _mm512_mask_mulhi_epu16(high, active, frequency, high);
        let next_high = _mm512_mask_add_epi16(upper, carry, upper, one);
        // A state that is high enough is so in lanes that are not active, too.
        let renormalise = _mm512_testn_epi16_mask(next_high, next_high);
        lanes.low[half] = _mm512_mask_expand_epi16(next_low, renormalise, load_32_words(window, used));
        lanes.high[half] = _mm512_mask_mov_epi16(next_high, renormalise, next_low);
        used += count32(renormalise);

        // Of the sum 15 bits, and the code's sign.
        let sign = _mm512_set1_epi16(SIGN.cast_signed());
        let sum = _mm512_add_epi16(lo[half], place);
        let value = _mm512_ternarylogic_epi32::<SELECT>(sign, codes, sum);
        let listed: &[u8] = zeros.list[zeros.used..zeros.used + 32].as_flattened();
        let listed = listed.first_chunk().map_or(value, |listed| load(listed));
        let value = _mm512_mask_expand_epi16(value, zero, listed);
        zeros.used += count32(zero);
        store(out, value);
    }
    used
}

/// Of three operands: where the first has a one, the second, else the third.
const SELECT: i32 = 0b1100_1010;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn encode_row(
    states: &mut States,
    words: &mut WordWriter,
    table: &BinTable,
    codes: &[u8],
    values: &[Half],
    outside: &mut dyn FnMut(usize),
) {
    let planes = Planes::load(table);
    let (blocks, rest) = codes.as_chunks::<LANES>();
    let (value_blocks, value_rest) = values.as_chunks::<LANES>();
    let report = |missed: u64, block: usize, outside: &mut dyn FnMut(usize)| {
        let mut missed = missed;
        while missed != 0 {
            outside(block * LANES + missed.trailing_zeros() as usize);
            missed &= missed - 1;
        }
    };
    let mut sets = [load_lanes(states.set(0)), load_lanes(states.set(1))];
    let both = states.sets().len() == 2;
    if !rest.is_empty() {
        let (mut codes, mut values) = ([0; LANES], [[0; 2]; LANES]);
        codes[..rest.len()].copy_from_slice(rest);
        values[..rest.len()].copy_from_slice(value_rest);
        let lanes = &mut sets[usize::from(both) & blocks.len()];
        let missed = encode_block(lanes, words, &planes, &codes, &values);
        report(missed, blocks.len(), outside);
    }
    // In pairs of a block of each set, without a loop over the sets: so they stay in registers.
    let (pairs, odd) = blocks.as_chunks::<2>();
    let (value_pairs, value_odd) = value_blocks.as_chunks::<2>();
    if let ([codes], [values]) = (odd, value_odd) {
        let missed = encode_block(&mut sets[0], words, &planes, codes, values);
        report(missed, blocks.len() - 1, outside);
    }
    for (pair, (codes, values)) in pairs.iter().zip(value_pairs).enumerate().rev() {
        let missed = if both {
            encode_block(&mut sets[1], words, &planes, &codes[1], &values[1])
        } else {
            encode_block(&mut sets[0], words, &planes, &codes[1], &values[1])
        };
        report(missed, 2 * pair + 1, outside);
        let missed = encode_block(&mut sets[0], words, &planes, &codes[0], &values[0]);
        report(missed, 2 * pair, outside);
    }
    store_lanes(states.set(0), sets[0]);
    if both {
        store_lanes(states.set(1), sets[1]);
    }
}

/// Codes a value in each lane whose code is not 0; returns the lanes of those that are not in their bins.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
fn encode_block(
    lanes: &mut [__m512i; 4],
    words: &mut WordWriter,
    planes: &Planes,
    codes: &[u8; LANES],
    values: &[Half; LANES],
) -> u64 {
    let codes = load(codes);
    let zero = _mm512_testn_epi8_mask(codes, codes);
    let negative = _mm512_movepi8_mask(codes);
    let bin = in_order(_mm512_min_epu8(_mm512_abs_epi8(codes), _mm512_set1_epi8(127)));
    let lo = interleave(planes.lo[0].look_up(bin), planes.lo[1].look_up(bin));
    let frequency = interleave(planes.frequency[0].look_up(bin), planes.frequency[1].look_up(bin));
    let (mut missed, mut start) = (0, lo);
    let halves: &[[u8; 64]] = values.as_flattened().as_chunks().0;
    for (half, values) in halves.iter().enumerate() {
        let values = load(values);
        let magnitude = _mm512_and_si512(values, _mm512_set1_epi16(MAGNITUDE.cast_signed()));
        let below = _mm512_cmplt_epu16_mask(magnitude, lo[half]);
        let place = _mm512_sub_epi16(magnitude, lo[half]);
        let begin = _mm512_mullo_epi16(place, frequency[half]);
        let over = _mm512_mulhi_epu16(place, frequency[half]);
        // The place's interval ends by 2^16: begin <= 2^16 - frequency, which in 16 bits is -frequency, as no frequency
        // is 0.
        let last = _mm512_sub_epi16(_mm512_setzero_si512(), frequency[half]);
        let fits = _mm512_testn_epi16_mask(over, over)
            & _mm512_cmple_epu16_mask(begin, last)
            & !below
            & !(_mm512_movepi16_mask(values) ^ (negative >> (32 * half)) as __mmask32);
        start[half] = _mm512_maskz_mov_epi16(fits, begin);
        missed |= u64::from(!fits) << (32 * half);
    }
    let (starts, frequencies) = (widen_both(start), widen_both(frequency));
    put::<RESIDUAL_BITS, 1>(from_mut(lanes), words, &[frequencies], !zero, |_, quarter, offset| {
        _mm512_add_epi32(starts[quarter], offset)
    });
    missed & !zero
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn list_zeros(codes: &[u8], values: &[Half], list: &mut [Half]) -> usize {
    let (blocks, rest) = codes.as_chunks::<LANES>();
    let (value_blocks, value_rest) = values.as_chunks::<LANES>();
    let mut listed = 0;
    for (codes, values) in blocks.iter().zip(value_blocks) {
        let codes = load(codes);
        let zero = _mm512_testn_epi8_mask(codes, codes);
        let halves: &[[u8; 64]] = values.as_flattened().as_chunks().0;
        for (half, values) in halves.iter().enumerate() {
            let zero = (zero >> (32 * half)) as __mmask32;
            let place = list[listed..listed + ZEROS_SLACK].as_flattened_mut();
            if let Some(place) = place.first_chunk_mut() {
                store(place, _mm512_maskz_compress_epi16(zero, load(values)));
            }
            listed += count32(zero);
        }
    }
    listed + scalar::list_zeros(rest, value_rest, &mut list[listed..])
}
