//! The table that is printed: a line per figure, with what was wanted and whether it was met.

use crate::measure::percentile;

/// How a figure relates to its goal.
pub enum Goal {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// Only for comparison.
    None,
}

/// The same work done twice, one right after the other.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// By the other, in milliseconds.
    pub theirs: f64,
    /// By larder.
    pub ours: f64,
}

/// A Markdown table, printed line by line as figures come in.
pub struct Table;

impl Table {
    /// Prints the head.
    pub fn begin(title: &str) -> Table {
        println!("\n### {title}\n");
        println!("| what | larder | other | ratio or figure | goal | met |");
        println!("|---|---|---|---|---|---|");
        Table
    }

    /// Prints the head of a table in which larder stands beside one other and more is better.
    pub fn beside(title: &str, other: &str) -> Table {
        println!("\n### {title}\n");
        println!("| what | larder | {other} | {other} / larder | goal | met |");
        println!("|---|---|---|---|---|---|");
        Table
    }

    /// How many times as fast larder is: the median over pairs, and from which to which.
    pub fn faster(&self, what: &str, pairs: &[Pair], goal: Option<f64>) {
        let ratios: Vec<f64> = pairs.iter().map(|pair| pair.theirs / pair.ours).collect();
        let of = |share| percentile(ratios.clone(), share);
        let middle = |figure: fn(&Pair) -> f64| percentile(pairs.iter().map(figure).collect(), 0.5);
        let ratio = format!("{:.2} x ({:.2} to {:.2})", of(0.5), of(0.0), of(1.0));
        let shown = [shown(middle(|pair| pair.ours), "ms"), shown(middle(|pair| pair.theirs), "ms"), ratio];
        self.line(what, &shown, of(0.5), &goal.map_or(Goal::None, Goal::AtLeast), " x");
    }

    /// A ratio of two measured figures of one unit.
    pub fn ratio(&self, what: &str, ours: f64, theirs: f64, unit: &str, goal: Goal) {
        let ratio = ours / theirs;
        let shown = [shown(ours, unit), shown(theirs, unit), format!("{ratio:.2} x")];
        self.line(what, &shown, ratio, &goal, " x");
    }

    /// A figure of ours alone.
    pub fn figure(&self, what: &str, ours: f64, unit: &str, goal: Goal) {
        let shown = [shown(ours, unit), "-".to_owned(), shown(ours, unit)];
        self.line(what, &shown, ours, &goal, &format!(" {unit}"));
    }

    /// A line that says why there is no figure.
    pub fn absent(&self, what: &str, why: &str) {
        println!("| {what} | - | - | {why} | - | - |");
    }

    fn line(&self, what: &str, shown: &[String; 3], value: f64, goal: &Goal, unit: &str) {
        let (goal, met) = match goal {
            Goal::AtMost(limit) => (format!("<= {limit}{unit}"), if value <= *limit { "yes" } else { "**no**" }),
            Goal::AtLeast(limit) => (format!(">= {limit}{unit}"), if value >= *limit { "yes" } else { "**no**" }),
            Goal::None => ("-".to_owned(), "-"),
        };
        println!("| {what} | {} | {} | {} | {goal} | {met} |", shown[0], shown[1], shown[2]);
    }
}

fn shown(value: f64, unit: &str) -> String {
    match unit {
        "ms" if value >= 10_000.0 => format!("{:.1} s", value / 1000.0),
        _ if value >= 100.0 => format!("{value:.0} {unit}"),
        _ => format!("{value:.2} {unit}"),
    }
}
