//! A token in a file, where another program can replace it. Each request gets the current one.

use super::{Expiry, Transport};
use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Clock};
use consul_process::files::FromFiles;
use consul_process::os;
use consul_process::sync::lock;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The largest file that is read. A token and the white space around it are far shorter.
const MAX_BYTES: usize = 64 << 10;

/// The header with a request's token.
pub const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// A file with a token, read again at most once a second. The token is marked as sensitive, so that
/// `Debug` does not show it.
#[derive(Debug)]
pub struct TokenFile {
    file: FromFiles<HeaderValue, HeaderValue>,
    accepted: Mutex<Accepted>,
}

/// The last token of the file that Consul has accepted.
#[derive(Debug, Default)]
struct Accepted {
    token: Option<HeaderValue>,
    /// How often it has changed.
    changes: u64,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// [`Kind::Config`] when it cannot be read or has no valid token.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>, Error> {
        let path = path.to_owned();
        let read_token = move || {
            read(&path).map_err(|why| {
                let message = format!("token_file: {}: {why}", path.display());
                Error::new(Kind::Config, message).not_sent()
            })
        };
        let file =
            FromFiles::open("token file", clock, read_token, |token| Ok(HeaderValue::clone(token)));
        Ok(Arc::new(Self { file: file?, accepted: Mutex::default() }))
    }

    /// Reads the file now; returns its token if it is not the refused one.
    fn other_than(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        Some(self.file.newest()).filter(|token| token != refused)
    }

    fn accepts(&self, token: &HeaderValue) {
        let mut accepted = lock(&self.accepted);
        // An answer that was waited for may be to the token of before.
        if accepted.token.as_ref() != Some(token) && self.file.current() == token {
            let last = accepted.token.replace(token.clone());
            accepted.changes += u64::from(last.is_some());
        }
    }

    /// The last token that was accepted, if it is not this one.
    fn accepted_before(&self, token: &HeaderValue) -> Option<HeaderValue> {
        lock(&self.accepted).token.clone().filter(|last| last != token)
    }
}

/// Reads the token in a file.
///
/// # Errors
/// The reason why it cannot be used, which never shows the content.
pub fn read(path: &Path) -> Result<HeaderValue, String> {
    let bytes = os::read_file(path, MAX_BYTES).map_err(|error| error.to_string())?;
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err("it has no token".to_owned());
    }
    let is_token = text.iter().all(u8::is_ascii_graphic);
    let token = HeaderValue::from_bytes(text).ok().filter(|_| is_token);
    let mut token = token.ok_or_else(|| {
        "its content is not a token: one line of visible ASCII characters".to_owned()
    })?;
    token.set_sensitive(true);
    Ok(token)
}

/// A transport that adds the token of a file to requests without a token.
#[derive(Debug)]
pub struct WithTokenFile {
    /// Sends the requests.
    pub transport: Arc<dyn Transport>,
    /// Has the token.
    pub file: Arc<TokenFile>,
}

impl WithTokenFile {
    async fn exchange(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        if request.headers().contains_key(TOKEN) {
            return self.transport.send(request).await;
        }
        let read = self.file.file.current();
        let mut token = read.clone();
        let mut response = self.send_with(&mut request, &token).await?;
        // The token may have been replaced, and the old one deleted, since the last read. A request
        // that was refused for its token was not applied.
        if is_refusal(&response)
            && let Some(new) = self.file.other_than(&token)
        {
            token = new;
            response = self.send_with(&mut request, &token).await?;
        }
        if !is_refusal(&response) {
            self.file.accepts(&token);
        } else if says(&response, UNKNOWN)
            && let Some(last) = self.file.accepted_before(&token).filter(|last| *last != read)
        {
            // A server that lags behind, or is in another datacenter, learns of a new token later.
            let of_last = self.send_with(&mut request, &last).await?;
            if !is_refusal(&of_last) {
                return Ok(of_last);
            }
        }
        Ok(response)
    }

    async fn send_with(
        &self,
        request: &mut Request<Bytes>,
        token: &HeaderValue,
    ) -> Result<Response<Bytes>, Error> {
        request.headers_mut().insert(TOKEN, token.clone());
        self.transport.send(request.clone()).await
    }
}

/// Consul's words about a token that it does not know.
const UNKNOWN: &str = "ACL not found";

