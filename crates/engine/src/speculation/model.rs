//! A draft model: a small model of the same vocabulary that guesses what the large one will say
//! (Leviathan et al. 2023, arXiv:2211.17192).
//!
//! Its keys and values lie in the same blocks as the large model's, in a cache of its own. It reads a
//! sequence only once it is asked to guess, from the beginning: then it catches up, within the budget
//! of a step, and guesses as soon as it has. So a model that is never asked costs nothing, and no
//! block is taken for read that another sequence filled without it.
//!
//! It draws with the parameters and the random numbers of the positions that the large model will
//! draw with, so that the two agree more often than by chance.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use candle_core::Result;
use scheduler::{BlockId, Entry, Plan, SeqId, Tokens};

use super::Source;
use crate::batch::divide;
use crate::config::EngineConfig;
use crate::resident::Resident;
use crate::sampler::Sampler;
use crate::sequence::Sequence;

/// The model, its cache, and how far it has read.
pub(crate) struct DraftModel {
    pub(crate) resident: Resident,
    sampler: Sampler,
    progress: HashMap<SeqId, Progress>,
}

/// What it guessed in a step.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    /// Of each entry of the plan.
    pub(crate) ids: Vec<Vec<u32>>,
    /// Time for one, unless there are none or it had to catch up first.
    pub(crate) each: Option<Duration>,
}

/// What it has read of a sequence.
#[derive(Debug, Default)]
struct Progress {
    /// Where the keys and values of the first `num_read` tokens are.
    blocks: Vec<BlockId>,
    num_read: usize,
    /// Guesses that it has read behind them.
    guessed: Vec<u32>,
}

impl Progress {
    /// Keeps what is true of a sequence of these tokens, in these blocks.
    fn reconcile(&mut self, tokens: &[u32], blocks: &[BlockId], block_size: usize) {
        let right = self.guessed.iter().zip(&tokens[self.num_read..]).take_while(|(a, b)| a == b);
        self.num_read += right.count();
        self.guessed.clear();
        // A preemption gives other blocks, and so does the prefix cache where it has the same text.
        let same = self.blocks.iter().zip(blocks).take_while(|(a, b)| a == b).count();
        // The logits of the last token are wanted again.
        self.num_read = self.num_read.min(same * block_size).min(tokens.len() - 1);
        self.blocks.clear();
        self.blocks.extend_from_slice(blocks);
    }
}

impl DraftModel {
    pub(crate) fn new(resident: Resident) -> Self {
        Self { resident, sampler: Sampler::default(), progress: HashMap::new() }
    }

