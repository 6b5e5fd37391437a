//! `larder mount DIR` and `larder umount DIR`: the read-only view.

use std::path::PathBuf;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::node::NodeError;

/// What `larder mount` takes.
#[derive(Args, Debug)]
pub struct MountArgs {
    /// A folder outside the project; it is made if it is not there
    pub dir: PathBuf,
    /// Let other users of this machine look, too
    #[arg(long)]
    pub allow_other: bool,
}

/// What `larder umount` takes.
#[derive(Args, Debug)]
pub struct UmountArgs {
    /// Where the view is mounted
    pub dir: PathBuf,
}

#[cfg(target_os = "linux")]
pub use linux::{run, take_down};

/// There is no view elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn run(_context: &Context, _args: &MountArgs) -> Result<(), NodeError> {
    Err(NodeError::user("views are mounted on Linux only", "use `larder ls` and `larder cat`"))
}

/// There is no view elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn take_down(_context: &Context, _args: &UmountArgs) -> Result<Answer, NodeError> {
    Err(NodeError::user("views are mounted on Linux only", "nothing has to be done"))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

    use serde_json::json;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::{Answer, Context, MountArgs, NodeError, UmountArgs};
    use crate::mount::{IndexCatalog, MountError, MountOptions, Mounted, PlaceError, View, mount, unmount_path};
    use crate::node::Kind;
    use crate::watch::{FileBell, Looks};

    /// Mounts until it is unmounted or a signal comes. Beside a daemon or without one: it only reads.
    pub fn run(context: &Context, args: &MountArgs) -> Result<(), NodeError> {
        let mut glance = context.glance()?;
        glance.index()?;
        let contents = glance.contents.take().map(Arc::new);
        let Some(contents) = contents else { return glance.contents().map(drop) };
        let (wake, woken) = channel();
        catch_signals(&wake)?;
        let catalog = IndexCatalog::new(glance.dirs.index(), contents);
        let view = Arc::new(View::new(catalog).with_clock(context.env.clock.clone()));
        let options = MountOptions {
            allow_other: args.allow_other,
            project_roots: vec![glance.settings.root_dir.clone()],
            ..MountOptions::default()
        };
        let mounted = mount(view.clone(), &args.dir, &options).map_err(refused)?;
        let dir = larder_patterns::shown(&mounted.dir().to_string_lossy());
        if context.out.is_json() {
            context.out.line(&json!({ "mounted": dir }).to_string());
        } else {
            context.out.line(&format!("mounted at {dir}; `larder umount {dir}` or Ctrl-C takes it down"));
        }
        let (ended, written) = (wake.clone(), wake);
        let told = mounted.when_ended(move || drop(ended.send(Wake::End)));
        told.map_err(|error| NodeError::new(Kind::Internal, format!("wait for the view's end: {error}")))?;
        let bell = FileBell::of_database(&glance.dirs.index(), move || drop(written.send(Wake::Index)));
        serve(&view, &mounted, bell.looks(), &woken);
        mounted.unmount().map_err(refused)
    }

    /// What ends the waiting.
    enum Wake {
        /// The index may hold something new.
        Index,
        /// A signal, or somebody unmounted it.
        End,
    }

    fn catch_signals(wake: &Sender<Wake>) -> Result<(), NodeError> {
        let internal = |error: std::io::Error| NodeError::new(Kind::Internal, format!("catch signals: {error}"));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(internal)?;
        let wake = wake.clone();
        let body = move || signals.forever().for_each(|_| drop(wake.send(Wake::End)));
        std::thread::Builder::new().name("larder-signals".to_owned()).spawn(body).map(drop).map_err(internal)
    }

    /// Shows what another process recorded. What cannot be read now is told again at the next look.
    fn serve(view: &View<IndexCatalog>, mounted: &Mounted, mut looks: Looks, woken: &Receiver<Wake>) {
        let mut shown_row = view.catalog().last_row().unwrap_or(0);
        loop {
            match woken.recv_timeout(looks.wait()) {
                Ok(Wake::Index) => looks.rang(),
                Err(RecvTimeoutError::Timeout) => looks.in_vain(),
                Ok(Wake::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
            if woken.try_iter().any(|wake| matches!(wake, Wake::End)) {
                return;
            }
            let Ok((changes, row)) = view.catalog().changes_since(shown_row) else { continue };
            if changes.is_empty() {
                continue;
            }
            looks.rang();
            if let Ok(invalidations) = view.refresh(&changes) {
                mounted.notify(invalidations);
                shown_row = row;
            }
        }
    }

    fn refused(error: MountError) -> NodeError {
        match error {
            MountError::System { .. } => NodeError::new(Kind::Internal, error.to_string()),
            _ => NodeError::user(
                error.to_string(),
                "name an empty folder outside the project; `larder doctor` says what mounting needs",
            ),
        }
    }

    /// Takes a view down, also one whose daemon is gone.
    pub fn take_down(_context: &Context, args: &UmountArgs) -> Result<Answer, NodeError> {
        let shown = larder_patterns::shown(&args.dir.to_string_lossy());
        unmount_path(&args.dir).map_err(|error| {
            let hint = match &error {
                PlaceError::NotMounted { .. } => "nothing has to be done",
                PlaceError::Foreign { .. } => "it is not Larder's and was left alone",
                _ => "see `larder doctor`",
            };
            NodeError::user(error.to_string(), hint)
        })?;
        Ok(Answer::new(vec![format!("unmounted {shown}")], json!({ "unmounted": shown })))
    }
}
