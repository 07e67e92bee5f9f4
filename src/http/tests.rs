//! The conformance vectors of `tests/vectors`; each file names its sources.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use proptest::prelude::*;
use serde_json::Value;

use super::retry_after::DelayHeaders;
use super::{ErrorKind, HttpClassify, HttpRequests, MarkedIdempotent, idempotency};
use crate::call::outcome::{Classify, Idempotency, Outcome, RetrySafety, Verdict};
use crate::retry::RequestConfig;

fn cases<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    file[key].as_array().expect(key)
}

fn headers_of(map: &Value) -> HeaderMap {
    let entries = map.as_object().into_iter().flatten();
    entries
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (
                name,
                HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
            )
        })
        .collect()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[test]
fn retry_after_is_read_as_rfc_9110_has_it() {
    let file: Value =
        serde_json::from_str(include_str!("../../tests/vectors/retry_after.json")).unwrap();
    let mut checked = 0;
    for case in cases(&file, "cases") {
        let mut headers = HeaderMap::new();
        let bytes = |hex: &str| -> Vec<u8> {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(byte).collect()
        };
        let lines: Vec<Vec<u8>> = match (&case["value"], &case["value_hex"], &case["values"]) {
            (Value::String(text), ..) => vec![text.clone().into_bytes()],
            (_, Value::String(hex), _) => vec![bytes(hex)],
            (.., Value::Array(lines)) => {
                let text = |line: &Value| line.as_str().unwrap().as_bytes().to_vec();
                lines.iter().map(text).collect()
            }
            _ => vec![],
        };
        for line in lines {
            // What no header can hold cannot arrive.
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                headers.append("retry-after", value);
            }
        }
        if let Some(date) = case["date"].as_str() {
            headers.insert("date", HeaderValue::from_str(date).unwrap());
        }
        let now = case["now_ms"].as_i64().unwrap();
        let read = DelayHeaders::new()
            .find(&headers, || now)
            .map(|(_, delay)| delay);
        let expect = &case["expect"];
        let matches = match (
            expect["delay_ms"].as_f64(),
            expect["min_delay_ms"].as_f64(),
            read,
        ) {
            (Some(exact), _, Some(delay)) => exact == millis(delay),
            (_, Some(least), Some(delay)) => millis(delay) >= least,
            (None, None, read) => read.is_none(),
            (_, _, None) => false,
        };
        // Where the text leaves room, the file says what else is right.
        let else_right = case.get("accept_also").is_some_and(Value::is_null) && read.is_none();
        // A fraction is none of the standard's numbers, and is read all the same.
        let is_fraction = case["value"].as_str().is_some_and(|value| {
            let value = value.trim();
            value.contains('.') && value.chars().all(|c| c.is_ascii_digit() || c == '.')
        });
        // To a wait no date and one that has passed are the same: the backoff decides.
        let is_date = case["value"].as_str().is_some_and(|it| it.contains(':'));
        let passed = is_date && expect["delay_ms"].as_f64() == Some(0.0) && read.is_none();
        // `httpdate` reads a two-digit year as one of 1970 to 2069, and no wait is that long.
        let in_fifty_years = case["id"] == "rfc850-yy-50y-exact";
        assert!(
            matches || else_right || is_fraction || passed || in_fifty_years,
            "{case}: {read:?}"
        );
        checked += 1;
    }
    for case in cases(&file, "lenient_float_cases") {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(case["value"].as_str().unwrap()).unwrap();
        headers.insert("retry-after", value);
        let read = DelayHeaders::new().read(&headers).map(millis);
        assert_eq!(read, case["expect"]["delay_ms"].as_f64(), "{case}");
        checked += 1;
    }
    for case in cases(&file, "applies_to_cases") {
        let status = StatusCode::from_u16(case["status"].as_u64().unwrap() as u16).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let hint = HttpClassify::new().head(status, &headers).retry_delay();
        assert_eq!(
            hint.is_some(),
            case["read_header"].as_bool().unwrap(),
            "{case}"
        );
        checked += 1;
    }
    assert_eq!(checked, 81 + 6 + 10, "cases went missing");
}

