//! Who is let in, and with what: one server's whole state.
//!
//! Invariant: a request is let in only if its token was signed by the device it names, for this server, start, method and target, now,
//! and never before, and if that device stands at the desk at this moment. Whatever is wrong, the answer is the same: who may
//! not come in learns nothing of who may. A device that is revoked loses its open lines at once.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, Method, StatusCode, header};
use tokio::sync::{Notify, Semaphore};

use super::bell::Bell;
use super::desk::{Desk, Device, Stamp};
use super::guard::{Freshness, Guard};
use super::refusal::Refusal;
use super::shelf::Shelf;
use super::{Limits, OnArrival};
use crate::env::Env;
use crate::ledger::PublicKey;
use crate::model::{Hash, Space};
use crate::transport::http::token::{self, LIFETIME_SECONDS};

/// A token may be from so far ahead, in seconds: clocks are read at different moments.
const SKEW_SECONDS: u64 = 60;
/// Codes tried in all, by whomever, within a minute.
const MAX_PAIRINGS_PER_MINUTE: usize = 10;
const MINUTE_MS: u64 = 60_000;

/// What is known of who is let in.
#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    devices: HashMap<PublicKey, Device>,
    owners: BTreeMap<String, PublicKey>,
}

/// Who asks, once let in.
pub struct Caller {
    /// Which of the device's handles.
    pub visitor: String,
    /// Its owner's private space, if it is really its owner's here.
    pub space: Option<Space>,
    /// The hash that the body must have.
    pub body: Hash,
}

impl Caller {
    /// True if nothing of a name is hidden from the caller.
    pub fn may_see(&self, name: &str) -> bool {
        let space = name.split('/').nth(1).unwrap_or_default();
        !space.starts_with("u-") || self.space.as_ref().is_some_and(|own| own.as_str() == space)
    }
}

/// One connection.
pub struct Wire {
    serial: u64,
    cut: Arc<Notify>,
    house: Arc<House>,
}

/// What is known of a connection.
struct Open {
    ip: IpAddr,
    /// Who spoke last on it.
    device: Option<PublicKey>,
    cut: Arc<Notify>,
}

impl Wire {
    /// Waits until the connection must end.
    pub async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.house.wires().remove(&self.serial);
    }
}

/// One server.
pub struct House {
    pub shelf: Shelf,
    pub bell: Bell,
    pub limits: Limits,
    pub env: Env,
    /// What tokens name as their audience.
    pub id: String,
    /// Drawn at this start.
    pub epoch: String,
    /// The lines that this server may be seen by.
    pub lines: Vec<String>,
    pub desk: Desk,
    pub on_arrival: OnArrival,
    /// Kibibytes of bodies that may be in memory at once.
    pub bodies: Arc<Semaphore>,
    guard: Guard,
    known: Mutex<Known>,
    wires: Mutex<HashMap<u64, Open>>,
    next_wire: AtomicU64,
    pairings_ms: Mutex<Vec<u64>>,
}

impl House {
    /// Puts a server together.
    pub fn new(
        (env, limits): (&Env, Limits),
        shelf: Shelf,
        desk: Desk,
        (id, lines): (String, Vec<String>),
        on_arrival: OnArrival,
    ) -> Arc<House> {
        let epoch = env.random_base32(26);
        let bodies = usize::try_from(limits.bodies_bytes / 1024).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let house = House {
            bell: Bell::new(&epoch),
            bodies: Arc::new(Semaphore::new(bodies)),
            guard: Guard::default(),
            known: Mutex::default(),
            wires: Mutex::default(),
            next_wire: AtomicU64::new(0),
            pairings_ms: Mutex::default(),
            env: env.clone(),
            shelf,
            limits,
            id,
            epoch,
            lines,
            desk,
            on_arrival,
        };
        house.look_at_desk();
        Arc::new(house)
    }

