//! The routes, and what every response says to a browser.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::json;

use super::command::{Command, CommandError, ErrorCode};
use super::events::Reader;
use super::hub::{Hub, NoFrame};
use super::operate;
use super::origin;

/// A command is a few lines; nobody needs more.
const LONGEST_COMMAND: usize = 64 * 1024;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/app.js");

/// Nothing but what this router serves, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn router(hub: Arc<Hub>) -> Router {
    let commands = hub.authorize.is_some();
    let mut router = Router::new()
        .route("/", get(page))
        .route("/style.css", get(style))
        .route("/app.js", get(script))
        .route("/api/snapshot", get(snapshot))
        .route("/api/events", get(events));
    if commands {
        router = router.route("/api/command", post(command));
    }
    // Nested at `/ops`, this is what `/ops/` comes to.
    router.fallback(page_or_nothing).with_state(hub)
}

fn respond(status: StatusCode, kind: &'static str, cache: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let all: [(HeaderName, &str); 7] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, cache),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in all {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    response
}

fn asset(kind: &'static str, text: impl Into<Body>) -> Response {
    respond(StatusCode::OK, kind, "no-cache", text.into())
}

fn document(status: StatusCode, json: String) -> Response {
    respond(status, "application/json", "no-store", json.into())
}

/// The page, with addresses that are right with a slash at the end of its own and without one.
async fn page(OriginalUri(uri): OriginalUri) -> Response {
    asset(
        "text/html; charset=utf-8",
        PAGE.replace("{{base}}", &base(&uri)),
    )
}

/// What stands before relative addresses: of `/ops/` nothing, of `/ops` it is `ops/`.
fn base(uri: &Uri) -> String {
    let last = uri.path().rsplit('/').next().unwrap_or_default();
    if last.is_empty() {
        return String::new();
    }
    let mut base = String::from("./");
    for byte in last.bytes() {
        // What could end an attribute, or mean something in an address.
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' => {
                base.push(char::from(byte));
            }
            _ => base += &format!("%{byte:02X}"),
        }
    }
    base + "/"
}

async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

async fn page_or_nothing(original: OriginalUri, request: Request) -> Response {
    match (request.method(), request.uri().path()) {
        (&http::Method::GET | &http::Method::HEAD, "" | "/") => page(original).await,
        _ => error(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such thing here",
        ),
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let error = json!({"error": {"code": code, "message": message}});
    document(status, error.to_string())
}

fn no_frame() -> Response {
    let message = "there is no state: looking at the registry has failed";
    error(StatusCode::INTERNAL_SERVER_ERROR, "no_state", message)
}

async fn snapshot(State(hub): State<Arc<Hub>>) -> Response {
    match hub.document().await {
        Ok(json) => document(StatusCode::OK, json),
        Err(NoFrame) => no_frame(),
    }
}

async fn events(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Response {
    let Some(place) = hub.readers.take() else {
        let message = "too many read already: close a page, or raise `readers` of the dashboard";
        let mut response = error(StatusCode::SERVICE_UNAVAILABLE, "too_many_readers", message);
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        return response;
    };
    let last = headers.get("last-event-id").and_then(|it| it.to_str().ok());
    let body = Reader::new(Arc::clone(&hub), place, last).into_body();
    let mut response = respond(
        StatusCode::OK,
        "text/event-stream",
        "no-store",
        Body::new(body),
    );
    // Proxies that collect responses before they hand them on make a live page a dead one.
    let headers = response.headers_mut();
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

async fn command(State(hub): State<Arc<Hub>>, request: Request) -> Response {
    match take_command(&hub, request).await {
        Ok(json) => document(StatusCode::OK, json),
        Err(refused) => {
            let code = serde_json::to_value(refused.code).unwrap_or_default();
            let code = code.as_str().unwrap_or("error");
            error(refused.status(), code, &refused.message)
        }
    }
}

async fn take_command(hub: &Arc<Hub>, request: Request) -> Result<String, CommandError> {
    let (parts, body) = request.into_parts();
    origin::check(&parts)?;
    let unreadable = |why: String| CommandError::new(ErrorCode::Unreadable, why);
    let body = to_bytes(body, LONGEST_COMMAND).await;
    let body =
        body.map_err(|_| unreadable("the command is longer than 64 KiB, or broke off".into()))?;
    let command =
        Command::read(&body).map_err(|why| unreadable(format!("this is not a command: {why}")))?;
    let done = operate::operate(hub, &parts, command).await?;
    Ok(json!({"done": done}).to_string())
}
