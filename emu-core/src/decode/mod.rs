//! From bytes to predecoded blocks: the compact instruction, the table of instructions, the block builder and the cache.

pub mod block;
pub mod cache;
pub mod insn;
mod memo;
mod operand;
pub mod table;
#[cfg(test)]
mod tests;
