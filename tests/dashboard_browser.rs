//! The dashboard's page in a real browser: it opens, lives, draws, commands, and outlives its server.
//!
//! Needs Chromium (`chromium`, `chromium-browser` or `google-chrome` in the path, or `CHROMIUM=path`). Where there is none it
//! says so and passes, unless `REQUIRE_BROWSER=1`. `BULWARK_SCREENSHOT=path` says where the picture for the README goes.
#![cfg(feature = "dashboard")]

use std::env;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use http::request::Parts;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tower_bulwark::circuit_breaker::Recovery;
use tower_bulwark::dashboard::{Command, Dashboard, Operator};
use tower_bulwark::{CircuitBreaker, CircuitState, Registry, ResourceLock};

#[path = "support/afternoon.rs"]
mod afternoon;
#[path = "support/browser.rs"]
mod browser;

use afternoon::Scene;
use browser::{Browser, Page};

const SECOND: Duration = Duration::from_secs(1);
const SCRIPT: &str = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>";

/// A browser, or the reason why the test does not run.
async fn open_browser() -> Option<Browser> {
    let required = env::var("REQUIRE_BROWSER").is_ok_and(|it| it == "1");
    match browser::find() {
        Some(program) => Some(Browser::start(&program).await),
        None if required => panic!("REQUIRE_BROWSER=1, and there is no Chromium in the path"),
        None => {
            // Not with a macro: what a test prints is shown only if it fails.
            let loud = b"\n\n  NOT RUN: no Chromium in the path (apt-get install chromium)\n\n";
            std::io::stderr().write_all(loud).unwrap();
            None
        }
    }
}

/// A server on loopback that goes away with all its connections.
struct Server {
    address: SocketAddr,
    dashboard: Dashboard,
    task: JoinHandle<()>,
}

impl Server {
    /// At an address that somebody had before, if there is one.
    async fn start(dashboard: Dashboard, at: Option<SocketAddr>) -> Self {
        let listener = match at {
            None => TcpListener::bind("127.0.0.1:0").await.unwrap(),
            Some(address) => {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                socket.bind(address).unwrap();
                socket.listen(64).unwrap()
            }
        };
        let address = listener.local_addr().unwrap();
        let app = Router::new().nest_service("/ops", dashboard.router());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            dashboard,
            task,
        }
    }

    async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.dashboard.close();
        self.address
    }
}

fn dashboard(registry: &Registry) -> Dashboard {
    Dashboard::builder(registry)
        .title("checkout")
        .commands(|_: &Parts, _: &Command| Ok(Operator::new("alice")))
        .build()
        .unwrap()
}

