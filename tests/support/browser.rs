//! A real browser without a window, driven by the DevTools protocol.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const LONG: Duration = Duration::from_secs(30);

/// The browser of this machine, if there is one: `CHROMIUM`, or what is in the path.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let folders: Vec<_> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let all = names
        .iter()
        .flat_map(|name| folders.iter().map(move |it| it.join(name)));
    all.into_iter().find(|path| path.is_file())
}

pub(crate) struct Browser {
    process: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    next: u64,
    profile: PathBuf,
    /// What the page has complained of: exceptions, errors in the log, breaches of its policy.
    pub(crate) complaints: Vec<String>,
}

impl Browser {
    pub(crate) async fn start(program: &Path) -> Self {
        let profile = std::env::temp_dir().join(format!("bulwark-browser-{}", std::process::id()));
        let mut command = Command::new(program);
        command
            .args([
                "--headless=new",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-default-browser-check",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-component-update",
                "--hide-scrollbars",
                "--lang=en",
            ])
            // A container seldom lets a browser make its own; it opens pages of this test alone.
            .arg("--no-sandbox")
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = async {
            while let Some(line) = said.next_line().await.unwrap() {
                if let Some((_, address)) = line.split_once("DevTools listening on ") {
                    return address.trim().to_owned();
                }
            }
            panic!("the browser has ended");
        };
        let address = tokio::time::timeout(LONG, address)
            .await
            .expect("the browser did not start");
        // What it says from here on is read, so that it never waits for a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let (socket, _) = connect_async(address).await.unwrap();
        let mut browser = Self {
            process,
            socket,
            session: String::new(),
            next: 0,
            profile,
            complaints: Vec::new(),
        };
        let target = browser
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// One method of the protocol, and what it answers.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let text = message.to_string();
        self.socket.send(Message::text(text)).await.unwrap();
        loop {
            let next = tokio::time::timeout(LONG, self.socket.next()).await;
            let message = next.unwrap_or_else(|_| panic!("{method} was not answered"));
            let Ok(Message::Text(text)) = message.unwrap() else {
                continue;
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.listen(&message);
        }
    }

    fn listen(&mut self, event: &Value) {
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints
                    .push(event["params"]["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => {
                self.complaints.push(event["params"]["entry"].to_string());
            }
            _ => {}
        }
    }

    pub(crate) async fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address })).await;
    }

    /// The value of an expression on the page.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        let seen = tokio::time::timeout(LONG, async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                // While a page is replaced there is none.
                let params = json!({ "expression": expression, "returnByValue": true });
                let result = self.call("Runtime.evaluate", params).await;
                if result["result"]["value"] == true {
                    return;
                }
            }
        });
        if seen.await.is_err() {
            let page = self.value("document.body.innerText").await;
            panic!(
                "not seen: {expression}\nthe page:\n{}",
                page.as_str().unwrap_or_default()
            );
        }
    }

    pub(crate) async fn text(&mut self) -> String {
        let text = self.value("document.body.innerText").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// A picture of the page, as PNG.
    pub(crate) async fn screenshot(&mut self, wide: u32, high: u32, dark: bool) -> Vec<u8> {
        use base64::Engine;

        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
        let metrics =
            json!({ "width": wide, "height": high, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let shot = self
            .call("Page.captureScreenshot", json!({ "format": "png" }))
            .await;
        let data = shot["data"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .unwrap()
    }

    pub(crate) async fn close(mut self) {
        self.session.clear();
        let _ = self
            .socket
            .send(Message::text(r#"{"id":0,"method":"Browser.close"}"#))
            .await;
        let _ = tokio::time::timeout(LONG, self.process.wait()).await;
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
