//! The cryptography of TLS: ring's, and keys of P-521, which ring does not have and an authority of Consul's mesh can
//! have (`private_key_bits = 521`).

use p521::SecretKey;
use p521::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use p521::ecdsa::{Signature, SigningKey as OwnKey, VerifyingKey};
use p521::pkcs8::DecodePrivateKey as _;
use ring::digest::{self, SHA256, SHA384, SHA512, digest};
use rustls::crypto::{CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms, ring as rings};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, alg_id,
};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// The cryptography of TLS: for connections to Consul, and between nodes.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let own = rings::default_provider();
        Arc::new(CryptoProvider {
            signature_verification_algorithms: algorithms(own.signature_verification_algorithms),
            key_provider: &Keys,
            ..own
        })
    });
    Arc::clone(&PROVIDER)
}

/// ECDSA with a key of P-521 and this hash.
struct Verification {
    hash: &'static digest::Algorithm,
    id: AlgorithmIdentifier,
}

static P521: [&dyn SignatureVerificationAlgorithm; 3] = [
    &Verification { hash: &SHA256, id: alg_id::ECDSA_SHA256 },
    &Verification { hash: &SHA384, id: alg_id::ECDSA_SHA384 },
    &Verification { hash: &SHA512, id: alg_id::ECDSA_SHA512 },
];

type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// These and P-521's. TLS 1.3 takes the first one of a scheme. In TLS 1.2 a scheme of ECDSA says the hash alone, so
/// that its key can be of any curve.
///
/// Source: RFC 8446, 4.2.3.
fn algorithms(own: WebPkiSupportedAlgorithms) -> WebPkiSupportedAlgorithms {
    let with =
        |own: Algorithms, more: Algorithms| -> Algorithms { Vec::leak([own, more].concat()) };
    let in_tls12 = |scheme| -> Algorithms {
        match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => &P521[..1],
            SignatureScheme::ECDSA_NISTP384_SHA384 => &P521[1..2],
            _ => &[],
        }
    };
    let own_mapping = own.mapping.iter();
    let mut mapping: Vec<_> =
        own_mapping.map(|(scheme, of)| (*scheme, with(of, in_tls12(*scheme)))).collect();
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, &P521[2..]));
    WebPkiSupportedAlgorithms { all: with(own.all, &P521), mapping: Vec::leak(mapping) }
}

/// A hash as a number with as many bytes as the curve's, the form that is verified.
fn hashed(hash: &'static digest::Algorithm, message: &[u8]) -> [u8; 66] {
    let (found, mut padded) = (digest(hash, message), [0; 66]);
    padded[66 - found.as_ref().len()..].copy_from_slice(found.as_ref());
    padded
}

impl SignatureVerificationAlgorithm for Verification {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        let verified = key.verify_prehash(&hashed(self.hash, message), &signature);
        verified.map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.id
    }
}

impl fmt::Debug for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ECDSA with P-521 and {:?}", self.hash)
    }
}

/// Reads private keys: ring's, and P-521's.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let read = match &key {
            PrivateKeyDer::Pkcs8(key) => SecretKey::from_pkcs8_der(key.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Sec1(key) => SecretKey::from_sec1_der(key.secret_sec1_der()).ok(),
            _ => None,
        };
        match read.and_then(|key| OwnKey::from_bytes(&key.to_bytes()).ok()) {
            Some(key) => Ok(Arc::new(Key(Arc::new(key)))),
            None => rings::default_provider().key_provider.load_private_key(key),
        }
    }
}

/// A private key of P-521.
#[derive(Clone)]
struct Key(Arc<OwnKey>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<a key of P-521>")
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme()).then(|| Box::new(self.clone()) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let point = VerifyingKey::from(&*self.0).to_encoded_point(false);
        Some(public_key_to_spki(&alg_id::ECDSA_P521, point.as_bytes()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: Result<Signature, _> = self.0.sign_prehash(&hashed(&SHA512, message));
        let signature = signature.map_err(|error| Error::General(error.to_string()))?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_tls12_a_scheme_of_ecdsa_takes_a_key_of_p521_too_and_in_tls13_its_own_alone() {
        let algorithms = provider().signature_verification_algorithms;
        let is_p521 =
            |it: &&dyn SignatureVerificationAlgorithm| it.public_key_alg_id() == alg_id::ECDSA_P521;
        let hashes = [
            (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256, false),
            (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384, false),
            (SignatureScheme::ECDSA_NISTP521_SHA512, alg_id::ECDSA_SHA512, true),
        ];
        for (scheme, of_hash) in algorithms.mapping {
            let of_p521: Vec<_> = of_hash.iter().filter(|it| is_p521(it)).collect();
            match hashes.iter().find(|(known, ..)| known == scheme) {
                None => assert!(of_p521.is_empty(), "{scheme:?}"),
                Some((_, hash, is_first)) => {
                    assert_eq!(of_p521.len(), 1, "{scheme:?}");
                    assert_eq!(of_p521[0].signature_alg_id(), *hash);
                    assert_eq!(is_p521(&of_hash[0]), *is_first, "{scheme:?}");
                }
            }
        }
        let has = |(wanted, ..): &(SignatureScheme, _, _)| {
            algorithms.mapping.iter().any(|(scheme, _)| scheme == wanted)
        };
        assert!(hashes.iter().all(has));
    }
}
