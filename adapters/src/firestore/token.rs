//! Tokens: asked for when the first request needs one, kept, and renewed before they end.
//!
//! Invariant: at most one renewal is under way; a token that was refused is not used again. What the token service says is shown
//! as far as it names its reason, never what was sent to it.

use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use data_encoding::BASE64URL_NOPAD;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::failure::{Failure, refusal};
use super::site::{Account, ServiceKey};
use crate::ErrorKind;
use crate::wire::{Broken, Head, body_of, shown};

const SCOPE: &str = "https://www.googleapis.com/auth/datastore";
/// The longest a token may be asked for.
const LIFETIME_SECS: u64 = 3_600;
/// A token is renewed so long before its end, or at half its life if that is shorter.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// The token service refuses who is further off.
const CLOCK_TOLERANCE_SECS: i64 = 300;
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// The tokens of one account.
pub(super) struct Tokens {
    account: Account,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: String,
    renew_at: Instant,
}

impl Tokens {
    pub(super) fn of(account: Account) -> Tokens {
        Tokens { account, kept: Mutex::new(None) }
    }

    /// The value of the `Authorization` header.
    pub(super) async fn bearer(&self, http: &Client) -> Result<String, Failure> {
        if matches!(self.account, Account::Emulator) {
            return Ok("Bearer owner".to_owned());
        }
        // Held while asking: whoever comes meanwhile waits for the same token.
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.renew_at) {
            return Ok(format!("Bearer {}", kept.token));
        }
        let fresh = self.ask(http).await?;
        let bearer = format!("Bearer {}", fresh.token);
        *kept = Some(fresh);
        Ok(bearer)
    }

    /// Forgets a token that was refused. False if there is no other to be had.
    pub(super) async fn forget(&self, bearer: &str) -> bool {
        let mut kept = self.kept.lock().await;
        if kept.as_ref().is_some_and(|kept| bearer.ends_with(&kept.token)) {
            *kept = None;
        }
        !matches!(self.account, Account::Emulator)
    }

    async fn ask(&self, http: &Client) -> Result<Kept, Failure> {
        let (request, whose) = match &self.account {
            Account::Emulator => return Err(Failure::new(ErrorKind::Unsupported, "an emulator gives no tokens")),
            Account::Service(key) => {
                let assertion = assertion(key, wall_secs())?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
                (form(http, &key.token_uri, &[("grant_type", grant), ("assertion", &assertion)]), "the service account")
            }
            Account::Person { client_id, client_secret, refresh_token, token_uri } => {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", client_id),
                    ("client_secret", client_secret),
                    ("refresh_token", refresh_token),
                ];
                (form(http, token_uri, &fields), "gcloud's login")
            }
            Account::Machine { token_url } => {
                let mut url = token_url.clone();
                url.query_pairs_mut().append_pair("scopes", SCOPE);
                (http.get(url).header("Metadata-Flavor", "Google"), "the machine's own account")
            }
        };
        let sent = request.send().await;
        let answer = sent.map_err(|error| match &self.account {
            Account::Machine { .. } => Failure::new(
                ErrorKind::Denied,
                "no credentials are set, and this machine has none of its own; set GOOGLE_APPLICATION_CREDENTIALS",
            ),
            _ => Broken::of(&error).into(),
        })?;
        let (head, headers) = (Head::of(&answer), answer.headers().clone());
        let body = body_of(answer, MAX_ANSWER_BYTES).await?;
        if head.code != 200 {
            return Err(token_refused(whose, &head, &headers, &body));
        }
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        let token = parsed.as_ref().and_then(|value| value.get("access_token")).and_then(Value::as_str);
        let fit = |token: &&str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let Some(token) = token.filter(fit) else {
            return Err(Failure::new(ErrorKind::Corrupt, "what answers for tokens is no token service"));
        };
        let lasts = parsed.as_ref().and_then(|value| value.get("expires_in")).and_then(Value::as_u64).unwrap_or(0);
        let lasts = Duration::from_secs(lasts.min(LIFETIME_SECS));
        let renew_at = Instant::now() + lasts.saturating_sub(RENEW_BEFORE).max(lasts / 2);
        Ok(Kept { token: token.to_owned(), renew_at })
    }
}

fn wall_secs() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn form(http: &Client, to: &Url, fields: &[(&str, &str)]) -> RequestBuilder {
    let mut encoder = to.clone();
    encoder.query_pairs_mut().clear().extend_pairs(fields);
    let body = encoder.query().unwrap_or_default().to_owned();
    http.post(to.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
}

/// What proves that we hold the key: three parts of base64, the last a signature of the others.
fn assertion(key: &ServiceKey, now_secs: u64) -> Result<String, Failure> {
    let head = json!({ "alg": "RS256", "typ": "JWT", "kid": key.key_id });
    let claims = json!({
        "iss": key.email, "scope": SCOPE, "aud": key.token_uri.as_str(), "iat": now_secs, "exp": now_secs + LIFETIME_SECS,
    });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let mut signature = vec![0; key.key.public_modulus_len()];
    let unsigned = |_| Failure::new(ErrorKind::Denied, "the service account's key cannot sign; download it again");
    key.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).map_err(unsigned)?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

fn token_refused(whose: &str, head: &Head, headers: &HeaderMap, body: &[u8]) -> Failure {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let field = |name: &str| parsed.as_ref()?.get(name)?.as_str().map(shown);
    let Some(reason) = field("error") else {
        return refusal(head, body);
    };
    if let Some(off) = clock_off_secs(headers).filter(|off| off.abs() > CLOCK_TOLERANCE_SECS) {
        let (minutes, way) = (off.abs() / 60, if off > 0 { "ahead" } else { "behind" });
        let said = format!(
            "the clock of this machine is {minutes} minutes {way}, and no token is given for that; set it right"
        );
        return Failure::new(ErrorKind::Denied, said);
    }
    let more = field("error_description").unwrap_or_default();
    let said = format!("{whose} is refused ({reason}: {more}); its key may have been deleted or the login ended");
    Failure::new(ErrorKind::Denied, said)
}

/// How far our clock is ahead of the one that answered.
fn clock_off_secs(headers: &HeaderMap) -> Option<i64> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
    i64::try_from(wall_secs()).ok().map(|ours| ours - theirs)
}
