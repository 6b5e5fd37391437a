//! Starting, the loop of notes, and ending.

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_adapters::{Cursor, Query, Subscription};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::cycle::Cycle;
use super::notes::{Inbox, Note, Notes, notes};
use super::socket::{Asked, Listener, listen};
use super::{Carry, Reply, Request, Served, UpOptions};
use crate::env::Env;
use crate::model::RelPath;
use crate::mount::{Followed, Guardian, IndexCatalog, MountOptions, Passthrough, Teller, View};
use crate::node::{Kind, Node, NodeError, OpenOptions};
use crate::server::{OnArrival, Server};
use crate::sync::{self, Progress};
use crate::transport::Cancel;
use crate::watch::{WatchOptions, Watcher};

/// Runs until SIGTERM, SIGINT or `Request::Stop`. `say` gets plain lines for the user; `ready` comes after the first run.
pub fn up(env: &Env, options: &UpOptions, progress: Arc<dyn Progress>, say: &dyn Fn(&str)) -> Result<(), NodeError> {
    if let Some(serve) = &options.serve {
        // Before the first run, which may take long.
        serve.check().map_err(super::serve::refused)?;
    }
    let (notes, inbox) = notes();
    let over = Cancel::new();
    let signals = catch_signals(&notes, &over)?;
    let _backend_too = over.on_cancel(larder_adapters::drive::end);
    let open = OpenOptions { keeps_running: true, ..options.open.clone() };
    let node = Node::open(env, &open, progress.clone())?;
    // Watch first, then scan: what happens in between is hinted and found.
    let watcher = start_watcher(&node, &notes)?;
    for line in watcher.mode().report() {
        say(&line);
    }
    let mounted = match &options.mount {
        Some(dir) => Some(mount_view(&node, dir, options.carry, &notes)?),
        None => None,
    };
    let listener = start_listener(&node, &notes, &over)?;
    let mut cycle = Cycle::new(node, watcher, mounted, progress);
    cycle.set_carry(options.carry);
    cycle.set_over(over);
    cycle.subscribe(&notes);
    let mut server = None;
    let mut is_ready = false;
    let mut get_ready = |cycle: &mut Cycle| -> Result<(), NodeError> {
        if !std::mem::replace(&mut is_ready, true) {
            // Only now this project has an id that devices can know it by.
            server = start_server(env, options, &notes, say)?;
            cycle.set_served_at(server.as_ref().map(Server::url));
            say("ready");
        }
        Ok(())
    };
    match cycle.run_all(say) {
        // Whoever starts it at boot does not start it again.
        Err(error) if error.is_about_room() => cycle.failed(&error, say)?,
        ran => ran.and_then(|()| get_ready(&mut cycle))?,
    }
    let ended = serve(&mut cycle, &inbox, &mut get_ready, say);
    drop(server);
    drop(listener);
    signals.close();
    cycle.finish();
    ended
}

