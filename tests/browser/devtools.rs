//! A headless Chromium, driven over a pipe.
//!
//! Source: Chrome DevTools Protocol (domains Target, Page, Runtime, Log, Network, Input, Emulation);
//! `--remote-debugging-pipe`: JSON messages on descriptors 3 and 4, each ended by a zero byte.

use super::scratch::Scratch;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Names of the browser, as distributions have it.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Longest wait for what a page does next.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page.
pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Value,
    calls: u64,
    /// What the page complained about, and what it wanted to load beside itself.
    pub complaints: Vec<String>,
    /// Where the profile is; goes after the process.
    _directory: Scratch,
}

impl Browser {
    /// Starts one; its profile goes to `directory`.
    ///
    /// # Panics
    /// When there is none, or it does not answer.
    pub fn start(directory: Scratch) -> Browser {
        let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
        let name = BROWSERS.iter().find(is_there).expect("Chromium is missing: apt-get install chromium");
        // A shell moves the pipes to where the browser expects them. The sandbox does not work as root, and the page is ours.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, name])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-pipe", "--window-size=1280,900"])
            .arg(format!("--user-data-dir={}", directory.join("profile")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        let to = process.stdin.take().expect("stdin is a pipe");
        let from = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        let (session, complaints) = (Value::Null, Vec::new());
        let mut browser = Browser { process, to, from, session, calls: 0, complaints, _directory: directory };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Opens a file and waits until it is loaded and drawn.
    pub fn open(&mut self, file: &str) {
        self.call("Page.navigate", json!({ "url": format!("file://{file}") }));
        self.wait_for("document.readyState === 'complete' && document.getElementById('range').textContent !== ''");
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text of the element that `selector` finds.
    pub fn text(&mut self, selector: &str) -> String {
        let value = self.value(&format!("document.querySelector({selector:?}).textContent"));
        value.as_str().expect("text is text").to_owned()
    }

    /// Waits until an expression in the page is true.
    pub fn wait_for(&mut self, expression: &str) {
        let begin = Instant::now();
        // The page answers between its frames, so this does not spin.
        while self.value(&format!("new Promise((done) => setTimeout(() => done({expression}), 20))")) != true {
            assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {expression}");
        }
    }

    /// Clicks in the middle of the element that `selector` finds.
    pub fn click(&mut self, selector: &str) {
        let (x, y) = self.place(selector, 0.5, 0.5);
        self.click_at(x, y);
    }

    /// Where a part of an element stands in the window, after scrolling to it: fractions of its width and height.
    pub fn place(&mut self, selector: &str, across: f64, down: f64) -> (f64, f64) {
        let place = self.value(&format!(
            "(() => {{ const found = document.querySelector({selector:?}); found.scrollIntoView({{ block: 'center' }});
            const box = found.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; }})()"
        ));
        let number = |index: usize| place[index].as_f64().expect("a number");
        (number(0) + across * number(2), number(1) + down * number(3))
    }

    /// A click with the first button.
    pub fn click_at(&mut self, x: f64, y: f64) {
        self.mouse("mouseMoved", x, y, json!({}));
        self.mouse("mousePressed", x, y, json!({ "button": "left", "clickCount": 1 }));
        self.mouse("mouseReleased", x, y, json!({ "button": "left", "clickCount": 1 }));
    }

    /// A press, a move and a release.
    pub fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.mouse("mousePressed", from.0, from.1, json!({ "button": "left", "clickCount": 1 }));
        self.mouse("mouseMoved", to.0, to.1, json!({ "button": "left", "buttons": 1 }));
        self.mouse("mouseReleased", to.0, to.1, json!({ "button": "left", "clickCount": 1 }));
    }

    /// Turns the wheel; negative is away from the user.
    pub fn wheel(&mut self, x: f64, y: f64, by: i32) {
        self.mouse("mouseWheel", x, y, json!({ "deltaX": 0, "deltaY": by }));
    }

    fn mouse(&mut self, kind: &str, x: f64, y: f64, more: Value) {
        let mut parameters = more;
        parameters["type"] = kind.into();
        parameters["x"] = x.into();
        parameters["y"] = y.into();
        self.call("Input.dispatchMouseEvent", parameters);
    }

    /// Presses a key that the focused element hears.
    pub fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key }));
        }
    }

    /// Gives the window a size, as a phone has it or a desk.
    pub fn resize(&mut self, width: u32, height: u32) {
        let mobile = width < 600;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Sends a command and returns its result; what the page tells meanwhile is kept.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).expect("the browser speaks");
            assert_eq!(bytes.pop(), Some(0), "the browser ended");
            let answer: Value = serde_json::from_slice(&bytes).expect("the browser speaks JSON");
            if answer["id"] == self.calls {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.hear(&answer);
        }
    }

    fn hear(&mut self, event: &Value) {
        let is_complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded") => true,
            Some("Network.requestWillBeSent") => {
                let url = event["params"]["request"]["url"].as_str().unwrap_or_default();
                !url.starts_with("file://") && url != "about:blank"
            }
            _ => false,
        };
        if is_complaint {
            self.complaints.push(event.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It closes its profile and then the pipe. Best effort: a browser that is gone already is as good.
        let _ = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.from.read_to_end(&mut Vec::new());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
