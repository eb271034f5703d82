//! Lists of tables at the front of an array's stream: their number (u8), then each.

use qstore_kernels::{DecodeError, SymbolTable};

pub(crate) fn write_tables(tables: &[SymbolTable]) -> Vec<u8> {
    // Coders have at most 16 tables.
    let mut out = vec![u8::try_from(tables.len()).unwrap_or(u8::MAX)];
    tables.iter().for_each(|table| table.write(&mut out));
    out
}

pub(crate) fn read_tables(head: &mut &[u8]) -> Result<Vec<SymbolTable>, DecodeError> {
    let (count, rest) = head.split_first().ok_or(DecodeError::Truncated)?;
    *head = rest;
    (0..*count).map(|_| SymbolTable::read(head)).collect()
}
