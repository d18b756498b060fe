//! The rows of integer vector instructions and of vector moves.

use crate::decode::table::Row;

pub const ROWS: &[Row] = &[];
