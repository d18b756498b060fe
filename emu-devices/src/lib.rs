//! Chips, boards, firmware tables and loaders.
