//! A whole decode step of a model of Llama's family in one launch, on CUDA devices from sm_90 on.
//!
//! ```text
//! h = embedding[ids]
//! each layer:  h += out(attention(rope(norm(q)), rope(norm(k)), v))   q, k, v = qkv(norm(h))
//!              h += down(activation(gate(x)) * up(x))                 x = norm(h)
//! logits = head(norm(h))
//! ```
//!
//! At a few rows a step is reading weights, and a launch for each operation leaves the memory idle
//! between them. Here the blocks stay from the first layer to the head, each asks for the weights that it
//! will multiply long before it can, and they wait for each other where one operation needs what another
//! gave. Every row's logits have the bits that the operations one by one give it.

#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(feature = "cuda")]
mod forward;
#[cfg(test)]
mod tests;

use crate::gated_activation::Activation;
use crate::linear::Matrix;
use crate::paged_attention::{KvCacheLayer, Workspace};
use crate::rope_kv_write::HeadShape;
use candle_core::{DType, Device, Result, Tensor};

/// Rows that the kernel takes at most.
pub const MAX_ROWS: usize = 8;

/// Device memory that a step takes for each layer, beside the rows'.
pub const LAYER_BYTES: usize = 14 * 8;

/// A linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// `[out, in]`
    pub weight: &'a Matrix,
    /// `[out]`
    pub bias: Option<&'a Tensor>,
}

/// A decoder layer. Norms are of the weights' dtype.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Before attention. `[hidden]`
    pub attention_norm: &'a Tensor,
    /// To `[(heads + 2 * kv_heads) * head_dim]`.
    pub qkv: Linear<'a>,
    /// Of each query head. `[head_dim]`
    pub q_norm: Option<&'a Tensor>,
    /// Of each key head. `[head_dim]`
    pub k_norm: Option<&'a Tensor>,
    /// Where keys and values are written and read.
    pub cache: &'a KvCacheLayer,
    /// From `[heads * head_dim]`.
    pub out: Linear<'a>,
    /// Before the MLP. `[hidden]`
    pub mlp_norm: &'a Tensor,
    /// To `[2 * intermediate]`, gate first.
    pub gate_up: Linear<'a>,
    /// From `[intermediate]`.
    pub down: Linear<'a>,
}

/// A model; all of its layers have one shape.
#[derive(Debug, Clone)]
pub struct Model<'a> {
    /// `[vocab, hidden]`
    pub embedding: &'a Matrix,
    /// At least one.
    pub layers: Vec<Layer<'a>>,
    /// Behind the last layer. `[hidden]`
    pub norm: &'a Tensor,
    /// `[vocab, hidden]`
    pub head: &'a Matrix,
    /// `[max_pos, head_dim / 2]` f32
    pub cos: &'a Tensor,
    /// As cos.
    pub sin: &'a Tensor,
    /// Of attention.
    pub heads: HeadShape,
    /// Of every norm.
    pub norm_eps: f32,
    /// Of the MLP.
    pub activation: Activation,
    /// Factor on attention's scores.
    pub scale: f32,
}

/// Sequences of one row each.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Token ids. `[rows]` u32
    pub ids: &'a Tensor,
    /// `[rows]` u32
    pub positions: &'a Tensor,
    /// Where keys and values go, or [`NO_SLOT`](crate::rope_kv_write::NO_SLOT). `[rows]` u32
    pub slots: &'a Tensor,
    /// 0, 1, 2 ... rows. `[rows + 1]` u32
    pub q_starts: &'a Tensor,
    /// Keys that each row sees, itself included; 0 for padding. `[rows]` u32
    pub context_lens: &'a Tensor,
    /// `[rows, max_blocks]` u32
    pub block_tables: &'a Tensor,
    /// Of attention.
    pub workspace: &'a Workspace,
}

/// What a kernel is chosen by.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "for a GPU"))]
struct Dims {
    num_layers: usize,
    num_rows: usize,
    hidden: usize,
    intermediate: usize,
    heads: HeadShape,
    dtype: DType,
    cache_dtype: DType,
}

/// The step of so many rows, with the memory that it works in. It keeps weights and cache alive.
#[derive(Debug)]
pub struct DecodeStep {
    #[cfg(feature = "cuda")]
    step: forward::Step,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl DecodeStep {
    /// `None` if there is no kernel for such a model, number of rows or device: weights of other than 16
    /// bits, or that are to be [multiplied alike](Matrix::batch_invariant) in any number; heads of
    /// other than 64 or 128 elements; more than eight query heads a key head; rows or a model too wide
    /// for the device's shared memory; every device before sm_90.
    ///
    /// # Errors
    /// A model whose tensors are not of one device or do not fit each other, and whatever the device says.
    pub fn new(model: &Model, num_rows: usize, device: &Device) -> Result<Option<Self>> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let step = forward::Step::new(model, num_rows, device)?;
                Ok(step.map(|step| Self { step }))
            }
            _ => {
                let _ = (model, num_rows);
                Ok(None)
            }
        }
    }

    /// Whether a device of this kind has run it, and faster than the operations: Hopper.
    pub fn is_measured(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.step.is_measured();
        #[cfg(not(feature = "cuda"))]
        match self.never {}
    }

    /// Runs the step: keys and values are in the cache afterwards. `[rows, vocab]` f32
    ///
    /// # Errors
    /// Tensors of other shapes or dtypes, a workspace that is too small, and whatever the device says.
    pub fn forward(&self, rows: &Rows) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        return self.step.forward(rows);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = rows;
            match self.never {}
        }
    }
}
