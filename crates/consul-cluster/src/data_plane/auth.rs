//! Signatures which prove that both ends of a connection have the cluster's key.
//!
//! The receiver makes a nonce for each connection, and the caller numbers its requests on it and adds a
//! nonce to each. A request's signature covers all three, and a reply's signature covers that of its
//! request, so a recorded message is of no use on this or any other connection.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use consul_api::error::{Error, Kind};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use std::fmt;

/// The least length of a secret; a shorter one can be guessed from one signed request.
pub const MIN_SECRET_BYTES: usize = 16;

/// The most secrets of a key. Each signs a request, and no more signatures are verified.
pub const MAX_SECRETS: usize = 8;

/// A cluster's key: one secret, or several while it is rotated. Its `Debug` output does not show a secret.
#[derive(Clone)]
pub struct ClusterKey {
    secrets: Vec<hmac::Key>,
    is_too_short: bool,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl ClusterKey {
    /// Derives the key from a secret.
    pub fn new(secret: &str) -> Self {
        let secrets = vec![hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())];
        ClusterKey { secrets, is_too_short: secret.len() < MIN_SECRET_BYTES }
    }

    /// The same key with one more secret: that of nodes which have not rotated their key yet, or have
    /// already.
    #[must_use]
    pub fn with(mut self, secret: &str) -> Self {
        let other = ClusterKey::new(secret);
        self.secrets.extend(other.secrets);
        self.is_too_short |= other.is_too_short;
        self
    }

    /// Whether a secret has fewer than [`MIN_SECRET_BYTES`] bytes.
    pub fn is_too_short(&self) -> bool {
        self.is_too_short
    }

    /// How many secrets it has.
    pub fn secrets(&self) -> usize {
        self.secrets.len()
    }

    /// A signature with each secret, since the receiver may have any one of them.
    pub(super) fn sign(&self, text: &str) -> String {
        let signatures =
            self.secrets.iter().map(|it| BASE64.encode(hmac::sign(it, text.as_bytes())));
        signatures.collect::<Vec<_>>().join(",")
    }

    /// The key with only the secret that has made one of the signatures.
    pub(super) fn signer(&self, text: &str, signatures: &str) -> Option<ClusterKey> {
        let signatures = signatures.split(',').take(MAX_SECRETS);
        let signatures: Vec<_> = signatures.filter_map(|it| BASE64.decode(it).ok()).collect();
        let has_signed = |secret: &&hmac::Key| {
            signatures.iter().any(|it| hmac::verify(secret, text.as_bytes(), it).is_ok())
        };
        let secret = self.secrets.iter().find(has_signed)?.clone();
        Some(ClusterKey { secrets: vec![secret], is_too_short: self.is_too_short })
    }
}

/// 16 random bytes in Base64.
pub(super) fn nonce() -> Result<String, Error> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| {
        Error::new(Kind::Config, "the system's random number generator failed").not_sent()
    })?;
    Ok(BASE64.encode(bytes))
}

/// The digest that is signed in place of the body, so that a signature can be checked before the body
/// is read.
pub(super) fn digest(body: &[u8]) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, body))
}
