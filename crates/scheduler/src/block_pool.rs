//! Reference-counted blocks. A block nobody holds is in the free list, which is also the order of
//! eviction: first the blocks without identity, then the findable ones, least recently used first.
//!
//! Sequences give their blocks back from the last to the first, and whoever holds a findable block
//! holds its parent. So a parent never leaves the cache before its children.

use crate::BlockId;
use crate::prefix_cache::{Content, PrefixCache};

/// End of the free list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    num_holders: u32,
    /// Neighbours in the free list, meaningful while nobody holds the block.
    previous: u32,
    next: u32,
}

/// All blocks of the KV cache and what is known of each.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    first_free: u32,
    last_free: u32,
    num_free: usize,
    cache: PrefixCache,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: usize, block_size: usize, hash_mask: u64) -> Self {
        let mut pool = Self {
            blocks: vec![Block { num_holders: 0, previous: NONE, next: NONE }; num_blocks],
            first_free: NONE,
            last_free: NONE,
            num_free: 0,
            cache: PrefixCache::new(num_blocks, block_size, hash_mask),
        };
        for index in 0..num_blocks {
            pool.append(BlockId(index as u32));
        }
        pool
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks nobody holds, findable ones included.
    pub(crate) fn num_free(&self) -> usize {
        self.num_free
    }

    pub(crate) fn is_free(&self, block: BlockId) -> bool {
        self.blocks[block.index()].num_holders == 0
    }

    pub(crate) fn num_holders(&self, block: BlockId) -> usize {
        self.blocks[block.index()].num_holders as usize
    }

    pub(crate) fn cache(&self) -> &PrefixCache {
        &self.cache
    }

    /// Takes the free block that was longest of no use; what it held is forgotten.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        if self.first_free == NONE {
            return None;
        }
        let block = BlockId(self.first_free);
        self.cache.remove(block);
        self.retain(block);
        Some(block)
    }

    /// Adds a holder to a block.
    pub(crate) fn retain(&mut self, block: BlockId) {
        if self.is_free(block) {
            self.unlink(block);
        }
        self.blocks[block.index()].num_holders += 1;
    }

    /// Removes a holder. Without any the block is free: soon used again if it has no identity, as
    /// late as possible if it has one.
    pub(crate) fn release(&mut self, block: BlockId) {
        let holders = &mut self.blocks[block.index()].num_holders;
        assert!(*holders > 0, "block {block:?} is released but nobody holds it");
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        if self.cache.contains(block) {
            self.append(block);
        } else {
            self.prepend(block);
        }
    }

    /// The block with this content, without holding it.
    pub(crate) fn find(&self, content: &Content<'_>) -> Option<BlockId> {
        self.cache.find(content)
    }

    /// Makes a held, computed block findable; see [`PrefixCache::insert`].
    pub(crate) fn register(&mut self, block: BlockId, content: Content<'_>) -> Option<BlockId> {
        assert!(!self.is_free(block), "block {block:?} gets an identity but nobody holds it");
        self.cache.insert(block, content)
    }

    /// The free blocks in order of eviction.
    pub(crate) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        let mut next = self.first_free;
        std::iter::from_fn(move || {
            let block = (next != NONE).then_some(BlockId(next))?;
            next = self.blocks[block.index()].next;
            Some(block)
        })
    }

    fn append(&mut self, block: BlockId) {
        self.link(self.last_free, block, NONE);
    }

    fn prepend(&mut self, block: BlockId) {
        self.link(NONE, block, self.first_free);
    }

    fn link(&mut self, previous: u32, block: BlockId, next: u32) {
        self.set_next(previous, block.0);
        self.set_previous(next, block.0);
        let links = &mut self.blocks[block.index()];
        (links.previous, links.next) = (previous, next);
        self.num_free += 1;
    }

    fn unlink(&mut self, block: BlockId) {
        let Block { previous, next, .. } = self.blocks[block.index()];
        self.set_next(previous, next);
        self.set_previous(next, previous);
        self.num_free -= 1;
    }

    fn set_next(&mut self, block: u32, next: u32) {
        match block {
            NONE => self.first_free = next,
            _ => self.blocks[block as usize].next = next,
        }
    }

    fn set_previous(&mut self, block: u32, previous: u32) {
        match block {
            NONE => self.last_free = previous,
            _ => self.blocks[block as usize].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix_cache::Parent;

    fn content(hash: u64, parent: Parent, tokens: &[u32]) -> Content<'_> {
        Content { hash, parent, tokens }
    }

    #[test]
    fn evicts_unnamed_blocks_first_then_the_least_recently_used() {
        let mut pool = BlockPool::new(4, 1, u64::MAX);
        let held: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(pool.allocate(), None);
        for (hash, index) in [(10, 0), (11, 1), (12, 2)] {
            pool.register(held[index], content(hash, Parent::Root(None), &[hash as u32]));
        }
        for index in [2, 0, 3, 1] {
            pool.release(held[index]);
        }
        // A hit makes block 2 the most recently used.
        let hit = pool.find(&content(12, Parent::Root(None), &[12])).unwrap();
        pool.retain(hit);
        pool.release(hit);
        assert_eq!(pool.num_free(), 4);
        let order: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(order, [held[3], held[0], held[1], held[2]]);
        assert_eq!(pool.cache().len(), 0);
    }

    #[test]
    fn a_shared_block_is_free_after_its_last_holder() {
        let mut pool = BlockPool::new(1, 1, u64::MAX);
        let block = pool.allocate().unwrap();
        pool.retain(block);
        pool.release(block);
        assert_eq!((pool.num_free(), pool.num_holders(block)), (0, 1));
        pool.release(block);
        assert_eq!(pool.allocate(), Some(block));
    }

    #[test]
    #[should_panic(expected = "nobody holds it")]
    fn a_block_cannot_be_released_twice() {
        let mut pool = BlockPool::new(1, 1, u64::MAX);
        let block = pool.allocate().unwrap();
        pool.release(block);
        pool.release(block);
    }
}
