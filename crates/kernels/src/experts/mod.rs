//! Layers of experts, of which each token goes to a few (Shazeer et al. 2017, arXiv:1701.06538): the choice, the
//! product of each row with the weight of its expert, and the weighted sum of what a token's experts give.
//!
//! A token that goes to `per_token` experts has as many rows behind the first product, which lie in the order of
//! their experts up to the sum. The choice is the largest scores, of equal ones the first; the sum is taken in
//! f32 in the order of the choice, and rounded once. A row's product is the same bits in any batch, on a
//! CUDA device, too.
//!
//! On the CPU each expert multiplies its own rows. On a CUDA device, where the host does not know the choice, one
//! launch sorts the rows and one multiplies them, of which every expert has some blocks.

mod cpu;
#[cfg(any(feature = "cuda", test))]
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod tests;
mod weights;

pub use weights::{E2M1_BLOCK, Weights};

use crate::gather_rows::gather_rows;
use crate::linear::Matrix;
use crate::views::{expect_dims, expect_like, match_element};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

/// More experts than this are not told apart: a warp of a GPU keeps so many logits in its registers.
pub const MAX_EXPERTS: usize = 512;

/// How the experts of a token are chosen and weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// How many a token goes to.
    pub per_token: usize,
    /// What a logit counts.
    pub score: Score,
    /// The weights of a token's experts add up to 1, before the factor.
    pub is_normalised: bool,
    /// On the weights.
    pub factor: f32,
}

impl Gate {
    /// Weights are the softmax over the logits of a token's experts.
    pub fn softmax(per_token: usize) -> Self {
        Self { per_token, score: Score::Softmax, is_normalised: true, factor: 1.0 }
    }
}

/// What a logit counts, and what a bias does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Its part of a softmax over all experts. A bias is added to logits.
    Softmax,
    /// Its sigmoid. A bias is added to sigmoids for the choice, and not to the weights (DeepSeek-V3,
    /// arXiv:2412.19437, section 2.1.2).
    Sigmoid,
}

/// Which experts the tokens of a step go to, and how much each counts.
#[derive(Debug)]
pub struct Routing {
    /// Experts, then the bits of their weights (f32). `[2, tokens, per_token]` u32
    choice: Tensor,
    rows: Rows,
}

/// Rows in the order of their experts.
#[derive(Debug)]
enum Rows {
    /// As the host knows them.
    Sorted {
        /// The token of each. `[rows]` u32
        tokens: Tensor,
        /// Where the row of each choice, `token * per_token + choice`, is. `[rows]` u32
        places: Tensor,
        /// The first place of each expert, and the end. `[experts + 1]`
        starts: Vec<usize>,
    },
    /// As only the device does: the choice of each row, the places, then the starts.
    /// `[2 * rows + experts + 1]` u32
    #[cfg(feature = "cuda")]
    OnDevice(Tensor),
}

impl Routing {
    /// Chooses by logits `[tokens, experts]` f32 and a bias `[experts]` f32.
    ///
    /// # Errors
    /// Another shape or dtype, a strided input; more than [`MAX_EXPERTS`], or fewer than `per_token`.
    pub fn new(logits: &Tensor, bias: Option<&Tensor>, gate: Gate) -> Result<Self> {
        let (tokens, num_experts) = logits.dims2()?;
        let per_token = gate.per_token;
        if per_token == 0 || per_token > num_experts || num_experts > MAX_EXPERTS {
            bail!(
                "{per_token} of {num_experts} experts cannot be chosen: at least 1, and at most \
                 {MAX_EXPERTS} in all"
            );
        }
        if let Some(bias) = bias {
            expect_dims(bias, &[num_experts], "the bias")?;
            if bias.dtype() != DType::F32 {
                bail!("the bias must be F32, it is {:?}", bias.dtype());
            }
        }
        let choice = logits.apply_op1_no_bwd(&Choose { bias, gate })?;
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda() {
            let sorted = choice.get(0)?.apply_op1_no_bwd(&Sort { num_experts })?;
            return Ok(Self { choice, rows: Rows::OnDevice(sorted) });
        }
        let experts: Vec<u32> = choice.get(0)?.flatten_all()?.to_vec1()?;
        let (order, places, starts) = cpu::sort(&experts, num_experts);
        let of_token = order.into_iter().map(|choice| choice / per_token as u32).collect();
        let tensor = |list| Tensor::from_vec(list, tokens * per_token, logits.device());
        let rows = Rows::Sorted { tokens: tensor(of_token)?, places: tensor(places)?, starts };
        Ok(Self { choice, rows })
    }

