//! The linear layer (plain first version).

use crate::pool;
use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;

/// A weight, ready to multiply.
#[derive(Debug)]
pub struct Matrix {
    rows: Vec<f32>,
    out_features: usize,
    in_features: usize,
    dtype: DType,
}

impl Matrix {
    /// weight `[out, in]` f32 or bf16
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (out_features, in_features) = weight.dims2()?;
        let dtype = weight.dtype();
        let rows = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self { rows, out_features, in_features, dtype })
    }
    /// rows
    pub fn out_features(&self) -> usize {
        self.out_features
    }
    /// columns
    pub fn in_features(&self) -> usize {
        self.in_features
    }
    /// dtype
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// bytes
    pub fn size_in_bytes(&self) -> usize {
        self.rows.len() * 4
    }
    /// y = x W^T + bias
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut y = self.forward_f32(x)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(&bias.to_dtype(DType::F32)?)?;
        }
        y.to_dtype(x.dtype())
    }
    /// y = x W^T in f32
    pub fn forward_f32(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, k) = x.dims2()?;
        if k != self.in_features {
            bail!("x has {k} features, the weight {}", self.in_features);
        }
        let x = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut y = vec![0f32; tokens * self.out_features]; // [out, tokens]
        pool::for_each_row(&mut y, tokens, tokens * k * self.out_features, |o, row| {
            let w = &self.rows[o * k..][..k];
            for (t, y) in row.iter_mut().enumerate() {
                let mut lanes = [0f32; 16];
                let x = &x[t * k..][..k];
                for (w, x) in w.chunks(16).zip(x.chunks(16)) {
                    for ((lane, w), x) in lanes.iter_mut().zip(w).zip(x) {
                        *lane += w * x;
                    }
                }
                *y = lanes.iter().sum();
            }
        });
        Tensor::from_vec(y, (self.out_features, tokens), &Device::Cpu)?.t()?.contiguous()
    }
    /// rows `ids` of the weight
    pub fn gather(&self, ids: &Tensor) -> Result<Tensor> {
        let mut out = Vec::new();
        for id in ids.to_vec1::<u32>()? {
            let start = id as usize * self.in_features;
            let Some(row) = self.rows.get(start..start + self.in_features) else {
                bail!("token id {id} is outside the vocabulary of {}", self.out_features)
            };
            out.extend(row.iter().map(|x| bf16::from_f32(*x).to_f32()).zip(row).map(|(b, f)| {
                if self.dtype == DType::BF16 { b } else { *f }
            }));
        }
        let n = out.len() / self.in_features.max(1);
        Tensor::from_vec(out, (n, self.in_features), &Device::Cpu)?.to_dtype(self.dtype)
    }
}
