//! Seen: what this machine holds of the other chains of a space, told in its own checkpoints.
//!
//! Invariant: only what is applied here with all its bytes is told; each checkpoint says what changed since the one before, a
//! snapshot all of it. It travels with the next checkpoint that has something else to say; alone once a day at most, and only if
//! versions came, so that two machines never keep each other busy with it. What was told and forgotten is told again: no harm.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Report, Result};
use crate::ledger::{Seen, ShortHash};
use crate::model::{Chain, Space};

/// Begins the entries in `state.db` of what was told, before the chain: number, hash, last version.
const TOLD: &str = "told of ";
/// Begins the entries of when something was first not told, before the space.
const SINCE: &str = "untold in ";
/// What waits to be told is told alone after this long, in milliseconds.
pub(super) const ALONE_AFTER_MS: u64 = 24 * 3600 * 1000;

impl Engine {
    /// Everything that is held of the other chains of a space.
    pub(super) fn seen_of(&self, space: &Space) -> Result<BTreeMap<Chain, Seen>> {
        let own = self.identity.chain(space.clone());
        let waits: BTreeSet<Chain> = self.index.absent_packs()?.iter().map(|name| name.chain().clone()).collect();
        let mut seen = BTreeMap::new();
        for chain in self.index.chains_of(space)?.into_iter().filter(|chain| *chain != own) {
            if waits.contains(&chain) {
                // As far as it was told before: what has holes is not held.
                seen.extend(self.told_of(&chain)?.map(|(told, _)| (chain, told)));
            } else if let Some((seq, hash)) = self.index.applied(&chain)? {
                seen.insert(chain, Seen(seq, ShortHash::of(&hash)));
            }
        }
        Ok(seen)
    }

    /// What changed since it was told last. Empty at no cost if nothing came since it was asked last.
    pub(super) fn seen_news(&self, space: &Space) -> Result<BTreeMap<Chain, Seen>> {
        if self.seen_told.contains(space) {
            return Ok(BTreeMap::new());
        }
        let mut news = self.seen_of(space)?;
        let mut known = BTreeSet::new();
        for (chain, seen) in &news {
            if self.told_of(chain)?.is_some_and(|(told, _)| told == *seen) {
                known.insert(chain.clone());
            }
        }
        news.retain(|chain, _| !known.contains(chain));
        Ok(news)
    }

    /// Remembers what a checkpoint told, for the next transaction on the state: an edit waits for no further one.
    pub(super) fn note_told(&mut self, space: &Space, told: &BTreeMap<Chain, Seen>) -> Result<()> {
        self.seen_told.insert(space.clone());
        for (chain, Seen(seq, hash)) in told {
            let text = format!("{seq} {hash} {}", self.index.last_n(chain)?);
            self.told_later.insert(format!("{TOLD}{chain}"), text);
        }
        Ok(())
    }

    /// Part of a transaction of the caller.
    pub(super) fn save_told(&self) -> Result<()> {
        for (key, text) in &self.told_later {
            self.state.set_meta(key, Some(text.as_bytes()))?;
        }
        Ok(())
    }

    fn told_of(&self, chain: &Chain) -> Result<Option<(Seen, u64)>> {
        let key = format!("{TOLD}{chain}");
        let text = match self.told_later.get(&key) {
            Some(text) => text.clone(),
            None => self.state.meta_text(&key)?.unwrap_or_default(),
        };
        let mut parts = text.split(' ');
        let mut next = || parts.next().unwrap_or_default();
        let (seq, hash, n) = (next().parse::<u64>(), next().parse::<ShortHash>(), next().parse::<u64>());
        Ok(seq.ok().zip(hash.ok()).zip(n.ok()).map(|((seq, hash), n)| (Seen(seq, hash), n)))
    }

    /// Tells alone what has waited for a day and counts: versions came.
    pub fn tell_seen(&mut self, report: &mut Report) -> Result<()> {
        for space in [Space::shared(), self.private_space.clone()] {
            let news = self.seen_news(&space)?;
            let mut counts = false;
            for chain in news.keys() {
                let told = self.told_of(chain)?.map_or(0, |(_, n)| n);
                counts = counts || self.index.last_n(chain)? > told;
            }
            if !counts {
                self.state.set_meta(&format!("{SINCE}{space}"), None)?;
                self.seen_told.insert(space);
                continue;
            }
            let (key, now) = (format!("{SINCE}{space}"), self.now_ms());
            let since = self.state.meta_i64(&key)?.map_or(now, |since| since as u64);
            if since.saturating_add(ALONE_AFTER_MS) > now {
                self.state.set_meta_i64(&key, since.min(now) as i64)?;
                continue;
            }
            self.publish_seen(&space, news, report)?;
        }
        Ok(())
    }

    fn publish_seen(&mut self, space: &Space, news: BTreeMap<Chain, Seen>, report: &mut Report) -> Result<()> {
        let pen = self.pen();
        let hlc = self.clock.tick(self.env.clock.wall_ms(), None);
        let open = self.open_batch(&pen, space)?;
        let Some(published) = open.batch.finish(hlc, news.clone())? else { return Ok(()) };
        report.ledger_bytes += published.bytes_written;
        self.note_told(space, &news)?;
        self.save_told()?;
        self.state.set_meta(&format!("{SINCE}{space}"), None)?;
        self.take_in_own(space, published.tip, published.places, Vec::new()).map(drop)
    }
}
