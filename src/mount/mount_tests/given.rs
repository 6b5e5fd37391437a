//! Laws of bytes that are handed to the kernel before it asks for them.

use std::thread::JoinHandle;

use super::super::catalog::Giver;
use super::super::node::Place;
use super::*;
use crate::index::Proven;

const ORIGIN: &str = "laptop-abc234";

/// Bytes of which no two pages are alike.
fn bytes_of(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at / 4096) as u8).collect()
}

/// A view of some files, all named to the kernel, and by whom their bytes can be handed on.
fn shown(contents: &[(String, Vec<u8>)]) -> (Fixture, Arc<dyn Giver>, Vec<FileId>) {
    let puts: Vec<MemoryPut<'_>> =
        contents.iter().map(|(name, bytes)| MemoryPut::file(ORIGIN, name, bytes, WALL_MS)).collect();
    let fixture = Fixture::new(&puts);
    let merged = fixture.path("merged");
    let nodes = contents.iter().map(|(name, _)| fs::metadata(merged.join(name)).expect("a file").ino());
    let file = |node| match Place::of(NodeId(node)) {
        Some(Place::File(file)) => file,
        other => panic!("no file: {other:?}"),
    };
    let files = nodes.map(file).collect();
    let giver = fixture.view.catalog().giver().expect("bytes can be handed on");
    (fixture, giver, files)
}

fn named(lens: &[usize]) -> Vec<(String, Vec<u8>)> {
    lens.iter().map(|len| (format!("{len}.bin"), bytes_of(*len))).collect()
}

#[test]
fn bytes_that_were_handed_on_are_read_without_a_question() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let contents = named(&[1, 4_095, 4_096, 4_097, 100_000, 131_072]);
    let (fixture, giver, files) = shown(&contents);
    let turn = giver.turn().expect("it goes on");

    giver.give(files.iter().zip(&contents).map(|(file, (_, bytes))| (*file, Proven::of(bytes))).collect(), turn);

    let mounted = fixture.mounted();
    eventually("all to be handed on", || mounted.counters().given == contents.len() as u64);
    let asked = asked_by(mounted, || {
        for (name, bytes) in &contents {
            assert!(fs::read(fixture.path("merged").join(name)).expect("bytes") == *bytes, "{name}");
        }
    });
    assert_eq!(asked.read, 0);
}

#[test]
fn a_file_that_the_kernel_does_not_know_is_not_handed_on_and_others_are() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let contents = named(&[10, 20]);
    let (fixture, giver, files) = shown(&contents);
    let turn = giver.turn().expect("it goes on");

    let unknown = (FileId(1 << 40), Proven::of(b"nobody's"));
    giver.give(vec![unknown, (files[1], Proven::of(&contents[1].1))], turn);

    eventually("the other one to be handed on", || fixture.mounted().counters().given == 1);
    assert_eq!(fs::read(fixture.path("merged/20.bin")).expect("bytes"), contents[1].1);
}

#[test]
fn what_was_looked_up_before_contents_were_let_go_is_not_handed_on_after() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let contents = named(&[10, 20]);
    let (fixture, giver, files) = shown(&contents);
    let before = giver.turn().expect("it goes on");

    fixture.mounted().forget(&files[..1]);
    giver.give(vec![(files[0], Proven::of(&contents[0].1))], before);
    giver.give(vec![(files[1], Proven::of(&contents[1].1))], giver.turn().expect("it goes on"));

    eventually("what was looked up after to be handed on", || fixture.mounted().counters().given == 1);
    let read = |name: &str| assert!(!fs::read(fixture.path("merged").join(name)).expect("bytes").is_empty());
    assert_eq!(asked_by(fixture.mounted(), || read("20.bin")).read, 0);
    let before = fixture.mounted().counters();
    read("10.bin");
    assert_eq!(fixture.mounted().counters().since(&before).read, 1);
}

#[test]
fn what_was_handed_on_is_forgotten_with_everything_else_when_contents_are_let_go() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let contents = named(&[10]);
    let (fixture, giver, files) = shown(&contents);
    giver.give(vec![(files[0], Proven::of(&contents[0].1))], giver.turn().expect("it goes on"));
    eventually("it to be handed on", || fixture.mounted().counters().given == 1);
    fixture.view.catalog().lose_content(&contents[0].1);

    fixture.mounted().forget(&files);
    assert!(fixture.mounted().settle(DEADLINE));

    assert_eq!(error_of(fs::read(fixture.path("merged/10.bin"))), Some(Errno::IO));
}