/// The loop. `get_ready` is told of each run that went well.
fn serve(
    cycle: &mut Cycle,
    inbox: &Inbox,
    get_ready: &mut dyn FnMut(&mut Cycle) -> Result<(), NodeError>,
    say: &dyn Fn(&str),
) -> Result<(), NodeError> {
    loop {
        let first = match inbox.recv_timeout(cycle.time_to_next()) {
            Ok(note) => Some(note),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let mut asked = Vec::new();
        for note in first.into_iter().chain(inbox.try_iter()) {
            match note {
                Note::Watch => cycle.take_hints(say)?,
                Note::Backend => cycle.backend_changed(),
                Note::Peer(name) => cycle.peer_changed(name),
                Note::Inbox => cycle.inbox_filled(),
                Note::Asked(ask) => asked.push(ask),
                Note::View(sentence) => cycle.not_shown(sentence, say),
                Note::Stop => return Ok(()),
            }
        }
        let wants_run = asked.iter().any(|ask| ask.request == Request::Sync);
        if wants_run {
            cycle.take_hints(say)?;
        }
        let outcome = cycle.run_due(wants_run.then_some(sync::Asked::Everybody), say);
        let mut stop = false;
        for ask in asked {
            stop |= ask.request == Request::Stop;
            let reply = match (&ask.request, &outcome) {
                (Request::Sync, Ok(report)) => Reply::told(report, cycle.remains(report.as_ref())),
                (Request::Change(change), _) => match cycle.change(change, say) {
                    Ok(report) => Reply::told(&report, cycle.remains(Some(&report))),
                    Err(error) => Reply::refused(&error),
                },
                (Request::Errand(errand), _) => match cycle.lend(errand, say)? {
                    Ok(done) => Reply::told(&done, None),
                    Err(error) => Reply::refused(&error),
                },
                (Request::Sync, Err(error)) => Reply::refused(error),
                _ => Reply::glanced(&cycle.lines(), cycle.failure()),
            };
            // The asker hung up.
            drop(ask.answer.send(reply));
        }
        match outcome {
            Err(error) => cycle.failed(&error, say)?,
            Ok(Some(_)) => get_ready(cycle)?,
            Ok(None) => {}
        }
        if stop {
            return Ok(());
        }
    }
}

fn start_listener(node: &Node, notes: &Notes, over: &Cancel) -> Result<Listener, NodeError> {
    let (notes, over) = (notes.clone(), over.clone());
    let take = move |ask: Asked| {
        if ask.request == Request::Stop {
            over.cancel();
        }
        notes.send(Note::Asked(ask));
    };
    listen(&node.dirs.socket(), take)
        .map_err(|error| NodeError::new(Kind::Internal, format!("listen on the control socket: {error}")))
}

fn start_server(
    env: &Env,
    options: &UpOptions,
    notes: &Notes,
    say: &dyn Fn(&str),
) -> Result<Option<Server>, NodeError> {
    let Some(serve) = &options.serve else { return Ok(None) };
    let notes = notes.clone();
    let on_arrival: OnArrival = Arc::new(move || notes.send(Note::Inbox));
    let server = super::serve::start(env, &Served::Project(Box::new(options.open.clone())), serve, on_arrival)?;
    say(&format!("serving at {}", server.url()));
    Ok(Some(server))
}

/// Ends the signal thread when closed.
pub(super) struct Signals(signal_hook::iterator::Handle);

impl Signals {
    pub fn close(&self) {
        self.0.close();
    }
}

/// A signal is a note, and throws `over` at once.
pub(super) fn catch_signals(notes: &Notes, over: &Cancel) -> Result<Signals, NodeError> {
    let internal = |error: std::io::Error| NodeError::new(Kind::Internal, format!("catch signals: {error}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(internal)?;
    let handle = signals.handle();
    let (notes, over) = (notes.clone(), over.clone());
    let body = move || {
        for _ in signals.forever() {
            over.cancel();
            if !notes.try_send(Note::Stop) {
                return;
            }
        }
    };
    std::thread::Builder::new().name("larder-signals".to_owned()).spawn(body).map_err(internal)?;
    Ok(Signals(handle))
}

/// The config and a backend file inside the root are hinted at too.
fn start_watcher(node: &Node, notes: &Notes) -> Result<Watcher, NodeError> {
    let config = config_path(node);
    let options = WatchOptions {
        respect_gitignore: node.settings.respect_gitignore.value,
        also: config.into_iter().collect(),
        ..WatchOptions::default()
    };
    let notes = notes.clone();
    let wake = move || notes.send(Note::Watch);
    let started = Watcher::start(node.engine.root(), node.settings.rules.clone(), options, wake);
    let (watcher, _) = started.map_err(|error| NodeError::new(Kind::Internal, error.to_string()))?;
    Ok(watcher)
}

/// Where the config stands below the root, if it does.
pub(super) fn config_path(node: &Node) -> Option<RelPath> {
    let file = node.settings.config.file();
    let below = file.strip_prefix(&node.settings.root_dir).ok()?;
    RelPath::parse(below.to_str()?).ok()
}

/// Mounts the view.
pub(super) fn mount_view(node: &Node, dir: &Path, carry: Carry, notes: &Notes) -> Result<Followed, NodeError> {
    let catalog = IndexCatalog::new(node.dirs.index(), node.engine.contents());
    let view = View::new(catalog).with_clock(node.env.clock.clone());
    // The channel does not wait, and a loop that ended has nobody to say it to.
    let notes = Mutex::new(notes.clone());
    let teller = Teller::by(move |sentence| {
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.send(Note::View(larder_patterns::shown(sentence)));
    });
    let project_roots = vec![node.settings.root_dir.clone()];
    let passthrough = carry.copies_bytes.map(|bytes| Passthrough::new(node.dirs.cache(), bytes));
    let guardian = Some(Guardian::this_program());
    let options =
        MountOptions { teller, project_roots, passthrough, guardian, rings: carry.rings, ..MountOptions::default() };
    // Whoever makes an index anew beside its daemon is the daemon: it looks by itself.
    Followed::mount(view, &node.dirs.index(), dir, &options, || {})
        .map_err(|error| NodeError::new(Kind::User, error.to_string()))
}

/// Subscribes to rows and artifacts of the backend.
pub(super) fn subscribe(node: &Node, notes: &Notes) -> Vec<Subscription> {
    let Some(adapter) = node.engine.adapter() else { return Vec::new() };
    let app = node.settings.app_id.value.clone();
    let apps = [app.clone(), format!("{app}-ledger")];
    let subscribe = |app: &String| {
        let notes = notes.clone();
        let sink = Box::new(move |_| notes.send(Note::Backend));
        adapter.subscribe(&Query::changes(app, None, Cursor::start(), 1), Cursor::start(), sink).ok()
    };
    apps.iter().filter_map(subscribe).collect()
}

/// The longest sleep.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
