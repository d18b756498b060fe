//! Directed system tests: small images that print what they saw and leave by isa-debug-exit.

mod smoke;

/// Every image by name.
pub const ALL: &[(&str, crate::Maker)] = &[("smoke", smoke::image)];
