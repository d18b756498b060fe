//! The guests we write ourselves.
