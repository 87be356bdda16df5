//! The signatures of tokens, checked by `ring`: the one crypto library that the rest of this program has already.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use ring::{error::Unspecified, hmac};

/// What `jsonwebtoken` checks signatures with. Nothing is ever signed here.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(Error::from(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: verifier,
    // They are of use to whoever makes keys public.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes signatures checkable in this process; before that, every check would panic.
pub fn install() {
    // The second time it is there already.
    RING.install_default().unwrap_or_default();
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if key.family() != family(*algorithm)? {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(Check {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

/// The four algorithms that are known, and the family of key that each takes.
fn family(algorithm: Algorithm) -> Result<jsonwebtoken::AlgorithmFamily, Error> {
    use jsonwebtoken::AlgorithmFamily::{Ec, Ed, Hmac, Rsa};
    match algorithm {
        Algorithm::HS256 => Ok(Hmac),
        Algorithm::RS256 => Ok(Rsa),
        Algorithm::ES256 => Ok(Ec),
        Algorithm::EdDSA => Ok(Ed),
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    }
}

struct Check {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Check {
    fn holds(&self, message: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match (self.algorithm, self.key.kind()) {
            (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => hmac::verify(
                &hmac::Key::new(hmac::HMAC_SHA256, secret),
                message,
                signature,
            ),
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(
                    &RSA_PKCS1_2048_8192_SHA256,
                    message,
                    signature,
                )
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature)
            }
            _ => Err(Unspecified),
        }
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.holds(message, signature)
            .map_err(|Unspecified| signature::Error::new())
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
