//! What the examples share: a fake LLM server whose faults are scripted, and a table to print.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each example is a program, and uses a part of it"
)]

pub mod chat;
pub mod clock;
pub mod fake_llm;
pub mod scenario;
pub mod table;

/// A reqwest client for a server on loopback: no proxy, no certificates, and no retries of its own.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    // Which crypto provider TLS uses is the application's choice; fails only if it was made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .retry(reqwest::retry::never())
        .build()
}
