//! Weights of linear layers that a checkpoint has brought to fewer bits. They are read as what they stand
//! for, `(number - zero) * scale`, rounded once, so that nothing behind this knows of them.

use std::fmt;

use float8::F8E4M3;
use kernels::pool;
use safetensors::Dtype;

use super::checkpoint::Checkpoint;
use super::element::Element;
use super::error::WeightsError;
use super::{Result, buffer};

/// In what a checkpoint stores the weights of linear layers. Those that it has as they are stay so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantized {
    /// e4m3 with a scale for a tensor or for each of its rows. They are multiplied in this form, too.
    Fp8Rows,
    /// e4m3 with a scale for each block, as DeepSeek and Qwen publish.
    Fp8Blocks {
        /// Output features of a block.
        rows: usize,
        /// Its inputs.
        columns: usize,
    },
    /// Integers of 2, 4 or 8 bits with a zero and a scale for each group of inputs, as GPTQ's tools pack them.
    Gptq {
        /// Of a weight.
        bits: usize,
        /// Whether what is stored of a zero is one less than it is, as in the first version of the format.
        zeros_less_one: bool,
    },
    /// The same of 4 bits, as AWQ's `gemm` packs them.
    Awq,
    /// The same of 4 or 8 bits, `pack-quantized` of compressed-tensors.
    Packed {
        /// Of a weight.
        bits: usize,
        /// Whether groups have zeros; others are in the middle.
        has_zeros: bool,
    },
    /// Bytes with a scale for each output feature, `int-quantized` of compressed-tensors.
    Int8,
    /// Experts of 4 bits with a scale for 32 inputs. On a GPU they are multiplied in this form, too.
    Mxfp4,
}

impl fmt::Display for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fp8Rows => write!(f, "fp8"),
            Self::Fp8Blocks { rows, columns } => write!(f, "fp8 by blocks of {rows} x {columns}"),
            Self::Gptq { bits, .. } => write!(f, "{bits} bits (GPTQ)"),
            Self::Awq => write!(f, "4 bits (AWQ)"),
            Self::Packed { bits, .. } => write!(f, "{bits} bits (compressed-tensors)"),
            Self::Int8 => write!(f, "8 bits (compressed-tensors)"),
            Self::Mxfp4 => write!(f, "4 bits (MXFP4)"),
        }
    }
}

/// A weight as it is wanted, and what was read for it.
pub(super) struct Unpacked<T> {
    /// `[out, in]`
    pub(super) elements: Vec<T>,
    pub(super) names: Vec<String>,
    /// Of these.
    pub(super) num_bytes: u64,
}

/// `[out, in]`
type Shape = [usize; 2];

/// AWQ's place in a word for each of eight output features.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Scales of a weight, and the zero that belongs to each.
struct Grid {
    scales: Vec<f32>,
    zeros: Vec<f32>,
    /// Of each input.
    groups: Vec<usize>,
    /// From a group to the next.
    stride_of_group: usize,
    /// From some output features that share a scale to the next.
    stride: usize,
    /// So many share one.
    rows: usize,
}

impl Quantized {
    /// The weight of this name, unless it is stored as it is.
    pub(super) fn unpack<T: Element>(
        self,
        checkpoint: &Checkpoint,
        name: &str,
        shape: Shape,
    ) -> Result<Option<Unpacked<T>>> {
        let Some(name) = name.strip_suffix(".weight") else { return Ok(None) };
        let mut layer = Layer { checkpoint, name, shape, names: Vec::new() };
        let elements = match self {
            Self::Fp8Rows | Self::Mxfp4 => return Ok(None),
            Self::Fp8Blocks { rows, columns } => {
                if !layer.is("weight", Dtype::F8_E4M3) {
                    return Ok(None);
                }
                layer.fp8_blocks(rows, columns)?
            }
            Self::Int8 => {
                if !layer.is("weight", Dtype::I8) {
                    return Ok(None);
                }
                layer.int8()?
            }
            Self::Packed { .. } if !layer.has("weight_packed") => return Ok(None),
            Self::Packed { bits, has_zeros } => layer.packed(bits, has_zeros)?,
            Self::Gptq { .. } | Self::Awq if !layer.has("qweight") => return Ok(None),
            Self::Gptq { bits, zeros_less_one } => layer.gptq(bits, zeros_less_one)?,
            Self::Awq => layer.awq()?,
        };
        let names = layer.names;
        let num_bytes = names.iter().map(|name| checkpoint.release(name)).sum();
        Ok(Some(Unpacked { elements, names, num_bytes }))
    }
}

