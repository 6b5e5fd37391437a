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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use serde_json::json;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    use super::{Answer, Context, MountArgs, NodeError, UmountArgs};
    use crate::mount::{IndexCatalog, MountError, MountOptions, Mounted, PlaceError, View, mount, unmount_path};
    use crate::node::Kind;

    /// How often new versions are looked for; another process records them.
    const LOOK_EVERY: Duration = Duration::from_secs(1);

    /// Mounts until it is unmounted or a signal comes. Beside a daemon or without one: it only reads.
    pub fn run(context: &Context, args: &MountArgs) -> Result<(), NodeError> {
        let mut glance = context.glance()?;
        glance.index()?;
        let contents = glance.contents.take().map(Arc::new);
        let Some(contents) = contents else { return glance.contents().map(drop) };
        let stop = stop_flag()?;
        let view = Arc::new(View::new(IndexCatalog::new(glance.dirs.index(), contents)));
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
        serve(&view, &mounted, &stop);
        mounted.unmount().map_err(refused)
    }

    fn stop_flag() -> Result<Arc<AtomicBool>, NodeError> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let registered = signal_hook::flag::register(signal, stop.clone());
            registered.map_err(|error| NodeError::new(Kind::Internal, format!("catch signals: {error}")))?;
        }
        Ok(stop)
    }

    /// What cannot be read now is told again at the next look.
    fn serve(view: &View<IndexCatalog>, mounted: &Mounted, stop: &AtomicBool) {
        let mut shown_row = view.catalog().last_row().unwrap_or(0);
        while !mounted.wait_ended(LOOK_EVERY) && !stop.load(Ordering::SeqCst) {
            let Ok((changes, row)) = view.catalog().changes_since(shown_row) else { continue };
            if changes.is_empty() {
                continue;
            }
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
