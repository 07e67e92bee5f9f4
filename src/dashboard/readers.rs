//! How many may read at once, and who makes room when all places are taken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::util::time::{self, Tick};

/// Who has not taken anything for so long makes room for who comes.
const STALLED: Duration = Duration::from_secs(30);

/// The places for readers.
#[derive(Debug)]
pub(super) struct Readers {
    most: usize,
    places: Arc<Mutex<Vec<Arc<State>>>>,
}

#[derive(Debug)]
struct State {
    /// When it last took something.
    took: AtomicU64,
    is_over: AtomicBool,
}

/// A reader's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    state: Arc<State>,
    places: Arc<Mutex<Vec<Arc<State>>>>,
}

impl Readers {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            places: Arc::default(),
        }
    }

    /// A place, if there is one, or if the reader who has taken nothing for the longest time has stalled.
    pub(super) fn take(&self) -> Option<Place> {
        let now = time::now();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= self.most {
            let took = |it: &Arc<State>| it.took.load(Ordering::Relaxed);
            let slowest = (0..places.len()).min_by_key(|at| took(&places[*at]))?;
            if now.since(Tick(took(&places[slowest]))) < STALLED {
                return None;
            }
            places
                .swap_remove(slowest)
                .is_over
                .store(true, Ordering::Relaxed);
        }
        let state = Arc::new(State {
            took: AtomicU64::new(now.0),
            is_over: AtomicBool::new(false),
        });
        places.push(Arc::clone(&state));
        drop(places);
        Some(Place {
            state,
            places: Arc::clone(&self.places),
        })
    }
}

impl Place {
    /// It takes something. `false` if somebody else has its place.
    pub(super) fn takes(&self) -> bool {
        self.state.took.store(time::now().0, Ordering::Relaxed);
        !self.state.is_over.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|it| !Arc::ptr_eq(it, &self.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_has_stalled_makes_room_and_one_that_reads_does_not() {
        let readers = Readers::new(2);
        let (slow, quick) = (readers.take().unwrap(), readers.take().unwrap());
        assert!(readers.take().is_none());
        tokio::time::advance(STALLED / 2).await;
        assert!(quick.takes());
        tokio::time::advance(STALLED / 2).await;
        let third = readers.take().unwrap();
        assert!(!slow.takes());
        assert!(quick.takes() && third.takes());
        assert!(readers.take().is_none());
        drop(slow);
        assert!(
            readers.take().is_none(),
            "its place was not its own any more"
        );
        drop(quick);
        assert!(readers.take().is_some());
    }
}
