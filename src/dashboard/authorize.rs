//! Who may command.

use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;

use http::request::Parts;

use super::command::Command;
use super::words::clipped;

/// Who gives a command, as logs and the page name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    name: String,
}

impl Operator {
    /// By a name that people know: an account, an address.
    #[must_use]
    pub fn new(name: impl fmt::Display) -> Self {
        // One line in a log, whoever chose the name.
        let name = name.to_string().replace(char::is_control, " ");
        Self {
            name: clipped(&name),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A command is not allowed. The reason is told to whoever gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    reason: String,
}

impl Denied {
    /// Because of this.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { reason }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not allowed: {}", self.reason)
    }
}

impl std::error::Error for Denied {}

/// The answer of an [`Authorize`].
pub type Authorized<'a> = Pin<Box<dyn Future<Output = Result<Operator, Denied>> + Send + 'a>>;

/// Decides, command by command, whether it is allowed, and says who gave it. For a decision that waits for something; one
/// that does not is a closure, given to [`DashboardBuilder::commands`](super::DashboardBuilder::commands).
///
/// ```
/// use http::request::Parts;
/// use tower_bulwark::dashboard::{Authorize, Authorized, Command, Denied, Operator};
///
/// struct Sessions;
///
/// impl Authorize for Sessions {
///     fn authorize<'a>(&'a self, request: &'a Parts, command: &'a Command) -> Authorized<'a> {
///         Box::pin(async move {
///             // Ask a session store for the cookie, say.
///             match request.headers.get("cookie") {
///                 Some(_) => Ok(Operator::new("alice")),
///                 None => Err(Denied::because("log in first")),
///             }
///         })
///     }
/// }
/// ```
pub trait Authorize: Send + Sync + 'static {
    /// Decides on one command, by the head of its request: a cookie, a header that a proxy has set, an extension that a
    /// layer around the router has left. Dropped if the browser goes away; then nothing is done.
    fn authorize<'a>(&'a self, request: &'a Parts, command: &'a Command) -> Authorized<'a>;
}

/// A decision that needs no waiting.
pub(super) struct AuthorizeWith<F>(pub(super) F);

impl<F> Authorize for AuthorizeWith<F>
where
    F: Fn(&Parts, &Command) -> Result<Operator, Denied> + Send + Sync + 'static,
{
    fn authorize<'a>(&'a self, request: &'a Parts, command: &'a Command) -> Authorized<'a> {
        Box::pin(ready((self.0)(request, command)))
    }
}
