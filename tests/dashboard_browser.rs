//! The dashboard in a real browser: `chromium`, as Debian has it. Without one the test says so and does nothing, unless
//! `REQUIRE_BROWSER=1`.

#[path = "support/browser.rs"]
mod browser;

use std::time::Duration;

use browser::Browser;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_bulwark::circuit_breaker::Window;
use tower_bulwark::dashboard::{Dashboard, Operator};
use tower_bulwark::keyed::Keyed;
use tower_bulwark::rate_limit::Quota;
use tower_bulwark::{
    Backoff, CircuitBreaker, CircuitState, RateLimit, Registry, ResourceLock, RetryPolicy,
};

/// A server with a runtime of its own: when that ends, so do its connections, as those of a program that ends.
struct Server {
    port: u16,
    runtime: tokio::runtime::Runtime,
}

/// The page under `/ops`, as a program would have it.
async fn serve(registry: &Registry, port: u16, keyed: &Keyed<String, CircuitBreaker>) -> Server {
    let dashboard = Dashboard::builder(registry)
        .title("a service")
        .every(Duration::from_millis(200))
        .keyed("tenants", keyed)
        .commands(|_, _| Ok(Operator::new("the test")))
        .build();
    let app = axum::Router::new().nest_service("/ops", dashboard.router());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let serving = runtime.spawn(async move {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(axum::serve(listener, app).into_future());
        port
    });
    let port = serving.await.unwrap();
    Server { port, runtime }
}

/// Something of everything, with a name that is markup.
async fn trouble(registry: &Registry) -> Vec<JoinHandle<()>> {
    let evil = registry.circuit_breaker("<script>document.title='evil'</script>");
    for _ in 0..5 {
        evil.try_acquire()
            .unwrap()
            .failure_because(&"<img src=x onerror=alert(1)>");
    }
    assert!(evil.try_acquire().is_err());
    let _ = registry.circuit_breaker("payments");
    let limit = RateLimit::builder("search")
        .quota("requests", Quota::per_minute(10))
        .build_in(registry)
        .unwrap();
    limit.try_acquire(7).unwrap();
    waits(registry).await
}

/// One job waits for another, which waits for a third.
async fn waits(registry: &Registry) -> Vec<JoinHandle<()>> {
    let lock = |name: &str| {
        ResourceLock::builder(name)
            .contention_threshold(Duration::from_millis(100))
            .build_in(registry)
            .unwrap()
    };
    let (disk, ledger) = (lock("disk"), lock("ledger"));
    let hold = |job: &'static str, locks: Vec<ResourceLock>| {
        tokio::spawn(async move {
            let mut held = Vec::new();
            for lock in &locks {
                held.push(lock.acquire(job).timeout(Duration::from_secs(600)).await);
            }
            std::future::pending::<()>().await;
        })
    };
    let mut tasks = Vec::new();
    for (job, locks) in [
        ("backup", vec![disk.clone()]),
        ("report", vec![ledger.clone(), disk]),
        ("invoice", vec![ledger]),
    ] {
        tasks.push(hold(job, locks));
        tokio::task::yield_now().await;
    }
    tasks
}

/// What the README shows: an outage, and who waits meanwhile.
async fn outage(registry: &Registry) -> Vec<JoinHandle<()>> {
    let openai = CircuitBreaker::builder("openai")
        .failure_rate(0.5, Window::calls(50))
        .build_in(registry)
        .unwrap();
    let payments = registry.circuit_breaker("payments");
    for n in 0..40 {
        payments.try_acquire().unwrap().success();
        let permit = openai.try_acquire().unwrap();
        match n {
            0..35 => permit.success(),
            _ => permit.failure_because(&"503 Service Unavailable"),
        }
    }
    payments
        .try_acquire()
        .unwrap()
        .failure_because(&"connection reset");
    for _ in 0..211 {
        assert!(openai.try_acquire().is_err());
    }
    let retry = RetryPolicy::builder()
        .name("openai")
        .backoff(Backoff::fixed(Duration::ZERO))
        .build_in(registry)
        .unwrap();
    for n in 0..30 {
        let mut calls = 0;
        let _ = retry
            .run(|| {
                calls += 1;
                let good = calls > n % 3;
                async move { if good { Ok(()) } else { Err("503") } }
            })
            .await;
    }
    let limit = RateLimit::builder("openai")
        .quota("requests", Quota::per_minute(500))
        .quota("tokens", Quota::per_minute(90_000))
        .build_in(registry)
        .unwrap();
    limit.try_acquire([380, 61_000]).unwrap();
    waits(registry).await
}

