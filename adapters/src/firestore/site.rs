//! Where the service is and who asks: settings from the environment, and the file of an account.
//!
//! Invariant: a key or refresh token goes nowhere but to the account's own token address, which is encrypted or on this machine;
//! none is ever shown. Deliberately absent: asking anybody for a token (`token`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::signature::RsaKeyPair;
use reqwest::Url;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use crate::wire::{is_loopback, safe_url, shown};
use crate::{AdapterError, ErrorKind, OpenContext};

/// The environment variables this backend reads.
pub(super) const SETTINGS: &[&str] = &[
    "GOOGLE_APPLICATION_CREDENTIALS",
    "FIRESTORE_EMULATOR_HOST",
    "GOOGLE_CLOUD_PROJECT",
    "FIRESTORE_DATABASE",
    "FIRESTORE_ENDPOINT",
    "FIRESTORE_SWEEP_SECS",
    "CLOUDSDK_CONFIG",
    "GCE_METADATA_HOST",
    "HOME",
];

const ENDPOINT: &str = "https://firestore.googleapis.com";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";
const DATABASE: &str = "(default)";
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// No account's file is larger.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Where the service is.
pub(super) struct Site {
    /// Scheme, host and port.
    pub(super) endpoint: Url,
    /// `projects/<project>/databases/<database>`.
    pub(super) database: String,
    pub(super) account: Account,
    /// How often rows are looked through for edits that carry no timestamp; `None` for never.
    pub(super) sweep_every: Option<Duration>,
}

/// Who asks.
pub(super) enum Account {
    /// Nobody: an emulator believes everybody.
    Emulator,
    /// A service account with its key.
    Service(Box<ServiceKey>),
    /// A person, by the login of `gcloud`.
    Person { client_id: String, client_secret: String, refresh_token: String, token_uri: Url },
    /// The machine it runs on, at Google.
    Machine { token_url: Url },
}

/// The key of a service account.
pub(super) struct ServiceKey {
    pub(super) email: String,
    pub(super) key_id: String,
    pub(super) key: RsaKeyPair,
    pub(super) token_uri: Url,
}

impl Site {
    /// Reads the settings; `address` is `PROJECT` or `PROJECT/DATABASE`, each of which the environment may name instead.
    ///
    /// Errors: `Denied` for a file that cannot be read or used, `Unsupported` for settings that make no sense.
    pub(super) fn of(address: &str, context: &OpenContext<'_>) -> Result<Site, AdapterError> {
        let set =
            |name: &str| (context.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let (account, file_project) = account_of(context.project_dir, &set)?;
        let endpoint = match (&account, set("FIRESTORE_EMULATOR_HOST")) {
            (Account::Emulator, Some(host)) => emulator_url(&host)?,
            _ => safe_url("FIRESTORE_ENDPOINT", set("FIRESTORE_ENDPOINT").as_deref().unwrap_or(ENDPOINT))
                .map_err(|why| refused(&why))?,
        };
        let (project, database) = match address.trim_matches('/').split_once('/') {
            Some((project, database)) => (project, Some(database)),
            None => (address.trim_matches('/'), None),
        };
        let named = Some(project.to_owned()).filter(|project| !project.is_empty());
        let project = named.or_else(|| set("GOOGLE_CLOUD_PROJECT")).or(file_project).ok_or_else(|| {
            refused("no project is named: set GOOGLE_CLOUD_PROJECT, or write `firestore:PROJECT` as backend")
        })?;
        let database = database.map(str::to_owned).or_else(|| set("FIRESTORE_DATABASE"));
        let database = database.unwrap_or_else(|| DATABASE.to_owned());
        for (what, name) in [("project", &project), ("database", &database)] {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:()".contains(c);
            if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
                return Err(refused(&format!("`{}` cannot be the name of a {what}", shown(name))));
            }
        }
        let sweep_every = match set("FIRESTORE_SWEEP_SECS").as_deref() {
            None => Some(SWEEP_EVERY),
            Some("never") => None,
            Some(text) => Some(Duration::from_secs(
                text.parse().map_err(|_| refused("FIRESTORE_SWEEP_SECS must be a number of seconds, or `never`"))?,
            )),
        };
        Ok(Site { endpoint, database: format!("projects/{project}/databases/{database}"), account, sweep_every })
    }

