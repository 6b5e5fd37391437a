//! What was found lately, by the numbers that stand for it.
//!
//! Invariant: a number means one set of things for as long as it is here; the table is bounded, and a number that was forgotten shows
//! nothing. Knows nothing of words and how they are looked for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::catalog::{FindId, MAX_FIND_ID};
use crate::model::Hash;

/// Sets with a number at one time.
const MAX_FINDS: usize = 64;

/// A bounded table of sets.
pub(super) struct Finds<T>(VecDeque<(FindId, Hash, Arc<T>)>);

impl<T> Default for Finds<T> {
    fn default() -> Finds<T> {
        Finds(VecDeque::new())
    }
}

impl<T> Finds<T> {
    /// The number of a set, named by a hash over the words and what was found for them.
    pub(super) fn number(&mut self, name: Hash, found: T) -> FindId {
        if let Some(known) = self.0.iter().position(|(_, known, _)| *known == name).and_then(|at| self.0.remove(at)) {
            let id = known.0;
            self.0.push_back(known);
            return id;
        }
        if self.0.len() >= MAX_FINDS {
            self.0.pop_front();
        }
        let first = u32::from_be_bytes(name.as_bytes()[..4].try_into().unwrap_or_default());
        let mut numbers = (0..=MAX_FIND_ID).map(|step| FindId(first.wrapping_add(step) & MAX_FIND_ID));
        // There are more numbers than sets in the table.
        let id = numbers.find(|id| self.get(*id).is_none()).unwrap_or(FindId(0));
        self.0.push_back((id, name, Arc::new(found)));
        id
    }

    /// The set of a number.
    pub(super) fn get(&self, id: FindId) -> Option<Arc<T>> {
        self.0.iter().find(|(known, _, _)| *known == id).map(|(_, _, found)| Arc::clone(found))
    }

    /// All numbers.
    pub(super) fn all(&self) -> Vec<FindId> {
        self.0.iter().map(|(id, _, _)| *id).collect()
    }
}

/// True for a name that is looked for by programs which mean no search: what starts with a dot, and what shells and
/// indexers ask every folder for.
pub(super) fn is_no_search(name: &str) -> bool {
    name.starts_with('.') || name.eq_ignore_ascii_case("autorun.inf") || name.eq_ignore_ascii_case("desktop.ini")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_number_until_many_others_came() {
        let mut finds = Finds::default();
        let name = |number: u32| Hash::of(&number.to_be_bytes());
        let first = finds.number(name(0), 0);
        assert_eq!(finds.number(name(0), 0), first);

        for number in 1..=MAX_FINDS as u32 {
            let id = finds.number(name(number), number);
            assert_eq!(finds.get(id).as_deref(), Some(&number));
        }

        assert_eq!((finds.all().len(), finds.get(first)), (MAX_FINDS, None));
    }
}
