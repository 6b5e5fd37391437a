//! Decides which project paths Larder may touch.
//!
//! The way through this crate is `&str -> RelPath -> AdmittedPath`: a string from anywhere becomes a [`RelPath`] or an error, and only
//! [`Rules`] turn a `RelPath` into an [`AdmittedPath`]. Whoever writes a file asks for an `AdmittedPath`, so that no path reaches a
//! disk or a peer past the patterns and the denylist.
//!
//! Invariants: what [`denied`] names is never admitted, whatever the patterns say; order of patterns never changes a verdict.
//! Pure: no clock, no files, no threads. Case folding of *patterns* is not done here: patterns are case-sensitive, the denylist is not.

mod channel;
mod content;
mod denylist;
mod glob;
mod lists;
mod path;
mod rules;
mod spelling;
mod table;
mod wild;

pub use channel::{Channel, UnknownChannel};
pub use content::{CONTENT_HEAD_BYTES, DeniedContent, denied_content};
pub use denylist::{denied, denylist, runs_code};
pub use glob::{MAX_ALTERNATIVES, MAX_BRACE_DEPTH, MAX_PATTERN_CHARS, PatternProblem};
pub use lists::{MAX_PATTERNS, PatternError, PatternLists, PatternRef, PatternWarning, PatternWarningKind};
pub use path::{MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_PATH_BYTES, PathError, RelPath, fold_key, shown};
pub use rules::{
    AdmittedPath, Decision, Explanation, MAX_ALTERNATIVES_IN_ALL, MAX_WEIGHT_IN_ALL, Refusal, Rules, Within,
};
