//! Zstandard over bytes regrouped by their place in an element: all first bytes, then all second ones, and so on.

use qstore_kernels::DecodeError;

/// Level for files such as tokenizers: few bytes, read by everyone, worth a slow search.
const FILE_LEVEL: i32 = 19;
/// Level for tensors, which are many and rarely repeat themselves.
const TENSOR_LEVEL: i32 = 6;
/// Level at which a sample shows whether zstd is worth it.
const TRIAL_LEVEL: i32 = 1;

/// Codes elements of `width` bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planes {
    width: usize,
    level: i32,
}

impl Planes {
    /// For reading elements of 1 to 8 bytes.
    pub(crate) fn reader(width: u64) -> Self {
        Self::writer(width, false)
    }

    /// For writing the elements of a tensor or the bytes of a file.
    pub(crate) fn writer(width: u64, file: bool) -> Self {
        let level = if file { FILE_LEVEL } else { TENSOR_LEVEL };
        Self { width: usize::try_from(width).unwrap_or(1).clamp(1, 8), level }
    }

    pub(crate) fn encode(self, raw: &[u8]) -> Option<Vec<u8>> {
        if self.width == 1 {
            return zstd::bulk::compress(raw, self.level).ok();
        }
        let regrouped: Vec<u8> =
            (0..self.width).flat_map(|place| raw.iter().skip(place).step_by(self.width).copied()).collect();
        zstd::bulk::compress(&regrouped, self.level).ok()
    }

    /// About how many bytes [`encode`](Self::encode) would make of `raw`.
    pub(crate) fn estimate(self, raw: &[u8]) -> Option<u64> {
        Some(Self { level: TRIAL_LEVEL, ..self }.encode(raw)?.len() as u64)
    }

    pub(crate) fn decode(self, stored: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        let bad = DecodeError::Corrupt("a zstd frame that is damaged or of another length");
        if self.width == 1 {
            let written = zstd::bulk::decompress_to_buffer(stored, out).map_err(|_| bad)?;
            return if written == out.len() { Ok(()) } else { Err(bad) };
        }
        let mut regrouped = vec![0; out.len()];
        let written = zstd::bulk::decompress_to_buffer(stored, &mut regrouped).map_err(|_| bad)?;
        if written != out.len() || !out.len().is_multiple_of(self.width) {
            return Err(bad);
        }
        let count = out.len() / self.width;
        for (place, plane) in regrouped.chunks_exact(count.max(1)).enumerate() {
            for (element, byte) in out.chunks_exact_mut(self.width).zip(plane) {
                element[place] = *byte;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for width in [1, 2, 4, 8] {
            for count in [0, 1, 3, 1000] {
                let raw: Vec<u8> = (0..count * width).map(|i| (i * 7 % 11) as u8).collect();
                let planes = Planes::writer(width, width == 1);
                let stored = planes.encode(&raw).unwrap();
                let mut back = vec![1; raw.len()];
                planes.decode(&stored, &mut back).unwrap();
                assert_eq!(back, raw);
                back.push(0);
                assert!(planes.decode(&stored, &mut back).is_err());
                assert!(planes.decode(&stored[..stored.len() - 1], &mut vec![0; raw.len()]).is_err());
            }
        }
    }
}
