//! Laws of a mount whose long files the kernel reads from plain copies. Skipped, aloud, where only the usual one can be had.

use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Receiver, channel};

use super::*;

const MIB: usize = 1 << 20;
/// Longer than any machine is slow.
const PATIENT: Duration = Duration::from_secs(24 * 3600);
const ORIGIN: &str = "laptop-abc234";

/// Bytes that repeat nowhere near.
fn bytes_of(seed: u32, len: usize) -> Vec<u8> {
    let words = len.div_ceil(4) as u32;
    let mut bytes: Vec<u8> = (0..words).flat_map(|i| (i ^ seed).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// As [`Fixture::new`], read through copies that take `bound_bytes`; and what the view's keeper was told.
fn with_copies(puts: &[MemoryPut<'_>], bound_bytes: usize) -> (Fixture, Receiver<String>) {
    let mut fixture = Fixture::new(puts);
    let folder = fixture._temp.path().join("cache");
    let told = mount_through(&mut fixture, folder, bound_bytes, false);
    (fixture, told)
}

fn mount_through(fixture: &mut Fixture, folder: PathBuf, bound_bytes: usize, inotify: bool) -> Receiver<String> {
    let (tell, told) = channel();
    let tell = std::sync::Mutex::new(tell);
    let teller = Teller::by(move |sentence| {
        tell.lock().expect("nobody panics with it").send(sentence.to_owned()).unwrap_or_default();
    });
    let passthrough = Some(Passthrough { patience: PATIENT, ..Passthrough::new(folder, bound_bytes as u64) });
    fixture.mount_with(&MountOptions { teller, passthrough, inotify, ..MountOptions::default() });
    told
}

/// False, aloud, where the kernel or the rights do not allow it; then somebody was told.
fn has_copies(fixture: &Fixture, told: &Receiver<String>) -> bool {
    if fixture.mounted().copies().is_some() {
        return true;
    }
    let sentence = told.try_recv().expect("a sentence");
    assert!(sentence.starts_with("read long files from copies: "), "{sentence}");
    println!("skipped: {sentence}");
    false
}

fn held(fixture: &Fixture) -> Held {
    fixture.mounted().copies().expect("there are copies")
}

fn read_at(file: &fs::File, offset: usize, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let got = file.read_at(&mut buffer, offset as u64).expect("bytes");
    buffer.truncate(got);
    buffer
}

#[test]
fn long_files_have_the_same_bytes_through_a_copy_and_nobody_is_asked_for_them() {
    if !can_mount() {
        return;
    }
    let bound = 6 * MIB;
    let sizes = [MIB - 1, MIB, MIB + 1, 3 * MIB + 4097, bound, bound + 1];
    let contents: Vec<Vec<u8>> = (1..).zip(sizes).map(|(seed, size)| bytes_of(seed, size)).collect();
    let names: Vec<String> = sizes.iter().map(|size| format!("of-{size}.bin")).collect();
    let puts: Vec<MemoryPut<'_>> =
        names.iter().zip(&contents).map(|(name, bytes)| MemoryPut::file(ORIGIN, name, bytes, WALL_MS)).collect();
    let (fixture, told) = with_copies(&puts, bound);
    if !has_copies(&fixture, &told) {
        return;
    }

    for (name, content) in names.iter().zip(&contents) {
        let path = fixture.path("merged").join(name);
        // The kernel tells a moment later that nobody has the one before open any more, which is in the way of the longest.
        eventually("all to be let go of", || {
            let counters = fixture.mounted().counters();
            counters.open == counters.release
        });
        let before = fixture.mounted().counters();
        assert!(fs::read(&path).expect("bytes") == *content, "{name}");
        let file = fs::File::open(&path).expect("a file");
        for (offset, len) in [(0, 1), (4095, 2), (content.len() / 2, 100_000), (content.len() - 1, 10)] {
            let end = (offset + len).min(content.len());
            assert!(read_at(&file, offset, len) == content[offset..end], "{name}: {len} from {offset}");
        }
        let copy = fixture._temp.path().join("copy");
        fs::copy(&path, &copy).expect("copied");
        assert!(fs::read(&copy).expect("bytes") == *content, "{name}");
        let direct = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).expect("a file");
        let mut aligned = vec![0u8; 8192];
        let skew = aligned.as_ptr().align_offset(4096);
        let got = direct.read_at(&mut aligned[skew..skew + 4096], 4096).expect("bytes");
        assert_eq!((got, &aligned[skew..skew + 4096]), (4096, &content[4096..8192]), "{name}");

        let is_copied = (MIB..=bound).contains(&content.len());
        let asked = fixture.mounted().counters().since(&before).read;
        assert_eq!(asked == 0, is_copied, "{name}: {asked} reads");
    }
    assert_eq!(held(&fixture).made, 4);
}

#[test]
fn a_program_runs_and_a_map_reads_from_a_copy() {
    if !can_mount() {
        return;
    }
    let program = fs::read(std::env::current_exe().expect("this program")).expect("bytes");
    let put = MemoryPut {
        state: Ok((&program, ContentKind::File { exec: true })),
        ..MemoryPut::file(ORIGIN, "program", b"", WALL_MS)
    };
    let (fixture, told) = with_copies(&[put], 2 * program.len());
    if !has_copies(&fixture, &told) {
        return;
    }
    let path = fixture.path("merged/program");
    let before = fixture.mounted().counters();

    let listed = Command::new(&path).args(["--list", "--exact", "mount::mount_tests::child_holds_a_mount"]).output();
    assert!(String::from_utf8_lossy(&listed.expect("it runs").stdout).contains("child_holds_a_mount"));

    let (file, len) = (fs::File::open(&path).expect("a file"), program.len());
    // SAFETY: a private read-only map of a whole open file that nobody truncates here; it is unmapped below.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: the map above has `len` bytes that nobody writes.
    assert!(unsafe { std::slice::from_raw_parts(map.cast::<u8>(), len) } == program);
    // SAFETY: the same map, no longer borrowed.
    unsafe { libc::munmap(map, len) };
    assert_eq!(fixture.mounted().counters().since(&before).read, 0);
}

#[test]
fn copies_never_take_more_than_their_bound_and_the_oldest_not_open_goes() {
    if !can_mount() {
        return;
    }
    let contents: Vec<Vec<u8>> = (1..=4).map(|seed| bytes_of(seed, 2 * MIB)).collect();
    let names = ["a.bin", "b.bin", "c.bin", "d.bin"];
    let puts: Vec<MemoryPut<'_>> =
        names.iter().zip(&contents).map(|(name, bytes)| MemoryPut::file(ORIGIN, name, bytes, WALL_MS)).collect();
    let (fixture, told) = with_copies(&puts, 5 * MIB);
    if !has_copies(&fixture, &told) {
        return;
    }
    let path = |n: usize| fixture.path("merged").join(names[n]);
    let open = |n: usize| {
        let file = fs::File::open(path(n)).expect("a file");
        assert!(read_at(&file, 0, 2 * MIB) == contents[n], "{n}");
        assert!(held(&fixture).bytes <= 5 * MIB as u64, "{:?}", held(&fixture));
        file
    };

    let kept_open = open(0);
    drop(open(1));
    // The kernel tells of it a moment later, and until then it counts as open.
    eventually("room for the third", || {
        drop(open(2));
        held(&fixture).made == 3
    });
    assert_eq!(held(&fixture).copies, 2);
    let reads = || fixture.mounted().counters().read;
    let before = reads();
    drop(open(0));
    assert_eq!((held(&fixture).made, reads()), (3, before), "what was open stayed");

    eventually("room for the second", || {
        drop(open(1));
        held(&fixture).made == 4
    });
    let second = open(1);
    let before = reads();
    // All that is there is open now: the next one is read as usual.
    drop(open(3));
    assert_eq!((held(&fixture).made, held(&fixture).copies), (4, 2));
    assert!(reads() > before);
    for (file, n) in [(kept_open, 0), (second, 1)] {
        assert!(read_at(&file, 0, 2 * MIB) == contents[n]);
    }
}

#[test]
fn whoever_deletes_the_folder_of_copies_harms_nothing() {
    if !can_mount() {
        return;
    }
    let (a, b) = (bytes_of(1, 2 * MIB), bytes_of(2, 2 * MIB));
    let puts = [MemoryPut::file(ORIGIN, "a.bin", &a, WALL_MS), MemoryPut::file(ORIGIN, "b.bin", &b, WALL_MS)];
    let (fixture, told) = with_copies(&puts, 64 * MIB);
    if !has_copies(&fixture, &told) {
        return;
    }
    let folder = fixture._temp.path().join("cache");
    let open = fs::File::open(fixture.path("merged/a.bin")).expect("a file");
    assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0, "copies have no names");

    fs::remove_dir_all(&folder).expect("removed");

    assert!(read_at(&open, 0, 2 * MIB) == a);
    assert!(fs::read(fixture.path("merged/a.bin")).expect("bytes") == a);
    assert!(fs::read(fixture.path("merged/b.bin")).expect("bytes") == b);
    assert_eq!(held(&fixture).made, 2, "the folder was made again");
    // And what stands in its place is not followed.
    fs::remove_dir_all(&folder).expect("removed");
    symlink("/dev/shm", &folder).expect("a link");
    let c = bytes_of(3, 2 * MIB);
    fixture.publish(&[MemoryPut::file(ORIGIN, "c.bin", &c, WALL_MS)]);
    assert!(fs::read(fixture.path("merged/c.bin")).expect("bytes") == c);
    assert_eq!(held(&fixture).made, 2);
}

#[test]
fn where_the_disk_is_full_long_files_are_read_as_usual() {
    if !can_mount() {
        return;
    }
    let (short, long) = (bytes_of(1, MIB), bytes_of(2, 3 * MIB));
    let puts = [MemoryPut::file(ORIGIN, "short", &short, WALL_MS), MemoryPut::file(ORIGIN, "long", &long, WALL_MS)];
    let small = SmallDisk(tempfile::tempdir().expect("a folder"));
    let mut fixture = Fixture::new(&puts);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(small.0.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: no small file system can be mounted");
        return;
    }
    let told = mount_through(&mut fixture, small.0.path().join("cache"), 64 * MIB, false);
    if !has_copies(&fixture, &told) {
        return;
    }
    let read = |name: &str| fs::read(fixture.path("merged").join(name)).expect("bytes");

    // Half of what is free is enough for one of them.
    assert!(read("long") == long && read("short") == short);
    assert_eq!(held(&fixture), Held { copies: 1, bytes: MIB as u64, made: 1 });
    let more = bytes_of(3, MIB);
    fixture.publish(&[MemoryPut::file(ORIGIN, "more", &more, WALL_MS)]);
    fs::write(small.0.path().join("filler"), vec![0; 5 * MIB / 2]).expect("it fits");
    assert!(read("long") == long && read("more") == more && read("short") == short);
    assert!(held(&fixture).bytes <= MIB as u64, "{:?}", held(&fixture));
}

/// A file system of its own, if one was mounted; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: copies that somebody has open keep it until then.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_purged_content_has_no_copy_any_more_also_where_it_is_open() {
    if !can_mount() {
        return;
    }
    let (gone, kept) = (bytes_of(1, 2 * MIB), bytes_of(2, 2 * MIB));
    let puts = [MemoryPut::file(ORIGIN, "gone", &gone, WALL_MS), MemoryPut::file(ORIGIN, "kept", &kept, WALL_MS)];
    let (fixture, told) = with_copies(&puts, 64 * MIB);
    if !has_copies(&fixture, &told) {
        return;
    }
    let open = |name: &str| fs::File::open(fixture.path("merged").join(name)).expect("a file");
    let (open_gone, open_kept) = (open("gone"), open("kept"));
    assert!(read_at(&open_gone, 0, 100) == gone[..100]);
    assert_eq!(held(&fixture).copies, 2);

    fixture.view.catalog().lose_content(&gone);
    fixture.mounted().forget(&[FileId(1)]);
    assert!(fixture.mounted().settle(DEADLINE));

    assert_eq!(held(&fixture), Held { copies: 1, bytes: 2 * MIB as u64, made: 2 });
    assert_eq!(read_at(&open_gone, 0, 100), b"", "nothing is left on the disk");
    assert_eq!(error_of(fs::File::open(fixture.path("merged/gone"))), Some(Errno::IO));
    assert!(read_at(&open_kept, 0, 2 * MIB) == kept);
    drop(open_gone);
    eventually("it to be read as usual", || fs::File::open(fixture.path("merged/gone")).is_ok());
    assert_eq!(error_of(fs::read(fixture.path("merged/gone"))), Some(Errno::IO));
}

