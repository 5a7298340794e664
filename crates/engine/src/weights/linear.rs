//! Linear layers in the form they are multiplied in, which may be e4m3, as a checkpoint has it or brought
//! to it while loading, or integers.

use candle_core::{Device, Tensor};
use std::ops::Range;

use float8::F8E4M3;
use kernels::experts::{self, E2M1_BLOCK, Experts};
use kernels::linear::{Matrix, quantize_rows};
use safetensors::Dtype;

use super::mxfp4::{self, BLOCK_BYTES, Mxfp4};
use super::{Part, Quantized, Result, RowsOf, Source, Weights, WeightsError};
use crate::precision::Quantization;

/// Of generated numbers in MXFP4, which it gives the deviation of others.
const DUMMY_SCALE: u8 = 120;

/// Whether experts of so many inputs that are stored in MXFP4 are held in it on a GPU.
pub(crate) fn holds_mxfp4(in_features: usize) -> bool {
    in_features.is_multiple_of(E2M1_BLOCK)
}

/// Of each row the elements for some of the inputs.
fn blocks<'a>(
    parts: impl IntoIterator<Item = &'a RowsOf>,
    in_features: usize,
    inputs: &Range<usize>,
) -> Vec<Part<'a>> {
    let block = |part| Part::block(part, in_features, inputs.clone());
    parts.into_iter().map(block).collect()
}

impl Weights {
    /// Rows of several weights `[rows, in_features]`, stacked as [`stacked`](Self::stacked) does, and of each
    /// row the elements for some of the inputs.
    pub fn linear(
        &mut self,
        parts: &[RowsOf],
        in_features: usize,
        inputs: Range<usize>,
    ) -> Result<Matrix> {
        let shape = [parts.iter().map(RowsOf::num_rows).sum(), inputs.len()];
        let Some(quantization) = self.quantization else {
            let weight = self.gather(&blocks(parts, in_features, &inputs), &shape)?;
            return self.matrix(&weight);
        };
        let matrix = if quantization == Quantization::Fp8 {
            let (rows, scales) = self.e4m3(parts, in_features, inputs)?;
            Matrix::from_e4m3(&rows, &scales, self.dtype, &self.device)?
        } else {
            let parts = blocks(parts, in_features, &inputs);
            quantization.matrix(&self.gather_on(&Device::Cpu, &parts, &shape)?, &self.device)?
        };
        Ok(matrix.batch_invariant(self.is_batch_invariant))
    }

    /// As many layers of one size, each of rows as [`linear`](Self::linear) has them: of a device in one tensor,
    /// and in MXFP4 if they are stored so and the inputs are whole blocks.
    pub fn experts(
        &mut self,
        experts: &[Vec<RowsOf>],
        in_features: usize,
        inputs: Range<usize>,
        bias: Option<Tensor>,
    ) -> Result<Experts> {
        let is_mxfp4 = self.quantized == Some(Quantized::Mxfp4);
        let first = experts.iter().flatten().next();
        if let (true, Source::Checkpoint(checkpoint), Some(part)) = (is_mxfp4, &self.source, first)
        {
            let num_experts = part.experts.unwrap_or(1);
            let dims = [num_experts, part.total / num_experts, in_features];
            Mxfp4::open(checkpoint, &part.name, dims)?.check()?;
        }
        let weights = if self.device.is_cpu() {
            let matrix = |parts: &Vec<RowsOf>| self.linear(parts, in_features, inputs.clone());
            experts::Weights::Packed(experts.iter().map(matrix).collect::<Result<_>>()?)
        } else if is_mxfp4 && holds_mxfp4(inputs.len()) {
            self.experts_e2m1(experts, in_features, inputs)?
        } else if self.quantization == Some(Quantization::Fp8) {
            self.experts_e4m3(experts, in_features, inputs)?
        } else {
            let parts = blocks(experts.iter().flatten(), in_features, &inputs);
            let num_rows: usize = experts.iter().flatten().map(RowsOf::num_rows).sum();
            let rows = self.gather(&parts, &[num_rows, inputs.len()])?;
            let shape = (experts.len(), num_rows / experts.len(), inputs.len());
            experts::Weights::Stacked(rows.reshape(shape)?)
        };
        Ok(Experts::new(weights, bias)?)
    }

    /// As they are stored.
    pub(super) fn experts_e2m1(
        &mut self,
        experts: &[Vec<RowsOf>],
        in_features: usize,
        inputs: Range<usize>,
    ) -> Result<experts::Weights> {
        let blocks = inputs.start / E2M1_BLOCK..inputs.end / E2M1_BLOCK;
        let num_blocks = in_features / E2M1_BLOCK;
        let weight =
            self.bytes_of_experts(experts, 0, &[num_blocks, BLOCK_BYTES], blocks.clone())?;
        let scales = match self.source {
            Source::Checkpoint(_) => self.bytes_of_experts(experts, 1, &[num_blocks], blocks)?,
            Source::Dummy(_) => {
                let (num_experts, outputs, _) = weight.dims3()?;
                let shape = (num_experts, outputs, blocks.len());
                Tensor::full(DUMMY_SCALE, shape, &self.device)?
            }
        };
        self.num_parameters += 2 * weight.elem_count();
        Ok(experts::Weights::E2m1 { weight, scales })
    }

