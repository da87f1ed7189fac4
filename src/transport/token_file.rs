//! A token that is in a file, where others replace it: each request gets the one that is there.

use super::Transport;
use crate::clock::{BoxFuture, Clock, Instant};
use crate::error::{Error, Kind};
use crate::sync::lock;
use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How old what is known of the file may be when a request is made.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is read of the file; a token and the white space around it are far shorter.
const MOST_BYTES: u64 = 64 << 10;

/// The header that a token travels in.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// A file that holds a token.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

/// What was read last.
#[derive(Debug)]
struct Known {
    /// It is marked as sensitive, so that no `Debug` text shows it.
    token: HeaderValue,
    looked: Instant,
    is_readable: bool,
}

impl TokenFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// [`Kind::Config`] when it cannot be read or holds no token.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>, Error> {
        let token = read(path).map_err(|why| {
            let message = format!("token_file: {}: {why}", path.display());
            Error::new(Kind::Config, message).not_sent()
        })?;
        let known = Mutex::new(Known { token, looked: clock.now(), is_readable: true });
        Ok(Arc::new(Self { path: path.to_owned(), clock, known }))
    }

    /// The token, as the file had it a moment ago.
    fn token(&self) -> HeaderValue {
        let mut known = self.known();
        if self.clock.now() - known.looked >= LOOK_EVERY {
            self.look(&mut known);
        }
        known.token.clone()
    }

    /// The token that the file has now, when it is not the one that was refused.
    fn other_than(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let mut known = self.known();
        self.look(&mut known);
        (known.token != *refused).then(|| known.token.clone())
    }

    fn look(&self, known: &mut Known) {
        let path = self.path.display();
        known.looked = self.clock.now();
        match read(&self.path) {
            Ok(token) => {
                if token != known.token {
                    tracing::info!(%path, "the file of the token holds a new one");
                }
                known.token = token;
                known.is_readable = true;
            }
            Err(why) => {
                if known.is_readable {
                    tracing::warn!(%path, %why, "the file of the token cannot be used: the last one stays");
                }
                known.is_readable = false;
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

/// The token in a file; else why there is none.
pub(crate) fn read(path: &Path) -> Result<HeaderValue, String> {
    // To open a pipe could wait for ever for somebody to write into it.
    if !fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err("it holds no token".to_owned());
    }
    let is_token = text.iter().all(u8::is_ascii_graphic);
    let token = HeaderValue::from_bytes(text).ok().filter(|_| is_token);
    let mut token = token.ok_or_else(|| "what it holds is no token".to_owned())?;
    token.set_sensitive(true);
    Ok(token)
}

/// A transport whose requests carry the token of a file, unless they have one of their own.
#[derive(Debug)]
pub struct WithTokenFile {
    /// What carries the requests.
    pub transport: Arc<dyn Transport>,
    /// Where their token is.
    pub file: Arc<TokenFile>,
}

impl WithTokenFile {
    async fn exchange(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        if request.headers().contains_key(TOKEN) {
            return self.transport.send(request).await;
        }
        let token = self.file.token();
        request.headers_mut().insert(TOKEN, token.clone());
        let response = self.transport.send(request.clone()).await?;
        // The token may have been replaced, and the old one deleted, since the last look. What was
        // refused for its token was not applied.
        match is_refusal(&response).then(|| self.file.other_than(&token)).flatten() {
            Some(new) => {
                request.headers_mut().insert(TOKEN, new);
                self.transport.send(request).await
            }
            None => Ok(response),
        }
    }
}

/// Whether an answer refuses the token.
fn is_refusal(response: &Response<Bytes>) -> bool {
    const UNKNOWN: &[u8] = b"ACL not found";
    match response.status() {
        StatusCode::FORBIDDEN => true,
        // Some endpoints of 1.8.7.
        StatusCode::INTERNAL_SERVER_ERROR => {
            response.body().windows(UNKNOWN.len()).any(|words| words == UNKNOWN)
        }
        _ => false,
    }
}

impl Transport for WithTokenFile {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Error>> {
        Box::pin(self.exchange(request))
    }

    fn endpoint(&self) -> &str {
        self.transport.endpoint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use futures_util::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// An agent that knows some tokens, and refuses others as it was told to.
    #[derive(Debug)]
    struct Agent {
        knows: Mutex<Vec<&'static str>>,
        status: u16,
        body: &'static str,
        sent: Mutex<Vec<String>>,
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
        for (status, body) in
            [(403, "ACL not found"), (403, "Permission denied"), (500, "ACL not found")]
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
        world.clock.advance(LOOK_EVERY - Duration::from_nanos(1));
        assert_eq!(world.status(), (200, tokens(&["first"])));
        world.clock.advance(Duration::from_nanos(1));
        assert_eq!(world.status(), (200, tokens(&["second"])));
    }

    #[test]
    fn a_failure_that_is_not_the_tokens_is_not_sent_again() {
        let world = World::new(&[], 500, "No cluster leader");
        world.holds("second");
        assert_eq!(world.status(), (500, tokens(&["first"])));
    }

    #[test]
    fn the_last_token_stays_while_the_file_has_none() {
        let world = World::new(&["first", "third"], 403, "");
        for content in [Some(""), Some("two\nlines"), None] {
            match content {
                Some(content) => world.holds(content),
                None => fs::remove_file(&world.path).unwrap(),
            }
            world.clock.advance(LOOK_EVERY);
            assert_eq!(world.status(), (200, tokens(&["first"])), "{content:?}");
        }
        world.holds("third");
        world.clock.advance(LOOK_EVERY);
        assert_eq!(world.status(), (200, tokens(&["third"])));
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
        assert!(error.message().contains("/dev/null: it is no regular file"), "{error}");
        let error = TokenFile::open(Path::new("/no/such/file"), clock).unwrap_err();
        assert!(error.message().contains("/no/such/file: No such file"), "{error}");
    }

    #[test]
    fn no_debug_text_shows_the_token() {
        let world = World::new(&[], 403, "");
        world.holds("s3cret");
        world.clock.advance(LOOK_EVERY);
        world.status();
        assert!(!format!("{:?}", world.transport.file).contains("s3cret"));
    }
}