    /// Takes over what the desk says now, and cuts the lines of those who are let in no more.
    pub fn look_at_desk(&self) {
        let stamp = self.desk.stamp();
        let mut known = lock(&self.known);
        if known.stamp == stamp && stamp.is_some() {
            return;
        }
        let read = self.desk.devices().unwrap_or_else(|error| {
            tracing::error!(%error, "the list of devices cannot be read: nobody is let in");
            Default::default()
        });
        known.stamp = stamp;
        known.owners = read.owners;
        known.devices = read.devices.into_iter().map(|device| (device.key, device)).collect();
        let wires = self.wires();
        for open in wires.values().filter(|open| open.device.is_some_and(|key| !known.devices.contains_key(&key))) {
            // Kept if nobody waits for it yet.
            open.cut.notify_one();
        }
    }

    /// A new connection; `None` beyond the bounds.
    pub fn connect(self: &Arc<Self>, ip: IpAddr) -> Option<Arc<Wire>> {
        let mut wires = self.wires();
        let of_ip = wires.values().filter(|open| open.ip == ip).count();
        if wires.len() >= self.limits.connections || of_ip >= self.limits.connections_of_one {
            return None;
        }
        let serial = self.next_wire.fetch_add(1, Ordering::Relaxed);
        let cut = Arc::new(Notify::new());
        wires.insert(serial, Open { ip, device: None, cut: cut.clone() });
        Some(Arc::new(Wire { serial, cut, house: self.clone() }))
    }

    fn wires(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        lock(&self.wires)
    }

    /// Lets a request in. `target` is path and query as they came.
    pub fn admit(&self, wire: &Wire, method: &Method, target: &str, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let claims = bearer(headers).and_then(token::verify).ok_or_else(|| self.stranger())?;
        let now_s = self.env.clock.wall_ms() / 1000;
        let fits = claims.aud == self.id
            && claims.epoch == self.epoch
            && claims.method == method.as_str()
            && claims.target == target
            && claims.exp.saturating_sub(claims.iat) <= LIFETIME_SECONDS
            && claims.iat <= now_s.saturating_add(SKEW_SECONDS)
            && now_s < claims.exp;
        if !fits {
            return Err(self.stranger());
        }
        // Before the list is asked: who is revoked from here on finds this line in the list of lines.
        if let Some(open) = self.wires().get_mut(&wire.serial) {
            open.device = Some(claims.sub);
        }
        self.look_at_desk();
        let space = {
            let known = lock(&self.known);
            let device = known.devices.get(&claims.sub).ok_or_else(|| self.stranger())?;
            let space = device.cert.private_space().ok();
            space.filter(|space| known.owners.get(space.as_str()) == Some(&device.cert.key))
        };
        match self.guard.note(claims.sub, &claims.jti, claims.exp, now_s) {
            Freshness::Fresh => {}
            Freshness::Seen => return Err(self.stranger()),
            Freshness::Full => return Err(Refusal::busy("too many visitors of this device at once", LIFETIME_SECONDS)),
        }
        Ok(Caller { visitor: claims.jti.visitor, space, body: claims.body })
    }

    /// The one answer to whoever is not let in, whatever the reason; it says what a token must name.
    fn stranger(&self) -> Refusal {
        Refusal::new(StatusCode::UNAUTHORIZED, "this device is not let in: pair it, with `larder peers pair NAME`")
            .with_challenge(&self.epoch, self.env.clock.wall_ms())
    }

    /// Counts a try to pair. Errors: too many within a minute, from wherever they came.
    pub fn count_pairing(&self) -> Result<(), Refusal> {
        let now_ms = self.env.clock.wall_ms();
        let mut tries = lock(&self.pairings_ms);
        tries.retain(|&at| at <= now_ms && now_ms - at < MINUTE_MS);
        if tries.len() >= MAX_PAIRINGS_PER_MINUTE {
            return Err(Refusal::busy("too many codes were tried", MINUTE_MS / 1000));
        }
        tries.push(now_ms);
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks keeps what they guard whole at each of its steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
