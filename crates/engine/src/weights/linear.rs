//! Linear layers in the form they are multiplied in, which may be e4m3, as a checkpoint has it or brought
//! to it while loading, or integers.

use candle_core::{Device, Tensor};
use float8::F8E4M3;
use kernels::linear::Matrix;
use safetensors::Dtype;

use super::{Part, Quantized, Result, Source, Weights, WeightsError};
use crate::precision::Quantization;

impl Weights {
    /// Several weights `[rows, in_features]` stacked along their rows, as
    /// [`stacked`](Self::stacked) does.
    pub fn linear(&mut self, parts: &[(String, usize)], in_features: usize) -> Result<Matrix> {
        let Some(quantization) = self.quantization else {
            let weight = self.stacked(parts, &[in_features])?;
            return self.matrix(&weight);
        };
        let num_rows = parts.iter().map(|(_, rows)| rows).sum();
        let shape = [num_rows, in_features];
        let whole: Vec<Part> =
            parts.iter().map(|(name, rows)| Part::whole(name, &[*rows, in_features])).collect();
        let is_stored = parts.iter().all(|(name, _)| self.is_e4m3(name));
        let matrix = if quantization == Quantization::Fp8 && is_stored {
            let rows = self.read::<F8E4M3>(&Device::Cpu, &whole, &shape)?;
            self.num_parameters += num_rows * in_features;
            Matrix::from_e4m3(&rows, &self.scales(parts)?, self.dtype, &self.device)?
        } else {
            let weight = self.gather_on(&Device::Cpu, &whole, &shape)?;
            quantization.matrix(&weight, &self.device)?
        };
        Ok(matrix.batch_invariant(self.is_batch_invariant))
    }

    /// A head's weight, or an embedding's that is the head's, too. `[out, in]`
    pub fn head(&mut self, name: &str, shape: &[usize]) -> Result<Matrix> {
        let weight = self.tensor(name, shape)?;
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
    fn scales(&mut self, parts: &[(String, usize)]) -> Result<Tensor> {
        let mut scales = Vec::new();
        for (name, rows) in parts {
            let name = format!("{name}_scale");
            let shape = match &self.source {
                Source::Checkpoint(checkpoint) => checkpoint.shape(&name).map(<[usize]>::to_vec),
                Source::Dummy(_) => None,
            };
            let is_one = shape.as_ref().is_some_and(|shape| matches!(shape.as_slice(), [] | [1]));
            // The error names what a weight with a scale for each row has.
            let shape =
                shape.filter(|shape| is_one || *shape == [*rows]).unwrap_or_else(|| vec![*rows, 1]);
            let values = self.read::<f32>(&Device::Cpu, &[Part::whole(&name, &shape)], &shape)?;
            let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
            if let Some(scale) = values.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
                return Err(WeightsError::Scale { name, scale: *scale });
            }
            let repeated = if is_one { *rows } else { 1 };
            scales.extend(values.iter().flat_map(|scale| std::iter::repeat_n(*scale, repeated)));
        }
        let len = scales.len();
        Ok(Tensor::from_vec(scales, len, &Device::Cpu)?)
    }
}
