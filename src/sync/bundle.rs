//! Bundles: the exchange with a file in the place of a store, for machines that no line joins.
//!
//! Invariant: everything that comes out of a bundle passes the same proofs as what comes from any place, and only artifacts of a
//! project that is ours, or that we are new to, are taken. Nothing is remembered of a bundle but whose project it held.

use std::collections::{BTreeMap, BTreeSet};

use super::exchange::Direction;
use super::peers::{AWAITED, HELD, PEER_LINE, projects};
use super::stores::{Marks, Terms};
use super::{Engine, Report, Result, SyncError};
use crate::index::Floor;
use crate::ledger::ArtifactName;
use crate::model::{Chain, Space};
use crate::state;
use crate::transport::marker::{MarkerError, ProjectId};
use crate::transport::{Bundle, BundleWriter, Depth, ListRequest, Marker, Transport};

/// The journal's line of bundles; no peer can be called so.
const LINE: &str = "(bundle)";
/// Apps named in a sentence.
const MAX_APPS: usize = 5;
/// Pages of names looked at for a count.
const MAX_PAGES: usize = 1_000;
/// Chains looked at to find out whether a bundle without a whole marker is ours.
const MAX_CHAINS: usize = 1_000;

/// What one bundle held, or was given.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct BundleReport {
    /// The file, as it may be shown.
    pub file: String,
    /// Artifacts in it.
    pub artifacts: u64,
    /// How large it is.
    pub bytes: u64,
    /// What is damaged in it, one sentence each.
    pub damage: Vec<String>,
}

impl Engine {
    /// Gives a bundle under construction everything that the shared space holds, and one's own private one if `private`.
    ///
    /// Errors: Refused if nothing may be published, or the bundle could not be written.
    pub fn export(&mut self, writer: &BundleWriter, private: bool, report: &mut Report) -> Result<()> {
        if !self.publishing_stopped.is_empty() {
            let why = "somebody else goes on with this machine's history; `larder status` says how to settle it";
            return Err(refused(writer, why));
        }
        let mut ids = projects(&self.state)?;
        if ids.is_empty() {
            let drawn = ProjectId::draw(&self.env);
            self.keep_project(&drawn)?;
            ids.insert(drawn);
        }
        for id in &ids {
            Marker::set_place(writer, &self.policy.app, id)?;
        }
        let spaces = if private { self.all_spaces() } else { vec![Space::shared()] };
        self.exchange_bundle(writer, spaces, Direction::Push, report)
    }

    /// Takes everything that is whole in a bundle. `joins` says that its project is ours, whatever it is marked with.
    ///
    /// Errors: Refused if it is another project's.
    pub fn import(&mut self, bundle: &Bundle, joins: bool, report: &mut Report) -> Result<()> {
        if let Some(id) = self.ours_in(bundle, joins)? {
            self.keep_project(&id)?;
        }
        self.exchange_bundle(bundle, self.all_spaces(), Direction::Pull, report)
    }

    /// What `import` would take, without taking it.
    pub fn look_into(&self, bundle: &Bundle, joins: bool, report: &mut Report) -> Result<()> {
        let id = self.ours_in(bundle, joins)?;
        if let Some(id) = id.filter(|_| !joins)
            && self.kept_project()?.is_none()
        {
            // A dry run gives the project its id too: in earnest it must not be a stranger there for that.
            self.state.set_meta(&format!("{AWAITED}bundle {id}"), Some(id.as_str().as_bytes()))?;
        }
        report.to_receive += self.count_missing(bundle, &self.all_spaces())?;
        Ok(())
    }

    /// Counts the artifacts of these spaces that a place holds and that are not here.
    pub(super) fn count_missing(&self, place: &dyn Transport, spaces: &[Space]) -> Result<u64> {
        let mut missing = 0;
        for space in spaces {
            let mut request = ListRequest::new(format!("{}/{space}/", self.policy.app), Depth::All);
            for _ in 0..MAX_PAGES {
                let page = place.list(&request)?;
                let rest = |name: &String| name.strip_prefix(&self.policy.app)?.strip_prefix('/').map(str::to_owned);
                let parsed = page.names.iter().filter_map(|name| rest(name)?.parse::<ArtifactName>().ok());
                let floors: BTreeMap<Chain, Floor> = self.index.floors()?.into_iter().collect();
                let below = |name: &ArtifactName| {
                    let floor = floors.get(name.chain()).map_or(1, |floor| floor.seq);
                    matches!(name, ArtifactName::Checkpoint { seq, .. } if *seq < floor)
                };
                missing += parsed.filter(|name| !below(name) && !self.ledger.has(name)).count() as u64;
                match page.names.last().filter(|_| page.more) {
                    Some(last) => request.after = Some(last.clone()),
                    None => break,
                }
            }
        }
        Ok(missing)
    }

