//! What one event of the watching library means: which path, and whether it came, went or changed. Pure.

use std::path::Path;

use larder_patterns::RelPath;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};

/// What happened to a path since it was last handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Something stands there that was not there: made, or moved in.
    pub(super) appeared: bool,
    /// What stood there went: deleted, or moved away.
    pub(super) vanished: bool,
    /// Content, times or rights changed, or a writer closed it.
    pub(super) touched: bool,
}

impl Marks {
    pub(super) fn join(&mut self, other: Marks) {
        self.appeared |= other.appeared;
        self.vanished |= other.vanished;
        self.touched |= other.touched;
    }
}

/// The meaning of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Something happened to a path below the root.
    Note(RelPath, Marks),
    /// Events were lost.
    Overflow,
    /// The root was moved, removed or unmounted.
    RootGone,
}

/// Returns what an event means for a root.
///
/// Paths that are no paths inside a project are left out; a walk lists them.
pub(super) fn signals(root: &Path, event: &notify::Event) -> Vec<Signal> {
    // The flag comes without a path: it must be asked first.
    if event.need_rescan() {
        return vec![Signal::Overflow];
    }
    let Some(marks) = marks(&event.kind) else {
        return Vec::new();
    };
    let meanings = event.paths.iter().filter_map(|path| {
        let below = path.strip_prefix(root).ok()?.to_str()?;
        if below.is_empty() {
            return marks.vanished.then_some(Signal::RootGone);
        }
        Some(Signal::Note(RelPath::parse(below).ok()?, marks))
    });
    meanings.collect()
}

fn marks(kind: &EventKind) -> Option<Marks> {
    let appeared = Marks { appeared: true, ..Marks::default() };
    let vanished = Marks { vanished: true, ..Marks::default() };
    let touched = Marks { touched: true, ..Marks::default() };
    let anything = Marks { appeared: true, vanished: true, touched: true };
    match kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(appeared),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Some(vanished),
        // Sent in addition to the two halves of a rename.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(_)) => Some(anything),
        EventKind::Modify(_) | EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(touched),
        EventKind::Access(_) => None,
        EventKind::Any | EventKind::Other => Some(anything),
    }
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, RemoveKind};

    use super::*;

    fn meaning(kind: EventKind, path: &str) -> Vec<Signal> {
        signals(Path::new("/p"), &Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn events_become_notes_about_paths_below_the_root() {
        let (came, went, changed) = ((true, false, false), (false, true, false), (false, false, true));
        for (kind, expected) in [
            (EventKind::Create(CreateKind::Folder), Some(came)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(came)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::From)), Some(went)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), None),
            (EventKind::Remove(RemoveKind::File), Some(went)),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(changed)),
            (EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), Some(changed)),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(changed)),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), None),
            (EventKind::Access(AccessKind::Read), None),
            (EventKind::Any, Some((true, true, true))),
        ] {
            let expected = expected.map(|(appeared, vanished, touched)| {
                let marks = Marks { appeared, vanished, touched };
                Signal::Note(RelPath::parse("data/a").expect("a path"), marks)
            });
            assert_eq!(meaning(kind, "/p/data/a"), Vec::from_iter(expected), "{kind:?}");
        }
    }

    #[test]
    fn the_end_of_the_root_is_told_from_other_things_that_happen_to_it() {
        let removed = EventKind::Remove(RemoveKind::Folder);
        assert_eq!(meaning(removed, "/p"), [Signal::RootGone]);
        assert_eq!(meaning(EventKind::Modify(ModifyKind::Name(RenameMode::From)), "/p"), [Signal::RootGone]);
        assert_eq!(meaning(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "/p"), []);
        assert_eq!(meaning(removed, "/pp/a"), [], "a sibling that shares the prefix");
    }

    #[test]
    fn an_overflow_comes_without_a_path() {
        let event = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert_eq!(signals(Path::new("/p"), &event), [Signal::Overflow]);
    }
}
