//! Looks at every artifact and names what is wrong with it.
//!
//! Invariant: reads only, never stops at a finding, and an empty list means that every checkpoint follows its
//! predecessor and everything they name is here (and, when deep, that every byte hashes to its name). What stands below a floor
//! need not be here, and is not looked at.

use std::collections::HashSet;

use super::checkpoint::Checkpoint;
use super::cursor::ChainCursor;
use super::error::{Damage, LedgerError, OrderProblem};
use super::name::{ArtifactKind, ArtifactName, FOLDERS, Place};
use super::store::{Ledger, read_names, slice_segment, verify_bytes};
use crate::model::{Chain, Record, SegmentHash};

/// How far `verify` looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Checkpoints, records, and the indexes of packs.
    Names,
    /// Every byte of every pack as well.
    Bytes,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// Whose.
    pub chain: Chain,
    /// The number of the checkpoint that it belongs to, if one is known.
    pub seq: Option<u64>,
    /// The artifact, or the file beside them, by name.
    pub artifact: String,
    /// What is wrong.
    pub problem: Problem,
    /// The artifact whose good bytes would heal it, if there is one.
    pub wanted: Option<ArtifactName>,
}

/// What is wrong with an artifact.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A checkpoint names it and it is not here.
    #[error("is missing")]
    Missing,
    /// No checkpoint has these numbers, and later ones are here.
    #[error("checkpoints {from} to {to} are missing")]
    Gap {
        /// The first missing number.
        from: u64,
        /// The last missing number.
        to: u64,
    },
    /// Nothing below a snapshot is here; it stands for all of it: no damage.
    #[error("checkpoints {from} to {to} are not here; the snapshot after them stands for them")]
    Below {
        /// The first number that is not here.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// Two checkpoints have one number.
    #[error("shares its number with another checkpoint: two writers behind one chain")]
    Fork,
    /// It does not follow the checkpoint before it.
    #[error("{0}")]
    Order(OrderProblem),
    /// Its bytes are wrong.
    #[error("{0}")]
    Damaged(Damage),
    /// The file system refused.
    #[error("{0}")]
    Unreadable(LedgerError),
    /// A file whose name is no artifact's.
    #[error("is no artifact")]
    Stray,
}

/// What puts a damaged artifact right, as a sentence for people.
pub const HEALING: &str = "`larder sync` asks every store for good bytes, `larder repair` makes a pack anew from the project's own files; if neither helps, copy the file of this name from another machine's `.larder/ledger` over it, or let go what is lost for good: `larder verify --deep` names the versions, `larder purge PATH --version ID` ends it";

impl Finding {
    /// What repairs it, as a sentence for people.
    pub fn repair(&self) -> &'static str {
        match self.problem {
            Problem::Missing | Problem::Gap { .. } => "`larder sync` fetches it from any store that holds it",
            Problem::Damaged(_) => HEALING,
            Problem::Fork => {
                "`larder origin adopt` on the machine that keeps the name and `larder origin new` on the other one; both branches are kept"
            }
            Problem::Order(_) => "`larder origin new` on the machine that wrote it lets it go on under a new name",
            Problem::Unreadable(_) => "check the disk and the folder's permissions",
            Problem::Stray => "it can be removed: nothing reads it",
            Problem::Below { .. } => "nothing to do: the chain was begun at the snapshot",
        }
    }
}

impl Ledger {
    /// Verifies every chain. Errors: the ledger's own folder cannot be listed.
    pub fn verify(&self, depth: Depth) -> Result<Vec<Finding>, LedgerError> {
        let mut findings = Vec::new();
        for chain in self.chains()? {
            findings.extend(self.verify_chain(&chain, depth)?);
        }
        Ok(findings)
    }

    /// Verifies one chain.
    pub fn verify_chain(&self, chain: &Chain, depth: Depth) -> Result<Vec<Finding>, LedgerError> {
        let floor = self.floor_of(chain)?;
        let mut check = Check { ledger: self, chain, floor, depth, done: HashSet::new(), findings: Vec::new() };
        check.strays()?;
        check.walk()?;
        check.unnamed()?;
        Ok(check.findings)
    }
}

