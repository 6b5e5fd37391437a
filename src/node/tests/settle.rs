//! Laws of changes that were stopped half way: whatever stands there at the next look, no bytes are lost and nothing is taken for what it is not.

use std::path::PathBuf;

use super::{Machine, backend, converge, intent_to_write, open_intent};
use crate::model::{ContentHash, RelPath};
use crate::node::{RunOptions, Way};
use crate::state::Intent;
use crate::sync::Scope;
use crate::sync::resolve::Outcome;

fn is_recorded(machine: &mut Machine, text: &str) -> bool {
    let hash = ContentHash::of(text.as_bytes());
    !machine.node().engine.reader().expect("opens").versions_of_content(&hash).expect("reads").is_empty()
}

fn problems(machine: &Machine, source: &str) -> Vec<(String, String)> {
    let told = machine.glance_status().problems.into_iter().filter(|problem| problem.source == source);
    told.map(|problem| (problem.path, problem.what)).collect()
}

fn is_conflict(machine: &mut Machine, name: &str) -> bool {
    let path = RelPath::parse(name).expect("a path");
    let engine = &machine.node().engine;
    let slot = engine.slot_by_rules(&path).expect("a slot");
    engine.resolution(&slot).expect("resolves").is_conflict()
}

fn stage(machine: &Machine) -> Vec<String> {
    let entries = std::fs::read_dir(machine.path(".larder/displaced")).expect("lists").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Where a replace of "one" by "two" was stopped. Without EXCHANGE it is three calls, of which one may be two.
const STOPS: [Stop; 6] = [
    Stop { after: "nothing", happened: false, takes: false },
    Stop { after: "the exchange", happened: true, takes: true },
    Stop { after: "the old one was put aside", happened: false, takes: true },
    Stop { after: "the new one was linked", happened: true, takes: true },
    Stop { after: "the new one got its place", happened: true, takes: true },
    Stop { after: "the old one was linked back", happened: false, takes: true },
];

struct Stop {
    after: &'static str,
    /// The new content had taken its place.
    happened: bool,
    /// What stood there had been taken away, so an edit may have slipped in.
    takes: bool,
}

/// What a person does with the path before the next start.
const PERSONS: [&str; 6] = ["", "removes it", "writes one", "writes two", "writes mine", "makes a folder"];

/// One file of a scene.
struct Case {
    name: String,
    id: String,
    beside: bool,
    /// What was taken away, or would have been; what slipped in stands nowhere else.
    taken: String,
    person: &'static str,
}

impl Case {
    fn all(stop: &Stop) -> Vec<Case> {
        let mut cases = Vec::new();
        for beside in [false, true] {
            for slips in if stop.takes { &[false, true][..] } else { &[false] } {
                for person in PERSONS {
                    // Through a link a person would write over what slipped in.
                    if stop.after == "the old one was linked back" && *slips && person.starts_with("writes") {
                        continue;
                    }
                    let name = format!("{}.txt", cases.len());
                    let taken = if *slips { format!("slipped into {name}") } else { "one".to_owned() };
                    cases.push(Case { id: format!("id{}", cases.len()), name, beside, taken, person });
                }
            }
        }
        cases
    }

    fn staged(&self, machine: &Machine) -> PathBuf {
        let id = &self.id;
        machine.path(&if self.beside { format!("_tmp-larder-{id}") } else { format!(".larder/displaced/{id}") })
    }

    fn aside(&self, machine: &Machine) -> PathBuf {
        PathBuf::from(format!("{}.old", self.staged(machine).display()))
    }

    /// Leaves the disk as the stop did.
    fn stop(&self, stop: &Stop, machine: &Machine) {
        let (path, staged, aside) = (machine.path(&self.name), self.staged(machine), self.aside(machine));
        std::fs::write(&staged, "two").expect("stages");
        if stop.takes {
            std::fs::write(&path, &self.taken).expect("slips in");
        }
        match stop.after {
            "nothing" => return,
            "the exchange" => {
                std::fs::rename(&path, &aside).expect("renames");
                std::fs::rename(&staged, &path).expect("renames");
                return std::fs::rename(&aside, &staged).expect("renames");
            }
            _ => std::fs::rename(&path, &aside).expect("renames"),
        }
        match stop.after {
            "the new one was linked" => std::fs::hard_link(&staged, &path).expect("links"),
            "the new one got its place" => std::fs::rename(&staged, &path).expect("renames"),
            "the old one was linked back" => std::fs::hard_link(&aside, &path).expect("links"),
            _ => {}
        }
    }

    /// Does what a person does.
    fn act(&self, machine: &Machine) {
        let path = machine.path(&self.name);
        match self.person.split_once(' ') {
            Some(("writes", text)) => std::fs::write(path, text).expect("writes"),
            Some(_) => {
                // Nothing may stand there.
                let _ = std::fs::remove_file(&path);
                if self.person == "makes a folder" {
                    std::fs::create_dir(path).expect("creates");
                }
            }
            None => {}
        }
    }

    /// What the path holds in the end, if only one can win.
    fn outcome(&self, stop: &Stop) -> Option<&'static str> {
        let slipped = stop.takes && self.taken != "one";
        match self.person {
            "makes a folder" => None,
            "writes mine" if stop.happened && !slipped => Some("mine"),
            "writes mine" => None,
            "writes one" if stop.happened && !slipped => Some("one"),
            _ if slipped => None,
            _ => Some("two"),
        }
    }
}

