//! Check and repair: verify everything that is recorded, make the index anew.
//!
//! Invariant: `verify` changes nothing and works beside a daemon; an empty list means that everything recorded is here and
//! sound. What is damaged it leaves noted in the ledger, so that the next exchange asks for it and `status` tells. `rebuild` holds the project's lock and gives the same answers as before, from the ledger alone.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::error::{Kind, NodeError};
use super::heads::Heads;
use super::history::content_error;
use super::identity::{is_in, refuse_another_users};
use super::open::{Glance, MissingPart, OpenOptions, ProjectDirs, backend_of};
use super::prove::differences;
use crate::config::Settings;
use crate::env::Env;
use crate::index::{Counts, Index, Reader, Replayed, Tree, replay};
use crate::ledger::{
    ArtifactName, Damage, Depth, Finding, Identity, Ledger, LedgerError, NotedDamage, Problem, ShortHash,
};
use crate::model::{Chain, Content, ContentHash, Space};
use crate::state::State;
use crate::sync::{StoreLook, SyncError, claimed, look_through, open_peer};
use crate::transport::{BackendTransport, Deadlines};

/// Bytes read at once of a long content.
const READ_BYTES: u64 = 16 << 20;
/// What is done about what another machine has not handed on yet.
pub(super) const AWAITED: &str = "nothing to do: it is asked for at each exchange";

/// One thing that `verify` found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Found {
    /// `ledger`, `index`, `state`, `content` or `store`.
    pub part: &'static str,
    /// Which artifact, file or path.
    pub what: String,
    /// What is wrong with it.
    pub problem: String,
    /// What repairs it.
    pub repair: String,
    /// False if it is only worth knowing.
    pub damage: bool,
}

/// What `verify` looked at and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Chains in the ledger.
    pub chains: usize,
    /// Versions in the index.
    pub versions: u64,
    /// Contents read whole; 0 unless it was deep.
    pub contents_read: u64,
    /// Artifacts read in stores; 0 unless it was deep.
    pub artifacts_read: u64,
    /// Everything found.
    pub findings: Vec<Found>,
}

impl Verified {
    /// How many findings are damage.
    pub fn damage_count(&self) -> usize {
        self.findings.iter().filter(|found| found.damage).count()
    }

    /// What somebody has to look at; gives the exit code.
    pub fn remains(&self) -> Option<NodeError> {
        let damaged = self.damage_count();
        let message = format!("{damaged} of the things recorded here are damaged or missing");
        (damaged > 0).then(|| NodeError {
            kind: Kind::Damage,
            message,
            hint: Some("each line above says what repairs it".to_owned()),
        })
    }
}

/// Verifies ledger, index and state of a project; with `Depth::Bytes` every content as well.
pub fn verify(env: &Env, options: &OpenOptions, depth: Depth) -> Result<Verified, NodeError> {
    let settings = options.settings(env)?;
    let dirs = ProjectDirs::of(&settings.config);
    let mut verified = Verified::default();
    if !dirs.larder.exists() {
        return Ok(verified);
    }
    let ledger = Ledger::open(&dirs.larder)?;
    verified.chains = ledger.chains()?.len();
    let mut found = ledger.verify(depth)?;
    for noted in ledger.noted_damage()? {
        found.extend(still_damaged(&ledger, &found, noted));
    }
    let awaited = awaited_packs(&dirs, &ledger)?;
    let chains = ledger.chains()?;
    for finding in found {
        if awaited.contains(&finding.artifact) {
            verified.findings.push(Found {
                part: "ledger",
                what: finding.artifact,
                problem: "has not come yet".to_owned(),
                repair: AWAITED.to_owned(),
                damage: false,
            });
            continue;
        }
        if let Some(name) = &finding.wanted {
            // Who may not write here may still look; then the next look finds it again.
            let _ = ledger.note_damage(name, &finding.problem.to_string());
        }
        let settled = matches!(finding.problem, Problem::Fork) && went_on(&finding.chain, &chains);
        let repair = if settled { "nothing to do: its origin went on as a later generation" } else { finding.repair() };
        verified.findings.push(Found {
            part: "ledger",
            what: larder_patterns::shown(&finding.artifact),
            problem: finding.problem.to_string(),
            repair: repair.to_owned(),
            // A stray file is nobody's data: a command that was killed may leave one.
            damage: !matches!(finding.problem, Problem::Stray | Problem::Below { .. }) && !settled,
        });
    }
    let index_repair = "`larder rebuild` makes it anew from the ledger; nothing is lost";
    let index_sound = check_sqlite(&dirs.index(), "index", index_repair, &mut verified.findings);
    let state_repair = "move it away and run `larder sync`: files are compared afresh, nothing is lost";
    check_sqlite(&dirs.state(), "state", state_repair, &mut verified.findings);
    let missing = MissingPart::of(&dirs, &ledger)?;
    if let Some(missing) = missing {
        verified.findings.push(Found {
            part: if missing == MissingPart::Index { "index" } else { "state" },
            what: missing.path().to_owned(),
            problem: "is missing".to_owned(),
            repair: missing.way_on().to_owned(),
            damage: true,
        });
    }
    if index_sound && missing.is_none() && dirs.index().exists() {
        verified.look_at_index(env, options, &ledger, depth)?;
    }
    if depth == Depth::Bytes {
        verified.look_at_stores(env, options, &settings, &ledger)?;
    }
    Ok(verified)
}

