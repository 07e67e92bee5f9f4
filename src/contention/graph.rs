//! Who waits for whom, over all locks of the process: a cycle that no release can break is found before
//! anybody waits in it.
//!
//! A false alarm would break a healthy program, a miss only waits for the timeout. So an edge is drawn only
//! where it is certain:
//!
//! - A permit that a *layer* (or `run`) holds cannot be released before the future inside has ended. What
//!   waits inside that future blocks the permit, whatever the holder is called.
//! - A permit of a *guard* belongs to a line of work: the holder's id together with the task (or thread) that
//!   took it. An id that has two permits of one resource, or waits twice at once, is evidently several
//!   lines of work, and proves nothing.
//! - An owned guard may be anywhere, and proves nothing.
//!
//! A permit is stuck if what it belongs to waits for a resource of which *every* permit is stuck. One that
//! is not, anywhere on the way, can end every wait that leads to it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::handle::Shared;
use super::list::Key;
use super::state::Owner;
use crate::call::Holder;
use crate::error::CycleStep;

/// Something that can be kept from releasing a permit by having to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// A permit held by a layer.
    Permit(PermitId),
    /// A line of work that holds guards.
    Line(Holder, Line),
}

/// A permit among those of all locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PermitId {
    lock: usize,
    permit: u64,
}

impl PermitId {
    /// A lock that is waited for, or has permits in use, is alive: its address is its own.
    pub(super) fn new(lock: &Arc<Shared>, permit: Key) -> Self {
        Self {
            lock: Arc::as_ptr(lock) as usize,
            permit: permit.id,
        }
    }
}

/// What runs one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Line {
    Task(tokio::task::Id),
    Thread(ThreadId),
}

impl Line {
    pub(super) fn current() -> Self {
        match tokio::task::try_id() {
            Some(task) => Self::Task(task),
            None => Self::Thread(std::thread::current().id()),
        }
    }
}

/// What is being polled right now, on this thread, on behalf of a permit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inside {
    permit: PermitId,
    /// The task that is being polled. A `LocalSet` polls other tasks on the way, which are no part of it.
    task: Option<tokio::task::Id>,
}

/// So many are kept without a vector, which a thread has to look for each time.
const AT_HAND: usize = 8;

thread_local! {
    /// How many permits there are that cannot be released before what is being polled has ended.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// The outermost of them.
    static OUTER: [Cell<Option<Inside>>; AT_HAND] = const { [const { Cell::new(None) }; AT_HAND] };
    /// The others; the innermost last.
    static INNER: RefCell<Vec<Inside>> = const { RefCell::new(Vec::new()) };
}

impl Inside {
    /// Runs `f`, one poll, as what `permit` is held for.
    #[inline(always)]
    pub(super) fn run<T>(permit: PermitId, f: impl FnOnce() -> T) -> T {
        struct Leave(usize);
        impl Drop for Leave {
            #[inline(always)]
            fn drop(&mut self) {
                DEPTH.set(self.0);
                if self.0 >= AT_HAND {
                    INNER.with_borrow_mut(Vec::pop);
                }
            }
        }
        let task = tokio::task::try_id();
        let inside = Self { permit, task };
        let depth = DEPTH.get();
        let _leave = Leave(depth); // Also if `f` panics.
        if depth < AT_HAND {
            OUTER.with(|outer| outer[depth].set(Some(inside)));
        } else {
            INNER.with_borrow_mut(|inner| inner.push(inside));
        }
        DEPTH.set(depth + 1);
        f()
    }

    /// Those of the task that is being polled, the innermost first.
    fn nodes() -> Vec<Node> {
        let task = tokio::task::try_id();
        let mut inside = INNER.with_borrow(Vec::clone);
        inside.reverse();
        let outer = DEPTH.get().min(AT_HAND);
        OUTER.with(|places| inside.extend(places[..outer].iter().rev().filter_map(Cell::get)));
        let own = inside.iter().take_while(|it| it.task == task);
        own.map(|it| Node::Permit(it.permit)).collect()
    }
}

/// What a wait keeps from going on.
pub(super) fn blocked_by_a_wait(owner: Owner, holder: &Holder) -> Vec<Node> {
    let line = owner.line();
    let line = line.map(|line| Node::Line(holder.clone(), line));
    line.into_iter().chain(Inside::nodes()).collect()
}

#[derive(Clone)]
struct Wait {
    lock: Arc<Shared>,
    waiter: Key,
    holder: Holder,
}

type Waits = HashMap<Node, Vec<Wait>>;

/// Lock order: this one first, then one resource at a time.
fn waits() -> MutexGuard<'static, Waits> {
    static WAITS: LazyLock<Mutex<Waits>> = LazyLock::new(Mutex::default);
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wait that is known to the search; forgotten when dropped.
pub(super) struct Registration {
    nodes: Vec<Node>,
    lock: Arc<Shared>,
    waiter: Key,
}

