//! Bodies that are sent again: every scenario of `vectors/replay_body.json`, and what they do in a retry.

#![cfg(feature = "http")]

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use serde_json::Value;
use static_assertions::assert_impl_all;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_bulwark::http::{CopyReplay, ReplayBody, ReplayError, ReplayLayer};
use tower_bulwark::{Backoff, Error, Jitter, RetryPolicy, StopReason};

// ---- A source that does as it is told -------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Pending,
    Fail(String),
}

#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// What a source tells of itself beside its frames.
#[derive(Clone, Copy, Debug)]
struct Tells {
    size: bool,
    end: bool,
}

#[derive(Debug)]
struct Source {
    steps: VecDeque<Step>,
    tells: Tells,
}

impl Body for Source {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        match self.steps.pop_front() {
            None => Poll::Ready(None),
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Some(Step::Fail(words)) => Poll::Ready(Some(Err(Failed(words)))),
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells.end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.tells.size {
            true => SizeHint::with_exact(size(self.steps.iter())),
            false => SizeHint::default(),
        }
    }
}

fn size<'a>(steps: impl Iterator<Item = &'a Step>) -> u64 {
    steps
        .map(|step| match step {
            Step::Data(data) => data.len() as u64,
            Step::Trailers(_) | Step::Pending | Step::Fail(_) => 0,
        })
        .sum()
}

fn trailers(of: &Value) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in of.as_object().unwrap() {
        let name = http::HeaderName::try_from(name.as_str()).unwrap();
        map.insert(name, value.as_str().unwrap().parse().unwrap());
    }
    map
}

fn step(frame: &Value) -> Step {
    match frame {
        Value::String(s) if s == "<pending>" => Step::Pending,
        Value::String(s) if s == "<1 MiB Bytes>" => Step::Data(Bytes::from(vec![7; 1 << 20])),
        Value::String(s) => Step::Data(Bytes::from(s.clone())),
        other => match (other.get("trailers"), other.get("error")) {
            (Some(of), _) => Step::Trailers(trailers(of)),
            (_, Some(words)) => Step::Fail(words.as_str().unwrap().into()),
            _ => panic!("what frame is {other}?"),
        },
    }
}

// ---- Reading --------------------------------------------------------------------------------------------

/// Counts its wakes.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Copy = ReplayBody<Source>;

fn poll(copy: &mut Copy) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
    Pin::new(copy).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// What one reading gave.
#[derive(Debug, Default)]
struct Read {
    frames: Vec<String>,
    bytes: Vec<u8>,
    first: Option<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// Reads `limit` frames at most; an error is a frame, the end is none.
fn read(copy: &mut Copy, limit: usize) -> Read {
    let mut read = Read::default();
    while read.frames.len() < limit {
        match poll(copy) {
            Poll::Pending => {}
            Poll::Ready(None) => {
                read.ended = true;
                break;
            }
            Poll::Ready(Some(Err(_))) => {
                read.frames.push("error".into());
                break;
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    read.frames.push(String::from_utf8_lossy(&data).into());
                    read.bytes.extend_from_slice(&data);
                    read.first.get_or_insert(data);
                }
                Err(frame) => read.trailers = frame.into_trailers().ok(),
            },
        }
    }
    read
}

// ---- The scenarios --------------------------------------------------------------------------------------

struct Scenario<'a> {
    id: &'a str,
    steps: Vec<Step>,
    cap: u64,
    tells: Tells,
    copies: HashMap<String, Copy>,
}

