use std::fmt;

/// Tells the caller that a hedge has answered.
pub trait MarkAnswer<Res> {
    /// Called with the response of a hedge, and the number of its attempt: from 2, for the first is 1.
    fn mark(&self, response: &mut Res, attempt: u32);
}

/// Marks nothing: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMark;

impl<Res> MarkAnswer<Res> for NoMark {
    fn mark(&self, _: &mut Res, _: u32) {}
}

/// Marks responses with a function. See `mark` on the layer.
#[derive(Clone, Copy)]
pub struct MarkWith<F>(pub(super) F);

impl<Res, F: Fn(&mut Res, u32)> MarkAnswer<Res> for MarkWith<F> {
    fn mark(&self, response: &mut Res, attempt: u32) {
        (self.0)(response, attempt);
    }
}

impl<F> fmt::Debug for MarkWith<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MarkWith")
    }
}
