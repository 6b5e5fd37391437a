//! What may be put: an artifact that is what its name says, or the marker of a project.
//!
//! Invariant: the bound on the bytes follows from the name, before any byte is read; bytes are proven by the same code that the exchange
//! proves them with. Whether a chain is trusted or a checkpoint follows is the exchange's business, not this.

use crate::ledger::{
    ArtifactKind, ArtifactName, Checkpoint, MAX_CHECKPOINT_BYTES, MAX_PACK_BYTES, MAX_RECORDS_BYTES, verify_bytes,
};
use crate::model::canonical_bytes;
use crate::transport::Marker;
use crate::transport::marker::{MAX_NOTE_BYTES, ProjectId};

/// What a server takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Artifacts and markers, each proven.
    Artifacts,
    /// Anything of at most so many bytes: for places whose contents are sealed, and for the laws of a transport.
    Opaque {
        /// The bound.
        max_bytes: u64,
    },
}

/// What a name of the store stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meant {
    /// An artifact.
    Artifact(ArtifactName),
    /// The marker of a project.
    Marker(ProjectId),
}

/// Splits a name of a store into the app and what stands below it; `None` for what no store of ours holds.
pub fn understand(name: &str) -> Option<(&str, Meant)> {
    let (app, rest) = name.split_once('/')?;
    let plain = app.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !plain || app.is_empty() || app.len() > 64 {
        return None;
    }
    if let Some(id) = rest.strip_prefix("markers/").and_then(|file| file.strip_suffix(".json")) {
        return ProjectId::try_from(id.to_owned()).ok().map(|id| (app, Meant::Marker(id)));
    }
    // Printing and parsing are inverse, so no second spelling gets through.
    let name = rest.parse::<ArtifactName>().ok().filter(|name| name.to_string() == rest)?;
    Some((app, Meant::Artifact(name)))
}

impl Gate {
    /// The most bytes that may be put under a name. Errors: why nothing may.
    pub fn max_bytes(&self, name: &str) -> Result<u64, &'static str> {
        match (self, understand(name)) {
            (Gate::Opaque { max_bytes }, _) => Ok(*max_bytes),
            (Gate::Artifacts, Some((_, Meant::Marker(_)))) => Ok(MAX_NOTE_BYTES),
            (Gate::Artifacts, Some((_, Meant::Artifact(name)))) => Ok(match name.kind() {
                ArtifactKind::Checkpoint => MAX_CHECKPOINT_BYTES,
                ArtifactKind::Pack => MAX_PACK_BYTES,
                ArtifactKind::Records => MAX_RECORDS_BYTES,
            }),
            (Gate::Artifacts, None) => Err("that is no artifact's name"),
        }
    }

    /// Proves that bytes are what their name says. Errors: what is wrong with them, as a fragment.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        if matches!(self, Gate::Opaque { .. }) {
            return Ok(());
        }
        match understand(name) {
            None => Err("that is no artifact's name".to_owned()),
            Some((app, Meant::Marker(id))) => {
                let expected = canonical_bytes(&Marker::new(app, id)).map_err(|error| error.to_string())?;
                if expected == bytes { Ok(()) } else { Err("that is not the marker of this name".to_owned()) }
            }
            Some((app, Meant::Artifact(name))) => {
                verify_bytes(&name, bytes).map_err(|damage| damage.to_string())?;
                let belongs = name.kind() != ArtifactKind::Checkpoint
                    || Checkpoint::parse(&name, bytes).is_ok_and(|checkpoint| checkpoint.body.app == app);
                if belongs { Ok(()) } else { Err("it belongs to another app".to_owned()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_artifacts_and_markers_are_understood_in_one_spelling() {
        let hash = "ab".repeat(32);
        let pack = format!("app/shared/laptop-abc234~1/packs/{hash}.pack");
        assert!(matches!(understand(&pack), Some(("app", Meant::Artifact(_)))));
        assert!(matches!(understand("app/markers/abcdefghijklmnopqrstuvwxyz.json"), Some(("app", Meant::Marker(_)))));
        for bad in [
            pack.replace("ab", "AB"),
            pack.replace("~1", "~01"),
            pack.replace("shared", "Shared"),
            pack.replace("app/", "a p/"),
            format!("{pack}/x"),
            format!("x/{pack}"),
            "app/markers/x.json".to_owned(),
            "app/larder-store.json".to_owned(),
            "larder-store.json".to_owned(),
            "app/shared/laptop-abc234~1/checkpoints/cp-1-0123456789abcdef.json".to_owned(),
        ] {
            assert_eq!(understand(&bad), None, "{bad}");
            assert!(Gate::Artifacts.max_bytes(&bad).is_err() && Gate::Artifacts.check(&bad, b"x").is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_not_what_their_name_says_are_refused() {
        let bytes = b"bytes".to_vec();
        let name = format!("app/shared/laptop-abc234~1/packs/{}.pack", crate::model::Hash::of(&bytes));
        assert_eq!(Gate::Artifacts.check(&name, &bytes), Ok(()));
        for wrong in [&b""[..], b"byte", b"bytes ", b"Bytes"] {
            assert!(Gate::Artifacts.check(&name, wrong).is_err());
        }
        let id: ProjectId = ProjectId::try_from("a".repeat(26)).expect("an id");
        let marker = canonical_bytes(&Marker::new("app", id.clone())).expect("json");
        assert_eq!(Gate::Artifacts.check(&format!("app/markers/{id}.json"), &marker), Ok(()));
        assert!(Gate::Artifacts.check(&format!("other/markers/{id}.json"), &marker).is_err());
    }
}