/// The text of an element, as it is read.
fn text_of(selector: &str) -> String {
    format!("document.querySelector({selector:?})?.innerText ?? ''")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_opens_lives_draws_commands_and_outlives_its_server() {
    let Some(browser) = open_browser().await else {
        return;
    };
    let page = browser.page().await;
    let registry = Registry::new();
    let breaker = registry.circuit_breaker("openai");
    let strange = registry.circuit_breaker(SCRIPT);
    let lock = registry.resource_lock("gpu");
    let server = Server::start(dashboard(&registry), None).await;
    // Without the slash at the end: what is relative to it has to be found all the same.
    page.open(&format!("http://{}/ops", server.address)).await;

    opens_and_lives(&page, &breaker).await;
    shows_names_as_text(&page, &strange).await;
    draws_who_waits_for_whom(&page, &lock).await;
    sends_a_command(&page, &breaker).await;
    leads_from_a_problem_to_its_row(&page, &breaker).await;
    is_usable_by_keyboard(&page).await;

    page.assert_no_errors().await;
    let address = server.stop().await;
    page.until(
        "the page says that it has no connection",
        "document.querySelector('#connection').dataset.state === 'lost' && /Disconnected since \\d+ s. Last state of/.test(document.querySelector('#connection-text').innerText)",
    )
    .await;
    // What fails while there is no server is no fault of the page.
    page.forget_errors().await;
    let registry = Registry::new();
    registry.circuit_breaker("openai").force_open();
    let server = Server::start(dashboard(&registry), Some(address)).await;
    page.until(
        "the page is live again, and has noticed that it is another server",
        "document.querySelector('#connection').dataset.state === 'live' && document.querySelector('#headline').innerText === '1 problem: openai (forced open).' && /has restarted/.test(document.querySelector('#notice').innerText)",
    )
    .await;
    let events = page
        .eval("document.querySelectorAll('#transitions tr').length")
        .await;
    assert_eq!(events, 1, "events of the server before are gone");
    page.forget_network_errors().await;
    page.assert_no_errors().await;
    server.stop().await;
    browser.close().await;
}

async fn opens_and_lives(page: &Page<'_>, breaker: &CircuitBreaker) {
    page.until(
        "it opens and is live",
        "document.querySelector('#connection').dataset.state === 'live' && document.querySelector('#headline').innerText.startsWith('All is well: 3 handles')",
    )
    .await;
    for _ in 0..5 {
        let permit = breaker.try_acquire().unwrap();
        permit.failure_because(&std::io::Error::other("status 503"));
    }
    page.until(
        "the opening shows without a reload",
        "document.querySelector('#headline').innerText === '1 problem: openai (open).'",
    )
    .await;
    let card = page.eval(&text_of("#problem-list")).await;
    let card = card.as_str().unwrap();
    assert!(
        card.contains("OPEN") && card.contains("5 consecutive failures"),
        "{card}"
    );
    let transitions = page.eval(&text_of("#transitions")).await;
    assert!(
        transitions.as_str().unwrap().contains("closed -> open"),
        "{transitions}"
    );
    let seconds = "Number(/open for ([\\d.]+) s/.exec(document.querySelector('#problem-list').innerText)?.[1] ?? 0)";
    page.until("time goes on", &format!("{seconds} >= 2")).await;
    page.until(
        "a curve is drawn",
        "document.querySelectorAll('#tables .spark path[d*=L]').length > 0",
    )
    .await;
}

async fn shows_names_as_text(page: &Page<'_>, strange: &CircuitBreaker) {
    strange.force_open();
    page.until(
        "a name of markup is a problem like any other",
        "document.querySelector('#headline').innerText.startsWith('2 problems')",
    )
    .await;
    let names =
        "[...document.querySelectorAll('tbody th span, .card .name')].map((it) => it.textContent)";
    let shown = format!("{names}.filter((it) => it === {SCRIPT:?}).length");
    assert_eq!(page.eval(&shown).await, 2, "in its card and its row");
    let made = page
        .eval("document.querySelectorAll('main script, img').length")
        .await;
    assert_eq!(made, 0);
    let title = page.eval("document.title").await;
    assert_eq!(title, "(2) checkout");
    strange.reset();
}

async fn draws_who_waits_for_whom(page: &Page<'_>, lock: &ResourceLock) {
    assert_eq!(
        page.eval("document.querySelector('#graph').hidden").await,
        true
    );
    let held = lock.acquire("job-1").await.unwrap();
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire("job-2").owned().await.map(drop) }
    });
    page.until(
        "the wait is drawn",
        "document.querySelectorAll('#graph path[marker-end]').length === 2",
    )
    .await;
    let drawn =
        "[...document.querySelectorAll('.graph g text')].map((it) => it.textContent).sort().join()";
    assert_eq!(page.eval(drawn).await, "gpu,job-1,job-2");
    let words = page.eval(&text_of("#graph-list")).await;
    let words = words.as_str().unwrap();
    assert!(
        words.contains("gpu: job-2") && words.contains("held by job-1"),
        "{words}"
    );
    assert_eq!(
        page.eval("document.querySelectorAll('.graph [data-stuck]').length")
            .await,
        0
    );
    drop(held);
    let _ = waiting.await;
    page.until(
        "the graph goes with the wait",
        "document.querySelector('#graph').hidden",
    )
    .await;
}

