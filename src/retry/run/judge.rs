//! How an attempt ended, and who says so.

use std::error::Error as StdError;

use super::super::handle::Shared;
use super::Run;
use crate::call::outcome::{Classify, Verdict};
use crate::error::{Error, Found, Rejection, TimedOut};

/// How an attempt ended, and who says so.
pub(in crate::retry) enum Ending {
    /// The service's own doing, as the classifier sees it.
    Judged(Verdict),
    /// A layer below refused it.
    Refused(Rejection),
    /// A retry below has given up: nested retries must not multiply.
    GivenUpBelow,
}

impl Run {
    /// Judges how an attempt ended.
    #[inline]
    pub(in crate::retry) fn judge<Res, L: StdError + 'static, C: Classify<Res, L>>(
        &self,
        policy: &Shared,
        result: &Result<Res, Error<L>>,
        classify: &C,
    ) -> Ending {
        let attempt = self.session.attempts();
        match result {
            Ok(response) => Ending::Judged(classify.classify_attempt(attempt, Ok(response))),
            Err(error) => Self::judge_error(policy, attempt, error, classify),
        }
    }

    fn judge_error<Res, L: StdError + 'static, C: Classify<Res, L>>(
        policy: &Shared,
        attempt: u32,
        error: &Error<L>,
        classify: &C,
    ) -> Ending {
        if let Some(rejection) = error.rejection() {
            return Ending::Refused(rejection);
        }
        let inner = match error {
            Error::TimedOut(late) => return Ending::Judged(judge_timeout(late)),
            Error::Inner(inner) => match Found::look(inner) {
                Found::Rejection(rejection) => return Ending::Refused(rejection),
                Found::TimedOut(late) if late.is_callers_own() => {
                    return Ending::Judged(Verdict::ignored());
                }
                Found::Exhausted if !policy.config.load().retry_exhausted => {
                    return Ending::GivenUpBelow;
                }
                Found::TimedOut(_) | Found::Exhausted | Found::Nothing => inner,
            },
            _ if !policy.config.load().retry_exhausted => return Ending::GivenUpBelow,
            other => match other.as_inner() {
                Some(inner) => inner,
                None => return Ending::Judged(Verdict::failure()),
            },
        };
        Ending::Judged(classify.classify_attempt(attempt, Err(inner)))
    }

    /// Whether a result that was judged like this is the caller's, and nobody needs to be told of it but the counts and
    /// the budget, which are.
    #[inline]
    pub(in crate::retry) fn is_plain(&self, policy: &Shared, ending: &Ending) -> bool {
        let Ending::Judged(verdict) = ending else {
            return false;
        };
        let plain = verdict.is_plain_success() && self.session.attempts() == 1;
        if plain {
            policy.count_plain();
        }
        plain
    }
}

/// What a timeout of a layer below says: the service did not answer, or the caller's own time was over.
fn judge_timeout(late: &TimedOut) -> Verdict {
    match late.is_callers_own() {
        true => Verdict::ignored(),
        false => Verdict::failure(),
    }
}
