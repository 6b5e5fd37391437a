//! Who wrote what is shown, and when: as extended attributes of a file, and as a text for each folder of `merged/`.
//!
//! Invariant: nothing here is listed, so what walks the view sees the project's files alone; a file of the project that has the name of the
//! text has it. The text is bounded. What it says of a merge is the merge's own: no version has its content.

use super::catalog::{Catalog, DirId, FileRow, Tree};
use super::listing::Entry;
use super::node::{NodeId, Place};
use super::view::{NodeKind, View, ViewError};

/// The name of the text in each folder of `merged/`.
pub(super) const PROVENANCE_NAME: &str = ".provenance";
/// Lines of one text; beyond, it says how to ask for one file.
const MAX_LINES: usize = 10_000;
/// Lines asked for at once.
const PAGE_LINES: usize = 1_024;
const HEADER: &str = "# name\torigin\ttime\tversion\thash\n";

impl<C: Catalog> View<C> {
    /// The extended attributes of a file or link, by name; none for anything else.
    pub fn attributes(&self, node: NodeId) -> Result<Vec<(&'static str, String)>, ViewError> {
        let Some(Place::File(file)) = Place::of(node) else { return Ok(Vec::new()) };
        let row = self.row(file)?;
        Ok(vec![
            ("user.larder.origin", row.origin.name.to_string()),
            ("user.larder.hlc", row.hlc.to_string()),
            ("user.larder.hash", row.content.hash.to_string()),
            ("user.larder.version", row.version.to_string()),
        ])
    }

    /// A line for each file directly in a folder of `merged/`.
    pub(super) fn provenance_of_folder(&self, dir: DirId) -> Result<String, ViewError> {
        let folder = Place::Dir(Tree::Merged, dir).node();
        let mut text = HEADER.to_owned();
        let mut count = 0;
        // Beyond `.` and `..`.
        let mut offset = 2;
        loop {
            let page = self.read_dir(folder, offset, PAGE_LINES)?;
            let Some(last) = page.last() else { return Ok(text) };
            offset = last.offset;
            for entry in page.into_iter().filter(|entry| entry.node.attr.kind != NodeKind::Folder) {
                if count == MAX_LINES {
                    text.push_str("# there are more; `larder log PATH` tells of any\n");
                    return Ok(text);
                }
                count += 1;
                text.push_str(&self.line(&entry)?);
            }
        }
    }

    fn line(&self, entry: &Entry) -> Result<String, ViewError> {
        let FileRow { origin, hlc, content, version, .. } = self.file(entry.node.id)?;
        let name = larder_patterns::shown(&entry.name);
        let time = super::naming::time_name(hlc);
        Ok(format!("{name}\t{}\t{time}\t{version}\t{}\n", origin.name, content.hash))
    }
}