#[test]
fn wherever_a_replace_is_stopped_and_whatever_stands_there_then_no_bytes_are_lost_and_every_edit_stands_on_its_base() {
    for stop in &STOPS {
        let backend = backend();
        let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
        let cases = Case::all(stop);
        for case in &cases {
            a.write(&case.name, "one");
        }
        // So many that those a person removes are few.
        (0..100).for_each(|n| a.write(&format!("other/{n}.md"), "other"));
        converge(&mut [&mut a, &mut b]);
        cases.iter().for_each(|case| a.write(&case.name, "two"));
        a.run();
        b.node().run(&RunOptions { way: Way::Push, ..RunOptions::default() }).expect("fetches");
        for case in &cases {
            let intent = intent_to_write(&mut b, &case.name, false);
            let intent = Intent { id: case.id.clone(), beside: case.beside, ..intent };
            b.node().engine.state.add_intent(&intent).expect("opens the intent");
            case.stop(stop, &b);
            case.act(&b);
        }

        b.restart();
        b.run();
        converge(&mut [&mut b, &mut a]);

        assert_eq!(b.node().engine.state.intents().expect("lists"), [], "after {}", stop.after);
        let rows = b.node().engine.state.displaced().expect("lists");
        assert!(rows.iter().all(|row| row.hash.is_some()), "after {}: {rows:?}", stop.after);
        assert_eq!(problems(&b, "stage"), [], "after {}", stop.after);
        let named: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        let unnamed = |name: &String| !named.contains(&name.trim_start_matches("_tmp-larder-"));
        let beside = super::tree(b.dir.path()).into_iter().map(|(name, _)| name);
        let beside = beside.filter(|name| name.starts_with("_tmp-"));
        let left: Vec<String> = stage(&b).into_iter().chain(beside).filter(unnamed).collect();
        assert_eq!(left, [""; 0], "after {}", stop.after);
        for case in &cases {
            let what =
                format!("after {}, beside: {}, {} stood there; {}", stop.after, case.beside, case.taken, case.person);
            for text in [case.taken.as_str(), case.person.strip_prefix("writes ").unwrap_or("one")] {
                assert!(is_recorded(&mut b, text), "{what}: {text} is lost");
            }
            if let Some(text) = case.outcome(stop) {
                assert!(!is_conflict(&mut b, &case.name), "{what}: a conflict");
                assert_eq!(b.read(&case.name).as_deref(), Some(text), "{what}");
                assert_eq!(a.read(&case.name).as_deref(), Some(text), "{what}");
            } else if case.person != "makes a folder" {
                assert!(is_conflict(&mut b, &case.name), "{what}: no conflict");
                assert_eq!(a.read(&case.name), b.read(&case.name), "{what}");
            }
        }
    }
}

#[test]
fn a_change_that_an_error_left_half_way_is_settled_by_the_next_run_whatever_that_looks_at() {
    let backend = backend();
    let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
    a.write("a.txt", "one");
    converge(&mut [&mut a, &mut b]);
    a.write("a.txt", "two");
    a.run();
    open_intent(&mut b, "a.txt", false);
    b.write("a.txt", "mine");
    std::fs::write(b.path(".larder/displaced/stopped"), "one").expect("writes");

    let elsewhere = RelPath::parse("b.txt").expect("a path");
    let scope = Scope::Some { paths: vec![elsewhere], trees: vec![] };
    b.node().run(&RunOptions { scope, ..RunOptions::default() }).expect("runs");

    assert_eq!(b.node().engine.state.intents().expect("lists"), []);
    assert!(is_recorded(&mut b, "mine"));
    assert!(!is_conflict(&mut b, "a.txt"), "the new content had its place");
}

