//! Writers that edit, delete, move, archive and exchange at random; one of them may be cloned.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::{Item, Slot};
use crate::ledger::{ArtifactName, BlockAddress, Place};
use crate::model::{
    ArtifactHash, Chain, Channel, Content, ContentHash, ContentKind, Dot, Hash, Hlc, Lane, Manifest, Reason, Record,
    RelPath, SegmentHash, SegmentRef, Space, State, Vector, Version, VersionId,
};

use super::model::Model;

pub const PATHS: [&str; 6] = ["a", "a/b", "a/c", "d/e/f", "d/e/g", "h"];

/// What one writer does next; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Step {
    Edit { writer: usize, path: usize, content: usize, all_heads: bool, bytes_come: bool },
    Archive { writer: usize, path: usize, content: usize },
    Delete { writer: usize, path: usize },
    Move { writer: usize, from: usize, to: usize },
    Exchange { to: usize, from: usize },
    Clone,
}

#[derive(Clone)]
struct Writer {
    chain: Chain,
    n: u64,
    seq: u64,
    hlc: u64,
    known: BTreeSet<VersionId>,
}

pub struct Fleet {
    writers: Vec<Writer>,
    pub all: BTreeMap<VersionId, Version>,
    pub items: Vec<Item>,
}

pub fn chain(origin: &str) -> Chain {
    format!("shared/{origin}~1").parse().expect("a chain")
}

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a path")
}

/// Contents 0 to 4: none, one segment twice, two segments, and three of which two are the former's.
pub fn content(which: usize) -> (Content, Manifest, Option<Manifest>) {
    let all: [&[&[u8]]; 5] = [&[], &[b"one"], &[b"other"], &[b"first", b"second"], &[b"first", b"second", b"third"]];
    let parts = all[which % 5];
    let of = |parts: &[&[u8]]| {
        let bytes = parts.concat();
        let segments = parts.iter().map(|part| SegmentRef(SegmentHash::of(part), part.len() as u32)).collect();
        Manifest { content: ContentHash::of(&bytes), size: bytes.len() as u64, segments }
    };
    let manifest = of(parts);
    let previous = (which % 5 == 4).then(|| of(&parts[..2]));
    let content = Content { hash: manifest.content, size: manifest.size, kind: ContentKind::File { exec: false } };
    (content, manifest, previous)
}

pub fn place(chain: &Chain, seq: u64, start: u32, len: u32) -> Place {
    let hash = ArtifactHash::of(&seq.to_le_bytes());
    let artifact = ArtifactName::Pack { chain: chain.clone(), hash };
    Place { artifact, block: BlockAddress { offset: seq, stored_len: 10, raw_len: 100 }, start, len }
}

impl Fleet {
    pub fn new() -> Fleet {
        let writer = |name| Writer { chain: chain(name), n: 0, seq: 0, hlc: 0, known: BTreeSet::new() };
        Fleet { writers: ["a-1", "b-2", "c-3"].map(writer).to_vec(), all: BTreeMap::new(), items: Vec::new() }
    }

    pub fn chains(&self) -> Vec<Chain> {
        ["a-1", "b-2", "c-3"].map(chain).to_vec()
    }

    pub fn run(steps: &[Step]) -> Fleet {
        let mut fleet = Fleet::new();
        for step in steps {
            fleet.step(step);
        }
        fleet
    }

    fn step(&mut self, step: &Step) {
        let count = self.writers.len();
        match step.clone() {
            Step::Edit { writer, path: at, content: which, all_heads, bytes_come } => {
                let writer = writer % count;
                let (content, ..) = content(which);
                let slot = Slot { space: Space::shared(), origin: None, path: path(PATHS[at % PATHS.len()]) };
                let mut parents = self.heads(writer, &slot);
                if !all_heads {
                    parents.truncate(1);
                }
                let version = self.version(writer, &slot.path, parents, Channel::Shared, State::Content(content));
                self.publish(writer, vec![version], Some(which), bytes_come);
            }
            Step::Archive { writer, path: at, content: which } => {
                let writer = writer % count;
                let origin = Some(self.writers[writer].chain.origin.clone());
                let slot = Slot { space: Space::shared(), origin, path: path(PATHS[at % PATHS.len()]) };
                let parents = self.heads(writer, &slot);
                let state = State::Content(content(which).0);
                let version = self.version(writer, &slot.path, parents, Channel::Archive, state);
                self.publish(writer, vec![version], Some(which), true);
            }
            Step::Delete { writer, path: at } => {
                let writer = writer % count;
                let slot = Slot { space: Space::shared(), origin: None, path: path(PATHS[at % PATHS.len()]) };
                let parents = self.heads(writer, &slot);
                if !parents.is_empty() {
                    let state = State::Tombstone { reason: Reason::User, moved_to: None };
                    let version = self.version(writer, &slot.path, parents, Channel::Shared, state);
                    self.publish(writer, vec![version], None, false);
                }
            }
            Step::Move { writer, from, to } => self.rename(writer % count, from % PATHS.len(), to % PATHS.len()),
            Step::Exchange { to, from } => {
                let known = self.writers[from % count].known.clone();
                self.writers[to % count].known.extend(known);
            }
            Step::Clone if count == 3 => self.writers.push(self.writers[2].clone()),
            Step::Clone => {}
        }
    }

