mod counter;
#[cfg(test)]
mod tests;

pub(crate) use counter::{StripedCounter, TaggedStripes};