fn says(response: &Response<Bytes>, text: &str) -> bool {
    response.body().windows(text.len()).any(|words| words == text.as_bytes())
}

fn is_refusal(response: &Response<Bytes>) -> bool {
    match response.status() {
        StatusCode::FORBIDDEN => true,
        // Some endpoints of Consul 1.8.7.
        StatusCode::INTERNAL_SERVER_ERROR => says(response, UNKNOWN),
        // An operation of a transaction.
        StatusCode::CONFLICT => says(response, "Permission denied"),
        _ => false,
    }
}

impl Transport for WithTokenFile {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(self.exchange(request))
    }

    fn max_in_flight(&self) -> usize {
        self.transport.max_in_flight()
    }

    fn close_idle(&self) {
        self.transport.close_idle();
    }

    fn close(&self) {
        self.transport.close();
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }

    fn expiry(&self) -> Option<Expiry> {
        self.transport.expiry()
    }

    fn token_changes(&self) -> Option<u64> {
        Some(lock(&self.file.accepted).changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consul_process::clock::ManualClock;
    use futures_util::FutureExt;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    const MAX_AGE: Duration = Duration::from_secs(1);

    /// An agent that knows some tokens, and refuses others with a given answer.
    #[derive(Debug)]
    struct Agent {
        knows: Mutex<Vec<&'static str>>,
        status: u16,
        body: &'static str,
        sent: Mutex<Vec<String>>,
        closings: AtomicU32,
    }

    impl Transport for Agent {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
            let token = request.headers()[TOKEN].to_str().unwrap().to_owned();
            let is_known = self.knows.lock().unwrap().contains(&token.as_str());
            self.sent.lock().unwrap().push(token);
            let (status, body) = if is_known { (200, "true") } else { (self.status, self.body) };
            let response = Response::builder().status(status).body(Bytes::from(body)).unwrap();
            Box::pin(async { Ok(response) })
        }

        fn close_idle(&self) {
            self.closings.fetch_add(1, Ordering::Relaxed);
        }

        fn endpoint(&self) -> &str {
            "scripted"
        }
    }

    struct World {
        path: PathBuf,
        clock: ManualClock,
        agent: Arc<Agent>,
        transport: WithTokenFile,
    }

    impl World {
        fn new(knows: &[&'static str], status: u16, body: &'static str) -> World {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("consul_ffi-token-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, "first\n").unwrap();
            let clock = ManualClock::new();
            let file = TokenFile::open(&path, Arc::new(clock.clone())).unwrap();
            let agent = Arc::new(Agent {
                knows: Mutex::new(knows.to_vec()),
                status,
                body,
                sent: Mutex::default(),
                closings: AtomicU32::new(0),
            });
            let transport = Arc::clone(&agent) as Arc<dyn Transport>;
            World { path, clock, agent, transport: WithTokenFile { transport, file } }
        }

        fn holds(&self, content: &str) {
            fs::write(&self.path, content).unwrap();
        }

        /// The status of a request's answer, and the tokens that it was sent with.
        fn status(&self) -> (u16, Vec<String>) {
            let request = Request::new(Bytes::new());
            let response = self.transport.send(request).now_or_never().unwrap().unwrap();
            (response.status().as_u16(), std::mem::take(&mut self.agent.sent.lock().unwrap()))
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn tokens(tokens: &[&str]) -> Vec<String> {
        tokens.iter().map(|token| (*token).to_owned()).collect()
    }

    #[test]
    fn a_token_that_was_replaced_and_deleted_costs_no_failed_call() {
        let txn = r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#;
        for (status, body) in
            [(403, "ACL not found"), (403, "Permission denied"), (409, txn), (500, "ACL not found")]
        {
            let world = World::new(&["second"], status, body);
            assert_eq!(world.status(), (status, tokens(&["first"])));
            world.holds("second");
            assert_eq!(world.status(), (200, tokens(&["first", "second"])));
            assert_eq!(world.status(), (200, tokens(&["second"])));
        }
    }

    #[test]
    fn a_new_token_is_taken_up_a_second_later_also_while_the_old_one_works() {
        let world = World::new(&["first", "second"], 403, "");
        world.holds("  second \n");
        world.clock.advance(MAX_AGE - Duration::from_nanos(1));
        assert_eq!(world.status(), (200, tokens(&["first"])));
        world.clock.advance(Duration::from_nanos(1));
        assert_eq!(world.status(), (200, tokens(&["second"])));
    }

    /// As by a server that lags behind, or one in another datacenter.
    #[test]
    fn the_last_token_serves_until_consul_knows_the_new_one() {
        for (status, body, is_unknown) in [
            (403, "ACL not found", true),
            (500, "ACL not found", true),
            (403, "Permission denied", false),
        ] {
            let world = World::new(&["first"], status, body);
            assert_eq!(world.status(), (200, tokens(&["first"])));
            world.holds("second");
            world.clock.advance(MAX_AGE);
            for _ in 0..2 {
                let answered = match is_unknown {
                    true => (200, tokens(&["second", "first"])),
                    // It is known, and lacks a right.
                    false => (status, tokens(&["second"])),
                };
                assert_eq!(world.status(), answered, "{status} {body}");
                assert_eq!(world.transport.token_changes(), Some(0));
            }
            world.agent.knows.lock().unwrap().push("second");
            assert_eq!(world.status(), (200, tokens(&["second"])));
            assert_eq!(world.transport.token_changes(), Some(1));
            world.agent.knows.lock().unwrap().clear();
            assert_eq!(world.status(), (status, tokens(&["second"])), "the one before has ended");
        }
        let world = World::new(&["first"], 403, "ACL not found");
        world.status();
        world.holds("second");
        world.agent.knows.lock().unwrap().clear();
        assert_eq!(world.status(), (403, tokens(&["first", "second"])), "both are unknown");
    }

    #[test]
    fn a_failure_that_is_not_the_tokens_is_not_sent_again() {
        for (status, body) in [(500, "No cluster leader"), (409, r#"{"Errors":[{"What":"x"}]}"#)] {
            let world = World::new(&[], status, body);
            world.holds("second");
            assert_eq!(world.status(), (status, tokens(&["first"])));
        }
    }

    #[test]
    fn the_last_token_stays_while_the_file_has_none() {
        let world = World::new(&["first", "third"], 403, "");
        for content in [Some(""), Some("two\nlines"), None] {
            match content {
                Some(content) => world.holds(content),
                None => fs::remove_file(&world.path).unwrap(),
            }
            world.clock.advance(MAX_AGE);
            assert_eq!(world.status(), (200, tokens(&["first"])), "{content:?}");
        }
        world.holds("third");
        world.clock.advance(MAX_AGE);
        assert_eq!(world.status(), (200, tokens(&["third"])));
    }

    #[test]
    fn the_endpoint_and_its_connections_are_those_of_the_transport() {
        let world = World::new(&["first"], 403, "");
        assert_eq!(world.transport.endpoint(), "scripted");
        world.transport.close_idle();
        assert_eq!(world.agent.closings.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_token_of_a_call_wins() {
        let world = World::new(&["own"], 403, "");
        let request = Request::builder().header(TOKEN, "own").body(Bytes::new()).unwrap();
        let response = world.transport.send(request).now_or_never().unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }

    #[test]
    fn a_file_without_a_token_is_refused_without_showing_what_it_holds() {
        let world = World::new(&[], 403, "");
        let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
        for content in ["", " \n", "s3cret\nlines", "s3cret\u{7f}", "\u{feff}s3cret"] {
            world.holds(content);
            let error = TokenFile::open(&world.path, Arc::clone(&clock)).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.message().starts_with("token_file: "), "{error}");
            assert!(!error.message().contains("s3cret"), "{error}");
        }
        let error = TokenFile::open(Path::new("/dev/null"), Arc::clone(&clock)).unwrap_err();
        assert!(error.message().contains("/dev/null: it is not a regular file"), "{error}");
        let error = TokenFile::open(Path::new("/no/such/file"), clock).unwrap_err();
        assert!(error.message().contains("/no/such/file: No such file"), "{error}");
    }

    #[test]
    fn no_debug_text_shows_the_token() {
        let world = World::new(&[], 403, "");
        world.holds("s3cret");
        world.clock.advance(MAX_AGE);
        world.status();
        assert!(!format!("{:?}", world.transport.file).contains("s3cret"));
    }
}