impl Scenario<'_> {
    fn source(&self) -> Source {
        Source {
            steps: self.steps.iter().cloned().collect(),
            tells: self.tells,
        }
    }

    fn copy(&mut self, name: &Value) -> &mut Copy {
        let name = name.as_str().unwrap();
        let found = self.copies.get_mut(name);
        found.unwrap_or_else(|| panic!("no copy {name}"))
    }

    fn check_read(&self, op: &Value, read: &Read) {
        let id = self.id;
        if let Some(expect) = op.get("expect") {
            let expect: Vec<&str> = match expect {
                Value::Array(all) => all.iter().map(|it| it.as_str().unwrap()).collect(),
                one => vec![one.as_str().unwrap()],
            };
            assert_eq!(read.frames, expect, "{id}");
        }
        if let Some(expect) = op.get("expect_bytes") {
            assert_eq!(read.bytes, expect.as_str().unwrap().as_bytes(), "{id}");
        }
        if let Some(expect) = op.get("expect_trailers") {
            assert_eq!(read.trailers, Some(trailers(expect)), "{id}");
        }
    }

    fn run(&mut self, op: &Value) {
        let id = self.id;
        let keys: Vec<&str> = op.as_object().unwrap().keys().map(|it| &**it).collect();
        let is = |key| keys.contains(&key);
        if is("read_all") {
            let read = read(self.copy(&op["read_all"]), usize::MAX);
            assert!(read.ended, "{id}: {read:?}");
            self.check_read(op, &read);
        } else if is("read") {
            let frames = op["frames"].as_u64().unwrap() as usize;
            let read = read(self.copy(&op["read"]), frames);
            self.check_read(op, &read);
        } else if is("read_bytes") {
            let at_least = op["at_least"].as_str().unwrap();
            let mut bytes = Vec::new();
            while bytes.len() < at_least.len() {
                bytes.extend(read(self.copy(&op["read_bytes"]), 1).bytes);
            }
            assert!(bytes.starts_with(at_least.as_bytes()), "{id}");
        } else if is("drop") {
            let gone = self.copies.remove(op["drop"].as_str().unwrap());
            assert!(gone.is_some(), "{id}");
        } else if is("clone") {
            let copy = self.copy(&op["clone"]).try_clone().expect(id);
            self.copies.insert(op["as"].as_str().unwrap().into(), copy);
        } else if is("replayable") {
            let expect = op["expect"].as_bool().unwrap();
            assert_eq!(self.copy(&op["replayable"]).is_replayable(), expect, "{id}");
        } else if is("poll") {
            let polled = poll(self.copy(&op["poll"]));
            match op["expect"].as_str().unwrap() {
                "pending" => assert!(polled.is_pending(), "{id}"),
                "error_not_panic" => assert!(
                    matches!(polled, Poll::Ready(Some(Err(ReplayError::InUse)))),
                    "{id}: {polled:?}"
                ),
                other => panic!("{id}: {other}?"),
            }
        } else if is("is_end_stream") {
            let tells = self.tells;
            let expect = op["expect"].as_bool().unwrap();
            let copy = self.copy(&op["is_end_stream"]);
            if tells.end {
                assert_eq!(copy.is_end_stream(), expect, "{id}");
            }
        } else if is("size_hint") {
            let hint = self.copy(&op["size_hint"]).size_hint();
            if let Some(expect) = op["expect"].as_array() {
                let expect: Vec<u64> = expect.iter().map(|it| it.as_u64().unwrap()).collect();
                assert_eq!(vec![hint.lower(), hint.upper().unwrap()], expect, "{id}");
            }
        } else if is("wrap") {
            let source = Source {
                tells: Tells {
                    size: op["expect"] != "accepted",
                    ..self.tells
                },
                ..self.source()
            };
            match (ReplayBody::try_new(source, self.cap), op["expect"].as_str()) {
                (Ok(_), Some("accepted")) => {}
                (Err(source), Some("refused, body returned")) => {
                    assert_eq!(source.steps.len(), self.steps.len(), "{id}");
                }
                (result, expect) => panic!("{id}: {result:?}, not {expect:?}"),
            }
        } else if is("wrap_unknown_size") {
            assert!(!self.tells.size, "{id}: the size is not told here");
        } else if is("buffered_bytes") {
            let expect = op["buffered_bytes"].as_u64().unwrap();
            for copy in self.copies.values() {
                assert_eq!(copy.kept_bytes(), expect, "{id}");
            }
        } else if is("same_allocation") {
            let Step::Data(sent) = &self.steps[0] else {
                panic!("{id}: no data");
            };
            let sent = sent.clone();
            let read = read(self.copy(&op["same_allocation"]), 1);
            assert_eq!(read.first.unwrap().as_ptr(), sent.as_ptr(), "{id}");
        } else if is("max_live_bodies") {
            let most = op["max_live_bodies"].as_u64().unwrap() as usize;
            assert_eq!(most_live_bodies(self.source()), most, "{id}");
        } else if is("race") {
            race(|| self.source());
        } else if is("method") || is("header") {
            let mut request = Request::new(self.source());
            if let Some(method) = op.get("method") {
                *request.method_mut() = Method::try_from(method.as_str().unwrap()).unwrap();
            }
            if let Some(header) = op.get("header") {
                let name = http::HeaderName::try_from(header.as_str().unwrap()).unwrap();
                request.headers_mut().insert(name, "h2c".parse().unwrap());
            }
            let request = ReplayLayer::new().wrap(request);
            assert!(request.body().try_clone().is_none(), "{id}");
        } else if is("static_assert") || is("expect_100_refused_417") {
            // The first is asserted below; the second is a body that nobody has polled.
        } else {
            panic!("{id}: what is {op}?");
        }
    }
}

