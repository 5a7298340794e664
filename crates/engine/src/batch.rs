//! Packing: from a plan's entries to the tensors of a forward pass.

use candle_core::{Device, Result, Tensor};
use scheduler::{Entry, Plan};

use crate::model::ForwardBatch;

/// Consecutive tokens of one entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    pub(crate) entry: &'a Entry,
    /// Place of the entry in the plan.
    pub(crate) index: usize,
    /// First token, counted from the entry's.
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl Span<'_> {
    /// Position in the sequence of the first token.
    pub(crate) fn start(&self) -> usize {
        self.entry.start + self.offset
    }

    /// Position after the last token.
    pub(crate) fn end(&self) -> usize {
        self.start() + self.len
    }

    /// Whether the last row's logits give the sequence's next token.
    pub(crate) fn samples(&self) -> bool {
        self.entry.samples && self.offset + self.len == self.entry.len
    }
}

/// The spans of one forward pass and which of their rows want logits.
#[derive(Debug)]
pub(crate) enum Pack<'a> {
    /// Entries side by side: logits of the last row of those that sample.
    Sampling(Vec<Span<'a>>),
    /// A piece of a prompt to be scored: logits of every row.
    Scoring(Span<'a>),
}

/// Divides a plan into forward passes of at most `max_rows` rows of logits.
///
/// Nearly always there is one. A prompt that wants its own log-probabilities runs apart and in
/// pieces: the logits of all its rows would otherwise dwarf every other tensor of the step.
pub(crate) fn divide(plan: &Plan, max_rows: usize) -> Vec<Pack<'_>> {
    let (scored, sampled): (Vec<_>, Vec<_>) = plan
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| Span { entry, index, offset: 0, len: entry.len })
        .partition(|span| span.entry.prompt_logits);
    let mut packs = Vec::with_capacity(1);
    if !sampled.is_empty() {
        packs.push(Pack::Sampling(sampled));
    }
    for whole in scored {
        packs.extend((0..whole.len).step_by(max_rows).map(|offset| {
            Pack::Scoring(Span { offset, len: max_rows.min(whole.len - offset), ..whole })
        }));
    }
    packs
}

impl<'a> Pack<'a> {
    pub(crate) fn spans(&self) -> &[Span<'a>] {
        match self {
            Self::Sampling(spans) => spans,
            Self::Scoring(span) => std::slice::from_ref(span),
        }
    }

    /// Lays the spans out back to back.
    pub(crate) fn tensors(&self, block_size: usize, device: &Device) -> Result<ForwardBatch> {
        let spans = self.spans();
        let num_tokens = spans.iter().map(|span| span.len).sum();
        let width = spans.iter().map(|span| span.entry.blocks.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(num_tokens);
        let mut positions = Vec::with_capacity(num_tokens);
        let mut slots = Vec::with_capacity(num_tokens);
        let mut q_starts = vec![0];
        let mut context_lens = Vec::with_capacity(spans.len());
        let mut block_tables = Vec::with_capacity(spans.len() * width);
        let mut logits_rows = Vec::with_capacity(spans.len());
        for span in spans {
            let blocks = &span.entry.blocks;
            ids.extend_from_slice(&span.entry.ids[span.offset..span.offset + span.len]);
            for position in span.start()..span.end() {
                let block = blocks[position / block_size].index();
                positions.push(position as u32);
                slots.push((block * block_size + position % block_size) as u32);
            }
            let first = q_starts[q_starts.len() - 1];
            let next = first + span.len as u32;
            q_starts.push(next);
            context_lens.push(span.end() as u32);
            block_tables.extend(blocks.iter().map(|block| block.0));
            block_tables.resize(context_lens.len() * width, 0);
            match self {
                Self::Sampling(_) if span.samples() => logits_rows.push(next - 1),
                Self::Sampling(_) => {}
                Self::Scoring(_) => logits_rows.extend(first..next),
            }
        }
        let vector = |values: Vec<u32>| {
            let len = values.len();
            Tensor::from_vec(values, len, device)
        };
        Ok(ForwardBatch {
            ids: vector(ids)?,
            positions: vector(positions)?,
            slots: vector(slots)?,
            q_starts: vector(q_starts)?,
            context_lens: vector(context_lens)?,
            block_tables: Tensor::from_vec(block_tables, (spans.len(), width), device)?,
            logits_rows: vector(logits_rows)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use scheduler::{BlockId, SeqId};

    use super::*;

    fn entry(id: u64, start: usize, ids: &[u32], blocks: &[u32], samples: bool) -> Entry {
        Entry {
            id: SeqId(id),
            start,
            len: ids.len(),
            ids: ids.to_vec(),
            blocks: blocks.iter().copied().map(BlockId).collect(),
            samples,
            prompt_logits: false,
            cached_tokens: 0,
        }
    }

    fn plan(entries: Vec<Entry>) -> Plan {
        let num_tokens = entries.iter().map(|entry| entry.len).sum();
        Plan { step: 1, entries, num_tokens, preempted: Vec::new() }
    }

    #[test]
    fn entries_lie_back_to_back() {
        let plan = plan(vec![
            entry(1, 5, &[50], &[7, 2], true),
            entry(2, 2, &[12, 13, 14], &[0, 9, 3], false),
            entry(3, 0, &[20, 21], &[5], true),
        ]);
        let packs = divide(&plan, 4);
        assert_eq!(packs.len(), 1);
        let batch = packs[0].tensors(4, &Device::Cpu).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
        assert_eq!(read(&batch.ids), [50, 12, 13, 14, 20, 21]);
        assert_eq!(read(&batch.positions), [5, 2, 3, 4, 0, 1]);
        assert_eq!(read(&batch.slots), [9, 2, 3, 36, 20, 21]);
        assert_eq!(read(&batch.q_starts), [0, 1, 4, 6]);
        assert_eq!(read(&batch.context_lens), [6, 5, 2]);
        assert_eq!(read(&batch.logits_rows), [0, 5]);
        let tables = batch.block_tables.to_vec2::<u32>().unwrap();
        assert_eq!(tables, [[7, 2, 0], [0, 9, 3], [5, 0, 0]]);
    }

    #[test]
    fn scored_prompts_run_apart_and_in_pieces() {
        let mut scored = entry(1, 8, &[1, 2, 3, 4, 5, 6, 7], &[4, 5, 6, 7], true);
        scored.prompt_logits = true;
        let plan = plan(vec![scored, entry(2, 0, &[9], &[0], true)]);
        let packs = divide(&plan, 3);
        let shapes: Vec<_> = packs
            .iter()
            .map(|pack| {
                let span = pack.spans()[0];
                (span.index, span.start(), span.end(), span.samples())
            })
            .collect();
        assert_eq!(
            shapes,
            [(1, 0, 1, true), (0, 8, 11, false), (0, 11, 14, false), (0, 14, 15, true)]
        );
        let batch = packs[2].tensors(4, &Device::Cpu).unwrap();
        assert_eq!(batch.logits_rows.to_vec1::<u32>().unwrap(), [0, 1, 2]);
        assert_eq!(batch.context_lens.to_vec1::<u32>().unwrap(), [14]);
        assert_eq!(batch.ids.to_vec1::<u32>().unwrap(), [4, 5, 6]);
    }

    #[test]
    fn chunks_alone_want_no_logits() {
        let plan = plan(vec![entry(1, 0, &[1, 2], &[0], false)]);
        let batch = divide(&plan, 8)[0].tensors(4, &Device::Cpu).unwrap();
        assert_eq!(batch.logits_rows.dims(), [0]);
    }
}
