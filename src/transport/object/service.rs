//! From an address and the environment to a line to one of the services.
//!
//! Invariant: keys come from the variables and files that each service's own tools read, never from an address or a config; a
//! line that is not sealed is used only to this machine itself, or where the environment says so in words.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::{Certificate, ClientOptions, ObjectStore};

use super::ObjectTransport;
use super::address::BucketAddress;
use super::explain::{Scene, Service};
use super::line::{Line, client_options, retries};
use super::profile::Profile;
use crate::transport::{Opening, Transport, TransportError, TransportErrorKind};

const DEFAULT_REGION: &str = "us-east-1";
/// Where Azure's own emulator listens.
const AZURE_EMULATOR: &str = "http://127.0.0.1:10000";

/// What every service's line has alike. The crate's builders share these names and no trait.
macro_rules! built {
    ($builder:expr, $options:expr, $scene:expr) => {
        $builder.with_client_options($options).with_retry(retries()).with_http_connector($scene.line.clone()).build()
    };
}

type Vars = BTreeMap<String, String>;

/// Opens `s3://bucket/prefix` with the variables of the AWS tools and their profiles.
pub fn open_s3(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    use AmazonS3ConfigKey as Key;
    let place = BucketAddress::parse(address)?;
    let vars = &opening.vars;
    let refused = |why: String| denied(&place, why);
    let profile = Profile::of(vars).map_err(refused)?;
    let endpoint =
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(|name| var(vars, name));
    let endpoint = endpoint.or_else(|| profile.get("endpoint_url"));
    let scene = scene(Service::S3, &place, endpoint);
    let used = |key: &Key| {
        !matches!(
            key,
            Key::Bucket | Key::Endpoint | Key::S3Endpoint | Key::ConditionalPut | Key::CopyIfNotExists | Key::Client(_)
        )
    };
    let mut builder = AmazonS3Builder::new();
    for (key, value) in settings::<Key>(vars, "AWS_").filter(|(key, _)| used(key)) {
        builder = builder.with_config(key, value);
    }
    if var(vars, "AWS_ACCESS_KEY_ID").is_none()
        && var(vars, "AWS_WEB_IDENTITY_TOKEN_FILE").is_none()
        && let Some((key, secret, token)) = profile.keys().map_err(refused)?
    {
        builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        builder = token.into_iter().fold(builder, |builder, token| builder.with_token(token));
    }
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| var(vars, name));
    builder = builder.with_region(region.or_else(|| profile.get("region")).unwrap_or(DEFAULT_REGION));
    let options = sealed_unless_allowed(&place, vars, endpoint, "AWS_ALLOW_HTTP")?;
    let options = with_authorities(&place, vars, options)?;
    builder = endpoint.into_iter().fold(builder, |builder, endpoint| builder.with_endpoint(endpoint));
    visitor(built!(builder.with_bucket_name(&place.bucket), options, scene), place, scene)
}

/// Opens `gs://bucket/prefix` with the variables of Google's tools and the login of `gcloud`.
pub fn open_gs(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    use GoogleConfigKey as Key;
    let place = BucketAddress::parse(address)?;
    let vars = &opening.vars;
    let endpoint = var(vars, "GOOGLE_BASE_URL");
    let scene = scene(Service::Google, &place, endpoint);
    let mut builder = GoogleCloudStorageBuilder::new();
    for (key, value) in settings::<Key>(vars, "GOOGLE_") {
        if !matches!(key, Key::Bucket | Key::Client(_)) {
            builder = builder.with_config(key, value);
        }
    }
    let options = sealed_unless_allowed(&place, vars, endpoint, "GOOGLE_ALLOW_HTTP")?;
    visitor(built!(builder.with_bucket_name(&place.bucket), options, scene), place, scene)
}

/// Opens `az://container/prefix` in the account that the variables name.
pub fn open_az(address: &str, opening: &Opening) -> Result<Arc<dyn Transport>, TransportError> {
    use AzureConfigKey as Key;
    let place = BucketAddress::parse(address)?;
    let vars = &opening.vars;
    let emulated = says_yes(vars, "AZURE_STORAGE_USE_EMULATOR").then_some(AZURE_EMULATOR);
    let endpoint =
        ["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"].into_iter().find_map(|name| var(vars, name)).or(emulated);
    let account = var(vars, "AZURE_STORAGE_ACCOUNT_NAME").or_else(|| var(vars, "AZURE_STORAGE_ACCOUNT"));
    if account.is_none() && emulated.is_none() {
        return Err(denied(
            &place,
            "set AZURE_STORAGE_ACCOUNT_NAME to the account that the container is in".to_owned(),
        ));
    }
    let scene = scene(Service::Azure, &place, endpoint.or(account));
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in settings::<Key>(vars, "AZURE_") {
        if !matches!(key, Key::ContainerName | Key::Client(_)) {
            builder = builder.with_config(key, value);
        }
    }
    builder = account.into_iter().fold(builder, |builder, account| builder.with_account(account));
    let options = sealed_unless_allowed(&place, vars, endpoint, "AZURE_ALLOW_HTTP")?;
    visitor(built!(builder.with_container_name(&place.bucket), options, scene), place, scene)
}

/// A crate's builder says what is wrong in words that may hold what it read: they are not passed on.
fn visitor<T: ObjectStore + PaginatedListStore>(
    built: object_store::Result<T>,
    place: BucketAddress,
    scene: Scene,
) -> Result<Arc<dyn Transport>, TransportError> {
    let Ok(objects) = built else {
        let detail = format!("the credentials or settings in the environment cannot be used; {}", scene.credentials());
        return Err(denied(&place, detail));
    };
    Ok(Arc::new(ObjectTransport::new(Arc::new(objects), &place.prefix, scene, place.writes)))
}

