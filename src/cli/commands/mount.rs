//! `larder mount DIR` and `larder umount DIR`: the read-only view.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::context::Context;
use crate::cli::out::Answer;
use crate::config::{ByteCount, QuantityError};
use crate::daemon::Carry;
use crate::mount::{DEFAULT_CACHE_BYTES, MIN_CACHE_BYTES};
use crate::node::NodeError;

/// What `larder mount` takes.
#[derive(Args, Debug)]
pub struct MountArgs {
    /// A folder outside the project; it is made if it is not there
    pub dir: PathBuf,
    /// Let other users of this machine look, too
    #[arg(long)]
    pub allow_other: bool,
    /// Tell who wrote each file by extended attributes (`ls -l` becomes slow)
    #[arg(long)]
    pub xattrs: bool,
    /// Tell programs that watch folders of changes from elsewhere (root only; the first look at each file costs more)
    #[arg(long)]
    pub inotify: bool,
    #[command(flatten)]
    pub carry: CarryArgs,
    /// Return once it is mounted, and go on in the background
    #[arg(long, short = 'd')]
    pub background: bool,
    /// Options as in fstab: allow_other, xattrs, inotify, io_uring, passthrough, cache_size=SIZE; what is so anyway (ro, nosuid, nodev, noatime) and what is meant for others is accepted
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
    /// This is the process in the background
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// How the kernel gets what it shows.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct CarryArgs {
    /// Take the kernel's requests through io_uring, which makes first looks faster (where root has set fuse.enable_uring; not with --passthrough)
    #[arg(long, conflicts_with = "passthrough")]
    pub io_uring: bool,
    /// Read files from 1 MiB on at the disk's own speed, from plain copies below .larder (root only; every other file costs more to open)
    #[arg(long)]
    pub passthrough: bool,
    /// What these copies may take in all; never more than half of what the disk has free [default: 4GiB]
    #[arg(long, value_name = "SIZE", requires = "passthrough", value_parser = cache_size)]
    pub cache_size: Option<ByteCount>,
}

impl CarryArgs {
    /// The same for who mounts.
    pub fn carry(&self) -> Carry {
        let copies_bytes = self.passthrough.then(|| self.cache_size.map_or(DEFAULT_CACHE_BYTES, ByteCount::bytes));
        Carry { copies_bytes, rings: self.io_uring }
    }
}

fn refuse_size(why: String) -> NodeError {
    NodeError::user(format!("cache_size: {why}"), "name a size such as `cache_size=4GiB`")
}

fn cache_size(text: &str) -> Result<ByteCount, String> {
    let size: ByteCount = text.parse().map_err(|error: QuantityError| error.to_string())?;
    let is_enough = size.bytes() >= MIN_CACHE_BYTES;
    is_enough.then_some(size).ok_or_else(|| "a copy takes 1 MiB at least".to_owned())
}

/// Options that say what is so anyway, or what whoever called `mount` does with the line.
const WITHOUT_EFFECT: [&str; 16] = [
    "defaults",
    "ro",
    "nosuid",
    "nodev",
    "noatime",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "exec",
    "default_permissions",
];

impl MountArgs {
    /// With what `-o` says.
    fn resolved(&self) -> Result<MountArgs, NodeError> {
        let mut args = MountArgs { options: Vec::new(), dir: self.dir.clone(), ..*self };
        for option in self.options.iter().map(|option| option.trim()).filter(|option| !option.is_empty()) {
            match option {
                "allow_other" => args.allow_other = true,
                "xattrs" => args.xattrs = true,
                "inotify" => args.inotify = true,
                "io_uring" => args.carry.io_uring = true,
                "passthrough" => args.carry.passthrough = true,
                "rw" => return Err(NodeError::user("a view is read-only", "leave `rw` out")),
                other
                    if WITHOUT_EFFECT.contains(&other) || other.starts_with("x-") || other.starts_with("comment=") => {}
                other => match other.strip_prefix("cache_size=") {
                    Some(size) => args.carry.cache_size = Some(cache_size(size).map_err(refuse_size)?),
                    None => {
                        let message = format!("the mount option {} is unknown", larder_patterns::shown(other));
                        let known = "there are allow_other, xattrs, inotify, io_uring, passthrough and cache_size=SIZE";
                        return Err(NodeError::user(message, known));
                    }
                },
            }
        }
        if args.carry.io_uring && args.carry.passthrough {
            let message = "io_uring and passthrough cannot be had together";
            return Err(NodeError::user(message, "leave one of them out"));
        }
        if args.carry.cache_size.is_some() && !args.carry.passthrough {
            return Err(NodeError::user("cache_size without passthrough bounds nothing", "add `passthrough`"));
        }
        Ok(args)
    }
}

