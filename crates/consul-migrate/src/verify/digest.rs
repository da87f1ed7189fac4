//! Digests, which tell whether two sides, or two looks at one side, have the same keys with the same values.

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use serde::{Deserialize, Serialize};

/// The digests of both sides, in hexadecimal digits: SHA-256 of `SHA-256(key) SHA-256(value)` of each key of Consul, one
/// after the other, in the order of the keys' bytes; those below `_etcd/` are after all others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Digests {
    /// Of what etcd has for Consul.
    pub etcd: String,
    /// Of what Consul has.
    pub consul: String,
}

/// The addition of one key to a digest.
pub(crate) fn of(key: &str, value: &[u8]) -> [u8; 2 * SHA256_OUTPUT_LEN] {
    let mut both = [0; 2 * SHA256_OUTPUT_LEN];
    let (of_key, of_value) = both.split_at_mut(SHA256_OUTPUT_LEN);
    of_key.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    of_value.copy_from_slice(digest(&SHA256, value).as_ref());
    both
}

/// The digests that are being made.
pub(crate) struct Both([Context; 2]);

impl Default for Both {
    fn default() -> Self {
        Both([Context::new(&SHA256), Context::new(&SHA256)])
    }
}

impl Both {
    pub(crate) fn add(&mut self, sides: &[Vec<u8>; 2]) {
        self.0.iter_mut().zip(sides).for_each(|(context, side)| context.update(side));
    }

    pub(crate) fn end(self) -> Digests {
        let [etcd, consul] =
            self.0.map(|context| crate::mapping::hex::text(context.finish().as_ref()));
        Digests { etcd, consul }
    }
}