    /// True if a request never leaves this machine.
    pub(super) fn is_here(&self) -> bool {
        is_loopback(&self.endpoint)
    }
}

fn refused(why: &str) -> AdapterError {
    AdapterError::new(ErrorKind::Unsupported, format!("use Firestore: {why}"))
}

fn emulator_url(host: &str) -> Result<Url, AdapterError> {
    let address = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
    let url = Url::parse(&address).ok().filter(|url| url.has_host() && matches!(url.path(), "" | "/"));
    url.ok_or_else(|| refused("FIRESTORE_EMULATOR_HOST must be HOST:PORT"))
}

/// Who asks, and the project that the account belongs to.
fn account_of(
    project_dir: &Path,
    set: &dyn Fn(&str) -> Option<String>,
) -> Result<(Account, Option<String>), AdapterError> {
    if set("FIRESTORE_EMULATOR_HOST").is_some() {
        return Ok((Account::Emulator, None));
    }
    if let Some(file) = set("GOOGLE_APPLICATION_CREDENTIALS") {
        return account_in(&project_dir.join(file));
    }
    let gcloud = set("CLOUDSDK_CONFIG").map(PathBuf::from);
    let gcloud = gcloud.or_else(|| set("HOME").map(|home| Path::new(&home).join(".config/gcloud")));
    if let Some(file) =
        gcloud.map(|folder| folder.join("application_default_credentials.json")).filter(|file| file.exists())
    {
        return account_in(&file);
    }
    let host = set("GCE_METADATA_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
    // A machine's own service for its own programs: it is on no network, and speaks plain HTTP only.
    let token_url = Url::parse(&format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token"));
    let token_url = token_url.map_err(|_| refused("GCE_METADATA_HOST must be a host"))?;
    Ok((Account::Machine { token_url }, None))
}

fn account_in(file: &Path) -> Result<(Account, Option<String>), AdapterError> {
    let named = file.display();
    let denied = |why: String| AdapterError::new(ErrorKind::Denied, format!("use the credentials in {named}: {why}"));
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
    read.map_err(|error| {
        denied(format!("{error}; GOOGLE_APPLICATION_CREDENTIALS names the file of a service account"))
    })?;
    let parsed: Value = serde_json::from_str(&text).map_err(|_| denied("it is not JSON".to_owned()))?;
    let field = |name: &str| {
        let value = parsed.get(name).and_then(Value::as_str).map(str::to_owned);
        value.ok_or_else(|| denied(format!("it has no `{name}`; download it again")))
    };
    let token_uri = parsed.get("token_uri").and_then(Value::as_str).unwrap_or(TOKEN_URI);
    let token_uri = safe_url("its token_uri", token_uri).map_err(|why| refused(&why))?;
    match field("type")?.as_str() {
        "service_account" => {
            let unusable = || denied("its private_key is no RSA key; download it again".to_owned());
            let der = PrivatePkcs8KeyDer::from_pem_slice(field("private_key")?.as_bytes()).map_err(|_| unusable())?;
            let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| unusable())?;
            let key_id = field("private_key_id").unwrap_or_default();
            let service = ServiceKey { email: field("client_email")?, key_id, key, token_uri };
            Ok((Account::Service(Box::new(service)), field("project_id").ok()))
        }
        "authorized_user" => {
            let account = Account::Person {
                client_id: field("client_id")?,
                client_secret: field("client_secret")?,
                refresh_token: field("refresh_token")?,
                token_uri,
            };
            Ok((account, field("quota_project_id").ok()))
        }
        other => {
            let kind = shown(other);
            Err(denied(format!("accounts of type `{kind}` are not supported; use a service account or gcloud's login")))
        }
    }
}
