//! The rules as they stand inside one folder, so that a walk judges each name once and not its whole path.
//!
//! What the folder's own names settle is settled when it is entered: which line of the denylist has begun, how far each glob has come,
//! which lists are closed. Invariant: a name gets the verdict that [`Rules::admit`] gives the whole path. Where that cannot be told
//! from the name alone (letters that normalise, a dot at the end, very many patterns), the whole path is asked about.

use unicode_normalization::{IsNormalized, is_nfc_quick};

use super::{AdmittedPath, Channel, Rules, place};
use crate::denylist::DeniedFolder;
use crate::glob::{Component, MAX_PATTERN_CHARS, PlainGlob};
use crate::path::{PathError, RelPath, check_child, check_one_name};
use crate::wild::takes;

/// More tests of a name than this are slower than the automaton of all globs.
const MAX_TESTS: usize = 64;
/// Most components of a glob: each needs a character and a separator, and a name that excludes has `**` added.
const MAX_GLOB_COMPONENTS: usize = MAX_PATTERN_CHARS / 2 + 2;
const _: () = assert!(MAX_GLOB_COMPONENTS <= u128::BITS as usize);

/// The rules inside one folder.
#[derive(Clone, Debug)]
pub struct Within<'r> {
    rules: &'r Rules,
    folder: Option<RelPath>,
    depth: usize,
    denied: DeniedFolder,
    /// None if the folder's name has more than one form.
    reached: Option<Reached<'r>>,
}

/// How far the globs have come.
#[derive(Clone, Debug, Default)]
struct Reached<'r> {
    /// The globs that can match something below.
    live: Vec<Live<'r>>,
    /// For each list, by its place: what its names are tested for.
    tests: [Tests<'r>; Channel::ALL.len()],
    /// For each list: whether it excludes everything below.
    closed: [bool; Channel::ALL.len()],
    is_tested: bool,
}

#[derive(Clone, Copy, Debug)]
struct Live<'r> {
    glob: &'r PlainGlob,
    list: usize,
    excludes: bool,
    /// Bit i: the folder's names can have been consumed by the first i components.
    states: u128,
}

/// The last components of the globs that a name in the folder can end.
#[derive(Clone, Debug, Default)]
struct Tests<'r> {
    naming: Vec<&'r Component>,
    excluding: Vec<&'r Component>,
}

impl Rules {
    /// Returns the rules inside a folder; none is the root.
    pub fn within(&self, folder: Option<&RelPath>) -> Within<'_> {
        let root = Within {
            rules: self,
            folder: None,
            depth: 0,
            denied: DeniedFolder::default(),
            reached: Some(Reached::at_root(self)),
        };
        let Some(folder) = folder else {
            return root;
        };
        let mut within = root;
        for name in folder.components() {
            within = within.entered(name);
        }
        within.folder = Some(folder.clone());
        within
    }
}

impl<'r> Within<'r> {
    /// Returns the folder; none is the root.
    pub fn folder(&self) -> Option<&RelPath> {
        self.folder.as_ref()
    }

    /// Admits the file called `name`; none if [`Rules::admit`] refuses it, which knows the reason.
    ///
    /// Errors: as [`RelPath::child`].
    pub fn admit(&self, name: &str) -> Result<Option<AdmittedPath>, PathError> {
        self.check(name)?;
        if self.denied.denies(name) {
            return Ok(None);
        }
        let Some(reached) = self.reached_for(name).filter(|reached| reached.is_tested) else {
            return Ok(self.rules.admit(&self.path_of(name)).ok());
        };
        Ok(reached.channel_of(name).map(|channel| AdmittedPath { path: self.path_of(name), channel }))
    }

    /// Tells whether a walk must look into the folder called `name`, as [`Rules::may_contain`]; if so, returns its path.
    ///
    /// Errors: as [`RelPath::child`].
    pub fn may_contain(&self, name: &str) -> Result<Option<RelPath>, PathError> {
        self.check(name)?;
        if self.denied.denies(name) {
            return Ok(None);
        }
        let may_contain = match self.reached_for(name) {
            Some(reached) => reached.leads_below(name),
            None => self.rules.may_contain(&self.path_of(name)),
        };
        Ok(may_contain.then(|| self.path_of(name)))
    }

    /// Returns the path of `name` in this folder.
    ///
    /// Errors: as [`RelPath::child`].
    pub fn child(&self, name: &str) -> Result<RelPath, PathError> {
        self.check(name)?;
        Ok(self.path_of(name))
    }

