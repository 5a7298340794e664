//! What the sampler reads beside the logits: plain data, one row a sequence, that a device can copy.

use candle_core::{Result, bail};

/// Parameters of one row. The default changes nothing: plain sampling at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleRow {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the most likely tokens until their probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this fraction of the most likely one; 0 drops none.
    pub min_p: f32,
    /// Divides positive logits of tokens in prompt or output, multiplies negative ones.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token in the output.
    pub presence_penalty: f32,
    /// Subtracted from a logit for each occurrence of its token in the output.
    pub frequency_penalty: f32,
    /// Key of the random generator.
    pub seed: u64,
    /// Counter of the random generator: the position of the token to be sampled in its sequence.
    pub position: u64,
    /// Report log-probabilities: the sampled token's and this many of the most likely ones.
    pub num_top: Option<u32>,
    /// Row of [`SampleBatch::masks`] that says which tokens are allowed.
    pub mask: Option<u32>,
}

impl Default for SampleRow {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            position: 0,
            num_top: None,
            mask: None,
        }
    }
}

/// The rows of a step and their lists. `SampleBatch { rows, ..Default::default() }` has no lists.
#[derive(Debug, Clone, Copy, Default)]
pub struct SampleBatch<'a> {
    /// One entry a row of the logits.
    pub rows: &'a [SampleRow],
    /// Ids that occur in each row's prompt; repeats do no harm.
    pub prompt_tokens: Ragged<'a, u32>,
    /// Distinct ids of each row's output with how often each occurs.
    pub output_counts: Ragged<'a, (u32, u32)>,
    /// Added to single logits after the penalties: distinct ids with their bias.
    pub bias: Ragged<'a, (u32, f32)>,
    /// Ids made impossible.
    pub banned: Ragged<'a, u32>,
    /// Allowed-token masks, `vocab.div_ceil(32)` words each; token `i` is bit `i % 32` of word
    /// `i / 32`, 1 allows it (the layout of llguidance). Rows may share one. `[masks, words]`
    pub masks: &'a [u32],
}

impl SampleBatch<'_> {
    /// Refuses lists that do not fit the logits and parameters that mean nothing.
    pub(super) fn check(&self, num_rows: usize, vocab_size: usize) -> Result<()> {
        if self.rows.len() != num_rows {
            bail!("the batch has {} rows, the logits {num_rows}", self.rows.len());
        }
        let words = vocab_size.div_ceil(32);
        if !self.masks.len().is_multiple_of(words) {
            bail!("masks must have {words} words each, they have {}", self.masks.len());
        }
        for (i, row) in self.rows.iter().enumerate() {
            row.check(i)?;
            let num_masks = self.masks.len() / words;
            if row.mask.is_some_and(|mask| mask as usize >= num_masks) {
                bail!("row {i} names mask {:?} of {num_masks}", row.mask);
            }
        }
        self.prompt_tokens.check("prompt_tokens", num_rows, vocab_size, |&id| id)?;
        self.output_counts.check("output_counts", num_rows, vocab_size, |&(id, _)| id)?;
        self.bias.check("bias", num_rows, vocab_size, |&(id, _)| id)?;
        self.banned.check("banned", num_rows, vocab_size, |&id| id)
    }

    /// Whether any logit of a row may change before sampling.
    pub(super) fn edits(&self, row: usize) -> bool {
        self.rows[row].mask.is_some()
            || !self.prompt_tokens.row(row).is_empty()
            || !self.output_counts.row(row).is_empty()
            || !self.bias.row(row).is_empty()
            || !self.banned.row(row).is_empty()
    }
}

impl SampleRow {
    fn check(&self, index: usize) -> Result<()> {
        let unit = 0.0..=1.0;
        let penalties = [self.presence_penalty, self.frequency_penalty];
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0),
            ("top_p", self.top_p, unit.contains(&self.top_p)),
            ("min_p", self.min_p, unit.contains(&self.min_p)),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0),
            ("presence_penalty", penalties[0], true),
            ("frequency_penalty", penalties[1], true),
        ];
        for (name, value, is_in_range) in checks {
            if !is_in_range || !value.is_finite() {
                bail!("{name} of row {index} is out of range: {value}");
            }
        }
        Ok(())
    }
}

/// One list a row, back to back (compressed sparse rows). The default is empty in every row.
#[derive(Debug)]
pub struct Ragged<'a, T> {
    /// Items of row `i` are `items[starts[i]..starts[i + 1]]`. `[rows + 1]`, or empty if no row has any
    pub starts: &'a [u32],
    /// All items.
    pub items: &'a [T],
}

impl<T> Clone for Ragged<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ragged<'_, T> {}

impl<T> Default for Ragged<'_, T> {
    fn default() -> Self {
        Self { starts: &[], items: &[] }
    }
}

impl<'a, T> Ragged<'a, T> {
    /// Items of a row.
    pub(super) fn row(&self, index: usize) -> &'a [T] {
        match self.starts.get(index..index + 2) {
            Some(ends) => &self.items[ends[0] as usize..ends[1] as usize],
            None => &[],
        }
    }

    /// Refuses lists of another number of rows and ids beyond the vocabulary.
    fn check(
        &self,
        name: &str,
        num_rows: usize,
        vocab_size: usize,
        id_of: impl Fn(&T) -> u32,
    ) -> Result<()> {
        let starts = self.starts;
        let fits = starts.len() == num_rows + 1 && starts[0] == 0 && starts.is_sorted();
        if !starts.is_empty() && !fits {
            bail!("{name}.starts must rise from 0 over {num_rows} rows: {starts:?}");
        }
        let end = starts.last().map_or(0, |&end| end as usize);
        if end != self.items.len() {
            bail!("{name}.starts ends at {end}, there are {} items", self.items.len());
        }
        match self.items.iter().map(id_of).find(|&id| id as usize >= vocab_size) {
            Some(id) => bail!("id {id} in {name} is beyond the vocabulary of {vocab_size}"),
            None => Ok(()),
        }
    }
}

/// The owner of a [`Ragged`], filled row by row and reused from step to step.
#[derive(Debug, Clone)]
pub struct RaggedVec<T> {
    starts: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for RaggedVec<T> {
    fn default() -> Self {
        Self { starts: vec![0], items: Vec::new() }
    }
}

impl<T> RaggedVec<T> {
    /// Adds the next row's items.
    pub fn push_row(&mut self, items: impl IntoIterator<Item = T>) {
        self.items.extend(items);
        self.starts.push(self.items.len() as u32);
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.starts.truncate(1);
        self.items.clear();
    }

    /// What [`SampleBatch`] takes.
    pub fn view(&self) -> Ragged<'_, T> {
        Ragged { starts: &self.starts, items: &self.items }
    }
}
