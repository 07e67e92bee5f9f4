//! What the calls of one service share, so that none of them clones the service before it has to.
//!
//! A call that fails needs an instance of its own for later attempts. Cloning one for each call, in case, is what
//! all threads then meet at: every handle inside has a count. Here a call takes hold of a *kit*, and makes the
//! clone when the first attempt has failed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::util::sharded::{ArcShard, ShardedArc};

/// A service that is never called and never made ready: later attempts are made by clones of it. Behind a mutex
/// because it need not be `Sync`; nobody waits for it but calls that have failed.
pub(crate) struct Kit<S, T> {
    rules: ArcShard<T>,
    spare: Mutex<S>,
    /// Known here, so that futures need not ask for `Clone`.
    clone: fn(&S) -> S,
}

impl<S, T> Kit<S, T> {
    fn new(rules: &ShardedArc<T>, spare: S) -> Arc<Self>
    where
        S: Clone,
    {
        Arc::new(Self {
            rules: rules.mine(),
            spare: Mutex::new(spare),
            clone: S::clone,
        })
    }

    fn spare(&self) -> S {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        (self.clone)(&spare)
    }
}

/// The kit of one instance of a service.
///
/// An instance that makes one call and is dropped (`service.clone().oneshot(request)`) gets no kit of its own, which
/// would be a clone and an allocation: it hands on the one of the instance that it was cloned from.
pub(crate) struct Kits<S, T> {
    kit: Option<Arc<Kit<S, T>>>,
    /// The kit is this instance's alone: no other thread writes its count while the calls stay on this one.
    own: bool,
    called: bool,
    /// For clones of an instance that has none: it may be cloned by many threads at once.
    made_for_clones: OnceLock<Arc<Kit<S, T>>>,
}

impl<S, T> Kits<S, T> {
    pub(crate) const fn none() -> Self {
        Self {
            kit: None,
            own: false,
            called: false,
            made_for_clones: OnceLock::new(),
        }
    }

    /// The service, or what it goes by, is about to be changed: what was cloned from it is out of date.
    pub(crate) fn forget(&mut self) {
        *self = Self::none();
    }
}

impl<S: Clone, T> Kits<S, T> {
    /// For an instance that is cloned: it shares its kit with the clone.
    pub(crate) fn clone_for(&self, rules: &ShardedArc<T>, service: &S) -> Self {
        let kit = self.kit.as_ref().unwrap_or_else(|| {
            self.made_for_clones
                .get_or_init(|| Kit::new(rules, service.clone()))
        });
        Self {
            kit: Some(Arc::clone(kit)),
            ..Self::none()
        }
    }

    /// What the call that follows takes along.
    #[inline]
    pub(crate) fn take(&mut self, rules: &ShardedArc<T>, service: &S) -> Spare<S, T> {
        match &self.kit {
            Some(kit) if self.own => Spare::of(Arc::clone(kit)),
            _ => self.take_anew(rules, service),
        }
    }

    #[inline(never)]
    fn take_anew(&mut self, rules: &ShardedArc<T>, service: &S) -> Spare<S, T> {
        if !std::mem::replace(&mut self.called, true) {
            return match self.kit.take() {
                Some(kit) => Spare::of(kit),
                None => Spare::of(Kit::new(rules, service.clone())),
            };
        }
        let kit = Kit::new(rules, service.clone());
        self.kit = Some(Arc::clone(&kit));
        self.own = true;
        Spare::of(kit)
    }
}

/// What a call needs for later attempts: the rules, and an instance of the service.
pub(crate) struct Spare<S, T> {
    source: Source<S, T>,
    /// The instance that makes the attempts after the first.
    service: Option<S>,
}

enum Source<S, T> {
    Kit(Arc<Kit<S, T>>),
    Rules(ArcShard<T>),
}

impl<S, T> Spare<S, T> {
    /// Of a call that cannot be repeated, or that brings its own service.
    pub(crate) fn own(rules: ArcShard<T>, service: Option<S>) -> Self {
        Self {
            source: Source::Rules(rules),
            service,
        }
    }

    fn of(kit: Arc<Kit<S, T>>) -> Self {
        Self {
            source: Source::Kit(kit),
            service: None,
        }
    }

    #[inline]
    pub(crate) fn rules(&self) -> &T {
        match &self.source {
            Source::Kit(kit) => &kit.rules,
            Source::Rules(rules) => rules,
        }
    }

    /// The instance that makes later attempts.
    pub(crate) fn service(&mut self) -> Option<&mut S> {
        if let (None, Source::Kit(kit)) = (&self.service, &self.source) {
            self.service = Some(kit.spare());
        }
        self.service.as_mut()
    }

    /// Forgets an instance that has not become ready in time, and with it what it holds. Another is made when it is
    /// needed, if there is something to make it from.
    pub(crate) fn forget_unready(&mut self) {
        if let Source::Kit(_) = self.source {
            self.service = None;
        }
    }
}
