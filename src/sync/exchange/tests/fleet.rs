//! Machines for the tests: a store in memory that verifies like the ledger, and a writer of real, signed chains.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ed25519_dalek::SigningKey;

use super::super::local::checkpoint_facts;
use super::super::{
    CheckpointFacts, ExchangeConfig, ExchangeError, LocalError, LocalStore, MemoryJournal, Report, exchange,
};
use crate::ledger::{ArtifactKind, ArtifactName, Certificate, CheckpointBody, PublicKey, ShortHash, verify_bytes};
use crate::model::{ArtifactHash, Chain, OriginName, Space};
use crate::transport::{Depth, FaultPlan, FaultyTransport, ListRequest, MemoryPlace, MemoryTransport, Transport};

pub const APP: &str = "app";

/// A local store on a place in memory, so that one machine's store can be another's transport.
#[derive(Clone)]
pub struct PlaceStore(pub Arc<MemoryPlace>);

/// Names and bytes; shows the names alone when a test fails.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Contents(pub BTreeMap<ArtifactName, Arc<[u8]>>);

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl PlaceStore {
    pub fn names(&self) -> BTreeSet<ArtifactName> {
        self.bytes().0.into_keys().collect()
    }

    pub fn bytes(&self) -> Contents {
        let named = |(name, bytes): (String, Arc<[u8]>)| {
            Some((name.strip_prefix("app/")?.parse::<ArtifactName>().ok()?, bytes))
        };
        Contents(self.0.artifacts().into_iter().filter_map(named).collect())
    }

    fn get(&self, name: &ArtifactName) -> Option<Arc<[u8]>> {
        self.0.artifact(&format!("{APP}/{name}"))
    }

    pub fn damage(&self, name: &ArtifactName, bytes: Option<&[u8]>) {
        self.0.damage(&format!("{APP}/{name}"), bytes);
    }
}

impl LocalStore for PlaceStore {
    fn chains(&self, space: &Space) -> Result<Vec<Chain>, LocalError> {
        let request = ListRequest::new(format!("{APP}/{space}/"), Depth::Children);
        let listing = self.0.visit("").list(&request).expect("memory lists");
        let chain = |name: &String| name.strip_prefix("app/")?.strip_suffix('/')?.parse().ok();
        Ok(listing.names.iter().filter_map(chain).collect())
    }

    fn checkpoints(&self, chain: &Chain, from_seq: u64) -> Result<Vec<ArtifactName>, LocalError> {
        let names = self.0.names_below(&format!("{APP}/{chain}/checkpoints/"));
        let parsed = names.iter().filter_map(|name| name.strip_prefix("app/")?.parse().ok());
        let wanted = |name: &ArtifactName| matches!(name, ArtifactName::Checkpoint { seq, .. } if *seq >= from_seq);
        Ok(parsed.filter(wanted).collect())
    }

    fn held_bytes(&self, origin: &OriginName) -> Result<u64, LocalError> {
        let held = self.bytes().0;
        let own = held.iter().filter(|(name, _)| name.chain().origin == *origin);
        Ok(own.map(|(_, bytes)| bytes.len() as u64).sum())
    }

    fn has(&self, name: &ArtifactName) -> Result<bool, LocalError> {
        Ok(self.get(name).is_some())
    }

    fn read(&self, name: &ArtifactName) -> Result<Vec<u8>, LocalError> {
        let bytes = self.get(name).ok_or_else(|| LocalError::Missing { name: name.clone() })?;
        let refused = |why| LocalError::Refused { name: name.clone(), why };
        verify_bytes(name, &bytes).map_err(|damage| refused(damage.to_string()))?;
        Ok(bytes.to_vec())
    }

    fn inspect(&self, name: &ArtifactName, bytes: &[u8]) -> Result<CheckpointFacts, LocalError> {
        checkpoint_facts(name, bytes)
    }

    fn put(&self, name: &ArtifactName, bytes: &[u8]) -> Result<(), LocalError> {
        let refused = |why| LocalError::Refused { name: name.clone(), why };
        verify_bytes(name, bytes).map_err(|damage| refused(damage.to_string()))?;
        self.damage(name, Some(bytes));
        Ok(())
    }
}