#[test]
fn where_no_copies_can_be_had_one_sentence_says_so_and_the_view_is_the_usual_one() {
    if !can_mount() {
        return;
    }
    let long = bytes_of(1, 2 * MIB);
    let mut fixture = Fixture::new(&[MemoryPut::file(ORIGIN, "a.bin", &long, WALL_MS)]);
    // A file is no place for them; for a user who is not root it does not come to that.
    let folder = fixture._temp.path().join("file");
    fs::write(&folder, b"").expect("a file");

    let told = mount_through(&mut fixture, folder, 64 * MIB, false);
    let path = fixture.path("merged/a.bin");
    assert!(fs::read(&path).expect("bytes") == long);
    let again = asked_by(fixture.mounted(), || assert!(fs::read(&path).expect("bytes") == long));

    assert_eq!(again.asked(), 0, "nobody asks a second time");
    assert_eq!(fixture.mounted().copies(), None);
    let sentences: Vec<String> = told.try_iter().collect();
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    assert!(sentences[0].ends_with("they are read as usual") && !sentences[0].contains('\n'), "{sentences:?}");
}

#[test]
fn long_files_that_cannot_be_copied_fail_alone_and_are_said() {
    if !can_mount() {
        return;
    }
    let (away, here) = (bytes_of(1, 2 * MIB), bytes_of(2, 2 * MIB));
    let puts = [MemoryPut::file(ORIGIN, "away", &away, WALL_MS), MemoryPut::file(ORIGIN, "here", &here, WALL_MS)];
    let (fixture, told) = with_copies(&puts, 64 * MIB);
    if !has_copies(&fixture, &told) {
        return;
    }
    fixture.view.catalog().lose_content(&away);

    let file = fs::File::open(fixture.path("merged/away")).expect("it opens, as ever");
    assert_eq!(error_of(file.read_at(&mut [0; 10], 0)), Some(Errno::IO));
    assert!(fs::read(fixture.path("merged/here")).expect("bytes") == here);
    assert!(told.try_recv().expect("a sentence").contains("not here yet"));

    fixture.view.catalog().bring_content(&away);
    assert!(fs::read(fixture.path("merged/away")).expect("bytes") == away);
}

