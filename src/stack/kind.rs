/// Which numbers a stack started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Llm,
    Grpc,
    Hedged,
}
