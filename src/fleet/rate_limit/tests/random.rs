//! Random settings, calls that go away at any moment, pauses, and a store that comes and goes: what the page promises holds.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::*;

/// What a run is made of.
#[derive(Clone, Debug)]
struct Plan {
    #[expect(dead_code, reason = "it is shown, so that a run can be repeated")]
    seed: u64,
    quota: Quota,
    leased: bool,
    nodes: usize,
    max_wait: Duration,
    trip: Duration,
    /// Calls, in so long.
    calls: usize,
    length: Duration,
    largest_cost: u64,
    outages: usize,
    pauses: usize,
    goes_away: bool,
    settles: bool,
}

impl Plan {
    fn new(seed: u64) -> (Self, StdRng) {
        let mut rng = StdRng::seed_from_u64(seed);
        let amount = [1, 7, 50, 200, 1_000][rng.random_range(0..5)];
        let burst = [1, 2, 5, 40, 300][rng.random_range(0..5)];
        let quota = Quota::per_second(amount).burst(burst);
        let can_lease = burst > 1 && burst as f64 / amount as f64 >= 0.08;
        let plan = Self {
            seed,
            quota,
            leased: can_lease && rng.random_bool(0.7),
            nodes: rng.random_range(1..=5),
            max_wait: millis(&mut rng, 0..4_000),
            trip: millis(&mut rng, 0..15),
            calls: rng.random_range(50..600),
            length: millis(&mut rng, 500..8_000),
            largest_cost: rng.random_range(1..=1 + burst / 3),
            outages: [0, 0, 1, 3, 12][rng.random_range(0..5)],
            pauses: rng.random_range(0..3) * rng.random_range(0..2),
            goes_away: rng.random_bool(0.5),
            settles: rng.random_bool(0.5),
        };
        (plan, rng)
    }

    fn rate(&self) -> f64 {
        self.quota.amount as f64 / self.quota.period.as_secs_f64()
    }
}

