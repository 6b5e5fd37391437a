//! Opening a project: config, consent, lock, identity, state, ledger, index, backend; in this order.
//!
//! Invariant: nothing is written before the config is valid and consent is there; a folder whose identity is in doubt is
//! never written with. A backend that is away does not stop opening: files are kept, and `status` says so.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use larder_adapters::{AdapterError, BackendUrl, ErrorKind, FileSyncAdapter, OpenContext};

use super::error::{Kind, NodeError};
use super::identity::{is_in, open_identity, refusal_of_run, set_aside_foreign};
use super::lock::{ProjectLock, read_holder, take_lock};
use crate::config::{self, ConfigPath, Flags, Settings, Source};
use crate::env::{Env, at_short_path, mount_of};
use crate::index::{ContentReader, Index, ONCE_CACHE_BYTES, Opened, Reader, Replayed, replay};
use crate::ledger::{ArtifactName, Identity, Ledger, ShortHash};
use crate::model::{Chain, Hash};
use crate::scan::Root;
use crate::state::State;
use crate::sync::exchange::Trust;
use crate::sync::{Engine, Parts, Peer, Policy, Progress};
use crate::transport::{CALL, DeadlineBackend, Deadlines};

/// Where a project's own files are.
#[derive(Clone, Debug)]
pub struct ProjectDirs {
    /// `.larder`, beside the config.
    pub larder: PathBuf,
}

impl ProjectDirs {
    /// Those of a config.
    pub fn of(config: &ConfigPath) -> ProjectDirs {
        ProjectDirs { larder: config.dir().join(".larder") }
    }

    /// `state.db`.
    pub fn state(&self) -> PathBuf {
        self.larder.join("state.db")
    }

    /// `index.db`.
    pub fn index(&self) -> PathBuf {
        self.larder.join("index.db")
    }

    /// `fts.db`, if somebody has searched.
    pub fn fts(&self) -> PathBuf {
        self.larder.join("fts.db")
    }

    /// Where a mount lays its plain copies of long files: a folder that stays empty, as they have no names.
    pub fn cache(&self) -> PathBuf {
        self.larder.join("cache")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.larder.join("control.sock")
    }

    /// True if a daemon listens there.
    pub fn has_daemon(&self) -> bool {
        at_short_path(&self.socket(), |path| UnixStream::connect(path)).is_ok()
    }

    /// The lock; holds the process id of its holder.
    pub fn lock(&self) -> PathBuf {
        self.larder.join("lock")
    }

    /// The process id of the daemon or command that holds the project, if one does.
    pub fn holder(&self) -> Option<u32> {
        let mut file = File::open(self.lock()).ok()?;
        let holder = read_holder(&mut file)?;
        // Only a process that lives may hold it. The lock is not touched otherwise: whoever takes it at this moment
        // must not find it taken by somebody who only looks.
        let pid = i32::try_from(holder).ok().and_then(rustix::process::Pid::from_raw)?;
        let lives = !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
        (lives && file.try_lock_shared().is_err()).then_some(holder)
    }
}

/// How to find and open a project.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Where the search for a config begins.
    pub start_dir: PathBuf,
    /// A config named by the user.
    pub config: Option<PathBuf>,
    /// Values named by flags.
    pub flags: Flags,
    /// The user agrees to what the config reaches beyond its folder.
    pub trust: bool,
    /// A backend handed in by the caller instead of the one the config names.
    pub adapter: Option<Arc<dyn FileSyncAdapter>>,
    /// The project's lock, lent by its holder, who does nothing with the project meanwhile.
    pub lock: Option<Arc<ProjectLock>>,
    /// Until when to wait for a command that holds the project.
    pub patience: Option<Instant>,
    /// The project is opened to be kept running: a backend that does not answer is not waited for.
    pub keeps_running: bool,
}

impl OpenOptions {
    /// The lock that was lent, or the project's own, taken now.
    pub(super) fn lock_of(&self, dirs: &ProjectDirs) -> Result<Arc<ProjectLock>, NodeError> {
        self.lock.clone().map_or_else(|| take_lock(dirs, self.patience).map(Arc::new), Ok)
    }

    /// Finds and reads the config.
    pub fn settings(&self, env: &Env) -> Result<Settings, NodeError> {
        let config = match &self.config {
            Some(path) => ConfigPath::named(path)?,
            None => config::discover(&self.start_dir)?,
        };
        Ok(Settings::load(&config, env, &self.flags)?)
    }
}

