//! What the core promises, kept by a ledger that does nothing clever: every step of random clients is entered in it.

use std::collections::BTreeSet;

use super::core::SemCore;
use super::op::{Cancelled, Held, Listed, Member, Micros, Op, Reply, WAIT_TTL};
use super::world::{Faults, Step, World};

/// A lease as its holder may believe in it, in real time.
struct Belief {
    slot: u32,
    token: u64,
    until: Micros,
}

#[derive(Default)]
struct Ledger {
    /// In order of arrival, each with the time until which it is alive.
    queue: Vec<(Member, Micros)>,
    tokens: BTreeSet<u64>,
    beliefs: Vec<Belief>,
    real: Micros,
    grants: usize,
    handoffs: usize,
    lost: usize,
    adopted: usize,
    shrunk: usize,
}

impl Ledger {
    fn is_alive(now: Micros) -> impl Fn(&(Member, Micros)) -> bool {
        move |it| it.1 > now
    }

    /// Nobody but the dead may have vanished from the queue.
    fn forget_dead(&mut self, before: &Listed, now: Micros) {
        let is_alive = Self::is_alive(now);
        self.queue.retain(|waiter| {
            let is_there = before.queue.iter().any(|it| it.0 == waiter.0);
            assert!(is_there || !is_alive(waiter), "{waiter:?} has vanished");
            is_there
        });
    }

    /// The clock may have gone back: nobody is silent for longer than that from now on.
    fn heal(&mut self, now: Micros) {
        for waiter in &mut self.queue {
            waiter.1 = waiter.1.min(now + WAIT_TTL);
        }
    }

    /// Slots that nobody had before, in the order of their tokens.
    fn granted(&mut self, held: &[Held], was_waiting: &[Member], now: Micros) {
        let is_new = |it: &&Held| !self.tokens.contains(&it.token);
        let mut new: Vec<Held> = held.iter().filter(is_new).cloned().collect();
        new.sort_by_key(|it| it.token);
        for it in new {
            let highest = self.tokens.last().copied().unwrap_or(0);
            assert!(it.token > highest, "token {} after {highest}", it.token);
            self.tokens.insert(it.token);
            self.grants += 1;
            let first = self.queue.iter().position(Self::is_alive(now));
            if was_waiting.contains(&it.member) {
                let first = first.expect("somebody who waits");
                assert_eq!(self.queue[first].0, it.member, "not the head of the queue");
                self.queue.drain(..=first);
                self.handoffs += 1;
            } else {
                assert!(first.is_none(), "{it:?} overtakes {:?}", self.queue);
                self.queue.clear();
            }
            self.believes(it.slot, it.token, it.expiry - now);
        }
    }

    fn believes(&mut self, slot: u32, token: u64, span: Micros) {
        self.beliefs.retain(|it| it.token != token);
        let until = self.real + span;
        self.beliefs.push(Belief { slot, token, until });
    }
}

fn listed(core: &mut SemCore, world: &World) -> Listed {
    match core.apply(&Op::List, world.clock).reply {
        Reply::Listed(listed) => listed,
        other => panic!("{other:?}"),
    }
}

/// One step, and everything that can be said about it.
fn check_step(core: &mut SemCore, world: &mut World, ledger: &mut Ledger, faults: Faults) {
    ledger.real += world.tick();
    let op = match world.step() {
        Step::Op(op) => op,
        Step::Loss => {
            *core = SemCore::new();
            return ledger.queue.clear();
        }
        Step::Failover => return,
    };
    let now = world.clock.now;
    let before = listed(core, world);
    ledger.forget_dead(&before, now);
    let answer = core.apply(&op, world.clock);
    let handoffs = core.take_handoffs();
    let after = listed(core, world);
    let (was, is, max) = (before.held.len(), after.held.len(), answer.max);
    let is = i64::try_from(is).unwrap();

    assert!(
        is <= i64::try_from(was).unwrap() || max == -1 || is <= max,
        "{was} -> {is} of {max} by {op:?}"
    );
    ledger.shrunk += usize::from(is > max);
    enter(ledger, &op, &answer.reply, &before, now);
    let waiting: Vec<Member> = ledger.queue.iter().map(|it| it.0.clone()).collect();
    ledger.granted(&after.held, &waiting, now);
    if let (Op::Acquire { member, .. }, Reply::Waits { .. }) = (&op, &answer.reply)
        && !ledger.queue.iter().any(|it| it.0 == *member)
    {
        ledger.queue.push((member.clone(), now + WAIT_TTL));
    }
    if let Reply::Waits { .. } | Reply::Refused { .. } = answer.reply {
        ledger.heal(now);
    }
    // By the clock of this step: it may go back before the next.
    ledger.forget_dead(&after, now);
    for it in &handoffs {
        let held = after.held.iter().find(|held| held.token == it.token);
        let held = held.expect("what is told is held");
        assert_eq!((held.member.id(), held.slot), (it.id.as_str(), it.slot));
    }

    // Nothing is left free while somebody waits.
    let hands_off = match &op {
        Op::List => false,
        Op::Resize { version, .. } => version.is_none(),
        Op::Acquire { retry, .. } => !retry,
        _ => true,
    };
    if hands_off && max != -1 && !faults.grace && ledger.queue.iter().any(Ledger::is_alive(now)) {
        assert!(is >= max, "{is} of {max} held: {:?}", after.queue);
    }
    // What holders believe is true, if no clock ran ahead and nothing was forgotten or shrunk.
    if !faults.clock_forward && !faults.loss && !faults.resize {
        let real = ledger.real;
        ledger.beliefs.retain(|it| it.until > real);
        assert!(i64::try_from(ledger.beliefs.len()).unwrap() <= max.max(0));
        for (i, it) in ledger.beliefs.iter().enumerate() {
            assert!(
                ledger.beliefs[..i]
                    .iter()
                    .all(|other| other.slot != it.slot)
            );
        }
    }
    world.hear(&op, &answer, &handoffs);
}

