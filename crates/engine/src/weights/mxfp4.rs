//! Weights of experts in MXFP4 (OCP Microscaling Formats Specification 1.0): numbers of four bits, e2m1, with a scale
//! that is a power of two, e8m0, for 32 inputs.

use kernels::experts::E2M1_BLOCK;
use safetensors::Dtype;

use super::checkpoint::Checkpoint;
use super::element::Element;
use super::{Result, WeightsError};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = E2M1_BLOCK / 2;

/// What e2m1 stands for, the sign first.
const NUMBERS: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Where the numbers of a weight are, and where their scales.
pub(super) fn names(weight: &str) -> [String; 2] {
    ["blocks", "scales"].map(|part| format!("{weight}_{part}"))
}

/// A weight `[experts, out, in]`, which is read as what it stands for.
pub(super) struct Mxfp4<'a> {
    checkpoint: &'a Checkpoint,
    pub(super) names: [String; 2],
    /// Two numbers each, the first in the lower half. `[experts, out, in / 32, 16]`
    blocks: &'a [u8],
    /// `[experts, out, in / 32]`
    scales: &'a [u8],
}

impl<'a> Mxfp4<'a> {
    pub(super) fn open(
        checkpoint: &'a Checkpoint,
        weight: &str,
        [experts, outputs, inputs]: [usize; 3],
    ) -> Result<Self> {
        let groups = inputs.div_ceil(E2M1_BLOCK);
        if !inputs.is_multiple_of(E2M1_BLOCK) {
            return Err(WeightsError::Groups { layer: weight.to_owned(), groups, inputs });
        }
        let names = names(weight);
        let shape = [experts, outputs, groups, BLOCK_BYTES];
        let blocks = checkpoint.bytes(&names[0], Dtype::U8, &shape)?;
        let scales = checkpoint.bytes(&names[1], Dtype::U8, &shape[..3])?;
        Ok(Self { checkpoint, names, blocks, scales })
    }

    /// Refuses scales that are no numbers.
    pub(super) fn check(&self) -> Result<()> {
        if self.scales.contains(&u8::MAX) {
            return Err(WeightsError::Scale { name: self.names[1].clone(), scale: f32::NAN });
        }
        Ok(())
    }

    pub(super) fn read<T: Element>(&self, first: usize, dst: &mut [T]) {
        for (at, dst) in (first..).zip(dst) {
            let number = NUMBERS[usize::from(self.blocks[at / 2] >> (at % 2 * 4) & 15)];
            let scale = u32::from(self.scales[at / E2M1_BLOCK]);
            // 2^(scale - 127), of which the smallest has no exponent of its own.
            let power = f32::from_bits(if scale == 0 { 1 << 22 } else { scale << 23 });
            *dst = T::round(number * power);
        }
    }

    /// Drops the pages from memory. Bytes that `len` elements take.
    pub(super) fn release(&self, len: usize) -> u64 {
        for name in &self.names {
            self.checkpoint.release(name);
        }
        (len / 2 + len / E2M1_BLOCK) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Quantized, RowsOf, Weights};
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use kernels::experts;
    use std::path::Path;

    /// Of the golden checkpoint, whose rows transformers has unpacked to what its logits come from.
    const NAME: &str = "model.layers.0.mlp.experts.gate_up_proj";
    const EXPERTS: usize = 6;
    const INPUTS: usize = 64;

    fn open() -> Weights {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/golden/gpt_oss_mxfp4");
        let weights = Weights::open(&folder, &Device::Cpu, DType::F32).unwrap();
        weights.with_quantized(Some(Quantized::Mxfp4))
    }

    /// Of each expert some output features of gate and up, which take turns.
    fn parts() -> Vec<Vec<RowsOf>> {
        let rows = |expert: usize, first: usize| RowsOf {
            name: NAME.to_owned(),
            total: EXPERTS * 64,
            rows: expert * 64 + 10 + first..expert * 64 + 40,
            step: 2,
            experts: Some(EXPERTS),
        };
        (0..EXPERTS).map(|expert| vec![rows(expert, 0), rows(expert, 1)]).collect()
    }