/// `mount.larder PROJECT DIR [-o OPTIONS]`, as `mount -t larder` and fstab call it, in this program's own words.
pub fn as_mount_helper(typed: &[OsString]) -> Option<Vec<OsString>> {
    let program = Path::new(typed.first()?).file_name()?;
    if program != "mount.larder" {
        return None;
    }
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let mut rest = typed[1..].iter();
    while let Some(word) = rest.next() {
        match word.to_str() {
            Some("-o") => options.extend(rest.next().cloned()),
            // Namespace and type, each with a value.
            Some("-N" | "-t") => drop(rest.next()),
            Some(flag) if flag.starts_with('-') => {}
            _ => places.push(word.clone()),
        }
    }
    let mut words: Vec<OsString> = vec!["larder".into(), "mount".into(), "--background".into()];
    options.into_iter().for_each(|option| words.extend(["-o".into(), option]));
    let mut places = places.into_iter();
    if let Some(project) = places.next() {
        words.extend(["--project".into(), project]);
    }
    words.extend(places);
    Some(words)
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
    use std::io::{BufRead, BufReader, Read};
    use std::process::{ChildStderr, Command, Stdio};
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use rustix::fs::OFlags;
    use serde_json::json;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    use super::{Answer, Context, MountArgs, NodeError, UmountArgs};
    use crate::cli::out::complain;
    use crate::mount::{
        Followed, Guardian, IndexCatalog, MountError, MountOptions, Passthrough, PlaceError, Teller, View, unmount_path,
    };
    use crate::node::Kind;

    /// Mounts until it is unmounted or a signal comes. Beside a daemon or without one: it only reads.
    pub fn run(context: &Context, args: &MountArgs) -> Result<(), NodeError> {
        let args = &args.resolved()?;
        if args.background && !args.detached {
            return in_background(context, args);
        }
        if args.detached {
            // Away from the terminal; refused only to who leads a session already.
            let _ = rustix::process::setsid();
        }
        let (wake, woken) = channel();
        catch_signals(&wake)?;
        let mut shown = show(context, args, 0, &wake)?;
        let dir = larder_patterns::shown(&shown.mounted().dir().to_string_lossy());
        if context.out.is_json() {
            context.out.line(&json!({ "mounted": dir }).to_string());
        } else {
            context.out.line(&format!("mounted at {dir}; `larder umount {dir}` or Ctrl-C takes it down"));
        }
        let mut number = 0;
        while wait(number, &woken) == End::Outdated {
            shown.unmount().map_err(refused)?;
            number += 1;
            shown = show(context, args, number, &wake)?;
        }
        shown.unmount().map_err(refused)
    }

    /// Starts the same command anew and waits until it has mounted, or says why not.
    fn in_background(context: &Context, args: &MountArgs) -> Result<(), NodeError> {
        let internal = |what: &str, error: std::io::Error| NodeError::new(Kind::Internal, format!("{what}: {error}"));
        let program = std::env::current_exe().map_err(|error| internal("find this program", error))?;
        let mut command = Command::new(program);
        command.args(context.retyped()).args(["mount", "--detached"]);
        command.args(args.allow_other.then_some("--allow-other")).args(args.xattrs.then_some("--xattrs"));
        command
            .args(args.inotify.then_some("--inotify"))
            .args(args.carry.io_uring.then_some("--io-uring"))
            .args(args.carry.passthrough.then_some("--passthrough"));
        command.args(args.carry.cache_size.map(|size| format!("--cache-size={}", size.bytes())));
        // The folder as it was typed: the other process stands in the same place.
        command.arg("--").arg(&args.dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| internal("start a process", error))?;
        let mut first = String::new();
        let mut said = child.stdout.take().map(BufReader::new);
        if let Some(said) = &mut said {
            said.read_line(&mut first).map_err(|error| internal("wait for the mount", error))?;
        }
        if !first.is_empty() {
            pass_on(child.stderr.as_mut());
            let dir = larder_patterns::shown(&args.dir.to_string_lossy());
            if context.out.is_json() {
                context.out.line(&json!({ "mounted": dir, "pid": child.id() }).to_string());
            } else {
                context
                    .out
                    .line(&format!("mounted at {dir} by process {}; `larder umount {dir}` takes it down", child.id()));
            }
            return Ok(());
        }
        let mut why = String::new();
        if let Some(mut errors) = child.stderr.take() {
            let _ = errors.read_to_string(&mut why);
        }
        let _ = child.wait();
        let mut lines = why.lines();
        let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let message = if message.is_empty() { "the process in the background ended".to_owned() } else { message };
        let hint = lines.next().unwrap_or_default().trim_start_matches("help: ").to_owned();
        Err(NodeError::user(message, if hint.is_empty() { "see `larder doctor`".to_owned() } else { hint }))
    }

    /// Says what the process in the background has said by now; nobody hears what it says later.
    fn pass_on(said: Option<&mut ChildStderr>) {
        let Some(said) = said else { return };
        let mut text = Vec::new();
        if rustix::fs::fcntl_setfl(&*said, OFlags::NONBLOCK).is_ok() {
            // Ends with "nothing more yet".
            let _ = said.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).lines().for_each(complain);
    }

    /// What ends the waiting.
    enum Wake {
        /// A signal.
        Signal,
        /// This mount was taken down, by anybody.
        Gone(u64),
        /// What this mount shows was made anew.
        Outdated(u64),
    }

    /// Why a view is shown no longer.
    #[derive(PartialEq, Eq)]
    enum End {
        /// Somebody ended it.
        Wanted,
        /// The index was made anew.
        Outdated,
    }

    fn catch_signals(wake: &Sender<Wake>) -> Result<(), NodeError> {
        let internal = |error: std::io::Error| NodeError::new(Kind::Internal, format!("catch signals: {error}"));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(internal)?;
        let wake = wake.clone();
        let body = move || signals.forever().for_each(|_| drop(wake.send(Wake::Signal)));
        std::thread::Builder::new().name("larder-signals".to_owned()).spawn(body).map(drop).map_err(internal)
    }

    /// Mounts what the index holds now; `number` tells its words on the channel from those of another mount.
    fn show(context: &Context, args: &MountArgs, number: u64, wake: &Sender<Wake>) -> Result<Followed, NodeError> {
        let mut glance = context.glance()?;
        glance.index()?;
        let index = glance.dirs.index();
        let catalog = IndexCatalog::new(index.clone(), Arc::new(glance.take_contents()?));
        let view = View::new(catalog).with_clock(context.env.clock.clone());
        let carry = args.carry.carry();
        let options = MountOptions {
            // Nobody may listen any more: then it is lost, and `status` still names what is damaged.
            teller: Teller::by(|sentence| complain(&format!("! {}", larder_patterns::shown(sentence)))),
            allow_other: args.allow_other,
            xattrs: args.xattrs,
            inotify: args.inotify,
            rings: carry.rings,
            passthrough: carry.copies_bytes.map(|bytes| Passthrough::new(glance.dirs.cache(), bytes)),
            project_roots: vec![glance.settings.root_dir.clone()],
            guardian: Some(Guardian::this_program()),
            ..MountOptions::default()
        };
        let (ended, outdated) = (wake.clone(), wake.clone());
        let outdated = move || drop(outdated.send(Wake::Outdated(number)));
        let shown = Followed::mount(view, &index, &args.dir, &options, outdated).map_err(refused)?;
        let internal =
            |error: std::io::Error| NodeError::new(Kind::Internal, format!("wait for the view's end: {error}"));
        shown.mounted().when_ended(move || drop(ended.send(Wake::Gone(number)))).map_err(internal)?;
        Ok(shown)
    }

    /// Waits until a mount is to be shown no longer.
    fn wait(number: u64, woken: &Receiver<Wake>) -> End {
        loop {
            match woken.recv() {
                Ok(Wake::Outdated(of)) if of == number => return End::Outdated,
                Ok(Wake::Gone(of)) if of == number => return End::Wanted,
                Ok(Wake::Signal) | Err(_) => return End::Wanted,
                // Of a mount before this one.
                Ok(Wake::Outdated(_) | Wake::Gone(_)) => {}
            }
        }
    }

    fn refused(error: MountError) -> NodeError {
        match error {
            MountError::System { .. } => NodeError::new(Kind::Internal, error.to_string()),
            MountError::Place(PlaceError::AlreadyMounted { .. }) => {
                NodeError::user(error.to_string(), "or name another folder: a project may be shown in several places")
            }
            MountError::Place(
                PlaceError::NoDevice { .. } | PlaceError::DeviceDenied { .. } | PlaceError::NoHelper { .. },
            ) => NodeError::user(error.to_string(), "`larder export --tree DIR` writes the same as plain files"),
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
