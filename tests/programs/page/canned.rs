//! A server with the page's files that says what a test gives it.

use libtest_mimic::Failed;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:";

/// The document, and how often it has changed. Its threads end with the process.
#[derive(Default)]
struct Document {
    current: Mutex<(u64, String)>,
    changed: Condvar,
}

pub struct Canned {
    pub url: String,
    document: Arc<Document>,
}

impl Canned {
    /// Serves this document.
    pub fn serve(document: &Value) -> Result<Canned, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/", listener.local_addr()?);
        let canned = Canned { url, document: Arc::default() };
        canned.say(document);
        let served = Arc::clone(&canned.document);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let document = Arc::clone(&served);
                thread::spawn(move || document.answer(stream));
            }
        });
        Ok(canned)
    }

    /// Serves another one, which pages get at once.
    pub fn say(&self, document: &Value) {
        let mut current = self.document.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, document.to_string());
        self.document.changed.notify_all();
    }
}

impl Document {
    /// Answers one request; fails when the browser is gone.
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let document = || self.current.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        let (kind, content) = match request.split(' ').nth(1) {
            Some("/") => (
                "text/html",
                include_str!("../../../crates/consul-cluster/src/observe/status/page/index.html")
                    .into(),
            ),
            Some("/page.css") => (
                "text/css",
                include_str!("../../../crates/consul-cluster/src/observe/status/page/page.css")
                    .into(),
            ),
            Some("/page.js") => (
                "text/javascript",
                include_str!("../../../crates/consul-cluster/src/observe/status/page/page.js")
                    .into(),
            ),
            Some("/cluster") => ("application/json", document()),
            _ => return self.follow(&mut stream),
        };
        write!(stream, "{}{content}", head(kind))
    }

    fn follow(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        write!(stream, "{}", head("text/event-stream"))?;
        let mut seen = 0;
        loop {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let current = self.changed.wait_while(current, |(number, _)| *number == seen);
            let (number, document) = current.unwrap_or_else(PoisonError::into_inner).clone();
            seen = number;
            write!(stream, "event: cluster\ndata: {document}\n\n")?;
        }
    }
}

fn head(kind: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}; charset=utf-8\r\n\
         Content-Security-Policy: {POLICY}\r\n\r\n"
    )
}
