//! What a person does about peers: name one, try it, say that it holds this project, take it out of the config.
//!
//! Invariant: the config is edited, never rewritten, and only to what is read back without an error; a place that refuses is
//! not named. Takes no lock and works beside a daemon, which picks the edit up.

use super::Way;
use super::error::{Kind, NodeError};
use super::identity::identity_of;
use super::open::{OpenOptions, ProjectDirs, require_consent, trust_of};
use crate::config::address::{self, Address};
use crate::config::{self, ConfigFile, Settings, edit, trust};
use crate::env::Env;
use crate::state::State;
use crate::sync::{Peer, SyncError, held_there, open_peer, projects};
use crate::transport::http::pairing::Code;
use crate::transport::http::{self, Pin, Plain, Site};
use crate::transport::{Marker, Transport, TransportErrorKind};
use std::sync::Arc;

/// Names made from addresses are cut here.
const MAX_NAME_CHARS: usize = 40;

/// What stands at a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// This project.
    HoldsProject,
    /// Nothing of this project's name yet.
    Empty,
}

/// Looks whether a peer of the config can be reached and is this project's. Writes nothing there.
///
/// Errors: User for a name that is not in the config, no consent, another project; Unavailable.
pub fn probe_peer(env: &Env, options: &OpenOptions, name: &str) -> Result<Probe, NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, false)?;
    probe(env, &settings, address_of(&settings, name)?)
}

/// Says that a peer's place is this project's, whatever it holds or lacks.
///
/// Errors: as `probe_peer`, and User if this project never ran here.
pub fn join_peer(env: &Env, options: &OpenOptions, name: &str, dry_run: bool) -> Result<(), NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, false)?;
    join(env, &settings, address_of(&settings, name)?, dry_run)
}

/// Adds a peer to the config, or gives one another address, after a look at it. A place that is merely away is added all
/// the same; why it is away is returned.
///
/// Errors: User for what can be no peer, for a place that refuses, and for another project's unless `joins`.
pub fn add_peer(
    env: &Env,
    options: &OpenOptions,
    (name, url): (&str, &str),
    joins: bool,
    dry_run: bool,
) -> Result<Option<NodeError>, NodeError> {
    check_address(url)?;
    let old = options.settings(env)?;
    let bytes = old.config.read()?;
    let text = String::from_utf8_lossy(&bytes);
    let edited = edit::set_peer(&text, name, url)
        .ok_or_else(|| NodeError::user("the config is no object", "see `docs/config.md` for what a config holds"))?;
    let file = ConfigFile::parse(edited.as_bytes(), old.config.file())?;
    let new = Settings::resolve(&old.config, file, env, &options.flags)?;
    let address = address_of(&new, name)?;
    let mut away = unpaired(&new, address)?;
    let looked = if away.is_none() { probe(env, &new, address).map(drop) } else { Ok(()) };
    match looked {
        Ok(()) => {}
        Err(error) if error.kind == Kind::Unavailable => away = Some(error),
        // Only what another project's marker says can be overruled; everything else refuses again.
        Err(_) if joins => join(env, &new, address, dry_run)?,
        Err(error) => return Err(error),
    }
    if dry_run {
        return Ok(away);
    }
    // Who names an address agrees to it, also where the config came with it; but not to what else the config reaches.
    if trust::required_consent(&old, env).is_none() || trust::asks_only_for(&new, env, name) {
        trust::grant(&new, env)?;
    }
    write(&old, &bytes, &edited)?;
    Ok(away)
}

/// Pairs this device with the server at a peer's address: it knows the code that the server shows.
///
/// The device gets its identity here if it never ran. Errors: User for a wrong code, a peer that is no server and a line that
/// anybody could listen to; Unavailable.
pub fn pair_peer(env: &Env, options: &OpenOptions, name: &str, code: &Code, plain: Plain) -> Result<(), NodeError> {
    let settings = options.settings(env)?;
    require_consent(&settings, env, false)?;
    let address = address_of(&settings, name)?;
    if !is_server(address) {
        let message = format!("the peer {} is no server: nobody is let in there or not", larder_patterns::shown(name));
        return Err(NodeError::user(message, "only http:// and https:// addresses are paired with"));
    }
    let (identity, larder) = identity_of(env, options, &settings)?;
    let pin = http::pair(address.reveal(), &settings.app_id.value, &identity, code, plain);
    let pin = pin.map_err(|error| {
        let denied = error.kind == TransportErrorKind::Denied;
        let told = refused(error.into());
        let hint = "`larder peers invite` shows a new code at the server".to_owned();
        if denied { NodeError { hint: Some(hint), ..told } } else { told }
    })?;
    pin.save(&larder).map_err(|error| {
        let message =
            format!("keep what pairing found out in {}: {error}", larder_patterns::shown(&larder.to_string_lossy()));
        NodeError::user(message, "the server lets this device in; pair it again once the folder can be written to")
    })
}

