//! Where the server is and how it is spoken to: a connection string or the usual variables, read as libpq reads them.
//!
//! Invariant: no value of a setting is ever in an error: it may be a password. What libpq would refuse is refused by name.
//! Deliberately absent: opening anything but the password file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::{AdapterError, ErrorKind};

/// Names of the variables that are read, the first one instead of all others' host, user and database.
pub(super) const VARIABLES: &[&str] = &[
    "DATABASE_URL",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLNEGOTIATION",
    "PGCHANNELBINDING",
    "PGCONNECT_TIMEOUT",
    "PGOPTIONS",
    "PGTARGETSESSIONATTRS",
    "HOME",
    "USER",
];

const OF_VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGOPTIONS", "options"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// What the library below knows by the same names.
const PASSED_ON: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
    "application_name",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
    "sslnegotiation",
];
const OURS: &[&str] = &["sslmode", "sslrootcert", "sslcert", "sslkey", "passfile"];
/// What libpq knows and what changes nothing here.
const WITHOUT_EFFECT: &[&str] =
    &["gssencmode", "fallback_application_name", "keepalives_count", "client_encoding", "sslcompression", "sslsni"];
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What is sent and not taken for so long was sent into a line that is dead.
const UNTAKEN: Duration = Duration::from_secs(30);
const MAX_PASSWORD_FILE_BYTES: u64 = 1 << 20;

/// How much of TLS a person asks for, as libpq means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SslWish {
    /// Never.
    Disable,
    /// Only where the server wants it.
    Allow,
    /// Where the server can.
    Prefer,
    /// Always; whose certificate it is is not looked at, unless a root certificate is given.
    Require,
    /// Always, with a certificate that a given root vouches for.
    VerifyCa,
    /// The same, and it is the host's.
    VerifyFull,
}

/// Everything that opening a connection needs.
#[derive(Clone)]
pub(super) struct Settings {
    pub config: Config,
    pub ssl: SslWish,
    /// The file of root certificates; `None` for none, `system` for the machine's own.
    pub root_certificate: Option<PathBuf>,
    /// The client's own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Server and database without secrets: `host:5432/name`.
    pub shown: String,
    pub connect_timeout: Option<Duration>,
}

type Parameters = BTreeMap<String, String>;

impl Settings {
    /// Reads `address` (what follows `postgres:`, or empty) and the variables.
    ///
    /// Errors: `Unsupported` with what is wrong, by name.
    pub fn read(address: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Settings, AdapterError> {
        let var = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut parameters: Parameters =
            OF_VARIABLES.iter().filter_map(|(variable, key)| Some(((*key).to_owned(), var(variable)?))).collect();
        let string = match address {
            "" => var("DATABASE_URL"),
            address if address.starts_with("//") => Some(format!("postgres:{address}")),
            address => Some(address.to_owned()),
        };
        match &string {
            Some(text) if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
                // A string that names a server is not meant for the host address of another one.
                parameters.remove("hostaddr");
                parse_url(text, &mut parameters)?;
            }
            Some(text) => parse_pairs(text, &mut parameters)?,
            None if !["host", "hostaddr", "dbname", "user"].iter().any(|key| parameters.contains_key(*key)) => {
                return Err(refused("set DATABASE_URL, or PGHOST, PGUSER, PGPASSWORD and PGDATABASE"));
            }
            None => {}
        }
        Settings::of(parameters, &var)
    }

