//! Plan: what is to be done on disk for one path, given what stands there, its base and its resolution.
//!
//! Invariant: pure; the dry run and the real run call it with the same inputs and get the same list. It never asks for
//! anything that would lose unrecorded bytes: a file that differs from its base is first recorded, not replaced.

use super::resolve::{Outcome, Resolution};
use crate::model::{Content, ContentHash, ContentKind, VersionId};

/// What stands on disk, compared with the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// Nothing.
    Absent,
    /// Exactly what the base says.
    AsBase,
    /// A file that differs from the base, or has none.
    Unrecorded,
    /// What no file can take the place of, as a sentence's beginning.
    InTheWay(&'static str),
}

/// The base, as far as planning needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseFacts {
    /// The versions that were resolved into it, sorted.
    pub versions: Vec<VersionId>,
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// File or link.
    pub kind: ContentKind,
}

/// Everything one decision looks at.
#[derive(Debug)]
pub struct Sight<'a> {
    /// What the file agreed with last.
    pub base: Option<&'a BaseFacts>,
    /// What stands there.
    pub disk: Disk,
    /// What it should be.
    pub resolution: &'a Resolution,
    /// Why today's rules refuse the path from outside, if they do.
    pub refused: Option<&'a str>,
    /// The deletion is held back by the brake.
    pub held: bool,
    /// Another name in the folder that some file systems take for this one.
    pub twin: Option<&'a str>,
    /// Somebody has the file open for writing.
    pub open_for_writing: bool,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// The bytes are right already; only the base takes the new versions.
    Adopt,
    /// Write the resolved content.
    Write,
    /// Remove the file.
    Remove,
    /// The path is gone on both sides; drop the base.
    Forget,
    /// Leave the disk as it is and say why.
    Wait {
        /// One of [`WAITS`].
        what: &'static str,
        /// For `status`.
        why: String,
    },
}

/// What a path waits for that today's rules keep off this disk: for other rules, or a version that is gone again.
pub const REFUSED: &str = "refused";
/// What waits until a person makes place for it.
pub const UNPLACED: &str = "unplaced";
/// What a path of elsewhere may wait for.
pub const WAITS: [&str; 4] = ["write", UNPLACED, "held", REFUSED];

fn wait(what: &'static str, why: impl Into<String>) -> Action {
    Action::Wait { what, why: why.into() }
}

/// Decides for one path.
pub fn plan(sight: &Sight<'_>) -> Action {
    let same_versions = sight.base.is_some_and(|base| base.versions == sight.resolution.versions);
    match &sight.resolution.outcome {
        Outcome::Unknown => Action::Nothing,
        Outcome::Pending(why) => wait("write", *why),
        Outcome::Absent => plan_removal(sight),
        Outcome::Content(_) | Outcome::Appended(_) if same_versions && sight.disk == Disk::AsBase => Action::Nothing,
        Outcome::Content(content) => plan_content(sight, Some(content)),
        Outcome::Appended(_) => plan_content(sight, None),
    }
}

fn plan_removal(sight: &Sight<'_>) -> Action {
    if let (Disk::Unrecorded, None, Some(why)) = (sight.disk, sight.base, sight.refused) {
        // What stands there is looked at by nobody, so nothing is recorded first.
        return wait(REFUSED, why);
    }
    match (sight.disk, sight.base) {
        (Disk::Absent, Some(_)) => Action::Forget,
        (Disk::Absent | Disk::InTheWay(_), _) => Action::Nothing,
        (Disk::Unrecorded, _) => wait("write", "was edited here; the edit is recorded first"),
        (Disk::AsBase, _) if sight.held => wait("held", "waits for `larder deletes approve` or `restore`"),
        (Disk::AsBase, _) if sight.open_for_writing => wait("write", "open for writing"),
        (Disk::AsBase, _) => Action::Remove,
    }
}

