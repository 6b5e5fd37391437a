//! Serving: a server for the project at hand, inside `up` or alone, or for a plain store.
//!
//! Invariant: whatever is served, what arrives for the project is told to whoever holds it, at once; a server alone takes no lock and
//! changes no ledger: it hands artifacts on, and they wait in the inbox. Who may come stands at the project's desk,
//! `.larder/serve/`, or, for a plain store, outside of it, in the state folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use super::notes::{Note, notes};
use super::up::catch_signals;
use super::{Request, ask};
use crate::env::Env;
use crate::ledger::Identity;
use crate::model::Hash;
use crate::node::{Kind, NodeError, OpenOptions, ProjectDirs, refuse_another_users};
use crate::server::{Desk, OnArrival, ServeError, ServeOptions, Server, Shelf};
use crate::transport::Cancel;

/// The desk's folder, in `.larder` and in the state folder.
const DESK: &str = "serve";

/// What is served.
#[derive(Clone)]
pub enum Served {
    /// The project that is found so.
    Project(Box<OpenOptions>),
    /// A folder, for whatever project comes.
    Store(PathBuf),
}

/// The desk at which the devices of what is served are let in.
///
/// Errors: User if there is no such project or folder.
fn desk(env: &Env, served: &Served) -> Result<Desk, NodeError> {
    open_desk(&desk_folder(env, served)?)
}

fn desk_folder(env: &Env, served: &Served) -> Result<PathBuf, NodeError> {
    Ok(match served {
        Served::Project(options) => {
            let dirs = project_dirs(env, options)?.0;
            refuse_another_users(&dirs, env)?;
            let larder = dirs.larder;
            if !larder.join("origin.json").exists() {
                return Err(NodeError::user("this project never ran here", "run `larder sync` once"));
            }
            larder.join(DESK)
        }
        Served::Store(dir) => {
            let refused = |error: std::io::Error| {
                let message = format!("serve {}: {error}", larder_patterns::shown(&dir.to_string_lossy()));
                NodeError::user(message, "name a folder that is there")
            };
            let real = dir.canonicalize().map_err(refused)?;
            let name = Hash::of(std::os::unix::ffi::OsStrExt::as_bytes(real.as_os_str())).short(32);
            env.state_home.join(DESK).join(name)
        }
    })
}

fn open_desk(folder: &Path) -> Result<Desk, NodeError> {
    Desk::open(folder).map_err(|error| {
        let message = format!("open {}: {error}", larder_patterns::shown(&folder.to_string_lossy()));
        NodeError::user(message, "it must be a folder that you may write to")
    })
}

/// The same for a command beside a server: a code that lies where no server looks lets nobody in.
///
/// Errors: User if the desk is another user's, or, of a plain store, if no server of this user ever stood there.
pub fn desk_beside_server(env: &Env, served: &Served) -> Result<Desk, NodeError> {
    let folder = desk_folder(env, served)?;
    if let Served::Store(dir) = served
        && !Desk::is_of_server(&folder)
    {
        let shown = larder_patterns::shown(&dir.to_string_lossy());
        let message =
            format!("no `larder serve --store {shown}` ever ran as this user, whose codes alone are made here");
        return Err(NodeError::user(
            message,
            "run this as the user whom the server runs as, or start the server first",
        ));
    }
    if Desk::is_of_other_user(&folder) {
        let message = format!("{} is another user's", larder_patterns::shown(&folder.to_string_lossy()));
        return Err(NodeError::user(message, "run this as the user whom the server runs as"));
    }
    open_desk(&folder)
}

fn project_dirs(env: &Env, options: &OpenOptions) -> Result<(ProjectDirs, String), NodeError> {
    let settings = options.settings(env)?;
    Ok((ProjectDirs::of(&settings.config), settings.app_id.value))
}

/// Starts a server; `on_arrival` is told of every checkpoint that comes for the project.
pub(super) fn start(
    env: &Env,
    served: &Served,
    options: &ServeOptions,
    on_arrival: OnArrival,
) -> Result<Server, NodeError> {
    let desk = desk(env, served)?;
    let internal = |error: std::io::Error| NodeError::new(Kind::Internal, format!("open the desk: {error}"));
    // Not the device's key: a project that becomes a new origin stays the server that devices know.
    let id = desk.server_id(env).map_err(internal)?;
    let shelf = match served {
        Served::Project(open) => {
            let (dirs, app) = project_dirs(env, open)?;
            let identity = Identity::load(&dirs.larder)?;
            // Before any device of that name comes: it is this owner's.
            desk.set_owner(identity.private_space().as_str(), identity.owner_key()).map_err(internal)?;
            Shelf::of_project(&dirs.larder, &app)
        }
        Served::Store(dir) => Shelf::of_store(dir),
    };
    let shelf = shelf.map_err(|error| NodeError::user(error.to_string(), "name an empty folder, or a store"))?;
    Server::start(env, (shelf, desk, id), options, on_arrival).map_err(refused)
}

