//! Mending: wrong bytes in the store are replaced by whoever has the right ones, and asked for by whoever has not.
//!
//! Invariant: bytes are replaced only after they were read and proven by the hash in their name never to be the named ones, and only by
//! bytes that this side has just verified. Without both, word is left and nothing else is done.

use super::run::{Run, Stop};
use crate::ledger::{ArtifactName, max_artifact_bytes, proves_wrong, verify_bytes};
use crate::transport::{TransportError, TransportErrorKind};

/// Words of others that are looked at in one exchange: each may cost the reading of a pack, whoever left it.
const MAX_ANSWERED: usize = 20;

/// What stands under a name in the store.
enum There {
    Right,
    Wrong,
    /// Nothing, or nothing that could be read.
    Unknown,
}

impl Run<'_> {
    /// Answers what others ask for, and asks for what was found wrong; takes back the word of what came whole.
    pub fn mend(&mut self) -> Result<(), Stop> {
        let Some(mending) = self.remote.mending() else { return Ok(()) };
        let answers = self.config.pushes();
        if !self.config.push || self.refuses_writes || (!answers && self.report.pulled.is_empty()) {
            return Ok(());
        }
        let asked = mending.asked(&self.config.app);
        let Some(asked) = self.heard(asked)?.flatten() else { return Ok(()) };
        self.report.requests.list += 1;
        let asked: Vec<ArtifactName> = asked.iter().filter_map(|name| self.parse_ours(name)).collect();
        for name in asked.iter().filter(|name| self.report.pulled.contains(name)).cloned().collect::<Vec<_>>() {
            self.settle_word(&name)?;
        }
        if !answers {
            return Ok(());
        }
        let open =
            asked.iter().filter(|name| !self.config.checked.contains(name) && !self.report.pulled.contains(name));
        for name in open.take(MAX_ANSWERED).cloned().collect::<Vec<_>>() {
            self.answer(&name)?;
        }
        let wrong = self.report.wrong_there.union(&self.config.wrong_there);
        for name in wrong.filter(|name| !asked.contains(name)).cloned().collect::<Vec<_>>() {
            self.report.requests.put += 1;
            let left = mending.ask(&self.remote_name(&name));
            self.heard(left)?;
        }
        Ok(())
    }

    fn parse_ours(&self, name: &str) -> Option<ArtifactName> {
        let name: ArtifactName = name.strip_prefix(&self.config.app)?.strip_prefix('/')?.parse().ok()?;
        self.config.spaces.contains(&name.chain().space).then_some(name)
    }

    fn answer(&mut self, name: &ArtifactName) -> Result<(), Stop> {
        // What is not here is another machine's to answer.
        let Ok(ours) = self.local.read(name) else { return Ok(()) };
        match self.look_there(name)? {
            There::Wrong => drop(self.replace(name, &ours)?),
            // Right as seen from here; what carries the place may not have brought it to whoever asks.
            There::Right => drop(self.report.checked.insert(name.clone())),
            // Missing: then it is offered like anything else.
            There::Unknown => {}
        }
        Ok(())
    }

    /// True if the right bytes stand under a name that the store would not take, if need be by our doing.
    pub fn is_right_now(&mut self, name: &ArtifactName, ours: &[u8]) -> Result<bool, Stop> {
        Ok(match self.look_there(name)? {
            There::Right => true,
            There::Wrong => self.replace(name, ours)?,
            There::Unknown => false,
        })
    }

    fn look_there(&mut self, name: &ArtifactName) -> Result<There, Stop> {
        self.report.requests.get += 1;
        let bytes = match self.remote.get(&self.remote_name(name), None, max_artifact_bytes(name.kind())) {
            Ok(bytes) => bytes,
            // Larger than anything of its kind, or known to be damaged there.
            Err(TransportError { kind: TransportErrorKind::TooLarge | TransportErrorKind::Corrupt, .. }) => {
                return Ok(There::Wrong);
            }
            Err(error) if error.kind == TransportErrorKind::AtWork => {
                return self.heard(Err(error)).map(|_: Option<()>| There::Unknown);
            }
            Err(_) => return Ok(There::Unknown),
        };
        Ok(match verify_bytes(name, &bytes) {
            Ok(()) => There::Right,
            Err(_) if proves_wrong(name, &bytes) => There::Wrong,
            Err(_) => There::Unknown,
        })
    }

    /// True if ours stand there now.
    fn replace(&mut self, name: &ArtifactName, ours: &[u8]) -> Result<bool, Stop> {
        let Some(mending) = self.remote.mending() else { return Ok(false) };
        self.report.requests.put += 1;
        let done = mending.mend(&self.remote_name(name), ours);
        let done = self.heard(done)?.is_some();
        if done {
            self.report.wrong_there.remove(name);
            self.report.mended.push(name.clone());
            self.settle_word(name)?;
        }
        Ok(done)
    }

    fn settle_word(&mut self, name: &ArtifactName) -> Result<(), Stop> {
        let Some(mending) = self.remote.mending() else { return Ok(()) };
        self.report.requests.put += 1;
        let settled = mending.settle(&self.remote_name(name));
        self.heard(settled).map(drop)
    }
}