assert_impl_all!(ReplayBody<Source>: Send, Sync, Unpin);
// A body that is `Send` and not `Sync` (a tonic body, say) is good enough for a transport that asks for `Sync`.
assert_impl_all!(ReplayBody<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>: Send, Sync);

#[test]
fn every_scenario_of_the_vectors_holds() {
    let file: Value = serde_json::from_str(include_str!("vectors/replay_body.json")).unwrap();
    let scenarios = file["scenarios"].as_array().unwrap();
    let mut ran = 0;
    for scenario in scenarios {
        let frames = scenario["body_frames"].as_array().unwrap();
        let steps: Vec<Step> = frames.iter().map(step).collect();
        let cap = scenario["cap"].as_u64().unwrap();
        // A body that tells that it is too large is not kept at all, so those tell nothing.
        let fits = size(steps.iter()) <= cap;
        for end in [true, false] {
            let tells = Tells { size: fits, end };
            let mut run = Scenario {
                id: scenario["id"].as_str().unwrap(),
                steps: steps.clone(),
                cap,
                tells,
                copies: HashMap::new(),
            };
            let original = ReplayBody::with_max_bytes(run.source(), cap);
            let clone = original.try_clone().expect(run.id);
            run.copies.insert("original".into(), original);
            run.copies.insert("clone1".into(), clone);
            for op in scenario["ops"].as_array().unwrap() {
                run.run(op);
            }
        }
        ran += 1;
    }
    assert_eq!(ran, scenarios.len());
    assert!(ran >= 30, "{ran} scenarios");
}

fn every_second() -> tower_bulwark::retry::RetryPolicyBuilder {
    RetryPolicy::builder()
        .backoff(Backoff::fixed(Duration::from_secs(1)))
        .jitter(Jitter::None)
}

#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection reset")
    }
}

impl std::error::Error for Reset {}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// How many copies there are at once, at most, in a retry of three attempts.
fn most_live_bodies(source: Source) -> usize {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let service = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(
            every_second()
                .max_retries(2)
                .build()
                .unwrap()
                .layer()
                .requests(CopyReplay),
        )
        .service(service_fn(move |request: Request<Copy>| {
            seen.fetch_max(request.body().copies(), Ordering::SeqCst);
            async { Err::<Response<()>, _>(Reset) }
        }));
    let result = paused().block_on(service.oneshot(Request::new(source)));
    assert!(matches!(result, Err(Error::Exhausted(gave_up)) if gave_up.attempts() == 3));
    most.load(Ordering::SeqCst)
}

/// One thread drops the copy that reads, another reads the other.
fn race(source: impl Fn() -> Source) {
    for _ in 0..200 {
        let mut original = ReplayBody::new(source());
        let mut copy = original.try_clone().unwrap();
        read(&mut original, 1);
        let start = Barrier::new(2);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                start.wait();
                drop(original);
            });
            start.wait();
            let mut bytes = Vec::new();
            loop {
                match poll(&mut copy) {
                    Poll::Ready(Some(Ok(frame))) => bytes.extend(frame.into_data().unwrap()),
                    Poll::Ready(Some(Err(error))) => {
                        assert!(matches!(error, ReplayError::InUse), "{error}");
                        std::thread::yield_now();
                    }
                    Poll::Ready(None) => break,
                    Poll::Pending => panic!("nothing would wake it"),
                }
            }
            assert_eq!(bytes, b"hello");
        });
    }
}

