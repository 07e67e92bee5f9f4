use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What a refusal keeps of its throttle.
pub(crate) trait ThrottleName: Send + Sync {
    fn name(&self) -> &str;
}

/// A call that a throttle refused, because the service accepts too few of them. Cheap to make, and to clone.
#[derive(Clone)]
pub struct Throttled {
    pub(crate) throttle: Arc<dyn ThrottleName>,
    pub(crate) probability: f64,
}

impl Throttled {
    /// The name of the throttle.
    #[must_use]
    pub fn name(&self) -> &str {
        self.throttle.name()
    }

    /// The probability with which it was refused, and with which another try would be.
    #[must_use]
    pub fn probability(&self) -> f64 {
        self.probability
    }
}

impl fmt::Debug for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttled")
            .field("name", &self.name())
            .field("probability", &self.probability)
            .finish()
    }
}

impl fmt::Display for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.probability;
        write!(
            f,
            "throttle `{}`: the service accepts too few calls, {percent:.0} % are refused",
            self.name()
        )
    }
}

impl StdError for Throttled {}