    fn wide(inputs: std::ops::Range<usize>) -> Tensor {
        let mut weights = open();
        let parts = parts().concat();
        let rows = weights.stacked(&parts, &[INPUTS]).unwrap();
        let rows = rows.reshape((EXPERTS, 30, INPUTS)).unwrap();
        rows.narrow(2, inputs.start, inputs.len()).unwrap().contiguous().unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// All of them, and the part of a rank.
    #[test]
    fn bytes_that_are_kept_are_what_is_read_wide() {
        for inputs in [0..64, 0..32, 32..64] {
            let mut weights = open();
            let held = weights.experts_e2m1(&parts(), INPUTS, inputs.clone()).unwrap();
            let experts::Weights::E2m1 { weight, scales } = held else { panic!("another form") };
            let blocks = inputs.len() / E2M1_BLOCK;
            assert_eq!(weight.dims(), [EXPERTS, 30, blocks * BLOCK_BYTES]);
            assert_eq!(scales.dims(), [EXPERTS, 30, blocks]);
            let (bytes, scales) = (values(&weight), values(&scales));
            let value = |at: usize| {
                let number = NUMBERS[bytes[at / 2] as usize >> (at % 2 * 4) & 15];
                number * 2f32.powi(scales[at / E2M1_BLOCK] as i32 - 127)
            };
            let held: Vec<f32> = (0..EXPERTS * 30 * inputs.len()).map(value).collect();
            assert!(held == values(&wide(inputs.clone())), "{inputs:?}");
            assert_eq!(weights.num_parameters(), held.len());
        }
    }

    #[test]
    fn what_no_configuration_explains_is_named() {
        let mut weights = open().with_quantized(None);
        let error = weights.stacked(&parts().concat(), &[INPUTS]).unwrap_err().to_string();
        assert!(error.contains("gate_up_proj_blocks` is packed"), "{error}");
    }

    #[test]
    fn experts_are_brought_to_e4m3() {
        let mut weights = open();
        let held = weights.experts_e4m3(&parts(), INPUTS, 0..INPUTS).unwrap();
        let experts::Weights::E4m3 { weight, scales } = held else { panic!("another form") };
        assert_eq!(scales.dims(), [EXPERTS, 30]);
        let (numbers, scales, wide) = (values(&weight), values(&scales), values(&wide(0..INPUTS)));
        for (at, (number, wide)) in numbers.iter().zip(&wide).enumerate() {
            let scale = scales[at / INPUTS];
            let error = (number * scale - wide).abs();
            assert!(error <= wide.abs() / 16.0 + scale / 512.0, "{number} {scale} {wide}");
        }
    }

    #[test]
    fn a_scale_that_is_no_number_is_refused_by_name() {
        let shape = |tail: &[usize]| [&[1, 2, 1], tail].concat();
        let blocks = vec![0u8; 32];
        let view =
            |shape, bytes| safetensors::tensor::TensorView::new(Dtype::U8, shape, bytes).unwrap();
        let tensors = [
            ("w_blocks", view(shape(&[16]), &blocks)),
            ("w_scales", view(shape(&[]), &[127, 255])),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let checkpoint = Checkpoint::embedded("damaged", bytes.leak()).unwrap();
        let error = Mxfp4::open(&checkpoint, "w", [1, 2, 32]).unwrap().check().unwrap_err();
        assert!(error.to_string().contains("`w_scales` has the scale NaN"), "{error}");
        let error = Mxfp4::open(&checkpoint, "w", [1, 2, 30]).err().unwrap().to_string();
        assert!(error.contains("`w` has scales for 1 groups of its 30 inputs"), "{error}");
        let error = Mxfp4::open(&checkpoint, "w", [1, 2, 64]).err().unwrap().to_string();
        assert!(error.contains("`w_blocks` has shape [1, 2, 1, 16]"), "{error}");
    }
}
