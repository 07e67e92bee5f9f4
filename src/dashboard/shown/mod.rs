//! What the page shows of a handle, pattern by pattern, and in which words.
#![expect(
    private_interfaces,
    reason = "what a sealed trait speaks of is of no use outside"
)]

mod circuit_breaker;
mod contention;
#[cfg(feature = "redis")]
pub(super) mod fleet;
mod other;
mod rate_limit;
mod retry;

pub(super) use contention::{in_deadlock, row as lock_row};

use serde::Serialize;

use super::pattern::Pattern;
use super::settings::{Setting, differences};
use super::table::{Column, Row};
use super::words::clipped;

/// A handle that the page can show, and command: every one of this crate. Sealed.
pub trait Shown: sealed::Look {}

impl<T: sealed::Look> Shown for T {}

/// `a config that is tried (max_concurrent 4 instead of 2)`.
fn tried<C: Serialize>(in_force: &C, tried: &C) -> String {
    let words = |[from, to]: &[String; 2]| {
        let (name, from) = from.split_once(' ').unwrap_or((from, ""));
        let to = to.strip_prefix(name).unwrap_or(to).trim_start();
        format!("{name} {to} instead of {from}")
    };
    let all = differences(in_force, tried);
    match all.is_empty() {
        true => "a config that is tried, and is the one in force".into(),
        false => {
            let all: Vec<_> = all.iter().map(words).collect();
            format!("a config that is tried ({})", clipped(&all.join(", ")))
        }
    }
}

pub(super) mod sealed {
    use super::{Column, Pattern, Row, Setting};
    use crate::dashboard::command::{Action, CommandError, Done};

    #[expect(unnameable_types, reason = "that is how a trait is sealed")]
    pub trait Look: Send + Sync + 'static {
        const PATTERN: Pattern;
        const COLUMNS: &'static [Column];

        fn name(&self) -> &str;
        fn row(&self) -> Row;
        fn settings(&self) -> Vec<Setting>;
        fn command(&self, action: &Action) -> Result<Done, CommandError>;

        /// Whether calls are refused or wait, or worse is to come, told quickly: one of a million is looked at.
        fn is_in_trouble(&self) -> bool {
            false
        }
    }
}