    fn rename(&mut self, writer: usize, from: usize, to: usize) {
        let slot = Slot { space: Space::shared(), origin: None, path: path(PATHS[from]) };
        let parents = self.heads(writer, &slot);
        let content = parents.iter().find_map(|id| self.all[id].content());
        let Some(content) = content.filter(|_| from != to) else { return };
        let target = path(PATHS[to]);
        let state = State::Tombstone { reason: Reason::Move, moved_to: Some(target.clone()) };
        let gone = self.version(writer, &slot.path, parents.clone(), Channel::Shared, state);
        self.publish(writer, vec![gone], None, false);
        let mut come = self.version(writer, &target, parents, Channel::Shared, State::Content(content));
        come.moved_from = Some(slot.path);
        self.publish(writer, vec![come], None, false);
    }

    fn heads(&self, writer: usize, slot: &Slot) -> Vec<VersionId> {
        let known = &self.writers[writer].known;
        let versions = self.all.iter().filter(|(id, _)| known.contains(id)).map(|(id, v)| (*id, v.clone())).collect();
        Model::new(&Space::shared(), versions).raw_heads(slot)
    }

    fn version(
        &mut self,
        writer: usize,
        path: &RelPath,
        parents: Vec<VersionId>,
        channel: Channel,
        state: State,
    ) -> Version {
        let slot_versions = |v: &&Version| v.path == *path && v.channel == channel;
        let writer = &mut self.writers[writer];
        let (mut vector, mut parents, mut hlc) = (Vector::new(), parents, writer.hlc);
        parents.sort();
        for id in &parents {
            vector.join(&self.all[id].full_vector());
            hlc = hlc.max(self.all[id].hlc.as_u64());
        }
        writer.n += 1;
        writer.hlc = hlc + 1;
        let is_own = |dot: &Dot| dot.lane.origin == writer.chain.origin;
        let known = self.all.iter().filter(|(id, _)| writer.known.contains(id)).map(|(_, v)| v);
        let last = known.filter(slot_versions).filter(|v| is_own(&v.dot)).max_by_key(|v| v.dot.n);
        let lane = match last {
            Some(last) if vector.covers(&last.dot) && last.dot.lane.first < writer.n => last.dot.lane.clone(),
            _ => Lane { origin: writer.chain.origin.clone(), generation: 1, first: writer.n },
        };
        vector.remove(&lane);
        let hlc = Hlc::from_u64(writer.hlc);
        Version {
            parents,
            dot: Dot { lane, n: writer.n },
            vector,
            hlc,
            born: hlc,
            channel,
            path: path.clone(),
            state,
            moved_from: None,
            via: None,
            adopted: writer.n.is_multiple_of(5),
        }
    }

    fn publish(&mut self, writer: usize, versions: Vec<Version>, which: Option<usize>, bytes_come: bool) {
        let writer = &mut self.writers[writer];
        writer.seq += 1;
        let (chain, seq) = (writer.chain.clone(), writer.seq);
        let (mut records, mut places, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for version in versions {
            let (id, line) = version.to_line();
            bytes.extend(line);
            writer.known.insert(id);
            self.all.insert(id, version.clone());
            records.push(Record::Version(id, Box::new(version)));
        }
        if let Some((_, manifest, previous)) = which.map(content) {
            if manifest.needs_record() {
                records.push(Record::Manifest(manifest.delta_from(previous.as_ref())));
            }
            let mut start = 0;
            for SegmentRef(segment, len) in manifest.segments.iter().filter(|_| bytes_come) {
                places.push((*segment, place(&chain, seq, start, *len)));
                start += len;
            }
        }
        let hash = ArtifactHash(Hash::of(&bytes));
        self.items.push(Item::following(chain, (seq, hash), records, places));
    }
}
