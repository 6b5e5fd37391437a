//! Repair: every byte here and in every store is read, and what is wrong on one side is put right from the other, or from the project's own
//! files.
//!
//! Invariant: nothing is removed, and nothing replaced that was not proven wrong; what nobody has whole is named, with whose it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Kind, NodeError};
use super::open::{Node, OpenOptions};
use crate::env::Env;
use crate::ledger::Depth;
use crate::sync::exchange::Direction;
use crate::sync::{Asked, Progress, Report, StoreLook, SyncError};

/// What is still damaged or missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// `here`, or the store's name.
    pub place: String,
    /// Which artifact: space, origin, kind and name.
    pub artifact: String,
    /// Whose it is: who wrote it has it, if anybody does.
    pub origin: String,
    /// What is wrong.
    pub why: String,
}

/// What `repair` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Artifacts read in stores.
    pub read: u64,
    /// Artifacts that were damaged or lost here and are whole again.
    pub healed: Vec<String>,
    /// Artifacts that nobody had whole, and that were made anew from the project's own files.
    #[serde(default)]
    pub remade: Vec<String>,
    /// Artifacts that were wrong in a store and are right again: the store, the artifact.
    pub mended: Vec<(String, String)>,
    /// Artifacts that stores lacked and have now.
    pub sent: u64,
    /// What stays damaged or missing.
    pub missing: Vec<Missing>,
    /// Stores that could not be looked at to their end, and why.
    pub failed: Vec<(String, String)>,
}

impl Repaired {
    /// What somebody has to look at; gives the exit code.
    pub fn remains(&self) -> Option<NodeError> {
        if let Some((store, why)) = self.failed.first() {
            let hint = "everything else was done; run `larder repair` again when it is there";
            let message = format!("{store} could not be looked at: {why}");
            return Some(NodeError { kind: Kind::Unavailable, message, hint: Some(hint.to_owned()) });
        }
        let count = self.missing.len();
        (count > 0).then(|| NodeError {
            kind: Kind::Damage,
            message: format!(
                "{count} of the things that were recorded are damaged or missing, and no place has them whole"
            ),
            hint: Some(
                "run `larder repair` on another machine that may hold them, before all on the one that wrote them; what none has is lost: `larder verify --deep` names the versions that need it, and `larder purge PATH --version ID` lets them go"
                    .to_owned(),
            ),
        })
    }

    fn add(&mut self, look: StoreLook) {
        self.read += look.read;
        let store = larder_patterns::shown(&look.store);
        self.mended.extend(look.mended.iter().map(|name| (store.clone(), name.to_string())));
        let wrong = look.wrong.iter().map(|name| (name, "its bytes are not what its name says".to_owned()));
        let unread = look.unread.iter().map(|(name, why)| (name, why.clone()));
        for (name, why) in wrong.chain(unread) {
            let (artifact, origin) = (name.to_string(), name.chain().origin.to_string());
            self.missing.push(Missing { place: store.clone(), artifact, origin, why: larder_patterns::shown(&why) });
        }
        self.failed.extend(look.failed.map(|why| (store, larder_patterns::shown(&why))));
    }
}

/// Repairs a project and its stores. With `dry_run` looks only, and says what would be put right in stores and what is wrong here.
pub fn repair(
    env: &Env,
    options: &OpenOptions,
    dry_run: bool,
    progress: Arc<dyn Progress>,
) -> Result<Repaired, NodeError> {
    let mut node = Node::open(env, options, progress)?;
    let mut repaired = Repaired::default();
    if let Some(error) = &node.backend_error {
        repaired.failed.push(("the backend".to_owned(), error.message.clone()));
    }
    for finding in node.engine.verify_ledger(Depth::Bytes)? {
        let Some(name) = &finding.wanted else { continue };
        if dry_run {
            let (artifact, origin) = (name.to_string(), name.chain().origin.to_string());
            repaired.missing.push(Missing {
                place: "here".to_owned(),
                artifact,
                origin,
                why: finding.problem.to_string(),
            });
        } else {
            node.engine.note_damage(name, &finding.problem.to_string())?;
        }
    }
    let mut report = Report::default();
    if !dry_run {
        node.engine.mend_store_files()?;
        node.engine.list_whole();
        exchange(&mut node, Direction::Pull, &mut report)?;
        repaired.remade = node.engine.remake_from_files()?.iter().map(ToString::to_string).collect();
    }
    for look in node.engine.look_through_stores(dry_run)? {
        repaired.add(look);
    }
    if !dry_run {
        node.engine.list_whole();
        exchange(&mut node, Direction::Push, &mut report)?;
        repaired.settle(&node, report)?;
    }
    Ok(repaired)
}

fn exchange(node: &mut Node, direction: Direction, report: &mut Report) -> Result<(), NodeError> {
    node.engine.exchange_peers(&Asked::Everybody, direction, report)?;
    match node.engine.exchange_backend(direction, report) {
        Err(SyncError::Adapter(error)) => drop(report.backend_error.get_or_insert(error.to_string())),
        Err(SyncError::Transport(error)) => drop(report.backend_error.get_or_insert(error.to_string())),
        done => done?,
    }
    Ok(())
}

impl Repaired {
    fn settle(&mut self, node: &Node, report: Report) -> Result<(), NodeError> {
        (self.healed, self.sent) = (report.healed, report.pushed);
        let away = report.backend_error.map(|why| ("the backend".to_owned(), why));
        for (store, why) in report.peer_errors.into_iter().chain(away) {
            if self.failed.iter().all(|(known, _)| *known != store) {
                self.failed.push((store, larder_patterns::shown(&why)));
            }
        }
        for noted in node.engine.known_damage()? {
            let (artifact, origin) = (noted.name.to_string(), noted.name.chain().origin.to_string());
            let why = larder_patterns::shown(&noted.why);
            self.missing.push(Missing { place: "here".to_owned(), artifact, origin, why });
        }
        // Bytes that never came are nobody's damage, but whoever repairs wants to know.
        let told: BTreeSet<String> = self.missing.iter().map(|missing| missing.artifact.clone()).collect();
        for name in node.engine.awaited_packs()?.into_iter().filter(|name| !told.contains(&name.to_string())) {
            let (artifact, origin) = (name.to_string(), name.chain().origin.to_string());
            let why = "it was named by another machine and never came".to_owned();
            self.missing.push(Missing { place: "here".to_owned(), artifact, origin, why });
        }
        Ok(())
    }
}
