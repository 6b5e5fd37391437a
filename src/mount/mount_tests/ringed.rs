//! Laws of a mount whose requests come through rings. Skipped, aloud, where the kernel does not offer them.

use std::sync::mpsc::channel;

use super::*;

const RINGS: &str = "LARDER_TEST_RINGS";
const OFFER: &str = "/sys/module/fuse/parameters/enable_uring";
const ORIGIN: &str = "laptop-abc234";

/// True in a process that repeats the laws of a mount with rings.
pub(super) fn are_wanted() -> bool {
    std::env::var_os(RINGS).is_some()
}

/// False, aloud, where there are none to be had. Turning them on changes nothing for whoever does not want them.
fn are_offered() -> bool {
    let is_on = || fs::read_to_string(OFFER).is_ok_and(|offer| offer.trim() == "Y");
    if can_mount() && !is_on() {
        let _ = fs::write(OFFER, "1");
    }
    if !is_on() {
        println!("skipped: {OFFER} is not on, and cannot be turned on here");
    }
    is_on()
}

fn with_rings(puts: &[MemoryPut<'_>]) -> Fixture {
    let mut fixture = Fixture::new(puts);
    fixture.mount_with(&MountOptions { rings: true, ..MountOptions::default() });
    assert!(fixture.mounted().has_rings());
    fixture
}

#[test]
fn every_law_of_a_mount_holds_with_rings() {
    if are_wanted() || !are_offered() {
        return;
    }
    let run = Command::new(std::env::current_exe().expect("the test binary"))
        .args(["mount::mount_tests::", "--skip", "mount_tests::through", "--test-threads", "2"])
        .env(RINGS, "1")
        .output()
        .expect("a child");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let passed = said.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    assert!(passed > 25, "{said}");
}

#[test]
fn many_readers_of_long_and_short_files_get_their_bytes() {
    if !are_offered() {
        return;
    }
    let bytes_of = |seed: u32, len: u32| -> Vec<u8> {
        (0..len / 4).flat_map(|i| (i ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    };
    let contents: Vec<(String, Vec<u8>)> = (0..24)
        .map(|i| (format!("{i}.bin"), bytes_of(i, if i % 3 == 0 { (3 << 20) + 4096 * i } else { 4096 * i })))
        .collect();
    let puts: Vec<MemoryPut<'_>> =
        contents.iter().map(|(name, bytes)| MemoryPut::file(ORIGIN, name, bytes, WALL_MS)).collect();
    let fixture = with_rings(&puts);

    std::thread::scope(|scope| {
        for reader in 0..6 {
            let (fixture, contents) = (&fixture, &contents);
            scope.spawn(move || {
                for (name, bytes) in contents.iter().cycle().skip(reader * 4).take(contents.len()) {
                    assert!(fs::read(fixture.path("merged").join(name)).expect("bytes") == *bytes, "{name}");
                }
            });
        }
    });
}

/// Which processors a status in `/proc` allows.
fn processors_in(status: &str) -> Option<String> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(|list| list.trim().to_owned())
}

/// Which processors the main thread may run on: its status is there from the start, and another thread has its name only once it ran.
fn processors_of_this_process() -> String {
    processors_in(&fs::read_to_string("/proc/self/status").expect("this process")).expect("a list of processors")
}

/// Which processors the threads of this process that begin with a name may run on.
fn processors_of(name: &str) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("this process").map_while(Result::ok);
    let of = |task: fs::DirEntry| {
        let is_named = fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name));
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        processors_in(&status).filter(|_| is_named)
    };
    tasks.filter_map(of).collect()
}

#[test]
fn who_works_ahead_is_not_bound_to_the_processor_of_who_asked_first() {
    if !are_offered() {
        return;
    }
    let puts: Vec<(String, String)> = (0..40).map(|i| (format!("notes/{i}/a.md"), format!("{i}"))).collect();
    let puts: Vec<MemoryPut<'_>> =
        puts.iter().map(|(path, text)| MemoryPut::file(ORIGIN, path, text.as_bytes(), WALL_MS)).collect();
    let fixture = with_rings(&puts);

    let _ = walk(&fixture.path("merged"));

    let whole = processors_of_this_process();
    let rings: Vec<String> = processors_of("larder-ring-").into_iter().filter(|list| *list != whole).collect();
    assert!(rings.len() > 1 || !whole.contains(['-', ',']), "{rings:?} {whole:?}");
    eventually("the lister's thread to begin", || !processors_of("larder-scout").is_empty());
    eventually("it to run anywhere", || processors_of("larder-scout").iter().all(|list| *list == whole));
}

#[test]
fn an_answer_that_fails_badly_is_an_error_and_the_next_ones_are_given() {
    if !are_offered() {
        return;
    }
    let mut fixture = Fixture::new(&[
        MemoryPut::file(ORIGIN, "away.md", b"away", WALL_MS),
        MemoryPut::file(ORIGIN, "here.md", b"here", WALL_MS),
    ]);
    fixture.view.catalog().lose_content(b"away");
    let teller = Teller::by(|sentence| panic!("on purpose: {sentence}"));
    fixture.mount_with(&MountOptions { teller, rings: true, ..MountOptions::default() });
    assert!(fixture.mounted().has_rings());

    // More often than there are threads and slots.
    for _ in 0..20 {
        assert_eq!(error_of(fs::read(fixture.path("merged/away.md"))), Some(Errno::IO));
    }
    assert_eq!(fs::read(fixture.path("merged/here.md")).expect("bytes"), b"here");
}

#[test]
fn where_rings_cannot_be_had_one_sentence_says_so_and_the_view_is_the_usual_one() {
    if are_wanted() || !can_mount() {
        return;
    }
    let mut fixture = Fixture::new(&[MemoryPut::file(ORIGIN, "a.md", b"text", WALL_MS)]);
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let teller = Teller::by(move |sentence| {
        tell.lock().expect("nobody panics with it").send(sentence.to_owned()).unwrap_or_default();
    });
    let folder = fixture._temp.path().join("cache");
    let passthrough = Some(Passthrough::new(folder, 4 << 20));

    fixture.mount_with(&MountOptions { teller, passthrough, rings: true, ..MountOptions::default() });

    if rustix::process::geteuid().is_root() {
        let sentence = told.recv_timeout(DEADLINE).expect("a sentence");
        assert!(sentence.starts_with("take requests through io_uring: long files are read from copies"), "{sentence}");
    }
    assert_eq!(fs::read(fixture.path("merged/a.md")).expect("bytes"), b"text");
}
