//! Settings in a file. (draft)

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