/// Writes one chain.
#[derive(Clone)]
pub struct Writer {
    pub chain: Chain,
    pub app: String,
    key: SigningKey,
    owner: SigningKey,
    prev: Option<ArtifactHash>,
    seq: u64,
    last_n: u64,
}

/// What a checkpoint carries.
#[derive(Clone, Default)]
pub struct Load {
    pub packs: Vec<Vec<u8>>,
    pub records: Vec<Vec<u8>>,
    /// Records and packs a snapshot lists besides.
    pub snapshot: Option<(Vec<Vec<u8>>, Vec<Vec<u8>>)>,
    /// What a snapshot says need not be kept; 0 stands for 1.
    pub floor: u64,
    /// Told apart from other checkpoints of the same number.
    pub hlc: u64,
}

impl Writer {
    pub fn new(origin: &str, key_seed: u8) -> Writer {
        Writer::in_space(origin, key_seed, Space::shared())
    }

    pub fn in_space(origin: &str, key_seed: u8, space: Space) -> Writer {
        let origin: OriginName = origin.parse().expect("a name");
        Writer {
            chain: Chain { space, origin, generation: 1 },
            app: APP.to_owned(),
            key: SigningKey::from_bytes(&[key_seed; 32]),
            owner: SigningKey::from_bytes(&[200; 32]),
            prev: None,
            seq: 0,
            last_n: 0,
        }
    }

    /// The private space of the owner of all test writers.
    pub fn private_space() -> Space {
        let owner = SigningKey::from_bytes(&[200; 32]);
        Space::private("anna", &PublicKey::of(&owner).fingerprint()).expect("a space")
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    pub fn records_name(&self, raw: &[u8]) -> ArtifactName {
        ArtifactName::Records { chain: self.chain.clone(), hash: ArtifactHash::of(raw) }
    }

    pub fn pack_name(&self, bytes: &[u8]) -> ArtifactName {
        ArtifactName::Pack { chain: self.chain.clone(), hash: ArtifactHash::of(bytes) }
    }

    /// The artifacts of the next checkpoint, parts first, itself last.
    pub fn next(&mut self, load: &Load) -> Vec<(ArtifactName, Vec<u8>)> {
        self.seq += 1;
        self.last_n += u64::from(load.snapshot.is_none());
        let mut artifacts = Vec::new();
        let (listed_records, listed_packs) = load.snapshot.clone().unwrap_or_default();
        for pack in load.packs.iter().chain(&listed_packs) {
            artifacts.push((self.pack_name(pack), pack.clone()));
        }
        for raw in load.records.iter().chain(&listed_records) {
            let stored = zstd::bulk::compress(raw, 3).expect("compresses");
            artifacts.push((self.records_name(raw), stored));
        }
        let (name, bytes) = self.sign(load, &listed_records, &listed_packs);
        self.prev = Some(ArtifactHash::of(&bytes));
        artifacts.push((name, bytes));
        artifacts
    }

    fn sign(&self, load: &Load, listed_records: &[Vec<u8>], listed_packs: &[Vec<u8>]) -> (ArtifactName, Vec<u8>) {
        let device = PublicKey::of(&self.key);
        let reference = |bytes: &Vec<u8>| (ArtifactHash::of(bytes), bytes.len());
        let listed = |bytes: &Vec<u8>| (ArtifactHash::of(bytes), bytes.len(), 0);
        let mut body = serde_json::json!({
            "app": self.app,
            "cert": Certificate::issue(&self.owner, "anna", device, &self.chain.origin),
            "chain": self.chain,
            "hlc": format!("{:016x}", load.hlc),
            "key": device,
            "kind": "checkpoint",
            "last_n": self.last_n,
            "packs": load.packs.iter().map(reference).collect::<Vec<_>>(),
            "prev": self.prev,
            "records": load.records.iter().map(reference).collect::<Vec<_>>(),
            "seq": self.seq,
            "v": 1,
            "versions": u64::from(load.snapshot.is_none()),
        });
        if load.snapshot.is_some() {
            body["snapshot"] = serde_json::json!({
                "floor": load.floor.max(1),
                "packs": listed_packs.iter().map(listed).collect::<Vec<_>>(),
                "records": listed_records.iter().map(listed).collect::<Vec<_>>(),
            });
        }
        if self.prev.is_none() {
            body.as_object_mut().expect("an object").remove("prev");
        }
        let body: CheckpointBody = serde_json::from_value(body).expect("a checkpoint");
        let (_, bytes) = body.sign(&self.key);
        let hash = ShortHash::of(&ArtifactHash::of(&bytes));
        (ArtifactName::Checkpoint { chain: self.chain.clone(), seq: self.seq, hash }, bytes)
    }
}

/// A machine: its store, what it remembers, its own chain.
pub struct Machine {
    pub store: PlaceStore,
    pub journal: MemoryJournal,
    pub writer: Writer,
    pub config: ExchangeConfig,
}

impl Machine {
    pub fn new(origin: &str, key_seed: u8) -> Machine {
        let writer = Writer::new(origin, key_seed);
        let mut config = ExchangeConfig::new(APP, vec![Space::shared()]);
        config.own = vec![writer.chain.clone()];
        Machine { store: PlaceStore(MemoryPlace::new()), journal: MemoryJournal::default(), writer, config }
    }