/// A layer of a checkpoint, whose tensors are looked up.
struct Layer<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    shape: Shape,
    /// Those that were read.
    names: Vec<String>,
}

impl<'a> Layer<'a> {
    fn tensor(&self, tensor: &str) -> String {
        format!("{}.{tensor}", self.name)
    }

    fn has(&self, tensor: &str) -> bool {
        self.checkpoint.contains(&self.tensor(tensor))
    }

    fn is(&self, tensor: &str, dtype: Dtype) -> bool {
        self.checkpoint.dtype(&self.tensor(tensor)) == Some(dtype)
    }

    fn bytes(&mut self, tensor: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8]> {
        let name = self.tensor(tensor);
        let bytes = self.checkpoint.bytes(&name, dtype, shape)?;
        self.names.push(name);
        Ok(bytes)
    }

    fn words(&mut self, tensor: &str, shape: &[usize]) -> Result<&'a [[u8; 4]]> {
        Ok(self.bytes(tensor, Dtype::I32, shape)?.as_chunks().0)
    }

    fn floats(&mut self, tensor: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = self.tensor(tensor);
        let stored = self.checkpoint.tensor::<f32>(&name, shape)?;
        let mut floats = vec![0.0; shape.iter().product()];
        stored.read(0, &mut floats);
        if let Some(&scale) = floats.iter().find(|scale| !scale.is_finite()) {
            return Err(WeightsError::Scale { name, scale });
        }
        self.names.push(name);
        Ok(floats)
    }

    /// Groups of a tensor, of which it has so many along one dimension.
    fn num_groups(&self, tensor: &str, dim: usize) -> usize {
        let shape = self.checkpoint.shape(&self.tensor(tensor));
        shape.and_then(|shape| shape.get(dim)).copied().unwrap_or(1).clamp(1, self.shape[1])
    }

    /// The group of each input, of which they have as many each.
    fn groups_in_order(&self, num_groups: usize) -> Result<Vec<usize>> {
        let [_, inputs] = self.shape;
        if !inputs.is_multiple_of(num_groups) {
            let (layer, groups) = (self.name.to_owned(), num_groups);
            return Err(WeightsError::Groups { layer, groups, inputs });
        }
        let size = inputs / num_groups;
        Ok((0..inputs).map(|input| input / size).collect())
    }

    /// The same, unless the layer has a tensor that says otherwise.
    fn groups(&mut self, tensor: &str, num_groups: usize) -> Result<Vec<usize>> {
        let [_, inputs] = self.shape;
        if !self.has(tensor) {
            return self.groups_in_order(num_groups);
        }
        let groups = self.words(tensor, &[inputs])?.iter().map(|word| u32::from_le_bytes(*word));
        let groups: Vec<usize> = groups.map(|group| group as usize).collect();
        match groups.iter().find(|group| **group >= num_groups) {
            Some(&group) => {
                Err(WeightsError::Group { name: self.tensor(tensor), group, groups: num_groups })
            }
            None => Ok(groups),
        }
    }

    /// `qweight [in / word, out]`, `qzeros [groups, out / word]`, `scales [groups, out]`, `g_idx [in]`
    fn gptq<T: Element>(&mut self, bits: usize, zeros_less_one: bool) -> Result<Vec<T>> {
        let ([outputs, inputs], per_word) = (self.shape, 32 / bits);
        let num_groups = self.num_groups("scales", 0);
        let words = self.words("qweight", &[inputs.div_ceil(per_word), outputs])?;
        let zeros = self.words("qzeros", &[num_groups, outputs.div_ceil(per_word)])?;
        let grid = Grid {
            scales: self.floats("scales", &[num_groups, outputs])?,
            zeros: by_outputs(zeros, num_groups, outputs, |words, output| {
                field(words[output / per_word], output % per_word, bits)
                    + usize::from(zeros_less_one)
            }),
            groups: self.groups("g_idx", num_groups)?,
            stride_of_group: outputs,
            stride: 1,
            rows: 1,
        };
        let word = |output: usize, at: usize| words[at * outputs + output];
        Ok(grid.decode(self.shape, &integers(bits), word))
    }

    /// `qweight [in, out / 8]`, `qzeros [groups, out / 8]`, `scales [groups, out]`
    fn awq<T: Element>(&mut self) -> Result<Vec<T>> {
        const BITS: usize = 4;
        let [outputs, inputs] = self.shape;
        let (num_groups, width) = (self.num_groups("scales", 0), outputs.div_ceil(8));
        let words = self.words("qweight", &[inputs, width])?;
        let zeros = self.words("qzeros", &[num_groups, width])?;
        let of_output = |words: &[[u8; 4]], output: usize| {
            field(words[output / 8], AWQ_PLACES[output % 8], BITS)
        };
        let grid = Grid {
            scales: self.floats("scales", &[num_groups, outputs])?,
            zeros: by_outputs(zeros, num_groups, outputs, of_output),
            groups: self.groups_in_order(num_groups)?,
            stride_of_group: outputs,
            stride: 1,
            rows: 1,
        };
        // Eight inputs of an output feature, as the other formats have them.
        let word = |output: usize, at: usize| {
            let inputs = words.chunks(width).skip(at * 8).take(8).enumerate();
            let word = inputs
                .fold(0, |word, (i, words)| word | (of_output(words, output) as u32) << (BITS * i));
            word.to_le_bytes()
        };
        Ok(grid.decode(self.shape, &integers(BITS), word))
    }

    /// `weight_packed [out, in / word]`, `weight_scale [out, groups]`, `weight_zero_point [out / word, groups]`,
    /// `weight_g_idx [in]`
    fn packed<T: Element>(&mut self, bits: usize, has_zeros: bool) -> Result<Vec<T>> {
        let ([outputs, inputs], per_word) = (self.shape, 32 / bits);
        let num_groups = self.num_groups("weight_scale", 1);
        let width = inputs.div_ceil(per_word);
        let words = self.words("weight_packed", &[outputs, width])?;
        let mut zeros = vec![(1 << (bits - 1)) as f32; outputs * num_groups];
        if has_zeros {
            let shape = [outputs.div_ceil(per_word), num_groups];
            let stored = self.words("weight_zero_point", &shape)?;
            for (at, zero) in zeros.iter_mut().enumerate() {
                let (output, group) = (at / num_groups, at % num_groups);
                let word = stored[output / per_word * num_groups + group];
                *zero = field(word, output % per_word, bits) as f32;
            }
        }
        if self.has("weight_shape") {
            self.names.push(self.tensor("weight_shape"));
        }
        let grid = Grid {
            scales: self.floats("weight_scale", &[outputs, num_groups])?,
            zeros,
            groups: self.groups("weight_g_idx", num_groups)?,
            stride_of_group: 1,
            stride: num_groups,
            rows: 1,
        };
        let word = |output: usize, at: usize| words[output * width + at];
        Ok(grid.decode(self.shape, &integers(bits), word))
    }

    /// `weight [out, in]`, `weight_scale [out, 1]`
    fn int8<T: Element>(&mut self) -> Result<Vec<T>> {
        let shape @ [outputs, inputs] = self.shape;
        let bytes = self.bytes("weight", Dtype::I8, &shape)?;
        let grid = Grid {
            scales: self.floats("weight_scale", &[outputs, 1])?,
            zeros: vec![0.0; outputs],
            groups: vec![0; inputs],
            stride_of_group: 1,
            stride: 1,
            rows: 1,
        };
        let numbers: Vec<f32> = (0..=u8::MAX).map(|byte| f32::from(byte as i8)).collect();
        Ok(grid.decode(self.shape, &numbers, word_of_bytes(bytes, inputs)))
    }

    /// `weight [out, in]`, `weight_scale_inv` or `weight_scale [rows of blocks, columns of blocks]`
    fn fp8_blocks<T: Element>(&mut self, rows: usize, columns: usize) -> Result<Vec<T>> {
        let shape @ [outputs, inputs] = self.shape;
        let bytes = self.bytes("weight", Dtype::F8_E4M3, &shape)?;
        let (rows_of_blocks, num_groups) = (outputs.div_ceil(rows), inputs.div_ceil(columns));
        let name = if self.has("weight_scale") { "weight_scale" } else { "weight_scale_inv" };
        let grid = Grid {
            scales: self.floats(name, &[rows_of_blocks, num_groups])?,
            zeros: vec![0.0; rows_of_blocks * num_groups],
            groups: (0..inputs).map(|input| input / columns).collect(),
            stride_of_group: 1,
            stride: num_groups,
            rows,
        };
        let numbers: Vec<f32> =
            (0..=u8::MAX).map(|byte| F8E4M3::from_bits(byte).to_f32()).collect();
        Ok(grid.decode(self.shape, &numbers, word_of_bytes(bytes, inputs)))
    }
}

