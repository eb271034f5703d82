//! From stored bytes to a variant's arrays. What a part of an array needs follows from plans; what was fetched of it is
//! then decoded, without reading any of what is stored.

mod array;
mod block;
mod bytes;
mod given;
mod kept;
mod matrix;
mod open;
mod parts;
mod words;

pub(crate) use array::ArrayReader;
pub(crate) use bytes::ArrayBytes;
pub(crate) use given::{GivenReader, Meaning};
pub(crate) use matrix::MatrixReader;
pub(crate) use open::{Readers, checkpoint, read_each, read_part, read_whole};
pub(crate) use parts::Rows;