    fn all_spaces(&self) -> Vec<Space> {
        vec![Space::shared(), self.private_space.clone()]
    }

    fn keep_project(&self, id: &ProjectId) -> Result<()> {
        Ok(self.state.set_meta(&format!("{HELD}bundle {id}"), Some(id.as_str().as_bytes()))?)
    }

    /// Proves that a bundle holds this project. The id that it has there; none if only its chains tell.
    fn ours_in(&self, bundle: &Bundle, joins: bool) -> Result<Option<ProjectId>> {
        let app = &self.policy.app;
        let awaited = self.state.metas_below(&format!("{AWAITED}bundle "))?.into_iter();
        let awaited = awaited.filter_map(|(_, id)| ProjectId::try_from(String::from_utf8(id).ok()?).ok());
        let ours: BTreeSet<ProjectId> = projects(&self.state)?.into_iter().chain(awaited).collect();
        // Who is new takes what it is given, because giving it is what it was begun for.
        let takes_any = joins || self.kept_project()?.is_none();
        match Marker::of_place(bundle, app, Some(&ours).filter(|_| !takes_any), false) {
            Ok(Some(id)) => Ok(Some(id)),
            Ok(None) if self.knows_chains_of(bundle)? || (takes_any && self.holds_chains(bundle)?) => Ok(None),
            // Nothing is taken then, and the damage is told.
            Ok(None) if bundle.count() == 0 && !bundle.damage().is_empty() => Ok(None),
            Ok(None) => Err(refused(bundle, &self.whose(bundle)?)),
            Err(MarkerError::OtherProjects { .. }) => {
                let why = format!(
                    "another project called `{app}` was exported into it; if it is this one, `larder import --join` says so"
                );
                Err(refused(bundle, &why))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn holds_chains(&self, bundle: &Bundle) -> Result<bool> {
        Ok(!self.chains_in(bundle)?.is_empty())
    }

    /// True if a chain in it was seen before: its marker was lost, but it is ours.
    fn knows_chains_of(&self, bundle: &Bundle) -> Result<bool> {
        for chain in self.chains_in(bundle)? {
            if self.state.key(&chain.to_string())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn chains_in(&self, bundle: &Bundle) -> Result<Vec<Chain>> {
        let prefix = format!("{}/", self.policy.app);
        let request = ListRequest { limit: MAX_CHAINS, ..ListRequest::new(&prefix, Depth::All) };
        let names = bundle.list(&request)?.names;
        let parsed = names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse::<ArtifactName>().ok());
        let mut chains: Vec<Chain> = parsed.map(|name| name.chain().clone()).collect();
        chains.dedup();
        Ok(chains)
    }

    /// The sentence for a bundle that says nothing of this project.
    fn whose(&self, bundle: &Bundle) -> Result<String> {
        let app = &self.policy.app;
        let request = ListRequest { limit: MAX_APPS, ..ListRequest::new("", Depth::Children) };
        let names = bundle.list(&request)?.names;
        let apps: Vec<String> = names.iter().map(|name| larder_patterns::shown(name.trim_end_matches('/'))).collect();
        Ok(match &apps[..] {
            [] => "it is empty".to_owned(),
            [only] if only == app => {
                "what says whose it is was damaged; if it is this project, `larder import --join` says so".to_owned()
            }
            apps => format!(
                "it holds the project `{}` and this one is called `{app}`: set `appId` in sync-config.json if they are one",
                apps.join("`, `")
            ),
        })
    }

    fn exchange_bundle(
        &mut self,
        bundle: &dyn Transport,
        spaces: Vec<Space>,
        direction: Direction,
        report: &mut Report,
    ) -> Result<()> {
        let line = format!("{PEER_LINE}{LINE}");
        let way = if direction == Direction::Push { state::Direction::Push } else { state::Direction::Pull };
        let push = direction == Direction::Push;
        let (marks, trust, late, ways) = (Marks::None, self.policy.trust, Vec::new(), vec![way]);
        let terms =
            Terms { problems: line.clone(), line, ways, spaces, direction, push, marks, trust, late, gives_way: false };
        match self.exchange_store(bundle, terms, report)? {
            Some(why) => Err(refused(bundle, &why)),
            None => Ok(()),
        }
    }
}

fn refused(bundle: &dyn Transport, why: &str) -> SyncError {
    SyncError::Refused { path: bundle.label().to_owned(), why: why.to_owned() }
}
