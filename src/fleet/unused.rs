//! When a table of names looks for those that nobody uses, as a server forgets them after a day.

/// Each time it has doubled: what a look costs is paid by the names that were new since.
#[derive(Debug, Default)]
pub(super) struct Unused {
    look_at: usize,
}

impl Unused {
    /// Before the first.
    const FEW: usize = 256;

    /// With so many names: whether it is time to look.
    pub(super) fn is_due(&self, names: usize) -> bool {
        names >= self.look_at.max(Self::FEW)
    }

    /// So many are left.
    pub(super) fn has_looked(&mut self, names: usize) {
        self.look_at = names * 2;
    }
}
