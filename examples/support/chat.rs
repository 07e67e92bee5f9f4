//! As much of the chat completions API as the examples need.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChatCompletion {
    pub id: String,
    pub object: String,
    pub created: u64,
    pub model: String,
    pub choices: Vec<Choice>,
    pub usage: Usage,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Choice {
    pub index: u32,
    pub message: Message,
    pub finish_reason: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub total_tokens: u32,
}

impl ChatRequest {
    /// A conversation of one question.
    pub fn ask(model: impl Into<String>, question: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            messages: vec![Message {
                role: "user".into(),
                content: question.into(),
            }],
        }
    }

    /// The last thing the user said.
    pub fn question(&self) -> Option<&str> {
        let said = self.messages.iter().rev();
        said.clone()
            .find(|message| message.role == "user")
            .map(|message| &*message.content)
    }
}

impl ChatCompletion {
    /// What the model said.
    pub fn answer(&self) -> Option<&str> {
        self.choices.first().map(|choice| &*choice.message.content)
    }
}

/// How long to wait, if the headers of a response say so: `retry-after-ms`, or `Retry-After` in seconds.
pub fn retry_after(headers: &http::HeaderMap) -> Option<std::time::Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let millis = number("retry-after-ms").map(std::time::Duration::from_millis);
    millis.or_else(|| number("retry-after").map(std::time::Duration::from_secs))
}
