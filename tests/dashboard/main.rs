//! The routes of the dashboard: what they show, who may command, and that nobody is held or filled up by a reader.
#![cfg(feature = "dashboard")]

mod commands;
#[cfg(feature = "redis")]
mod fleet;
mod many;
mod readers;
mod routes;
mod shown;
mod trials;
mod who_may;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::dashboard::{
    Action, Authorize, Authorized, Command, Dashboard, DashboardBuilder, Denied, Operator, Pattern,
};
use tower_bulwark::event::ContentionEvent;
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{
    Chaos, CircuitBreaker, CircuitState, Event, Hedge, RateLimit, Registry, ResourceLock,
    RetryBudget, RetryPolicy, Throttle, Timeouts,
};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) async fn get(router: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    ask(router, request).await
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Response<Body> {
    let answer: Result<_, Infallible> = router.clone().oneshot(request).await;
    answer.unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) async fn json_of(response: Response<Body>) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// The whole document, of a new look at the registry.
pub(crate) async fn snapshot(router: &Router) -> Value {
    tokio::time::advance(SECOND).await;
    let response = get(router, "/api/snapshot").await;
    assert_eq!(response.status(), StatusCode::OK);
    json_of(response).await
}

pub(crate) fn router(registry: &Registry) -> Router {
    Dashboard::builder(registry).build().unwrap().router()
}

pub(crate) fn table<'a>(document: &'a Value, id: &str) -> &'a Value {
    let tables = document["state"]["tables"].as_array().unwrap();
    let found = tables.iter().find(|it| it["id"] == id);
    found.unwrap_or_else(|| panic!("no table {id}"))
}

pub(crate) fn row<'a>(document: &'a Value, id: &str, name: &str) -> &'a Value {
    let rows = table(document, id)["rows"].as_array().unwrap();
    let found = rows.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no row {name}"))
}

pub(crate) fn cell<'a>(document: &'a Value, id: &str, name: &str, column: &str) -> &'a Value {
    let columns = table(document, id)["columns"].as_array().unwrap();
    let at = columns.iter().position(|it| it["title"] == column).unwrap();
    &row(document, id, name)["cells"][at]
}

pub(crate) fn texts(list: &Value) -> Vec<&str> {
    let all = list.as_array().unwrap().iter();
    all.map(|it| it["text"].as_str().unwrap()).collect()
}

pub(crate) async fn fail(breaker: &CircuitBreaker, times: usize) {
    for _ in 0..times {
        breaker
            .try_acquire()
            .unwrap()
            .failure_because(&std::io::Error::other("status 503"));
    }
}

/// As the page sends it.
pub(crate) fn command(_: Value) -> http::request::Builder {
    Request::post("/api/command")
        .header("host", "ops.example:8080")
        .header("x-bulwark-command", "1")
        .header("content-type", "application/json")
        .header("sec-fetch-site", "same-origin")
}

pub(crate) fn body(json: &Value) -> Body {
    Body::from(json.to_string())
}

pub(crate) async fn send(router: &Router, json: Value) -> (StatusCode, Value) {
    let request = command(json.clone()).body(body(&json)).unwrap();
    let response = ask(router, request).await;
    (response.status(), json_of(response).await)
}

pub(crate) fn with_commands(builder: DashboardBuilder) -> DashboardBuilder {
    builder.commands(|_: &Parts, _: &Command| Ok(Operator::new("alice")))
}

pub(crate) fn force_open() -> Value {
    json!({"pattern": "circuit_breaker", "name": "openai", "command": "force_open"})
}

/// Asks again and again, for at most a minute.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let all = async {
        loop {
            match ask().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let done = tokio::time::timeout(60 * SECOND, all).await;
    done.unwrap_or_else(|_| panic!("not within a minute: {what}"))
}