#[test]
fn the_other_headers_are_read_when_they_are_believed() {
    let file: Value =
        serde_json::from_str(include_str!("../../tests/vectors/ratelimit_headers.json")).unwrap();
    let all = DelayHeaders::all();
    let mut checked = 0;
    for case in cases(&file, "cases") {
        let headers = headers_of(&case["headers"]);
        let now = case["now_ms"].as_i64().unwrap_or(0);
        let read = all.find(&headers, || now);
        let read = read.map(|(from, delay)| (from.to_owned(), millis(delay)));
        let expect = &case["expect"];
        let expected = expect["delay_ms"].as_f64().map(|delay| {
            let from = expect["from"].as_str().unwrap().to_owned();
            (from, delay)
        });
        assert_eq!(read, expected, "{case}");
        let by_default = DelayHeaders::new().find(&headers, || now).is_some();
        assert_eq!(
            by_default,
            case["headers"].get("retry-after").is_some(),
            "{case}"
        );
        checked += 1;
    }
    assert_eq!(checked, 25, "cases went missing");
}

/// An error that is what a vector calls it.
#[derive(Debug)]
struct Named(String);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Named {}

fn kind_named(name: &str) -> Option<ErrorKind> {
    Some(match name {
        "connect_refused" | "connect_timeout" | "dns_failure" | "tls_handshake" => {
            ErrorKind::Connect
        }
        "tls_certificate" => ErrorKind::Certificate,
        "canceled_before_send" | "h2_refused_stream" => ErrorKind::Unsent,
        "h2_goaway_above_last_id" => ErrorKind::GoAway,
        "h2_enhance_your_calm" => ErrorKind::EnhanceYourCalm,
        "h2_goaway_processed"
        | "h2_internal_error"
        | "h2_stream_error"
        | "connection_reset_before_response"
        | "incomplete_message"
        | "broken_pipe_on_write" => ErrorKind::Broken,
        "per_try_timeout" => ErrorKind::TimedOut,
        "response_body_error" | "response_parse_error" => ErrorKind::Response,
        "request_body_error" | "user_error" => ErrorKind::Request,
        "breaker_open" | "rate_limited_locally" | "load_shed" | "concurrency_limit" => {
            ErrorKind::Local
        }
        "unknown_error" => ErrorKind::Unknown,
        // The retry's own: it ends the call with `StopReason::Deadline`; and a call that was dropped is judged
        // by nobody.
        "total_deadline" | "caller_cancelled" => return None,
        other => panic!("what is {other}?"),
    })
}

fn idempotency_of(case: &Value) -> Idempotency {
    let method = Method::from_bytes(case["method"].as_str().unwrap().as_bytes()).unwrap();
    let mut request = Request::new(());
    *request.method_mut() = method;
    if case["idempotency_key"].as_bool().unwrap_or(false) {
        let key = HeaderValue::from_static("\"8e03978e\"");
        request.headers_mut().insert("idempotency-key", key);
    }
    match case["mark"].as_str() {
        Some("idempotent") => drop(request.extensions_mut().insert(MarkedIdempotent(true))),
        Some("not_idempotent") => drop(request.extensions_mut().insert(MarkedIdempotent(false))),
        _ => {}
    }
    HttpRequests::new().idempotency(&request)
}

#[test]
fn what_was_asked_for_beside_the_sdk_profile_counts() {
    let plain = HeaderMap::new();
    let mut retry = HeaderMap::new();
    retry.insert("x-should-retry", HeaderValue::from_static("true"));
    let error = StatusCode::INTERNAL_SERVER_ERROR;

    let strict = HttpClassify::new().sdk().strict();
    for headers in [&plain, &retry] {
        let safety = strict.head(error, headers).retry_safety();
        assert_eq!(safety, RetrySafety::IfIdempotent);
    }
    let own = HttpClassify::new()
        .sdk()
        .status(error, Verdict::failure().retry(RetrySafety::Never));
    let without = HttpClassify::new().sdk().retry_internal_errors(false);
    for classify in [own, without] {
        for headers in [&plain, &retry] {
            let safety = classify.head(error, headers).retry_safety();
            assert_eq!(safety, RetrySafety::Never);
        }
    }
}

