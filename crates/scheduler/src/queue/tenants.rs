//! The tenants that are remembered: those with sequences, and those that are ahead of the others.

use std::collections::{BTreeSet, HashMap};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::tenant::{Tenant, TenantId};
use crate::Share;

/// Tenants without sequences that are remembered. With more, those least ahead are forgotten.
pub(super) const MAX_IDLE: usize = 4096;

/// All tenants that are remembered.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    slots: Vec<Option<Tenant>>,
    free: Vec<TenantId>,
    names: HashMap<Option<Arc<str>>, TenantId>,
    /// Those without sequences, by counter.
    idle: BTreeSet<(u64, TenantId)>,
}

impl Tenants {
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The tenant of a share, with one more sequence.
    pub(super) fn join(&mut self, share: Option<&Share>) -> TenantId {
        let name = share.map(|share| Arc::clone(&share.tenant));
        let id = match self.names.get(&name) {
            Some(id) => *id,
            None => self.insert(name, share),
        };
        let tenant = &mut self[id];
        if let Some(share) = share {
            tenant.weight = share.weight;
        }
        tenant.num_live += 1;
        let counter = tenant.counter;
        self.idle.remove(&(counter, id));
        id
    }

    fn insert(&mut self, name: Option<Arc<str>>, share: Option<&Share>) -> TenantId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            TenantId(self.slots.len() - 1)
        });
        self.slots[id.0] = Some(Tenant::new(share));
        self.names.insert(name, id);
        id
    }

    /// Takes a sequence off a tenant. Returns whether no tenant has any.
    pub(super) fn leave(&mut self, id: TenantId) -> bool {
        let tenant = &mut self[id];
        tenant.num_live -= 1;
        if tenant.num_live == 0 {
            let counter = tenant.counter;
            self.idle.insert((counter, id));
        }
        self.idle.len() == self.names.len()
    }

    /// Forgets a tenant without sequences whose counter is not above `level`, or the one least above
    /// it if there are too many.
    pub(super) fn forget_one(&mut self, level: u64) -> Option<(TenantId, u64)> {
        let &(counter, id) = self.idle.first()?;
        if counter > level && self.idle.len() <= MAX_IDLE {
            return None;
        }
        self.idle.pop_first();
        let tenant = self.slots[id.0].take().expect("an idle tenant is remembered");
        self.names.remove(&tenant.name);
        self.free.push(id);
        Some((id, counter))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TenantId, &Tenant)> {
        let tenants = self.slots.iter().enumerate();
        tenants.filter_map(|(at, slot)| Some((TenantId(at), slot.as_ref()?)))
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.names.len() + self.free.len(), self.slots.len());
        assert!(self.idle.len() <= MAX_IDLE);
        for (id, tenant) in self.iter() {
            tenant.check_invariants();
            assert_eq!(self.names.get(&tenant.name), Some(&id));
            let is_idle = self.idle.contains(&(tenant.counter, id));
            assert_eq!(is_idle, tenant.num_live == 0, "{tenant:?}");
        }
        assert!(self.len() == 0 || self.idle.len() < self.len(), "an idle queue remembers nobody");
    }
}

impl Index<TenantId> for Tenants {
    type Output = Tenant;

    fn index(&self, id: TenantId) -> &Tenant {
        self.slots[id.0].as_ref().expect("a tenant is remembered while it has sequences")
    }
}

impl IndexMut<TenantId> for Tenants {
    fn index_mut(&mut self, id: TenantId) -> &mut Tenant {
        self.slots[id.0].as_mut().expect("a tenant is remembered while it has sequences")
    }
}