    /// Of the rows of choices, as the host knows them.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unnecessary_wraps, reason = "with the feature they may be on a device")
    )]
    fn places(&self) -> Result<&Tensor> {
        match &self.rows {
            Rows::Sorted { places, .. } => Ok(places),
            #[cfg(feature = "cuda")]
            Rows::OnDevice(_) => bail!("the rows are on the CPU, the choice is not"),
        }
    }

    /// `[tokens, per_token]`
    fn dims(&self) -> [usize; 2] {
        [self.choice.dims()[1], self.choice.dims()[2]]
    }

    /// Adds up what a token's experts gave, each times its weight, and what an expert gave that all tokens share.
    /// y `[rows, width]` f32 or bf16 (on a CUDA device f16, too), shared `[tokens, width]` of its dtype, to
    /// `[tokens, width]`.
    ///
    /// # Errors
    /// Another shape, dtype or device, a strided input.
    pub fn combine(&self, y: &Tensor, shared: Option<&Tensor>) -> Result<Tensor> {
        let [tokens, per_token] = self.dims();
        let (_, width) = y.dims2()?;
        expect_dims(y, &[tokens * per_token, width], "y")?;
        if let Some(shared) = shared {
            expect_dims(shared, &[tokens, width], "the shared part")?;
            expect_like((shared, "the shared part"), (y, "y"))?;
        }
        y.apply_op1_no_bwd(&Combine { routing: self, shared })
    }
}

/// As many linear layers of one size.
#[derive(Debug)]
pub struct Experts {
    weights: Weights,
    /// `[experts, out]` of the dtype of x
    bias: Option<Tensor>,
}

impl Experts {
    /// With biases `[experts, out]` of the dtype of the inputs, if there are any.
    ///
    /// # Errors
    /// Another shape of them or of scales, another dtype of scales, no expert.
    pub fn new(weights: Weights, bias: Option<Tensor>) -> Result<Self> {
        let dims @ [num_experts, out_features, _] = weights.dims()?;
        weights.check_scales(dims)?;
        if let Some(bias) = &bias {
            expect_dims(bias, &[num_experts, out_features], "biases")?;
        }
        Ok(Self { weights, bias })
    }

    /// Each token times the weight of each of its experts: x `[tokens, in]` to rows `[rows, out]` of its dtype,
    /// rounded once.
    ///
    /// # Errors
    /// Another shape, dtype or device than those of the weights, a strided input.
    pub fn forward_tokens(&self, x: &Tensor, routing: &Routing) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        expect_dims(x, &[routing.dims()[0], width], "x")?;
        match &routing.rows {
            Rows::Sorted { tokens, .. } => self.multiply(&gather_rows(x, tokens)?, routing, 0),
            #[cfg(feature = "cuda")]
            Rows::OnDevice(_) => self.multiply(x, routing, routing.dims()[1]),
        }
    }

    /// Each row times the weight of its expert: x `[rows, in]` to `[rows, out]` of its dtype, rounded once.
    ///
    /// # Errors
    /// As [`forward_tokens`](Self::forward_tokens).
    pub fn forward_rows(&self, x: &Tensor, routing: &Routing) -> Result<Tensor> {
        let [tokens, per_token] = routing.dims();
        let (_, width) = x.dims2()?;
        expect_dims(x, &[tokens * per_token, width], "x")?;
        self.multiply(x, routing, 0)
    }

    /// `rows_of_token` is 0 where x has the rows themselves.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "for a GPU"))]
    fn multiply(&self, x: &Tensor, routing: &Routing, rows_of_token: usize) -> Result<Tensor> {
        match &routing.rows {
            Rows::Sorted { starts, .. } => {
                let Weights::Packed(experts) = &self.weights else {
                    bail!("the weights of the experts are on a CUDA device, the tokens are not")
                };
                multiply_each(experts, self.bias.as_ref(), x, starts)
            }
            #[cfg(feature = "cuda")]
            Rows::OnDevice(sorted) => {
                let dims @ [num_experts, _, in_features] = self.weights.dims()?;
                let [num_tokens, per_token] = routing.dims();
                let num_rows = num_tokens * per_token;
                expect_dims(x, &[x.dims()[0], in_features], "x")?;
                expect_dims(sorted, &[2 * num_rows + num_experts + 1], "the order of the rows")?;
                let (weight, scales, form) = match &self.weights {
                    Weights::Packed(_) => bail!("the experts are on the CPU, the tokens are not"),
                    Weights::Stacked(weight) => {
                        expect_like((x, "x"), (weight, "the weight"))?;
                        (weight, None, cuda::Form::Wide)
                    }
                    Weights::E4m3 { weight, scales } => (weight, Some(scales), cuda::Form::E4m3),
                    Weights::E2m1 { weight, scales } => (weight, Some(scales), cuda::Form::E2m1),
                };
                if let Some(bias) = &self.bias {
                    expect_like((bias, "biases"), (x, "x"))?;
                }
                x.apply_op1_no_bwd(&Multiply {
                    weight,
                    scales,
                    form,
                    dims,
                    bias: self.bias.as_ref(),
                    choice: &routing.choice,
                    sorted,
                    num_tokens,
                    num_rows,
                    rows_of_token,
                })
            }
        }
    }
}

