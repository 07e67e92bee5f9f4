//! What a command leaves in the log. In a binary of its own: who listens to all threads hears other tests, too.
#![cfg(feature = "dashboard")]

use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::Request;
use http::request::Parts;
use serde_json::json;
use tower::ServiceExt;
use tower_bulwark::Registry;
use tower_bulwark::dashboard::{Action, Command, Dashboard, Denied, Operator};

#[tokio::test]
async fn a_command_is_logged_with_who_what_from_and_to_and_a_denied_one_with_why() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    // For all threads: a command is given on one for what blocks.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter("off,tower_bulwark=warn")
        .with_writer(move || writer.clone())
        .init();
    let registry = Registry::new();
    let _ = registry.circuit_breaker("logged\nbreaker");
    let dashboard = Dashboard::builder(&registry)
        .commands(|_: &Parts, command: &Command| match command.action {
            Action::Reset => Err(Denied::because("not you")),
            _ => Ok(Operator::new("carol")),
        })
        .build()
        .unwrap();
    let router = dashboard.router();
    for (name, status) in [("force_open", 200), ("reset", 403)] {
        let json =
            json!({"pattern": "circuit_breaker", "name": "logged\nbreaker", "command": name});
        let request = Request::post("/api/command")
            .header("x-bulwark-command", "1")
            .header("content-type", "application/json")
            .header("sec-fetch-site", "same-origin")
            .body(Body::from(json.to_string()));
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), status);
    }
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let of = |words: &str| {
        text.lines()
            .find(|it| it.contains(words))
            .unwrap_or_default()
    };
    let done = of("an operator's command");
    for part in [
        "WARN tower_bulwark: ",
        r#"who="carol""#,
        r#"pattern="circuit_breaker""#,
        r#"name="logged\nbreaker""#,
        r#"command="force_open""#,
        r#"from="closed""#,
        r#"to="forced open""#,
    ] {
        assert!(done.contains(part), "{part} is not in {text}");
    }
    let denied = of("a command was denied");
    assert!(denied.contains("not allowed: not you"), "{text}");
}