    fn of(mut parameters: Parameters, var: &dyn Fn(&str) -> Option<String>) -> Result<Settings, AdapterError> {
        let unknown = |key: &&String| {
            let key = key.as_str();
            !(PASSED_ON.contains(&key) || OURS.contains(&key) || WITHOUT_EFFECT.contains(&key))
        };
        if let Some(key) = parameters.keys().find(unknown) {
            return Err(refused(format!("the connection string has an unknown parameter `{key}`")));
        }
        if !parameters.contains_key("host") && !parameters.contains_key("hostaddr") {
            parameters.insert("host".to_owned(), "localhost".to_owned());
        }
        if let (false, Some(user)) = (parameters.contains_key("user"), var("USER")) {
            parameters.insert("user".to_owned(), user);
        }
        let home = |name: &str| var("HOME").map(|home| PathBuf::from(home).join(name));
        let file = |key: &str| parameters.get(key).filter(|path| !path.is_empty()).map(PathBuf::from);
        let existing = |path: Option<PathBuf>| path.filter(|path| path.is_file());
        let root_certificate = file("sslrootcert").or_else(|| existing(home(".postgresql/root.crt")));
        let certificate = file("sslcert").or_else(|| existing(home(".postgresql/postgresql.crt")));
        let key = file("sslkey").or_else(|| existing(home(".postgresql/postgresql.key")));
        let ssl = ssl_wish(parameters.get("sslmode").map(String::as_str), root_certificate.as_deref())?;
        let mut config = config_of(&parameters)?;
        config.ssl_mode(match ssl {
            SslWish::Disable | SslWish::Allow => SslMode::Disable,
            SslWish::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        });
        if config.get_password().is_none() {
            let passfile = file("passfile").or_else(|| home(".pgpass"));
            if let Some(password) = passfile.and_then(|path| password_in(&path, &config)) {
                config.password(password);
            }
        }
        let (shown, connect_timeout) = (shown(&config), config.get_connect_timeout().copied());
        Ok(Settings { config, ssl, root_certificate, client: certificate.zip(key), shown, connect_timeout })
    }

    /// Whether the server is only asked on a socket of this machine, where TLS means nothing.
    pub fn is_local_socket(&self) -> bool {
        #[cfg(unix)]
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        #[cfg(not(unix))]
        let is_socket = |_: &Host| false;
        !self.config.get_hosts().is_empty() && self.config.get_hosts().iter().all(is_socket)
    }
}

fn refused(why: impl Into<String>) -> AdapterError {
    AdapterError::new(ErrorKind::Unsupported, format!("use postgres: {}", why.into()))
}

fn ssl_wish(mode: Option<&str>, root: Option<&std::path::Path>) -> Result<SslWish, AdapterError> {
    let is_system = root.is_some_and(|root| root.as_os_str() == "system");
    let wish = match mode.unwrap_or(if is_system { "verify-full" } else { "prefer" }) {
        "disable" => SslWish::Disable,
        "allow" => SslWish::Allow,
        "prefer" => SslWish::Prefer,
        // As libpq: a root certificate that is there is also used.
        "require" if root.is_some() => SslWish::VerifyCa,
        "require" => SslWish::Require,
        "verify-ca" => SslWish::VerifyCa,
        "verify-full" => SslWish::VerifyFull,
        _ => {
            let known = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(refused(format!("`sslmode` must be {known}")));
        }
    };
    if is_system && wish != SslWish::VerifyFull {
        return Err(refused("`sslrootcert=system` goes with `sslmode=verify-full` alone"));
    }
    if root.is_none() && matches!(wish, SslWish::VerifyCa | SslWish::VerifyFull) {
        let ways = "name a file in `sslrootcert`, or set `sslrootcert=system` for the machine's own";
        return Err(refused(format!(
            "this `sslmode` needs root certificates, and there is no ~/.postgresql/root.crt: {ways}"
        )));
    }
    Ok(wish)
}

fn config_of(parameters: &Parameters) -> Result<Config, AdapterError> {
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let pairs = parameters.iter().filter(|(key, _)| PASSED_ON.contains(&key.as_str()));
    let mut text = String::new();
    for (key, value) in pairs {
        // One by one, so that the one that is wrong can be named without its value.
        let pair = format!("{key}={} ", quoted(value));
        if pair.parse::<Config>().is_err() {
            return Err(refused(format!("the connection parameter `{key}` has a value that it cannot have")));
        }
        text.push_str(&pair);
    }
    let parsed = text.parse::<Config>();
    let mut config =
        parsed.map_err(|_| refused("the connection string names hosts and ports that do not fit together"))?;
    if config.get_application_name().is_none() {
        config.application_name("larder");
    }
    if !parameters.contains_key("keepalives_idle") {
        config.keepalives_idle(KEEPALIVE);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNTAKEN);
    }
    Ok(config)
}