/// True for the addresses of servers, which must know a device.
fn is_server(address: &Address) -> bool {
    let scheme = address::scheme(address.reveal()).map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

/// Why nothing can be said of a server yet: this device was not paired with it.
///
/// Errors: User for what is no address of one.
fn unpaired(settings: &Settings, address: &Address) -> Result<Option<NodeError>, NodeError> {
    if !is_server(address) {
        return Ok(None);
    }
    let site = Site::parse(address.reveal()).map_err(|why| {
        NodeError::user(format!("{address} can be no peer: {why}"), "name a server as https://HOST:PORT")
    })?;
    let larder = ProjectDirs::of(&settings.config).larder;
    let pinned = Pin::load(&larder, &site.address()).map_err(|error| refused(error.into()))?;
    Ok(pinned.is_none().then(|| NodeError {
        kind: Kind::Unavailable,
        message: format!("this device is not paired with {address} yet"),
        hint: Some("run `larder peers invite` there and `larder peers pair NAME` here".to_owned()),
    }))
}

/// Takes a peer out of the config; what it holds stays where it is.
pub fn remove_peer(env: &Env, options: &OpenOptions, name: &str, dry_run: bool) -> Result<(), NodeError> {
    let settings = options.settings(env)?;
    let bytes = settings.config.read()?;
    let text = String::from_utf8_lossy(&bytes);
    let Some(edited) = edit::remove_peer(&text, name) else {
        address_of(&settings, name)?;
        let message = format!("the peer {} is not named in the config", larder_patterns::shown(name));
        return Err(NodeError::user(message, "it comes from `LARDER_PEERS` or `--peer`"));
    };
    ConfigFile::parse(edited.as_bytes(), settings.config.file())?;
    if dry_run { Ok(()) } else { write(&settings, &bytes, &edited) }
}

/// The place that a command names: a peer of the config, by its name or its address, or any other by its address. What is typed is
/// consent by itself.
///
/// Errors: User for what is neither, for an address with a secret in it, and for a peer that the config uses the other way only.
pub(super) fn named_peer(settings: &Settings, named: &str, way: Way) -> Result<Peer, NodeError> {
    let with_address = settings.peers.iter().find(|(_, peer)| peer.value.address.reveal() == named);
    if let Some((name, setting)) = settings.peers.get_key_value(named).or(with_address) {
        let config::PeerSetting { address, private, pull, push, trust } = setting.value.clone();
        let trust = trust_of(trust.unwrap_or(settings.trust.value));
        let refused = match way {
            Way::Push if !push => Some("push"),
            Way::Pull if !pull => Some("pull"),
            _ => None,
        };
        return match refused {
            Some(way) => Err(NodeError::user(
                format!("the config says `\"{way}\": false` of the peer {}", larder_patterns::shown(name)),
                "take that out of the config, or name another place",
            )),
            None => Ok(Peer { name: name.clone(), address, private, pull, push, trust }),
        };
    }
    if !is_address(named) {
        address_of(settings, named)?;
    }
    check_address(named)?;
    let (name, address) = (address::shown(named), Address::new(named));
    Ok(Peer { name, address, private: false, pull: true, push: true, trust: trust_of(settings.trust.value) })
}

/// True for what can only be an address: a URL, or a path that shows itself as one.
pub fn is_address(named: &str) -> bool {
    address::scheme(named).is_some() || named.contains('/') || matches!(named, "." | ".." | "~")
}

fn check_address(url: &str) -> Result<(), NodeError> {
    address::check_peer(url).map_err(|why| {
        let message = format!("{} can be no peer: {why}", address::shown(url));
        NodeError::user(message, "see `docs/config.md` for what a peer can be")
    })?;
    match address::secret(url) {
        None => Ok(()),
        Some(secret) => {
            let message = format!("the address holds {secret}, which must not stand in a config");
            Err(NodeError::user(message, "leave it out of the address"))
        }
    }
}

/// What to call the peer at an address: what the config calls it already, or a name made from the address that is still free.
pub fn name_for(settings: &Settings, url: &str) -> String {
    let known = settings.peers.iter().find(|(_, peer)| peer.value.address.reveal() == url);
    if let Some((name, _)) = known {
        return name.clone();
    }
    let (place, _) = url.split_once('?').unwrap_or((url, ""));
    let part = match address::scheme(place) {
        // A bucket, or a host without its port.
        Some((_, rest)) => {
            let host = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
            host.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default()
        }
        None => place.trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let base: String = part.chars().map(|c| if plain(c) { c } else { '-' }).take(MAX_NAME_CHARS).collect();
    let base = base.trim_matches(['-', '.', '_']);
    let base = if base.is_empty() { "peer" } else { base };
    let numbered = (2..).map(|n| format!("{base}-{n}"));
    let mut names = std::iter::once(base.to_owned()).chain(numbered);
    // At most one of them for each peer is taken.
    names.find(|name| !settings.peers.contains_key(name)).unwrap_or_default()
}

fn write(settings: &Settings, old: &[u8], new: &str) -> Result<(), NodeError> {
    let file = settings.config.file();
    edit::replace(file, old, new.as_bytes()).map_err(|error| {
        let message = format!("write {}: {error}", larder_patterns::shown(&file.to_string_lossy()));
        NodeError::user(message, "nothing was changed; try it again")
    })
}

fn address_of<'a>(settings: &'a Settings, name: &str) -> Result<&'a Address, NodeError> {
    settings.peers.get(name).map(|peer| &peer.value.address).ok_or_else(|| {
        let known: Vec<&str> = settings.peers.keys().map(String::as_str).collect();
        let hint = match known.as_slice() {
            [] => "there are none; `larder peers add NAME ADDRESS` names one".to_owned(),
            _ => format!("there are {}", known.join(", ")),
        };
        NodeError::user(format!("no peer is called {}", larder_patterns::shown(name)), hint)
    })
}