/// True if the chain's origin writes a later one, which closed it.
fn went_on(chain: &Chain, chains: &[Chain]) -> bool {
    chains.iter().any(|other| other.origin == chain.origin && other.generation > chain.generation)
}

/// Damage that was met before, if it is still there and this look did not meet it: a shallow one reads no packs.
fn still_damaged(ledger: &Ledger, found: &[Finding], noted: NotedDamage) -> Option<Finding> {
    let artifact = noted.name.to_string();
    if found.iter().any(|finding| finding.wanted.as_ref() == Some(&noted.name)) || ledger.is_whole(&noted.name) {
        return None;
    }
    let problem = match ledger.read_whole(&noted.name) {
        Err(LedgerError::Missing { .. }) => Problem::Missing,
        _ => Problem::Damaged(Damage::Form("its bytes are not what its name says")),
    };
    Some(Finding { chain: noted.name.chain().clone(), seq: None, artifact, problem, wanted: Some(noted.name) })
}

/// Packs of other machines that were never here: their checkpoints came first.
fn awaited_packs(dirs: &ProjectDirs, ledger: &Ledger) -> Result<HashSet<String>, NodeError> {
    let (Ok(identity), Ok(index)) = (Identity::load(&dirs.larder), Reader::open(&dirs.index())) else {
        return Ok(HashSet::new());
    };
    let absent = index.absent_packs().unwrap_or_default().into_iter();
    let others = absent.filter(|name| name.chain().origin != *identity.origin() && !ledger.has(name));
    let lost: HashSet<ArtifactName> = ledger.noted_damage()?.into_iter().map(|noted| noted.name).collect();
    Ok(others.filter(|name| !lost.contains(name)).map(|name| name.to_string()).collect())
}

impl Verified {
    fn look_at_index(
        &mut self,
        env: &Env,
        options: &OpenOptions,
        ledger: &Ledger,
        depth: Depth,
    ) -> Result<(), NodeError> {
        let glance = Glance::open(env, options)?;
        let index = glance.index()?;
        self.versions = index.counts()?.versions;
        self.compare_with_ledger(index, ledger)?;
        Heads::new(&glance, index, ledger)?.check(&mut self.findings)?;
        if depth == Depth::Bytes {
            self.read_contents(&glance, index)?;
            self.findings.extend(differences(index, ledger)?.into_iter().map(|problem| Found {
                part: "index",
                what: "index.db".to_owned(),
                problem: format!("it is not what the ledger says: {problem}"),
                repair: "`larder rebuild` makes it anew from the ledger; nothing is lost".to_owned(),
                damage: true,
            }));
        }
        Ok(())
    }

