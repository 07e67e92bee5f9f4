//! What this very program says on a machine without a server: its tests are started anew, with nothing in the path.

use std::process::{Command, Output};

use super::support::server::Server;

/// Needs a server, and does nothing else.
#[tokio::test]
async fn a_server_is_started() {
    let server = Server::start(&[]).await;
    if let Some(server) = server {
        let said: String = server.ask("PING").await.unwrap();
        assert_eq!(said, "PONG");
    }
}

fn without_a_server(require: Option<&str>) -> Output {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again
        .args(["no_server::a_server_is_started", "--exact"])
        .env("PATH", "/nowhere")
        .env_remove("REDIS_SERVER_BIN")
        .env_remove("REQUIRE_REDIS");
    if let Some(value) = require {
        again.env("REQUIRE_REDIS", value);
    }
    again.output().unwrap()
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(all).unwrap()
}

#[test]
fn without_a_server_tests_pass_and_say_loudly_that_they_have_not_run() {
    for output in [without_a_server(None), without_a_server(Some("0"))] {
        assert!(output.status.success(), "{output:?}");
        let said = said(&output);
        assert!(said.contains("NOT RUN"), "{said}");
    }
}

#[test]
fn where_a_server_is_required_tests_fail_without_one() {
    let output = without_a_server(Some("1"));
    assert!(!output.status.success(), "{output:?}");
    let said = said(&output);
    assert!(said.contains("REQUIRE_REDIS=1, and there is no"), "{said}");
}

#[test]
fn a_server_that_is_named_and_is_not_there_is_a_failure_of_its_own() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["no_server::a_server_is_started", "--exact"])
        .env("REDIS_SERVER_BIN", "/nowhere/redis-server")
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    let said = said(&output);
    assert!(said.contains("REDIS_SERVER_BIN names no file"), "{said}");
}
