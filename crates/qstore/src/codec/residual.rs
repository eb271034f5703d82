//! Floats given codes that follow from them by a rule: the bin of each is that of its code.

use qstore_checkpoint::FloatKind;
use qstore_kernels::{DecodeError, Layout, ResidualCoder, SymbolTable};

use super::float::LONG_BYTES;
use super::places::{Binned, Places};
use super::workspace::{Workspace, at_least};
use crate::quant::{Dequantizer, Quantizer};

/// The bins of one matrix of codes for one type of floats.
#[derive(Debug)]
pub(crate) struct Bins {
    places: Places,
    /// The number of each code's bin, where that is not the code itself.
    bin_of_code: Option<Box<[u8; 256]>>,
}

/// What a chunk of floats is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenBins<'a> {
    /// The code of each weight.
    pub(crate) codes: &'a [u8],
    /// The row that they begin with.
    pub(crate) first_row: usize,
    pub(crate) bins: &'a Bins,
}

impl Bins {
    /// `None` if codes have no bins: levels of one sign, zero-points, or no rule.
    pub(crate) fn new(values: &Dequantizer, float: FloatKind) -> Option<Self> {
        let (rule, over) = values.rule()?;
        let bin_of_code = values.levels().bins().filter(|_| values.has_no_zeros())?;
        let quantizer = Quantizer::new(rule, over, values.levels(), float)?;
        let places = Places::new(quantizer, values.columns(), values.tiling(), |tile, group| {
            values.undivided(tile, group)
        });
        let is_code = (0..=255).zip(&bin_of_code).all(|(code, bin)| code == *bin);
        Some(Self { places, bin_of_code: (!is_code).then(|| Box::new(bin_of_code)) })
    }

    /// Calls `work` with the bins of codes; `buffer` is for those that are not the codes themselves.
    fn with<R>(&self, codes: &[u8], buffer: &mut Vec<u8>, work: impl FnOnce(&[u8]) -> R) -> R {
        let Some(bin_of_code) = &self.bin_of_code else { return work(codes) };
        let bins = at_least(buffer, codes.len());
        bins.iter_mut().zip(codes).for_each(|(bin, code)| *bin = bin_of_code[usize::from(*code)]);
        work(bins)
    }

    /// Whether chunks of so many weights can be coded.
    pub(crate) fn fits(&self, weights: usize) -> bool {
        self.places.fits(weights)
    }
}

/// Codes floats of one kind given the codes of one array.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    float: FloatKind,
    coder: ResidualCoder,
}

impl Residual {
    /// With a table of bin 0 that fits this histogram, which [`count_zeros`] has filled.
    pub(crate) fn fit(float: FloatKind, zeros: &[u64; 256], layout: Layout) -> Result<Self, DecodeError> {
        let coder = ResidualCoder::new(float.mantissa_bits(), SymbolTable::from_histogram(zeros), layout)?;
        Ok(Self { float, coder })
    }

    /// The floats.
    pub(crate) fn float(&self) -> FloatKind {
        self.float
    }

    pub(crate) fn open(float: FloatKind, layout: Layout, head: &mut &[u8]) -> Result<Self, DecodeError> {
        let coder = ResidualCoder::new(float.mantissa_bits(), SymbolTable::read(head)?, layout)?;
        Ok(Self { float, coder })
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = Vec::new();
        self.coder.zero_table().write(&mut head);
        head
    }

    pub(crate) fn encode(&self, raw: &[u8], given: GivenBins, workspace: &mut Workspace) -> Option<Vec<u8>> {
        let GivenBins { codes, first_row, bins } = given;
        if !bins.fits(codes.len()) {
            return None;
        }
        let mut buffer = std::mem::take(&mut workspace.fine);
        let coded = bins.with(codes, &mut buffer, |of_codes| {
            let binned = Binned { float: self.float, first_row, bins: of_codes };
            bins.places.encode(&self.coder, raw, binned, workspace)
        });
        workspace.fine = buffer;
        coded
    }

    /// How many weights of a coded chunk fell outside their bins.
    pub(crate) fn exceptions(&self, stored: &[u8]) -> u32 {
        let count = |chunk: &[u8]| chunk.first_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let skip = match self.float {
            FloatKind::Bf16 | FloatKind::F16 => 0,
            FloatKind::F32 => 4,
            FloatKind::ShortF16 => 4 + LONG_BYTES * count(stored) as usize,
        };
        stored.get(skip..).map_or(0, count)
    }

    pub(crate) fn decode(
        &self,
        stored: &[u8],
        given: GivenBins,
        workspace: &mut Workspace,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let GivenBins { codes, first_row, bins } = given;
        let mut buffer = std::mem::take(&mut workspace.fine);
        let result = bins.with(codes, &mut buffer, |of_codes| {
            let binned = Binned { float: self.float, first_row, bins: of_codes };
            bins.places.decode(&self.coder, stored, binned, workspace, out)
        });
        workspace.fine = buffer;
        result
    }
}

/// Counts the symbols that the weights of bin 0 of a chunk take.
pub(crate) fn count_zeros(float: FloatKind, raw: &[u8], given: GivenBins, into: &mut [u64; 256]) {
    let GivenBins { codes, first_row, bins } = given;
    bins.with(codes, &mut Vec::new(), |of_codes| {
        bins.places.count_zeros(raw, Binned { float, first_row, bins: of_codes }, into);
    });
}