    /// Reads what every store holds. One that is away is told of: nothing can be said of it.
    fn look_at_stores(
        &mut self,
        env: &Env,
        options: &OpenOptions,
        settings: &Settings,
        ledger: &Ledger,
    ) -> Result<(), NodeError> {
        let dirs = ProjectDirs::of(&settings.config);
        let (Ok(identity), Some(state)) = (Identity::load(&dirs.larder), State::open_read_only(&dirs.state())?) else {
            return Ok(());
        };
        let app = &settings.app_id.value;
        let (shared, both) = ([Space::shared()], [Space::shared(), identity.private_space()]);
        for (name, peer) in &settings.peers {
            let spaces: &[Space] = if peer.value.private { &both } else { &shared };
            match open_peer(env, &peer.value.address, app, &settings.root_dir, &dirs.larder) {
                Ok(place) => self.add_look(look_through(name, &*place, app, spaces, ledger, |_, _| Ok(true))),
                Err(error) => self.add_away(name, &error.to_string()),
            }
        }
        if !claimed(&state)? {
            return Ok(());
        }
        let place = backend_of(options, settings, env, &Deadlines::default()).and_then(|adapter| {
            let own = adapter.capabilities().own;
            let place = BackendTransport::new(adapter, app, "the backend").map_err(SyncError::from)?;
            Ok((place, own))
        });
        match place {
            Ok((place, own)) => {
                let spaces: &[Space] = if own { &both } else { &shared };
                self.add_look(look_through("the backend", &place, app, spaces, ledger, |_, _| Ok(true)));
            }
            Err(error) => self.add_away("the backend", &error.message),
        }
        Ok(())
    }

    fn add_look(&mut self, look: StoreLook) {
        self.artifacts_read += look.read;
        let told = |name: &ArtifactName, problem: String, repair: &str, damage: bool| Found {
            part: "store",
            what: format!("{}: {name}", larder_patterns::shown(&look.store)),
            problem,
            repair: repair.to_owned(),
            damage,
        };
        const WRONG: &str = "its bytes are not what its name says";
        let here = look
            .mended
            .iter()
            .map(|name| told(name, WRONG.to_owned(), "`larder repair` puts it right: it is whole here", true));
        let wrong = look.wrong.iter().map(|name| {
            let repair =
                format!("`larder repair` on a machine that has it whole, as {} who wrote it", name.chain().origin);
            told(name, WRONG.to_owned(), &repair, true)
        });
        let unread = look.unread.iter().map(|(name, why)| {
            told(name, larder_patterns::shown(why), "nothing to do, unless a newer larder says the same", false)
        });
        self.findings.extend(here.chain(wrong).chain(unread));
        if let Some(why) = &look.failed {
            self.add_away(&look.store, why);
        }
    }

    fn add_away(&mut self, store: &str, why: &str) {
        self.findings.push(Found {
            part: "store",
            what: larder_patterns::shown(store),
            problem: format!("it could not be looked at: {}", larder_patterns::shown(why)),
            repair: "run it again when the store is there".to_owned(),
            damage: false,
        });
    }

    /// An index that is behind is brought up at the next start; one that is ahead tells of another ledger.
    fn compare_with_ledger(&mut self, index: &Reader, ledger: &Ledger) -> Result<(), NodeError> {
        for chain in ledger.chains()? {
            let Some((seq, hash)) = index.applied(&chain)? else { continue };
            let tip = ArtifactName::Checkpoint { chain: chain.clone(), seq, hash: ShortHash::of(&hash) };
            let stands_elsewhere = index.closed_ends(&chain)?.first().is_some_and(|end| seq <= end.tip.seq);
            if stands_elsewhere || ledger.has(&tip) {
                // What is missing below it, the ledger's own look has found.
                continue;
            }
            let _ = ledger.note_damage(&tip, "it was applied and is not here any more");
            self.findings.push(Found {
                part: "index",
                what: chain.to_string(),
                problem: format!("the index knows it up to checkpoint {seq}, which the ledger does not hold"),
                repair: "`larder sync` fetches them from any store that holds them".to_owned(),
                damage: true,
            });
        }
        Ok(())
    }

