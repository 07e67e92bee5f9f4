//! Settings from a file, changed while the program runs. (feature `config`)
//!
//! Every pattern has a config: plain data, with the names and defaults of its builder. A [`Config`] has many of them by
//! name, and stacks. It is read from TOML, JSON or any other format of serde, checked as a whole, and [applied] to a registry:
//! all of it or nothing, and without losing state.
//!
//! [applied]: crate::Registry::apply
//!
//! # When
//!
//! When the numbers shall not be in the code: they differ between deployments, or are changed during an incident.
//!
//! # When not
//!
//! A library that others build on takes handles and builders from its caller, and reads no files.
//!
//! # Example
//!
//! ```
//! use tower_bulwark::config::Config;
//! use tower_bulwark::Registry;
//!
//! let config = Config::from_toml(r#"
//!     [defaults.circuit_breaker]        # for every breaker, also those of stacks
//!     max_retry_after = "1m"
//!
//!     [templates.circuit_breakers.careful]
//!     failure_rate = 0.2
//!     window = { time = "1m" }
//!
//!     [circuit_breakers.payments]
//!     base = "careful"                  # a template, or another entry
//!     recovery = { first = "5s", multiplier = 2.0, max = "1m" }
//!
//!     [stacks.openai]
//!     kind = "llm"                      # http, llm, grpc, hedged
//!     without = ["lock"]
//!     retry.max_retries = 2
//!     timeouts.total = "2m"
//! "#)?;
//!
//! let registry = Registry::new();
//! let applied = registry.apply(&config)?;
//! println!("{applied}"); // circuit breaker `openai`: made ..
//! let payments = registry.circuit_breaker("payments");
//! assert_eq!(payments.config().failure_rate, Some(0.2));
//! let openai = config.stack("openai")?.build_in(&registry)?;
//! # let _ = openai;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To go by a file, and by what it becomes: [`Registry::watch_config`](crate::Registry::watch_config).
//!
//! # How it is written
//!
//! | section | an entry is | under `defaults` |
//! |---|---|---|
//! | `circuit_breakers` | [`CircuitBreakerConfig`](crate::circuit_breaker::CircuitBreakerConfig) | `circuit_breaker` |
//! | `resource_locks` | [`ContentionConfig`](crate::contention::ContentionConfig) | `resource_lock` |
//! | `retries` | [`RetryConfig`](crate::retry::RetryConfig) | `retry` |
//! | `rate_limits` | [`RateLimitConfig`](crate::rate_limit::RateLimitConfig) | `rate_limit` |
//! | `timeouts` | [`TimeoutConfig`](crate::timeout::TimeoutConfig) | `timeouts` |
//! | `hedges` | [`HedgeConfig`](crate::hedge::HedgeConfig) | `hedge` |
//! | `throttles` | [`ThrottleConfig`](crate::throttle::ThrottleConfig) | `throttle` |
//! | `chaos` | [`ChaosConfig`](crate::chaos::ChaosConfig) | `chaos` |
//! | `stacks` | `kind`, `without`, and a table for each part: `timeouts`, `retry`, `hedge`, `circuit_breaker`, `rate_limit`, `lock` | `stack` |
//!
//! - A duration is a text with its unit: `"200ms"`, `"30s"`, `"1m30s"`. A number without a unit is an error.
//! - `"none"` switches off what may be off: `timeout = "none"`, `consecutive_failures = "none"`.
//! - One of several kinds is a table of its name: `window = { time = "30s" }` or `{ calls = 100 }`,
//!   `backoff = { exponential = { base = "200ms", multiplier = 2.0 } }`, `{ linear = { base = .. } }`, `{ fixed = { delay = .. } }`;
//!   one without numbers is a text: `jitter = "full"`, `queue = "fifo"`.
//! - `recovery` is a duration, or `{ first = .., multiplier = .., max = .., jitter = .. }`.
//! - The `budget` of a retry is `"none"`, or `{ ratio = 0.2, floor_per_second = 10.0, burst = 100 }`; a budget that is shared is
//!   given by code.
//! - `quotas = [{ name = "requests", amount = 500, period = "1m", burst = 100 }]`, in the order in which a cost names them.
//! - A stack has the parts of its kind, less those in `without`, and those it has a table for.
//!
//! A setting comes from the nearest place that has it: the entry; then its `base`, the base of that, and so on; then
//! `defaults`; then, in a stack, the numbers of its kind; then the crate. `defaults.circuit_breaker` is for the breakers of
//! stacks too, and `defaults.stack` goes before it there. A setting is taken as a whole: `window` of an entry replaces that of
//! its base. So is `without` of a stack: the nearest counts, and a part that has a table there or nearer is there. Entries under
//! `templates` are for `base` alone: nothing is made of them, and one goes before an entry of the same name.
//!
//! A [JSON schema](json_schema) lets an editor complete and check.
//!
//! # What cannot be in a file
//!
//! Callbacks, classifiers, a budget that several policies share, a rule of your own. They are given by code, to the builder:
//! `config.stack("openai")?.retry(|it| it.on_retry(..)).build_in(&registry)?`. Build before the config is applied or watched:
//! a builder that finds its name registered gets the handle that is there, and its callbacks are dropped. What code has given
//! stays when a config is applied.
//!
//! # Errors
//!
//! [`ConfigErrors`]: unknown keys, wrong types, settings that cannot work, parts of a stack that do not fit together, a name
//! that stands twice. All of them at once, each with file, line, column, keys, and what to change.
//!
//! # State
//!
//! Applying keeps windows, open circuits, permits, queues, buckets, budgets and counts. A call that runs keeps what it began
//! with. An entry that is gone is forgotten once nobody has a handle of it and it has nothing to remember, and until then goes
//! on with the settings it has.
//!
//! # Cost
//!
//! None to calls. To apply a config costs a lock of each handle that it changes.

mod apply;
mod document;
mod error;
mod read;
mod reader;
mod schema;
mod section;
mod stacks;
mod tree;
mod watch;

pub use apply::{Applied, EntryChange, EntryChangeKind};
pub use document::Config;
pub use error::{ConfigErrors, Problem};
pub use schema::json_schema;
pub use watch::{ConfigWatcher, WatchError};
