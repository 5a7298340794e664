//! Who asks.

use std::hash::BuildHasher;

use crate::access::Call;
use crate::state::App;

/// One number for each key's name, where there are keys.
pub(crate) fn owner(app: &App) -> Option<u64> {
    let call = Call::current();
    call.key_name().map(|name| app.responses().keys.hash_one(name))
}
