//! (to be made)

/// Of one process.
#[derive(Default)]
pub(super) struct InProcess;
