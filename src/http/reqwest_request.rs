//! A request of the resilient client: reqwest's own builder, with what the request says to the layers.

use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::{Body, IntoUrl, RequestBuilder, Response};
use serde::Serialize;

use super::reqwest_client::ResilientClient;
use super::reqwest_send::{Marked, Marks};
use crate::call::Holder;
use crate::call::deadline::{self, Deadline};
use crate::error::Error;

/// A request that goes through the layers of a [`ResilientClient`]. Made by its `get`, `post` and the like.
///
/// What it can say to the server is what reqwest's own builder can; [`with`](Self::with) reaches what has no method
/// here.
#[must_use = "a request does nothing before `send`"]
pub struct ResilientRequest {
    client: ResilientClient,
    request: RequestBuilder,
    marks: Marks,
    timeout: Option<Duration>,
}

impl ResilientClient {
    /// A request by GET.
    pub fn get(&self, url: impl IntoUrl) -> ResilientRequest {
        self.request(Method::GET, url)
    }

    /// A request by HEAD.
    pub fn head(&self, url: impl IntoUrl) -> ResilientRequest {
        self.request(Method::HEAD, url)
    }

    /// A request by POST. It is sent again only if it was certainly not done, has an
    /// [idempotency key](ResilientRequest::idempotency_key), or is [marked](ResilientRequest::idempotent).
    pub fn post(&self, url: impl IntoUrl) -> ResilientRequest {
        self.request(Method::POST, url)
    }

    /// A request by PUT.
    pub fn put(&self, url: impl IntoUrl) -> ResilientRequest {
        self.request(Method::PUT, url)
    }

    /// A request by PATCH, of which the same holds as of one by [POST](Self::post).
    pub fn patch(&self, url: impl IntoUrl) -> ResilientRequest {
        self.request(Method::PATCH, url)
    }

    /// A request by DELETE.
    pub fn delete(&self, url: impl IntoUrl) -> ResilientRequest {
        self.request(Method::DELETE, url)
    }

    /// A request by any method.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> ResilientRequest {
        ResilientRequest {
            client: self.clone(),
            request: self.client.request(method, url),
            marks: Marks::default(),
            timeout: None,
        }
    }
}

impl ResilientRequest {
    /// Changes reqwest's own builder. A timeout that is set there is one of each attempt.
    pub fn with(mut self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        self.request = change(self.request);
        self
    }

    /// Adds a header. A name or a value that is none is an error of [`send`](Self::send).
    pub fn header<K, V>(self, name: K, value: V) -> Self
    where
        HeaderName: TryFrom<K, Error: Into<::http::Error>>,
        HeaderValue: TryFrom<V, Error: Into<::http::Error>>,
    {
        self.with(|it| it.header(name, value))
    }

    /// Adds headers; those of the same names are replaced.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.with(|it| it.headers(headers))
    }

    /// Adds `Authorization: Bearer`.
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.with(|it| it.bearer_auth(token))
    }

    /// Adds to the query of the address.
    pub fn query<T: Serialize + ?Sized>(self, query: &T) -> Self {
        self.with(|it| it.query(query))
    }

    /// Sends this as the body. One that is a stream is sent once: a request with it is not tried again.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.with(|it| it.body(body))
    }

    /// Sends JSON.
    pub fn json<T: Serialize + ?Sized>(self, json: &T) -> Self {
        self.with(|it| it.json(json))
    }

    /// Sends a form.
    pub fn form<T: Serialize + ?Sized>(self, form: &T) -> Self {
        self.with(|it| it.form(form))
    }

    /// Adds an `Idempotency-Key`: the server does the request once, however often it comes, so that it may be tried
    /// again.
    pub fn idempotency_key(self, key: impl AsRef<str>) -> Self {
        self.with(|it| it.header("idempotency-key", key.as_ref()))
    }

    /// Says whether this request may be done twice, whatever its method says.
    pub fn idempotent(mut self, yes: bool) -> Self {
        self.marks.idempotent = Some(yes);
        self
    }

    /// How often this request may be tried again, instead of what the policy says.
    pub fn max_retries(mut self, n: u32) -> Self {
        self.marks.max_retries = Some(n);
        self
    }

    /// How long the caller waits for a response, with all attempts and waits, from [`send`](Self::send) on. The shorter
    /// of this and the policy's `total_timeout` counts. The body of the response is not bounded by it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Until when the caller can use a response.
    pub fn deadline(mut self, deadline: Deadline) -> Self {
        self.marks.deadline = Some(deadline);
        self
    }

    /// Who holds the permit of the lock. Default: the [workflow](crate::workflow) of the task.
    pub fn holder(mut self, holder: impl Into<Holder>) -> Self {
        self.marks.holder = Some(holder.into());
        self
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// As [`ResilientClient::send`].
    pub async fn send(self) -> Result<Response, Error<reqwest::Error>> {
        let mut marks = self.marks;
        let own = self.timeout.map(Deadline::after);
        marks.deadline = deadline::earlier(own, marks.deadline);
        let request = self.request.build().map_err(Error::Inner)?;
        self.client
            .execute_marked(Marked::new(request, marks))
            .await
    }
}

impl fmt::Debug for ResilientRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilientRequest")
            .field("request", &self.request)
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}
