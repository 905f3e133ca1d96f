//! A headless Chromium, driven through its debugging pipe. It ends on drop.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;

pub struct Chromium {
    _child: Child,
    folder: PathBuf,
    link: Arc<Link>,
    _turn: SemaphorePermit<'static>,
}

/// One browser at a time: it fills the machine by itself.
static TURN: Semaphore = Semaphore::const_new(1);

/// The pipe's writing end, and the state of what was read.
struct Link {
    to: tokio::sync::Mutex<Sender>,
    last: AtomicU64,
    replies: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    /// The faults that each tab has reported: errors, exceptions, refusals by a policy.
    faults: Mutex<Vec<String>>,
}

/// Longer than anything takes, also beside a build.
const LONG: Duration = Duration::from_secs(180);

/// The program: its name depends on the system.
const PROGRAM: &str = r#"exec "$(command -v chromium || command -v chromium-browser || command -v google-chrome)" "$@" 3<>"$TO" 4<>"$FROM""#;

/// Keeps pages from refreshing themselves, which would replace the element that a test is about to click.
const STILL: &str = "Object.defineProperty(document, 'hidden', { get: () => true })";

impl Chromium {
    pub async fn start() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let turn = TURN.acquire().await.unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qomplement-webhooks-chromium-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let (to, from) = (folder.join("to"), folder.join("from"));
        let made = Command::new("mkfifo").args([&to, &from]).status().await.unwrap();
        assert!(made.success());
        // Chromium reads commands from its file 3, and writes replies to its file 4.
        let child = Command::new("sh")
            .args(["-c", PROGRAM, "sh"])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"])
            .args(["--remote-debugging-pipe", "about:blank"])
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .env("TO", &to)
            .env("FROM", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let to = OpenOptions::new().read_write(true).open_sender(&to).unwrap();
        let from = OpenOptions::new().read_write(true).open_receiver(&from).unwrap();
        let link = Arc::new(Link {
            to: tokio::sync::Mutex::new(to),
            last: AtomicU64::new(0),
            replies: Mutex::default(),
            faults: Mutex::default(),
        });
        tokio::spawn(link.clone().read(from));
        Self { _child: child, folder, link, _turn: turn }
    }

    /// Opens a tab in which pages do not refresh themselves.
    pub async fn tab(&self) -> Tab {
        let tab = self.live_tab().await;
        tab.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": STILL})).await;
        tab
    }

    /// Opens a tab.
    pub async fn live_tab(&self) -> Tab {
        let target = self.link.call(None, "Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.link.call(None, "Target.attachToTarget", attach).await;
        let tab =
            Tab { link: self.link.clone(), session: attached["sessionId"].as_str().unwrap().to_owned() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({})).await;
        }
        tab.size(1280, 900).await;
        tab
    }

    /// The faults that tabs have reported since the last call.
    pub fn faults(&self) -> Vec<String> {
        std::mem::take(&mut *self.link.faults.lock().unwrap())
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The child may still write into it.
        let _ = self._child.start_kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Link {
    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let reply = self.try_call(session, method, params).await;
        assert!(reply.get("error").is_none(), "{method}: {reply}");
        reply["result"].clone()
    }

    async fn try_call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let (sender, receiver) = oneshot::channel();
        self.replies.lock().unwrap().insert(id, sender);
        let text = format!("{message}\0");
        self.to.lock().await.write_all(text.as_bytes()).await.unwrap();
        let reply = timeout(LONG, receiver).await;
        reply.unwrap_or_else(|_| panic!("Chromium does not answer {method}")).unwrap()
    }

