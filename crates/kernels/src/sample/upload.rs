//! A batch as the words that a device reads: the rows, then their lists, so that one copy takes all of
//! them there.

use super::{SampleBatch, SampleRow};
use candle_core::{Result, bail};

/// Words of a row: `SampleRow` of `kernel.cu`.
pub(super) const ROW_WORDS: usize = 22;

/// Stands for a number that is absent.
const NONE: u32 = u32::MAX;

/// The most tokens of a vocabulary, by the range of the kernel's sums.
pub(super) const MAX_VOCAB: usize = 1 << 19;

/// The most log-probabilities beside the sampled token's.
pub(super) const MAX_TOP: u32 = 1024;

/// What the sampler's kernel reads beside the logits. It keeps its memory from step to step.
#[derive(Debug, Default, Clone)]
pub(super) struct Upload {
    words: Vec<u32>,
    num_top: Option<u32>,
}

/// Where the lists of a batch begin, in words.
struct Lists {
    prompt_tokens: usize,
    output_counts: usize,
    bias: usize,
    banned: usize,
    masks: usize,
    words_of_mask: usize,
}

impl Upload {
    /// Takes a batch that [`sample`](super::sample) has checked.
    ///
    /// # Errors
    /// A vocabulary of more than 2^19 tokens, or more than 1024 log-probabilities a row.
    pub(super) fn fill(&mut self, batch: &SampleBatch, vocab_size: usize) -> Result<()> {
        self.num_top = batch.rows.iter().filter_map(|row| row.num_top).max();
        check_limits(vocab_size, self.num_top)?;
        self.words.clear();
        self.words.resize(batch.rows.len() * ROW_WORDS, 0);
        let lists = self.push_lists(batch, vocab_size);
        for (i, (row, words)) in batch.rows.iter().zip(self.words.chunks_mut(ROW_WORDS)).enumerate()
        {
            words.copy_from_slice(&row_words(row, NONE, &lists.ranges(batch, i)));
        }
        Ok(())
    }

    /// Takes tokens to score, one a row.
    pub(super) fn fill_targets(
        &mut self,
        targets: &[u32],
        num_top: u32,
        vocab_size: usize,
    ) -> Result<()> {
        check_limits(vocab_size, Some(num_top))?;
        self.num_top = Some(num_top);
        self.words.clear();
        let row = SampleRow { num_top: Some(num_top), ..Default::default() };
        for &target in targets {
            self.words.extend(row_words(&row, target, &[NONE, 0, 0, 0, 0, 0, 0, 0, 0]));
        }
        Ok(())
    }

    /// What must lie in the device's memory, aligned to 4 bytes.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Words of a record that has room for everything the rows ask for.
    pub(super) fn record_width(&self) -> usize {
        super::record::width(self.num_top)
    }

    fn push_lists(&mut self, batch: &SampleBatch, vocab_size: usize) -> Lists {
        let words = &mut self.words;
        let prompt_tokens = words.len();
        words.extend_from_slice(batch.prompt_tokens.items);
        let output_counts = words.len();
        words.extend(batch.output_counts.items.iter().flat_map(|&(id, count)| [id, count]));
        let bias = words.len();
        words.extend(batch.bias.items.iter().flat_map(|&(id, bias)| [id, bias.to_bits()]));
        let banned = words.len();
        words.extend_from_slice(batch.banned.items);
        let masks = words.len();
        words.extend_from_slice(batch.masks);
        let words_of_mask = vocab_size.div_ceil(32);
        Lists { prompt_tokens, output_counts, bias, banned, masks, words_of_mask }
    }
}

impl Lists {
    /// First word of the row's mask, then first and last-plus-one word of each list.
    fn ranges(&self, batch: &SampleBatch, row: usize) -> [u32; 9] {
        let mask = batch.rows[row].mask.map(|mask| self.masks + mask as usize * self.words_of_mask);
        let range = |first: usize, starts: &[u32], width: u32| match starts.get(row..row + 2) {
            Some(ends) => [first as u32 + width * ends[0], first as u32 + width * ends[1]],
            None => [0, 0],
        };
        let prompt_tokens = range(self.prompt_tokens, batch.prompt_tokens.starts, 1);
        let output_counts = range(self.output_counts, batch.output_counts.starts, 2);
        let bias = range(self.bias, batch.bias.starts, 2);
        let banned = range(self.banned, batch.banned.starts, 1);
        let mut words = [mask.map_or(NONE, |mask| mask as u32); 9];
        words[1..].copy_from_slice(&[prompt_tokens, output_counts, bias, banned].concat());
        words
    }
}

/// The kernel's `SampleRow`.
fn row_words(row: &SampleRow, target: u32, ranges: &[u32; 9]) -> [u32; ROW_WORDS] {
    let [mask, ranges @ ..] = ranges;
    let mut words = [0; ROW_WORDS];
    words[..14].copy_from_slice(&[
        row.temperature.to_bits(),
        row.top_p.to_bits(),
        row.top_k,
        row.min_p.to_bits(),
        row.repetition_penalty.to_bits(),
        row.presence_penalty.to_bits(),
        row.frequency_penalty.to_bits(),
        row.num_top.unwrap_or(NONE),
        *mask,
        target,
        row.seed as u32,
        (row.seed >> 32) as u32,
        row.position as u32,
        (row.position >> 32) as u32,
    ]);
    words[14..].copy_from_slice(ranges);
    words
}

fn check_limits(vocab_size: usize, num_top: Option<u32>) -> Result<()> {
    if vocab_size > MAX_VOCAB {
        bail!("the vocabulary has {vocab_size} tokens, a CUDA device takes {MAX_VOCAB}");
    }
    match num_top.filter(|&num_top| num_top > MAX_TOP) {
        Some(num_top) => bail!("num_top is {num_top}, a CUDA device takes {MAX_TOP}"),
        None => Ok(()),
    }
}
