//! Named locks that know who holds them and who waits.
mod event;
mod holder;

pub use event::ContentionEvent;
pub use holder::Holder;
