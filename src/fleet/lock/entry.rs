//! How somebody new who asks becomes known.

use std::sync::Arc;

use super::op::Member;
use super::shared::Shared;
use super::waiter::{Waiter, next_id};
use crate::call::Holder;

/// What the store keeps of a holder: it stands in several keys.
fn short(holder: &Holder) -> String {
    const MOST: usize = 200;
    holder.to_string().chars().take(MOST).collect()
}

/// Somebody new who asks, as this process and the store know it.
pub(super) fn enter(shared: &Shared, holder: &Holder) -> Arc<Waiter> {
    let member = Member::new(
        &next_id(),
        shared.settings.lease_micros(),
        &shared.inbox,
        &shared.node,
        &short(holder),
    );
    let waiter = Arc::new(Waiter::new(member));
    let mut waiters = shared.waiters();
    waiters.insert(waiter.member.id().to_owned(), Arc::clone(&waiter));
    waiter
}
