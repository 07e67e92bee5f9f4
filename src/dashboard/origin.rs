//! Whether a command comes from the page itself: no other site can make a browser send one.

use http::HeaderMap;
use http::request::Parts;

use super::command::{CommandError, ErrorCode};

/// The header that a form or a link of another site cannot set.
pub(super) const HEADER: &str = "x-bulwark-command";

/// Checks what a browser says of where a request comes from.
///
/// `Sec-Fetch-Site` is the browser's own statement, and holds behind a proxy that changes `Host`, too. Older browsers send
/// `Origin` alone, and then it has to name this host.
pub(super) fn check(request: &Parts) -> Result<(), CommandError> {
    let headers = &request.headers;
    if one(headers, HEADER) != Some("1") {
        return Err(refused("send the header `x-bulwark-command: 1`"));
    }
    let is_json = one(headers, "content-type").is_some_and(|it| {
        let essence = it.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    });
    if !is_json {
        return Err(refused("send it as `content-type: application/json`"));
    }
    if headers.contains_key("sec-fetch-site") {
        return match one(headers, "sec-fetch-site") {
            Some("same-origin") => Ok(()),
            _ => Err(refused("it comes from another site")),
        };
    }
    if !headers.contains_key("origin") {
        let advice = "it does not say where it comes from: send `sec-fetch-site: same-origin`";
        return Err(refused(advice));
    }
    let host = request.uri.authority().map(http::uri::Authority::as_str);
    let host = host.or_else(|| one(headers, "host"));
    let origin = one(headers, "origin").and_then(|it| it.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(refused("its origin is not this host")),
    }
}

/// A header that is there once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let value = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(value)
}

fn refused(why: &str) -> CommandError {
    CommandError::new(
        ErrorCode::NotSameOrigin,
        format!("the command was not taken: {why}"),
    )
}
