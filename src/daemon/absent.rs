//! Who is away, for whoever reads what the daemon prints.
//!
//! Invariant: one line when a peer is away and stays so, one when it is there again, and none of one that comes back before it is worth
//! a line. Pure: the clock is given. `status` tells more, and at once.

use std::collections::BTreeMap;

/// Who is away for less is not spoken of: a disk that wakes up, a line that breaks for a moment.
const WORTH_A_LINE_MS: u64 = 10_000;

struct Absence {
    since_ms: u64,
    why: String,
    is_said: bool,
}

/// By the peers' names.
#[derive(Default)]
pub(super) struct Absences(BTreeMap<String, Absence>);

impl Absences {
    /// After a run: those who are away now, and why those were who were tried. Returns what is to be said.
    pub fn note<'a>(
        &mut self,
        away: impl Iterator<Item = &'a str>,
        errors: &[(String, String)],
        now_ms: u64,
    ) -> Vec<String> {
        let mut before = std::mem::take(&mut self.0);
        let mut lines = Vec::new();
        for name in away {
            let new = || Absence { since_ms: now_ms, why: "it was not reached".to_owned(), is_said: false };
            let mut absence = before.remove(name).unwrap_or_else(new);
            if let Some((_, why)) = errors.iter().find(|(failed, _)| failed == name) {
                absence.why.clone_from(why);
            }
            if !absence.is_said && now_ms.saturating_sub(absence.since_ms) >= WORTH_A_LINE_MS {
                absence.is_said = true;
                lines.push(format!("the peer {name} is away: {}", absence.why));
            }
            self.0.insert(name.to_owned(), absence);
        }
        let back = before.into_iter().filter(|(_, absence)| absence.is_said);
        lines.extend(back.map(|(name, _)| format!("the peer {name} is there again")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_is_said_once_and_so_is_his_return_and_a_short_absence_never() {
        let errors = |why: &str| vec![("nas".to_owned(), why.to_owned())];
        let mut absences = Absences::default();
        let mut told = Vec::new();
        let mut note = |away: &[&str], why: &str, at_s: u64| {
            let lines = absences.note(away.iter().copied(), &errors(why), at_s * 1000);
            told.extend(lines.into_iter().map(|line| (at_s, line)));
        };

        note(&["nas"], "list: no answer", 0);
        note(&[], "", 8);
        note(&["nas"], "list: no answer", 30);
        note(&["nas"], "open: no answer", 60);
        note(&["nas"], "open: no answer", 90);
        note(&[], "", 120);
        note(&[], "", 150);

        let expected = [(60, "the peer nas is away: open: no answer"), (120, "the peer nas is there again")];
        assert_eq!(told, expected.map(|(at_s, line)| (at_s, line.to_owned())));
    }
}