// ---- One copy after another, at random ------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    Poll(usize),
    Drop(usize),
    Clone(usize),
    TakeOver(usize),
}

/// What should be, told with whole bodies and flags, where the code has windows and positions.
struct Model {
    whole: Vec<u8>,
    fails: bool,
    cap: usize,
    /// How many bytes were read from the source.
    read: usize,
    /// Whether some of them are not kept.
    lost: bool,
    /// Whether the source has failed.
    failed: bool,
    copies: Vec<Option<ModelCopy>>,
}

struct ModelCopy {
    copy: Copy,
    bytes: Vec<u8>,
    trailers: bool,
    done: bool,
}

impl ModelCopy {
    fn new(copy: Copy) -> Option<Self> {
        Some(Self {
            copy,
            bytes: Vec::new(),
            trailers: false,
            done: false,
        })
    }
}

impl Model {
    fn live(&self) -> usize {
        self.copies.iter().flatten().count()
    }

    fn poll(&mut self, i: usize) {
        let alone = self.live() == 1;
        let read = self.read;
        let Some(it) = &mut self.copies[i] else {
            return;
        };
        let polled = poll(&mut it.copy);
        // Alone, it takes along what it reads, and what it has read.
        self.lost |= alone && !it.done && !it.bytes.is_empty();
        let was_done = it.done;
        match polled {
            Poll::Pending => {}
            Poll::Ready(None) => {
                assert!(was_done || it.bytes == self.whole && !self.fails, "cut off");
            }
            Poll::Ready(Some(Err(error))) => {
                assert!(!was_done);
                match error {
                    ReplayError::Source(_) => {
                        assert!(self.fails);
                        self.failed = true;
                    }
                    ReplayError::TooLarge { .. } => assert!(self.lost && it.bytes.len() < read),
                    ReplayError::InUse | ReplayError::TakenOver => assert!(!alone),
                    other => panic!("{other}"),
                }
                it.done = !matches!(error, ReplayError::InUse);
            }
            Poll::Ready(Some(Ok(frame))) => {
                assert!(!was_done);
                match frame.into_data() {
                    Ok(data) => {
                        it.bytes.extend_from_slice(&data);
                        assert!(self.whole.starts_with(&it.bytes), "other bytes");
                        if it.bytes.len() > read {
                            self.read = it.bytes.len();
                            self.lost |= alone || self.read > self.cap;
                        }
                        self.lost |= alone && !data.is_empty();
                    }
                    Err(_) => {
                        assert!(!it.trailers, "trailers twice");
                        it.trailers = true;
                        assert_eq!(it.bytes, self.whole);
                    }
                }
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = proptest::collection::vec(any::<u8>(), 0..6).prop_map(|it| Step::Data(it.into()));
    let frame = prop_oneof![5 => data, 1 => Just(Step::Pending)];
    let end = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Step::Fail("reset".into()))),
        1 => Just(Some(Step::Trailers(HeaderMap::new()))),
    ];
    (proptest::collection::vec(frame, 0..6), end).prop_map(|(mut steps, end)| {
        steps.extend(end);
        steps
    })
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => any::<usize>().prop_map(Op::Poll),
        1 => any::<usize>().prop_map(Op::Drop),
        2 => any::<usize>().prop_map(Op::Clone),
        1 => any::<usize>().prop_map(Op::TakeOver),
    ];
    proptest::collection::vec(op, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn whatever_is_done_to_its_copies_none_ends_cleanly_without_the_whole_body(
        steps in steps(),
        ops in ops(),
        cap in 0..20_usize,
        tells_end in any::<bool>(),
    ) {
        let whole: Vec<u8> = steps
            .iter()
            .filter_map(|it| match it { Step::Data(data) => Some(data.to_vec()), _ => None })
            .flatten()
            .collect();
        let fails = steps.iter().any(|it| matches!(it, Step::Fail(_)));
        let has_trailers = steps.iter().any(|it| matches!(it, Step::Trailers(_)));
        let tells = Tells { size: whole.len() <= cap, end: tells_end };
        let source = Source { steps: steps.into(), tells };
        let mut model = Model {
            fails,
            cap,
            read: 0,
            lost: false,
            failed: false,
            copies: vec![ModelCopy::new(ReplayBody::with_max_bytes(source, cap as u64))],
            whole,
        };
        for op in ops {
            let copies = model.copies.len();
            let pick = |n: usize| n % copies;
            match op {
                Op::Poll(n) => model.poll(pick(n)),
                Op::Drop(n) => {
                    if model.live() > 1 {
                        model.copies[pick(n)] = None;
                    }
                    // The last one that reads needs nothing of what it has read.
                    if model.live() == 1 && model.read > 0 {
                        let left = model.copies.iter().flatten().next().unwrap();
                        model.lost |= left.copy.kept_bytes() == 0;
                    }
                }
                Op::Clone(n) => {
                    let Some(it) = &model.copies[pick(n)] else { continue };
                    let copy = it.copy.try_clone();
                    if model.lost || model.failed {
                        prop_assert!(copy.is_none(), "a copy of what is not kept");
                    } else if copy.is_none() {
                        prop_assert!(model.fails, "no copy, although all is kept");
                    }
                    if let Some(copy) = copy && model.copies.len() < 6 {
                        model.copies.push(ModelCopy::new(copy));
                    }
                }
                Op::TakeOver(n) => {
                    if let Some(it) = &model.copies[pick(n)] {
                        let took_over = it.copy.take_over();
                        prop_assert!(it.done || !took_over || it.copy.is_replayable());
                    }
                }
            }
            for (i, it) in model.copies.iter().enumerate() {
                let Some(it) = it else { continue };
                prop_assert!(it.copy.kept_bytes() <= model.cap as u64);
                prop_assert_eq!(it.copy.copies(), model.live());
                if it.copy.is_end_stream() {
                    prop_assert_eq!(&it.bytes, &model.whole);
                    prop_assert_eq!(it.trailers, has_trailers);
                }
                if tells.size && !it.done && it.copy.is_replayable() {
                    let left = (model.whole.len() - it.bytes.len()) as u64;
                    prop_assert_eq!(it.copy.size_hint().exact(), Some(left), "copy {}", i);
                }
            }
        }
        // Whoever says that it can be sent to its end is, if the others leave it alone.
        for it in model.copies.iter_mut().flatten().filter(|it| !it.done && it.copy.is_replayable()) {
            let rest = read(&mut it.copy, usize::MAX);
            it.bytes.extend(rest.bytes);
            prop_assert!(model.fails || rest.ended && it.bytes == model.whole, "{:?}", rest.frames);
        }
    }
}

