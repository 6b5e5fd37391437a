//! Device tokens: a device's signed word for one request, good for this request alone.
//!
//! A token is a JWT signed with EdDSA (RFC 7519, 8037): `base64url(header).base64url(claims).base64url(signature)`. Invariant:
//! whoever verifies takes the algorithm and the key from itself, never from the token: the header must be ours to the byte, and
//! the key is looked up by whom the token says it is from. What is signed begins with `eyJ`, so no token is ever the bytes of
//! a checkpoint or certificate, which the same key signs and which begin with `{`. Knows no clock and no list of devices.

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::ledger::{PublicKey, Signature};
use crate::model::Hash;

/// How long a token is good, in seconds.
pub const LIFETIME_SECONDS: u64 = 300;
/// Longer tokens are refused, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;
const SIGNATURE_BYTES: usize = 64;

/// What a device says of one request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The server's id, as learnt at pairing.
    pub aud: String,
    /// The hash of the body; of no bytes if there is none.
    pub body: Hash,
    /// What the server drew when it started.
    pub epoch: String,
    /// Not good any more from here on, in seconds since 1970 by the server's clock.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// The visitor and the number of the request, never used twice.
    pub jti: Nonce,
    /// `GET`, `PUT`.
    pub method: String,
    /// The device's key.
    pub sub: PublicKey,
    /// Path and query, as they are sent.
    pub target: String,
}

/// Names one request of one visitor. Text: `<32 hex digits>.<number>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce {
    /// Who visits: drawn when a handle is opened.
    pub visitor: String,
    /// Counts the requests of the visitor, from 1.
    pub number: u64,
}

impl TryFrom<String> for Nonce {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Nonce, &'static str> {
        let parsed = text.split_once('.').and_then(|(visitor, number)| {
            let plain = visitor.len() == 32 && visitor.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let nonce = Nonce { visitor: visitor.to_owned(), number: number.parse().ok()? };
            (plain && String::from(nonce.clone()) == text).then_some(nonce)
        });
        parsed.ok_or("a nonce has 32 hex digits, a dot and a number")
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> String {
        format!("{}.{}", nonce.visitor, nonce.number)
    }
}

/// Signs the claims. The text holds no secret once the request was made, and is worth something only until then.
pub fn mint(key: &SigningKey, claims: &Claims) -> String {
    let claims = serde_json::to_vec(claims).expect("texts and numbers always serialise");
    let signed = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(&claims));
    let signature = Signature::make(key, signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_bytes()))
}

/// The claims of a token that the device it names has signed; `None` for anything else.
///
/// Whether that device is known, and whether the claims fit the request, is for the caller to say.
pub fn verify(token: &str) -> Option<Claims> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    if BASE64URL_NOPAD.decode(header.as_bytes()).ok()? != HEADER.as_bytes() {
        return None;
    }
    let claims: Claims = serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()?;
    let signature: [u8; SIGNATURE_BYTES] = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?.try_into().ok()?;
    claims.sub.verifies(signed.as_bytes(), &Signature::from_bytes(signature)).then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(key: &SigningKey) -> Claims {
        Claims {
            aud: "server".into(),
            body: Hash::of(b""),
            epoch: "e".into(),
            exp: 1300,
            iat: 1000,
            jti: Nonce { visitor: "0123456789abcdef".repeat(2), number: 7 },
            method: "GET".into(),
            sub: PublicKey::of(key),
            target: "/v1/app/x".into(),
        }
    }

    fn part(bytes: &[u8]) -> String {
        BASE64URL_NOPAD.encode(bytes)
    }

    #[test]
    fn what_was_minted_is_verified_and_nothing_else_is() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let good = claims(&key);
        let token = mint(&key, &good);

        assert_eq!(verify(&token), Some(good.clone()));
        assert_eq!(verify(&mint(&other, &good)), None, "signed by another key than it names");
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(verify(&String::from_utf8(bytes).expect("text")), None, "byte {at}");
        }
        for cut in 0..token.len() {
            assert_eq!(verify(&token[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_header_of_its_own_choice_is_not_believed() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let body = part(&serde_json::to_vec(&claims(&key)).expect("json"));
        for header in
            [r#"{"alg":"none"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"alg":"EdDSA","typ":"JWT","kid":"x"}"#]
        {
            let signed = format!("{}.{body}", part(header.as_bytes()));
            let signature = part(Signature::make(&key, signed.as_bytes()).as_bytes());
            assert_eq!(verify(&format!("{signed}.{signature}")), None, "{header}");
            assert_eq!(verify(&format!("{signed}.")), None, "{header}");
        }
    }

    #[test]
    fn a_nonce_has_one_spelling() {
        let visitor = "ab".repeat(16);
        for bad in
            [format!("{visitor}.07"), format!("{visitor}.+7"), format!("{visitor}."), visitor.clone(), "x.1".into()]
        {
            assert!(Nonce::try_from(bad.clone()).is_err(), "{bad}");
        }
        assert_eq!(Nonce::try_from(format!("{visitor}.7")).expect("a nonce").number, 7);
    }
}