/// Pictures of the page, in `target/dashboard`; and, where `BULWARK_SCREENSHOT` says, the one that the README shows.
async fn pictures(page: &mut Browser) {
    let (wide, high) = (1320, 1240);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dashboard");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, dark) in [("light.png", false), ("dark.png", true)] {
        let picture = page.screenshot(wide, high, dark).await;
        std::fs::write(folder.join(name), &picture).unwrap();
        if let Ok(path) = std::env::var("BULWARK_SCREENSHOT")
            && !dark
        {
            std::fs::write(path, picture).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_sees_what_is_wrong_as_it_changes_commands_and_survives_a_restart() {
    let Some(program) = browser::find() else {
        assert!(
            std::env::var_os("REQUIRE_BROWSER").is_none_or(|it| it != "1"),
            "REQUIRE_BROWSER=1, and there is no Chromium in the path, nor named by CHROMIUM"
        );
        eprintln!(
            "\nNOT RUN: no Chromium on this machine. `apt-get install chromium`, or set CHROMIUM to one\n"
        );
        return;
    };
    let registry = Registry::new();
    let tenants = Keyed::new("tenants", 100, |name: &String| {
        CircuitBreaker::new(name.as_str())
    })
    .unwrap();
    tenants.get(&"tenant-7".to_owned()).unwrap().trip();
    let tasks = trouble(&registry).await;
    let server = serve(&registry, 0, &tenants).await;
    let port = server.port;
    let mut page = Browser::start(&program).await;

    // With and without a slash at the end.
    for path in ["ops/", "ops"] {
        page.open(&format!("http://127.0.0.1:{port}/{path}")).await;
        page.until("document.title === 'a service'").await;
    }
    page.until("document.querySelector('#headline').className === 'error'")
        .await;
    // What is by key is looked at beside, and comes with a later state.
    page.until("document.querySelector('#groups').innerText.includes('tenant-7')")
        .await;
    let text = page.text().await;
    for seen in [
        "<script>document.title='evil'</script>",
        "last failure: <img src=x onerror=alert(1)>",
        "5 consecutive failures",
        "report waits for disk, held by backup",
        "invoice waits for ledger, held by report",
        "requests: 3 of 10 left",
        "tenant-7 open",
    ] {
        assert!(text.contains(seen), "{seen} is not on the page:\n{text}");
    }
    assert_eq!(
        page.value("document.querySelectorAll('script').length")
            .await,
        1,
        "names are text"
    );
    assert_eq!(page.value("document.title").await, "a service");
    let edges = page
        .value("document.querySelectorAll('#graph-picture path.edge').length")
        .await;
    assert_eq!(edges, 4, "the graph is drawn");

    // It changes while one looks.
    let payments = registry.circuit_breaker("payments");
    payments.open_for(Duration::from_secs(60));
    page.until("document.querySelector('#problem-list').innerText.includes('`payments` is open')")
        .await;

    // A command, as an operator clicks it.
    let button = "[...document.querySelectorAll('button')].find((it) => it.getAttribute('aria-label') === 'Close: payments')";
    page.value(&format!("{button}.click()")).await;
    page.until("document.querySelector('#ask').open").await;
    page.value("document.querySelector('#ask-do').click()")
        .await;
    page.until("document.querySelector('#toast').innerText.includes('open -> closed')")
        .await;
    assert_eq!(payments.state(), CircuitState::Closed);
    page.until("!document.querySelector('#problem-list').innerText.includes('`payments`')")
        .await;

    // Every button and every table is reached by the keyboard, in the order of the page.
    let unreachable = page
        .value("[...document.querySelectorAll('button, summary, .wide')].filter((it) => !it.closest('dialog') && it.checkVisibility() && it.tabIndex < 0 && it.querySelector('table, svg') === null).length")
        .await;
    assert_eq!(unreachable, 0);
    let unnamed = page
        .value("[...document.querySelectorAll('button, svg[role=img]')].filter((it) => !it.getAttribute('aria-label') && !it.innerText).length")
        .await;
    assert_eq!(unnamed, 0);
    assert!(page.complaints.is_empty(), "{:#?}", page.complaints);

    // The program goes away, and another comes in its place.
    server.runtime.shutdown_background();
    page.until("document.querySelector('#connection').className === 'lost'")
        .await;
    let other = Registry::new();
    let more = outage(&other).await;
    let server = serve(&other, port, &tenants).await;
    page.until("document.querySelector('#circuit-breakers').innerText.includes('openai')")
        .await;
    page.until("document.querySelector('#connection').className !== 'lost'")
        .await;
    page.until("document.querySelector('#toast').innerText.includes('started again')")
        .await;
    assert!(
        !page.text().await.contains("<script>"),
        "what was before is gone"
    );
    // That the connection was refused meanwhile is all it complains of.
    page.complaints.retain(|it| !it.contains("net::ERR_"));
    assert!(page.complaints.is_empty(), "{:#?}", page.complaints);

    pictures(&mut page).await;
    page.close().await;
    server.runtime.shutdown_background();
    tasks.into_iter().chain(more).for_each(|it| it.abort());
}