fn open(env: &Env, settings: &Settings, address: &Address) -> Result<Arc<dyn Transport>, NodeError> {
    let larder = ProjectDirs::of(&settings.config).larder;
    let app = &settings.app_id.value;
    open_peer(env, address, app, &settings.root_dir, &larder).map_err(|error| refused_at(address, error.into()))
}

fn probe(env: &Env, settings: &Settings, address: &Address) -> Result<Probe, NodeError> {
    let place = open(env, settings, address)?;
    let app = &settings.app_id.value;
    let held = match State::open_read_only(&ProjectDirs::of(&settings.config).state())? {
        Some(state) => held_there(&state, address, &*place, app),
        // What never ran takes whatever is there.
        None => Marker::of_place(&*place, app, None, false).map_err(SyncError::from),
    };
    Ok(if held.map_err(|error| refused_at(address, error))?.is_some() { Probe::HoldsProject } else { Probe::Empty })
}

fn join(env: &Env, settings: &Settings, address: &Address, dry_run: bool) -> Result<(), NodeError> {
    let place = open(env, settings, address)?;
    let state = State::open_read_only(&ProjectDirs::of(&settings.config).state())?;
    let own = state.as_ref().map(projects).transpose()?.unwrap_or_default();
    let Some(own) = own.into_iter().next() else {
        let message = "this project never ran here, so there is nothing to join";
        return Err(NodeError::user(message, "run `larder sync`: it takes over what the peer holds by itself"));
    };
    if dry_run {
        return Ok(());
    }
    Marker::set_place(&*place, &settings.app_id.value, &own).map_err(|error| refused(error.into()))
}