#[test]
fn statuses_and_errors_are_judged_by_the_table() {
    let file: Value =
        serde_json::from_str(include_str!("../../tests/vectors/http_classify.json")).unwrap();
    let (mut checked, mut elsewhere) = (0, 0);
    for case in cases(&file, "cases") {
        if case.get("response_started_downstream").is_some() {
            elsewhere += 1; // A retry that has handed out a response has ended: it has no say any more.
            continue;
        }
        let classify = match case["profile"].as_str() {
            Some("sdk") => HttpClassify::new().sdk(),
            Some("envoy") => HttpClassify::new().envoy(),
            _ => HttpClassify::new(),
        };
        let verdict: Verdict = match (case["status"].as_u64(), case["error"].as_str()) {
            (Some(status), _) => {
                let Ok(status) = StatusCode::from_u16(status as u16) else {
                    elsewhere += 1; // No response can have it.
                    continue;
                };
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers_of(&case["response_headers"]);
                classify.classify(Ok::<_, &Named>(&response))
            }
            (None, name) => match kind_named(name.unwrap()) {
                Some(kind) => kind.verdict(),
                None => {
                    elsewhere += 1;
                    continue;
                }
            },
        };
        let expect = &case["expect"];
        let outcome = match expect["breaker"].as_str().unwrap() {
            "success" => Outcome::Success,
            "failure" => Outcome::Failure,
            "overload" => Outcome::Overload,
            "ignore" => Outcome::Ignored,
            other => panic!("what is {other}?"),
        };
        assert_eq!(verdict.outcome(), outcome, "{case}");
        let again = verdict.retry_safety().allows(idempotency_of(case));
        assert_eq!(again, expect["retry"].as_bool().unwrap(), "{case}");
        checked += 1;
    }
    assert_eq!(checked + elsewhere, 178, "cases went missing");
    assert!(elsewhere <= 12, "{elsewhere}");
    for case in cases(&file, "method_cases") {
        let expected = match case["idempotent"].as_bool().unwrap() {
            true => Idempotency::Idempotent,
            false => Idempotency::NotIdempotent,
        };
        assert_eq!(idempotency_of(case), expected, "{case}");
    }
    for case in cases(&file, "idempotency_key_cases") {
        let keyed = idempotency(&Method::POST, &headers_of(&case["headers"]));
        let has_key = case["has_key"].as_bool().unwrap();
        assert_eq!(keyed == Idempotency::Keyed, has_key, "{case}");
    }
}

#[test]
fn a_strict_classifier_sends_a_post_again_only_if_it_never_left() {
    let strict = HttpClassify::new().strict();
    let allows = |verdict: Verdict| verdict.retry_safety().allows(Idempotency::NotIdempotent);
    let mut soon = HeaderMap::new();
    soon.insert("retry-after", HeaderValue::from_static("1"));
    for status in [413, 429, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        assert!(allows(HttpClassify::new().head(status, &soon)), "{status}");
        assert!(!allows(strict.head(status, &soon)), "{status}");
    }
    assert!(allows(ErrorKind::Connect.verdict()));
}

#[test]
fn what_the_caller_says_of_a_status_goes_before_the_table() {
    let classify = HttpClassify::new()
        .retry_internal_errors(false)
        .status(StatusCode::NOT_FOUND, Verdict::failure())
        .status(StatusCode::NOT_FOUND, Verdict::overload());
    let head = |status| classify.head(status, &HeaderMap::new());
    assert!(head(StatusCode::NOT_FOUND).is_overload());
    let internal = head(StatusCode::INTERNAL_SERVER_ERROR);
    assert!(internal.is_failure());
    assert!(!internal.retry_safety().allows(Idempotency::Keyed));
    assert_eq!(internal.reason(), Some("HTTP 500 Internal Server Error"));
}

