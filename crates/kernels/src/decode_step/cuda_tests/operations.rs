//! The step by the kernels of single operations.

use super::StepLayer;
use super::memory::Memory;
use super::{BLOCK_SIZE, Case, EPS, MAX_POS, VOCAB};
use crate::cuda::Launch;
use crate::cuda::testing::{from_bytes, launch, to_bytes};
use crate::gated_activation::cuda::{self as gate, GateParams};
use crate::linear::cuda::{Dtypes, Sizes, SkinnyParams, plan_skinny};
use crate::paged_attention::cuda as attention;
use crate::rms_norm::cuda::{self as norm, NormParams};
use crate::rope_kv_write::HeadShape;
use crate::rope_kv_write::cuda::{self as rope, RopeParams};
use candle_core::{DType, Device, Error, Result, Tensor};
use cuda_host::{Buffer, Device as HostDevice};

pub(super) struct Operations<'a> {
    pub(super) case: &'a Case,
    pub(super) memory: &'a Memory,
    pub(super) device: &'a HostDevice,
}

impl Operations<'_> {
    fn output(&self, width: usize, size: usize) -> Buffer<u8> {
        self.device.output(self.case.contexts.len() * width * size)
    }

    fn launch<P>(&self, launch_of: &Launch, params: &P) -> Result<()> {
        launch(self.device, launch_of, params).map_err(Error::wrap)
    }

    fn linear(
        &self,
        x: u64,
        [weight, bias]: [u64; 2],
        [in_features, out_features]: [usize; 2],
        y: DType,
    ) -> Result<Buffer<u8>> {
        let (rows, dtype) = (self.case.contexts.len(), self.case.dtype);
        let out = self.output(out_features, y.size_in_bytes());
        let plan = plan_skinny(
            Sizes { rows, in_features, out_features },
            Dtypes { x: dtype, weight: dtype, y },
            1,
        )?;
        let params = SkinnyParams {
            x,
            weight,
            scales: 0,
            bias,
            y: out.address(),
            num_rows: rows as i32,
            in_features: in_features as i32,
            out_features: out_features as i32,
        };
        self.launch(&plan.expect("few rows"), &params)?;
        Ok(out)
    }

    /// The norm of x, or of its sum with the residual, and that sum.
    fn norm(&self, x: u64, residual: u64, weight: u64) -> Result<[Buffer<u8>; 2]> {
        let hidden = self.case.hidden;
        let out = [self.output(hidden, 2), self.output(hidden, 2)];
        let adds = residual != 0;
        let params = NormParams {
            x,
            residual,
            weight,
            normed: out[0].address(),
            sums: if adds { out[1].address() } else { 0 },
            hidden: hidden as i32,
            eps: EPS,
            is_zero_centred: 0,
        };
        let rows = self.case.contexts.len();
        self.launch(&norm::plan(rows, hidden, self.case.dtype, adds)?, &params)?;
        Ok(out)
    }

    fn attend(&self, qkv: u64, layer: &StepLayer) -> Result<Buffer<u8>> {
        let (case, rows) = (self.case, self.case.contexts.len());
        let (q, out) = (self.output(case.query_width(), 2), self.output(case.query_width(), 2));
        let HeadShape { num_heads, num_kv_heads, head_dim } = case.heads;
        let params = RopeParams {
            qkv,
            q: q.address(),
            key: layer.key,
            value: layer.value,
            q_norm: layer.q_norm,
            k_norm: layer.k_norm,
            cos: self.memory.angles[0].address(),
            sin: self.memory.angles[1].address(),
            q_scale: 0,
            positions: self.memory.positions.address(),
            slots: self.memory.slots.address(),
            num_heads: num_heads as i32,
            num_kv_heads: num_kv_heads as i32,
            head_dim: head_dim as i32,
            block_size: BLOCK_SIZE as i32,
            group: rope::group(case.heads, case.dtype)? as i32,
            max_pos: MAX_POS as u32,
            num_slots: (case.num_blocks().1 * BLOCK_SIZE) as u32,
            norm_eps: EPS,
            is_zero_centred: 0,
        };
        self.launch(&rope::plan(rows, case.heads, case.dtype, case.cache_dtype)?, &params)?;
        let params =
            self.memory.attention(case, [q.address(), layer.key, layer.value, out.address()]);
        let (dtype, cache_dtype) = (case.dtype, case.cache_dtype);
        let model = attention::Model { num_heads, num_kv_heads, head_dim, dtype, cache_dtype };
        let processors = attention::Processors { count: 2, shared_bytes_per_processor: 1 << 17 };
        for one in attention::plan(&model, rows, &self.memory.extents, processors)? {
            self.launch(&one, &params)?;
        }
        Ok(out)
    }

    fn gate(&self, gate_up: u64) -> Result<Buffer<u8>> {
        let (rows, intermediate) = (self.case.contexts.len(), self.case.intermediate);
        let out = self.output(intermediate, 2);
        let (dtype, activation) = (self.case.dtype, self.case.activation);
        let params = GateParams::new([gate_up, out.address()], intermediate, activation);
        self.launch(&gate::plan(rows, intermediate, dtype, activation)?, &params)?;
        Ok(out)
    }

    fn embed(&self) -> Result<Buffer<u8>> {
        let Case { hidden, dtype, .. } = *self.case;
        let table = from_bytes(&self.memory.embedding.read(), &[VOCAB, hidden], dtype)?;
        let none = Tensor::zeros((1, hidden), dtype, &Device::Cpu)?;
        let ids = self.memory.ids.read().into_iter().map(|id| id.min(VOCAB as u32)).collect();
        let ids = Tensor::from_vec(ids, self.case.contexts.len(), &Device::Cpu)?;
        let rows = Tensor::cat(&[&table, &none], 0)?.index_select(&ids, 0)?;
        Ok(self.device.input(&to_bytes(&rows)?))
    }

    pub(super) fn run(&self) -> Result<Vec<Vec<u8>>> {
        let Case { hidden, intermediate, dtype, .. } = *self.case;
        let mut stream = self.embed()?;
        let mut x = self.norm(stream.address(), 0, self.memory.layer(0).attention_norm)?[0].read();
        for i in 0..self.case.num_layers {
            let layer = self.memory.layer(i);
            let input = self.device.input(&x);
            let qkv_dims = [hidden, self.case.qkv_width()];
            let qkv = self.linear(input.address(), [layer.qkv, layer.qkv_bias], qkv_dims, dtype)?;
            let attended = self.attend(qkv.address(), &layer)?;
            let out_dims = [self.case.query_width(), hidden];
            let out =
                self.linear(attended.address(), [layer.out, layer.out_bias], out_dims, dtype)?;
            let [normed, sum] = self.norm(out.address(), stream.address(), layer.mlp_norm)?;
            let gate_up = [layer.gate_up, layer.gate_up_bias];
            let gate_up =
                self.linear(normed.address(), gate_up, [hidden, 2 * intermediate], dtype)?;
            let gated = self.gate(gate_up.address())?;
            let down = [layer.down, layer.down_bias];
            let down = self.linear(gated.address(), down, [intermediate, hidden], dtype)?;
            let is_last = i + 1 == self.case.num_layers;
            let next = if is_last {
                self.memory.norm.address()
            } else {
                self.memory.layer(i + 1).attention_norm
            };
            let [normed, next_stream] = self.norm(down.address(), sum.address(), next)?;
            (x, stream) = (normed.read(), next_stream);
        }
        let (input, head) = (self.device.input(&x), self.memory.head.address());
        let logits = self.linear(input.address(), [head, 0], [hidden, VOCAB], DType::F32)?;
        Ok(self.memory.results(&logits))
    }
}
