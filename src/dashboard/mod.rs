//! A page that shows what is refused and why, who holds what, and who waits for whom. (feature `dashboard`)
//!
//! # When
//!
//! To look at a program while something is wrong with what it calls: the page says so in sentences, with the numbers that
//! caused it, and where it is going. It needs nothing but the program: no build, no store, no network beyond it.
//!
//! # When not
//!
//! For history and alerts over many processes: that is for [metrics](crate::observe). The page shows this process, now, and
//! the last minutes as far as the browser has seen them.
//!
//! # Example
//!
//! ```
//! use axum::Router;
//! use tower_bulwark::Registry;
//! use tower_bulwark::dashboard::Dashboard;
//!
//! let dashboard = Dashboard::builder(Registry::global()).title("checkout").build();
//! // Behind whatever guards the rest of your admin pages.
//! let app: Router = Router::new().nest("/ops", dashboard.router());
//! # let _ = app;
//! ```
//!
//! # Routes
//!
//! `nest("/ops", ..)` serves the page at `/ops`, `nest_service("/ops", ..)` at `/ops` and at `/ops/`; `merge` serves it at `/`.
//! What belongs to the page is named beside it, so a proxy may put something before the path.
//!
//! | route | what |
//! |---|---|
//! | `/` | the page: HTML, one style sheet and one script, all in the program |
//! | `/api/snapshot` | what it shows, as JSON |
//! | `/api/events` | the same as server-sent events, once an interval |
//! | `/api/command` | what an operator wants done; `404` unless it is [enabled](DashboardBuilder::commands) |
//!
//! # Who may see it
//!
//! Names of handles, holders and waiters, the messages of the last failures, and configs: whoever reaches the routes. Put them
//! behind the authentication of the program, as a layer around the router. Holders are what the program calls them: if that is
//! a customer's name, the page shows it.
//!
//! # Commands
//!
//! Off, unless a hook says for each command who gives it. They open, close, disable and reset circuits, change capacities and
//! settings, arm drills. Each is written to the log with its operator, at `WARN`, and the last twenty stand on the page. A command has to come from the page itself:
//! it carries a header that no other page can set, a content type that no form can send, and where the browser names the
//! origin it has to be that of the page, as the `Host` of the request has it: a proxy has to hand that on. That a request
//! comes from this machine or this network says nothing of who has sent it, because a page from elsewhere can be made to look
//! like one from here (DNS rebinding): the hook has to know the operator by something else. The page has a policy that lets no script in but its own, and escapes every name.
//!
//! # Cost
//!
//! None while nobody looks. While somebody does, all handles are looked at once an interval, whatever the number of readers.
//! At most 50 rows of a kind are shown, the worst first. Groups of [keyed](crate::keyed) instances are looked through by a
//! thread for blocking work, at most a twentieth of the time. A reader that takes nothing holds one state in memory, and
//! skips the others; readers beyond [`most_readers`](DashboardBuilder::most_readers) get `503`.
//!
//! # Errors, panics
//!
//! None. The events need a tokio runtime with its timer, as axum does.

mod builder;
mod command;
mod groups;
mod live;
mod problem;
mod router;
mod view;
mod words;

pub use builder::{Dashboard, DashboardBuilder};
pub use command::{Action, Command, Denied, Operator};
pub use groups::Shown;