    async fn read(self: Arc<Self>, from: Receiver) {
        let mut from = BufReader::new(from);
        loop {
            let mut message = Vec::new();
            if from.read_until(0, &mut message).await.unwrap_or(0) == 0 {
                return;
            }
            message.pop();
            let Ok(message) = serde_json::from_slice::<Value>(&message) else { continue };
            if let Some(id) = message["id"].as_u64() {
                let waiting = self.replies.lock().unwrap().remove(&id);
                if let Some(waiting) = waiting {
                    let _ = waiting.send(message);
                }
                continue;
            }
            let params = &message["params"];
            let is_fault = match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => {
                    matches!(params["type"].as_str(), Some("error" | "warning"))
                }
                Some("Log.entryAdded") => {
                    matches!(params["entry"]["level"].as_str(), Some("error" | "warning"))
                }
                _ => false,
            };
            if is_fault {
                self.faults.lock().unwrap().push(params.to_string());
            }
        }
    }
}

pub struct Tab {
    link: Arc<Link>,
    session: String,
}

impl Tab {
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.link.call(Some(&self.session), method, params).await
    }

    pub async fn size(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub async fn colours(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    pub async fn without_script(&self) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    }

    /// Opens an address, and waits until it is there.
    pub async fn open(&self, url: &str) {
        self.mark().await;
        self.call("Page.navigate", json!({"url": url})).await;
        self.loaded().await;
    }

    pub async fn back(&self) {
        let history = self.call("Page.getNavigationHistory", json!({})).await;
        let at = usize::try_from(history["currentIndex"].as_u64().unwrap()).unwrap();
        let entry = &history["entries"][at - 1];
        self.call("Page.navigateToHistoryEntry", json!({"entryId": entry["id"]})).await;
        // The document may be the one that was left, with its mark.
        let is_there = format!("location.href === {} && document.readyState === 'complete'", entry["url"]);
        self.until(&is_there).await;
        self.value("window.isOld = false").await;
    }

    /// Marks the document, so that the next one is told from it.
    async fn mark(&self) {
        self.value("window.isOld = true").await;
    }

    async fn loaded(&self) {
        self.until("!window.isOld && document.readyState === 'complete'").await;
    }

    /// The value of an expression; null while a document is being replaced.
    pub async fn value(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let reply = self.link.try_call(Some(&self.session), "Runtime.evaluate", params).await;
        let result = &reply["result"];
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    pub async fn text(&self, expression: &str) -> String {
        self.value(expression).await.as_str().unwrap_or_else(|| panic!("no text: {expression}")).to_owned()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until<'a>(&'a self, expression: &'a str) -> impl Future<Output = ()> + 'a {
        let waits = async move {
            while self.value(expression).await != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        async move {
            if timeout(LONG, waits).await.is_err() {
                let text = self.value("document.documentElement.outerHTML").await;
                panic!("never so: {expression}\n{text}");
            }
        }
    }

    /// Clicks an element with the mouse, and waits for the next document.
    pub async fn follow(&self, selector: &str) {
        self.mark().await;
        self.click(selector).await;
        self.loaded().await;
    }

    /// Follows the link or the button with a text.
    pub async fn follow_text(&self, text: &str) {
        let find = format!(
            "[...document.querySelectorAll('a, button')].find(e => e.textContent.trim() === {}).dataset.clicked = ''",
            json!(text)
        );
        self.value(&find).await;
        self.follow("[data-clicked]").await;
    }

    pub async fn click(&self, selector: &str) {
        let place = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getClientRects()[0]; return [r.x + Math.min(r.width / 2, 20), r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let place = self.value(&place).await;
        assert!(place.is_array(), "{selector} is not there");
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a key, such as `Tab` or `ArrowDown`.
    pub async fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "End" => 35,
            "Home" => 36,
            "ArrowUp" => 38,
            "ArrowDown" => 40,
            _ => 0,
        };
        let text = if key == "Enter" { "\r" } else { "" };
        let down =
            json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", down).await;
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).await;
    }

    /// Types into an input.
    pub async fn fill(&self, selector: &str, text: &str) {
        self.value(&format!("document.querySelector({}).focus()", json!(selector))).await;
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// The page as a PNG, in base64.
    pub async fn picture(&self) -> String {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        picture["data"].as_str().unwrap().to_owned()
    }
}
