/// What a stack is for: which numbers it starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum StackKind {
    /// [`Stack::http`](super::Stack::http): the default.
    #[default]
    Http,
    /// [`Stack::llm`](super::Stack::llm).
    Llm,
    /// [`Stack::grpc`](super::Stack::grpc).
    Grpc,
    /// [`Stack::hedged`](super::Stack::hedged).
    Hedged,
}