#[test]
fn who_hands_on_has_one_handle_of_its_own_and_no_other() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let _shown = shown(&named(&[10]));
    let tasks = fs::read_dir("/proc/self/task").expect("this process").map_while(Result::ok);
    let is_one = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == "larder-give")
    };

    let mut seen = 0;
    for task in tasks.filter(is_one) {
        let Ok(open) = fs::read_dir(task.path().join("fd")) else { continue };
        let open: Vec<PathBuf> =
            open.map_while(Result::ok).filter_map(|open| fs::read_link(open.path()).ok()).collect();
        // Another test's may be at its end.
        assert!(open.iter().all(|open| open == Path::new("/dev/fuse")) && open.len() < 2, "{open:?}");
        seen += open.len();
    }

    assert!(seen > 0);
}

#[test]
fn with_the_view_it_is_over() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let (mut fixture, giver, files) = shown(&named(&[10]));

    fixture.mounted.take().expect("it is mounted").unmount().expect("unmounted");

    assert_eq!(giver.turn(), None);
    giver.give(vec![(files[0], Proven::of(b"late"))], 0);
}

#[test]
fn a_catalog_hears_of_the_files_of_a_folder_that_was_listed_whole() {
    if !can_mount() {
        return;
    }
    let contents: Vec<(String, Vec<u8>)> = (0..60).map(|n| (format!("docs/{n:02}.md"), vec![b'x'; n + 1])).collect();
    let puts: Vec<MemoryPut<'_>> =
        contents.iter().map(|(path, bytes)| MemoryPut::file(ORIGIN, path, bytes, WALL_MS)).collect();
    let fixture = Fixture::new(&puts);

    assert_eq!(fixture.names("merged/docs").len(), 60);

    let listed = fixture.view.catalog().listed_so_far();
    assert_eq!(listed, [(1..=60).map(FileId).collect::<Vec<FileId>>()]);
}

/// Has the kernel make whoever hands bytes on wait, for somebody whose question is not answered.
fn wait_for_a_reader(fixture: &Fixture, giver: &Arc<dyn Giver>, file: FileId, bytes: &[u8]) -> JoinHandle<Vec<u8>> {
    let path = fixture.path("merged").join(format!("{}.bin", bytes.len()));
    let before = fixture.mounted().counters();
    let reader = std::thread::spawn(move || fs::read(path).expect("bytes"));
    eventually("the question", || fixture.mounted().counters().since(&before).read > 0);
    giver.give(vec![(file, Proven::of(bytes))], giver.turn().expect("it goes on"));
    eventually("it to wait", || fixture.mounted().is_handing_on());
    reader
}

#[test]
fn changes_are_told_while_bytes_are_handed_on_that_a_slow_reader_holds_up() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let contents = named(&[10, 20]);
    let (fixture, giver, files) = shown(&contents);
    let view = Arc::clone(&fixture.view);
    let held = view.catalog().hold_readers();
    let reader = wait_for_a_reader(&fixture, &giver, files[0], &contents[0].1);

    fixture.publish(&[MemoryPut::file(ORIGIN, "new.bin", b"new", WALL_MS + 1)]);
    assert!(fixture.path("merged/new.bin").exists());
    fixture.mounted().forget(&files[1..]);
    assert!(fixture.mounted().settle(DEADLINE), "what else is forgotten");

    drop(held);
    assert_eq!(reader.join().expect("it reads"), contents[0].1);
}

#[test]
fn a_view_is_taken_down_while_bytes_are_handed_on_that_a_slow_reader_holds_up() {
    if !can_mount() || ringed::are_wanted() {
        return;
    }
    let contents = named(&[10, 20]);
    let (mut fixture, giver, files) = shown(&contents);
    let view = Arc::clone(&fixture.view);
    let held = view.catalog().hold_readers();
    let reader = wait_for_a_reader(&fixture, &giver, files[0], &contents[0].1);
    let change = view.catalog().put(&MemoryPut::file(ORIGIN, "new.bin", b"new", WALL_MS + 1));
    fixture.mounted().notify(view.refresh(&[change]).expect("a known path"));

    let mounted = fixture.mounted.take().expect("it is mounted");
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(mounted.unmount().is_ok()));
    let is_unmounted = is_done.recv_timeout(DEADLINE);

    drop(held);
    assert_eq!(is_unmounted, Ok(true));
    assert_eq!(reader.join().expect("it reads"), contents[0].1);
}
