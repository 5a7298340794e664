//! A model whose keys and values are names: a slot holds the identity of the whole prefix that was
//! computed into it. So each step can check that it reads exactly what it should.

use std::collections::{HashMap, HashSet};

use scheduler::{Entry, NewSequence, Plan, SeqId, TokenId};

use crate::random::mix;

/// Tokens are `0..VOCAB`; few, so that prompts and outputs often agree.
pub(crate) const VOCAB: u64 = 3;

/// What a request gives if it runs alone.
pub(crate) struct Solo {
    /// The prompt, then `max_new_tokens` tokens.
    pub(crate) tokens: Vec<TokenId>,
    /// Of each prefix that ends with a token. `[tokens]`
    identities: Vec<u64>,
    root: u64,
    /// The first of `tokens` that is an end-of-sequence token, if one was generated.
    pub(crate) end: Option<usize>,
}

impl Solo {
    pub(crate) fn run(request: &NewSequence) -> Self {
        let salt = request.salt.iter().flat_map(|salt| salt.bytes());
        let root = salt.fold(1, |root, byte| mix(root ^ u64::from(byte)));
        let mut solo = Self { tokens: Vec::new(), identities: Vec::new(), root, end: None };
        request.prompt.iter().for_each(|token| solo.push(*token));
        for _ in 0..request.max_new_tokens {
            let identity = solo.identities[solo.tokens.len() - 1];
            if solo.end.is_none() && ends(identity) {
                solo.end = Some(solo.tokens.len());
            }
            solo.push(next_token(identity));
        }
        solo
    }

    fn push(&mut self, token: TokenId) {
        let before = self.identities.last().copied().unwrap_or(self.root);
        self.tokens.push(token);
        self.identities.push(extend(before, token));
    }
}

fn extend(before: u64, token: TokenId) -> u64 {
    mix(before ^ mix(u64::from(token) + 2))
}

fn next_token(identity: u64) -> TokenId {
    (mix(identity) % VOCAB) as TokenId
}

fn ends(identity: u64) -> bool {
    mix(identity ^ 3).is_multiple_of(40)
}

/// One row's result.
#[derive(Clone, Copy)]
pub(crate) struct Sampled {
    pub(crate) token: TokenId,
    pub(crate) ends: bool,
}

pub(crate) struct FakeModel {
    block_size: usize,
    /// `[num_blocks * block_size]`
    slots: Vec<u64>,
    /// What each sequence's last row gave, as a device keeps it for the step after.
    last: HashMap<SeqId, TokenId>,
    /// Sequences that were in a failed step: what they hold means nothing.
    pub(crate) broken: HashSet<SeqId>,
    garbage: u64,
}

impl FakeModel {
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> Self {
        Self {
            block_size,
            slots: vec![0; num_blocks * block_size],
            last: HashMap::new(),
            broken: HashSet::new(),
            garbage: 0,
        }
    }

    /// Runs a step: all entries write, as the layers of a model do, before the first one attends.
    /// `drafts` has the guesses of each entry. Returns for each the guesses that were right and what
    /// comes after them.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        drafts: &[Vec<TokenId>],
        solos: &HashMap<SeqId, Solo>,
    ) -> Vec<Vec<Sampled>> {
        let sound = |model: &Self, entry: &Entry| !model.broken.contains(&entry.id);
        for entry in plan.entries.iter().filter(|entry| sound(self, entry)) {
            self.check_prefix(entry, entry.start, &solos[&entry.id]);
        }
        let mut written = HashSet::new();
        for (entry, drafts) in plan.entries.iter().zip(drafts) {
            for position in entry.start..entry.start + entry.len {
                assert!(written.insert(self.slot(entry, position)), "two write {entry:?}");
            }
            if sound(self, entry) {
                self.write(entry, drafts, &solos[&entry.id]);
            } else {
                self.spoil(entry);
            }
        }
        for entry in plan.entries.iter().filter(|entry| sound(self, entry)) {
            let end = entry.start + entry.len - entry.num_drafts;
            self.check_prefix(entry, end, &solos[&entry.id]);
        }
        plan.entries.iter().zip(drafts).map(|(entry, drafts)| self.sample(entry, drafts)).collect()
    }

    /// A step or one of its entries fails: it may have written anything.
    pub(crate) fn fail(&mut self, entry: &Entry) {
        self.spoil(entry);
        self.broken.insert(entry.id);
    }

    fn slot(&self, entry: &Entry, position: usize) -> usize {
        entry.blocks[position / self.block_size].index() * self.block_size
            + position % self.block_size
    }

    fn check_prefix(&self, entry: &Entry, len: usize, solo: &Solo) {
        for position in 0..len {
            let found = self.slots[self.slot(entry, position)];
            assert_eq!(found, solo.identities[position], "wrong at {position} of {entry:?}");
        }
    }

    fn write(&mut self, entry: &Entry, drafts: &[TokenId], solo: &Solo) {
        let num_known = entry.len - entry.num_drafts;
        let mut ids = entry.ids.to_vec();
        if ids.len() < num_known {
            ids.push(self.last[&entry.id]);
        }
        assert_eq!(ids, solo.tokens[entry.start..entry.start + num_known], "{entry:?}");
        ids.extend(drafts);
        for (position, token) in (entry.start..).zip(ids) {
            let before = match position {
                0 => solo.root,
                _ => self.slots[self.slot(entry, position - 1)],
            };
            let slot = self.slot(entry, position);
            self.slots[slot] = extend(before, token);
        }
    }

    fn spoil(&mut self, entry: &Entry) {
        for position in entry.start..entry.start + entry.len {
            self.garbage += 1;
            let slot = self.slot(entry, position);
            self.slots[slot] = mix(self.garbage);
        }
    }

    fn sample(&mut self, entry: &Entry, drafts: &[TokenId]) -> Vec<Sampled> {
        let first = entry.start + entry.len - entry.num_drafts - 1;
        let mut sampled = Vec::new();
        for at in 0..=entry.num_drafts {
            let identity = self.slots[self.slot(entry, first + at)];
            let token = next_token(identity);
            self.last.insert(entry.id, token);
            sampled.push(Sampled { token, ends: ends(identity) });
            if ends(identity) || drafts.get(at) != Some(&token) {
                break;
            }
        }
        sampled
    }
}