async fn sends_a_command(page: &Page<'_>, breaker: &CircuitBreaker) {
    let button = "[...document.querySelectorAll('#tables tr')].find((it) => it.querySelector('th span')?.textContent === 'openai').querySelector('button')";
    page.eval(&format!("{button}.click()")).await;
    page.until("the dialog opens", "document.querySelector('#dialog').open")
        .await;
    page.eval("(() => { const it = document.querySelector('#dialog-command'); it.value = 'force_close'; it.dispatchEvent(new Event('change')); })()").await;
    let help = page.eval(&text_of("#dialog-help")).await;
    assert!(
        help.as_str().unwrap().starts_with("Closes it now"),
        "{help}"
    );
    page.eval("document.querySelector('#dialog-send').click()")
        .await;
    page.until(
        "the circuit is closed, and the page says who said so",
        "!document.querySelector('#dialog').open && document.querySelector('#transitions').innerText.includes('alice gave the command force close: open -> closed')",
    )
    .await;
    assert_eq!(breaker.state(), CircuitState::Closed);
    // What cannot work is told in the dialog, which stays.
    page.eval(&format!("{button}.click()")).await;
    page.eval("(() => { const it = document.querySelector('#dialog-command'); it.value = 'config'; it.dispatchEvent(new Event('change')); document.querySelector('#dialog-config').value = '{\"max_probes\": 0}'; document.querySelector('#dialog-send').click(); })()").await;
    page.until(
        "the error of the config is told",
        "document.querySelector('#dialog').open && document.querySelector('#dialog-answer').innerText.includes('max_probes')",
    )
    .await;
    // The browser itself notes that the answer was 422.
    page.forget_network_errors().await;
    page.eval("document.querySelector('#dialog-cancel').click()")
        .await;
    // The settings in force stand there, as they are written, and what is not changed is not sent.
    page.eval(&format!("{button}.click()")).await;
    page.eval("(() => { const it = document.querySelector('#dialog-command'); it.value = 'config'; it.dispatchEvent(new Event('change')); const text = document.querySelector('#dialog-config'); text.value = text.value.replace('\"recovery\": \"1m\"', '\"recovery\": \"1m30s\"'); })()").await;
    let mut other = (*breaker.config()).clone();
    other.consecutive_failures = Some(6);
    breaker.update(other).unwrap();
    page.eval("document.querySelector('#dialog-send').click()")
        .await;
    page.until(
        "the setting is another, and the page says from what to what",
        "!document.querySelector('#dialog').open && document.querySelector('#transitions').innerText.includes('alice gave the command config: recovery 1m -> recovery 1m30s')",
    )
    .await;
    assert_eq!(breaker.config().recovery, Recovery::fixed(90 * SECOND));
    assert_eq!(breaker.config().consecutive_failures, Some(6));
}

async fn leads_from_a_problem_to_its_row(page: &Page<'_>, breaker: &CircuitBreaker) {
    breaker.force_open();
    page.until(
        "the problem is told",
        "document.querySelector('.card .name')?.textContent === 'openai'",
    )
    .await;
    page.eval("scrollTo(0, 0), document.querySelector('.card .name').click()")
        .await;
    page.until(
        "its row has the focus, and is to be seen",
        "(() => { const it = document.activeElement; const at = it.getBoundingClientRect(); return it.matches('#tables tr') && it.querySelector('th span').textContent === 'openai' && at.top >= 0 && at.bottom <= innerHeight; })()",
    )
    .await;
    breaker.force_close();
}

