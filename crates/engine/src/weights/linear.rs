//! Linear layers in the form they are multiplied in, which may be e4m3, as a checkpoint has it or brought
//! to it while loading, or integers.

use candle_core::{Device, Tensor};
use std::ops::Range;

use float8::F8E4M3;
use kernels::experts::Experts;
use kernels::linear::Matrix;
use safetensors::Dtype;

use super::{Part, Quantized, Result, RowsOf, Source, Weights, WeightsError};
use crate::precision::Quantization;

impl Weights {
    /// Rows of several weights `[rows, in_features]`, stacked as [`stacked`](Self::stacked) does, and of each
    /// row the elements for some of the inputs.
    pub fn linear(
        &mut self,
        parts: &[RowsOf],
        in_features: usize,
        inputs: Range<usize>,
    ) -> Result<Matrix> {
        let num_rows = parts.iter().map(|part| part.rows.len()).sum();
        let shape = [num_rows, inputs.len()];
        let block = |part| Part::block(part, in_features, inputs.clone());
        let whole: Vec<Part> = parts.iter().map(block).collect();
        let Some(quantization) = self.quantization else {
            let weight = self.gather(&whole, &shape)?;
            return self.matrix(&weight);
        };
        let is_stored = parts.iter().all(|part| self.is_e4m3(&part.name));
        let matrix = if quantization == Quantization::Fp8 && is_stored {
            let rows = self.read::<F8E4M3>(&Device::Cpu, &whole, &shape)?;
            self.num_parameters += num_rows * inputs.len();
            Matrix::from_e4m3(&rows, &self.scales(parts)?, self.dtype, &self.device)?
        } else {
            let weight = self.gather_on(&Device::Cpu, &whole, &shape)?;
            quantization.matrix(&weight, &self.device)?
        };
        Ok(matrix.batch_invariant(self.is_batch_invariant))
    }

    /// As many layers of one size, each of rows as [`linear`](Self::linear) has them: of a device one tensor.
    pub fn experts<const PARTS: usize>(
        &mut self,
        experts: &[[RowsOf; PARTS]],
        in_features: usize,
        inputs: Range<usize>,
    ) -> Result<Experts> {
        if self.device.is_cpu() {
            let matrix = |parts: &[RowsOf; PARTS]| self.linear(parts, in_features, inputs.clone());
            return Ok(Experts::Packed(experts.iter().map(matrix).collect::<Result<_>>()?));
        }
        let block = |part| Part::block(part, in_features, inputs.clone());
        let parts: Vec<Part> = experts.iter().flatten().map(block).collect();
        let num_rows: usize = experts.iter().flatten().map(|part| part.rows.len()).sum();
        let rows = self.gather(&parts, &[num_rows, inputs.len()])?;
        let shape = (experts.len(), num_rows / experts.len(), inputs.len());
        Ok(Experts::Stacked(rows.reshape(shape)?))
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

    /// `{name}_scale` of each weight, one for all of its rows or one for each. `[rows]` f32
    fn scales(&mut self, parts: &[RowsOf]) -> Result<Tensor> {
        let mut scales = Vec::new();
        for RowsOf { name, total, rows } in parts {
            let name = format!("{name}_scale");
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
            scales.extend(rows.clone().map(of_row));
        }
        let len = scales.len();
        Ok(Tensor::from_vec(scales, len, &Device::Cpu)?)
    }
}
