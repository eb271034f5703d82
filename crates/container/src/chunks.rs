//! The list of chunks of a shard: 16 bytes each, in the order of the plan's arrays.
//!
//! ```text
//! length    u32   stored bytes
//! form      u8    0 head, 1 coded, 2 raw
//! reserved  3 x 0
//! checksum  u64   XXH3-64 of the stored bytes
//! ```

use crate::FormatError;

/// Bytes of one record.
const RECORD: usize = 16;

/// How a chunk's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkForm {
    /// Tables that the array's chunks share; the first record of an array whose encoding has any.
    Head,
    /// Coded as the array's encoding says.
    Coded,
    /// The elements as they are.
    Raw,
}

/// One chunk of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Stored bytes.
    pub length: u32,
    /// How to read them.
    pub form: ChunkForm,
    /// XXH3-64 of the stored bytes.
    pub checksum: u64,
}

impl ChunkRecord {
    /// The record of a chunk stored as `bytes`.
    ///
    /// # Errors
    /// 4 GiB or more.
    pub fn of(form: ChunkForm, bytes: &[u8]) -> Result<Self, FormatError> {
        let length = u32::try_from(bytes.len()).map_err(|_| FormatError::new("a chunk of 4 GiB or more"))?;
        Ok(Self { length, form, checksum: checksum(bytes) })
    }

    /// Whether `bytes` are this chunk's.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == u64::from(self.length) && checksum(bytes) == self.checksum
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// The stored form of `records`.
#[must_use]
pub fn write_chunks(records: &[ChunkRecord]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * RECORD);
    for record in records {
        out.extend(record.length.to_le_bytes());
        let form = match record.form {
            ChunkForm::Head => 0,
            ChunkForm::Coded => 1,
            ChunkForm::Raw => 2,
        };
        out.extend([form, 0, 0, 0]);
        out.extend(record.checksum.to_le_bytes());
    }
    out
}

/// Reads what [`write_chunks`] wrote.
///
/// # Errors
/// A length that is no multiple of 16, an unknown form, or reserved bytes in use.
pub fn parse_chunks(bytes: &[u8]) -> Result<Vec<ChunkRecord>, FormatError> {
    let (records, rest) = bytes.as_chunks::<RECORD>();
    if !rest.is_empty() {
        return Err(FormatError::new("its list of chunks is cut short"));
    }
    records
        .iter()
        .map(|&[l0, l1, l2, l3, form, r0, r1, r2, ref checksum @ ..]| {
            let form = match (form, [r0, r1, r2]) {
                (0, [0, 0, 0]) => ChunkForm::Head,
                (1, [0, 0, 0]) => ChunkForm::Coded,
                (2, [0, 0, 0]) => ChunkForm::Raw,
                _ => {
                    return Err(FormatError::new(
                        "its list of chunks has a form that this version does not know",
                    ));
                }
            };
            let length = u32::from_le_bytes([l0, l1, l2, l3]);
            Ok(ChunkRecord { length, form, checksum: u64::from_le_bytes(*checksum) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let records = [
            ChunkRecord::of(ChunkForm::Head, b"").unwrap(),
            ChunkRecord::of(ChunkForm::Coded, b"abc").unwrap(),
            ChunkRecord::of(ChunkForm::Raw, &[0; 1000]).unwrap(),
        ];
        let bytes = write_chunks(&records);
        assert_eq!(parse_chunks(&bytes).unwrap(), records);
        assert!(records[1].matches(b"abc") && !records[1].matches(b"abd") && !records[1].matches(b"ab"));
        assert!(parse_chunks(&bytes[1..]).is_err());
        for at in 4..8 {
            let mut bad = bytes.clone();
            bad[at] = 9;
            assert!(parse_chunks(&bad).is_err());
        }
    }
}
