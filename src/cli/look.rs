//! The view of a project without a mount: what `ls`, `cat` and `export --tree` look at.
//!
//! Invariant: reads only; what is shown here is what a mount shows, under the same names.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::context::Context;
use crate::index::{ContentReader, Reader};
use crate::ledger::Ledger;
use crate::model::RelPath;
use crate::mount::{CatalogError, IndexCatalog, Node, Top, View, ViewError};
use crate::node::{Glance, Kind, NodeError};

/// A folder of the view.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// What all machines converge on
    Merged,
    /// Of it, what has a star
    Starred,
    /// Each machine as it published
    Origins,
    /// Every version of every file
    History,
    /// Each side of the open conflicts
    Conflicts,
    /// The last content of what is deleted
    Trash,
    /// All of these, each in a folder of its own
    All,
}

impl What {
    fn top(self) -> Top {
        match self {
            What::Merged => Top::Merged,
            What::Starred => Top::Folder("starred"),
            What::Origins => Top::Folder("origins"),
            What::History => Top::Folder("history"),
            What::Conflicts => Top::Folder("conflicts"),
            What::Trash => Top::Folder("trash"),
            What::All => Top::All,
        }
    }
}

/// Which tree to look at.
#[derive(Args, Debug, Clone, Default)]
pub struct WhichTree {
    /// As it was then: 1h, 3d, yesterday, 2026-07-14 or 2026-07-14T13:12:12Z
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// As this machine published it
    #[arg(long, value_name = "ORIGIN", conflicts_with = "at")]
    pub origin: Option<String>,
    /// Which folder of a mounted view; merged if nothing is said
    #[arg(long, value_enum, conflicts_with_all = ["at", "origin"])]
    pub what: Option<What>,
}

/// An open view and the folder in it that stands for the project.
pub struct Look {
    pub glance: Glance,
    pub view: View<IndexCatalog>,
    pub top: Node,
    which: WhichTree,
}

impl Look {
    /// Opens the project for reading.
    pub fn open(context: &Context, which: &WhichTree) -> Result<Look, NodeError> {
        let glance = context.glance()?;
        // One sentence for "nothing was recorded yet", before anything is opened.
        glance.index()?;
        let view = open_view(context, &glance)?;
        let top = match (&which.at, &which.origin) {
            (Some(text), _) => {
                let unknown = || {
                    let message = format!("{} is no time", larder_patterns::shown(text));
                    NodeError::user(message, "write 1h, 3d, yesterday, 2026-07-14 or 2026-07-14T13:12:12Z")
                };
                Top::At(view.moment(text).ok_or_else(unknown)?)
            }
            (None, Some(origin)) => Top::Origin(origin.clone()),
            (None, None) => which.what.unwrap_or(What::Merged).top(),
        };
        let top = view.top(&top).map_err(|error| match (&error, &which.origin) {
            (ViewError::NotFound { .. } | ViewError::NameTooLong { .. }, Some(origin)) => {
                let message = format!("no machine {} is known here", larder_patterns::shown(origin));
                NodeError::user(message, "`larder origin list` lists them")
            }
            _ => view_error(error),
        })?;
        Ok(Look { glance, view, top, which: which.clone() })
    }

    /// The path that was typed, and what stands there.
    pub fn find(&self, context: &Context, typed: Option<&PathBuf>) -> Result<(Option<RelPath>, Node), NodeError> {
        let path = typed.map(|typed| context.project_path(&self.glance.settings, typed)).transpose()?.flatten();
        let Some(path) = path else { return Ok((None, self.top)) };
        match self.view.find(self.top.id, path.as_str()) {
            Ok(node) => Ok((Some(path), node)),
            Err(ViewError::NotFound { .. } | ViewError::NotFolder { .. } | ViewError::NameTooLong { .. }) => {
                Err(self.absent(&path))
            }
            Err(error) => Err(view_error(error)),
        }
    }

    /// Why nothing stands at a path, and where to look instead.
    fn absent(&self, path: &RelPath) -> NodeError {
        let shown = path.shown();
        if let Some(what) = self.which.what.filter(|what| *what != What::Merged)
            && let Some(name) = what.to_possible_value()
        {
            let name = name.get_name().to_owned();
            let message = format!("{shown} is not in what `--what {name}` shows");
            return NodeError::user(message, format!("`larder ls --what {name}` lists what is"));
        }
        let folder = self.view.find(self.top.id, path.parent().unwrap_or_default());
        let beside = folder.and_then(|folder| self.view.beside(folder.id, path.file_name())).unwrap_or_default();
        if !beside.is_empty() {
            let names: Vec<String> = beside.iter().map(|name| larder_patterns::shown(name)).collect();
            let message = format!("several machines keep their own {shown}");
            return NodeError::user(message, format!("they are {}", names.join(", ")));
        }
        let is_known = self.glance.slots_of(path).is_ok_and(|slots| !slots.is_empty());
        match (&self.which, is_known) {
            (WhichTree { at: Some(at), .. }, true) => {
                let message = format!("{shown} was not there at {}", larder_patterns::shown(at));
                NodeError::user(message, format!("`larder log {shown}` lists its versions"))
            }
            (WhichTree { origin: Some(origin), .. }, true) => {
                let message = format!("{} has no {shown}", larder_patterns::shown(origin));
                NodeError::user(message, format!("`larder log {shown}` lists its versions"))
            }
            (_, true) => {
                let hint = format!("`larder log {shown}` lists its versions, `larder restore {shown}` brings it back");
                NodeError::user(format!("{shown} is deleted"), hint)
            }
            (_, false) => {
                let hint = "`larder ls` lists what is recorded, `larder log PATH` what was";
                NodeError::user(format!("nothing is recorded at {shown}"), hint)
            }
        }
    }
}

/// The view of what a glance sees.
pub fn open_view(context: &Context, glance: &Glance) -> Result<View<IndexCatalog>, NodeError> {
    let index = glance.dirs.index();
    let ledger = Arc::new(Ledger::open(&glance.dirs.larder)?);
    let contents = ContentReader::new(ledger, Reader::open(&index)?);
    Ok(View::new(IndexCatalog::new(index, Arc::new(contents))).with_clock(context.env.clock.clone()))
}

/// The view's error as a person can use it.
pub fn view_error(error: ViewError) -> NodeError {
    let message = error.to_string();
    match error {
        ViewError::Catalog(CatalogError::LetGo { .. }) => {
            NodeError::user(message, "`retention` says how long what was replaced is kept")
        }
        ViewError::Catalog(CatalogError::Gone { .. }) => {
            NodeError::user(message, "`larder log PATH` lists its versions")
        }
        ViewError::Catalog(CatalogError::Absent { .. }) => NodeError {
            kind: Kind::Unavailable,
            message,
            hint: Some("`larder sync` fetches it from any store that holds it".to_owned()),
        },
        ViewError::Catalog(CatalogError::Broken { .. }) => NodeError::new(Kind::Damage, with_causes(message, &error)),
        _ => NodeError::user(message, "`larder ls` lists what is recorded"),
    }
}

fn with_causes(mut message: String, error: &dyn std::error::Error) -> String {
    let mut cause = error.source().and_then(std::error::Error::source);
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    message
}
