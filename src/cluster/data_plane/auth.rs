//! The proof that both ends of a connection have the cluster's key.
//!
//! The receiver makes a nonce for each connection, and the sender counts its requests there. What is
//! signed has both, so what was heard on a connection is of no use on it or on any other.

use crate::error::{Error, Kind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use std::fmt;

/// The shortest secret in bytes: shorter ones can be guessed from one signed request.
pub const SHORTEST_SECRET: usize = 16;

/// A cluster's key, which shows nothing of itself.
#[derive(Clone)]
pub struct ClusterKey {
    key: hmac::Key,
    is_too_short: bool,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl ClusterKey {
    /// The key that a secret stands for.
    pub fn new(secret: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        ClusterKey { key, is_too_short: secret.len() < SHORTEST_SECRET }
    }

    /// Whether the secret has fewer than [`SHORTEST_SECRET`] bytes.
    pub fn is_too_short(&self) -> bool {
        self.is_too_short
    }

    pub(super) fn sign(&self, text: &str) -> String {
        BASE64.encode(hmac::sign(&self.key, text.as_bytes()))
    }

    pub(super) fn has_signed(&self, text: &str, signature: &str) -> bool {
        let signature = BASE64.decode(signature);
        signature.is_ok_and(|it| hmac::verify(&self.key, text.as_bytes(), &it).is_ok())
    }
}

/// What nobody can guess and nobody had before.
pub(super) fn nonce() -> Result<String, Error> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::new(Kind::Config, "the system has no random numbers").not_sent())?;
    Ok(BASE64.encode(bytes))
}

/// What stands for a body in the text that is signed, so that a signature can be checked before the
/// body is read.
pub(super) fn digest(body: &[u8]) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, body))
}