    /// Publishes a checkpoint; its name.
    pub fn publish(&mut self, load: &Load) -> ArtifactName {
        let artifacts = self.writer.next(load);
        for (name, bytes) in &artifacts {
            self.store.put(name, bytes).expect("own artifacts are valid");
        }
        artifacts.last().expect("the checkpoint").0.clone()
    }

    /// Publishes a checkpoint with one pack and one records artifact.
    pub fn publish_full(&mut self, text: &str) -> ArtifactName {
        let load = Load {
            packs: vec![format!("pack {text}").into_bytes()],
            records: vec![format!("records {text}").into_bytes()],
            ..Load::default()
        };
        self.publish(&load)
    }

    pub fn meet(&mut self, remote: &dyn Transport) -> Result<Report, ExchangeError> {
        exchange(&self.store, remote, &self.config, &mut self.journal)
    }

    /// An exchange that must not end early.
    pub fn meets(&mut self, remote: &dyn Transport) -> Report {
        self.meet(remote).expect("a place in memory is always there")
    }
}

/// A place and its label.
pub fn place(label: &str) -> (PlaceStore, MemoryTransport) {
    let place = MemoryPlace::new();
    let transport = place.visit(label);
    (PlaceStore(place), transport)
}

/// A faulty way to a place.
pub fn faulty(store: &PlaceStore, label: &str, plan: FaultPlan) -> FaultyTransport {
    FaultyTransport::new(Arc::new(store.0.visit(label)), plan)
}

pub fn kinds(names: &[ArtifactName]) -> Vec<ArtifactKind> {
    names.iter().map(ArtifactName::kind).collect()
}

pub fn checkpoints(store: &PlaceStore) -> Vec<ArtifactName> {
    let mut names: Vec<ArtifactName> = store.names().into_iter().collect();
    names.retain(|name| name.kind() == ArtifactKind::Checkpoint);
    names
}

/// True if every checkpoint in the store has its predecessor and its records (and packs, if asked) there.
pub fn is_sound(store: &PlaceStore, with_packs: bool) -> bool {
    let names = store.names();
    let checkpoints = names.iter().filter(|name| name.kind() == ArtifactKind::Checkpoint);
    checkpoints.into_iter().all(|name| {
        let facts = store.inspect(name, &store.read(name).expect("there")).expect("valid");
        let ArtifactName::Checkpoint { chain, seq, .. } = name else {
            return false;
        };
        let before = facts.prev.is_none_or(|prev| {
            let (chain, seq) = (chain.clone(), seq - 1);
            names.contains(&ArtifactName::Checkpoint { chain, seq, hash: ShortHash::of(&prev) })
        });
        let records = facts.records.iter().all(|part| names.contains(part));
        before && records && (!with_packs || facts.parts().all(|part| names.contains(part)))
    })
}