    /// Begins anew after a panic, in the memory that it has.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.sampler = Sampler::default();
        self.progress.clear();
        self.resident.reset()
    }

    /// Forgets a sequence that has ended or lost its blocks.
    pub(crate) fn forget(&mut self, id: SeqId) {
        self.progress.remove(&id);
    }

    /// Guesses for the entries whose drafts are to come from a model, none for the others. An entry
    /// gets fewer than it has room for, or none, while the model is behind.
    pub(crate) fn guess(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<Guesses> {
        let begun = Instant::now();
        let mut guesses = vec![Vec::new(); plan.entries.len()];
        let (mut places, mut entries) = self.catch_up(plan, sequences);
        // After a step in which all guesses were right, two tokens are new to it.
        let is_usual = !entries.is_empty() && entries.iter().all(|entry| entry.len <= 2);
        while !entries.is_empty() {
            let drawn = self.run(&entries, &places, &guesses, sequences)?;
            let mut next = (Vec::new(), Vec::new());
            for ((place, entry), token) in places.into_iter().zip(entries).zip(drawn) {
                let Some(token) = token else { continue };
                guesses[place].push(token);
                let is_end = sequences[&entry.id].is_end(token);
                if !is_end && guesses[place].len() < plan.entries[place].num_drafts {
                    self.reading(entry.id).guessed.push(token);
                    let start = entry.start + entry.len;
                    next.0.push(place);
                    next.1.push(Entry { start, len: 1, ids: Tokens::One(token), ..entry });
                }
            }
            (places, entries) = next;
        }
        let num_guesses: usize = guesses.iter().map(Vec::len).sum();
        let is_usual = is_usual && num_guesses > 0;
        let each = is_usual.then(|| begun.elapsed() / num_guesses as u32);
        Ok(Guesses { ids: guesses, each })
    }

    fn reading(&mut self, id: SeqId) -> &mut Progress {
        self.progress.entry(id).or_default()
    }

    /// What is to be read before guesses: places in the plan and entries of the model's own.
    fn catch_up(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
    ) -> (Vec<usize>, Vec<Entry>) {
        let EngineConfig { max_num_batched_tokens: mut budget, block_size, .. } =
            self.resident.config;
        let (mut places, mut entries) = (Vec::new(), Vec::new());
        for (place, entry) in plan.entries.iter().enumerate() {
            let sequence = &sequences[&entry.id];
            if entry.num_drafts == 0 || sequence.draft_source() != Source::Model {
                continue;
            }
            let progress = self.reading(entry.id);
            let tokens = sequence.tokens();
            progress.reconcile(tokens, &entry.blocks, block_size);
            let start = progress.num_read;
            let len = (tokens.len() - start).min(budget);
            budget -= len;
            if len == 0 {
                continue;
            }
            let end = start + len;
            progress.num_read = end;
            places.push(place);
            entries.push(Entry {
                start,
                len,
                num_drafts: 0,
                ids: tokens[start..end].into(),
                samples: end == tokens.len(),
                ..entry.clone()
            });
        }
        (places, entries)
    }

    /// One forward pass, or several where the rows are many. A token for each entry that samples.
    fn run(
        &mut self,
        entries: &[Entry],
        places: &[usize],
        guesses: &[Vec<u32>],
        sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<Vec<Option<u32>>> {
        let num_tokens = entries.iter().map(|entry| entry.len).sum();
        let plan = Plan { step: 0, entries: entries.to_vec(), num_tokens, preempted: Vec::new() };
        let mut drawn = vec![None; entries.len()];
        let none: Vec<&[u32]> = vec![&[]; entries.len()];
        for pack in divide(&plan, &none, self.resident.config.pack_limits()) {
            let lists = pack.lists(self.resident.config.block_size, |entry| {
                unreachable!("sequence {} guesses before its last token is known", entry.id)
            });
            let logits = self.resident.forward(&self.resident.upload(&lists)?)?; // [rows, vocab]
            let sampling: Vec<_> = pack.spans().iter().filter(|span| span.samples()).collect();
            if sampling.is_empty() {
                continue;
            }
            let rows = sampling
                .iter()
                .map(|span| (&sequences[&span.entry.id], &guesses[places[span.index]][..]));
            let tokens = self.sampler.guess(&logits, rows)?;
            for (span, token) in sampling.iter().zip(tokens) {
                drawn[span.index] = token;
            }
        }
        Ok(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_holds_as_far_as_tokens_and_blocks_are_the_same() {
        let blocks = |ids: &[u32]| ids.iter().copied().map(BlockId).collect::<Vec<_>>();
        let progress = |num_read, guessed: &[u32]| Progress {
            blocks: blocks(&[5, 6, 7]),
            num_read,
            guessed: guessed.to_vec(),
        };
        let check = |mut progress: Progress, tokens: &[u32], table: &[u32], expected| {
            progress.reconcile(tokens, &blocks(table), 2);
            assert_eq!((progress.num_read, progress.guessed.len()), (expected, 0));
            assert_eq!(progress.blocks, blocks(table));
        };
        check(progress(3, &[4, 9]), &[1, 2, 3, 4, 5, 6], &[5, 6, 7], 4);
        check(progress(3, &[4, 5]), &[1, 2, 3, 4, 5, 6], &[5, 6, 7, 8], 5);
        check(progress(3, &[4, 5, 6]), &[1, 2, 3, 4, 5, 6], &[5, 6, 7], 5);
        check(progress(3, &[4, 5]), &[1, 2, 3, 4, 5, 6], &[5, 9, 7], 2);
        check(progress(3, &[]), &[1, 2, 3, 4], &[9, 6, 7], 0);
        check(Progress::default(), &[1, 2, 3, 4], &[9, 6, 7], 0);
    }
}