struct Check<'a> {
    ledger: &'a Ledger,
    chain: &'a Chain,
    floor: u64,
    depth: Depth,
    done: HashSet<ArtifactName>,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn report(&mut self, seq: Option<u64>, artifact: String, problem: Problem) {
        self.findings.push(Finding { chain: self.chain.clone(), seq, artifact, problem, wanted: None });
    }

    fn report_error(&mut self, seq: Option<u64>, name: &ArtifactName, error: LedgerError) {
        let problem = match error {
            LedgerError::Damaged { damage, .. } => Problem::Damaged(damage),
            LedgerError::Missing { .. } => Problem::Missing,
            LedgerError::Order { problem, .. } => Problem::Order(problem),
            other => Problem::Unreadable(other),
        };
        let heals = matches!(problem, Problem::Damaged(_) | Problem::Missing);
        self.report(seq, name.to_string(), problem);
        if let Some(last) = self.findings.last_mut().filter(|_| heals) {
            last.wanted = Some(name.clone());
        }
    }

    fn strays(&mut self) -> Result<(), LedgerError> {
        for folder in FOLDERS {
            for file in read_names(&self.ledger.folder(self.chain, folder))? {
                if ArtifactName::from_file(self.chain, folder, &file).is_err() {
                    self.report(None, format!("{}/{folder}/{file}", self.chain), Problem::Stray);
                }
            }
        }
        Ok(())
    }

    fn walk(&mut self) -> Result<(), LedgerError> {
        let names = self.ledger.checkpoint_names(self.chain, self.floor - 1)?;
        let mut cursor = ChainCursor::start(self.chain.clone());
        let mut expected = self.floor;
        for same_seq in names.chunk_by(|a, b| a.seq() == b.seq()) {
            let seq = same_seq[0].seq();
            if seq > expected {
                self.gap(expected, seq - 1, same_seq);
            }
            expected = seq + 1;
            if same_seq.len() > 1 {
                same_seq.iter().for_each(|name| self.report(Some(seq), name.to_string(), Problem::Fork));
            }
            let before = cursor.tip().filter(|tip| tip.seq + 1 == seq);
            let mut followed = None;
            for name in same_seq {
                let Some(checkpoint) = self.checkpoint(name) else {
                    continue;
                };
                if seq == 1 || before.is_some() {
                    let mut branch = cursor.clone();
                    match branch.accept(&checkpoint) {
                        Ok(()) => followed = Some(branch),
                        // The other branch of a fork is named already.
                        Err(_) if self.forked_at(&names, seq - 1) => {}
                        Err(error) => self.report_error(Some(seq), name, error),
                    }
                }
                // After a gap, a fork or damage the chain is followed from here.
                let from_here = || ChainCursor::after(self.chain.clone(), checkpoint.tip(), Some(checkpoint.body.key));
                followed = Some(followed.unwrap_or_else(from_here));
            }
            cursor = followed.unwrap_or(cursor);
        }
        Ok(())
    }

    /// Numbers that are not here, before these checkpoints of one number.
    fn gap(&mut self, from: u64, to: u64, behind: &[ArtifactName]) {
        let behind: Vec<Checkpoint> = behind.iter().filter_map(|name| self.ledger.read_checkpoint(name).ok()).collect();
        let folder = format!("{}/checkpoints", self.chain);
        // With nothing below it is not a loss: who joined at a snapshot never had more.
        if from == 1 && behind.iter().any(|checkpoint| checkpoint.body.snapshot.is_some()) {
            return self.report(Some(from), folder, Problem::Below { from, to });
        }
        self.report(Some(from), folder, Problem::Gap { from, to });
        if let Some(last) = self.findings.last_mut() {
            last.wanted = behind.iter().find_map(Checkpoint::predecessor);
        }
    }

    fn forked_at(&self, names: &[ArtifactName], seq: u64) -> bool {
        names.iter().filter(|name| name.seq() == seq).nth(1).is_some()
    }

    /// Verifies a checkpoint alone and everything it names.
    fn checkpoint(&mut self, name: &ArtifactName) -> Option<Checkpoint> {
        let seq = Some(name.seq());
        let checkpoint = match self.ledger.read_checkpoint(name) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.report_error(seq, name, error);
                return None;
            }
        };
        let mut whole = true;
        for artifact in checkpoint.artifacts().chain(checkpoint.listed()) {
            if self.done.insert(artifact.clone())
                && let Err(error) = self.artifact(&artifact)
            {
                whole = false;
                self.report_error(seq, &artifact, error);
            }
        }
        let content = self.inline_segments(&checkpoint).and_then(|()| self.lines(&checkpoint, whole));
        if let Err(error) = content {
            self.report_error(seq, name, error);
        }
        Some(checkpoint)
    }

    fn artifact(&self, name: &ArtifactName) -> Result<(), LedgerError> {
        if !self.ledger.has(name) {
            return Err(LedgerError::Missing { name: name.clone() });
        }
        if name.kind() == ArtifactKind::Pack {
            let index = self.ledger.pack_index(name)?;
            if self.depth == Depth::Bytes {
                self.whole(name)?;
                self.segments(index.places(name))?;
            }
            return Ok(());
        }
        self.whole(name)
    }

    fn whole(&self, name: &ArtifactName) -> Result<(), LedgerError> {
        let bytes = self.ledger.read_whole(name)?;
        verify_bytes(name, &bytes).map_err(|damage| LedgerError::damaged(name, damage))
    }

    fn segments(&self, places: impl Iterator<Item = (SegmentHash, Place)>) -> Result<(), LedgerError> {
        let mut current: Option<(Place, Vec<u8>)> = None;
        for (segment, place) in places {
            let block = match current.take() {
                Some((other, block)) if other.block == place.block => block,
                _ => self.ledger.read_block(&place)?,
            };
            slice_segment(&block, segment, &place).map_err(|damage| LedgerError::damaged(&place.artifact, damage))?;
            current = Some((place, block));
        }
        Ok(())
    }

    fn inline_segments(&self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        let places = checkpoint.inline_places().map_err(|damage| LedgerError::damaged(&checkpoint.name, damage))?;
        if self.depth == Depth::Bytes { self.segments(places.into_iter()) } else { Ok(()) }
    }

    /// Every line is a record, and the versions are numbered as the checkpoint says (unless a part is missing).
    fn lines(&self, checkpoint: &Checkpoint, whole: bool) -> Result<(), LedgerError> {
        if !whole {
            return Ok(());
        }
        let body = &checkpoint.body;
        let mut n = body.last_n - body.versions;
        let wrong = |why| LedgerError::damaged(&checkpoint.name, Damage::Form(why));
        let mut newer = false;
        self.ledger.each_record(checkpoint, |_, record| {
            newer |= matches!(record, Record::Unknown { .. });
            if let Record::Version(_, version) = record {
                // Of a newer release's versions only those are numbered here that this one understands.
                n = if newer { version.dot.n } else { n + 1 };
                let lane = &version.dot.lane;
                let own = lane.origin == body.chain.origin && lane.generation == body.chain.generation;
                if !own || version.dot.n != n {
                    return Err(wrong("holds a version whose number is not the next of its chain"));
                }
            }
            Ok(())
        })?;
        if n == body.last_n || newer { Ok(()) } else { Err(wrong("holds another number of versions than it counts")) }
    }

    /// Artifacts that no checkpoint names are harmless, but damaged ones would be handed on.
    fn unnamed(&mut self) -> Result<(), LedgerError> {
        if self.floor > 1 {
            // What a floor let go is handed on to nobody.
            return Ok(());
        }
        for folder in ["packs", "records"] {
            for name in self.ledger.names(self.chain, folder)? {
                if self.done.insert(name.clone())
                    && let Err(error) = self.artifact(&name)
                {
                    self.report_error(None, &name, error);
                }
            }
        }
        Ok(())
    }
}