fn parse_url(text: &str, parameters: &mut Parameters) -> Result<(), AdapterError> {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    // Else the end of a password would pass for a host, a database or a key, and be named as one.
    let may_hold_at = |pair: &&str| pair.starts_with("user=") || pair.starts_with("password=");
    if database.contains('@') || query.split('&').filter(|pair| !may_hold_at(pair)).any(|pair| pair.contains('@')) {
        return Err(refused(UNESCAPED));
    }
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    let mut put = |key: &str, value: &str| -> Result<(), AdapterError> {
        if !value.is_empty() {
            let decoded =
                decoded(value).ok_or_else(|| refused(format!("`{key}` in the URL is not percent-encoded text")))?;
            parameters.insert(key.to_owned(), decoded);
        }
        Ok(())
    };
    if let Some(user) = user {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        put("user", name)?;
        put("password", password)?;
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        // A colon inside brackets belongs to an IPv6 address.
        let after_bracket = host.rfind(']').map_or(0, |at| at + 1);
        let port_at = host[after_bracket..].rfind(':').map(|at| at + after_bracket);
        let (name, port) = port_at.map_or((host, ""), |at| (&host[..at], &host[at + 1..]));
        names.push(name.trim_start_matches('[').trim_end_matches(']'));
        ports.push(port);
    }
    put("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        let ports: Vec<&str> = ports.into_iter().map(|port| if port.is_empty() { "5432" } else { port }).collect();
        put("port", &ports.join(","))?;
    }
    put("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(refused("the URL has a parameter without a value"));
        };
        match (key, value) {
            ("ssl", "true") => put("sslmode", "require")?,
            _ => put(key, value)?,
        }
    }
    Ok(())
}

/// What is wrong with a URL in which an `@` stands behind the host.
const UNESCAPED: &str = "an `@` stands behind the host in the URL: if user or password hold `/`, `?`, `#`, `@` or `%`, write them as `%2F`, `%3F`, `%23`, `%40`, `%25`, or set PGPASSWORD";

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let hex = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// `key=value key='va lue'`, as libpq takes it.
fn parse_pairs(text: &str, parameters: &mut Parameters) -> Result<(), AdapterError> {
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(());
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(refused("the connection string is neither a URL nor `key=value` pairs"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let value = parse_value(&mut chars).ok_or_else(|| refused("a quote in the connection string is not closed"))?;
        parameters.insert(key, value);
    }
}

fn parse_value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut value = String::new();
    let is_quoted = chars.next_if_eq(&'\'').is_some();
    loop {
        match chars.next() {
            Some('\'') if is_quoted => return Some(value),
            Some(c) if !is_quoted && c.is_whitespace() => return Some(value),
            Some('\\') => value.push(chars.next()?),
            Some(c) => value.push(c),
            None => return (!is_quoted).then_some(value),
        }
    }
}

fn shown(config: &Config) -> String {
    let name = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    let mut hosts: Vec<String> = config.get_hosts().iter().map(name).collect();
    if hosts.is_empty() {
        hosts = config.get_hostaddrs().iter().map(ToString::to_string).collect();
    }
    let ports: Vec<String> = config.get_ports().iter().map(ToString::to_string).collect();
    let port = if ports.is_empty() { "5432".to_owned() } else { ports.join(",") };
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}:{port}/{database}", hosts.join(","))
}

/// The password that a file of `host:port:database:user:password` lines has for the first host.
fn password_in(path: &std::path::Path, config: &Config) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As libpq: a file that others can read is not used.
        if meta.permissions().mode() & 0o077 != 0 {
            return None;
        }
    }
    if meta.len() > MAX_PASSWORD_FILE_BYTES {
        return None;
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        _ => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
    let user = config.get_user().unwrap_or_default();
    let wanted = [host.as_str(), &port, config.get_dbname().unwrap_or(user), user];
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split_unescaped(line);
        let (password, names) = fields.split_last().filter(|(_, names)| names.len() == 4)?;
        let fits = names.iter().zip(wanted).all(|(name, wanted)| name == "*" || name == wanted);
        fits.then(|| password.clone())
    })
}

