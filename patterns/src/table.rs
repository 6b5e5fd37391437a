//! Many globs matched at once, each with the number of its owner.
//!
//! `globset` compiles a set into one automaton of bounded size. Lists that are within their limits but mostly wildcards would pass that
//! bound, so a table is cut into sets of bounded weight; ordinary lists need one. Matching is linear in the path for each set.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::glob::{PatternProblem, PlainGlob};

/// Most weight of one set: keeps its automaton well below the 10 MiB that `globset` allows.
const MAX_SET_WEIGHT: usize = 24_000;

/// Compiled globs and their owners.
#[derive(Clone, Debug, Default)]
pub(crate) struct GlobTable {
    sets: Vec<OwnedSet>,
}

#[derive(Clone, Debug)]
struct OwnedSet {
    set: GlobSet,
    /// A glob's index in the set leads to its owner.
    owners: Vec<usize>,
}

impl GlobTable {
    /// Compiles globs in their order.
    ///
    /// Errors: the owner of the globs that cannot be compiled, and why.
    pub fn build<'a>(
        globs: impl IntoIterator<Item = (&'a PlainGlob, usize)>,
    ) -> Result<GlobTable, (usize, PatternProblem)> {
        let mut table = GlobTable::default();
        let mut part = Part::default();
        for (glob, owner) in globs {
            if part.weight + glob.weight() > MAX_SET_WEIGHT && !part.owners.is_empty() {
                table.sets.push(std::mem::take(&mut part).finish()?);
            }
            part.add(glob, owner)?;
        }
        if !part.owners.is_empty() {
            table.sets.push(part.finish()?);
        }
        Ok(table)
    }

    /// Tells whether the table matches nothing.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Returns the owners of the globs that match `path`, in no order, perhaps several times.
    pub fn owners_of(&self, path: &str) -> Vec<usize> {
        let candidate = Candidate::new(path);
        let mut owners = Vec::new();
        let mut matching = Vec::new();
        for part in &self.sets {
            part.set.matches_candidate_into(&candidate, &mut matching);
            owners.extend(matching.iter().map(|&glob| part.owners[glob]));
        }
        owners
    }
}

struct Part {
    builder: GlobSetBuilder,
    owners: Vec<usize>,
    weight: usize,
}

impl Default for Part {
    fn default() -> Part {
        Part { builder: GlobSetBuilder::new(), owners: Vec::new(), weight: 0 }
    }
}

impl Part {
    fn add(&mut self, glob: &PlainGlob, owner: usize) -> Result<(), (usize, PatternProblem)> {
        let compiled = GlobBuilder::new(&glob.to_string())
            .literal_separator(true)
            .backslash_escape(true)
            .empty_alternates(true)
            .build()
            .map_err(|error| (owner, too_complex(&error)))?;
        self.builder.add(compiled);
        self.owners.push(owner);
        self.weight += glob.weight();
        Ok(())
    }

    fn finish(self) -> Result<OwnedSet, (usize, PatternProblem)> {
        match self.builder.build() {
            Ok(set) => Ok(OwnedSet { set, owners: self.owners }),
            Err(error) => Err((self.owners.last().copied().unwrap_or_default(), too_complex(&error))),
        }
    }
}

fn too_complex(error: &globset::Error) -> PatternProblem {
    const DETAIL_CHARS: usize = 200;
    PatternProblem::TooComplex { detail: error.kind().to_string().chars().take(DETAIL_CHARS).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Pattern;

    fn table(patterns: &[String]) -> GlobTable {
        let parsed: Vec<Pattern> = patterns
            .iter()
            .map(|text| Pattern::parse(text).unwrap_or_else(|problem| panic!("{text:?}: {problem}")))
            .collect();
        let globs =
            parsed.iter().enumerate().flat_map(|(owner, pattern)| pattern.globs.iter().map(move |glob| (glob, owner)));
        GlobTable::build(globs).unwrap_or_else(|(owner, problem)| panic!("{:?}: {problem}", patterns[owner]))
    }

    #[test]
    fn ordinary_lists_need_one_set() {
        let patterns: Vec<String> = (0..200).map(|at| format!("data/d{at}/**/*.json")).collect();
        assert_eq!(table(&patterns).sets.len(), 1);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn a_table_that_is_cut_still_finds_every_owner() {
        let patterns: Vec<String> = (0..1_000).map(|at| format!("*{}{at:03}*", "?a".repeat(90))).collect();

        let table = table(&patterns);

        assert!(table.sets.len() > 1);
        for at in [0, 1, 100, 198, 199] {
            assert_eq!(table.owners_of(&format!("{}{at:03}", "aa".repeat(90))), [at]);
        }
    }
}
