//! Fused operations on candle tensors: the data plane.

#![expect(unsafe_code, reason = "SIMD intrinsics and, with `cuda`, kernel launches")]

pub mod gated_activation;
pub mod linear;
pub mod paged_attention;
pub mod pool;
pub mod rms_norm;
pub mod rope_kv_write;
pub mod sample;
