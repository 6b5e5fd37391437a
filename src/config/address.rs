//! Addresses of backends and peers: which kind they are, whether they hold a secret, how they are shown.
//!
//! Invariant: `shown` never holds a password, token or key that stood in the address. Pure: nothing is looked up or
//! opened, and which backends exist is the adapters' business.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::document::shorten;
use super::nearest::nearest;

/// The schemes a peer's address may have, beside a plain folder path.
pub const PEER_SCHEMES: [&str; 7] = ["http", "https", "ws", "wss", "s3", "gs", "az"];

/// Longer addresses are refused.
pub const MAX_ADDRESS_BYTES: usize = 2048;

/// Query parameters that carry secrets; compared without case, `_` and `-`.
const SECRET_PARAMETERS: [&str; 14] = [
    "password",
    "passwd",
    "pwd",
    "pass",
    "token",
    "accesstoken",
    "authtoken",
    "secret",
    "clientsecret",
    "apikey",
    "key",
    "accesskey",
    "signature",
    "sig",
];

/// What stands in place of a secret.
const MASK: &str = "***";

/// An address that may hold a secret: only `reveal` gives it whole, everything shown is masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// Takes an address as it was given.
    pub fn new(text: impl Into<String>) -> Address {
        Address(text.into())
    }

    /// The address as it was given, for whoever opens it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits `scheme:rest`; `None` for a plain path (`C:\x` is one: a scheme has two characters or more).
pub fn scheme(address: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = address.split_once(':')?;
    let plain = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let starts = scheme.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    (plain && starts && scheme.len() >= 2).then_some((scheme, rest))
}

/// Names the secret in an address: `a password`, `a token`, "a secret in `apikey`"; `None` if it holds none.
pub fn secret(address: &str) -> Option<String> {
    secrets(address).into_iter().next().map(|secret| secret.name)
}

/// The address as it may be shown: secrets replaced by `***`, control characters made visible.
pub fn shown(address: &str) -> String {
    let mut masked = address.to_owned();
    // From the end, so that the ranges before it stay true.
    for secret in secrets(address).into_iter().rev() {
        masked.replace_range(secret.span, MASK);
    }
    larder_patterns::shown(&masked)
}

struct Secret {
    name: String,
    span: Range<usize>,
}

// In the order they stand, none overlapping another.
fn secrets(address: &str) -> Vec<Secret> {
    let Some((scheme, rest)) = scheme(address) else {
        return Vec::new();
    };
    let rest_at = scheme.len() + 1;
    let mut found = Vec::new();
    let mut pairs_at = rest_at;
    // Behind the name of a backend a whole address of the web may stand.
    let slashes = if rest.starts_with("//") { Some(0) } else { rest.find("://").map(|colon| colon + 1) };
    if let Some(slashes) = slashes {
        let user_at = rest_at + slashes + 2;
        let after = &address[user_at..];
        if let Some(user_bytes) = user_info_len(after) {
            pairs_at = user_at + user_bytes + 1;
            found.extend(user_secret(scheme, &after[..user_bytes], user_at));
        }
    }
    found.extend(parameter_secrets(address, pairs_at));
    found
}

// The bytes before the `@` that ends the user; `None` if the address has no user.
fn user_info_len(after: &str) -> Option<usize> {
    let authority = after.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    // `p@a/ss` in a password leaves what looks like a host in front of the `/`, and the real one behind another `@`.
    let goes_on = user.is_some_and(|user| user.contains(':')) && after[authority.len()..].contains('@');
    if is_host(host) && !goes_on {
        return user.map(str::len);
    }
    // No host stands there: an unescaped `/`, `?`, `#` or `@` in a password hides where the user ends.
    after.rfind('@')
}

// `name`, `name:7777`, `[::1]:7777`, several with commas between, or nothing.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (text, "0"),
    };
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    is_port && (name.starts_with('[') || name.contains(',') || !name.contains(':'))
}

fn user_secret(scheme: &str, user_info: &str, at: usize) -> Option<Secret> {
    if let Some((user, password)) = user_info.split_once(':').filter(|(_, password)| !password.is_empty()) {
        let from = at + user.len() + 1;
        return Some(Secret { name: "a password".to_owned(), span: from..from + password.len() });
    }
    // Web and bucket addresses have no harmless user: a name alone is a token there.
    let user = user_info.trim_end_matches(':');
    let token = PEER_SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) && !user.is_empty();
    token.then(|| Secret { name: "a token".to_owned(), span: at..at + user.len() })
}

fn parameter_secrets(address: &str, from: usize) -> Vec<Secret> {
    let mut found = Vec::new();
    let mut at = from;
    for pair in address[from..].split(['?', '&', ';', '#', ' ']) {
        if let Some((name, value)) = pair.split_once('=').filter(|(_, value)| !value.is_empty())
            && is_secret_parameter(name)
        {
            let value_at = at + name.len() + 1;
            let name = format!("a secret in `{}`", shorten(name));
            found.push(Secret { name, span: value_at..value_at + value.len() });
        }
        // Every separator is one byte.
        at += pair.len() + 1;
    }
    found
}

fn is_secret_parameter(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect();
    SECRET_PARAMETERS.contains(&plain.as_str())
}

/// The variable to put a backend's address into instead of the file.
pub fn variable_for(backend_scheme: &str) -> &'static str {
    match backend_scheme.to_ascii_lowercase().as_str() {
        "postgres" | "postgresql" => "DATABASE_URL",
        "supabase" => "SUPABASE_PUBLISHABLE_KEY",
        "convex" => "CONVEX_URL",
        _ => "FILE_SYNC_BACKEND",
    }
}

