//! Fused operations on candle tensors: the data plane.
//!
//! One folder an op: `mod.rs` holds the formula, the shapes and their checks, `cpu.rs` the CPU
//! forward, `tests.rs` the comparison with a plain reference. Storage is f32 or bf16 (on a CUDA device
//! f16, too), of weights and of the cache e4m3 too, arithmetic f32. Inputs may be contiguous views with a
//! start offset; a strided one is refused by name.
//!
//! Every result of a row depends on that row alone: no reduction has an order that knows the batch,
//! the chunk, the number of threads or the block layout.

#![expect(unsafe_code, reason = "SIMD intrinsics and, with `cuda`, kernel launches")]
#![expect(clippy::inline_always, reason = "vector types stay in registers only when inlined")]
#![allow(
    clippy::wildcard_imports,
    reason = "std::arch names say where they come from; not linted in tests"
)]

pub mod add;
pub mod collectives;
pub mod decode_step;
pub mod device;
pub mod experts;
pub mod fork_join;
pub mod full_attention;
pub mod gated_activation;
pub mod gather_rows;
pub mod layer_norm;
pub mod linear;
pub mod paged_attention;
pub mod pages;
pub mod pool;
pub mod resolve_ids;
pub mod rms_norm;
pub mod rope_kv_write;
pub mod sample;
pub mod unary;

#[cfg(any(feature = "cuda", test))]
mod cuda;
mod disjoint;
mod simd;
#[cfg(test)]
mod testing;
mod views;

pub use simd::{CpuIsa, instructions, limit_instructions};