    /// Returns the rules inside the folder called `name`.
    ///
    /// Errors: as [`RelPath::child`].
    pub fn enter(&self, name: &str) -> Result<Within<'r>, PathError> {
        let path = self.child(name)?;
        let mut within = self.entered(name);
        within.folder = Some(path);
        Ok(within)
    }

    fn entered(&self, name: &str) -> Within<'r> {
        Within {
            rules: self.rules,
            folder: None,
            depth: self.depth + 1,
            denied: self.denied.enter(name),
            reached: self.reached_for(name).map(|reached| reached.enter(name)),
        }
    }

    fn check(&self, name: &str) -> Result<(), PathError> {
        match &self.folder {
            Some(folder) => check_child(folder.as_str().len(), self.depth, name),
            None => {
                check_one_name(name)?;
                RelPath::parse(name).map(|_| ())
            }
        }
    }

    /// Returns the path of a name that was checked.
    fn path_of(&self, name: &str) -> RelPath {
        match &self.folder {
            Some(folder) => folder.with_checked(name),
            None => RelPath::parse(name).expect("the name was checked"),
        }
    }

    fn reached_for(&self, name: &str) -> Option<&Reached<'r>> {
        self.reached.as_ref().filter(|_| has_one_form(name))
    }
}

/// Tells whether a name is matched as it is: it has no other form, and does not end as `globset` takes no file name to end.
fn has_one_form(name: &str) -> bool {
    !name.ends_with('.') && (name.is_ascii() || is_nfc_quick(name.chars()) == IsNormalized::Yes)
}

impl<'r> Reached<'r> {
    fn at_root(rules: &'r Rules) -> Reached<'r> {
        let live = rules.patterns.iter().flat_map(|pattern| {
            pattern.globs.iter().map(|glob| Live {
                glob,
                list: place(pattern.source.list),
                excludes: pattern.excludes,
                states: skip_anything(glob, 1),
            })
        });
        Reached::of(live.collect())
    }

    fn enter(&self, name: &str) -> Reached<'r> {
        let next = self.live.iter().filter_map(|live| {
            let states = live.step(name);
            (states != 0).then_some(Live { states, ..*live })
        });
        Reached::of(next.collect())
    }

    fn of(live: Vec<Live<'r>>) -> Reached<'r> {
        let mut reached = Reached::default();
        for one in &live {
            reached.closed[one.list] |= one.excludes && one.takes_everything();
        }
        for one in &live {
            // Of a closed list nothing is admitted, whatever else it says.
            if let Some(last) = one.last().filter(|_| !reached.closed[one.list]) {
                reached.tests[one.list].add(last, one.excludes);
            }
        }
        let count = |tests: &Tests<'_>| tests.naming.len() + tests.excluding.len();
        reached.is_tested = reached.tests.iter().map(count).sum::<usize>() <= MAX_TESTS;
        reached.live = live;
        reached
    }

    fn channel_of(&self, name: &str) -> Option<Channel> {
        let mut lists = Channel::ALL.into_iter().zip(&self.tests);
        lists.find(|(_, tests)| tests.admit(name)).map(|(list, _)| list)
    }

    /// Tells whether a path below the folder called `name` may be admitted.
    fn leads_below(&self, name: &str) -> bool {
        let mut closed = self.closed;
        let mut leads = [false; Channel::ALL.len()];
        for live in &self.live {
            let next = Live { states: live.step(name), ..*live };
            if live.excludes {
                closed[live.list] |= next.takes_everything();
            } else {
                leads[live.list] |= next.states != 0;
            }
        }
        leads.iter().zip(closed).any(|(&leads, closed)| leads && !closed)
    }
}

impl<'r> Live<'r> {
    /// Returns the states after one more folder; 0 if nothing below it can match.
    fn step(&self, name: &str) -> u128 {
        let components = &self.glob.components;
        let mut next = 0;
        let mut states = self.states;
        while states != 0 {
            let at = states.trailing_zeros() as usize;
            states &= states - 1;
            match &components[at] {
                Component::Anything => next |= 1 << at,
                // The last component ends the path, so what it takes is no folder above it.
                _ if at + 1 == components.len() => {}
                component if takes(component, name) => next |= 1 << (at + 1),
                _ => {}
            }
        }
        skip_anything(self.glob, next)
    }

    /// Returns the last component if a name in the folder can be the one it takes.
    fn last(&self) -> Option<&'r Component> {
        let at = self.glob.components.len().checked_sub(1)?;
        (self.states & (1 << at) != 0).then(|| &self.glob.components[at])
    }

    fn takes_everything(&self) -> bool {
        self.last() == Some(&Component::Anything)
    }
}

/// Adds the states behind each `**`, which may stand for nothing; the last one stands for something.
fn skip_anything(glob: &PlainGlob, mut states: u128) -> u128 {
    debug_assert!(glob.components.len() <= MAX_GLOB_COMPONENTS);
    for (at, component) in glob.components.iter().enumerate() {
        let is_last = at + 1 == glob.components.len();
        if *component == Component::Anything && !is_last && states & (1 << at) != 0 {
            states |= 1 << (at + 1);
        }
    }
    states
}

impl<'r> Tests<'r> {
    fn add(&mut self, last: &'r Component, excludes: bool) {
        let tests = if excludes { &mut self.excluding } else { &mut self.naming };
        if *last == Component::Anything {
            // It makes the others needless.
            tests.clear();
        }
        if tests.first() != Some(&&Component::Anything) {
            tests.push(last);
        }
    }

    fn admit(&self, name: &str) -> bool {
        let any = |tests: &[&Component]| tests.iter().any(|test| takes(test, name));
        any(&self.naming) && !any(&self.excluding)
    }
}
