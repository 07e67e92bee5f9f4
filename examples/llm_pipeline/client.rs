//! The API and its client: how a request is made, and what counts as its answer.

use std::env;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Response, StatusCode};
use tower_bulwark::workflow;

use crate::support;
use crate::support::chat::{self, ChatRequest};
use crate::support::fake_llm;

/// An API to talk to, as the environment names it.
#[derive(Debug)]
pub struct Api {
    pub base_url: String,
    pub model: String,
    /// Asked when the first does not answer.
    pub second_model: Option<String>,
    key: String,
}

/// `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_MODEL` and `OPENAI_SECOND_MODEL`.
pub fn api_from_env() -> Option<Api> {
    let set = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
    Some(Api {
        key: set("OPENAI_API_KEY")?,
        base_url: set("OPENAI_BASE_URL").unwrap_or_else(|| "https://api.openai.com/v1".into()),
        model: set("OPENAI_MODEL").unwrap_or_else(|| "gpt-4o-mini".into()),
        second_model: set("OPENAI_SECOND_MODEL"),
    })
}

/// What is asked, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Prompt(pub u64);

impl Prompt {
    /// What it takes of a quota of tokens, with its answer: an estimate, by the words of both.
    pub fn tokens(&self) -> u64 {
        2 * question(self.0).split_whitespace().count() as u64
    }

    /// Sends it as part of a workflow of its own name: the holder of a slot.
    pub fn named<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        workflow::scope(format!("prompt-{}", self.0), call)
    }
}

/// Where requests go, and the client that sends them.
#[derive(Debug)]
pub struct Endpoint {
    http: reqwest::Client,
    url: String,
    model: String,
    key: Option<String>,
    fake: bool,
}

impl Endpoint {
    pub fn fake(base_url: String) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: support::http_client()?,
            url: base_url + "/chat/completions",
            model: fake_llm::MODEL.into(),
            key: None,
            fake: true,
        })
    }

    pub fn real(api: &Api, model: &str) -> Result<Self, reqwest::Error> {
        // Which crypto provider TLS uses is the application's choice; fails only if it was made already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Retries are the stack's business: a client that also retries in secret multiplies them.
        let http = reqwest::Client::builder().retry(reqwest::retry::never());
        Ok(Self {
            http: http.build()?,
            url: format!("{}/chat/completions", api.base_url.trim_end_matches('/')),
            model: model.to_owned(),
            key: Some(api.key.clone()),
            fake: false,
        })
    }

    /// Asks, and reads the whole answer.
    pub async fn ask(&self, Prompt(prompt): Prompt) -> Result<Reply, reqwest::Error> {
        let asked = ChatRequest::ask(&*self.model, question(prompt));
        let mut request = self
            .http
            .post(&self.url)
            .header("x-client-request-id", format!("prompt-{prompt}"))
            .json(&asked);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        Reply::read(request.send().await?).await
    }

    /// The words of the model, if `reply` is an answer to this very prompt.
    pub fn answer(&self, prompt: u64, reply: &Reply) -> Option<String> {
        let completion: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
        let answer = completion.pointer("/choices/0/message/content")?.as_str()?;
        let fits = !self.fake || answer == fake_llm::says(&question(prompt));
        fits.then(|| answer.to_owned())
    }
}

pub fn question(prompt: u64) -> String {
    const TOPICS: [&str; 6] = [
        "a circuit breaker",
        "a retry budget",
        "a bulkhead",
        "exponential backoff",
        "a deadlock",
        "a thundering herd",
    ];
    let topic = TOPICS[(prompt % TOPICS.len() as u64) as usize];
    format!("What is {topic}? Answer {prompt}, in one short sentence.")
}

/// A whole answer, body included.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    body: Bytes,
}

impl Reply {
    /// Reads the body where the layers see it: a connection that breaks in the middle of an answer is then an
    /// attempt that failed, and a slot is held to the end.
    pub async fn read(response: Response) -> Result<Self, reqwest::Error> {
        Ok(Self {
            status: response.status(),
            retry_after: chat::retry_after(response.headers()),
            body: response.bytes().await?,
        })
    }

    /// The tokens that it has used, if it says so.
    pub fn tokens(&self) -> Option<u64> {
        let completion: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        completion.pointer("/usage/total_tokens")?.as_u64()
    }

    pub fn is_throttled(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }

    pub fn is_server_error(&self) -> bool {
        self.status.is_server_error()
    }
}
