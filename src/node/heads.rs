//! Whether every file that there is now can be read: each live head has a manifest, and each segment of it stands somewhere.
//!
//! Invariant: asks the index for names and the ledger for files, and reads no contents; a head of ours that lacks something is
//! damage, another machine's is awaited as long as anything of other machines is.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use super::NodeError;
use super::check::{AWAITED, Found};
use super::open::Glance;
use crate::index::{Reader, Slot, Stored, Tree};
use crate::ledger::{ArtifactName, Ledger};
use crate::model::{Content, ContentHash, OriginName, SegmentRef};

/// What a look at all heads borrows and remembers.
pub(super) struct Heads<'a> {
    index: &'a Reader,
    ledger: &'a Ledger,
    origin: Option<OriginName>,
    awaits: bool,
    here: HashMap<ArtifactName, bool>,
    whole: HashSet<ContentHash>,
}

impl<'a> Heads<'a> {
    /// Looks up what is awaited from others.
    pub fn new(glance: &Glance, index: &'a Reader, ledger: &'a Ledger) -> Result<Heads<'a>, NodeError> {
        let origin = glance.identity.as_ref().map(|identity| identity.origin().clone());
        let problems = glance.state.as_ref().map(|state| state.problems()).transpose()?.unwrap_or_default();
        let absent = index.absent_packs()?;
        let of_others = |name: &ArtifactName| Some(&name.chain().origin) != origin.as_ref() && !ledger.has(name);
        let awaits = absent.iter().any(of_others) || problems.iter().any(|(source, _)| source == "exchange");
        Ok(Heads { index, ledger, origin, awaits, here: HashMap::new(), whole: HashSet::new() })
    }

    /// Adds a finding for each live head that cannot be read whole.
    pub fn check(mut self, findings: &mut Vec<Found>) -> Result<(), NodeError> {
        let mut slots = Vec::new();
        self.index.walk_tree(&Tree::History, None, &mut |entries| {
            slots.extend(entries.into_iter().map(|entry| entry.slot));
            ControlFlow::Continue(())
        })?;
        for slot in slots {
            for head in self.index.heads(&slot)? {
                let Some(content) = head.version.content() else { continue };
                if let Some(problem) = self.lack_of(&content)? {
                    findings.push(self.found(&slot, &head, problem));
                }
            }
        }
        Ok(())
    }

    fn found(&self, slot: &Slot, head: &Stored, problem: String) -> Found {
        let ours = self.origin.as_ref() == Some(&head.version.dot.lane.origin);
        let damage = ours || !self.awaits;
        let repair = if damage { "`larder sync` fetches it from any store that holds it" } else { AWAITED };
        let what = format!("{} version {}", slot.path.shown(), head.id.0.short(10));
        Found { part: "content", what, problem, repair: repair.to_owned(), damage }
    }

    /// What is missing of a content; `None` if nothing is.
    fn lack_of(&mut self, content: &Content) -> Result<Option<String>, NodeError> {
        if content.size == 0 || self.whole.contains(&content.hash) {
            return Ok(None);
        }
        if self.index.purged(&content.hash)?.is_some() {
            return Ok(None);
        }
        let Some(manifest) = self.index.manifest(&content.hash, content.size)? else {
            return Ok(Some("its manifest is not here".to_owned()));
        };
        for SegmentRef(segment, _) in &manifest.segments {
            let Some(place) = self.index.place(segment)? else {
                return Ok(Some(format!("segment {} is not here", segment.0.short(10))));
            };
            let ledger = self.ledger;
            if !*self.here.entry(place.artifact.clone()).or_insert_with(|| ledger.has(&place.artifact)) {
                return Ok(Some(format!("it needs {}, which is missing", place.artifact)));
            }
        }
        self.whole.insert(content.hash);
        Ok(None)
    }
}
