use std::future::Future;
use std::pin::pin;

use super::acquire::Waiting;
use super::alarm::HoldAlarm;
use super::handle::ResourceLock;
use super::wait::{Ask, Asker};
use crate::call::Holder;
use crate::call::context::Frame;
use crate::error::{Error, IntoError};

impl ResourceLock {
    /// Runs `operation` with a permit: waits as [`acquire`](Self::acquire) does, and gives the permit back
    /// when the operation has ended. The same holder may run several at once.
    ///
    /// Dropping the future leaves the queue, or drops the operation and gives the permit back.
    ///
    /// # Errors
    ///
    /// [`Error::Contended`] if there was no permit, [`Error::Inner`] with the operation's own error; an
    /// operation that already fails with [`Error`] keeps it as it is.
    pub async fn run<T, E, L, Fut>(
        &self,
        holder: impl Into<Holder>,
        operation: impl FnOnce() -> Fut,
    ) -> Result<T, Error<L>>
    where
        Fut: Future<Output = Result<T, E>>,
        E: IntoError<L>,
    {
        let ask = Ask::new(holder.into(), Asker::Call);
        let slot = Waiting::new(self, ask).await.map_err(Error::Contended)?;
        let id = slot.number();
        let mut frame = Frame::default();
        let mut running = pin!(frame.enter(id, operation));
        let mut alarm = HoldAlarm::default();
        let result = std::future::poll_fn(|cx| {
            let polled = frame.poll(id, || running.as_mut().poll(cx));
            if polled.is_pending() {
                slot.refuse_reentry(&frame);
                alarm.watch(&slot, cx);
            }
            polled
        })
        .await;
        if result.is_ok() {
            slot.succeeded(&frame);
        }
        drop(slot);
        result.map_err(IntoError::into_error)
    }
}
