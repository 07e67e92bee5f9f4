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

#[test]
fn an_index_that_forgets_the_first_slot_of_a_member_is_noticed() {
    breaks("(known[2] or '') .. slot", "slot");
}

#[test]
fn an_index_that_does_not_say_which_slot_a_member_has_is_noticed() {
    breaks("others, (known[2] or '')", "'o:', (known[2] or '')");
}

#[test]
fn an_index_that_forgets_all_slots_of_a_member_when_another_takes_one_is_noticed() {
    breaks("if left == '' then", "if true then");
}

#[test]
fn a_member_whose_first_slot_to_expire_is_found_is_noticed() {
    breaks("ends > expiry or", "ends < expiry or");
}