// ---- Tasks that wait ------------------------------------------------------------------------------------

/// A source that waits until it is told, and then gives `frames`.
struct Gated {
    open: Arc<AtomicBool>,
    waker: Arc<std::sync::Mutex<Option<Waker>>>,
    frames: VecDeque<&'static str>,
}

impl Body for Gated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.open.load(Ordering::SeqCst) {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let next = self.frames.pop_front();
        Poll::Ready(next.map(|it| Ok(Frame::data(Bytes::from_static(it.as_bytes())))))
    }
}

#[test]
fn the_copy_that_loses_the_source_is_woken_to_learn_it_and_the_other_is_woken_by_the_source() {
    let (open, waker) = (Arc::<AtomicBool>::default(), Arc::default());
    let gated = Gated {
        open: Arc::clone(&open),
        waker: Arc::clone(&waker),
        frames: ["hello"].into(),
    };
    let mut old = ReplayBody::new(gated);
    let mut new = old.try_clone().unwrap();
    let (old_woken, new_woken) = (Arc::<Woken>::default(), Arc::<Woken>::default());
    let (old_waker, new_waker) = (
        Waker::from(Arc::clone(&old_woken)),
        Waker::from(Arc::clone(&new_woken)),
    );
    let mut old_cx = Context::from_waker(&old_waker);
    let mut new_cx = Context::from_waker(&new_waker);

    assert!(Pin::new(&mut old).poll_frame(&mut old_cx).is_pending());
    assert!(!new.is_replayable());
    assert!(new.take_over());
    assert_eq!(old_woken.0.load(Ordering::SeqCst), 1);
    let told = Pin::new(&mut old).poll_frame(&mut old_cx);
    assert!(
        matches!(told, Poll::Ready(Some(Err(ReplayError::TakenOver)))),
        "{told:?}"
    );
    let told = Pin::new(&mut old).poll_frame(&mut old_cx);
    assert!(
        matches!(told, Poll::Ready(None)),
        "an error is the last that comes"
    );

    assert!(Pin::new(&mut new).poll_frame(&mut new_cx).is_pending());
    open.store(true, Ordering::SeqCst);
    waker.lock().unwrap().take().unwrap().wake();
    assert_eq!(new_woken.0.load(Ordering::SeqCst), 1);
    let bytes = pin!(new.collect())
        .poll(&mut new_cx)
        .map(|it| it.unwrap().to_bytes());
    assert_eq!(bytes, Poll::Ready(Bytes::from("hello")));
}

