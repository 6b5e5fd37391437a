//! Whom a person lets in, takes out, or keeps waiting.
//!
//! Invariant: what is typed names one owner or is refused with the list of those it could mean; a key counts, a name is a label. What
//! was said is published before anything follows from it.

use super::{Glance, Kind, Node, NodeError};
use crate::ledger::{Ledger, PublicKey};
use crate::model::Hash;
use crate::sync::exchange::Owner;
use crate::sync::{Known, Report, Standing, known_owners};

/// Hex digits of a key that are enough to name it.
const MIN_KEY_DIGITS: usize = 8;

/// What is to become of an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// May write here.
    Accept,
    /// May not any more.
    Remove,
}

impl Verdict {
    fn concerns(self, standing: Standing) -> bool {
        match self {
            Verdict::Accept => matches!(standing, Standing::Waiting | Standing::Removed),
            Verdict::Remove => matches!(standing, Standing::Accepted | Standing::Waiting),
        }
    }

    fn done(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Verdict::Accept, false) => "accepted",
            (Verdict::Accept, true) => "would accept",
            (Verdict::Remove, false) => "removed",
            (Verdict::Remove, true) => "would remove",
        }
    }
}

impl Node {
    /// Lets the owner that `who` names write here from now on, or takes it out; then runs once.
    ///
    /// Errors: User for a name that means nobody, several, or somebody who stands as asked for already.
    pub fn judge_owner(&mut self, verdict: Verdict, who: &str, dry_run: bool) -> Result<Report, NodeError> {
        let known = self.engine.known_owners()?;
        let owner = meant(&known, verdict, who)?;
        let sentence = format!("{} {owner}, key {}", verdict.done(dry_run), owner.key);
        let mut report = Report::default();
        if !dry_run {
            self.engine.say_of_owner(&owner, verdict == Verdict::Accept)?;
            let came = self.engine.take_apart(&mut report)?;
            tracing::debug!(came, "taken from what stood apart");
        }
        self.finish_change_everywhere(dry_run, &mut report)?;
        report.members.push(sentence);
        Ok(report)
    }
}

impl Glance {
    /// The owners that are known here; none before the first run.
    pub fn owners(&self) -> Result<Vec<Known>, NodeError> {
        let (Some(index), Some(identity)) = (&self.index, &self.identity) else { return Ok(Vec::new()) };
        let ledger = Ledger::open(&self.dirs.larder)?;
        Ok(known_owners(index, &ledger, Owner::of(identity.certificate()))?)
    }
}

/// The owner that is meant by a key, the first digits of one, an owner's name or a machine's.
fn meant(known: &[Known], verdict: Verdict, who: &str) -> Result<Owner, NodeError> {
    let is_key = MIN_KEY_DIGITS <= who.len() && who.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_key = |one: &&Known| is_key && one.key.starts_with(&who.to_ascii_lowercase());
    let by_name = |one: &&Known| one.owner == who || one.origins.iter().any(|origin| origin.as_str() == who);
    let mut found: Vec<&Known> = known.iter().filter(by_key).collect();
    if found.is_empty() {
        found = known.iter().filter(by_name).collect();
        let concerned: Vec<&Known> = found.iter().copied().filter(|one| verdict.concerns(one.standing)).collect();
        if !concerned.is_empty() {
            found = concerned;
        }
    }
    match found.as_slice() {
        [one] if verdict.concerns(one.standing) => Ok(Owner { key: key_of(&one.key)?, name: one.owner.clone() }),
        [one] => {
            let message = format!("{} is {} already", shown(one), word(one.standing));
            Err(NodeError::user(message, "`larder peers members` lists everybody"))
        }
        // Whoever was told the whole key by another way may be let in before anything came.
        [] if verdict == Verdict::Accept && who.len() == 64 && is_key => {
            Ok(Owner { key: key_of(&who.to_ascii_lowercase())?, name: String::new() })
        }
        [] => {
            let message = format!("no owner here is meant by {}", larder_patterns::shown(who));
            Err(NodeError::user(message, "`larder peers members` lists everybody, with keys"))
        }
        several => {
            let all: Vec<String> = several.iter().map(|one| format!("{} {}", shown(one), one.key)).collect();
            let message = format!("{} may mean several: {}", larder_patterns::shown(who), all.join(", "));
            Err(NodeError::user(message, "name one by its key"))
        }
    }
}

fn shown(one: &Known) -> String {
    if one.owner.is_empty() { one.key.clone() } else { larder_patterns::shown(&one.owner) }
}

/// How an owner stands, for people.
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Own => "this machine's own owner",
        Standing::Accepted => "accepted",
        Standing::Waiting => "waiting, unread",
        Standing::Removed => "removed",
    }
}

fn key_of(text: &str) -> Result<PublicKey, NodeError> {
    let hash: Result<Hash, _> = text.parse();
    hash.map(|hash| PublicKey::from_bytes(*hash.as_bytes()))
        .map_err(|error| NodeError::new(Kind::Internal, format!("a key does not parse: {error}")))
}
