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
    /// Guesses for the last tokens of the entry.
    pub(crate) drafts: &'a [u32],
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

    /// Whether the last row's logits, and those of the row before each draft, give tokens.
    pub(crate) fn samples(&self) -> bool {
        let num_known = self.entry.len - self.entry.num_drafts;
        self.entry.samples && self.offset + self.len == num_known + self.drafts.len()
    }

    /// How many rows give tokens.
    fn num_sampled_rows(&self) -> usize {
        if self.samples() { 1 + self.drafts.len() } else { 0 }
    }
}

/// The spans of one forward pass and which of their rows want logits.
#[derive(Debug)]
pub(crate) enum Pack<'a> {
    /// Entries side by side: logits of the rows that give tokens.
    Sampling(Vec<Span<'a>>),
    /// A piece of a prompt to be scored: logits of every row.
    Scoring(Span<'a>),
}

/// Divides a plan into forward passes of at most `max_rows` rows of logits.
///
/// Nearly always there is one: more only where drafts are many. A prompt that wants its own log-probabilities runs apart and in
/// pieces: the logits of all its rows would otherwise dwarf every other tensor of the step.
///
/// `drafts` has the guesses of each entry, at most as many as it has room for.
pub(crate) fn divide<'a>(plan: &'a Plan, drafts: &[&'a [u32]], max_rows: usize) -> Vec<Pack<'a>> {
    let entries = plan.entries.iter().zip(drafts).enumerate();
    let (scored, sampled): (Vec<_>, Vec<_>) = entries
        .map(|(index, (entry, &drafts))| {
            let len = entry.len - entry.num_drafts + drafts.len();
            Span { entry, index, offset: 0, len, drafts }
        })
        .partition(|span| span.entry.prompt_logits);
    let mut packs = Vec::with_capacity(1);
    let (mut pack, mut num_rows) = (Vec::new(), 0);
    for span in sampled {
        num_rows += span.num_sampled_rows();
        if num_rows > max_rows && !pack.is_empty() {
            packs.push(Pack::Sampling(std::mem::take(&mut pack)));
            num_rows = span.num_sampled_rows();
        }
        pack.push(span);
    }
    if !pack.is_empty() {
        packs.push(Pack::Sampling(pack));
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

    /// Lays the spans out back to back. `last_id` is asked for the last known id of an entry that
    /// lacks it, because the step before has yet to give it.
    pub(crate) fn tensors(
        &self,
        block_size: usize,
        device: &Device,
        last_id: impl Fn(&Entry) -> u32,
    ) -> Result<ForwardBatch> {
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
            let num_known = span.len - span.drafts.len();
            let known = &span.entry.ids[span.offset..];
            ids.extend_from_slice(&known[..num_known.min(known.len())]);
            ids.extend((known.len()..num_known).map(|_| last_id(span.entry)));
            ids.extend_from_slice(span.drafts);
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
                Self::Sampling(_) => {
                    logits_rows.extend(next - span.num_sampled_rows() as u32..next);
                }
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
            num_drafts: 0,
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
        let packs = divide(&plan, &[&[][..]; 3], 4);
        assert_eq!(packs.len(), 1);
        let batch = packs[0].tensors(4, &Device::Cpu, |_| unreachable!()).unwrap();
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
        let packs = divide(&plan, &[&[][..]; 2], 3);
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
        let batch = packs[2].tensors(4, &Device::Cpu, |_| unreachable!()).unwrap();
        assert_eq!(batch.logits_rows.to_vec1::<u32>().unwrap(), [0, 1, 2]);
        assert_eq!(batch.context_lens.to_vec1::<u32>().unwrap(), [14]);
        assert_eq!(batch.ids.to_vec1::<u32>().unwrap(), [4, 5, 6]);
    }

    #[test]
    fn drafts_stand_behind_the_known_tokens_and_give_rows() {
        let drafted = |id, position, drafts: &[u32], block| {
            let known = entry(id, position, &[40 + position as u32], &[block], true);
            Entry { len: 1 + drafts.len(), num_drafts: drafts.len(), ..known }
        };
        let drafts: [&[u32]; 4] = [&[], &[7, 8], &[9], &[]];
        let plan = plan(vec![
            entry(1, 0, &[1, 2], &[0], false),
            drafted(2, 1, drafts[1], 2),
            drafted(3, 2, drafts[2], 3),
            entry(4, 3, &[5], &[4], true),
        ]);
        let packs = divide(&plan, &drafts, 4);
        let sizes: Vec<_> = packs.iter().map(|pack| pack.spans().len()).collect();
        assert_eq!(sizes, [2, 2], "five rows are more than four");
        let batch = packs[0].tensors(4, &Device::Cpu, |_| unreachable!()).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
        assert_eq!(read(&batch.ids), [1, 2, 41, 7, 8]);
        assert_eq!(read(&batch.positions), [0, 1, 1, 2, 3]);
        assert_eq!(read(&batch.context_lens), [2, 4]);
        assert_eq!(read(&batch.logits_rows), [2, 3, 4]);
        assert_eq!(
            read(&packs[1].tensors(4, &Device::Cpu, |_| unreachable!()).unwrap().logits_rows),
            [0, 1, 2]
        );
    }

    #[test]
    fn an_id_that_is_not_yet_known_is_asked_for() {
        let mut entries = vec![entry(1, 3, &[], &[0], true), entry(2, 0, &[8, 9], &[1], false)];
        entries[0].len = 1;
        let plan = plan(entries);
        let packs = divide(&plan, &[&[][..]; 2], 8);
        let batch = packs[0].tensors(4, &Device::Cpu, |entry| 70 + entry.id.0 as u32).unwrap();
        assert_eq!(batch.ids.to_vec1::<u32>().unwrap(), [71, 8, 9]);
        assert_eq!(batch.positions.to_vec1::<u32>().unwrap(), [3, 0, 1]);
    }

    #[test]
    fn chunks_alone_want_no_logits() {
        let plan = plan(vec![entry(1, 0, &[1, 2], &[0], false)]);
        let batch =
            divide(&plan, &[&[]], 8)[0].tensors(4, &Device::Cpu, |_| unreachable!()).unwrap();
        assert_eq!(batch.logits_rows.dims(), [0]);
    }
}