#[test]
fn a_source_that_panics_is_a_body_that_failed() {
    let stream = futures::stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("in the source")
    });
    let mut first = ReplayBody::new(StreamBody::new(stream));
    let mut second = first.try_clone().unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Pin::new(&mut first).poll_frame(&mut cx)
    }));
    assert!(panicked.is_err());
    let told = Pin::new(&mut second).poll_frame(&mut cx);
    assert!(
        matches!(told, Poll::Ready(Some(Err(ReplayError::Source(_))))),
        "{told:?}"
    );
}

/// Drops a copy of the body when it is dropped itself.
struct Owns(#[expect(dead_code, reason = "it is there to be dropped")] Option<Copy>);

impl Wake for Owns {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_task_that_owns_another_copy_may_be_dropped_with_its_waker() {
    let steps = [Step::Pending, Step::Data(Bytes::from("hello"))];
    let tells = Tells {
        size: true,
        end: true,
    };
    let mut body = ReplayBody::new(Source {
        steps: steps.into(),
        tells,
    });
    let waker = Waker::from(Arc::new(Owns(body.try_clone())));
    assert!(
        Pin::new(&mut body)
            .poll_frame(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(waker); // The body keeps the last one.
    assert_eq!(read(&mut body, usize::MAX).bytes, b"hello");
    assert_eq!(body.copies(), 1);
}

#[test]
fn what_only_a_copy_that_is_gone_would_have_read_is_kept_no_longer() {
    let mut reads = ReplayBody::new(hello());
    let spare = reads.try_clone().unwrap();
    read(&mut reads, 1);
    assert_eq!(reads.kept_bytes(), 2);
    drop(spare);
    assert_eq!(reads.kept_bytes(), 0);
    assert_eq!(read(&mut reads, usize::MAX).bytes, b"llo");

    // A copy that has taken over has read nothing yet.
    let mut reads = ReplayBody::new(hello());
    let mut next = reads.try_clone().unwrap();
    read(&mut reads, 1);
    assert!(next.take_over());
    drop(reads);
    assert_eq!(read(&mut next, usize::MAX).bytes, b"hello");
}

// ---- In a retry -----------------------------------------------------------------------------------------

fn hello() -> Source {
    let steps = [
        Step::Data(Bytes::from("he")),
        Step::Data(Bytes::from("llo")),
    ];
    Source {
        steps: steps.into(),
        tells: Tells {
            size: false,
            end: false,
        },
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_may_come_before_the_body_has_gone_and_the_next_attempt_takes_it_over() {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let transport = Arc::clone(&held);
    let service = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(every_second().build().unwrap().layer().requests(CopyReplay))
        .service(service_fn(move |mut request: Request<Copy>| {
            let transport = Arc::clone(&transport);
            async move {
                let first = transport.lock().unwrap().is_empty();
                if !first {
                    return Ok(request
                        .into_body()
                        .collect()
                        .await
                        .map_err(|_| Reset)?
                        .to_bytes());
                }
                assert_eq!(read(request.body_mut(), 1).bytes, b"he");
                transport.lock().unwrap().push(request.into_body());
                Err(Reset)
            }
        }));
    let bytes = service.oneshot(Request::new(hello())).await.unwrap();
    assert_eq!(bytes, "hello");
    let mut old = held.lock().unwrap().pop().unwrap();
    // All of it is known by now, so the transport may as well have it.
    assert_eq!(read(&mut old, usize::MAX).bytes, b"llo");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_outgrows_the_limit_is_sent_to_its_end_and_not_again() {
    let service = ServiceBuilder::new()
        .layer(ReplayLayer::new().max_bytes(4))
        .layer(every_second().build().unwrap().layer().requests(CopyReplay))
        .service(service_fn(|request: Request<Copy>| async {
            assert_eq!(
                request.into_body().collect().await.unwrap().to_bytes(),
                "hello"
            );
            Err::<(), _>(Reset)
        }));
    let Err(Error::Exhausted(gave_up)) = service.oneshot(Request::new(hello())).await else {
        panic!("not given up");
    };
    assert_eq!(
        (gave_up.attempts(), gave_up.reason()),
        (1, StopReason::NotCloneable)
    );
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_leaves_the_body_to_the_transport_that_sends_it() {
    let service = ServiceBuilder::new()
        .layer(ReplayLayer::new())
        .layer(every_second().build().unwrap().layer().requests(CopyReplay))
        .service(service_fn(|mut request: Request<Copy>| async move {
            read(request.body_mut(), 1);
            Ok::<_, Reset>(request.into_body())
        }));
    let mut body = service.oneshot(Request::new(hello())).await.unwrap();
    assert_eq!(read(&mut body, usize::MAX).bytes, b"llo");
    assert_eq!(body.kept_bytes(), 0, "no attempt follows that could use it");
}

#[tokio::test(start_paused = true)]
async fn a_copy_has_the_method_the_uri_the_version_the_headers_and_the_extensions_of_its_request() {
    let service = ServiceBuilder::new()
        .layer(
            every_second()
                .max_retries(1)
                .build()
                .unwrap()
                .layer()
                .requests(CopyReplay),
        )
        .service(service_fn(|request: Request<Copy>| async move {
            assert_eq!(request.method(), Method::PUT);
            assert_eq!(request.uri(), "http://example.com/a?b");
            assert_eq!(request.version(), http::Version::HTTP_2);
            assert_eq!(request.headers()["x-a"], "1");
            assert_eq!(request.extensions().get::<u32>(), Some(&7));
            Err::<(), _>(Reset)
        }));
    let request = Request::put("http://example.com/a?b")
        .version(http::Version::HTTP_2)
        .header("x-a", "1")
        .extension(7_u32)
        .body(hello())
        .unwrap();
    let service = ReplayLayer::new().layer(service);
    let gave_up = service.oneshot(request).await;
    assert!(matches!(gave_up, Err(Error::Exhausted(it)) if it.attempts() == 2));
}

#[tokio::test(start_paused = true)]
async fn that_a_body_can_be_sent_again_does_not_mean_that_the_request_may_be_done_twice() {
    for (method, expected) in [("POST", 1), ("PUT", 2)] {
        let sent = Arc::new(std::sync::Mutex::new(0));
        let count = Arc::clone(&sent);
        let service = ServiceBuilder::new()
            .layer(ReplayLayer::new())
            .layer(every_second().build().unwrap().layer().requests(CopyReplay))
            .service(service_fn(move |_: Request<Copy>| {
                let mut sent = count.lock().unwrap();
                *sent += 1;
                std::future::ready(if *sent == 1 { Err(Reset) } else { Ok(()) })
            }));
        let request = Request::builder().method(method).body(hello()).unwrap();
        let answer = service.oneshot(request).await;
        assert_eq!(
            (*sent.lock().unwrap(), answer.is_ok()),
            (expected, expected == 2),
            "{method}"
        );
    }
}