/// `content` is known unless it is merged, whose hash only writing it tells.
fn plan_content(sight: &Sight<'_>, content: Option<&Content>) -> Action {
    if let Some(why) = sight.refused {
        return wait(REFUSED, why);
    }
    match (sight.disk, sight.base) {
        (Disk::Unrecorded, _) => wait("write", "was edited here; the edit is recorded first"),
        (Disk::InTheWay(what), _) => wait(UNPLACED, format!("{what}; give one of the two another name")),
        // A base whose file is gone: the absence is judged by recording (6.4), not undone here.
        (Disk::Absent, Some(_)) => wait("write", "was removed here; the removal is recorded first"),
        (Disk::Absent, None) => match sight.twin {
            Some(twin) => wait(UNPLACED, format!("{twin} differs only in case or in its Unicode form")),
            None => Action::Write,
        },
        (Disk::AsBase, Some(base)) if content.is_some_and(|c| c.hash == base.hash && c.kind == base.kind) => {
            Action::Adopt
        }
        (Disk::AsBase, _) if sight.open_for_writing => wait("write", "open for writing"),
        (Disk::AsBase, _) => Action::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Content {
        let (hash, size) = (ContentHash::of(text.as_bytes()), text.len() as u64);
        Content { hash, size, kind: ContentKind::File { exec: false } }
    }

    fn base(text: &str, version: &str) -> BaseFacts {
        let versions = vec![VersionId::of(version.as_bytes())];
        BaseFacts { versions, hash: content(text).hash, kind: ContentKind::File { exec: false } }
    }

    fn resolution(outcome: Outcome, version: &str) -> Resolution {
        let versions = vec![VersionId::of(version.as_bytes())];
        Resolution { versions, outcome, winner: None, losers: Vec::new() }
    }

    fn decide(base: Option<&BaseFacts>, disk: Disk, resolution: &Resolution) -> Action {
        plan(&Sight { base, disk, resolution, refused: None, held: false, twin: None, open_for_writing: false })
    }

    #[test]
    fn nothing_on_disk_is_replaced_before_it_is_recorded() {
        let wanted = [resolution(Outcome::Content(content("new")), "2"), resolution(Outcome::Absent, "2")];
        for resolution in &wanted {
            for base in [None, Some(&base("old", "1"))] {
                let action = decide(base, Disk::Unrecorded, resolution);
                assert!(matches!(action, Action::Wait { .. }), "{action:?}");
            }
        }
    }

    #[test]
    fn every_ordinary_case_has_its_action() {
        let old = base("old", "1");
        let new = resolution(Outcome::Content(content("new")), "2");
        let same = resolution(Outcome::Content(content("old")), "1");
        let renamed_version = resolution(Outcome::Content(content("old")), "2");
        let gone = resolution(Outcome::Absent, "2");

        assert_eq!(decide(Some(&old), Disk::AsBase, &same), Action::Nothing);
        assert_eq!(decide(Some(&old), Disk::AsBase, &new), Action::Write);
        assert_eq!(decide(None, Disk::Absent, &new), Action::Write);
        assert_eq!(decide(Some(&old), Disk::AsBase, &renamed_version), Action::Adopt);
        assert_eq!(decide(Some(&old), Disk::AsBase, &gone), Action::Remove);
        assert_eq!(decide(Some(&old), Disk::Absent, &gone), Action::Forget);
        assert_eq!(decide(None, Disk::Absent, &gone), Action::Nothing);
    }

    #[test]
    fn a_removal_here_is_never_undone_by_the_planner() {
        let action = decide(Some(&base("old", "1")), Disk::Absent, &resolution(Outcome::Content(content("new")), "2"));

        assert!(matches!(action, Action::Wait { what: "write", .. }));
    }

    #[test]
    fn what_the_rules_refuse_is_not_placed_and_its_absence_means_nothing() {
        let new = resolution(Outcome::Content(content("new")), "2");
        let sight = Sight {
            base: None,
            disk: Disk::Absent,
            resolution: &new,
            refused: Some("on the denylist"),
            held: false,
            twin: None,
            open_for_writing: false,
        };

        assert_eq!(plan(&sight), Action::Wait { what: REFUSED, why: "on the denylist".to_owned() });
    }

    #[test]
    fn a_held_deletion_leaves_the_disk_alone() {
        let (old, gone) = (base("old", "1"), resolution(Outcome::Absent, "2"));
        let sight = Sight {
            base: Some(&old),
            disk: Disk::AsBase,
            resolution: &gone,
            refused: None,
            held: true,
            twin: None,
            open_for_writing: false,
        };

        assert!(matches!(plan(&sight), Action::Wait { what: "held", .. }));
    }
}
