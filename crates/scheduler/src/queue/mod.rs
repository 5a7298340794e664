//! Who waits, and who is next: fair between tenants by what each was served, in order of priority and
//! arrival within one. An operation costs the logarithm of the number of those who wait.
//!
//! The virtual token counter of Sheng et al. 2024, "Fairness in Serving Large Language Models"
//! (arXiv:2401.00588), with weights and priorities. The rules stand in the [crate]'s text.

mod tenant;
mod tenants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::tenant::TenantId;
use self::tenants::Tenants;
use crate::{SeqId, Share};

/// How often in a row the oldest waiting sequence of a tenant may be overtaken by more urgent ones of
/// its own, and the tenant with the smallest counter by more urgent ones of others.
pub const MAX_OVERTAKEN: usize = 8;

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not yet run.
    New { tenant: TenantId, priority: i32, arrival: u64 },
    /// Preempted; it was admitted first as number `ticket`.
    Preempted { ticket: u64 },
}

/// The waiting sequences: the preempted ones in order of first admission, then the new ones.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    preempted: BTreeMap<u64, SeqId>,
    tenants: Tenants,
    /// Tenants that wait, by counter; ties by their oldest sequence. A counter may be past its key,
    /// never before it: so a first key that is up to date is the smallest of all.
    by_counter: BTreeSet<(u64, u64, TenantId)>,
    /// The same by the priority of each one's most urgent sequence, then by counter.
    by_priority: BTreeSet<(i32, u64, u64, TenantId)>,
    num_new: usize,
    /// Sequences that were admitted since the tenant with the smallest counter had its turn.
    num_overtaken: usize,
    /// The choice among the new ones: it stays until it is admitted, so that nobody overtakes one
    /// that waits for blocks, unless somebody more urgent arrives.
    choice: Option<Choice>,
    /// Who stopped waiting last.
    last: Option<TenantId>,
    /// Its counter, once it is forgotten.
    floor: u64,
}

