//! What gRPC says, case by case: gRFC A6, gRPC over HTTP/2, and the mapping of statuses. The files say where
//! each case comes from.
#![cfg(feature = "grpc")]
#![expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_bulwark::deadline::{self, Deadline};
use tower_bulwark::grpc::{
    Code, Codes, GrpcClassify, GrpcRequests, GrpcRetry, Pushback, ServiceConfig, decode_timeout,
    encode_timeout,
};
use tower_bulwark::http::{ClassifyEnd, ReceiveDeadlineLayer};
use tower_bulwark::retry::RequestConfig;
use tower_bulwark::{Classify, Outcome, RetrySafety, Verdict};

const MS: Duration = Duration::from_millis(1);

fn file(name: &str) -> Value {
    let text = match name {
        "retry" => include_str!("vectors/grpc_retry.json"),
        "throttle" => include_str!("vectors/grpc_throttle.json"),
        _ => include_str!("vectors/grpc_timeout.json"),
    };
    serde_json::from_str(text).unwrap()
}

fn cases(name: &str, list: &str) -> Vec<Value> {
    let cases = file(name)[list].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn numbers(codes: Codes) -> Vec<u64> {
    codes.iter().map(|code| u64::from(code.number())).collect()
}

fn millis(duration: Duration) -> Value {
    (duration.as_secs_f64() * 1e3).into()
}

#[test]
fn service_configs_are_read_and_wrong_ones_refused() {
    for case in cases("retry", "service_config_cases") {
        let (id, expect) = (&case["id"], &case["expect"]);
        let config = match (
            ServiceConfig::parse(&case["json"].to_string()),
            &expect["valid"],
        ) {
            (Ok(config), Value::Bool(true)) => config,
            (Err(error), Value::Bool(false)) => {
                assert!(
                    error.to_string().starts_with("service config"),
                    "{id}: {error}"
                );
                continue;
            }
            (result, _) => panic!("{id}: {result:?}"),
        };
        let method = ["/svc.A/M", "/s/M"]
            .into_iter()
            .find_map(|it| config.method(it));
        let retry = method
            .and_then(|method| method.retry.as_ref())
            .map(|retry| {
                json!({
                    "max_attempts": retry.max_attempts,
                    "initial_backoff_ms": millis(retry.initial_backoff),
                    "max_backoff_ms": millis(retry.max_backoff),
                    "multiplier": retry.multiplier,
                    "codes": numbers(retry.codes),
                })
            });
        assert_eq!(json!(retry), expect["policy"], "{id}");
        let hedging = method
            .and_then(|method| method.hedging.as_ref())
            .map(|hedging| {
                json!({
                    "max_attempts": hedging.max_attempts,
                    "delay_ms": millis(hedging.delay),
                    "non_fatal": numbers(hedging.non_fatal),
                })
            });
        assert_eq!(json!(hedging), expect["hedging"], "{id}");
        let hedged: &[&str] = if hedging.is_some() { &["/svc.A/"] } else { &[] };
        assert_eq!(config.not_supported(), hedged, "{id}");
        let throttling = config.throttling();
        assert_eq!(
            throttling.is_some(),
            !expect["throttling"].is_null(),
            "{id}"
        );
        if let Some(rules) = throttling {
            assert_eq!(
                json!(rules.max_tokens),
                expect["throttling"]["max_tokens"],
                "{id}"
            );
            assert_eq!(
                json!(rules.token_ratio).as_f64(),
                expect["throttling"]["token_ratio"].as_f64(),
                "{id}"
            );
        }
        // Hedging is an error, not silence.
        let made = GrpcRetry::new("vectors", &config);
        let refused = made.map_err(|error| error.setting()).err();
        assert_eq!(
            refused,
            hedging.is_some().then_some("hedgingPolicy"),
            "{id}"
        );
        let once = config.clone().without_hedging();
        assert_eq!(once.not_supported(), [""; 0], "{id}");
        GrpcRetry::new("vectors", &once).unwrap();
    }
}

#[test]
fn the_most_exact_name_of_a_service_config_wins() {
    let config = ServiceConfig::parse(&file("retry")["lookup_config"].to_string()).unwrap();
    for case in cases("retry", "method_lookup_cases") {
        let method = config.method(case["path"].as_str().unwrap()).unwrap();
        let wanted = Duration::from_millis(case["timeout_ms"].as_u64().unwrap());
        assert_eq!(method.timeout, Some(wanted), "{case}");
    }
}

#[test]
fn pushback_is_a_plain_number_or_no_retry() {
    for case in cases("retry", "pushback_cases") {
        let mut headers = HeaderMap::new();
        for value in case["values"].as_array().unwrap() {
            let value = HeaderValue::from_str(value.as_str().unwrap()).unwrap();
            headers.append("grpc-retry-pushback-ms", value);
        }
        let wanted = match case["expect"]["delay_ms"].as_u64() {
            Some(delay) => Pushback::After(Duration::from_millis(delay)),
            None => Pushback::Never,
        };
        assert_eq!(Pushback::from_headers(&headers), Some(wanted), "{case}");
    }
    let mut twice = HeaderMap::new();
    twice.append("grpc-retry-pushback-ms", 5.into());
    twice.append("grpc-retry-pushback-ms", 5.into());
    assert_eq!(Pushback::from_headers(&twice), Some(Pushback::Never));
    assert_eq!(Pushback::from_headers(&HeaderMap::new()), None);
}

#[test]
fn codes_are_read_from_heads_and_trailers() {
    for case in cases("retry", "status_extraction_cases") {
        let id = &case["id"];
        let body: Body = match case["end_stream_on_headers"].as_bool().unwrap() {
            true => Empty::new().boxed_unsync(),
            false => Full::new(Bytes::from("message")).boxed_unsync(),
        };
        let status = StatusCode::from_u16(case["http_status"].as_u64().unwrap() as u16).unwrap();
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let kind = case["content_type"].as_str().unwrap();
        response
            .headers_mut()
            .insert("content-type", kind.parse().unwrap());
        if let Some(code) = case["headers_grpc_status"].as_str() {
            response
                .headers_mut()
                .insert("grpc-status", code.parse().unwrap());
        }
        let mut trailers = HeaderMap::new();
        if let Some(code) = case["trailers_grpc_status"].as_str() {
            trailers.insert("grpc-status", code.parse().unwrap());
        }
        let classify = GrpcClassify::new();
        let at_head = Classify::<_, Infallible>::classify(&classify, Ok(&response));
        let committed = at_head == Verdict::success();
        assert_eq!(committed, case["expect"]["committed"], "{id}: {at_head:?}");

        let mut at_end = classify.at_end();
        at_end.at_head(response.status(), response.headers());
        let trailers = Some(&trailers).filter(|it| !it.is_empty());
        let at_end = at_end.classify_end(trailers).unwrap();
        let code = Code::from_number(case["expect"]["code"].as_u64().unwrap()).unwrap();
        assert_eq!(at_end, classify.verdict(code, None), "{id}");
        if !committed {
            assert_eq!(at_head, at_end, "{id}: the same, whenever it is asked");
        }
    }
}

#[test]
fn what_a_reset_stream_means() {
    const CODES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    for case in cases("retry", "rst_stream_cases") {
        let code = CODES.iter().position(|it| *it == case["h2_code"]).unwrap();
        let code = Code::from_reset(u32::try_from(code).unwrap());
        assert_eq!(json!(code.number()), case["grpc_code"], "{case}");
    }
}

#[test]
fn each_code_means_what_the_table_says() {
    for case in cases("retry", "code_cases") {
        let code = Code::from_number(case["code"].as_u64().unwrap()).unwrap();
        assert_eq!(code.name(), case["id"]);
        assert_eq!(Code::from_name(&code.name().to_lowercase()), Some(code));
        let retried = |classify: GrpcClassify| match classify.verdict(code, None).retry_safety() {
            RetrySafety::Always => true,
            RetrySafety::Never => false,
            other => panic!("{code}: {other:?}"),
        };
        assert_eq!(
            retried(GrpcClassify::new()),
            case["default_retryable"],
            "{code}"
        );
        assert_eq!(
            retried(GrpcClassify::idempotent()),
            case["idempotent_preset_retryable"],
            "{code}"
        );
        let wanted = match case["breaker"].as_str().unwrap() {
            "failure" => Outcome::Failure,
            "overload" => Outcome::Overload,
            "ignore" => Outcome::Ignored,
            _ => Outcome::Success,
        };
        assert_eq!(
            GrpcClassify::new().verdict(code, None).outcome(),
            wanted,
            "{code}"
        );
    }
}

#[test]
fn each_attempt_says_how_many_came_before_it() {
    for case in cases("retry", "attempts_header_cases") {
        let mut request = Request::new(());
        if let Some(stale) = case["incoming_value"].as_str() {
            let stale = HeaderValue::from_str(stale).unwrap();
            request
                .headers_mut()
                .insert("grpc-previous-rpc-attempts", stale);
        }
        let attempt = u32::try_from(case["attempt"].as_u64().unwrap()).unwrap();
        GrpcRequests::new().before_attempt(&mut request, attempt);
        let values = request.headers().get_all("grpc-previous-rpc-attempts");
        let values: Vec<_> = values.iter().map(|it| it.to_str().unwrap()).collect();
        let wanted: Vec<_> = case["grpc_previous_rpc_attempts"]
            .as_str()
            .into_iter()
            .collect();
        assert_eq!(values, wanted, "{case}");
    }
}

#[test]
fn timeouts_are_written_in_eight_digits_rounded_up() {
    for case in cases("timeout", "encode_cases") {
        let nanos: u128 = case["ns"].as_str().unwrap().parse().unwrap();
        let seconds = u64::try_from(nanos / 1_000_000_000).unwrap();
        let left = Duration::new(seconds, (nanos % 1_000_000_000) as u32);
        match encode_timeout(left) {
            Some(header) => assert_eq!(header.to_str().unwrap(), case["header"], "{case}"),
            None => assert!(left.is_zero(), "{case}"),
        }
    }
}

#[test]
fn timeouts_are_read_strictly() {
    for case in cases("timeout", "decode_cases") {
        let nanos = decode_timeout(case["header"].as_str().unwrap().as_bytes());
        let nanos = nanos.map(|it| it.as_nanos().to_string());
        assert_eq!(json!(nanos), case["ns"], "{case}");
    }
    assert_eq!(decode_timeout(b"123456789n"), None);
}

/// A server that is called with a deadline, works for a while, and asks another one.
#[tokio::test(start_paused = true)]
async fn a_server_asks_its_own_servers_for_what_is_left() {
    for case in cases("timeout", "propagate_cases") {
        let own = case["own_timeout_ms"].as_u64();
        let elapsed = case["elapsed_ms"].as_u64().unwrap();
        let outbound = service_fn(move |_: Request<()>| async move {
            sleep_until(Instant::now() + Duration::from_millis(elapsed)).await;
            let mut request = Request::new(());
            if let Some(own) = own {
                let own = encode_timeout(Duration::from_millis(own)).unwrap();
                request.headers_mut().insert("grpc-timeout", own);
            }
            GrpcRequests::new().before_attempt(&mut request, 1);
            let header = request.headers().get("grpc-timeout").cloned();
            Ok::<_, Infallible>(header.map(|it| decode_timeout(it.as_bytes()).unwrap()))
        });
        let mut request = Request::new(());
        if let Some(inbound) = case["inbound_remaining_ms"].as_u64() {
            let header = encode_timeout(Duration::from_millis(inbound)).unwrap();
            request.headers_mut().insert("grpc-timeout", header);
        }
        let sent = ReceiveDeadlineLayer::grpc()
            .layer(outbound)
            .oneshot(request)
            .await
            .unwrap();
        let wanted = match case["outbound_timeout_ms"].as_u64() {
            // What cannot be kept from being sent asks for as good as nothing.
            Some(0) => Some(Duration::from_nanos(1)),
            Some(left) => Some(Duration::from_millis(left)),
            None => None,
        };
        assert_eq!(sent, wanted, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_after_the_deadline_is_deadline_exceeded() {
    for case in cases("timeout", "local_status_cases") {
        let code = match case["error"].as_str().unwrap() {
            "rst_stream_cancel" => Code::from_reset(8),
            _ => Code::DeadlineExceeded,
        };
        let left = match case["own_deadline_passed"].as_bool().unwrap() {
            true => Duration::ZERO,
            false => MS,
        };
        let verdict = deadline::scope(Deadline::after(left), async {
            GrpcClassify::new().verdict(code, None)
        });
        let wanted = Code::from_number(case["code"].as_u64().unwrap()).unwrap();
        assert_eq!(verdict.await.reason(), Some(wanted.name()), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_obeys_the_deadline_of_its_caller_is_not_blamed_for_it() {
    for code in [Code::Cancelled, Code::DeadlineExceeded] {
        let fails = async |left: Duration| {
            deadline::scope(Deadline::after(left), async {
                let timed_out = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>());
                let local = timed_out.await.unwrap_err();
                let classify = GrpcClassify::new();
                let verdicts = [
                    classify.verdict(code, None),
                    Classify::<Response<Body>, _>::classify(&classify, Err(&local)),
                ];
                verdicts.map(|verdict| verdict.is_failure())
            })
            .await
        };
        assert_eq!(fails(Duration::ZERO).await, [false, false], "{code:?}");
        let in_time = [code == Code::DeadlineExceeded, true];
        assert_eq!(fails(1000 * MS).await, in_time, "{code:?}");
    }
}

#[test]
fn media_types_are_compared_without_regard_to_case() {
    let mut end = GrpcClassify::new().at_end();
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        HeaderValue::from_static("Application/gRPC+proto"),
    );
    end.at_head(StatusCode::OK, &headers);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let verdict = end.classify_end(Some(&trailers)).unwrap();
    assert_eq!(verdict.outcome(), Outcome::Success);
}

/// What a scripted server answers, and how long before `END` if that matters.
#[derive(Clone)]
struct Answer {
    http: u16,
    code: Option<u64>,
    pushback: Option<String>,
    committed: bool,
    before_the_end: Option<Duration>,
}

impl Answer {
    fn code(code: u64) -> Self {
        Self {
            http: 200,
            code: Some(code),
            pushback: None,
            committed: false,
            before_the_end: None,
        }
    }

    fn pushing_back(mut self, pushback: &str) -> Self {
        self.pushback = Some(pushback.to_owned());
        self
    }

    fn response(&self) -> Response<Body> {
        let mut trailers = HeaderMap::new();
        if let Some(code) = self.code {
            trailers.insert("grpc-status", code.into());
        }
        if let Some(pushback) = &self.pushback {
            trailers.insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
        }
        let mut response = Response::new(Empty::new().boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(self.http).unwrap();
        response
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        if self.committed {
            let body =
                Full::new(Bytes::from("message")).with_trailers(async { Some(Ok(trailers)) });
            return response.map(|_| body.boxed_unsync());
        }
        response.headers_mut().extend(trailers);
        response
    }
}

/// When the deadline of a case is, from its start.
const END: Duration = Duration::from_secs(100);

#[derive(Clone)]
struct Server {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// When each attempt came, and when it was answered.
    attempts: Arc<Mutex<Vec<(Instant, Instant)>>>,
    retry: GrpcRetry,
}

impl Server {
    fn new(config: &Value) -> Self {
        let config = ServiceConfig::parse(&config.to_string()).unwrap();
        Self {
            answers: Arc::default(),
            attempts: Arc::default(),
            retry: GrpcRetry::new("vectors", &config).unwrap(),
        }
    }

    fn service(
        &self,
    ) -> impl Service<Request<Empty<Bytes>>, Response = Response<Body>, Error: std::fmt::Debug> + use<>
    {
        let (answers, attempts) = (Arc::clone(&self.answers), Arc::clone(&self.attempts));
        let start = Instant::now();
        self.retry
            .layer::<Infallible>()
            .layer(service_fn(move |_: Request<Empty<Bytes>>| {
                let (answers, attempts) = (Arc::clone(&answers), Arc::clone(&attempts));
                async move {
                    let came = Instant::now();
                    let answer = answers
                        .lock()
                        .unwrap()
                        .pop_front()
                        .unwrap_or_else(|| Answer::code(0));
                    if let Some(before) = answer.before_the_end {
                        sleep_until(start + END - before).await;
                    }
                    attempts.lock().unwrap().push((came, Instant::now()));
                    Ok::<_, Infallible>(answer.response())
                }
            }))
    }

    /// Calls once, and says how many attempts that took.
    async fn call(&self, path: &str, answers: impl IntoIterator<Item = Answer>) -> usize {
        *self.answers.lock().unwrap() = answers.into_iter().collect();
        let before = self.attempts.lock().unwrap().len();
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = path.parse().unwrap();
        let call = self.service().oneshot(request);
        deadline::scope(Deadline::after(END), call).await.unwrap();
        self.attempts.lock().unwrap().len() - before
    }

    /// How many consecutive failures would stop the retries.
    fn tokens(&self) -> u64 {
        self.retry.throttle().unwrap().available().unwrap()
    }
}

fn config_of(policy: bool, throttling: &Value) -> Value {
    let mut config = json!({"methodConfig": []});
    if policy {
        config["methodConfig"] = json!([{"name": [{"service": "svc.A"}], "retryPolicy": {
            "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }}]);
    }
    if !throttling.is_null() {
        config["retryThrottling"] = throttling.clone();
    }
    config
}

#[tokio::test(start_paused = true)]
async fn every_decision_to_retry_or_not() {
    let throttling = file("retry")["default_throttling"].clone();
    for case in cases("retry", "decision_cases") {
        let id = case["id"].as_str().unwrap();
        let arrival = case["arrival"].as_str().unwrap();
        if arrival == "rst_stream_refused" {
            continue; // Needs a real stream: `grpc.rs` has them.
        }
        let tokens = case["tokens_before"].as_f64();
        let throttling = tokens.map_or(Value::Null, |_| throttling.clone());
        let server = Server::new(&config_of(case["policy"] == true, &throttling));
        let before = case["previous_attempts"].as_u64().unwrap();
        // What the attempts before it will take comes on top, as far as there is room.
        let start = tokens.map_or(10.0, |tokens| (tokens + before as f64).min(10.0));
        let mut drained: f64 = 10.0;
        while drained > start {
            server
                .call("/other/M", [Answer::code(14).pushing_back("-1")])
                .await;
            drained -= 1.0;
        }
        while drained < start {
            server.call("/other/M", [Answer::code(0)]).await;
            drained += 0.1;
        }

        let after_pushback = case["retries_since_pushback"].as_u64().unwrap();
        let mut answers: VecDeque<_> = (1..=before)
            .map(|n| match n + after_pushback == before {
                true => Answer::code(14).pushing_back("0"),
                false => Answer::code(14),
            })
            .collect();
        let mut last = Answer::code(case["code"].as_u64().unwrap());
        last.pushback = case["pushback"].as_str().map(ToOwned::to_owned);
        match arrival {
            "trailers_only" => {}
            "headers_message_trailers" | "headers_then_trailers" => last.committed = true,
            http => {
                last.code = None;
                last.http = if http.starts_with("http_503") {
                    503
                } else {
                    429
                };
            }
        }
        last.before_the_end = case["remaining_deadline_ms"]
            .as_u64()
            .map(Duration::from_millis);
        answers.push_back(last);
        server.attempts.lock().unwrap().clear();
        let made = server.call("/svc.A/M", answers).await as u64;
        let retried = made == before + 2;
        assert!(retried || made == before + 1, "{id}: {made} attempts");
        assert_eq!(retried, case["expect"]["retry"], "{id}");
        if retried {
            let attempts = server.attempts.lock().unwrap();
            let answered = attempts[before as usize].1;
            let waited = (attempts[before as usize + 1].0 - answered).as_secs_f64() * 1e3;
            let least = case["expect"]["delay_min_ms"].as_f64().unwrap();
            let most = case["expect"]["delay_max_ms"].as_f64().unwrap();
            // Timers wake at the next millisecond.
            assert!(
                (least..=most + 1.0).contains(&waited),
                "{id}: waited {waited}"
            );
        }
        if let (Some(tokens), Some(left)) = (tokens, case["expect"]["tokens_after"].as_f64()) {
            let left = start - before as f64 + left - tokens;
            assert_eq!(
                server.tokens(),
                (left - 5.0 - 1e-9).ceil().max(0.0) as u64,
                "{id}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_throttle_counts_what_the_standard_counts() {
    for case in cases("throttle", "sequences") {
        let (max, start) = (
            case["max_tokens"].as_f64().unwrap(),
            case["start"].as_f64().unwrap(),
        );
        let throttling =
            json!({"maxTokens": case["max_tokens"], "tokenRatio": case["token_ratio"]});
        let server = Server::new(&config_of(true, &throttling));
        let fail = || [Answer::code(14).pushing_back("-1")];
        for _ in 0..(max - start) as u32 {
            server.call("/svc.A/M", fail()).await;
        }
        for step in case["steps"].as_array().unwrap() {
            match step["event"].as_str().unwrap() {
                "fail" => server.call("/svc.A/M", fail()).await,
                "fatal" => server.call("/svc.A/M", [Answer::code(3)]).await,
                "ok" => server.call("/svc.A/M", [Answer::code(0)]).await,
                _ => continue, // A refused stream: `grpc.rs` has one.
            };
            let above = step["tokens"].as_f64().unwrap() - max / 2.0;
            let id = &case["id"];
            assert_eq!(
                server.tokens(),
                (above - 1e-9).ceil().max(0.0) as u64,
                "{id}: {step}"
            );
            assert_eq!(server.tokens() > 0, step["retry_allowed"], "{id}: {step}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_share_a_throttle_that_stops_and_resumes_their_retries() {
    let server = Server::new(&config_of(
        true,
        &json!({"maxTokens": 10, "tokenRatio": 0.5}),
    ));
    let mut tokens: f64 = 10.0;
    for case in cases("throttle", "rpc_cases") {
        // Calls that the file leaves out: what the counts between its calls say of them.
        let attempts = case["attempts"].as_array().unwrap();
        let number = |it: &Value| it["server_call"].as_u64().unwrap();
        let seen = server.attempts.lock().unwrap().len() as u64;
        for left_out in seen..number(&attempts[0]) {
            let answer = if left_out == 9 {
                Answer::code(14)
            } else {
                Answer::code(0)
            };
            tokens += if left_out == 9 { -1.0 } else { 0.5 };
            assert_eq!(server.call("/svc.A/M", [answer]).await, 1);
        }
        let code = |it: &Value| if it["outcome"] == "OK" { 0 } else { 14 };
        let answers = attempts.iter().map(|it| Answer::code(code(it)));
        assert_eq!(
            server.call("/svc.A/M", answers).await,
            attempts.len(),
            "{case}"
        );
        for attempt in attempts {
            tokens = (tokens + if code(attempt) == 0 { 0.5 } else { -1.0 }).min(10.0);
            assert_eq!(tokens, attempt["tokens"].as_f64().unwrap(), "{case}");
        }
        assert_eq!(
            server.tokens(),
            (tokens - 5.0).ceil().max(0.0) as u64,
            "{case}"
        );
    }
}

#[test]
fn a_status_that_is_empty_is_unknown_and_no_success() {
    let mut headers = HeaderMap::new();
    assert_eq!(Code::from_headers(&headers), None);
    headers.insert("grpc-status", HeaderValue::from_static(""));
    assert_eq!(Code::from_headers(&headers), Some(Code::Unknown));
}

#[test]
fn a_pushback_is_written_in_milliseconds_that_never_come_too_soon() {
    let written = |delay| {
        let value = Pushback::After(delay).to_header_value();
        value.to_str().unwrap().to_owned()
    };
    assert_eq!(written(Duration::ZERO), "0");
    assert_eq!(written(Duration::from_micros(1_001)), "2");
    assert_eq!(written(Duration::MAX), i32::MAX.to_string());
    assert_eq!(Pushback::Never.to_header_value(), "-1");
}

#[test]
fn trailers_have_no_say_behind_a_head_that_is_no_grpc() {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), 0.into())]);
    let html = HeaderMap::from_iter([(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/html"),
    )]);
    let said = |status, headers: &HeaderMap| {
        let mut end = GrpcClassify::new().at_end();
        end.at_head(status, headers);
        let verdict = end.classify_end(Some(&trailers)).unwrap();
        verdict.reason().map(ToOwned::to_owned)
    };
    let unavailable = said(StatusCode::BAD_GATEWAY, &HeaderMap::new());
    assert_eq!(unavailable.as_deref(), Some("UNAVAILABLE"));
    assert_eq!(said(StatusCode::OK, &html).as_deref(), Some("UNKNOWN"));
    assert_eq!(said(StatusCode::OK, &HeaderMap::new()), None, "a success");

    let response = Response::new(Full::new(Bytes::from("<html>")));
    let (mut head, body) = response.into_parts();
    head.headers = html;
    let response = Response::from_parts(head, body);
    let verdict = Classify::<_, Infallible>::classify(&GrpcClassify::new(), Ok(&response));
    assert_eq!(verdict.reason(), Some("UNKNOWN"), "it has failed already");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_success_puts_no_token_back() {
    let server = Server::new(&config_of(true, &json!({"maxTokens": 4, "tokenRatio": 1})));
    let fail = || [Answer::code(14).pushing_back("-1")];
    server.call("/svc.A/M", fail()).await;
    server.call("/svc.A/M", [Answer::code(5)]).await;
    assert_eq!(server.tokens(), 1);
    server.call("/svc.A/M", [Answer::code(0)]).await;
    assert_eq!(server.tokens(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_pushback_is_waited_if_the_deadline_allows_it() {
    let server = Server::new(&config_of(true, &Value::Null));
    let answers = [Answer::code(14).pushing_back("90000")];
    assert_eq!(server.call("/svc.A/M", answers).await, 2);
    let attempts = server.attempts.lock().unwrap();
    assert_eq!(attempts[1].0 - attempts[0].1, 90_000 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_request_is_the_earliest_that_it_names() {
    let deadline = |request: &Request<()>| GrpcRequests::new().deadline(request);
    let mut request = Request::new(());
    assert_eq!(deadline(&request), None);
    request
        .headers_mut()
        .insert("grpc-timeout", "5S".parse().unwrap());
    assert_eq!(deadline(&request), Some(Deadline::after(5_000 * MS)));
    request.extensions_mut().insert(Deadline::after(9_000 * MS));
    assert_eq!(deadline(&request), Some(Deadline::after(5_000 * MS)));
    request.extensions_mut().insert(Deadline::after(MS));
    assert_eq!(deadline(&request), Some(Deadline::after(MS)));
    request.headers_mut().clear();
    assert_eq!(deadline(&request), Some(Deadline::after(MS)));
}

#[tokio::test(start_paused = true)]
async fn a_server_may_allow_less_than_its_caller_asks_for() {
    let handler = service_fn(|request: Request<()>| async move {
        let named = request.extensions().get::<Deadline>().copied();
        assert_eq!(named, deadline::current());
        Ok::<_, Infallible>(deadline::remaining())
    });
    let layer = ReceiveDeadlineLayer::grpc().at_most(10 * MS);
    for (asked, left) in [
        (None, 10),
        (Some("20m"), 10),
        (Some("5m"), 5),
        (Some("x"), 10),
    ] {
        let mut request = Request::new(());
        if let Some(asked) = asked {
            request
                .headers_mut()
                .insert("grpc-timeout", asked.parse().unwrap());
        }
        let seen = layer.layer(handler).oneshot(request).await.unwrap();
        assert_eq!(seen, Some(left * MS), "{asked:?}");
    }
}
