//! Random clients of one lock, on a clock that is not to be trusted. What they do next depends on what they were answered.

use super::core::Clock;
use super::op::{Answer, Handoff, Held, Member, Micros, Op, Reply};
use super::support::rng::Rng;

/// What may go wrong in a world.
#[derive(Clone, Copy)]
pub(super) struct Faults {
    pub(super) clock_forward: bool,
    pub(super) clock_back: bool,
    /// The store forgets everything.
    pub(super) loss: bool,
    pub(super) resize: bool,
    pub(super) grace: bool,
}

impl Faults {
    pub(super) const ALL: Self = Self {
        clock_forward: true,
        clock_back: true,
        loss: true,
        resize: true,
        grace: false,
    };
}

pub(super) enum Step {
    Op(Op),
    /// Everything is gone, and the history is another one.
    Loss,
    /// The history is another one, and nothing is gone: a replica was promoted.
    Failover,
}

#[derive(Clone)]
enum State {
    Asked,
    Holding(Held),
    /// Given back, or given up: what is sent for it now is a repetition.
    Done(Option<Held>),
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) clock: Clock,
    faults: Faults,
    grace: Micros,
    clients: Vec<(Member, State)>,
    next_id: u64,
    version: i64,
    highest_token: u64,
    /// The clock does not go back behind it.
    earliest: Micros,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            rng: Rng::new(seed),
            clock: Clock {
                now: 1_795_434_343_000_000,
                history: 1,
            },
            faults,
            grace: if faults.grace { 2_500_000 } else { 0 },
            clients: Vec::new(),
            next_id: 0,
            version: 1,
            highest_token: 0,
            earliest: 0,
        }
    }

    /// How much real time passes before the next step; the clock of the store may do something else.
    pub(super) fn tick(&mut self) -> Micros {
        let real = match self.rng.below(20) {
            0 => self.rng.between(500_000, 3_000_000),
            1..=9 => self.rng.between(0, 200_000),
            _ => self.rng.between(0, 5_000),
        };
        self.clock.now += real;
        if self.faults.clock_back && self.rng.one_in(60) {
            self.clock.now -= self.rng.between(1, 3_000_000);
        }
        if self.faults.clock_forward && self.rng.one_in(60) {
            self.clock.now += self.rng.between(1, 5_000_000);
        }
        self.clock.now = self.clock.now.max(self.earliest);
        real
    }

    pub(super) fn step(&mut self) -> Step {
        if self.faults.loss && self.rng.one_in(400) {
            self.clock.history += 1;
            if self.rng.one_in(3) {
                return Step::Failover;
            }
            // A new server whose clock is behind the tokens that were given: the one case of which nothing is promised.
            self.earliest = i64::try_from(self.highest_token).unwrap() + 1;
            self.clock.now = self.clock.now.max(self.earliest);
            return Step::Loss;
        }
        self.clients.retain(|it| !matches!(it.1, State::Done(None)));
        while self.clients.len() > 24 {
            self.clients.remove(0);
        }
        Step::Op(self.op())
    }

    fn op(&mut self) -> Op {
        match self.rng.below(100) {
            0..=29 => self.acquire_anew(),
            30..=39 => self.with_one(|it| matches!(it, State::Asked), Self::acquire_again),
            40..=59 => self.with_one(|it| matches!(it, State::Holding(_)), Self::release),
            60..=64 => self.with_one(|it| matches!(it, State::Done(_)), Self::release),
            65..=72 => self.with_one(|it| !matches!(it, State::Done(_)), Self::cancel),
            73..=84 => self.renew(),
            85..=91 => Op::Beat(self.some(|it| matches!(it, State::Asked))),
            92..=94 => self.with_one(|it| matches!(it, State::Holding(_)), Self::acquire_late),
            95..=96 if self.faults.resize => self.resize(),
            _ => Op::List,
        }
    }

    fn acquire_anew(&mut self) -> Op {
        self.next_id += 1;
        let lease = self.rng.between(100_000, 6_000_000);
        let inbox = ["in:a", "in:b"][self.rng.below(2)];
        let id = format!("n{}", self.next_id);
        let member = Member::new(&id, lease, inbox, "node", "a|b {c}");
        self.clients.push((member.clone(), State::Asked));
        let may_wait = [1_000, 1_000, 1_000, 2, 0][self.rng.below(5)];
        self.acquire(member, may_wait, false)
    }

    fn acquire(&mut self, member: Member, may_wait: i64, retry: bool) -> Op {
        if self.faults.resize && self.rng.one_in(50) {
            self.version += 1;
        }
        Op::Acquire {
            member,
            may_wait,
            max: 1 + self.version % 4,
            version: self.version,
            grace: self.grace,
            retry,
        }
    }

    fn with_one(
        &mut self,
        which: impl Fn(&State) -> bool,
        f: impl Fn(&mut Self, usize) -> Op,
    ) -> Op {
        let fitting: Vec<usize> = (0..self.clients.len())
            .filter(|i| which(&self.clients[*i].1))
            .collect();
        if fitting.is_empty() {
            return self.acquire_anew();
        }
        let n = self.rng.below(fitting.len());
        f(self, fitting[n])
    }

    fn acquire_again(&mut self, i: usize) -> Op {
        let member = self.clients[i].0.clone();
        self.acquire(member, 1_000, true)
    }

    /// A call that was not answered is done after the one that was made again: the member has two slots then.
    fn acquire_late(&mut self, i: usize) -> Op {
        let member = self.clients[i].0.clone();
        let retry = self.rng.one_in(3);
        self.acquire(member, 0, retry)
    }

    fn release(&mut self, i: usize) -> Op {
        let state = &mut self.clients[i].1;
        let (State::Holding(held) | State::Done(Some(held))) = state.clone() else {
            return Op::List;
        };
        let mut released = vec![(held.slot, held.token)];
        *state = State::Done(Some(held));
        if self.rng.one_in(4) {
            // A second one in the same message, and a slot that nobody has.
            released.push((7, 1));
            let other = self
                .clients
                .iter_mut()
                .find_map(|(_, it)| match it.clone() {
                    State::Holding(held) => {
                        *it = State::Done(Some(held.clone()));
                        Some((held.slot, held.token))
                    }
                    _ => None,
                });
            released.extend(other);
        }
        Op::Release(released)
    }

    fn cancel(&mut self, i: usize) -> Op {
        let (member, state) = &mut self.clients[i];
        *state = State::Done(None);
        let mut members = vec![member.clone()];
        if self.rng.one_in(4) {
            // Both that it may have.
            members.push(member.clone());
        }
        if self.rng.one_in(5) {
            members.push(Member::new("nobody", 1_000, "", "node", ""));
        }
        Op::Cancel(members)
    }

    fn renew(&mut self) -> Op {
        let all = self.clients.iter().filter_map(|(_, state)| match state {
            State::Holding(held) => Some(held.clone()),
            // What was given back must not come back.
            State::Done(Some(held)) => Some(held.clone()),
            _ => None,
        });
        let mut held: Vec<Held> = all.collect();
        held.retain(|_| !self.rng.one_in(3));
        Op::Renew(held)
    }

    fn some(&mut self, which: impl Fn(&State) -> bool) -> Vec<Member> {
        let all = self.clients.iter().filter(|it| which(&it.1));
        let mut some: Vec<Member> = all.map(|it| it.0.clone()).collect();
        some.retain(|_| !self.rng.one_in(4));
        some
    }

    fn resize(&mut self) -> Op {
        self.version += self.rng.between(-1, 1);
        let version = match self.rng.below(3) {
            0 => None,
            _ => Some(self.version),
        };
        Op::Resize {
            max: self.rng.between(1, 5),
            version,
        }
    }

    /// Everything was lost: the versions begin anew with what the clients have.
    pub(super) fn hear(&mut self, op: &Op, answer: &Answer, handoffs: &[Handoff]) {
        self.version = self.version.max(answer.version);
        match (op, &answer.reply) {
            (
                Op::Acquire { member, .. },
                Reply::Granted {
                    slot,
                    token,
                    expiry,
                },
            ) => self.got(member.id(), *slot, *token, *expiry),
            (Op::Acquire { member, .. }, Reply::Refused { .. }) => {
                self.set(member.id(), |_| State::Done(None));
            }
            (Op::Renew(held), Reply::Renewed(expiries)) => {
                for (held, expiry) in held.iter().zip(expiries) {
                    let known = Held {
                        expiry: *expiry,
                        ..held.clone()
                    };
                    self.set(held.member.id(), |before| match before {
                        State::Holding(_) if *expiry != 0 => State::Holding(known.clone()),
                        _ => State::Done(Some(held.clone())),
                    });
                }
            }
            _ => {}
        }
        for it in handoffs {
            self.highest_token = self.highest_token.max(it.token);
            // Some messages are lost.
            if !self.rng.one_in(5) {
                self.got(&it.id, it.slot, it.token, it.expiry);
            }
        }
    }

    fn got(&mut self, id: &str, slot: u32, token: u64, expiry: Micros) {
        self.highest_token = self.highest_token.max(token);
        if let Some((member, state)) = self.clients.iter_mut().find(|it| it.0.id() == id)
            && !matches!(state, State::Done(_))
        {
            *state = State::Holding(Held {
                slot,
                token,
                expiry,
                member: member.clone(),
            });
        }
    }

    fn set(&mut self, id: &str, f: impl FnOnce(&State) -> State) {
        if let Some((_, state)) = self.clients.iter_mut().find(|it| it.0.id() == id) {
            *state = f(state);
        }
    }
}