/// The place's name holds where it is, so that what is remembered of one is not believed of another.
fn scene(service: Service, place: &BucketAddress, at: Option<&str>) -> Scene {
    let host = at.map(|at| at.split_once("://").map_or(at, |(_, host)| host).trim_end_matches('/'));
    // What stands before an `@` could be a secret.
    let host = host.map(|host| host.rsplit('@').next().unwrap_or_default());
    let label = match host {
        Some(host) => format!("{} at {}", place.place(), larder_patterns::shown(host)),
        None => place.place(),
    };
    Scene { service, label, bucket: place.bucket.clone(), line: Line::default() }
}

fn denied(place: &BucketAddress, why: String) -> TransportError {
    TransportError::new(TransportErrorKind::Denied, "open", &place.place(), why)
}

fn var<'a>(vars: &'a Vars, name: &str) -> Option<&'a str> {
    vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn says_yes(vars: &Vars, name: &str) -> bool {
    var(vars, name).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

/// The variables that the crate knows, as it knows them.
fn settings<'a, K: FromStr>(vars: &'a Vars, prefix: &'static str) -> impl Iterator<Item = (K, &'a str)> {
    let named = vars.iter().filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty());
    named.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str())))
}

/// Plain HTTP goes to this machine only, or where a variable allows it.
fn sealed_unless_allowed(
    place: &BucketAddress,
    vars: &Vars,
    endpoint: Option<&str>,
    variable: &str,
) -> Result<ClientOptions, TransportError> {
    let plain_host = endpoint.and_then(|endpoint| endpoint.strip_prefix("http://"));
    if plain_host.is_some_and(|host| !is_loopback(host)) && !says_yes(vars, variable) {
        let why = format!("plain HTTP is used only to this machine itself: set {variable}=true to allow it");
        return Err(denied(place, why));
    }
    Ok(client_options().with_allow_http(plain_host.is_some()))
}

fn is_loopback(host: &str) -> bool {
    let authority = host.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let name = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || IpAddr::from_str(name).is_ok_and(|ip| ip.is_loopback())
}

/// The authorities of `AWS_CA_BUNDLE`, beside those of the system.
fn with_authorities(
    place: &BucketAddress,
    vars: &Vars,
    options: ClientOptions,
) -> Result<ClientOptions, TransportError> {
    let Some(file) = var(vars, "AWS_CA_BUNDLE") else { return Ok(options) };
    let unusable = || denied(place, "the file that AWS_CA_BUNDLE names holds no certificates in PEM form".to_owned());
    let bytes =
        std::fs::read(file).map_err(|error| denied(place, format!("read the file of AWS_CA_BUNDLE: {error}")))?;
    let certificates = Certificate::from_pem_bundle(&bytes).map_err(|_| unusable())?;
    Ok(certificates.into_iter().fold(options, ClientOptions::with_root_certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(vars: &[(&str, &str)]) -> Opening {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Opening { vars: Arc::new(vars), ..Opening::new("app", "/nowhere".as_ref()) }
    }

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "geheim")];

    #[test]
    fn plain_http_goes_only_to_this_machine_unless_allowed_in_words() {
        for (endpoint, allow, well) in [
            ("http://127.0.0.1:9000", "", true),
            ("http://localhost:9000/", "", true),
            ("http://[::1]:9000", "", true),
            ("https://minio.example", "", true),
            ("http://minio.example:9000", "", false),
            ("http://127.0.0.1.example:9000", "", false),
            ("http://minio.example:9000", "false", false),
            ("http://minio.example:9000", "true", true),
        ] {
            let mut vars = KEYS.to_vec();
            vars.extend([("AWS_ENDPOINT_URL", endpoint), ("AWS_ALLOW_HTTP", allow)]);
            let opened = open_s3("s3://b/p", &opening(&vars));
            assert_eq!(opened.is_ok(), well, "{endpoint} {allow}: {:?}", opened.err());
        }
    }

    #[test]
    fn a_label_names_where_the_bucket_is_and_no_secret() {
        let mut vars = KEYS.to_vec();
        vars.push(("AWS_ENDPOINT_URL", "https://user:geheim@minio.example/"));
        let place = open_s3("s3://b/p/?conditional=no", &opening(&vars)).expect("opens");
        assert_eq!(place.label(), "s3://b/p at minio.example");

        let place = open_s3("s3://b", &opening(&KEYS)).expect("opens");
        assert_eq!(place.label(), "s3://b");

        let account = [("AZURE_STORAGE_ACCOUNT_NAME", "acc"), ("AZURE_STORAGE_ACCOUNT_KEY", "Z2VoZWlt")];
        assert_eq!(open_az("az://c/p", &opening(&account)).expect("opens").label(), "az://c/p at acc");
    }

    #[test]
    fn what_cannot_be_used_is_told_with_what_to_set_and_without_what_was_there() {
        let half = [("AWS_ACCESS_KEY_ID", "geheim")];
        let key = [("GOOGLE_SERVICE_ACCOUNT_KEY", "{\"private_key\": \"geheim\"}")];
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", "geheim!")];
        for (error, said) in [
            (open_s3("s3://b", &opening(&half)).err(), "AWS_SECRET_ACCESS_KEY"),
            (open_gs("gs://b", &opening(&key)).err(), "GOOGLE_APPLICATION_CREDENTIALS"),
            (open_az("az://b", &opening(&azure)).err(), "AZURE_STORAGE_ACCOUNT_KEY"),
            (open_az("az://b", &opening(&[])).err(), "AZURE_STORAGE_ACCOUNT_NAME"),
        ] {
            let error = error.expect(said);
            assert_eq!(error.kind, TransportErrorKind::Denied);
            assert!(error.to_string().contains(said), "{error}");
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
    }
}