/// A project, open for writing.
pub struct Node {
    /// What the config says.
    pub settings: Settings,
    /// Where its files are.
    pub dirs: ProjectDirs,
    /// Clock, randomness, variables.
    pub env: Env,
    /// The engine.
    pub engine: Engine,
    /// How it was opened; for a reload of the config.
    pub options: OpenOptions,
    /// Why the backend could not be opened, if it could not.
    pub backend_error: Option<NodeError>,
    /// What the backend holds or answered made no sense in the last run: it is opened anew, which makes or asks for what is missing.
    pub(super) is_backend_odd: bool,
    /// It was tried when the project was opened, and no run has begun since.
    is_backend_tried: bool,
    /// Something was recorded that the backend could not be given: it is when it is heard of again.
    pub(super) unsent: bool,
    // Last: everything else is closed before the lock says so.
    lock: Arc<ProjectLock>,
}

impl Node {
    /// Opens the project for writing.
    pub fn open(env: &Env, options: &OpenOptions, progress: Arc<dyn Progress>) -> Result<Node, NodeError> {
        let settings = options.settings(env)?;
        require_consent(&settings, env, options.trust)?;
        let dirs = ProjectDirs::of(&settings.config);
        let identity_owner = settings.owner_id.value.clone();
        if options.lock.is_none() {
            set_aside_foreign(&dirs, env, &identity_owner)?;
        }
        create_private_folder(&dirs.larder)?;
        let lock = options.lock_of(&dirs)?;
        let identity = open_identity(&dirs, env, &identity_owner)?;
        Node::assemble(env, options, settings, dirs, lock, identity, progress)
    }

