//! Who waits for whom, over all locks of the process.
//!
//! A wait looks for a cycle when it has lasted `deadlock_timeout`, and again each time that this passes (as PostgreSQL
//! does): short waits pay nothing. Of a cycle, the wait that would give up first is refused: it could only have ended
//! in its timeout. A false alarm would break a healthy program, a miss only waits for the timeout, so an edge is drawn
//! only where it is certain:
//!
//! - A permit that a *layer* (or `run`) holds cannot be released before the future inside has ended. What waits inside
//!   that future blocks the permit, whatever the holder is called.
//! - A permit of a *guard* belongs to a line of work: the holder's id together with the task (or thread) that took it.
//!   An id that has two permits of one resource, or waits twice at once, is evidently several lines of work, and proves
//!   nothing.
//! - An owned guard may be anywhere, and proves nothing.
//!
//! A permit is stuck if what it belongs to waits for a resource of which *every* permit is stuck. One that is not,
//! anywhere on the way, can end every wait that leads to it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::core::Place;
use super::handle::Shared;
use super::owner::{Line, Owner};
use crate::call::Holder;
use crate::call::context::WaitPlace;
use crate::error::{CycleStep, Look};
use crate::util::time::Tick;

/// Something that can be kept from releasing a permit by having to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Node {
    /// A permit held by a layer, by its number.
    Permit(u64),
    /// A line of work that holds guards.
    Line(Holder, Line),
}

/// A wait that has lasted long enough to look for a cycle.
#[derive(Clone)]
struct LongWait {
    lock: Arc<Shared>,
    place: Place,
    holder: Holder,
    wait: Option<WaitPlace>,
    line: Option<Line>,
    gives_up: Tick,
}

impl LongWait {
    /// What it keeps from going on, as of now.
    fn nodes(&self) -> Vec<Node> {
        let line = self.line.map(|line| Node::Line(self.holder.clone(), line));
        let inside = self.wait.as_ref().map_or_else(Vec::new, WaitPlace::inside);
        line.into_iter()
            .chain(inside.into_iter().map(Node::Permit))
            .collect()
    }

    fn is(&self, lock: &Arc<Shared>, place: Place) -> bool {
        self.place == place && Arc::ptr_eq(&self.lock, lock)
    }

    /// Of a cycle, the wait that is first in this order is refused.
    fn order(&self) -> (Tick, u64) {
        (self.gives_up, self.lock.number_of(self.place))
    }
}

type Waits = HashMap<Node, Vec<LongWait>>;

/// Lock order: this one first, then one resource at a time.
fn waits() -> MutexGuard<'static, Waits> {
    static WAITS: LazyLock<Mutex<Waits>> = LazyLock::new(Mutex::default);
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wait that is known to the search; forgotten when dropped.
pub(super) struct Registration {
    nodes: Vec<Node>,
    lock: Arc<Shared>,
    place: Place,
}

/// A cycle that no release can break.
pub(super) struct Cycle {
    pub(super) steps: Vec<CycleStep>,
    /// Whether the wait that looked is the one to give way.
    pub(super) is_victim: bool,
}

/// What a wait says of itself when it looks.
pub(super) struct Looks<'a> {
    pub(super) lock: &'a Arc<Shared>,
    pub(super) place: Place,
    pub(super) holder: &'a Holder,
    pub(super) wait: Option<WaitPlace>,
    pub(super) line: Option<Line>,
    pub(super) gives_up: Tick,
    pub(super) now: Tick,
}

impl Registration {
    /// Makes a wait known as it is now, and looks for a cycle that it is part of. Of two that look at the same moment
    /// the second finds the first here.
    pub(super) fn look(it: Looks<'_>) -> (Option<Self>, Option<Cycle>) {
        let wait = LongWait {
            lock: Arc::clone(it.lock),
            place: it.place,
            holder: it.holder.clone(),
            wait: it.wait,
            line: it.line,
            gives_up: it.gives_up,
        };
        let nodes = wait.nodes();
        if nodes.is_empty() {
            return (None, None); // It holds nothing that anybody could wait for.
        }
        let mut waits = waits();
        let cycle = find_cycle(&waits, &nodes, &wait, it.now);
        for node in &nodes {
            waits.entry(node.clone()).or_default().push(wait.clone());
        }
        drop(waits);
        let known = Self {
            nodes,
            lock: wait.lock,
            place: wait.place,
        };
        (Some(known), cycle)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut forgotten = Vec::new();
        let mut waits = waits();
        for node in &self.nodes {
            let Some(here) = waits.get_mut(node) else {
                continue;
            };
            if let Some(at) = here.iter().position(|it| it.is(&self.lock, self.place)) {
                forgotten.push(here.swap_remove(at));
            }
            if here.is_empty() {
                waits.remove(node);
            }
        }
        // The last handle of a lock must not go while the table is locked.
        drop(waits);
        drop(forgotten);
    }
}