#[test]
fn versions_go_on_coming_where_copies_are_open() {
    if !can_mount() {
        return;
    }
    let (old, new) = (bytes_of(1, 2 * MIB), bytes_of(2, 2 * MIB));
    let (fixture, told) = with_copies(&[MemoryPut::file(ORIGIN, "docs/a.bin", &old, WALL_MS)], 64 * MIB);
    if !has_copies(&fixture, &told) {
        return;
    }
    let path = fixture.path("merged/docs/a.bin");
    let open = fs::File::open(&path).expect("a file");
    assert!(read_at(&open, 0, 2 * MIB) == old);

    fixture.publish(&[MemoryPut::file(ORIGIN, "docs/a.bin", &new, WALL_MS + 1000)]);

    assert!(fs::read(&path).expect("bytes") == new);
    assert!(read_at(&open, 0, 2 * MIB) == old);
    assert_eq!(held(&fixture).copies, 2);
    // The older one under another name is the same copy.
    let name = fixture.names("history/docs/a.bin").remove(0);
    assert!(fs::read(fixture.path("history/docs/a.bin").join(name)).expect("bytes") == old);
    assert_eq!(held(&fixture).made, 2);
}

#[test]
fn tail_follows_and_watchers_are_told_where_long_files_have_copies() {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    if !can_mount() {
        return;
    }
    // One line that makes it a long one.
    let mut text = vec![b'x'; 2 * MIB];
    text.extend_from_slice(b"\none\n");
    let mut fixture = Fixture::new(&[MemoryPut::file(ORIGIN, "run.log", &text, WALL_MS)]);
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root's views tell watchers");
        return;
    }
    let folder = fixture._temp.path().join("cache");
    let told = mount_through(&mut fixture, folder, 64 * MIB, true);
    if !has_copies(&fixture, &told) {
        return;
    }
    let watcher = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
    let merged = add_watch(&watcher, fixture.path("merged"), WatchFlags::MODIFY | WatchFlags::CREATE).expect("watched");
    let mut tail = Command::new("tail")
        .args(["-n", "1", "-s", "0.05", "--max-unchanged-stats=1", "-F"])
        .arg(fixture.path("merged/run.log"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tail runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "one");

    let newer = [&text[..], b"two\n"].concat();
    fixture.publish_to_watchers(&[MemoryPut::file(ORIGIN, "run.log", &newer, WALL_MS + 1000)]);

    let rest: Vec<String> = lines.by_ref().map_while(Result::ok).take(3).collect();
    tail.kill().expect("killed");
    tail.wait().expect("gone");
    assert_eq!(rest[1..], ["one", "two"]);
    assert_eq!(told_of(&watcher, 1), [(merged, "modify".to_owned(), "run.log".to_owned())]);
    assert!(fs::read(fixture.path("merged/run.log")).expect("bytes") == newer);
}

