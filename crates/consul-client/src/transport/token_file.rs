//! A token in a file, where another program can replace it. Each request gets the current one.

use super::Transport;
use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_process::clock::{BoxFuture, Clock};
use consul_process::files::FromFiles;
use consul_process::os;
use std::path::Path;
use std::sync::Arc;

/// The largest file that is read. A token and the white space around it are far shorter.
const MAX_BYTES: usize = 64 << 10;

/// The header with a request's token.
pub const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// A file with a token, read again at most once a second. The token is marked as sensitive, so that
/// `Debug` does not show it.
#[derive(Debug)]
pub struct TokenFile(FromFiles<HeaderValue, HeaderValue>);

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
        Ok(Arc::new(Self(file?)))
    }

    /// Reads the file now; returns its token if it is not the refused one.
    fn other_than(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        Some(self.0.newest()).filter(|token| token != refused)
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
        let token = self.file.0.current();
        request.headers_mut().insert(TOKEN, token.clone());
        let response = self.transport.send(request.clone()).await?;
        // The token may have been replaced, and the old one deleted, since the last read. A request
        // that was refused for its token was not applied.
        match is_refusal(&response).then(|| self.file.other_than(&token)).flatten() {
            Some(new) => {
                request.headers_mut().insert(TOKEN, new);
                self.transport.send(request).await
            }
            None => Ok(response),
        }
    }
}

fn is_refusal(response: &Response<Bytes>) -> bool {
    let says = |text: &str| {
        let text = text.as_bytes();
        response.body().windows(text.len()).any(|words| words == text)
    };
    match response.status() {
        StatusCode::FORBIDDEN => true,
        // Some endpoints of Consul 1.8.7.
        StatusCode::INTERNAL_SERVER_ERROR => says("ACL not found"),
        // An operation of a transaction.
        StatusCode::CONFLICT => says("Permission denied"),
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

    fn token_changes(&self) -> Option<u64> {
        Some(self.file.0.changes())
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