/// Four inputs of an output feature.
fn word_of_bytes(bytes: &[u8], inputs: usize) -> impl Fn(usize, usize) -> [u8; 4] + Sync {
    move |output, at| {
        let row = &bytes[output * inputs..][..inputs];
        let (mut word, bytes) = ([0; 4], &row[at * 4..inputs.min(at * 4 + 4)]);
        word[..bytes.len()].copy_from_slice(bytes);
        word
    }
}

/// What stands at some place of a word, little-endian.
fn field(word: [u8; 4], place: usize, bits: usize) -> usize {
    (u32::from_le_bytes(word) >> (place * bits)) as usize & ((1 << bits) - 1)
}

/// All that so many bits may be.
fn integers(bits: usize) -> Vec<f32> {
    (0..1u16 << bits).map(f32::from).collect()
}

/// `[groups, out]` of words that `of_output` takes apart.
fn by_outputs(
    words: &[[u8; 4]],
    num_groups: usize,
    outputs: usize,
    of_output: impl Fn(&[[u8; 4]], usize) -> usize,
) -> Vec<f32> {
    let groups = words.chunks(words.len() / num_groups);
    groups.flat_map(|words| (0..outputs).map(|output| of_output(words, output) as f32)).collect()
}

impl Grid {
    /// `numbers` are what the values of a field stand for; `word` has those of some inputs of an output
    /// feature, the first in its lowest bits.
    fn decode<T: Element>(
        &self,
        [outputs, inputs]: Shape,
        numbers: &[f32],
        word: impl Fn(usize, usize) -> [u8; 4] + Sync,
    ) -> Vec<T> {
        /// Output features whose words of the same inputs share a line of memory in some formats.
        const ROWS: usize = 16;
        let bits = numbers.len().ilog2() as usize;
        let per_word = 32 / bits;
        let mut elements = buffer::<T>(outputs * inputs);
        pool::for_each_row(&mut elements, ROWS * inputs, outputs * inputs, |run, elements| {
            for at in 0..inputs.div_ceil(per_word) {
                for (i, row) in elements.chunks_mut(inputs).enumerate() {
                    let output = run * ROWS + i;
                    let (word, of_output) = (word(output, at), output / self.rows * self.stride);
                    let inputs =
                        row.iter_mut().zip(&self.groups).skip(at * per_word).take(per_word);
                    for (place, (element, group)) in inputs.enumerate() {
                        let at = of_output + group * self.stride_of_group;
                        let number = numbers[field(word, place, bits)];
                        *element = T::round((number - self.zeros[at]) * self.scales[at]);
                    }
                }
            }
        });
        elements
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use safetensors::serialize;
    use safetensors::tensor::TensorView;

    const SHAPE: Shape = [24, 160];

    fn golden(name: &str) -> Checkpoint {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/weights/golden");
        let bytes = std::fs::read(format!("{folder}/{name}.safetensors")).unwrap();
        Checkpoint::embedded(name, bytes.leak()).unwrap()
    }

    fn unpack<T: Element>(how: Quantized, name: &str) -> Unpacked<T> {
        how.unpack(&golden(name), "layer.weight", SHAPE).unwrap().expect("it is packed")
    }

    /// `scripts/quantized_goldens.py` asks what wrote such checkpoints.
    #[test]
    fn weights_are_what_the_references_of_their_formats_take_them_for() {
        let gptq = |bits, zeros_less_one| Quantized::Gptq { bits, zeros_less_one };
        let packed = |bits, has_zeros| Quantized::Packed { bits, has_zeros };
        for (name, how, names) in [
            ("gptq", gptq(4, true), &["qweight", "qzeros", "scales", "g_idx"][..]),
            ("gptq_8_bits", gptq(8, true), &["qweight", "qzeros", "scales", "g_idx"]),
            ("gptq_act_order", gptq(4, true), &["qweight", "qzeros", "scales", "g_idx"]),
            ("gptq_v2", gptq(4, false), &["qweight", "qzeros", "scales", "g_idx"]),
            ("awq", Quantized::Awq, &["qweight", "qzeros", "scales"]),
            ("packed", packed(4, false), &["weight_packed", "weight_shape", "weight_scale"]),
            (
                "packed_zeros",
                packed(4, true),
                &["weight_packed", "weight_zero_point", "weight_shape", "weight_scale"],
            ),
            ("packed_8_bits", packed(8, false), &["weight_packed", "weight_shape", "weight_scale"]),
            ("int8", Quantized::Int8, &["weight", "weight_scale"]),
            (
                "fp8_blocks",
                Quantized::Fp8Blocks { rows: 8, columns: 32 },
                &["weight", "weight_scale_inv"],
            ),
            (
                "fp8_blocks_compressed",
                Quantized::Fp8Blocks { rows: 16, columns: 64 },
                &["weight", "weight_scale"],
            ),
        ] {
            let checkpoint = golden(name);
            let mut expected = vec![0f32; SHAPE[0] * SHAPE[1]];
            checkpoint.tensor::<f32>("expected", &SHAPE).unwrap().read(0, &mut expected);
            let Unpacked { elements, names: read, .. } = unpack::<f32>(how, name);
            let unequal = elements.iter().zip(&expected).position(|(x, y)| (x - y).abs() > 1e-6);
            assert_eq!(unequal, None, "{name}");
            let names: Vec<_> = names.iter().map(|name| format!("layer.{name}")).collect();
            assert_eq!(read, names, "{name}");
            let rounded: Vec<_> = elements.iter().map(|x| bf16::from_f32(*x)).collect();
            assert!(unpack::<bf16>(how, name).elements == rounded, "{name}");
        }
    }

    #[test]
    fn what_is_stored_as_it_is_stays_so_and_what_does_not_fit_is_refused() {
        let awq = |name: &str, shape| Quantized::Awq.unpack::<f32>(&golden("awq"), name, shape);
        assert!(awq("norm.weight", SHAPE).unwrap().is_none());
        assert!(awq("layer.bias", SHAPE).unwrap().is_none());
        let int8 = Quantized::Int8.unpack::<f32>(&golden("fp8_blocks"), "layer.weight", SHAPE);
        assert!(int8.unwrap().is_none());
        let message = |how: Quantized, name: &str, shape| {
            how.unpack::<f32>(&golden(name), "layer.weight", shape).err().unwrap().to_string()
        };
        let error = message(Quantized::Awq, "awq", [24, 192]);
        assert!(error.contains("`layer.qweight` has shape [160, 3]"), "{error}");
        let error = message(Quantized::Gptq { bits: 8, zeros_less_one: true }, "gptq", SHAPE);
        assert!(error.contains("`layer.qweight` has shape [20, 24]"), "{error}");
        let error = message(Quantized::Fp8Blocks { rows: 128, columns: 128 }, "fp8_blocks", SHAPE);
        assert!(error.contains("`layer.weight_scale_inv` has shape [3, 5]"), "{error}");
        let error = message(Quantized::Packed { bits: 4, has_zeros: true }, "packed", SHAPE);
        assert!(error.contains("`layer.weight_zero_point` is missing"), "{error}");
        let read = |bytes: Vec<u8>| {
            let checkpoint = Checkpoint::embedded("damaged", bytes.leak()).unwrap();
            let how = Quantized::Gptq { bits: 4, zeros_less_one: true };
            how.unpack::<f32>(&checkpoint, "layer.weight", SHAPE).err().unwrap()
        };
        let tensors = |scale: f16, num_groups: usize, groups: Option<&[u8]>| {
            let (words, zeros) = (vec![0; 160 * 3 * 4], vec![0; num_groups * 3 * 4]);
            let scales: Vec<u8> =
                std::iter::repeat_n(scale.to_le_bytes(), num_groups * 24).flatten().collect();
            let view = |dtype, shape: &[usize], bytes| {
                TensorView::new(dtype, shape.to_vec(), bytes).unwrap()
            };
            let mut tensors = vec![
                ("layer.qweight", view(Dtype::I32, &[20, 24], &words)),
                ("layer.qzeros", view(Dtype::I32, &[num_groups, 3], &zeros)),
                ("layer.scales", view(Dtype::F16, &[num_groups, 24], &scales)),
            ];
            if let Some(groups) = groups {
                tensors.push(("layer.g_idx", view(Dtype::I32, &[160], groups)));
            }
            serialize(tensors, None).unwrap()
        };
        let says = |bytes: Vec<u8>, needle: &str| {
            let error = read(bytes).to_string();
            assert!(error.contains(needle), "{error}");
        };
        says(tensors(f16::ONE, 7, None), "`layer` has scales for 7 groups of its 160 inputs");
        says(tensors(f16::INFINITY, 5, None), "`layer.scales` has the scale inf");
        says(
            tensors(f16::ONE, 5, Some(&[5; 640])),
            "`layer.g_idx` puts an input into group 84215045 of 5",
        );
    }
}