/// Checks that a text can be a peer's address: a folder's path, or a URL of a known scheme.
///
/// Errors: what is wrong, as one clause.
pub fn check_peer(address: &str) -> Result<(), String> {
    check_plain(address)?;
    let Some((scheme, rest)) = scheme(address) else {
        return Ok(());
    };
    let lower = scheme.to_ascii_lowercase();
    if !PEER_SCHEMES.contains(&lower.as_str()) {
        let meant = nearest(&lower, PEER_SCHEMES).map(|known| format!(" (did you mean `{known}://`?)"));
        let known = PEER_SCHEMES.join("://, ");
        return Err(format!(
            "`{lower}:` is no kind of peer{}; a folder's path works, or {known}://",
            meant.unwrap_or_default()
        ));
    }
    if rest.strip_prefix("//").is_none_or(|host| host.is_empty() || host.starts_with('/')) {
        return Err(format!("`{lower}:` must be followed by `//` and a name"));
    }
    Ok(())
}

/// Checks that a text can be a backend's address: a name, or a name, a colon and the rest.
///
/// Errors: what is wrong, as one clause. Whether such a backend exists is for the adapters to say.
pub fn check_backend(address: &str) -> Result<(), String> {
    check_plain(address)?;
    let name = backend_scheme(address);
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'));
    if plain && !name.is_empty() {
        return Ok(());
    }
    Err("it must begin with the name of a backend, such as `sqlite:sync.db` or `postgres`".to_owned())
}

fn check_plain(address: &str) -> Result<(), String> {
    if address.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if address.len() > MAX_ADDRESS_BYTES {
        return Err(format!("it is longer than {MAX_ADDRESS_BYTES} bytes"));
    }
    if address.chars().any(char::is_control) {
        return Err("it holds a control character".to_owned());
    }
    Ok(())
}

/// The name a backend's address begins with.
pub fn backend_scheme(address: &str) -> &str {
    address.trim().split(':').next().unwrap_or_default()
}

/// The file of an SQLite backend, absolute; `None` for any other backend.
pub fn sqlite_file(address: &str, project_dir: &Path) -> Option<PathBuf> {
    let address = address.trim();
    if !backend_scheme(address).eq_ignore_ascii_case("sqlite") {
        return None;
    }
    let file = address.split_once(':').map(|(_, file)| file).filter(|file| !file.is_empty()).unwrap_or("sync.db");
    Some(project_dir.join(file.strip_prefix("//").unwrap_or(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_named_and_never_shown() {
        let cases = [
            ("postgres://me:pw@db.example/x", Some("a password"), "postgres://me:***@db.example/x"),
            ("postgres://me:p@w:/x?y@db.example/x", Some("a password"), "postgres://me:***@db.example/x"),
            ("postgres://me:p@w/x@db.example/x", Some("a password"), "postgres://me:***@db.example/x"),
            ("convex:https://me:pw@h/x", Some("a password"), "convex:https://me:***@h/x"),
            ("postgres://me:p/w#1@db.example/x", Some("a password"), "postgres://me:***@db.example/x"),
            ("postgres://:pw@db.example", Some("a password"), "postgres://:***@db.example"),
            ("postgres://me@db.example/x", None, "postgres://me@db.example/x"),
            (
                "postgres:host=h password=geheim dbname=x",
                Some("a secret in `password`"),
                "postgres:host=h password=*** dbname=x",
            ),
            ("https://ghp_abc@host/x", Some("a token"), "https://***@host/x"),
            ("https://host/@scope/x", None, "https://host/@scope/x"),
            ("http://host:8080/@scope/x", None, "http://host:8080/@scope/x"),
            ("http://[::1]:8080/@x", None, "http://[::1]:8080/@x"),
            (
                "https://h/x?api_key=1&a=b&Token=2",
                Some("a secret in `api_key`"),
                "https://h/x?api_key=***&a=b&Token=***",
            ),
            ("https://h/x#access_token=1", Some("a secret in `access_token`"), "https://h/x#access_token=***"),
            ("https://h/x?token=", None, "https://h/x?token="),
            ("sqlite:sync.db", None, "sqlite:sync.db"),
            ("/mnt/a:b@c", None, "/mnt/a:b@c"),
            ("s3://bucket/\u{1b}[31m", None, "s3://bucket/\\u{1b}[31m"),
        ];
        for (address, name, masked) in cases {
            assert_eq!(secret(address).as_deref(), name, "{address}");
            assert_eq!(shown(address), masked);
        }
    }

    #[test]
    fn only_folders_and_known_schemes_are_peers() {
        for good in ["/mnt/share", "../other", "~/Dropbox/x", "https://h", "s3://bucket/x", "WSS://h/x", "C:\\share"] {
            assert_eq!(check_peer(good), Ok(()), "{good}");
        }
        for bad in ["", "  ", "ftp://h", "s3:bucket", "https:///x", "http://", "a\nb"] {
            assert!(check_peer(bad).is_err(), "{bad}");
        }
        assert!(
            check_peer("htps://h")
                .is_err_and(|why| why.contains("did you mean `https://`?") || why.contains("`http://`"))
        );
    }

    #[test]
    fn an_sqlite_file_is_found_below_the_project() {
        let dir = Path::new("/p");
        for (address, file) in [
            ("sqlite", "/p/sync.db"),
            ("sqlite:", "/p/sync.db"),
            ("sqlite:a/b.db", "/p/a/b.db"),
            ("SQLite:///x.db", "/x.db"),
        ] {
            assert_eq!(sqlite_file(address, dir), Some(PathBuf::from(file)), "{address}");
        }
        assert_eq!(sqlite_file("postgres://h/sqlite", dir), None);
    }
}
