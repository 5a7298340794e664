//! What models are assembled from. A layer loads its tensors by name and runs fused kernels.

mod attention;
mod decoder;
mod decoder_config;
mod embedding;
mod linear;
mod mlp;
mod norm;
mod rope;

pub use attention::Attention;
pub use decoder::Decoder;
pub use decoder_config::DecoderConfig;
pub use embedding::{Embedding, LmHead};
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use rope::{RopeConfig, RopeScaling, RotaryEmbedding};
