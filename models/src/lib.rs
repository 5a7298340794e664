//! The architectures: one file each, and the registry that the binary gives to the engine.

mod llama;
mod qwen2;
mod qwen3;
pub mod spark;

use engine::architecture::Architecture;

/// A row per architecture.
pub fn registry() -> &'static [Architecture] {
    &[llama::ARCHITECTURE, qwen2::ARCHITECTURE, qwen3::ARCHITECTURE]
}
