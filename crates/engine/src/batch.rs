//! Packing: from a plan's entries to the tensors of a forward pass.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use kernels::device::upload;
use kernels::paged_attention::SPLIT_ROWS;
use scheduler::{Entry, Plan};

use crate::model::{Extents, ForwardBatch, NO_SLOT, Workspace};

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

/// Bounds of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackLimits {
    /// Rows of logits.
    pub(crate) logits_rows: usize,
    /// Rows of sequences with so few that attention splits their keys, in a workspace of this size.
    pub(crate) split_rows: usize,
}

/// Divides a plan into forward passes within the limits.
///
/// Nearly always there is one: more only where drafts are many, or on a GPU short chunks. A prompt that wants its own log-probabilities runs apart and in
/// pieces: the logits of all its rows would otherwise dwarf every other tensor of the step.
///
/// `drafts` has the guesses of each entry, at most as many as it has room for.
pub(crate) fn divide<'a>(
    plan: &'a Plan,
    drafts: &[&'a [u32]],
    limits: PackLimits,
) -> Vec<Pack<'a>> {
    let entries = plan.entries.iter().zip(drafts).enumerate();
    let (scored, sampled): (Vec<_>, Vec<_>) = entries
        .map(|(index, (entry, &drafts))| {
            let len = entry.len - entry.num_drafts + drafts.len();
            Span { entry, index, offset: 0, len, drafts }
        })
        .partition(|span| span.entry.prompt_logits);
    let mut packs = Vec::with_capacity(1);
    let mut pack = Vec::new();
    let (mut num_rows, mut num_split_rows) = (0, 0);
    for span in sampled {
        let split_rows = if span.len <= SPLIT_ROWS { span.len } else { 0 };
        num_rows += span.num_sampled_rows();
        num_split_rows += split_rows;
        let is_full = num_rows > limits.logits_rows || num_split_rows > limits.split_rows;
        if is_full && !pack.is_empty() {
            packs.push(Pack::Sampling(std::mem::take(&mut pack)));
            (num_rows, num_split_rows) = (span.num_sampled_rows(), split_rows);
        }
        pack.push(span);
    }
    if !pack.is_empty() {
        packs.push(Pack::Sampling(pack));
    }
    for whole in scored {
        packs.extend((0..whole.len).step_by(limits.logits_rows).map(|offset| {
            let len = limits.logits_rows.min(whole.len - offset);
            Pack::Scoring(Span { offset, len, ..whole })
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
    pub(crate) fn lists(&self, block_size: usize, last_id: impl Fn(&Entry) -> u32) -> BatchLists {
        let rows = |span: &Span| match self {
            Self::Sampling(_) => span.len - span.num_sampled_rows()..span.len,
            Self::Scoring(_) => 0..span.len,
        };
        BatchLists::of(self.spans(), rows, block_size, last_id)
    }

    /// Whether each sequence has one row and samples from it.
    pub(crate) fn only_decodes(&self) -> bool {
        match self {
            Self::Sampling(spans) => spans.iter().all(|span| span.len == 1 && span.samples()),
            Self::Scoring(_) => false,
        }
    }
}

/// A [`ForwardBatch`] on the host.
#[derive(Debug, Default)]
pub(crate) struct BatchLists {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    q_starts: Vec<u32>,
    context_lens: Vec<u32>,
    logits_rows: Vec<u32>,
    block_tables: Vec<u32>,
    table_width: usize,
}

impl BatchLists {
    /// As large as a step can be, of sequences that are all read at once and kept nowhere.
    pub(crate) fn largest(
        num_tokens: usize,
        logits_rows: usize,
        max_model_len: usize,
        block_size: usize,
    ) -> Self {
        let mut lists = Self { q_starts: vec![0], ..Self::default() };
        lists.table_width = max_model_len.min(num_tokens).div_ceil(block_size);
        for start in (0..num_tokens).step_by(max_model_len) {
            let len = max_model_len.min(num_tokens - start) as u32;
            lists.positions.extend(0..len);
            lists.q_starts.push(start as u32 + len);
            lists.context_lens.push(len);
        }
        lists.ids = vec![0; num_tokens];
        lists.slots = vec![NO_SLOT; num_tokens];
        lists.logits_rows = (0..logits_rows.min(num_tokens) as u32).collect();
        lists.block_tables = vec![0; lists.context_lens.len() * lists.table_width];
        lists
    }

    /// Spans back to back; `rows` says which of a span's rows are wanted. For `last_id` see
    /// [`Pack::lists`].
    pub(crate) fn of(
        spans: &[Span],
        rows: impl Fn(&Span) -> Range<usize>,
        block_size: usize,
        last_id: impl Fn(&Entry) -> u32,
    ) -> Self {
        let table_width = spans.iter().map(|span| span.entry.blocks.len()).max().unwrap_or(0);
        let mut lists = Self { q_starts: vec![0], table_width, ..Self::default() };
        for span in spans {
            let blocks = &span.entry.blocks;
            let num_known = span.len - span.drafts.len();
            let known = &span.entry.ids[span.offset..];
            lists.ids.extend_from_slice(&known[..num_known.min(known.len())]);
            lists.ids.extend((known.len()..num_known).map(|_| last_id(span.entry)));
            lists.ids.extend_from_slice(span.drafts);
            for position in span.start()..span.end() {
                let block = blocks[position / block_size].index();
                lists.positions.push(position as u32);
                lists.slots.push((block * block_size + position % block_size) as u32);
            }
            let first = lists.q_starts[lists.q_starts.len() - 1];
            lists.q_starts.push(first + span.len as u32);
            lists.context_lens.push(span.end() as u32);
            lists.block_tables.extend(blocks.iter().map(|block| block.0));
            lists.block_tables.resize(lists.context_lens.len() * table_width, 0);
            lists.logits_rows.extend(rows(span).map(|row| first + row as u32));
        }
        lists
    }

    /// Adds sequences of one row that read and write nothing, and columns to the block tables, up to
    /// `num_seqs` and `table_width`. All sequences must have one row.
    pub(crate) fn pad(&mut self, num_seqs: usize, table_width: usize) {
        let mut tables = Vec::with_capacity(num_seqs * table_width);
        for table in self.block_tables.chunks(self.table_width.max(1)) {
            tables.extend_from_slice(table);
            tables.resize(tables.len() + table_width - self.table_width, 0);
        }
        tables.resize(num_seqs * table_width, 0);
        (self.block_tables, self.table_width) = (tables, table_width);
        self.ids.resize(num_seqs, 0);
        self.positions.resize(num_seqs, 0);
        self.slots.resize(num_seqs, NO_SLOT);
        self.context_lens.resize(num_seqs, 0);
        self.q_starts = (0..=num_seqs as u32).collect();
        self.logits_rows = (0..num_seqs as u32).collect();
    }

    /// All lists behind one another.
    pub(crate) fn words(&self) -> Vec<u32> {
        self.parts().concat()
    }

    fn parts(&self) -> [&[u32]; 7] {
        [
            &self.ids,
            &self.positions,
            &self.slots,
            &self.q_starts,
            &self.context_lens,
            &self.logits_rows,
            &self.block_tables,
        ]
    }

    /// Copies them to the device in one go: each copy costs a device more than the few bytes do.
    pub(crate) fn upload(
        &self,
        device: &Device,
        workspace: Option<&Arc<Workspace>>,
        is_batch_invariant: bool,
    ) -> Result<ForwardBatch> {
        let rows = self.q_starts.windows(2).map(|ends| (ends[1] - ends[0]) as usize);
        let contexts = self.context_lens.iter().map(|len| *len as usize);
        let extents = Extents::of(rows.zip(contexts));
        let words = upload(&self.words(), device)?;
        self.divide(&words, extents, workspace, is_batch_invariant)
    }

    /// The batch in a tensor that has, or will have, the [words](Self::words) of lists of these lengths,
    /// which describe sequences within `extents`.
    pub(crate) fn divide(
        &self,
        words: &Tensor,
        extents: Extents,
        workspace: Option<&Arc<Workspace>>,
        is_batch_invariant: bool,
    ) -> Result<ForwardBatch> {
        let extents = if is_batch_invariant { extents.in_tiles() } else { extents };
        let mut start = 0;
        let mut next = |len| {
            start += len;
            words.narrow(0, start - len, len)
        };
        let [ids, positions, slots, q_starts, context_lens, logits_rows, block_tables] =
            self.parts().map(<[u32]>::len);
        Ok(ForwardBatch {
            ids: next(ids)?,
            positions: next(positions)?,
            slots: next(slots)?,
            q_starts: next(q_starts)?,
            context_lens: next(context_lens)?,
            logits_rows: next(logits_rows)?,
            block_tables: next(block_tables)?
                .reshape((self.context_lens.len(), self.table_width))?,
            on_device: workspace.map(|workspace| (extents, Arc::clone(workspace))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scheduler::{BlockId, SeqId};

    use super::*;

    fn entry(id: u64, start: usize, ids: &[u32], blocks: &[u32], samples: bool) -> Entry {
        Entry {
            id: SeqId(id),
            start,
            len: ids.len(),
            num_drafts: 0,
            ids: ids.into(),
            blocks: Arc::new(blocks.iter().copied().map(BlockId).collect()),
            samples,
            prompt_logits: false,
            cached_tokens: 0,
        }
    }

    fn limits(logits_rows: usize) -> PackLimits {
        PackLimits { logits_rows, split_rows: usize::MAX }
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
        let packs = divide(&plan, &[&[][..]; 3], limits(4));
        assert_eq!(packs.len(), 1);
        let batch =
            packs[0].lists(4, |_| unreachable!()).upload(&Device::Cpu, None, false).unwrap();
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
        let packs = divide(&plan, &[&[][..]; 2], limits(3));
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
        let batch =
            packs[2].lists(4, |_| unreachable!()).upload(&Device::Cpu, None, false).unwrap();
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
        let packs = divide(&plan, &drafts, limits(4));
        let sizes: Vec<_> = packs.iter().map(|pack| pack.spans().len()).collect();
        assert_eq!(sizes, [2, 2], "five rows are more than four");
        let batch =
            packs[0].lists(4, |_| unreachable!()).upload(&Device::Cpu, None, false).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
        assert_eq!(read(&batch.ids), [1, 2, 41, 7, 8]);
        assert_eq!(read(&batch.positions), [0, 1, 1, 2, 3]);
        assert_eq!(read(&batch.context_lens), [2, 4]);
        assert_eq!(read(&batch.logits_rows), [2, 3, 4]);
        assert_eq!(
            read(
                &packs[1]
                    .lists(4, |_| unreachable!())
                    .upload(&Device::Cpu, None, false)
                    .unwrap()
                    .logits_rows
            ),
            [0, 1, 2]
        );
    }

    #[test]
    fn an_id_that_is_not_yet_known_is_asked_for() {
        let mut entries = vec![entry(1, 3, &[], &[0], true), entry(2, 0, &[8, 9], &[1], false)];
        entries[0].len = 1;
        let plan = plan(entries);
        let packs = divide(&plan, &[&[][..]; 2], limits(8));
        let batch = packs[0]
            .lists(4, |entry| 70 + entry.id.0 as u32)
            .upload(&Device::Cpu, None, false)
            .unwrap();
        assert_eq!(batch.ids.to_vec1::<u32>().unwrap(), [71, 8, 9]);
        assert_eq!(batch.positions.to_vec1::<u32>().unwrap(), [3, 0, 1]);
    }

    #[test]
    fn rows_that_attention_splits_are_bounded() {
        let ids = [1; 9];
        let lens = [3, 9, 4, 1, 8, 9];
        let entries = lens
            .iter()
            .enumerate()
            .map(|(at, len)| entry(at as u64, 0, &ids[..*len], &[at as u32], true));
        let plan = plan(entries.collect());
        let limits = PackLimits { logits_rows: 9, split_rows: 8 };
        let packs = divide(&plan, &[&[][..]; 6], limits);
        let sizes: Vec<_> = packs.iter().map(|pack| pack.spans().len()).collect();
        assert_eq!(sizes, [4, 2], "3 + 4 + 1 rows, then 8; nine are no split rows");
    }

    #[test]
    fn the_largest_step_has_all_tokens_and_writes_none() {
        let batch = BatchLists::largest(20, 6, 8, 4).upload(&Device::Cpu, None, false).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
        assert_eq!(read(&batch.q_starts), [0, 8, 16, 20]);
        assert_eq!(read(&batch.context_lens), [8, 8, 4]);
        assert_eq!(read(&batch.positions)[6..12], [6, 7, 0, 1, 2, 3]);
        assert_eq!(read(&batch.slots), [NO_SLOT; 20]);
        assert_eq!(read(&batch.logits_rows), [0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.block_tables.dims(), [3, 2]);
    }

    #[test]
    fn padding_reads_and_writes_nothing() {
        let plan = plan(vec![entry(1, 5, &[50], &[7, 2], true), entry(2, 0, &[9], &[3], true)]);
        let packs = divide(&plan, &[&[][..]; 2], limits(8));
        assert!(packs[0].only_decodes());
        let mut lists = packs[0].lists(4, |_| unreachable!());
        lists.pad(4, 3);
        let batch = lists.upload(&Device::Cpu, None, false).unwrap();
        let read = |tensor: &Tensor| tensor.to_vec1::<u32>().unwrap();
        assert_eq!(read(&batch.ids), [50, 9, 0, 0]);
        assert_eq!(read(&batch.slots), [9, 12, NO_SLOT, NO_SLOT]);
        assert_eq!(read(&batch.context_lens), [6, 1, 0, 0]);
        assert_eq!(read(&batch.q_starts), [0, 1, 2, 3, 4]);
        assert_eq!(read(&batch.logits_rows), [0, 1, 2, 3]);
        let tables = batch.block_tables.to_vec2::<u32>().unwrap();
        assert_eq!(tables, [[7, 2, 0], [3, 0, 0], [0; 3], [0; 3]]);
    }

    #[test]
    fn chunks_alone_want_no_logits() {
        let plan = plan(vec![entry(1, 0, &[1, 2], &[0], false)]);
        let batch = divide(&plan, &[&[]], limits(8))[0]
            .lists(4, |_| unreachable!())
            .upload(&Device::Cpu, None, false)
            .unwrap();
        assert_eq!(batch.logits_rows.dims(), [0]);
    }
}
