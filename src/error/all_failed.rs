use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::exhausted::MET_EXHAUSTED;
use super::rejection::Rejection;
use super::{Error, View};

/// A call that no target of a fallback answered: what each of them said is kept.
#[derive(Clone, Debug)]
pub struct AllFailed<E> {
    pub(crate) name: Arc<str>,
    pub(crate) failures: Vec<TargetFailure<E>>,
}

/// What became of a call at one target of a fallback.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetFailure<E> {
    /// The name of the target.
    pub target: Arc<str>,
    /// What it failed with.
    pub failure: TargetError<E>,
}

/// What a target of a fallback failed with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TargetError<E> {
    /// An error, or a refusal.
    Error(Error<E>),
    /// A response that was judged a failure, for this reason if one was given. The response itself is gone.
    Response(Option<String>),
}

impl<E> TargetError<E> {
    fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Error(error) => error.rejection(),
            Self::Response(_) => None,
        }
    }
}

impl<E> AllFailed<E> {
    /// The name of the fallback.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What each target failed with, in the order in which they were asked.
    #[must_use]
    pub fn failures(&self) -> &[TargetFailure<E>] {
        &self.failures
    }

    /// The refusal of the first target, if all of them refused: then none was called.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        let all: Option<Vec<_>> = self
            .failures
            .iter()
            .map(|it| it.failure.rejection())
            .collect();
        all?.into_iter().next()
    }

    pub(crate) fn is_rejection(&self) -> bool {
        self.failures
            .iter()
            .all(|it| it.failure.rejection().is_some())
    }

    /// The last of the services' own errors.
    pub(crate) fn as_inner(&self) -> Option<&E> {
        self.failures.iter().rev().find_map(|it| match &it.failure {
            TargetError::Error(error) => error.as_inner(),
            TargetError::Response(_) => None,
        })
    }

    pub(crate) fn into_inner(mut self) -> Result<E, Self> {
        let mut later = Vec::new();
        while let Some(it) = self.failures.pop() {
            match it.failure {
                TargetError::Error(error) => match error.into_inner() {
                    Ok(inner) => return Ok(inner),
                    Err(error) => later.push(TargetFailure {
                        target: it.target,
                        failure: TargetError::Error(error),
                    }),
                },
                failure @ TargetError::Response(_) => later.push(TargetFailure {
                    target: it.target,
                    failure,
                }),
            }
        }
        later.reverse();
        self.failures = later;
        Err(self)
    }

    pub(super) fn map_inner<T>(self, f: &mut dyn FnMut(E) -> T) -> AllFailed<T> {
        let failures = self.failures.into_iter().map(|it| TargetFailure {
            target: it.target,
            failure: match it.failure {
                TargetError::Error(error) => TargetError::Error(error.map_each(f)),
                TargetError::Response(reason) => TargetError::Response(reason),
            },
        });
        AllFailed {
            name: self.name,
            failures: failures.collect(),
        }
    }

    /// What it says of the services: what the last that was reached said.
    pub(crate) fn view(&self) -> View<'_, E> {
        let reached = self.failures.iter().rev();
        let Some(last) = { reached }.find(|it| it.failure.rejection().is_none()) else {
            return View::Rejected;
        };
        match &last.failure {
            TargetError::Error(error) => error.view(),
            TargetError::Response(_) => View::FailedResponse,
        }
    }
}

impl<E: fmt::Display> fmt::Display for AllFailed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no target of fallback `{}` answered", self.name)?;
        for (i, it) in self.failures.iter().enumerate() {
            let sign = if i == 0 { ": " } else { "; " };
            write!(f, "{sign}`{}`: ", it.target)?;
            match &it.failure {
                TargetError::Error(error) => error.fmt(f)?,
                TargetError::Response(Some(reason)) => f.write_str(reason)?,
                TargetError::Response(None) => f.write_str("a response judged a failure")?,
            }
        }
        Ok(())
    }
}

impl<E: StdError + 'static> StdError for AllFailed<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        if !self.is_rejection() {
            // One of them was reached, whatever refused the others.
            MET_EXHAUSTED.set(true);
        }
        self.failures.iter().rev().find_map(|it| match &it.failure {
            TargetError::Error(error) => Some(error as &(dyn StdError + 'static)),
            TargetError::Response(_) => None,
        })
    }
}
