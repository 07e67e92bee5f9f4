//! The routes of the page.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::command::{Authorize, Command, Refused};
use super::live::Live;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/app.js");

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A command is some words and a config: more than this is none.
const MOST_BYTES: usize = 64 * 1024;
const COMMAND_HEADER: &str = "x-bulwark-command";

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) live: Arc<Live>,
    pub(super) authorize: Option<Authorize>,
}

pub(super) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/style.css", get(|| async { asset("text/css", STYLE) }))
        .route(
            "/app.js",
            get(|| async { asset("text/javascript", SCRIPT) }),
        )
        .route("/api/snapshot", get(snapshot))
        .route("/api/events", get(events))
        .route("/api/command", post(command))
        .fallback(elsewhere)
        .with_state(shared)
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(CONTENT_TYPE, kind);
    set(CONTENT_SECURITY_POLICY, POLICY);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(REFERRER_POLICY, "no-referrer");
    set(CACHE_CONTROL, "no-store");
    response
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    response(StatusCode::OK, kind, text)
}

/// The page stands at `/ops` or at `/ops/`, and what belongs to it is beside it: named so that both work, also behind a proxy
/// that puts something before the path.
async fn page(OriginalUri(uri): OriginalUri) -> Response {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    let here = match last {
        "" => ".".to_owned(),
        last => format!("./{}", escaped(last)),
    };
    let page = PAGE.replace("{here}", &here);
    response(StatusCode::OK, "text/html; charset=utf-8", page)
}

/// For an attribute. A path has no such characters, but who knows what a router lets through.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// A nested router gets `/ops/` here.
async fn elsewhere(uri: OriginalUri, request: Request) -> Response {
    let is_page = matches!(request.uri().path(), "" | "/");
    match is_page && request.method() == http::Method::GET {
        true => page(uri).await,
        false => response(StatusCode::NOT_FOUND, "text/plain", "not found\n"),
    }
}

async fn snapshot(State(shared): State<Shared>) -> Response {
    response(StatusCode::OK, "application/json", shared.live.json())
}

async fn events(State(shared): State<Shared>) -> Response {
    match shared.live.stream() {
        Some(events) => response(StatusCode::OK, "text/event-stream", Body::new(events)),
        None => {
            let text = "too many readers: close a page, or raise `most_readers`\n";
            let mut full = response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", text);
            let later = HeaderValue::from_static("5");
            full.headers_mut().insert(RETRY_AFTER, later);
            full
        }
    }
}

/// The beginning of a word that somebody has sent.
fn cut(word: &str) -> &str {
    let end = word.char_indices().nth(64).map_or(word.len(), |(at, _)| at);
    &word[..end]
}

fn answer(status: StatusCode, message: &str) -> Response {
    let key = if status.is_success() { "done" } else { "error" };
    let body = json!({ key: message }).to_string();
    response(status, "application/json", body)
}

async fn command(State(shared): State<Shared>, request: Request) -> Response {
    let Some(authorize) = &shared.authorize else {
        return answer(StatusCode::NOT_FOUND, "commands are off on this page");
    };
    let (parts, body) = request.into_parts();
    if let Err(why) = is_of_this_page(&parts) {
        return answer(StatusCode::FORBIDDEN, why);
    }
    let Ok(body) = to_bytes(body, MOST_BYTES).await else {
        return answer(StatusCode::PAYLOAD_TOO_LARGE, "a command is at most 64 KiB");
    };
    let command: Command = match serde_json::from_slice(&body) {
        Ok(command) => command,
        Err(error) => {
            let why = format!("this is no command: {error}");
            return answer(StatusCode::BAD_REQUEST, &why);
        }
    };
    let operator = match authorize(&parts, &command) {
        Ok(operator) => operator,
        Err(denied) => {
            // Whoever is denied shall not fill the log.
            let (pattern, name) = (cut(&command.pattern), cut(&command.name));
            tracing::warn!(target: "tower_bulwark", pattern, name, %denied, "command denied");
            return answer(StatusCode::FORBIDDEN, &denied.to_string());
        }
    };
    let done = command.carry_out(shared.live.registry());
    match done {
        Ok(change) => {
            let text = format!("{} `{}`: {change}", command.pattern, command.name);
            shared.live.commanded(operator.name(), text);
            tracing::warn!(target: "tower_bulwark", pattern = command.pattern, name = command.name, operator = operator.name(), change, "command of an operator");
            answer(StatusCode::OK, &change)
        }
        Err(refused) => {
            let status = match &refused {
                Refused::Unknown => StatusCode::NOT_FOUND,
                Refused::NotForThis | Refused::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
            };
            answer(status, &refused.to_string())
        }
    }
}

/// Whether the page itself sends the command, and no other that the operator has open. A page from elsewhere can neither set
/// such a header nor send such a content type without being asked for permission first, which nobody gives here.
fn is_of_this_page(parts: &Parts) -> Result<(), &'static str> {
    let text = |headers: &HeaderMap, name: &str| {
        let value = headers.get(name).map(|it| it.to_str());
        value.map(|it| it.unwrap_or_default().to_ascii_lowercase())
    };
    let headers = &parts.headers;
    if text(headers, COMMAND_HEADER).as_deref() != Some("1") {
        return Err("a command has the header `x-bulwark-command: 1`");
    }
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return Err("a command has the content type `application/json`");
    }
    if text(headers, "sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return Err("a command comes from this page");
    }
    if let Some(origin) = text(headers, ORIGIN.as_str()) {
        let host = match parts.uri.authority() {
            Some(authority) => authority.as_str().to_ascii_lowercase(),
            None => text(headers, HOST.as_str()).unwrap_or_default(),
        };
        let of_origin = origin.split_once("://").map(|(_, host)| host);
        if host.is_empty() || of_origin != Some(&*host) {
            return Err("a command comes from this page");
        }
    }
    Ok(())
}