async fn is_usable_by_keyboard(page: &Page<'_>) {
    page.eval("document.activeElement.blur()").await;
    let mut reached = Vec::new();
    for _ in 0..12 {
        page.press("Tab").await;
        let what = "(() => { const it = document.activeElement; return it.className + '|' + it.tagName + '|' + it.matches(':focus-visible'); })()";
        reached.push(page.eval(what).await.as_str().unwrap().to_owned());
    }
    let reaches = |it: &str| reached.iter().any(|reached| reached == it);
    assert!(reaches("skip|A|true"), "{reached:?}");
    assert!(reaches("command|BUTTON|true"), "{reached:?}");
    assert!(
        reaches("scroll|DIV|true"),
        "a table can be scrolled: {reached:?}"
    );
    // With the keyboard alone: the button has the focus, Enter opens, Escape closes, and the focus is back.
    page.eval("document.querySelector('#tables button.command').focus()")
        .await;
    page.press("Enter").await;
    page.until(
        "Enter opens the dialog",
        "document.querySelector('#dialog').open",
    )
    .await;
    page.press("Escape").await;
    page.until(
        "Escape closes it, and the focus is where it was",
        "!document.querySelector('#dialog').open && document.activeElement.matches('button.command')",
    )
    .await;
    let unnamed = "[...document.querySelectorAll('table')].filter((it) => !it.caption?.textContent).length + [...document.querySelectorAll('button, select, input, textarea')].filter((it) => !it.textContent && !it.ariaLabel && !it.labels?.length).length";
    assert_eq!(
        page.eval(unnamed).await,
        0,
        "a table or a control without a name"
    );
    let live = page
        .eval("[...document.querySelectorAll('[aria-live]')].map((it) => it.id).join()")
        .await;
    assert_eq!(live, "headline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_afternoon_is_legible_in_light_and_dark_and_nothing_runs_over_the_edge() {
    let Some(browser) = open_browser().await else {
        return;
    };
    let page = browser.page().await;
    let mut scene = Scene::begin();
    scene.traffic();
    let dashboard = Dashboard::builder(&scene.registry)
        .title("checkout, production")
        .rows(6)
        .keyed("caches", &scene.hosts)
        .commands(|_: &Parts, _: &Command| Ok(Operator::new("alice")))
        .build()
        .unwrap();
    let server = Server::start(dashboard, None).await;
    page.open(&format!("http://{}/ops/", server.address)).await;
    unfolds(&page, &mut scene).await;
    is_legible_in_light_and_dark(&page).await;
    fits(&page).await;
    if let Some(path) = env::var_os("BULWARK_SCREENSHOT") {
        picture_for_the_readme(&page, Path::new(&path)).await;
    }
    page.assert_no_errors().await;
    scene.tasks.iter().for_each(JoinHandle::abort);
    server.stop().await;
    browser.close().await;
}

/// Everything goes wrong, and shows.
async fn unfolds(page: &Page<'_>, scene: &mut Scene) {
    page.until(
        "the circuit of the scene has opened, and calls were refused",
        "document.querySelector('#problem-list').innerText.includes('calls have been refused for')",
    )
    .await;
    scene.deadlock().await;
    let host = scene.hosts.get("cache-007.internal").unwrap();
    for _ in 0..5 {
        let permit = host.try_acquire().unwrap();
        permit.failure_because(&std::io::Error::other("connection refused"));
    }
    page.until(
        "the deadlock is drawn and marked",
        "document.querySelectorAll('.graph path[data-stuck]').length === 4 && document.querySelector('#graph-list').innerText.includes('Deadlock: transfer-801 waits for account-42, held by transfer-802')",
    )
    .await;
    page.until(
        "curves have grown, and the group of keys is there",
        "document.querySelectorAll('#tables .spark path[d*=L]').length > 8 && /1 of 400 keys in trouble/.test(document.querySelector('#tables').innerText)",
    )
    .await;
    page.until(
        "what a tried config would have done otherwise",
        "/Trial on openai-slot: a config that is tried \\(max_concurrent 3 instead of 4\\): of \\d+ calls/.test(document.querySelector('#tables').innerText)",
    )
    .await;
    if env::var_os("BULWARK_SCREENSHOT").is_some() {
        let drawn = "[...document.querySelectorAll('#tables .spark path')].some((it) => (it.getAttribute('d') ?? '').split('L').length > 25)";
        page.until("curves of half a minute, for the picture", drawn)
            .await;
    }
}

/// Leaves the page in light.
async fn is_legible_in_light_and_dark(page: &Page<'_>) {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut colours = Vec::new();
    for scheme in ["dark", "light"] {
        page.prefer(scheme).await;
        let colour = page
            .eval("getComputedStyle(document.body).backgroundColor")
            .await;
        colours.push(colour);
        let picture = page.picture_of_all(1_280).await;
        assert!(picture.len() > 20_000, "an empty picture");
        std::fs::write(target.join(format!("dashboard-{scheme}.png")), picture).unwrap();
        let faint = page.eval(FAINT).await;
        assert_eq!(
            faint,
            serde_json::json!([]),
            "{scheme}: text that is hard to read"
        );
    }
    assert_ne!(colours[0], colours[1]);
}

async fn fits(page: &Page<'_>) {
    for width in [1_280, 400] {
        page.resize(width).await;
        let over = page
            .eval("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            .await;
        assert_eq!(
            over, 0,
            "at {width} pixels the page itself scrolls sideways"
        );
    }
    page.resize(1_180).await;
    let cut = page
        .eval("[...document.querySelectorAll('.scroll')].filter((it) => it.scrollWidth > it.clientWidth).map((it) => it.getAttribute('aria-labelledby'))")
        .await;
    assert_eq!(
        cut,
        serde_json::json!([]),
        "tables that are cut at the right"
    );
}

async fn picture_for_the_readme(page: &Page<'_>, path: &Path) {
    // To the end of the locks: nothing is cut.
    let end = page
        .eval("Math.ceil(document.querySelector('#title-resource_lock').closest('section').querySelector('.trials').getBoundingClientRect().bottom + scrollY) + 4")
        .await;
    let end = end.as_u64().unwrap();
    let picture = page.picture(1_180, end, 0.75).await;
    assert!(
        picture.len() < 250_000,
        "{} bytes are too many for the README",
        picture.len()
    );
    std::fs::write(path, picture).unwrap();
}

/// Texts whose contrast to what is behind them is below 4.5 to 1.
const FAINT: &str = r"(() => {
  const numbers = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((it) => it / 255)
    .map((it) => (it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4))
    .reduce((sum, it, at) => sum + it * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((it) => it.nodeType === 3 && it.data.trim());
    if (!own || element.closest('svg') || !element.checkVisibility()) continue;
    const [a, b] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
  }
  return [...faint];
})()";