#[derive(Debug, Clone, Copy)]
struct Choice {
    place: Place,
    id: SeqId,
    priority: i32,
    /// Whether its tenant had the smallest counter.
    is_entitled: bool,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.preempted.len() + self.num_new
    }

    /// Tenants that it remembers.
    pub(crate) fn num_tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Counts a sequence of a tenant, until [`Self::leave`].
    pub(crate) fn join(&mut self, share: Option<&Share>) -> TenantId {
        self.tenants.join(share)
    }

    /// A sequence of the tenant has ended. A tenant without any is remembered while its counter is
    /// above what newcomers start with.
    pub(crate) fn leave(&mut self, tenant: TenantId) {
        if self.tenants.leave(tenant) {
            // Nobody waits or runs: all start anew.
            *self = Self::default();
            return;
        }
        let level = self.level();
        while let Some((tenant, counter)) = self.tenants.forget_one(level) {
            if self.last == Some(tenant) {
                self.last = None;
                self.floor = counter;
            }
        }
    }

    /// Adds what a tenant was served.
    pub(crate) fn charge(&mut self, tenant: TenantId, cost: u64) {
        self.tenants[tenant].charge(cost);
    }

    pub(crate) fn push(&mut self, place: Place, id: SeqId) {
        match place {
            Place::New { tenant, priority, arrival } => {
                if self.tenants[tenant].num_waiting() == 0 {
                    // No credit for what it did not ask for.
                    let level = self.level();
                    let counter = &mut self.tenants[tenant].counter;
                    *counter = level.max(*counter);
                }
                self.tenants[tenant].push(priority, arrival, id);
                self.num_new += 1;
                self.rekey(tenant);
                self.choice.take_if(|choice| priority < choice.priority);
            }
            Place::Preempted { ticket } => {
                self.preempted.insert(ticket, id);
            }
        }
    }

    pub(crate) fn remove(&mut self, place: Place) {
        let removed = match place {
            Place::New { tenant, priority, arrival } => {
                let removed = self.tenants[tenant].remove(priority, arrival);
                self.num_new -= 1;
                self.rekey(tenant);
                if self.tenants[tenant].num_waiting() == 0 {
                    self.last = Some(tenant);
                }
                self.choice.take_if(|choice| choice.place == place);
                removed
            }
            Place::Preempted { ticket } => self.preempted.remove(&ticket),
        };
        assert!(removed.is_some(), "nobody waits at {place:?}");
    }

    /// Who is next.
    pub(crate) fn head(&mut self) -> Option<SeqId> {
        if let Some(id) = self.preempted.values().next() {
            return Some(*id);
        }
        if self.choice.is_none() {
            self.choice = self.choose();
        }
        self.choice.map(|choice| choice.id)
    }

    fn choose(&mut self) -> Option<Choice> {
        let entitled = self.entitled()?;
        let tenant =
            if self.num_overtaken < MAX_OVERTAKEN { self.most_urgent()? } else { entitled };
        let (priority, arrival, id) = self.tenants[tenant].next()?;
        let place = Place::New { tenant, priority, arrival };
        Some(Choice { place, id, priority, is_entitled: tenant == entitled })
    }

    /// Removes a head that is admitted.
    pub(crate) fn admit(&mut self, place: Place) {
        if let Place::New { tenant, arrival, .. } = place {
            let choice = self.choice.filter(|choice| choice.place == place);
            let choice = choice.expect("only the head of the queue is admitted");
            self.num_overtaken = if choice.is_entitled { 0 } else { self.num_overtaken + 1 };
            self.tenants[tenant].count_admission(arrival);
        }
        self.remove(place);
    }

    /// The waiting tenant with the smallest counter.
    fn entitled(&mut self) -> Option<TenantId> {
        loop {
            let &(counter, _, tenant) = self.by_counter.first()?;
            if self.tenants[tenant].counter == counter {
                return Some(tenant);
            }
            self.rekey(tenant);
        }
    }

    /// The waiting tenant with the smallest counter among those with the most urgent sequences.
    fn most_urgent(&mut self) -> Option<TenantId> {
        loop {
            let &(_, counter, _, tenant) = self.by_priority.first()?;
            if self.tenants[tenant].counter == counter {
                return Some(tenant);
            }
            self.rekey(tenant);
        }
    }

    /// The smallest counter of those who wait, or that of the last who did.
    fn level(&mut self) -> u64 {
        match self.entitled().or(self.last) {
            Some(tenant) => self.tenants[tenant].counter,
            None => self.floor,
        }
    }

    /// Brings the keys of a tenant up to date.
    fn rekey(&mut self, id: TenantId) {
        let tenant = &mut self.tenants[id];
        let (old, new) = (tenant.key, tenant.current_key());
        if old == new {
            return;
        }
        tenant.key = new;
        if let Some(key) = old {
            self.by_counter.remove(&(key.counter, key.oldest, id));
            self.by_priority.remove(&(key.priority, key.counter, key.oldest, id));
        }
        if let Some(key) = new {
            self.by_counter.insert((key.counter, key.oldest, id));
            self.by_priority.insert((key.priority, key.counter, key.oldest, id));
        }
    }

    /// For tests: panics if the state contradicts itself. `num_live` has the sequences of a tenant
    /// that wait or run.
    pub(crate) fn check_invariants(&self, num_live: impl Fn(TenantId) -> usize) {
        self.tenants.check_invariants();
        let mut num_keys = 0;
        let mut num_new = 0;
        for (id, tenant) in self.tenants.iter() {
            assert_eq!(tenant.num_live, num_live(id), "{tenant:?}");
            num_new += tenant.num_waiting();
            if let Some(key) = tenant.key {
                num_keys += 1;
                assert!(self.by_counter.contains(&(key.counter, key.oldest, id)));
                let by_priority = (key.priority, key.counter, key.oldest, id);
                assert!(self.by_priority.contains(&by_priority));
            }
        }
        assert_eq!((self.by_counter.len(), self.by_priority.len()), (num_keys, num_keys));
        assert_eq!(num_new, self.num_new);
        assert!(self.num_overtaken <= MAX_OVERTAKEN);
    }
}
