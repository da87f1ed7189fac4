//! Chromium without a window, by chromedriver's WebDriver protocol over plain HTTP.

use super::consul::say_skipped;
use crate::PATIENCE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libtest_mimic::Failed;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The programs, and the group of scripts/install-deps.sh that has them.
const PROGRAMS: [&str; 2] = ["chromium", "chromedriver"];
const GROUP: &str = "page";

/// WebDriver's code points for keys.
pub mod key {
    pub const TAB: char = '\u{e004}';
    pub const END: char = '\u{e010}';
    pub const HOME: char = '\u{e011}';
    pub const LEFT: char = '\u{e012}';
    pub const UP: char = '\u{e013}';
    pub const RIGHT: char = '\u{e014}';
    pub const DOWN: char = '\u{e015}';
}

/// Whether there is no browser on this machine; if so, reports `what` as skipped.
pub fn is_missing(what: &str) -> bool {
    let runs = |program: &str| {
        let mut version = Command::new(program);
        version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    let missing = PROGRAMS.into_iter().find(|program| !runs(program));
    let why = |program: &str| {
        format!("{program} is missing: scripts/install-deps.sh {GROUP} installs it")
    };
    missing.inspect(|program| say_skipped(what, &why(program))).is_some()
}

/// A browser with one window. It ends when this is dropped.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
}

impl Browser {
    pub fn start() -> Result<Browser, Failed> {
        let mut driver = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "chromedriver", "--port=0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(driver.stdout.take().ok_or("no output")?).lines();
        let port = lines.find_map(|line| {
            let line = line.ok()?;
            line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = format!("127.0.0.1:{}", port.ok_or("chromedriver has not started")?);
        let mut browser = Browser { driver, address, session: String::new() };
        // Tests run as root in containers, where the sandbox does not work.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        } } });
        let session = browser.send("POST", "/session", &capabilities)?;
        session["sessionId"].as_str().ok_or("no session")?.clone_into(&mut browser.session);
        Ok(browser)
    }

    pub fn open(&self, url: &str) -> Result<(), Failed> {
        self.command("POST", "/url", &json!({ "url": url })).map(drop)
    }

    /// The result of the body of a function in the page.
    pub fn run(&self, script: &str) -> Result<Value, Failed> {
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The value that a promise in the page yields. The page's Content-Security-Policy does not apply to it.
    pub fn evaluate(&self, expression: &str) -> Result<Value, Failed> {
        let parameters =
            json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.devtools("Runtime.evaluate", &parameters)?;
        match answer.get("exceptionDetails") {
            Some(details) => Err(format!("{details}").into()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until an expression in the page holds.
    pub fn wait_for(&self, what: &str, expression: &str) -> Result<(), Failed> {
        let begun = Instant::now();
        while self.run(&format!("return Boolean({expression})"))? != true {
            if begun.elapsed() > PATIENCE {
                let text = self.run("return document.body.innerText")?;
                return Err(format!("not in time: {what}; the page says: {text}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Presses these keys one after the other.
    pub fn press(&self, keys: &[char]) -> Result<(), Failed> {
        let strokes = keys.iter().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        });
        let strokes: Vec<Value> = strokes.collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.command("POST", "/actions", &json!({ "actions": [keyboard] })).map(drop)
    }

    pub fn resize(&self, width: u32, height: u32) -> Result<(), Failed> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &size).map(drop)
    }

    /// Asks pages for their dark or their light colours.
    pub fn prefer(&self, scheme: &str) -> Result<(), Failed> {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] })).map(drop)
    }

    /// The window as PNG.
    pub fn screenshot(&self) -> Result<Vec<u8>, Failed> {
        let encoded = self.command("GET", "/screenshot", &Value::Null)?;
        Ok(STANDARD.decode(encoded.as_str().ok_or("no picture")?)?)
    }

    /// The console's lines since the last call.
    pub fn console(&self) -> Result<Vec<String>, Failed> {
        let lines = self.command("POST", "/se/log", &json!({ "type": "browser" }))?;
        Ok(lines.as_array().ok_or("no lines")?.iter().map(ToString::to_string).collect())
    }

    fn devtools(&self, name: &str, parameters: &Value) -> Result<Value, Failed> {
        let body = json!({ "cmd": name, "params": parameters });
        self.command("POST", "/goog/cdp/execute", &body)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failed> {
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failed> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (host, length) = (&self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut reader = BufReader::new(stream);
        // It leaves the connection open.
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer)?;
        let mut answer: Value = serde_json::from_slice(&answer)?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{path}: {error}: {}", value["message"]).into()),
            None => Ok(value),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is killed would leave its browser.
        let _ = self.command("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