/// As `refused`: a bucket that refuses does so because of who asks, and another place would not help.
fn refused_at(address: &Address, error: SyncError) -> NodeError {
    let scheme = address::scheme(address.reveal()).map(|(scheme, _)| scheme.to_ascii_lowercase());
    let is_bucket = matches!(scheme.as_deref(), Some("s3" | "gs" | "az"));
    let denied = matches!(&error, SyncError::Transport(error) if error.kind == TransportErrorKind::Denied);
    let told = refused(error);
    if !(is_bucket && denied) {
        return told;
    }
    let hint =
        "check the credentials in the environment, and what they may do there; `docs/config.md` names the variables";
    NodeError { hint: Some(hint.to_owned()), ..told }
}

/// A place that refuses is the user's to settle; one that is away is not.
fn refused(error: SyncError) -> NodeError {
    match error {
        SyncError::Transport(error) => {
            let away = matches!(error.kind, TransportErrorKind::Unavailable | TransportErrorKind::Throttled { .. });
            let hint = if away { "it is tried again at every exchange" } else { "name another place" };
            let kind = if away { Kind::Unavailable } else { Kind::User };
            NodeError { kind, message: error.to_string(), hint: Some(hint.to_owned()) }
        }
        SyncError::Marker(why) => {
            NodeError::user(why, "`--join` of `larder peers add`, or `larder peers join`, says that it is this project")
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigPath, Flags};

    fn settings(peers: &str) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("sync-config.json");
        std::fs::write(&file, format!("{{\"peers\": {peers}}}")).expect("writes");
        let (env, _) = Env::fixed(0, 1, "host", dir.path().to_owned());
        let settings = Settings::load(&ConfigPath::named(&file).expect("is there"), &env, &Flags::default());
        (dir, settings.expect("a config"))
    }

    #[test]
    fn a_bucket_that_refuses_is_told_to_be_a_matter_of_credentials_and_a_folder_is_not() {
        let hint = |address: &str| {
            let error = crate::transport::TransportError::new(TransportErrorKind::Denied, "list", "there", "no");
            refused_at(&Address::new(address), error.into()).hint.unwrap_or_default()
        };

        for bucket in ["s3://b/x", "gs://b", "AZ://c/x"] {
            assert!(hint(bucket).contains("credentials"), "{bucket}");
        }
        assert!(hint("/mnt/nas").contains("another place"));
    }

    #[test]
    fn a_name_is_made_from_the_address_and_never_taken_from_another_peer() {
        let (_dir, settings) = settings(r#"{ "nas": "/mnt/nas", "notes": "s3://notes/x", "notes-2": "s3://notes/y" }"#);
        for (address, name) in [
            ("/mnt/nas", "nas"),
            ("/other/nas/", "nas-2"),
            ("s3://notes/x", "notes"),
            ("s3://notes/z?conditional=no", "notes-3"),
            ("gs://my.bucket_1", "my.bucket_1"),
            ("https://host.example:8080/x", "host.example"),
            ("/mnt/Größe 1", "Gr--e-1"),
            ("/mnt/~~", "peer"),
            ("/", "peer"),
        ] {
            assert_eq!(name_for(&settings, address), name, "{address}");
        }
    }

    #[test]
    fn a_command_names_a_peer_by_name_or_address_or_any_place_by_its_address() {
        let (_dir, settings) = settings(
            r#"{ "nas": "/mnt/nas", "given": {"url": "/given", "pull": false}, "own": {"url": "/own", "private": true} }"#,
        );
        let named = |named: &str, way| named_peer(&settings, named, way).map(|peer| (peer.name, peer.private));

        assert_eq!(named("nas", Way::Push).expect("known"), ("nas".to_owned(), false));
        assert_eq!(named("/own", Way::Pull).expect("known by its address"), ("own".to_owned(), true));
        assert_eq!(named("/new", Way::Pull).expect("any place"), ("/new".to_owned(), false));
        assert!(named("given", Way::Push).is_ok());
        for (wrong, way, said) in [
            ("given", Way::Pull, "`\"pull\": false`"),
            ("nowhere", Way::Push, "no peer is called nowhere"),
            ("ftp://x", Way::Push, "is no kind of peer"),
            ("https://u:geheim@h/x", Way::Push, "a password"),
        ] {
            let error = named(wrong, way).expect_err(wrong);
            assert!(error.message.contains(said) && !error.message.contains("geheim"), "{error}");
            assert_eq!(error.kind, Kind::User);
        }
    }
}
