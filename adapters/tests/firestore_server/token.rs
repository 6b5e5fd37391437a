//! The token service beside it: it gives a token only for a signature that the account's own key made, within its time.
//!
//! Invariant: a token lasts as long as was said and is known to the server that gave it alone.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

/// What an account's file says, and what proves its signatures.
pub struct ServiceAccount {
    public: Vec<u8>,
    pem: String,
}

impl Default for ServiceAccount {
    fn default() -> ServiceAccount {
        ServiceAccount::new()
    }
}

impl ServiceAccount {
    /// Makes a key.
    pub fn new() -> ServiceAccount {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: Pkcs8V1Der<'_> = key.as_der().expect("its form");
        let body = BASE64.encode(der.as_ref());
        let (lead, tail) =
            (["-----BEGIN", "PRIVATE", "KEY-----"].join(" "), ["-----END", "PRIVATE", "KEY-----"].join(" "));
        ServiceAccount { public: key.public_key().as_ref().to_vec(), pem: format!("{lead}\n{body}\n{tail}\n") }
    }

    /// The text of the file, with the token service at `token_uri`.
    pub fn file(&self, project: &str, token_uri: &str) -> String {
        json!({
            "type": "service_account", "project_id": project, "private_key_id": "k1", "private_key": self.pem,
            "client_email": "larder@lab.example", "client_id": "1", "token_uri": token_uri,
        })
        .to_string()
    }

    /// Whether an assertion is signed by this key, for this audience and scope, and for now. The sentence says why not.
    pub fn check(&self, assertion: &str, audience: &str, scope: &str, ahead_secs: i64) -> Result<(), &'static str> {
        let claims = self.claims(assertion, ahead_secs)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let is_meant = text("aud") == audience && text("scope").split(' ').any(|granted| granted.ends_with(scope));
        if is_meant { Ok(()) } else { Err("wrong audience or scope") }
    }

    /// What a token says that this account's key signed, for now.
    pub fn claims(&self, token: &str, ahead_secs: i64) -> Result<Value, &'static str> {
        let (signed, signature) = token.rsplit_once('.').ok_or("no assertion")?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| "no base64")?;
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public);
        key.verify(signed.as_bytes(), &signature).map_err(|_| "Invalid JWT Signature.")?;
        let claims = signed.split('.').nth(1).ok_or("no claims")?;
        let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).map_err(|_| "no base64")?;
        let claims: Value = serde_json::from_slice(&claims).map_err(|_| "no JSON")?;
        let number = |name: &str| claims.get(name).and_then(Value::as_i64).unwrap_or(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64 + ahead_secs;
        let in_time =
            (number("iat") - now).abs() < 300 && number("exp") - number("iat") <= 3_600 && now < number("exp");
        if !in_time {
            return Err("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
        }
        if claims.get("iss").and_then(Value::as_str) != Some("larder@lab.example") {
            return Err("wrong issuer");
        }
        Ok(claims)
    }
}
