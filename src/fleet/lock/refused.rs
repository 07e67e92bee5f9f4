//! What a refusal counts as, and who is told.

use std::time::Duration;

use super::shared::Shared;
use crate::call::Holder;
use crate::error::{Contended, ContendedReason};
use crate::event::ContentionEvent;
use crate::util::time;

/// `is_deadline`: what ended the wait was the deadline of the request.
pub(super) fn refused(
    shared: &Shared,
    holder: &Holder,
    waited: Duration,
    reason: ContendedReason,
    is_deadline: bool,
) -> Contended {
    let mut counts = shared.counts();
    counts.contentions += 1;
    match &reason {
        ContendedReason::TimedOut | ContendedReason::DeadlineExceeded => {
            counts.timeouts += 1;
            counts.waited(waited, time::now());
        }
        ContendedReason::Unavailable { .. } => counts.unavailable += 1,
        ContendedReason::QueueFull => {
            counts.rejected += 1;
            counts.queue_full += 1;
        }
        _ => counts.rejected += 1,
    }
    drop(counts);
    let holder = holder.clone();
    let event = match &reason {
        ContendedReason::TimedOut | ContendedReason::DeadlineExceeded => {
            Some(ContentionEvent::TimedOut {
                holder: holder.clone(),
                waited,
                holders: shared.holders(),
                deadline: is_deadline,
            })
        }
        ContendedReason::QueueFull => Some(ContentionEvent::QueueFull {
            holder: holder.clone(),
            queue_length: shared.queue_length(),
        }),
        ContendedReason::Busy => Some(ContentionEvent::Busy {
            holder: holder.clone(),
        }),
        // Told once, when it went away, and counted.
        _ => None,
    };
    if let Some(event) = event {
        shared.publish(event);
    }
    shared.contended(holder, waited, reason)
}