fn split_unescaped(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut chars) = (Vec::new(), String::new(), line.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => field.extend(chars.next()),
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(address: &str, vars: &[(&str, &str)]) -> Result<Settings, AdapterError> {
        let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::read(address, &env)
    }

    #[test]
    fn a_server_is_found_however_it_is_written() {
        for (address, vars, shown) in [
            ("//bo:s%40cret@db.example:6000/notes", &[] as &[(&str, &str)], "db.example:6000/notes"),
            ("", &[("DATABASE_URL", "postgresql://bo@db/notes?sslmode=disable")], "db:5432/notes"),
            ("", &[("PGHOST", "db"), ("PGUSER", "bo")], "db:5432/bo"),
            ("host=db port=7 dbname='a b' user=bo password='it\\'s'", &[], "db:7/a b"),
            ("//[::1]:9/x", &[("PGHOSTADDR", "10.0.0.1")], "::1:9/x"),
            ("//a:1,b/x", &[], "a,b:1,5432/x"),
            ("", &[("PGDATABASE", "x")], "localhost:5432/x"),
        ] {
            assert_eq!(read(address, vars).expect(address).shown, shown, "{address}");
        }
        let settings = read("//bo:s%40cret@db/notes", &[("PGPASSWORD", "other")]).expect("a URL");
        assert_eq!(settings.config.get_password(), Some(&b"s@cret"[..]));
    }

    #[test]
    fn sslmode_means_what_libpq_means() {
        for (text, wish) in [
            ("host=db", SslWish::Prefer),
            ("host=db sslmode=disable", SslWish::Disable),
            ("host=db sslmode=allow", SslWish::Allow),
            ("host=db sslmode=require", SslWish::Require),
            ("host=db sslmode=require sslrootcert=ca.pem", SslWish::VerifyCa),
            ("host=db sslmode=verify-ca sslrootcert=ca.pem", SslWish::VerifyCa),
            ("host=db sslmode=verify-full sslrootcert=ca.pem", SslWish::VerifyFull),
            ("host=db sslrootcert=system", SslWish::VerifyFull),
        ] {
            assert_eq!(read(text, &[]).expect(text).ssl, wish, "{text}");
        }
        for text in
            ["host=db sslmode=maybe", "host=db sslmode=verify-full", "host=db sslmode=require sslrootcert=system"]
        {
            assert_eq!(read(text, &[]).map(|_| ()).expect_err(text).kind, ErrorKind::Unsupported, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is() {
        for (address, vars) in [
            ("//bo:geheim@db:no-port/x", &[] as &[(&str, &str)]),
            ("//bo:geheim@db/x?password=%zz", &[]),
            ("//bo:p@w/geheim@db/x", &[]),
            ("//bo:pw/geheim@db/x", &[]),
            ("//bo:p@w?geheim@db/x", &[]),
            ("", &[("DATABASE_URL", "postgres://bo:p@w?geheim=x@db/x")]),
            ("host=db password='geheim", &[]),
            ("geheim", &[]),
            ("host=db geheimnis=geheim schema=x", &[]),
            ("", &[]),
        ] {
            let error = read(address, vars).map(|_| ()).expect_err(address);
            assert!(!error.message.replace("geheimnis", "").contains("geheim"), "{}", error.message);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_password_file_is_used_if_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("pass");
        std::fs::write(&file, "# notes\nother:*:*:*:wrong\ndb:5432:*:bo:a\\:b\n").expect("written");
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
        let password = || {
            let settings = read("//bo@db/x", &[("PGPASSFILE", file.to_str().expect("text"))]).expect("a URL");
            settings.config.get_password().map(<[u8]>::to_vec)
        };

        mode(0o600);
        assert_eq!(password().as_deref(), Some(&b"a:b"[..]));
        mode(0o644);
        assert_eq!(password(), None);
    }
}
