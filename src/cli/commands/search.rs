//! `larder search WORDS`: full text over what every machine's files say, and said.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::out::{Answer, complain};
use crate::cli::text::{rfc3339, time};
use crate::mount::parse_beginning;
use crate::node::NodeError;
use crate::search::{Hit, Hits, PlaceOfHit, Query, search};

/// Most hits that can be asked for.
const MAX_HITS: usize = 1_000;

/// Rows of the index from which on the first search is slow enough to say why.
const MANY_ROWS: u64 = 10_000;

/// What `larder search` takes.
#[derive(Args, Debug)]
pub struct SearchArgs {
    /// Words that must all be there; "a phrase", begin*, path:PART, origin:NAME, since:TIME; after `--`, -unwanted
    #[arg(required = true)]
    words: Vec<String>,
    /// Look at earlier versions, too
    #[arg(long)]
    history: bool,
    /// Most hits
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// Searches.
pub fn run(context: &Context, args: &SearchArgs) -> Result<Answer, NodeError> {
    let now_ms = context.now_ms();
    let query = Query::parse(&args.words.join(" "), &|text| parse_beginning(text, now_ms));
    let hint = "write `larder search WORDS`, such as `larder search error path:logs since:1d`";
    let query = query.map_err(|error| NodeError::user(error.to_string(), hint))?;
    let query = query.in_history(args.history).up_to(args.limit.clamp(1, MAX_HITS));
    let glance = context.glance()?;
    let progress = context.progress();
    let told = |done: u64, all: u64| {
        if done == 0 && all >= MANY_ROWS && !context.out.shows_progress() {
            complain(&format!("the first search takes in the text of {all} versions; later ones only what is new"));
        }
        progress.at("taking in text", done, all);
    };
    let found = search(&glance.dirs.fts(), glance.index()?, glance.contents()?, &query, &told)?;
    // Its last owner clears a bar before the answer is printed.
    drop(progress);
    let objects: Vec<Value> = found.hits.iter().map(object).collect();
    Ok(Answer::new(lines(&found), json!({ "hits": objects, "more": found.is_more })))
}

fn lines(found: &Hits) -> Vec<String> {
    let mut lines: Vec<String> = found.hits.iter().flat_map(hit_lines).collect();
    if found.hits.is_empty() {
        lines.push("nothing was found".to_owned());
    } else if found.is_more {
        lines.push("there is more: `--limit` shows it".to_owned());
    }
    lines
}

fn hit_lines(hit: &Hit) -> Vec<String> {
    let name = |place: &PlaceOfHit| {
        let past = if place.is_current { String::new() } else { format!(" of {}", time(place.hlc.wall_ms())) };
        format!("{}{past} ({})", place.path.shown(), place.origin)
    };
    let Some((first, others)) = hit.places.split_first() else { return Vec::new() };
    let mut lines = vec![format!("{}:{}: {}", name(first), hit.line, larder_patterns::shown(&hit.snippet))];
    lines.extend(others.iter().map(|place| format!("  also {}", name(place))));
    lines
}

fn object(hit: &Hit) -> Value {
    let place = |place: &PlaceOfHit| {
        json!({
            "path": place.path.shown(),
            "origin": place.origin.to_string(),
            "version": place.version.to_string(),
            "time": rfc3339(place.hlc.wall_ms()),
            "current": place.is_current,
        })
    };
    let places: Vec<Value> = hit.places.iter().map(place).collect();
    let snippet = larder_patterns::shown(&hit.snippet);
    json!({ "places": places, "size": hit.size, "line": hit.line, "snippet": snippet })
}
