//! The tasks of a fleet. They end with it.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};

/// Tasks that are aborted when this is dropped. A task must not hold what holds this.
#[derive(Default)]
pub(super) struct Tasks {
    set: Mutex<JoinSet<()>>,
    runtime: Option<Handle>,
}

impl Tasks {
    /// Tasks on this runtime, whoever starts them.
    pub(super) fn on(runtime: Handle) -> Self {
        Self {
            set: Mutex::default(),
            runtime: Some(runtime),
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = set.try_join_next() {
            report(ended);
        }
        match &self.runtime {
            Some(runtime) => set.spawn_on(task, runtime),
            None => set.spawn(task),
        };
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(target: "tower_bulwark", %error, "a task of the fleet has panicked");
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}