    pub(super) fn assemble(
        env: &Env,
        options: &OpenOptions,
        settings: Settings,
        dirs: ProjectDirs,
        lock: Arc<ProjectLock>,
        identity: Identity,
        progress: Arc<dyn Progress>,
    ) -> Result<Node, NodeError> {
        let root = Arc::new(Root::open(&settings.root_dir)?);
        let left_open = lock.was_left_open();
        let mut state = State::open(&dirs.state())?;
        state.check_if_due(left_open, env.clock.wall_ms())?;
        state.note_boot(&env.boot, left_open)?;
        let ledger = Arc::new(Ledger::open(&dirs.larder)?);
        let (index, replayed) = open_index(&dirs, env, &ledger)?;
        let contents = Arc::new(ContentReader::with_cache(ledger.clone(), index.reader()?, ONCE_CACHE_BYTES));
        let deadlines = Deadlines::default();
        if options.keeps_running {
            deadlines.hasten();
        }
        let opened = backend_of(options, &settings, env, &deadlines);
        let (adapter, backend_error) = match opened {
            Ok(adapter) => (Some(adapter), None),
            Err(error) if error.kind == Kind::User => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let mut engine = Engine::new(Parts {
            env: env.clone(),
            policy: policy_of(&settings),
            larder_dir: dirs.larder.clone(),
            root,
            state,
            ledger,
            index,
            contents,
            identity: Arc::new(identity),
            adapter,
            progress,
            deadlines,
        })?;
        engine.note_replay(&replayed.problems)?;
        if replayed.floors_rose {
            engine.expect_rescue();
        }
        let (env, options) = (env.clone(), options.clone());
        Ok(Node {
            settings,
            dirs,
            env,
            engine,
            options,
            backend_error,
            is_backend_odd: false,
            is_backend_tried: true,
            unsent: false,
            lock,
        })
    }

    /// Opens the same project again; `self` may be dropped then, and must not be used meanwhile nor afterwards.
    ///
    /// Errors: as of `open`; then `self` does not know who this folder is any more.
    pub fn opened_anew(&self, progress: Arc<dyn Progress>) -> Result<Node, NodeError> {
        let mut node = Node::open(&self.env, &self.lending(), progress)?;
        node.options.lock = None;
        Ok(node)
    }

    /// How to open the project beside this one, with its lock.
    pub fn lending(&self) -> OpenOptions {
        OpenOptions { lock: Some(self.lock.clone()), ..self.options.clone() }
    }

    /// Errors: `.larder` is not the one that was opened any more. Then nobody else is kept out, and what is open has no names:
    /// `self` must neither run nor be closed, which would remove files that another process made in their place.
    pub fn check_in_place(&self) -> Result<(), NodeError> {
        if self.lock.is_at(&self.dirs.lock()) {
            return Ok(());
        }
        let larder = larder_patterns::shown(&self.dirs.larder.to_string_lossy());
        let origin = self.engine.origin();
        Err(NodeError::user(
            format!("{larder} was removed or replaced while larder ran; nothing more is recorded or written"),
            format!(
                "start `larder up` again; if the folder is gone for good, `larder origin adopt {origin}` goes on under its name"
            ),
        ))
    }

    /// Tries again to open a backend that was away, or that was opened when it was another one than it is now; not what was tried just
    /// now, when the project was opened, nor what asked to be left alone.
    pub fn reopen_backend(&mut self) {
        let is_new = std::mem::take(&mut self.is_backend_tried);
        let is_odd = self.is_backend_odd && self.options.adapter.is_none();
        let is_due = is_odd || (self.backend_error.is_some() && !is_new);
        if !is_due || self.engine.backend_rests().is_some() {
            return;
        }
        self.is_backend_odd = false;
        let opened = open_adapter(&self.settings, &self.env, self.engine.deadlines());
        if let Err(AdapterError { kind: ErrorKind::Throttled { retry_after_ms }, message, .. }) = &opened {
            self.engine.let_backend_rest(*retry_after_ms, message);
        }
        if is_odd {
            self.engine.renew_adapter(opened.as_ref().ok().cloned());
        } else if let Ok(adapter) = &opened {
            self.engine.set_adapter(Some(adapter.clone()));
        }
        self.backend_error = opened.err().map(|error| named(error, &self.settings));
    }

    /// Takes over an edited config. The previous one stays in force if the new one is refused.
    ///
    /// Returns the keys that changed. Errors: the config's; consent that is missing; a backend that changed needs a restart.
    pub fn reload(&mut self) -> Result<Vec<String>, NodeError> {
        let reloaded = config::reload(&self.settings.config, &self.settings, &self.env, &self.options.flags)?;
        require_consent(&reloaded.settings, &self.env, false)
            .map_err(|error| NodeError { hint: Some(config::trust::HOW_TO_AGREE_LATER.to_owned()), ..error })?;
        if reloaded.settings.root_dir != self.settings.root_dir {
            return Err(NodeError::user("the config's root changed", "restart larder to use it"));
        }
        let backend_changed = reloaded.settings.backend.value.reveal() != self.settings.backend.value.reveal();
        self.settings = reloaded.settings;
        self.engine.set_policy(policy_of(&self.settings));
        if backend_changed {
            let opened = open_backend(&self.settings, &self.env, self.engine.deadlines());
            self.backend_error = opened.as_ref().err().map(|error| NodeError::new(error.kind, error.message.clone()));
            self.engine.set_adapter(opened.ok());
        }
        Ok(reloaded.changed_keys.iter().map(|key| key.to_string()).collect())
    }
}

/// A project, open for reading; works beside a daemon and takes no lock.
pub struct Glance {
    /// What the config says.
    pub settings: Settings,
    /// Where its files are.
    pub dirs: ProjectDirs,
    /// The journal; `None` before the first run.
    pub state: Option<State>,
    /// The index; `None` before the first run.
    pub index: Option<Reader>,
    /// Reads contents.
    pub contents: Option<ContentReader>,
    /// Who this install is; `None` before the first run.
    pub identity: Option<Identity>,
    /// Why the next run would be refused, if it would.
    pub refused: Option<NodeError>,
    /// What is missing beside a ledger that holds something.
    pub missing: Option<MissingPart>,
}

/// A file of `.larder` that the next run makes anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingPart {
    /// Derived from the ledger.
    Index,
    /// What only this machine knew.
    State,
}

impl MissingPart {
    /// Its path in the project.
    pub fn path(self) -> &'static str {
        match self {
            MissingPart::Index => ".larder/index.db",
            MissingPart::State => ".larder/state.db",
        }
    }

    /// What to do about it.
    pub fn way_on(self) -> &'static str {
        match self {
            MissingPart::Index => "`larder sync` or `larder rebuild` makes it anew from the ledger; nothing is lost",
            MissingPart::State => "`larder sync` begins it anew: files are compared afresh, nothing is lost",
        }
    }

    /// As an error.
    pub fn error(self) -> NodeError {
        NodeError::user(format!("{} is missing", self.path()), self.way_on())
    }

    /// What is missing of these folders; `None` where nothing was recorded yet.
    pub(super) fn of(dirs: &ProjectDirs, ledger: &Ledger) -> Result<Option<MissingPart>, NodeError> {
        if !is_in(&dirs.larder)? || ledger.chains()?.is_empty() {
            return Ok(None);
        }
        let files = [(dirs.state(), MissingPart::State), (dirs.index(), MissingPart::Index)];
        Ok(files.into_iter().find(|(file, _)| !file.exists()).map(|(_, missing)| missing))
    }
}