impl Registration {
    /// Makes a wait known that has just joined its queue. Of two that close a cycle at the same moment the
    /// second finds the first here.
    ///
    /// # Errors
    ///
    /// The cycle, if no release could end the wait.
    pub(super) fn new(
        nodes: Vec<Node>,
        lock: &Arc<Shared>,
        waiter: Key,
        holder: &Holder,
    ) -> Result<Option<Self>, Vec<CycleStep>> {
        if nodes.is_empty() {
            return Ok(None); // It holds nothing that anybody could wait for.
        }
        let mut waits = waits();
        if let Some(cycle) = find_cycle(&waits, &nodes, lock, waiter, holder) {
            return Err(cycle);
        }
        for node in &nodes {
            waits.entry(node.clone()).or_default().push(Wait {
                lock: Arc::clone(lock),
                waiter,
                holder: holder.clone(),
            });
        }
        let lock = Arc::clone(lock);
        Ok(Some(Self {
            nodes,
            lock,
            waiter,
        }))
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
            let is_this =
                |wait: &Wait| wait.waiter == self.waiter && Arc::ptr_eq(&wait.lock, &self.lock);
            if let Some(at) = here.iter().position(is_this) {
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
    /// It belongs to the very line of work that is about to wait.
    Itself,
    /// What it belongs to waits here.
    Waits(&'a Wait),
}

/// The cycle that `waiter` would close by waiting for `lock`, if everything that could end the wait waits
/// itself, and `waiter`'s own permits are among it.
fn find_cycle(
    waits: &Waits,
    own: &[Node],
    lock: &Arc<Shared>,
    waiter: Key,
    holder: &Holder,
) -> Option<Vec<CycleStep>> {
    struct Visit {
        lock: Arc<Shared>,
        holder: Holder,
        from: Option<usize>,
    }
    // More locks than this in one chain of waits: not worth holding up everybody.
    const FARTHEST: usize = 64;

    let mut visits = vec![Visit {
        lock: Arc::clone(lock),
        holder: holder.clone(),
        from: None,
    }];
    let mut closed_at = None;
    let mut next = 0;
    while next < visits.len() {
        for found in permits_of(
            &visits[next].lock,
            waits,
            own,
            (next == 0).then_some(waiter),
        )? {
            let wait = match found {
                Found::Itself => {
                    closed_at.get_or_insert(next);
                    continue;
                }
                Found::Waits(wait) => wait,
            };
            if !wait.lock.is_queued(wait.waiter) {
                return None; // Granted meanwhile: it goes on.
            }
            if visits
                .iter()
                .all(|visit| !Arc::ptr_eq(&visit.lock, &wait.lock))
            {
                visits.push(Visit {
                    lock: Arc::clone(&wait.lock),
                    holder: wait.holder.clone(),
                    from: Some(next),
                });
            }
        }
        next += 1;
        if visits.len() > FARTHEST {
            return None;
        }
    }
    let mut cycle = Vec::new();
    let mut at = closed_at;
    while let Some(visit) = at.map(|at| &visits[at]) {
        cycle.push(CycleStep::new(
            visit.holder.clone(),
            Arc::clone(visit.lock.name()),
        ));
        at = visit.from;
    }
    cycle.reverse();
    (!cycle.is_empty()).then_some(cycle)
}

/// What every permit of a lock is kept by. `None` as soon as one is found that nothing is known to keep:
/// as a rule that is the first, so that a wait for a large pool costs no more than one for a small one.
fn permits_of<'a>(
    lock: &Arc<Shared>,
    waits: &'a Waits,
    own: &[Node],
    waiter: Option<Key>,
) -> Option<Vec<Found<'a>>> {
    let all = lock.permits.all();
    let has_one = waiter.is_some_and(|waiter| !all.queue().is_queued(waiter));
    if has_one || all.in_use() < all.capacity() {
        return None;
    }
    let mut lines = HashSet::new();
    let mut found = Vec::new();
    for (permit, held) in all.held() {
        let node = match held.owner {
            Owner::Anybody => return None,
            Owner::ItsFuture => Node::Permit(PermitId::new(lock, permit)),
            // Several permits at once: several lines of work under one name.
            Owner::Line(line) if !lines.insert((&held.holder, line)) => return None,
            Owner::Line(line) => Node::Line(held.holder.clone(), line),
        };
        let waits = waits.get(&node).map_or(&[][..], Vec::as_slice);
        found.push(match (own.contains(&node), &node, waits) {
            // What waits inside a call keeps it from ending, whatever else waits there.
            (true, Node::Permit(_), _) | (true, Node::Line(..), []) => Found::Itself,
            (false, _, [wait]) => Found::Waits(wait),
            // It runs, or waits twice at once and so is several lines of work under one name.
            _ => return None,
        });
    }
    Some(found)
}