/// Of rows that lie by expert. `[rows, in]` to `[rows, out]`
fn multiply_each(
    experts: &[Matrix],
    bias: Option<&Tensor>,
    x: &Tensor,
    starts: &[usize],
) -> Result<Tensor> {
    if experts.len() + 1 != starts.len() {
        bail!("there are {} experts, not {}", experts.len(), starts.len() - 1);
    }
    let with_rows = |expert: &usize| starts[*expert] < starts[expert + 1];
    let product = |expert: usize| {
        let (start, end) = (starts[expert], starts[expert + 1]);
        let bias = bias.map(|bias| bias.get(expert)).transpose()?;
        experts[expert].forward(&x.narrow(0, start, end - start)?, bias.as_ref())
    };
    let parts = (0..experts.len()).filter(with_rows).map(product).collect::<Result<Vec<_>>>()?;
    if parts.is_empty() {
        return Tensor::zeros((0, experts[0].out_features()), x.dtype(), x.device());
    }
    Tensor::cat(&parts, 0)
}

/// Logits to `[2, tokens, per_token]` u32, because an op has one output.
struct Choose<'a> {
    bias: Option<&'a Tensor>,
    gate: Gate,
}

impl Choose<'_> {
    fn shape(&self, logits: &Layout) -> Shape {
        (2, logits.dims()[0], self.gate.per_token).into()
    }
}

impl CustomOp1 for Choose<'_> {
    fn name(&self) -> &'static str {
        "experts choose"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((cpu::choose(logits, layout, self)?, self.shape(layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((cuda::forward::choose(logits, layout, self)?, self.shape(layout)))
    }
}

/// Experts of choices to the order of their rows, on a device.
#[cfg(feature = "cuda")]
struct Sort {
    num_experts: usize,
}

#[cfg(feature = "cuda")]
impl CustomOp1 for Sort {
    fn name(&self) -> &'static str {
        "experts sort"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("rows on the CPU are sorted by the host")
    }

    fn cuda_fwd(&self, experts: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let len = 2 * layout.shape().elem_count() + self.num_experts + 1;
        Ok((cuda::forward::sort(experts, layout, self.num_experts)?, len.into()))
    }
}

/// The product on a device.
#[cfg(feature = "cuda")]
struct Multiply<'a> {
    weight: &'a Tensor,
    scales: Option<&'a Tensor>,
    form: cuda::Form,
    /// `[experts, out, in]`
    dims: [usize; 3],
    bias: Option<&'a Tensor>,
    choice: &'a Tensor,
    sorted: &'a Tensor,
    num_tokens: usize,
    num_rows: usize,
    rows_of_token: usize,
}

#[cfg(feature = "cuda")]
impl CustomOp1 for Multiply<'_> {
    fn name(&self) -> &'static str {
        "experts multiply"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("x is on the CPU, the experts are not")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = (self.num_rows, self.dims[1]).into();
        Ok((cuda::forward::multiply((x, layout), self)?, shape))
    }
}

struct Combine<'a> {
    routing: &'a Routing,
    shared: Option<&'a Tensor>,
}

impl CustomOp1 for Combine<'_> {
    fn name(&self) -> &'static str {
        "experts combine"
    }

    fn cpu_fwd(&self, y: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match_element!(y.dtype(), "y", E => {
            cpu::combine::<E>((y, layout), self)?
        });
        Ok((out, (self.routing.dims()[0], layout.dims()[1]).into()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, y: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let out = cuda::forward::combine((y, layout), self)?;
        Ok((out, (self.routing.dims()[0], layout.dims()[1]).into()))
    }
}
