//! Pairing: how a device and a server that have never met get to know each other's keys by a short code.
//!
//! A person reads the code from the server's terminal and types it at the device. Invariant: the code itself never travels: the device
//! sends a keyed hash over what it says of itself and of the line it sees, the server answers with one over what it says, so that
//! somebody between the two, who shows a certificate of its own, can neither pass the device on nor be taken for the server; and
//! 60 bits cannot be tried out in the minutes that a code is good. Pure: tries and time are counted by the server.

use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::ledger::{Certificate, PublicKey};
use crate::model::{Chain, Hash, OriginName, Space, canonical_bytes};

/// Characters of a code, five bits each.
const CODE_CHARS: usize = 12;
const CONTEXT: &str = "larder 2026-11 pairing code";
/// The line of a server that speaks without TLS.
pub const PLAIN_LINE: &str = "plain";
/// The line of a server whose certificate this machine's own roots vouch for, whatever stands before it.
pub const ROOTS_LINE: &str = "roots";

/// A code as a person reads and types it: 12 of `a-z2-7`, in groups of four.
pub struct Code(String);

impl Code {
    /// Draws one.
    pub fn draw(env: &Env) -> Code {
        Code(env.random_base32(CODE_CHARS))
    }

    /// Takes what a person typed, capitals, spaces and hyphens included; `None` if it can be no code.
    pub fn typed(text: &str) -> Option<Code> {
        let plain: String =
            text.chars().filter(|c| !c.is_whitespace() && *c != '-').flat_map(char::to_lowercase).collect();
        let sound = plain.len() == CODE_CHARS && plain.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        sound.then_some(Code(plain))
    }

    /// As it is shown.
    pub fn shown(&self) -> String {
        format!("{}-{}-{}", &self.0[..4], &self.0[4..8], &self.0[8..])
    }

    /// What proves that one knows it.
    pub fn key(&self) -> CodeKey {
        CodeKey(Hash::from_bytes(blake3::derive_key(CONTEXT, self.0.as_bytes())))
    }
}

/// Made from a code; worth as much as the code.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeKey(Hash);

impl CodeKey {
    fn proof(&self, statement: &impl Serialize) -> blake3::Hash {
        let bytes = canonical_bytes(statement).expect("texts always serialise");
        blake3::keyed_hash(self.0.as_bytes(), &bytes)
    }
}

/// What a device says to be paired.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PairRequest {
    /// The project it wants to exchange.
    pub app: String,
    /// Its owner's word for it.
    pub cert: Certificate,
    /// Its key.
    pub key: PublicKey,
    /// Its name.
    pub origin: OriginName,
    /// That its person knows the code.
    pub proof: String,
    /// 1.
    pub v: u32,
}

/// What the server says once it knows that.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PairAnswer {
    /// That it knows the code, too.
    pub proof: String,
    /// Its id: what tokens name as their audience.
    pub server: String,
    /// 1.
    pub v: u32,
}

#[derive(Serialize)]
struct RequestStatement<'a> {
    app: &'a str,
    cert: &'a Certificate,
    key: PublicKey,
    kind: &'static str,
    line: &'a str,
    origin: &'a OriginName,
    v: u32,
}

#[derive(Serialize)]
struct AnswerStatement<'a> {
    key: PublicKey,
    kind: &'static str,
    line: &'a str,
    request: &'a str,
    server: &'a str,
    v: u32,
}

impl PairRequest {
    /// Says who the device is, over a line as the device sees it.
    pub fn make(code: &CodeKey, app: &str, device: (PublicKey, &OriginName, &Certificate), line: &str) -> PairRequest {
        let (key, origin, cert) = device;
        let (app, origin, cert) = (app.to_owned(), origin.clone(), cert.clone());
        let unproven = PairRequest { app, cert, key, origin, proof: String::new(), v: 1 };
        PairRequest { proof: unproven.expected(code, line).to_hex().to_string(), ..unproven }
    }

