//! What models are assembled from. A layer loads its tensors by name and runs fused kernels.

mod attention;
mod decoder;
mod decoder_config;
mod embedding;
mod experts;
mod feed_forward;
mod full_attention;
mod head;
mod layer_norm;
mod linear;
mod mlp;
mod norm;
mod quantization;
mod rope;
mod rope_config;

pub use decoder::Decoder;
pub use decoder_config::{DecoderConfig, layer_windows};
pub use embedding::Embedding;
pub use experts::{ExpertNames, ExpertTensors, ExpertsConfig};
pub use feed_forward::FeedForward;
pub use full_attention::FullAttention;
pub use head::{ClassificationHead, HeadActivation};
pub use kernels::add::add;
pub use kernels::experts::{Gate, Score};
pub use kernels::gated_activation::Activation;
pub use kernels::rms_norm::Gain;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::RmsNorm;
pub use rope::RotaryEmbedding;
pub use rope_config::{QueryScale, RopeConfig, RopeScaling};