impl Glance {
    /// Opens what is there.
    pub fn open(env: &Env, options: &OpenOptions) -> Result<Glance, NodeError> {
        let settings = options.settings(env)?;
        let dirs = ProjectDirs::of(&settings.config);
        // What this user may not look into was not "never recorded".
        is_in(&dirs.larder)?;
        let state = State::open_read_only(&dirs.state())?;
        // A daemon that runs goes on with what was agreed to when it began.
        let refused =
            if dirs.holder().is_some() { None } else { refusal_of_run(&settings, &dirs, env).unwrap_or_else(Some) };
        if state.is_none() || !dirs.index().exists() {
            let missing = MissingPart::of(&dirs, &Ledger::open(&dirs.larder)?)?;
            let identity = missing.map(|_| Identity::load(&dirs.larder)).transpose()?;
            return Ok(Glance { settings, dirs, state, index: None, contents: None, identity, refused, missing });
        }
        let identity = Some(Identity::load(&dirs.larder)?);
        let ledger = Arc::new(Ledger::open(&dirs.larder)?);
        let contents = ContentReader::new(ledger, Reader::open(&dirs.index())?);
        let index = Some(Reader::open(&dirs.index())?);
        Ok(Glance { settings, dirs, state, index, contents: Some(contents), identity, refused, missing: None })
    }
}

/// What the engine needs of the settings.
pub(crate) fn policy_of(settings: &Settings) -> Policy {
    let lists = [&settings.patterns.shared, &settings.patterns.private, &settings.patterns.archive];
    let fingerprint = Hash::of(format!("{lists:?}").as_bytes()).to_string();
    let peer = |(name, setting): (&String, &config::Layered<config::PeerSetting>)| {
        let config::PeerSetting { address, private, pull, push, trust } = setting.value.clone();
        let trust = trust_of(trust.unwrap_or(settings.trust.value));
        Peer { name: name.clone(), address, private, pull, push, trust }
    };
    Policy {
        rules: settings.rules.clone(),
        app: settings.app_id.value.clone(),
        owner: settings.owner_id.value.clone(),
        max_file_bytes: settings.max_file_bytes.value.bytes(),
        max_origin_bytes: settings.max_origin_bytes.value.bytes(),
        respect_gitignore: settings.respect_gitignore.value,
        fingerprint,
        trust: trust_of(settings.trust.value),
        peers: settings.peers.iter().map(peer).collect(),
    }
}

/// The config's word as the exchange has it.
pub(super) fn trust_of(trust: config::Trust) -> Trust {
    match trust {
        config::Trust::FirstUse => Trust::FirstUse,
        config::Trust::Members => Trust::Members,
    }
}

pub(super) fn require_consent(settings: &Settings, env: &Env, trust: bool) -> Result<(), NodeError> {
    let Some(request) = config::trust::required_consent(settings, env) else { return Ok(()) };
    if trust {
        return Ok(config::trust::grant(settings, env)?);
    }
    let items: Vec<String> = request.items.iter().map(|item| format!("  - {item}")).collect();
    let what = if request.widened { "now reaches further beyond its folder" } else { "reaches beyond its folder" };
    let message = format!("this config {what}:\n{}", items.join("\n"));
    Err(NodeError::user(message, config::trust::HOW_TO_AGREE))
}

/// The backend that was handed in, or the one the settings name.
pub(super) fn backend_of(
    options: &OpenOptions,
    settings: &Settings,
    env: &Env,
    deadlines: &Deadlines,
) -> Result<Arc<dyn FileSyncAdapter>, NodeError> {
    options.adapter.clone().map_or_else(|| open_backend(settings, env, deadlines), Ok)
}

/// Opens the backend the settings name, behind these deadlines if it is none of this machine's files.
fn open_backend(settings: &Settings, env: &Env, deadlines: &Deadlines) -> Result<Arc<dyn FileSyncAdapter>, NodeError> {
    open_adapter(settings, env, deadlines).map_err(|error| named(error, settings))
}

