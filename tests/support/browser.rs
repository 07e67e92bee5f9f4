//! Chromium over its DevTools protocol: as much of it as a test of a page needs.

use std::collections::VecDeque;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(40);

/// The browser's program, if there is one.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let paths = env::var_os("PATH")?;
    let mut all = names
        .iter()
        .flat_map(|name| env::split_paths(&paths).map(move |it| it.join(name)));
    all.find(|it| it.is_file())
}

/// A browser without a window, and with a profile of its own. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    child: Child,
    profile: PathBuf,
    socket: Mutex<Socket>,
}

#[derive(Debug)]
struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
    /// What the browser has told meanwhile.
    told: VecDeque<Value>,
}

/// A page of a browser.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Browser {
    pub(crate) async fn start(program: &Path) -> Self {
        let unique = format!("bulwark-browser-{}-{:p}", std::process::id(), &program);
        let profile = env::temp_dir().join(unique);
        let mut command = Command::new(program);
        command
            .args([
                "--headless=new",
                "--remote-debugging-port=0",
                "--no-first-run",
            ])
            .args([
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--no-proxy-server", "--lang=en-US"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Root may not have one, and a container seldom; what is opened is our own page.
        command.arg("--no-sandbox");
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return Some(address.to_owned());
                }
                said.push(line);
            }
            None
        });
        let Ok(Some(address)) = address.await else {
            panic!("the browser does not start:\n{}", said.join("\n"));
        };
        // Whatever else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (stream, _) = connect_async(address).await.unwrap();
        Self {
            child,
            profile,
            socket: Mutex::new(Socket {
                stream,
                next: 0,
                told: VecDeque::new(),
            }),
        }
    }

    async fn ask(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut socket = self.socket.lock().await;
        let id = socket.next;
        socket.next += 1;
        let mut request = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        socket
            .stream
            .send(Message::text(request.to_string()))
            .await
            .unwrap();
        let answer = timeout(PATIENCE, async {
            loop {
                let message = socket
                    .stream
                    .next()
                    .await
                    .expect("the browser is gone")
                    .unwrap();
                let Ok(text) = message.into_text() else {
                    continue;
                };
                let Ok(value) = serde_json::from_str::<Value>(&text) else {
                    continue;
                };
                match value["id"] == id {
                    true => return value,
                    false => socket.told.push_back(value),
                }
            }
        });
        let answer = answer
            .await
            .unwrap_or_else(|_| panic!("no answer to {method}"));
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    pub(crate) async fn page(&self) -> Page<'_> {
        let target = self
            .ask(None, "Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.ask(None, "Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let page = Page {
            browser: self,
            session,
        };
        for domain in [
            "Page.enable",
            "Runtime.enable",
            "Log.enable",
            "Network.enable",
        ] {
            page.ask(domain, json!({})).await;
        }
        page
    }

    pub(crate) async fn close(mut self) {
        self.ask(None, "Browser.close", json!({})).await;
        let _ = timeout(PATIENCE, self.child.wait()).await;
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
    }
}

impl Page<'_> {
    async fn ask(&self, method: &str, params: Value) -> Value {
        self.browser.ask(Some(&self.session), method, params).await
    }

    pub(crate) async fn open(&self, url: &str) {
        let opened = self.ask("Page.navigate", json!({"url": url})).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
    }

    /// The value of an expression.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", params).await;
        let exception = &answer["exceptionDetails"];
        assert!(exception.is_null(), "{expression}: {exception:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&self, what: &str, expression: &str) {
        let waiting = async {
            // A page that is not there yet is no page in which it is true.
            let guarded =
                format!("(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()");
            while self.eval(&guarded).await != true {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            let text = self.eval("document.body.innerText").await;
            panic!(
                "not within {PATIENCE:?}: {what}\n{expression}\n\nthe page:\n{}\n\nerrors: {:#?}",
                text.as_str().unwrap_or_default(),
                self.errors().await
            );
        }
    }

    /// Presses a key and lets it go.
    pub(crate) async fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => panic!("which key is {key}?"),
        };
        let mut params =
            json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if key == "Enter" {
            params["text"] = "\r".into();
        }
        self.ask("Input.dispatchKeyEvent", params.clone()).await;
        params["type"] = "keyUp".into();
        self.ask("Input.dispatchKeyEvent", params).await;
    }

    /// `light` or `dark`.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.ask("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
    }

    pub(crate) async fn resize(&self, width: u32) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// A picture of the whole page.
    pub(crate) async fn picture_of_all(&self, width: u32) -> Vec<u8> {
        self.resize(width).await;
        let height = self.eval("document.documentElement.scrollHeight").await;
        self.picture(width, height.as_u64().unwrap(), 1.0).await
    }

    /// A picture of so much of the page, from its top.
    pub(crate) async fn picture(&self, width: u32, height: u64, scale: f64) -> Vec<u8> {
        self.resize(width).await;
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": scale});
        let params = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.ask("Page.captureScreenshot", params).await;
        STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }

    /// What went wrong in the page: exceptions, words on the console, violations of its policy, requests that failed.
    async fn errors(&self) -> Vec<Value> {
        // An answer brings everything that was told before it.
        self.eval("1").await;
        let socket = self.browser.socket.lock().await;
        let told = socket.told.iter();
        let errors = told.filter(|it| match it["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => true,
            Some("Log.entryAdded") => it["params"]["entry"]["level"] != "verbose",
            _ => false,
        });
        errors.cloned().collect()
    }

    pub(crate) async fn forget_errors(&self) {
        self.eval("1").await;
        self.browser.socket.lock().await.told.clear();
    }

    /// Forgets what the browser itself says of answers and connections that failed.
    pub(crate) async fn forget_network_errors(&self) {
        self.eval("1").await;
        let mut socket = self.browser.socket.lock().await;
        socket
            .told
            .retain(|it| it["params"]["entry"]["source"] != "network");
    }

    pub(crate) async fn assert_no_errors(&self) {
        let errors = self.errors().await;
        assert!(errors.is_empty(), "{errors:#?}");
    }
}