fn run(seed: u64, steps: usize, faults: Faults) -> Ledger {
    let mut ledger = Ledger::default();
    let mut world = World::new(seed, faults);
    let mut core = SemCore::new();
    for _ in 0..steps {
        check_step(&mut core, &mut world, &mut ledger, faults);
    }
    ledger
}

const NONE: Faults = Faults {
    clock_forward: false,
    clock_back: false,
    loss: false,
    resize: false,
    grace: false,
};

#[test]
fn the_core_never_admits_one_too_many_nor_out_of_turn_whatever_clock_and_size_do() {
    let (mut grants, mut handoffs, mut lost, mut adopted, mut shrunk) = (0, 0, 0, 0, 0);
    for seed in 0..40 {
        let ledger = run(seed, 2_000, Faults::ALL);
        grants += ledger.grants;
        handoffs += ledger.handoffs;
        lost += ledger.lost;
        adopted += ledger.adopted;
        shrunk += ledger.shrunk;
    }
    // Everything that is promised something about has happened.
    let seen = [grants, handoffs, lost, adopted, shrunk];
    assert!(seen.iter().all(|it| *it > 500), "{seen:?}");
}

#[test]
fn what_holders_believe_of_their_leases_is_true_unless_the_clock_runs_ahead() {
    for seed in 0..40 {
        let faults = Faults {
            clock_back: seed % 2 == 0,
            ..NONE
        };
        let ledger = run(1_000 + seed, 2_000, faults);
        assert!(ledger.grants > 200, "{}", ledger.grants);
    }
}

#[test]
fn after_a_loss_the_grace_lets_old_holders_back_and_nobody_else_in() {
    let mut adopted = 0;
    for seed in 0..40 {
        let faults = Faults {
            loss: true,
            grace: true,
            ..NONE
        };
        adopted += run(2_000 + seed, 2_000, faults).adopted;
    }
    assert!(adopted > 100, "{adopted}");
}

/// What an operation says of itself.
fn enter(ledger: &mut Ledger, op: &Op, reply: &Reply, before: &Listed, now: Micros) {
    match (op, reply) {
        (Op::Acquire { member, .. }, _) => {
            // It asked again, so it is alive.
            if let Some(waiter) = ledger.queue.iter_mut().find(|it| it.0 == *member) {
                waiter.1 = now + WAIT_TTL;
            }
        }
        (Op::Cancel(members), Reply::Cancelled(done)) => {
            for (member, done) in members.iter().zip(done) {
                let waited = ledger.queue.iter().any(|it| it.0 == *member);
                assert_eq!(waited, *done == Cancelled::LeftTheQueue, "{member:?}");
                ledger.queue.retain(|it| it.0 != *member);
                for held in before.held.iter().filter(|it| it.member == *member) {
                    ledger.beliefs.retain(|it| it.token != held.token);
                }
            }
        }
        (Op::Release(held), Reply::Released(done)) => {
            for ((slot, token), done) in held.iter().zip(done) {
                let live = before.held.iter().find(|it| it.slot == *slot);
                if live.is_some_and(|it| it.token == *token) {
                    assert!(done, "slot {slot} was held with token {token}");
                }
                if live.is_some_and(|it| it.token != *token) {
                    assert!(!done, "slot {slot} is another's");
                }
                ledger.beliefs.retain(|it| it.token != *token);
            }
        }
        (Op::Renew(held), Reply::Renewed(expiries)) => {
            ledger.heal(now);
            for (it, expiry) in held.iter().zip(expiries) {
                let is_live = |h: &Held| (h.slot, h.token) == (it.slot, it.token);
                let was_live = before.held.iter().any(is_live);
                if was_live {
                    assert_eq!(*expiry, now + it.member.lease(), "{it:?} was live");
                }
                if *expiry == 0 {
                    ledger.lost += 1;
                    ledger.beliefs.retain(|b| b.token != it.token);
                } else {
                    ledger.adopted += usize::from(!was_live);
                    ledger.believes(it.slot, it.token, expiry - now);
                }
            }
        }
        (Op::Beat(members), Reply::Beaten { waiting, ranks, .. }) => {
            ledger.queue.iter_mut().for_each(|it| {
                if members.contains(&it.0) {
                    it.1 = now + WAIT_TTL;
                }
            });
            ledger.queue.retain(|it| it.1 > now);
            ledger.heal(now);
            assert!(*waiting <= ledger.queue.len() as i64);
            assert_eq!(ranks.len(), members.len());
        }
        _ => {}
    }
}