#[test]
fn who_has_a_copy_open_keeps_it_when_the_view_is_taken_down() {
    if !can_mount() {
        return;
    }
    let long = bytes_of(1, 2 * MIB);
    let (mut fixture, told) = with_copies(&[MemoryPut::file(ORIGIN, "a.bin", &long, WALL_MS)], 64 * MIB);
    if !has_copies(&fixture, &told) {
        return;
    }
    let open = fs::File::open(fixture.path("merged/a.bin")).expect("a file");

    fixture.mounted.take().expect("it is mounted").unmount().expect("unmounted");

    assert_eq!(standing(&fixture.dir).expect("a folder"), Standing::Folder);
    assert!(read_at(&open, 0, 2 * MIB) == long);
}

const HOLD_COPIES: &str = "LARDER_TEST_HOLD_COPIES";

/// What a plain user's process runs in the test below.
#[test]
fn child_asks_for_copies() {
    let Some(dir) = std::env::var_os(HOLD_COPIES) else { return };
    let long = bytes_of(1, 2 * MIB);
    let view = Arc::new(View::new(MemoryCatalog::new()));
    view.catalog().put(&MemoryPut::file(ORIGIN, "a.bin", &long, WALL_MS));
    let passthrough = Some(Passthrough::new(Path::new(&dir).join("cache"), 64 << 20));
    let teller = Teller::by(|sentence| println!("told: {sentence}"));
    let mounted =
        mount(view, &Path::new(&dir).join("view"), &MountOptions { teller, passthrough, ..Default::default() });
    let mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => return println!("skipped: {error}"),
    };
    assert_eq!(mounted.copies(), None);
    assert!(fs::read(mounted.dir().join("merged/a.bin")).expect("bytes") == long);
    println!("read it");
}

#[test]
fn a_plain_user_is_told_and_has_the_usual_view() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    if !can_mount() || !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    let temp = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::chown(temp.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let child = Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", "mount::mount_tests::through::child_asks_for_copies", "--nocapture"])
        .env(HOLD_COPIES, temp.path())
        .current_dir(temp.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    let said = match child {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return println!("skipped: that user cannot run this program: {error}"),
    };
    if let Some(skipped) = said.lines().find(|line| line.contains("skipped: ")) {
        return println!("{skipped}");
    }
    assert!(
        said.contains("told: read long files from copies: only root's views can; they are read as usual"),
        "{said}"
    );
    assert!(said.contains("read it"), "{said}");
}
