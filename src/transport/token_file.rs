//! A token that is in a file, where others replace it: each request gets the one that is there.

use super::Transport;
use crate::clock::{BoxFuture, Clock, Instant};
use crate::error::{Error, Kind};
use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How old what is known of the file may be when a request is made.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

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
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<HeaderValue, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err("it holds no token".to_owned());
    }
    let token = HeaderValue::from_bytes(text);
    let mut token = token.map_err(|_| "what it holds is no token".to_owned())?;
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
