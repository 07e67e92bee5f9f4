//! What goes wrong, and when: plain data, and the same again for the same seed.
//!
//! Whether an attempt meets a fault depends on the prompt, on how often the prompt was tried, and on the
//! seed; never on the order in which requests happen to arrive.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// The script of a [`FakeLlm`](super::fake_llm::FakeLlm).
#[derive(Clone, Debug)]
pub struct Scenario {
    seed: u64,
    /// How many requests the server works on at once; it refuses more with `429`.
    pub capacity: usize,
    latency_ms: RangeInclusive<u64>,
    faults: Vec<Fault>,
    pub outage: Option<Outage>,
}

/// What a share of the attempts at some prompts meets.
#[derive(Clone, Debug)]
struct Fault {
    prompts: Range<u64>,
    attempts: RangeInclusive<u32>,
    share: f64,
    trouble: Trouble,
}

/// What can go wrong with one attempt.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// `429`, with a `retry-after-ms` in this range.
    RateLimited(RangeInclusive<u64>),
    /// An answer after a time in this range, in milliseconds.
    Slow(RangeInclusive<u64>),
    /// The connection is closed before the answer.
    DropBefore,
    /// The connection is closed in the middle of the answer.
    DropWithin,
    /// This status, and an error in JSON.
    Status(u16),
}

/// Everything fails from the first request for prompt `from` on, for as long as it `lasts`.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub from: u64,
    pub lasts: Duration,
}

/// What the server does with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    Answer { after: Duration },
    RateLimited { retry_after: Duration },
    DropBefore { after: Duration },
    DropWithin { after: Duration },
    Status { after: Duration, status: u16 },
}

impl Scenario {
    /// A server that is well: it answers after 5 to 15 ms, however many ask.
    pub fn healthy(seed: u64) -> Self {
        Self {
            seed,
            capacity: usize::MAX,
            latency_ms: 5..=15,
            faults: Vec::new(),
            outage: None,
        }
    }

    /// A day in the life of an API, for `prompts` prompts: healthy, rate limited, slow, with connections
    /// that break, gone, and back again.
    pub fn bad_day(seed: u64, prompts: u64) -> Self {
        let at = |percent: u64| prompts * percent / 100;
        Self::healthy(seed)
            .latency_ms(60..=180)
            .capacity(24)
            .fault(at(5)..at(6), 1..=u32::MAX, 1.0, Trouble::Status(400))
            .fault(at(12)..at(32), 1..=2, 0.5, Trouble::RateLimited(100..=500))
            .fault(at(32)..at(48), 1..=2, 0.25, Trouble::Slow(2_000..=3_000))
            .fault(at(48)..at(62), 1..=2, 0.15, Trouble::DropBefore)
            .fault(at(48)..at(62), 1..=2, 0.15, Trouble::DropWithin)
            .outage(at(70), Duration::from_millis(2_500))
    }

    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// How long an answer takes when all is well.
    pub fn latency_ms(mut self, range: RangeInclusive<u64>) -> Self {
        self.latency_ms = range;
        self
    }

    /// This share of these attempts at these prompts meets `trouble`, unless an earlier fault was met.
    pub fn fault(
        mut self,
        prompts: Range<u64>,
        attempts: RangeInclusive<u32>,
        share: f64,
        trouble: Trouble,
    ) -> Self {
        self.faults.push(Fault {
            prompts,
            attempts,
            share,
            trouble,
        });
        self
    }

    pub fn outage(mut self, from: u64, lasts: Duration) -> Self {
        self.outage = Some(Outage { from, lasts });
        self
    }

    /// What the server does with the given attempt at a prompt; the first attempt is 1.
    pub fn plan(&self, prompt: u64, attempt: u32) -> Plan {
        let mut dice = self.dice(prompt, attempt);
        let after = dice.millis(&self.latency_ms);
        let met = self.faults.iter().find(|fault| {
            // Every fault rolls, so that changing one leaves the others as they are.
            let hit = dice.unit() < fault.share;
            hit && fault.prompts.contains(&prompt) && fault.attempts.contains(&attempt)
        });
        match met.map(|fault| &fault.trouble) {
            None => Plan::Answer { after },
            Some(Trouble::Slow(range)) => Plan::Answer {
                after: dice.millis(range),
            },
            Some(Trouble::RateLimited(range)) => Plan::RateLimited {
                retry_after: dice.millis(range),
            },
            Some(Trouble::DropBefore) => Plan::DropBefore { after },
            Some(Trouble::DropWithin) => Plan::DropWithin { after },
            Some(Trouble::Status(status)) => Plan::Status {
                after,
                status: *status,
            },
        }
    }

    /// What an attempt during the outage meets: `true` is a `503`, `false` a dead connection.
    pub fn says_so_while_down(&self, prompt: u64, attempt: u32) -> bool {
        self.dice(prompt, attempt).unit() < 0.5
    }

    fn dice(&self, prompt: u64, attempt: u32) -> Dice {
        let mut dice = Dice(self.seed);
        let mixed = dice.next() ^ prompt.wrapping_mul(0xA076_1D64_78BD_642F);
        Dice(mixed ^ u64::from(attempt).rotate_left(32))
    }
}

/// A small generator of random numbers (splitmix64): the same numbers for the same start, on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn millis(&mut self, range: &RangeInclusive<u64>) -> Duration {
        let width = range.end().saturating_sub(*range.start()) + 1;
        Duration::from_millis(range.start() + self.next() % width)
    }
}