    /// Some blocks of what a row has of them, of the one or the other of [`mxfp4::names`]. `[experts, out, bytes]`
    fn bytes_of_experts(
        &mut self,
        experts: &[Vec<RowsOf>],
        which: usize,
        row: &[usize],
        blocks: Range<usize>,
    ) -> Result<Tensor> {
        let of_block: usize = row[1..].iter().product();
        let bytes = blocks.start * of_block..blocks.end * of_block;
        let rows: Vec<&RowsOf> = experts.iter().flatten().collect();
        let names: Vec<String> =
            rows.iter().map(|part| mxfp4::names(&part.name)[which].clone()).collect();
        let parts = names.iter().zip(&rows);
        let parts: Vec<Part> =
            parts.map(|(name, part)| Part::bytes(name, part, row, bytes.clone())).collect();
        let num_rows: usize = rows.iter().map(|part| part.num_rows()).sum();
        let device = self.device.clone();
        let tensor = self.read::<u8>(&device, &parts, &[num_rows, bytes.len()])?;
        Ok(tensor.reshape((experts.len(), num_rows / experts.len(), bytes.len()))?)
    }

    /// As they are stored, or brought to it.
    pub(super) fn experts_e4m3(
        &mut self,
        experts: &[Vec<RowsOf>],
        in_features: usize,
        inputs: Range<usize>,
    ) -> Result<experts::Weights> {
        let (mut weights, mut scales) = (Vec::new(), Vec::new());
        for parts in experts {
            let (weight, of_rows) = self.e4m3(parts, in_features, inputs.clone())?;
            weights.push(weight);
            scales.push(of_rows);
        }
        let weight = Tensor::stack(&weights, 0)?.to_device(&self.device)?;
        let scales = Tensor::stack(&scales, 0)?.to_device(&self.device)?;
        Ok(experts::Weights::E4m3 { weight, scales })
    }

    /// Rows as they are stored, or brought to it, and their scales; on the CPU.
    fn e4m3(
        &mut self,
        parts: &[RowsOf],
        in_features: usize,
        inputs: Range<usize>,
    ) -> Result<(Tensor, Tensor)> {
        let num_rows = parts.iter().map(RowsOf::num_rows).sum();
        let shape = [num_rows, inputs.len()];
        let whole = blocks(parts, in_features, &inputs);
        if parts.iter().all(|part| self.is_e4m3(&part.name)) {
            let rows = self.read::<F8E4M3>(&Device::Cpu, &whole, &shape)?;
            self.num_parameters += num_rows * inputs.len();
            return Ok((rows, self.scales(parts)?));
        }
        Ok(quantize_rows(&self.gather_on(&Device::Cpu, &whole, &shape)?)?)
    }

    /// Rows of a head's weight, or of an embedding's that is the head's, too. `[out, in]`
    pub fn head(&mut self, part: &RowsOf, in_features: usize) -> Result<Matrix> {
        let weight = self.stacked(std::slice::from_ref(part), &[in_features])?;
        match self.quantization.and_then(Quantization::integers_of_head) {
            Some(integers) => Ok(Matrix::rounded(&weight, integers)?),
            None => self.matrix(&weight),
        }
    }

    /// A tensor of [`tensor`](Self::tensor) in the form it is multiplied in. `[out, in]`
    pub fn matrix(&self, weight: &Tensor) -> Result<Matrix> {
        Ok(Matrix::new(weight)?.batch_invariant(self.is_batch_invariant))
    }

    /// With scales for rows.
    fn is_e4m3(&self, name: &str) -> bool {
        match (&self.source, self.quantized) {
            (Source::Checkpoint(checkpoint), None | Some(Quantized::Fp8Rows)) => {
                checkpoint.dtype(name) == Some(Dtype::F8_E4M3)
            }
            _ => false,
        }
    }

    /// `{name}_scale`, or as transformers calls it `{name}_scale_inv`, of each weight, one for all of its rows or one
    /// for each. `[rows]` f32
    fn scales(&mut self, parts: &[RowsOf]) -> Result<Tensor> {
        let mut scales = Vec::new();
        for RowsOf { name, total, rows, step, .. } in parts {
            let other = format!("{name}_scale_inv");
            let name = if self.contains(&other) { other } else { format!("{name}_scale") };
            let shape = match &self.source {
                Source::Checkpoint(checkpoint) => checkpoint.shape(&name).map(<[usize]>::to_vec),
                Source::Dummy(_) => None,
            };
            let is_one = shape.as_ref().is_some_and(|shape| matches!(shape.as_slice(), [] | [1]));
            // The error names what a weight with a scale for each row has.
            let shape = shape
                .filter(|shape| is_one || *shape == [*total])
                .unwrap_or_else(|| vec![*total, 1]);
            let values = self.read::<f32>(&Device::Cpu, &[Part::whole(&name, &shape)], &shape)?;
            let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
            if let Some(scale) = values.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
                return Err(WeightsError::Scale { name, scale: *scale });
            }
            let one = values[0];
            let of_row = |row| if is_one { one } else { values[row] };
            scales.extend(rows.clone().step_by(*step).map(of_row));
        }
        let len = scales.len();
        Ok(Tensor::from_vec(scales, len, &Device::Cpu)?)
    }
}