fn millis(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

/// What one has asked for.
struct Pause {
    by: usize,
    begins: Instant,
    ends: Instant,
}

/// What has happened: when, and how many units.
#[derive(Default)]
struct Seen {
    /// And in which process.
    passed: Vec<(Instant, u64, usize)>,
    given_back: Vec<(Instant, u64)>,
    pauses: Vec<Pause>,
    away: Vec<(Instant, Instant)>,
    ok: u64,
    local: u64,
    refused: u64,
    gone: u64,
    owed: u64,
}

type Log = Arc<Mutex<Seen>>;

fn at() -> Instant {
    time::now().to_instant()
}

/// One call: it may go away, and may say what it has used.
async fn call(node: (usize, FleetRateLimit), plan: Plan, mut rng: StdRng, log: Log) {
    let (node, limit) = node;
    // Half of them come in waves.
    let part: f64 = match rng.random_bool(0.5) {
        true => f64::from(rng.random_range(0..6)) / 6.0,
        false => rng.random(),
    };
    sleep(plan.length.mul_f64(part)).await;
    let cost = rng.random_range(0..=plan.largest_cost);
    let waits = rng.random_bool(0.7);
    let acquire = match waits {
        true => limit.acquire(cost),
        false => limit.try_acquire(cost),
    };
    let patience = match plan.goes_away && rng.random_bool(0.3) {
        true => millis(&mut rng, 1..3_000),
        false => Duration::from_secs(3_600),
    };
    let began = at();
    let asked = timeout(patience, acquire).await;
    let took = elapsed(began);
    // A store that goes and comes makes it ask a few times.
    let longest = if waits { plan.max_wait } else { Duration::ZERO };
    assert!(
        took <= longest + Duration::from_secs(1),
        "{took:?}: {plan:?}"
    );
    let taken = {
        let mut seen = log.lock().unwrap();
        match asked {
            Ok(Ok(taken)) => {
                seen.ok += 1;
                seen.local += u64::from(taken.is_local());
                seen.passed.push((at(), cost, node));
                taken
            }
            Ok(Err(_)) => return seen.refused += 1,
            Err(_) => {
                seen.gone += 1;
                return seen.given_back.push((at(), cost));
            }
        }
    };
    if !plan.settles {
        return;
    }
    sleep(millis(&mut rng, 0..300)).await;
    let used = rng.random_range(0..=cost + 1);
    let mut seen = log.lock().unwrap();
    seen.given_back.push((at(), cost.saturating_sub(used)));
    seen.owed += used.saturating_sub(cost);
    drop(seen);
    taken.settle(used);
}

async fn outages(store: Arc<Counting>, plan: Plan, mut rng: StdRng, log: Log) {
    let every = plan.length / u32::try_from(plan.outages + 1).unwrap();
    for _ in 0..plan.outages {
        sleep(every.mul_f64(rng.random())).await;
        let hangs = rng.random_bool(0.3);
        let flag = if hangs { &store.hangs } else { &store.is_away };
        let began = at();
        flag.store(true, Ordering::Relaxed);
        sleep(every.mul_f64(rng.random())).await;
        flag.store(false, Ordering::Relaxed);
        log.lock().unwrap().away.push((began, at()));
    }
}

/// Until all have heard of a pause that begins now, or know that the store is back: one question each, and the last may have been
/// asked just before.
fn heard(plan: &Plan) -> Duration {
    Duration::from_millis(105) + 3 * plan.trip
}

async fn pauses(nodes: Vec<FleetRateLimit>, plan: Plan, mut rng: StdRng, log: Log) {
    let every = plan.length / u32::try_from(plan.pauses + 1).unwrap();
    for _ in 0..plan.pauses {
        sleep(every.mul_f64(rng.random())).await;
        let (by, length) = (rng.random_range(0..nodes.len()), millis(&mut rng, 0..2_000));
        nodes[by].pause(length);
        let (begins, ends) = (at(), at() + length);
        log.lock().unwrap().pauses.push(Pause { by, begins, ends });
        sleep(every.mul_f64(rng.random())).await;
    }
}

/// In no stretch of time more than the burst, and what it earns. A store that comes and goes: one burst more, or one call of each
/// process if that is more, and each time what is earned until all know that it is back. Besides that what is given back, and what
/// a pause earns of which not all have heard.
fn assert_no_more_passes_than_may(plan: &Plan, seen: &Seen) {
    let slack = 0.003 + plan.trip.as_secs_f64();
    let mut most = plan.quota.burst as f64;
    if plan.outages > 0 {
        most += plan.quota.burst.max(plan.nodes as u64) as f64;
        most += plan.outages as f64 * plan.rate() * heard(plan).as_secs_f64();
    }
    for pause in &seen.pauses {
        let length = pause.ends - pause.begins;
        let unheard = match plan.outages {
            0 => length.min(heard(plan)),
            _ => length,
        };
        most += plan.rate() * unheard.as_secs_f64();
    }
    for (i, (from, ..)) in seen.passed.iter().enumerate() {
        let mut units = 0;
        for (to, cost, _) in &seen.passed[i..] {
            units += cost;
            let length = to.duration_since(*from).as_secs_f64() + slack;
            let back = seen
                .given_back
                .iter()
                .filter(|it| it.0 <= *to)
                .map(|it| it.1);
            let may = most + plan.rate() * length + back.sum::<u64>() as f64;
            assert!(
                units as f64 <= may + 1e-6,
                "{units} in {length} s, {may} may: {plan:?}"
            );
        }
    }
}

fn assert_nobody_passes_in_a_pause(plan: &Plan, seen: &Seen) {
    for pause in &seen.pauses {
        let heard = pause.begins + heard(plan);
        // Who cannot be told cannot know.
        let spare = Duration::from_millis(500);
        let is_away = |it: &(Instant, Instant)| it.0 <= heard && it.1 + spare >= pause.begins;
        let is_told = !seen.away.iter().any(is_away);
        let ends = pause.ends - plan.trip - Duration::from_millis(1);
        let in_it = seen.passed.iter().filter(|(at, _, node)| {
            let knows = *node == pause.by || (is_told && *at > heard);
            knows && *at > pause.begins && *at < ends
        });
        assert_eq!(in_it.count(), 0, "in a pause: {plan:?}");
    }
}

fn assert_counts(plan: &Plan, seen: &Seen, nodes: &[FleetRateLimit]) {
    let sum = |of: fn(&crate::fleet::rate_limit::FleetRateLimitTotals) -> u64| -> u64 {
        nodes.iter().map(|it| of(&it.snapshot().totals)).sum()
    };
    let counted = [
        sum(|it| it.passed + it.waited),
        sum(|it| it.local),
        sum(|it| it.refused),
        sum(|it| it.abandoned),
    ];
    let expected = [seen.ok, seen.local, seen.refused, seen.gone];
    assert_eq!(counted, expected, "{plan:?}");
}

/// When everything is quiet again, all there can be is there for each, and nothing is left behind.
async fn assert_nothing_is_lost(plan: &Plan, seen: &Seen, nodes: &[FleetRateLimit]) {
    let waits = plan.max_wait.as_secs_f64() + 2.0;
    // Turns that have come beside what was given back are owed by the shares, too.
    let back: u64 = seen.given_back.iter().map(|it| it.1).sum();
    let full = (plan.quota.burst + seen.owed + back) as f64 / plan.rate();
    let again = Duration::from_secs_f64((full + waits) * nodes.len() as f64 + 12.0);
    sleep(again).await;
    for node in nodes {
        let snapshot = node.snapshot();
        let is_quiet = (snapshot.waiting, snapshot.degraded_for, snapshot.paused_for);
        assert_eq!(is_quiet, (0, None, None), "{plan:?}");
        assert_eq!(node.shared.promised.owe(), [0; 4], "{plan:?}");
        assert_eq!(node.shared.take_untold(), [0; 4], "{plan:?}");
        let share = &node.shared.local.snapshot().quotas[0];
        assert_eq!(share.available, share.burst, "{plan:?}");
        let burst = node.shared.paces[0].burst;
        let taken = node.try_acquire(burst).await;
        assert!(taken.is_ok(), "{taken:?}: {plan:?}");
        sleep(Duration::from_secs_f64(full + 0.2)).await;
        let begin = at();
        let one = node.acquire(1).await;
        assert!(one.is_ok(), "{one:?}: {plan:?}");
        let took = elapsed(begin);
        let longest = 2 * plan.trip + Duration::from_millis(3);
        assert!(took <= longest, "{took:?}: {plan:?}");
        sleep(Duration::from_secs_f64(full + 0.2)).await;
    }
}

async fn run(seed: u64) {
    let (plan, mut rng) = Plan::new(seed);
    let mut store = Counting::around(Fleet::in_process().shared);
    Arc::get_mut(&mut store).unwrap().trip = plan.trip;
    let set_up = |it: FleetRateLimitBuilder| {
        let it = it.quota("calls", plan.quota).max_wait(plan.max_wait);
        if plan.leased { it.leased() } else { it.exact() }
    };
    let nodes = nodes(&store, plan.nodes, set_up).await;
    let (log, mut all) = (Log::default(), JoinSet::new());
    for i in 0..plan.calls {
        let node = (i % plan.nodes, nodes[i % plan.nodes].clone());
        let rng = StdRng::seed_from_u64(rng.random());
        all.spawn(call(node, plan.clone(), rng, Arc::clone(&log)));
    }
    let rngs = [0; 2].map(|_| StdRng::seed_from_u64(rng.random()));
    let [one, two] = rngs;
    all.spawn(outages(
        Arc::clone(&store),
        plan.clone(),
        one,
        Arc::clone(&log),
    ));
    all.spawn(pauses(nodes.clone(), plan.clone(), two, Arc::clone(&log)));
    all.join_all().await;
    let mut seen = std::mem::take(&mut *log.lock().unwrap());
    seen.passed.sort_unstable();
    assert_counts(&plan, &seen, &nodes);
    assert_no_more_passes_than_may(&plan, &seen);
    assert_nobody_passes_in_a_pause(&plan, &seen);
    assert_nothing_is_lost(&plan, &seen, &nodes).await;
}

/// More, or one once more: `RATE_LIMIT_SEEDS=129..130`.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("RATE_LIMIT_SEEDS").ok();
    let read = |it: String| {
        let (from, to) = it.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    given.map_or(0..100, |it| read(it).expect("such as `0..100`"))
}

#[tokio::test(start_paused = true)]
async fn with_random_settings_and_troubles_what_passes_and_what_is_left_is_as_promised() {
    for seed in seeds() {
        run(seed).await;
    }
}
