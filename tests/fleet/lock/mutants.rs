//! Scripts that are broken on purpose: what checks the scripts has to notice each of them.

use super::differential::{Scripts, compare};
use super::scripts::Source;
use super::support::server::Server;
use super::world::Faults;

/// Puts `by` in the place of `from`, which has to be there, in the scripts that have it.
fn breaks(from: &'static str, by: &'static str) {
    let Some(server) = Server::start_blocking(&[]) else {
        return;
    };
    let edit = move |(_, code): Source| code.replace(from, by);
    assert!(
        super::scripts::ACQUIRE.1.contains(from),
        "`{from}` is in no script"
    );
    let mut scripts = Scripts::load(&server, &edit);
    let noticed = (0..24).any(|seed| compare(&mut scripts, seed, 2_000, Faults::ALL).is_err());
    assert!(noticed, "`{by}` instead of `{from}` went unnoticed");
}

#[test]
fn a_newcomer_that_overtakes_the_queue_is_noticed() {
    breaks(
        "local mine, slot = hand_off(me)",
        "local mine, slot = nil, not queued and not in_grace() and free_slot()
         if not slot then mine, slot = hand_off(me) end",
    );
}

#[test]
fn a_token_that_is_a_plain_counter_is_noticed() {
    breaks("token = most(token + 1, now)", "token = token + 1");
}

#[test]
fn leases_that_outlive_a_clock_that_went_back_are_noticed() {
    breaks("if longest > 0 then cap(H, now + longest) end", "");
}

#[test]
fn a_shrunk_lock_that_admits_while_others_drain_is_noticed() {
    breaks("if leases > max and live() >= max then return nil end", "");
}
