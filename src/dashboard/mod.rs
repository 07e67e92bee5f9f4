//! One page over a registry: what is refused and why, who waits for whom, and what an operator may do about it. (feature
//! `dashboard`)
//!
//! [`Dashboard`] makes an axum `Router` that is nested at any path of the service it watches. There is nothing to build or to
//! install: the page is part of the library, and asks nobody but this router.
//!
//! # When
//!
//! To look at a program while something is wrong with what it calls.
//!
//! # When not
//!
//! For alerts, for history, and for many processes at once: that is for [metrics](crate::docs::metrics). The page shows this
//! process, now, and the last two minutes.
//!
//! # Example
//!
//! ```
//! use axum::Router;
//! use tower_bulwark::dashboard::Dashboard;
//! use tower_bulwark::{CircuitBreaker, Registry};
//!
//! let registry = Registry::new();
//! let breaker = CircuitBreaker::builder("openai").build_in(&registry)?;
//!
//! let dashboard = Dashboard::builder(&registry).title("checkout").build()?;
//! // With `nest_service` both `/ops` and `/ops/` are the page; with `nest` one of them is.
//! let app: Router = Router::new().nest_service("/ops", dashboard.router());
//! # let _ = (breaker, app);
//! # Ok::<(), tower_bulwark::RegistryError>(())
//! ```
//!
//! `cargo run --example dashboard --features dashboard -- --serve` opens one over traffic that fails.
//!
//! # What it shows
//!
//! - In one sentence, and then problem by problem: what is refused and why, since when, and what comes next. Each leads to
//!   its row.
//! - For each pattern a table, the worst row first: how far a circuit is from opening, probes, permits, waits and holds
//!   (p50, p99), quotas, the share of retries and what their budget would pay for; with curves of the last two minutes.
//! - Who waits for whom, drawn and in words, with deadlocks marked.
//! - The last transitions, with the numbers that caused them; configs that were applied, or refused and why; commands with who
//!   gave them.
//! - The settings that are in force now, as a file has them, and which of them differ from the defaults.
//! - What a config that is tried ([`CircuitBreaker::shadow`](crate::CircuitBreaker::shadow), and that of locks and rate limits)
//!   would have done otherwise.
//! - Of a fleet its connection and processes, who holds shared locks and in which process, and what goes on without the store.
//! - Groups of keyed handles ([`DashboardBuilder::keyed`]): the worst of a million.
//!
//! How long calls take is known to what measures it: a lock knows its holds, timeouts with a
//! [`total`](crate::timeout::TimeoutsBuilder::total) and a hedge with a percentile their calls. A circuit breaker reads no
//! clock for a healthy call, so there is no such column for it.
//!
//! A deadlock is found by the names of holders: every permit of a lock is held by somebody who waits for a lock of which the
//! same is true. One name for several pieces of work can look like one; a name that waits twice, or has two permits of a
//! lock, counts as several.
//!
//! # Routes
//!
//! | route | what |
//! |---|---|
//! | `GET /` | the page, with `style.css` and `app.js` beside it |
//! | `GET /api/snapshot` | everything as one JSON document |
//! | `GET /api/events` | server-sent events: `state` several times a second, `events` when there are new ones, with the number of those that were missed |
//! | `POST /api/command` | a [`Command`]; there only if commands are allowed |
//!
//! In a document, `state.problems` has for each problem a `sentence`, `since_seconds`, and what comes `next`: `what`, and
//! `in_seconds` if that is known. The documents are made for the page of the same version, and may change with any version of
//! the crate.
//!
//! # What it costs
//!
//! Nothing while nobody reads: there is no task and no timer. While somebody does, the registry is looked at four times a
//! second ([`DashboardBuilder::interval`]), once for all readers, on a thread for what blocks. A look that takes long is followed
//! by a pause of nine times as long. What a reader gets is made when it has room for it: one that is slow skips states, and
//! nothing is queued for it. Curves and rates are sampled once a second for the rows that are shown, and begin anew after ten
//! seconds without a reader. Numbers of rows, of events and of readers are bounded.
//!
//! # Who may read, and who may command
//!
//! Whoever reaches the routes may read them: names of handles, ids of holders, messages of failures. Nest them behind what guards
//! your other internal pages, or serve them on an address of their own.
//!
//! Commands are off unless a hook is given ([`DashboardBuilder::commands`]). It is asked for each, and names who gave it; each
//! is a `tracing` event (`WARN`, target `tower_bulwark`) with who, what, from and to, and stands on the page. A page of another
//! site cannot send one: a command needs a header that forms cannot set, a type that they cannot send, and the browser's own
//! word that it comes from this origin (`Sec-Fetch-Site`, or `Origin` beside the right `Host`). A program of your own says so
//! itself:
//!
//! ```text
//! curl http://127.0.0.1:8080/ops/api/command -H 'x-bulwark-command: 1' -H 'sec-fetch-site: same-origin' \
//!   -H 'content-type: application/json' \
//!   -d '{"pattern": "circuit_breaker", "name": "openai", "command": "force_open"}'
//! ```
//!
//! Commands change the numbers of a config, and never its rules that are code.
//!
//! Every response forbids other sources and inline code (`Content-Security-Policy`), frames and sniffing. The page treats every
//! name and message as text. No name is ever part of an address.
//!
//! # Shutdown
//!
//! The streams of readers last for an hour, and a graceful shutdown waits for them: call [`Dashboard::close`] when it begins.
//!
//! # Errors, panics
//!
//! [`DashboardBuilder::build`] refuses settings that show nothing. A key whose `Display` panics takes its own group from the
//! page, and nothing else. The routes need a tokio runtime with its timer, as axum does.

mod authorize;
mod builder;
mod command;
mod events;
mod graph;
mod groups;
mod history;
mod hub;
mod log;
mod operate;
mod origin;
mod pattern;
mod readers;
mod router;
mod settings;
mod shown;
mod table;
mod view;
mod words;

pub use authorize::{Authorize, Authorized, Denied, Operator};
pub use builder::{Dashboard, DashboardBuilder};
pub use command::{Action, Command};
pub use pattern::Pattern;
pub use shown::Shown;