    fn read_contents(&mut self, glance: &Glance, index: &Reader) -> Result<(), NodeError> {
        let mut slots = Vec::new();
        index.walk_tree(&Tree::History, None, &mut |entries| {
            slots.extend(entries.into_iter().map(|entry| entry.slot));
            ControlFlow::Continue(())
        })?;
        let mut done: HashSet<ContentHash> = HashSet::new();
        for slot in slots {
            for stored in index.history(&slot, usize::MAX >> 1)? {
                let Some(content) = stored.version.content().filter(|content| done.insert(content.hash)) else {
                    continue;
                };
                self.contents_read += 1;
                if let Err(error) = read_through(glance, &content)
                    && index.dropped(&content.hash)?.is_none()
                {
                    let hint = error.hint.clone();
                    self.findings.push(Found {
                        part: "content",
                        what: format!("{} version {}", slot.path.shown(), stored.id.0.short(10)),
                        problem: error.message,
                        repair: hint
                            .unwrap_or_else(|| "`larder sync` fetches it from any store that holds it".to_owned()),
                        damage: true,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Every range comes with its segments' hashes checked; short contents are checked whole.
fn read_through(glance: &Glance, content: &Content) -> Result<(), NodeError> {
    if content.size <= READ_BYTES {
        return glance.bytes_of(content).map(drop);
    }
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < content.size {
        let bytes = glance.contents()?.read(content, at, READ_BYTES).map_err(content_error)?;
        hasher.update(&bytes);
        at += READ_BYTES;
    }
    let same = hasher.finalize().as_bytes()[..] == content.hash.as_bytes()[..];
    let wrong = || NodeError::new(Kind::Damage, "its segments do not make it up");
    if same { Ok(()) } else { Err(wrong()) }
}

/// Reads every page. True if it is sound or not there.
fn check_sqlite(path: &Path, part: &'static str, repair: &str, findings: &mut Vec<Found>) -> bool {
    if !path.exists() {
        return true;
    }
    let verdict = integrity(path);
    let problem = match verdict {
        Ok(verdict) if verdict == "ok" => return true,
        Ok(verdict) => verdict,
        Err(error) => error.to_string(),
    };
    findings.push(Found {
        part,
        what: larder_patterns::shown(&path.file_name().unwrap_or_default().to_string_lossy()),
        problem: larder_patterns::shown(&problem),
        repair: repair.to_owned(),
        damage: true,
    });
    false
}

fn integrity(path: &Path) -> Result<String, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
}

/// What `rebuild` did.
pub struct Rebuilt {
    /// The replay: problems, what was left out.
    pub replayed: Replayed,
    /// The sums afterwards.
    pub counts: Counts,
}

/// Deletes the index and replays the ledger into a new one. With `dry_run` the new one is made in memory's stead: only
/// what stands there now is counted.
pub fn rebuild(env: &Env, options: &OpenOptions, dry_run: bool) -> Result<Rebuilt, NodeError> {
    let settings = options.settings(env)?;
    let dirs = ProjectDirs::of(&settings.config);
    if !is_in(&dirs.larder)? {
        return Err(NodeError::user("nothing was recorded here yet", "run `larder sync` first"));
    }
    refuse_another_users(&dirs, env)?;
    let ledger = Ledger::open(&dirs.larder)?;
    let _lock = options.lock_of(&dirs)?;
    let mut epoch = [0u8; 8];
    env.random.fill(&mut epoch);
    let epoch = u64::from_le_bytes(epoch) >> 1;
    // A dry run makes the same index in a folder of its own, so that its counts are the real run's.
    let scratch = dry_run.then(tempfile::tempdir).transpose();
    let scratch =
        scratch.map_err(|error| NodeError::new(Kind::Internal, format!("make a folder for the dry run: {error}")))?;
    let path = scratch.as_ref().map_or_else(|| dirs.index(), |folder| folder.path().join("index.db"));
    if !dry_run {
        // The words were found by the old index's numbers; whoever searches next makes them anew.
        crate::search::remove(&dirs.fts()).map_err(|error| NodeError::new(Kind::Internal, error.to_string()))?;
    }
    let mut index = Index::recreate(&path, epoch)?;
    let replayed = replay(&mut index, &ledger).map_err(crate::sync::SyncError::from)?;
    let counts = index.counts()?;
    index.rest()?;
    Ok(Rebuilt { replayed, counts })
}
