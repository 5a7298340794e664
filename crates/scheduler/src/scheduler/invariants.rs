//! What must hold between any two calls.

use std::collections::{HashMap, HashSet};

use super::Scheduler;
use crate::prefix_cache::Parent;
use crate::{BlockId, SeqId, Sequence, State};

impl Scheduler {
    /// For tests: panics if the state contradicts itself. Costs time in proportion to all tokens.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.check_sequences();
        self.check_holders();
        self.check_cache();
    }

    fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.waiting.values().chain(self.active.values())
    }

    fn check_sequences(&self) {
        let running: HashSet<SeqId> = self.running.iter().map(|(_, id)| *id).collect();
        assert!(running.len() <= self.limits.max_num_seqs);
        assert!(self.running.is_sorted());
        assert_eq!(self.waiting.len(), self.queue.len());
        assert!(self.waiting.values().all(|seq| seq.state == State::Waiting));
        assert!(self.active.values().all(|seq| seq.state != State::Waiting));
        let mut num_live = HashMap::new();
        for seq in self.sequences().filter(|seq| seq.state != State::Ended) {
            *num_live.entry(seq.tenant).or_insert(0) += 1;
        }
        self.queue.check_invariants(|tenant| num_live.get(&tenant).copied().unwrap_or(0));
        for (id, seq) in self.waiting.iter().chain(&self.active) {
            assert_eq!(running.contains(id), seq.state == State::Running, "{seq:?}");
            let Sequence { num_computed, num_planned, .. } = *seq;
            match seq.state {
                State::Waiting => {
                    assert!(seq.blocks.is_empty() && seq.num_in_flight == 0 && num_planned == 0);
                }
                State::Running => {
                    assert_eq!(num_computed < num_planned, seq.num_in_flight > 0, "{seq:?}");
                    assert!(seq.num_unknown <= seq.num_in_flight);
                }
                State::Ended => assert!(seq.num_in_flight > 0, "{seq:?} is forgotten too late"),
            }
            assert!(seq.num_in_flight <= self.in_flight.len());
            assert!(seq.num_drafts == 0 || seq.num_in_flight == 1, "{seq:?} runs ahead of drafts");
            assert!(num_computed <= num_planned);
            assert!(num_planned <= seq.tokens.len() + seq.num_unknown);
            assert!(seq.tokens.len() + seq.num_unknown <= seq.prompt_len + seq.max_new_tokens);
            assert!(seq.blocks.len() >= self.limits.blocks_for(num_planned), "{seq:?}");
            assert!(seq.num_registered <= num_computed / self.limits.block_size);
        }
    }

    /// Each block is free or held by exactly those whose tables (or plans) have it; a block in
    /// several tables has the same beginning, to its end, in all of them.
    fn check_holders(&self) {
        let block_size = self.limits.block_size;
        let mut holders: HashMap<BlockId, Vec<(usize, &Sequence)>> = HashMap::new();
        for seq in self.sequences() {
            for (at, block) in seq.blocks.iter().enumerate() {
                holders.entry(*block).or_default().push((at, seq));
            }
        }
        let let_go: HashSet<BlockId> =
            self.in_flight.iter().flat_map(|plan| plan.let_go.iter().copied()).collect();
        let free: HashSet<BlockId> = self.pool.free_list().collect();
        assert_eq!(free.len(), self.pool.num_free());
        for index in 0..self.pool.num_blocks() {
            let block = BlockId(index as u32);
            let tables = holders.get(&block).map_or(&[][..], Vec::as_slice);
            let num_holders = tables.len() + usize::from(let_go.contains(&block));
            assert_eq!(self.pool.num_holders(block), num_holders, "holders of {block:?}");
            assert_eq!(free.contains(&block), num_holders == 0, "{block:?} in the free list");
            for pair in tables.windows(2) {
                let [(at, a), (other_at, b)] = [pair[0], pair[1]];
                assert_eq!(at, other_at, "{block:?} stands at two places");
                assert!(at < a.num_registered && at < b.num_registered, "shared too early");
                assert_eq!(a.salt, b.salt, "{block:?} is shared between salts");
                let end = (at + 1) * block_size;
                assert_eq!(a.tokens[..end], b.tokens[..end], "{block:?} is shared wrongly");
            }
        }
    }

    /// Findable blocks have findable parents, which are evicted after them; the registered part
    /// of each table is such a chain.
    fn check_cache(&self) {
        let cache = self.pool.cache();
        let order: HashMap<BlockId, usize> =
            self.pool.free_list().enumerate().map(|(place, block)| (block, place)).collect();
        let mut num_cached = 0;
        for index in 0..self.pool.num_blocks() {
            let block = BlockId(index as u32);
            let Some(parent) = cache.parent(block) else {
                continue;
            };
            num_cached += 1;
            if let Parent::Block(parent) = parent {
                assert!(cache.contains(*parent), "{block:?} outlives its parent {parent:?}");
                match (order.get(parent), order.get(&block)) {
                    (Some(parent), Some(child)) => assert!(child < parent, "evicted in disorder"),
                    (Some(_), None) => panic!("{block:?} is held without its parent {parent:?}"),
                    (None, _) => {}
                }
            }
        }
        assert_eq!(num_cached, cache.len());
        for seq in self.sequences() {
            let registered = &seq.blocks[..seq.num_registered.min(seq.blocks.len())];
            for (at, block) in registered.iter().enumerate() {
                let parent = match at {
                    0 => Parent::Root(seq.salt.clone()),
                    _ => Parent::Block(registered[at - 1]),
                };
                assert_eq!(cache.parent(*block), Some(&parent), "{block:?} in {seq:?}");
            }
        }
    }
}