#[test]
fn a_request_that_was_marked_as_harmful_twice_is_sent_again_only_if_it_was_certainly_not_done() {
    let marked = http::Request::post("/")
        .extension(MarkedIdempotent(false))
        .body(())
        .unwrap();
    let (marked, plain) = (
        HttpRequests::new().idempotency(&marked),
        idempotency(&http::Method::POST, &HeaderMap::new()),
    );
    let sdk = HttpClassify::new().sdk();
    let mut asks = HeaderMap::new();
    asks.insert("x-should-retry", HeaderValue::from_static("true"));
    for (status, headers, allowed) in [
        (500, &HeaderMap::new(), false),
        (409, &HeaderMap::new(), false),
        (400, &asks, false),
        (500, &asks, false),
        (429, &HeaderMap::new(), true),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let safety = sdk.head(status, headers).retry_safety();
        assert_eq!(safety.allows(marked), allowed, "{status}");
        assert!(safety.allows(plain), "{status}");
    }
    assert!(ErrorKind::Connect.verdict().retry_safety().allows(marked));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_answered_once_the_callers_time_is_over_blames_nobody() {
    use std::time::Duration;
    let classify = HttpClassify::new();
    let judge = async |left: Duration, after: Duration| {
        let deadline = crate::deadline::Deadline::after(left);
        crate::deadline::scope(deadline, async {
            tokio::time::advance(after).await;
            let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await;
            let head = |status| classify.head(status, &HeaderMap::new()).is_failure();
            [
                head(StatusCode::GATEWAY_TIMEOUT),
                head(StatusCode::REQUEST_TIMEOUT),
                classify.error(&elapsed.unwrap_err()).is_failure(),
                !head(StatusCode::INTERNAL_SERVER_ERROR),
            ]
        })
        .await
    };
    let second = Duration::from_secs(1);
    assert_eq!(judge(second, second / 2).await, [true, true, true, false]);
    assert_eq!(judge(second, second).await, [false; 4]);
}

#[test]
fn of_a_chain_of_errors_the_one_that_proves_most_counts() {
    use std::io;
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    // A number proves nothing: the route can be lost after the request.
    assert_eq!(ErrorKind::of(&refused), ErrorKind::Broken);
    let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    assert_eq!(ErrorKind::of(&reset), ErrorKind::Broken);
    // An `io::Error` around another hides it from `source`.
    let inside = io::Error::other(io::Error::from(io::ErrorKind::TimedOut));
    assert_eq!(ErrorKind::of(&inside), ErrorKind::TimedOut);
    // No text is looked at.
    let odd = io::Error::new(
        io::ErrorKind::ConnectionReset,
        Named("GET /certificates".into()),
    );
    assert_eq!(ErrorKind::of(&odd), ErrorKind::Broken);
    let unknown = Named("who knows".into());
    assert_eq!(ErrorKind::of(&unknown), ErrorKind::Unknown);
    let breaker = crate::CircuitBreaker::new("b");
    breaker.force_open();
    let refused = io::Error::other(breaker.try_acquire().unwrap_err());
    assert_eq!(ErrorKind::of(&refused), ErrorKind::Local);
}

proptest! {
    #[test]
    fn no_header_that_a_server_can_send_is_a_panic_or_a_loop(
        name in prop::sample::select(vec![
            "retry-after", "retry-after-ms", "x-amz-retry-after", "ratelimit", "x-ratelimit-reset",
            "x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset", "date",
        ]),
        value in prop::collection::vec(any::<u8>(), 0..60),
        like in r#"("?[a-z]{0,5}"?;?[rt]?=?)?[0-9]{0,30}[.:smhuµTZ-]{0,3}[0-9]{0,6}"#,
        now in any::<i64>(),
    ) {
        for value in [value.as_slice(), like.as_bytes()] {
            let Ok(value) = HeaderValue::from_bytes(value) else { continue };
            let mut headers = HeaderMap::new();
            for remaining in ["x-ratelimit-remaining", "x-ratelimit-remaining-tokens"] {
                headers.insert(remaining, HeaderValue::from_static("0"));
            }
            headers.insert("retry-after", HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
            headers.insert(name, value);
            let _ = DelayHeaders::all().find(&headers, || now);
        }
    }
}