fn open_adapter(
    settings: &Settings,
    env: &Env,
    deadlines: &Deadlines,
) -> Result<Arc<dyn FileSyncAdapter>, AdapterError> {
    let (address, folder) = (settings.backend.value.reveal().to_owned(), settings.project_dir().to_owned());
    let found = larder_adapters::resolve_backend(&address, &folder)?;
    let env = env.clone();
    let open = move || {
        let variable = |name: &str| env.var(name).map(str::to_owned);
        larder_adapters::open(&address, &OpenContext { env: &variable, ..OpenContext::new(&folder) })
    };
    if is_file(&found) && network_below(&found).is_none() {
        return open();
    }
    let label = format!("the backend {found}");
    Ok(Arc::new(DeadlineBackend::open(&label, CALL, deadlines, open)?))
}

fn is_file(backend: &BackendUrl) -> bool {
    larder_adapters::backends().any(|known| known.scheme == backend.scheme && known.is_file)
}

/// The file system that a backend's file lies on, if a network or another program serves it: it may stop answering, as a server may.
fn network_below(backend: &BackendUrl) -> Option<String> {
    let mount = mount_of(Path::new(&backend.address)).ok().flatten()?;
    mount.is_served().then_some(mount.kind)
}

/// What there is to know of where the backend's file is; asks the file system nothing. A file of the project is where the project is.
pub fn warning_of_backend(settings: &Settings) -> Option<String> {
    let address = settings.backend.value.reveal();
    let found = larder_adapters::resolve_backend(address, settings.project_dir()).ok()?;
    let is_elsewhere = is_file(&found) && !Path::new(&found.address).starts_with(settings.project_dir());
    let kind = network_below(&found).filter(|_| is_elsewhere)?;
    Some(format!(
        "{found} is on a network file system ({kind}): one machine alone may use it, as its locks hold nobody else off; several machines meet in a folder there instead (`larder connect FOLDER`), or in a database server"
    ))
}

fn named(error: AdapterError, settings: &Settings) -> NodeError {
    let is_unknown = error.kind == ErrorKind::Unsupported;
    let mut named: NodeError = error.into();
    if is_unknown {
        named.hint = Some(match &settings.backend.source {
            Source::BuiltIn => "`backend` in sync-config.json or FILE_SYNC_BACKEND names another".to_owned(),
            source => format!("it is set by {source}"),
        });
    }
    named
}

pub(super) fn create_private_folder(larder: &Path) -> Result<(), NodeError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let refused = |error: std::io::Error| {
        let hint = "the project folder must be a folder that you may write to";
        NodeError::user(format!("create {}: {error}", larder.display()), hint)
    };
    match std::fs::DirBuilder::new().mode(0o700).create(larder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refused(error)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(larder).map_err(refused)?;
    if !meta.is_dir() {
        return Err(NodeError::user(format!("{} is no folder", larder.display()), "move it away"));
    }
    if meta.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(larder, std::fs::Permissions::from_mode(0o700)).map_err(refused)?;
    }
    let ignore = larder.join(".gitignore");
    if !ignore.exists() {
        std::fs::write(&ignore, "*\n").map_err(refused)?;
    }
    Ok(())
}

/// The index, brought up to the ledger, and what that took.
fn open_index(dirs: &ProjectDirs, env: &Env, ledger: &Ledger) -> Result<(Index, Replayed), NodeError> {
    let mut epoch = [0u8; 8];
    env.random.fill(&mut epoch);
    let epoch = u64::from_le_bytes(epoch) >> 1;
    let (mut index, opened) = Index::open(&dirs.index(), epoch)?;
    if let Opened::Fresh { reason } = opened {
        tracing::info!("the index is made anew: {reason:?}");
    }
    let mut done = replay(&mut index, ledger).map_err(crate::sync::SyncError::from)?;
    if !done.stale.is_empty() {
        note_lost_tips(&index, ledger, &done.stale)?;
        drop(index);
        index = Index::recreate(&dirs.index(), epoch)?;
        done = replay(&mut index, ledger).map_err(crate::sync::SyncError::from)?;
    }
    Ok((index, done))
}

/// The last checkpoint that was applied of a chain is gone: only this index knows its name.
fn note_lost_tips(index: &Index, ledger: &Ledger, chains: &[Chain]) -> Result<(), NodeError> {
    for chain in chains {
        let told = |seq, hash| {
            index.closed_ends(chain).map(|ends| ends.iter().any(|end| (end.tip.seq, end.tip.hash) == (seq, hash)))
        };
        if let Some((seq, hash)) = index.applied(chain)?
            && !told(seq, hash)?
        {
            let name = ArtifactName::Checkpoint { chain: chain.clone(), seq, hash: ShortHash::of(&hash) };
            ledger.note_damage(&name, "it was applied and is not here any more")?;
        }
    }
    Ok(())
}
