//! The tasks of a fleet. They end with it.

use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};

use super::error::ConnectError;

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

    /// The runtime of the fleet, if it has one of its own.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.runtime.clone()
    }

    /// Starts a task, on the runtime of the fleet, or if it has none on that of the caller.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ConnectError> {
        let current = || Handle::try_current().map_err(|_| ConnectError::NoRuntime);
        let runtime = self.runtime.clone().map_or_else(current, Ok)?;
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = set.try_join_next() {
            report(ended);
        }
        set.spawn_on(task, &runtime);
        Ok(())
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

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[tokio::test]
    async fn a_task_ends_with_the_fleet_and_not_before() {
        let tasks = Tasks::on(Handle::current());
        let (held, mut released) = oneshot::channel::<()>();
        tasks
            .spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
            .unwrap();
        tokio::task::yield_now().await;
        // Others come and go.
        tasks.spawn(async {}).unwrap();
        tokio::task::yield_now().await;
        tasks.spawn(async {}).unwrap();
        assert_eq!(released.try_recv(), Err(TryRecvError::Empty));
        drop(tasks);
        assert!(released.await.is_err());
    }

    #[test]
    fn without_a_runtime_a_task_is_an_error() {
        assert_eq!(
            Tasks::default().spawn(async {}),
            Err(ConnectError::NoRuntime)
        );
    }
}