/// Why a permit in use is not going to be released, as far as the table of waits can tell.
enum Found<'a> {
    /// It belongs to what the wait that looks keeps from going on.
    Itself,
    /// What it belongs to waits here.
    Waits(&'a LongWait),
}

/// A wait that the search has come to, and the visit that led there.
struct Visit<'a> {
    wait: &'a LongWait,
    /// How many permits have to be free for it to end.
    needs: u32,
    from: Option<usize>,
}

/// The cycle that `own` is part of, if everything that could end the wait waits itself, and its own permits are among
/// what it waits for.
fn find_cycle(waits: &Waits, nodes: &[Node], own: &LongWait, now: Tick) -> Option<Cycle> {
    // More locks than this in one chain of waits: not worth holding up everybody.
    const FARTHEST: usize = 64;

    let mut visits = vec![Visit {
        wait: own,
        needs: own.lock.core.needs(own.place, now)?,
        from: None,
    }];
    let mut closed_at = None;
    let mut next = 0;
    while next < visits.len() {
        let Visit { wait, needs, .. } = visits[next];
        for found in stuck_permits(&wait.lock, needs, waits, nodes)? {
            let wait = match found {
                Found::Itself => {
                    closed_at.get_or_insert(next);
                    continue;
                }
                Found::Waits(wait) => wait,
            };
            // Granted meanwhile, it goes on.
            let needs = wait.lock.core.needs(wait.place, now)?;
            let is_known =
                |it: &Visit<'_>| Arc::ptr_eq(&it.wait.lock, &wait.lock) && it.needs <= needs;
            if !visits.iter().any(is_known) {
                visits.push(Visit {
                    wait,
                    needs,
                    from: Some(next),
                });
            }
        }
        next += 1;
        if visits.len() > FARTHEST {
            return None;
        }
    }
    let steps = steps_to(closed_at?, &visits);
    let first = visits.iter().map(|it| it.wait.order()).min();
    Some(Cycle {
        steps,
        is_victim: first == Some(own.order()),
    })
}

/// The way from the wait that looks to this visit.
fn steps_to(closed_at: usize, visits: &[Visit<'_>]) -> Vec<CycleStep> {
    let mut steps = Vec::new();
    let mut at = Some(closed_at);
    while let Some(visit) = at.map(|at| &visits[at]) {
        steps.push(CycleStep::new(
            visit.wait.holder.clone(),
            Arc::clone(visit.wait.lock.name()),
        ));
        at = visit.from;
    }
    steps.reverse();
    steps
}

/// Whose progress a permit depends on, and how many permits those are.
fn permits_by_node(lock: &Shared) -> Vec<(Node, u32)> {
    let mut permits = Vec::new();
    let mut lines: HashMap<Node, u32> = HashMap::new();
    lock.core.for_each_holder(|place, held| match held.owner {
        Owner::Anybody => {}
        Owner::ItsFuture => permits.push((Node::Permit(lock.number_of(place)), held.n)),
        // Several acquisitions at once are several lines of work under one name: 0 tells.
        Owner::Line(line) => {
            lines
                .entry(Node::Line(held.holder.clone(), line))
                .and_modify(|n| *n = 0)
                .or_insert(held.n);
        }
    });
    permits.extend(lines.into_iter().filter(|(_, n)| *n > 0));
    permits
}

/// What the permits of a lock are kept by that are not going to be released, if without them there are fewer than
/// `needs`. `None` if the others could end the wait.
fn stuck_permits<'a>(
    lock: &Arc<Shared>,
    needs: u32,
    waits: &'a Waits,
    own: &[Node],
) -> Option<Vec<Found<'a>>> {
    let capacity = lock.core.seen().capacity();
    let mut stuck = 0;
    let mut found = Vec::new();
    for (node, n) in permits_by_node(lock) {
        let waits = waits.get(&node).map_or(&[][..], Vec::as_slice);
        found.push(match (own.contains(&node), &node, waits) {
            // What waits inside a call keeps it from ending, whatever else waits there.
            (true, Node::Permit(_), _) => Found::Itself,
            (true, Node::Line(..), []) => Found::Itself,
            // Itself, from an earlier look.
            (true, Node::Line(..), [wait]) if wait.nodes() == own => Found::Itself,
            // It may have moved since it looked.
            (false, _, [wait]) if wait.nodes().contains(&node) => Found::Waits(wait),
            // It runs, or waits twice at once and so is several lines of work under one name.
            _ => continue,
        });
        stuck += n;
    }
    (u64::from(stuck) + u64::from(needs) > u64::from(capacity)).then_some(found)
}