#[test]
fn bytes_in_the_stage_that_nothing_names_stay_and_are_told_until_somebody_takes_them() {
    let mut a = Machine::new("a", &backend());
    a.write("a.txt", "one");
    a.run();
    a.restart();
    // A state that is lost names nothing any more.
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(a.path(".larder").join(file));
    }
    for (name, text) in
        [("recorded", "one"), ("forgotten", "only here"), ("aside.old", "here as well"), ("aside", "and here")]
    {
        std::fs::write(a.path(".larder/displaced").join(name), text).expect("writes");
    }

    for _ in 0..3 {
        a.restart();
        a.run();
        assert_eq!(stage(&a), ["aside-1.old", "aside.old", "forgotten.old"]);
        let told: Vec<String> = problems(&a, "stage").into_iter().map(|(path, _)| path).collect();
        let names = ["aside-1.old", "aside.old", "forgotten.old"];
        assert_eq!(told, names.map(|name| format!(".larder/displaced/{name}")));
    }
    let text = |name: &str| std::fs::read_to_string(a.path(".larder/displaced").join(name)).expect("reads");
    assert_eq!((text("aside.old"), text("aside-1.old")), ("here as well".to_owned(), "and here".to_owned()));
    std::fs::remove_file(a.path(".larder/displaced/aside-1.old")).expect("removes");
    std::fs::remove_file(a.path(".larder/displaced/forgotten.old")).expect("removes");
    a.run();
    assert_eq!(problems(&a, "stage").len(), 1);
    std::fs::remove_file(a.path(".larder/displaced/aside.old")).expect("removes");
    a.run();
    assert_eq!(problems(&a, "stage"), []);
}

#[test]
fn a_copy_whose_staging_was_stopped_goes_without_a_word_also_in_a_new_project() {
    let mut a = Machine::new("a", &backend());
    a.write("a.txt", "one");
    a.run();
    a.restart();
    std::fs::write(a.path(".larder/displaced/torn"), "tw").expect("writes");

    a.run();

    assert_eq!((stage(&a), problems(&a, "stage")), (vec![], vec![]));
}

#[test]
fn a_staged_copy_that_the_disk_spoiled_is_nobodys_edit_if_nothing_stood_there() {
    for person in [None, Some("mine")] {
        let backend = backend();
        let (mut a, mut b) = (Machine::new("a", &backend), Machine::new("b", &backend));
        a.write("other.txt", "other");
        converge(&mut [&mut a, &mut b]);
        a.write("a.txt", "one");
        a.run();
        let (id, path) = ("stopped".to_owned(), RelPath::parse("a.txt").expect("a path"));
        b.node().run(&RunOptions { way: Way::Push, ..RunOptions::default() }).expect("fetches");
        let engine = &b.node().engine;
        let slot = engine.slot_by_rules(&path).expect("a slot");
        let resolution = engine.resolution(&slot).expect("resolves");
        let Outcome::Content(content) = resolution.outcome else { panic!("{resolution:?}") };
        let other = intent_to_write(&mut b, "other.txt", false);
        let (old_versions, new_versions) = (vec![], resolution.versions);
        let new_hash = Some(content.hash);
        let intent = Intent { id, path, old_versions, old_hash: None, new_versions, new_hash, new_size: 3, ..other };
        b.node().engine.state.add_intent(&intent).expect("opens the intent");
        std::fs::write(b.path(".larder/displaced/stopped"), "0ne").expect("writes");
        if let Some(text) = person {
            b.write("a.txt", text);
        }

        b.restart();
        b.run();

        assert!(!is_recorded(&mut b, "0ne"));
        assert_eq!((stage(&b), is_conflict(&mut b, "a.txt")), (vec![], person.is_some()));
        assert_eq!(b.read("a.txt").as_deref(), Some(person.unwrap_or("one")));
    }
}

#[test]
fn a_file_that_is_replaced_grants_nobody_more_than_it_did() {
    use std::os::unix::fs::PermissionsExt;
    let adapter = backend();
    let (mut a, mut b) = (Machine::new("a", &adapter), Machine::new("b", &adapter));
    for name in ["notes.json", "open.json"] {
        a.write(name, "1\n");
    }
    converge(&mut [&mut a, &mut b]);
    std::fs::set_permissions(b.path("notes.json"), std::fs::Permissions::from_mode(0o600)).expect("chmod");
    b.run();
    for name in ["notes.json", "open.json"] {
        a.write(name, "2\n");
    }
    let script = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(a.path("notes.json"), script).expect("chmod");

    converge(&mut [&mut a, &mut b]);

    let mode = |name: &str| std::fs::metadata(b.path(name)).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((b.read("notes.json").as_deref(), b.read("open.json").as_deref()), (Some("2\n"), Some("2\n")));
    assert_eq!((mode("notes.json"), mode("open.json") & 0o600), (0o700, 0o600));
}
