//! Finds computed blocks by what they hold: the block's tokens and all that came before.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::{BlockId, TokenId};

/// What comes before a block. Naming the parent block names everything before, because a parent
/// stays findable as long as any of its children is (see [`crate::block_pool`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Nothing: the first block of a sequence with this salt.
    Root(Option<Arc<str>>),
    /// A findable block.
    Block(BlockId),
}

/// The identity of a full block.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    /// [`chain_hash`] of all tokens up to the end of the block. Only a hint where to look.
    pub(crate) hash: u64,
    pub(crate) parent: Parent,
    pub(crate) tokens: &'a [TokenId],
}

/// Hash of a sequence up to the end of a block, from the hash up to its beginning.
pub(crate) fn chain_hash(before: u64, tokens: &[TokenId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    before.hash(&mut hasher);
    tokens.hash(&mut hasher);
    hasher.finish()
}

/// Hash of the beginning of every sequence with this salt.
pub(crate) fn root_hash(salt: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    salt.hash(&mut hasher);
    hasher.finish()
}

/// The findable blocks. At most one block has a given content, and at most one a given hash.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    by_hash: HashMap<u64, BlockId>,
    /// Hash and parent of each block, `None` if it is not findable.
    records: Vec<Option<(u64, Parent)>>,
    /// `[num_blocks, block_size]`, meaningful where there is a record.
    tokens: Vec<TokenId>,
    block_size: usize,
    /// All ones; fewer where a test wants collisions.
    hash_mask: u64,
}

impl PrefixCache {
    pub(crate) fn new(num_blocks: usize, block_size: usize, hash_mask: u64) -> Self {
        Self {
            by_hash: HashMap::new(),
            records: vec![None; num_blocks],
            tokens: vec![0; num_blocks * block_size],
            block_size,
            hash_mask,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.records[block.index()].is_some()
    }

    /// The parent of a findable block.
    pub(crate) fn parent(&self, block: BlockId) -> Option<&Parent> {
        self.records[block.index()].as_ref().map(|(_, parent)| parent)
    }

    /// The block with exactly this content.
    pub(crate) fn find(&self, content: &Content<'_>) -> Option<BlockId> {
        let block = *self.by_hash.get(&(content.hash & self.hash_mask))?;
        let same =
            self.tokens_of(block) == content.tokens && self.parent(block) == Some(&content.parent);
        same.then_some(block)
    }

    /// Makes a block findable and returns it, or the block that already has this content. `None` if
    /// another content has the same hash: then this one is not findable.
    pub(crate) fn insert(&mut self, block: BlockId, content: Content<'_>) -> Option<BlockId> {
        assert!(!self.contains(block), "block {block:?} has an identity already");
        let hash = content.hash & self.hash_mask;
        if self.by_hash.contains_key(&hash) {
            return self.find(&content);
        }
        self.by_hash.insert(hash, block);
        let start = block.index() * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(content.tokens);
        self.records[block.index()] = Some((hash, content.parent));
        Some(block)
    }

    /// Forgets a block, if it was findable.
    pub(crate) fn remove(&mut self, block: BlockId) {
        if let Some((hash, _)) = self.records[block.index()].take() {
            self.by_hash.remove(&hash);
        }
    }

    fn tokens_of(&self, block: BlockId) -> &[TokenId] {
        let start = block.index() * self.block_size;
        &self.tokens[start..start + self.block_size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(hash: u64, parent: Parent, tokens: &[TokenId]) -> Content<'_> {
        Content { hash, parent, tokens }
    }

    #[test]
    fn equal_hashes_do_not_make_equal_blocks() {
        let mut cache = PrefixCache::new(4, 2, u64::MAX);
        let (root, salted) = (Parent::Root(None), Parent::Root(Some("a".into())));
        let first = cache.insert(BlockId(0), content(7, root.clone(), &[1, 2]));
        assert_eq!(first, Some(BlockId(0)));
        let wrong = [
            content(7, root.clone(), &[1, 3]),
            content(7, salted, &[1, 2]),
            content(7, Parent::Block(BlockId(0)), &[1, 2]),
        ];
        for other in wrong {
            assert_eq!(cache.find(&other), None);
            assert_eq!(cache.insert(BlockId(1), other), None);
        }
        assert_eq!(cache.find(&content(7, root.clone(), &[1, 2])), Some(BlockId(0)));
        assert_eq!(cache.insert(BlockId(1), content(7, root, &[1, 2])), Some(BlockId(0)));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn forgets_what_is_removed() {
        let mut cache = PrefixCache::new(2, 1, u64::MAX);
        cache.insert(BlockId(1), content(3, Parent::Root(None), &[9]));
        cache.remove(BlockId(1));
        cache.remove(BlockId(0));
        assert_eq!(cache.find(&content(3, Parent::Root(None), &[9])), None);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn hashes_depend_on_salt_tokens_and_what_came_before() {
        let root = root_hash(None);
        assert_ne!(root, root_hash(Some("")));
        assert_ne!(root_hash(Some("a")), root_hash(Some("b")));
        assert_ne!(chain_hash(root, &[1, 2]), chain_hash(root, &[2, 1]));
        assert_ne!(chain_hash(root, &[1]), chain_hash(chain_hash(root, &[1]), &[1]));
    }
}