/// What a person can do about it.
pub(super) fn refused(error: ServeError) -> NodeError {
    let hint = match &error {
        ServeError::Plain { .. } => "a certificate of your own making will do: devices know it again",
        ServeError::Listen { .. } => "name another address with `--listen HOST:PORT`",
        ServeError::Tls { .. } => "both are PEM files; `--cert` may hold a whole chain",
        ServeError::Io { .. } => return NodeError::new(Kind::Internal, error.to_string()),
    };
    NodeError::user(error.to_string(), hint)
}

/// How the first code is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// A device may be paired at once: its code is said.
    Open,
    /// `larder peers invite` opens it.
    Shut,
}

/// Serves until SIGTERM, SIGINT or SIGHUP. `say` gets plain lines for the user.
pub fn serve(
    env: &Env,
    served: &Served,
    options: &ServeOptions,
    door: Door,
    say: &dyn Fn(&str),
) -> Result<(), NodeError> {
    let (notes, inbox) = notes();
    let signals = catch_signals(&notes, &Cancel::new())?;
    let (on_arrival, waker) = match served {
        Served::Project(open) => tell_holder(&project_dirs(env, open)?.0)?,
        Served::Store(_) => (Arc::new(|| ()) as OnArrival, None),
    };
    let server = start(env, served, options, on_arrival)?;
    say(&format!("serving at {}", server.url()));
    if let Served::Project(open) = served
        && project_dirs(env, open)?.0.holder().is_none()
    {
        say("no `larder up` runs here: what arrives is handed on, and waits for the next run");
    }
    if door == Door::Open {
        let code = server.invite().map_err(refused)?;
        say(&format!("code {code} (good once, for 10 minutes)"));
    }
    say("ready");
    while let Ok(note) = inbox.recv() {
        if matches!(note, Note::Stop) {
            break;
        }
    }
    signals.close();
    drop(server);
    drop(waker);
    Ok(())
}

/// Tells the daemon that holds the project, if one does, that something came: on a thread, because a run takes its time.
fn tell_holder(dirs: &ProjectDirs) -> Result<(OnArrival, Option<Sender<()>>), NodeError> {
    let (arrived, inbox) = channel::<()>();
    let (dirs, socket) = (dirs.clone(), dirs.socket());
    let body = move || {
        while inbox.recv().is_ok() {
            // One run takes all that came until it begins.
            while inbox.try_recv().is_ok() {}
            tell(&dirs, &socket);
        }
    };
    let spawned = std::thread::Builder::new().name("larder-arrivals".to_owned()).spawn(body);
    spawned.map_err(|error| NodeError::new(Kind::Internal, format!("start a thread: {error}")))?;
    let tell = arrived.clone();
    let on_arrival: OnArrival = Arc::new(move || {
        // The thread lives as long as this does.
        let _ = tell.send(());
    });
    Ok((on_arrival, Some(arrived)))
}

fn tell(dirs: &ProjectDirs, socket: &Path) {
    if dirs.holder().is_some() {
        // Its own report says how it went.
        let _ = ask(socket, &Request::Sync);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_made_only_where_the_server_of_a_store_looks_for_it() {
        let (store, homes) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let of_user = |name: &str| Env { state_home: homes.path().join(name), ..Env::system() };
        let (server, other) = (of_user("server"), of_user("other"));
        let served = Served::Store(store.path().to_owned());
        desk(&server, &served).expect("opens").server_id(&server).expect("draws");

        let refused = desk_beside_server(&other, &served).expect_err("no server of that user ever stood there");

        assert_eq!(refused.kind, Kind::User);
        assert!(refused.hint.is_some_and(|hint| hint.contains("as the user")), "{}", refused.message);
        assert!(!other.state_home.exists(), "nothing is made where no server looks");
        assert!(desk_beside_server(&server, &served).is_ok());
    }
}
