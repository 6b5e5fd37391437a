//! A project of a million entries: how soon its view is there, what it holds in memory after a walk, and how long walks take.
//!
//! Invariant: the plain side is the project's own folder, recorded by the program itself. Minutes of making: only when asked for.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::Options;
use crate::measure::{percentile, run};
use crate::place::Place;
use crate::table::{Goal, Pair, Table};
use crate::tree::Dice;
use crate::view::{drop_caches, shell, until_shown};

const FILES: usize = 950_000;
const FOLDERS: usize = 47_500;
/// Folders of one folder.
const FAN_OUT: usize = 20;
const STARTS: usize = 7;
const COLD_STARTS: usize = 3;

/// All of it.
pub fn million(options: &Options) {
    let place = Place::new(&options.larder);
    let project = place.project("project");
    let plain = project.join("files");
    make(&plain);
    let recorded = run(place.larder(&project, None, &["sync"]));
    let table = Table::begin(&format!("The view of {} entries", FILES + FOLDERS));
    table.figure("recorded and mirrored", recorded.wall_ms, "ms", Goal::None);
    let may_drop = drop_caches();
    starts(&table, &place, &project, may_drop.is_ok());
    match may_drop {
        Ok(()) => walks(&place, &project, &plain),
        Err(why) => table.absent("walks", &why),
    }
}

fn make(root: &Path) {
    let mut dice = Dice::new(2);
    let mut folders = vec![root.to_owned()];
    for n in 0..FOLDERS {
        let folder = folders[n / FAN_OUT].join(format!("part{n:05}"));
        fs::create_dir(&folder).expect("make a folder");
        folders.push(folder);
    }
    for n in 0..FILES {
        let folder = &folders[1 + dice.below(FOLDERS)];
        fs::write(folder.join(format!("f{n:06}.txt")), format!("file {n}, {:x}\n", dice.next())).expect("write a file");
    }
    rustix::fs::sync();
}

/// From the start of the program to the end of a first `ls`.
fn starts(table: &Table, place: &Place, project: &Path, may_drop: bool) {
    let dir = place.path("mount");
    let start = |is_cold: bool| {
        if is_cold {
            drop_caches().expect("it was allowed before");
        }
        let begun = Instant::now();
        let view = place.begin_mount(project, &dir);
        until_shown(&dir.join("merged/files"));
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        drop(view);
        ms
    };
    let warm = (0..STARTS).map(|_| start(false)).collect();
    table.figure("from start to the first `ls`, warm", percentile(warm, 0.5), "ms", Goal::AtMost(10.0));
    if may_drop {
        let cold = (0..COLD_STARTS).map(|_| start(true)).collect();
        table.figure("from start to the first `ls`, cold", percentile(cold, 0.5), "ms", Goal::AtMost(100.0));
    }
}

fn walks(place: &Place, project: &Path, plain: &Path) {
    let find = |root: &Path| {
        let begun = Instant::now();
        shell(root, "find . -type f | cat >/dev/null");
        begun.elapsed().as_secs_f64() * 1000.0
    };
    let cold = |root: &Path| {
        drop_caches().expect("it was allowed before");
        find(root)
    };
    let theirs = [cold(plain), find(plain), find(plain)];
    let dir = place.path("mount");
    let view = place.mount(project, &dir);
    let shown = dir.join("merged/files");
    let ours = [cold(&shown), find(&shown), find(&shown)];
    let table = Table::beside("Walks of them", "ext4");
    table.faster("find, the first, cold", &[Pair { theirs: theirs[0], ours: ours[0] }], Some(0.7));
    let again = [1, 2].map(|at| Pair { theirs: theirs[at], ours: ours[at] });
    table.faster("find, the second", &again, Some(1.0));
    let anonymous = format!("/proc/{}/status", view.pid());
    let text = fs::read_to_string(anonymous).expect("it runs");
    let kib = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok());
    let table = Table::begin("Memory of the view's process");
    table.figure("anonymous, after them", kib.unwrap_or(f64::NAN) / 1024.0, "MiB", Goal::AtMost(25.0));
}