    fn expected(&self, code: &CodeKey, line: &str) -> blake3::Hash {
        let (app, cert, key, origin) = (&*self.app, &self.cert, self.key, &self.origin);
        code.proof(&RequestStatement { app, cert, key, kind: "pair-request", line, origin, v: 1 })
    }

    /// True if the device's person knows the code and the device saw this line. Takes as long whatever is wrong.
    pub fn proves(&self, code: &CodeKey, line: &str) -> bool {
        // Hashes of this type are compared in constant time.
        blake3::Hash::from_hex(&self.proof).is_ok_and(|proof| proof == self.expected(code, line))
    }

    /// True if the owner that it names vouches for the device.
    pub fn is_certified(&self) -> bool {
        let chain = Chain { space: Space::shared(), origin: self.origin.clone(), generation: 1 };
        self.cert.check(self.key, &chain).is_ok() && self.cert.private_space().is_ok()
    }
}

impl PairAnswer {
    /// Answers a request that was proven.
    pub fn make(code: &CodeKey, request: &PairRequest, server: &str, line: &str) -> PairAnswer {
        let proof = PairAnswer::expected(code, request, server, line).to_hex().to_string();
        PairAnswer { proof, server: server.to_owned(), v: 1 }
    }

    fn expected(code: &CodeKey, request: &PairRequest, server: &str, line: &str) -> blake3::Hash {
        let (key, request) = (request.key, &*request.proof);
        code.proof(&AnswerStatement { key, kind: "pair-answer", line, request, server, v: 1 })
    }

    /// True if who answered knows the code and meant this request.
    pub fn proves(&self, code: &CodeKey, request: &PairRequest, line: &str) -> bool {
        let expected = PairAnswer::expected(code, request, &self.server, line);
        blake3::Hash::from_hex(&self.proof).is_ok_and(|proof| proof == expected)
    }
}

/// The line of a server that shows this certificate (its DER bytes).
pub fn certificate_line(certificate: &[u8]) -> String {
    Hash::of(certificate).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn code(seed: u64) -> Code {
        Code::draw(&Env::fixed(0, seed, "host", std::path::PathBuf::new()).0)
    }

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let code = code(1);
        let shown = code.shown();
        for typed in [shown.clone(), shown.to_uppercase(), shown.replace('-', ""), shown.replace('-', " \t") + "\n"] {
            assert_eq!(Code::typed(&typed).expect("a code").0, code.0, "{typed}");
        }
        for bad in ["", "abcd", "abcd-efgh-ijk1", "abcd-efgh-ijkl-m", "abcd-efgh-ijk\u{e9}"] {
            assert!(Code::typed(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_proof_is_good_for_one_code_one_line_and_one_saying_only() {
        let (owner, device) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let origin: OriginName = "laptop-abc234".parse().expect("a name");
        let cert = Certificate::issue(&owner, "me", PublicKey::of(&device), &origin);
        let (right, wrong) = (code(1).key(), code(2).key());
        let request = PairRequest::make(&right, "app", (PublicKey::of(&device), &origin, &cert), "line");

        assert!(request.is_certified() && request.proves(&right, "line"));
        assert!(!request.proves(&wrong, "line") && !request.proves(&right, PLAIN_LINE));
        let renamed = PairRequest { app: "other".into(), ..request.clone() };
        let other_key = PairRequest { key: PublicKey::of(&owner), ..request.clone() };
        let unproven = PairRequest { proof: String::new(), ..request.clone() };
        assert!(
            !renamed.proves(&right, "line") && !other_key.proves(&right, "line") && !unproven.proves(&right, "line")
        );
        assert!(!other_key.is_certified());

        let answer = PairAnswer::make(&right, &request, "server", "line");
        assert!(answer.proves(&right, &request, "line"));
        let posing = PairAnswer { server: "mine".into(), ..answer.clone() };
        assert!(!posing.proves(&right, &request, "line") && !answer.proves(&wrong, &request, "line"));
        assert!(!answer.proves(&right, &renamed_proof(&request), "line"));
    }

    fn renamed_proof(request: &PairRequest) -> PairRequest {
        PairRequest { proof: "00".repeat(32), ..request.clone() }
    }
}
