//! Laws of the copies, over openers that no kernel stands behind.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::*;
use crate::mount::mount_tests::DEADLINE;

const BYTES: u64 = 2 << 20;
/// Longer than any machine is slow.
const PATIENT: Duration = Duration::from_secs(24 * 3600);

/// Tells how it was answered.
struct Asker {
    name: u8,
    told: Sender<(u8, &'static str)>,
    /// The kernel refuses to know another copy.
    is_refused: bool,
}

impl Opener for Asker {
    type Backing = Vec<u8>;

    fn back(&self, copy: &File) -> io::Result<Vec<u8>> {
        if self.is_refused {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut &*copy, &mut bytes).map(|_| bytes)
    }

    fn pass_through(self, backing: &Vec<u8>) {
        assert!(backing.len() as u64 == BYTES && backing.iter().all(|byte| *byte == 7));
        self.told.send((self.name, "copy")).expect("somebody listens");
    }

    fn read_usually(self) {
        self.told.send((self.name, "usual")).expect("somebody listens");
    }

    fn refuse(self) {
        self.told.send((self.name, "refused")).expect("somebody listens");
    }
}

/// Copies and the thread that makes them, which takes a step whenever it is let.
struct Scene {
    copies: Arc<Copies<Asker>>,
    step: Sender<Option<u8>>,
    begun: Receiver<()>,
    tell: Sender<(u8, &'static str)>,
    told: Receiver<(u8, &'static str)>,
    threads: Vec<JoinHandle<()>>,
    _temp: tempfile::TempDir,
}

impl Scene {
    fn new(bound_bytes: u64, patience: Duration) -> Option<Scene> {
        let temp = tempfile::tempdir().expect("a folder");
        let copies = Arc::new(Copies::new(temp.path().join("cache"), bound_bytes, patience));
        if let Err(error) = copies.sample() {
            println!("skipped: no files without a name here: {error}");
            return None;
        }
        let ((step, steps), (begin, begun), (tell, told)) = (channel(), channel(), channel());
        let steps = Mutex::new((steps, begin));
        let read = move |_: NodeId, _: u64, len: usize| {
            let (steps, begin) = &*steps.lock().expect("nobody panics with it");
            begin.send(()).unwrap_or_default();
            // Without anybody to let it, it goes on.
            let byte: Option<u8> = steps.recv().unwrap_or(Some(7));
            byte.map(|byte| vec![byte; len])
        };
        let worker = Arc::clone(&copies);
        let watcher = Arc::clone(&copies);
        let threads = vec![std::thread::spawn(move || worker.work(read)), std::thread::spawn(move || watcher.watch())];
        Some(Scene { copies, step, begun, tell, told, threads, _temp: temp })
    }

    /// Somebody opens a file; a file's content has its number.
    fn open(&self, name: u8, node: u64, content: u8) {
        self.open_as(Asker { name, told: self.tell.clone(), is_refused: false }, node, content);
    }

    fn open_as(&self, asker: Asker, node: u64, content: u8) {
        let hash = ContentHash::of(&[content]);
        self.copies.open(LongFile { node: NodeId(node), file: FileId(node), hash, size: BYTES }, asker);
    }

    /// Waits until a step has begun.
    fn begun(&self) {
        self.begun.recv_timeout(DEADLINE).expect("a step");
    }

    /// Lets all steps of `count` copies be.
    fn steps(&self, count: u64) {
        for _ in 0..count * BYTES.div_ceil(STEP_BYTES as u64) {
            // A thread that has ended needs none.
            let _ = self.step.send(Some(7));
        }
    }

    fn told(&self) -> (u8, &'static str) {
        self.told.recv_timeout(DEADLINE).expect("an answer")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.copies.close();
        // Whatever is read goes through.
        self.step = channel().0;
        if !std::thread::panicking() {
            self.threads.drain(..).for_each(|thread| thread.join().expect("it ends"));
        }
    }
}

#[test]
fn who_opens_what_is_being_copied_waits_and_nobody_else_does() {
    let Some(scene) = Scene::new(16 << 20, PATIENT) else { return };
    scene.open(1, 11, 1);
    scene.begun();

    // The same file, the same bytes elsewhere, and one that is too long to be copied at all.
    scene.open(2, 11, 1);
    scene.open(3, 12, 1);
    let long = LongFile { node: NodeId(13), file: FileId(13), hash: ContentHash::of(b"long"), size: 1 << 40 };
    scene.copies.open(long, Asker { name: 4, told: scene.tell.clone(), is_refused: false });
    assert_eq!(scene.told(), (4, "usual"));

    scene.steps(1);
    assert_eq!([scene.told(), scene.told(), scene.told()], [(1, "copy"), (2, "copy"), (3, "copy")]);
    scene.open(5, 14, 1);
    assert_eq!(scene.told(), (5, "copy"));
    assert_eq!(scene.copies.held(), Held { copies: 1, bytes: BYTES, made: 1 });
}

#[test]
fn who_loses_patience_reads_as_usual_until_all_let_go_and_the_copy_serves_the_next() {
    let Some(scene) = Scene::new(16 << 20, Duration::ZERO) else { return };

    scene.open(1, 11, 1);
    assert_eq!(scene.told(), (1, "usual"));
    // In one way as long as anybody has it open.
    scene.open(2, 11, 1);
    assert_eq!(scene.told(), (2, "usual"));
    scene.steps(1);
    while scene.copies.held().made == 0 {
        std::thread::yield_now();
    }
    scene.open(3, 11, 1);
    assert_eq!(scene.told(), (3, "usual"));

    (0..3).for_each(|_| scene.copies.release(NodeId(11)));
    scene.open(4, 11, 1);
    assert_eq!(scene.told(), (4, "copy"));
}

#[test]
fn who_opens_a_file_while_the_disk_hangs_is_answered_all_the_same() {
    let Some(scene) = Scene::new(16 << 20, Duration::ZERO) else { return };
    scene.open(1, 11, 1);
    assert_eq!(scene.told(), (1, "usual"));
    // From here on nothing comes back.
    scene.begun();

    scene.open(2, 12, 1);
    scene.open(3, 13, 2);

    let mut told = [scene.told(), scene.told()];
    told.sort_unstable();
    assert_eq!(told, [(2, "usual"), (3, "usual")]);
}

#[test]
fn who_waits_for_a_disk_that_hangs_is_answered_when_the_view_ends() {
    let Some(scene) = Scene::new(16 << 20, PATIENT) else { return };
    scene.open(1, 11, 1);
    scene.begun();

    scene.copies.close();

    assert_eq!(scene.told(), (1, "usual"));
}

#[test]
fn one_file_is_read_in_one_way_whatever_the_kernel_says_of_its_copy() {
    let Some(scene) = Scene::new(16 << 20, PATIENT) else { return };
    let refused = |name| Asker { name, told: scene.tell.clone(), is_refused: true };
    scene.open_as(refused(1), 11, 1);
    scene.open(2, 11, 1);
    scene.open(3, 12, 1);

    scene.steps(1);

    assert_eq!([scene.told(), scene.told(), scene.told()], [(1, "usual"), (2, "usual"), (3, "copy")]);
    (0..2).for_each(|_| scene.copies.release(NodeId(11)));
    // Known by now.
    scene.open_as(refused(4), 11, 1);
    assert_eq!(scene.told(), (4, "copy"));
}

#[test]
fn what_was_purged_while_it_was_copied_is_never_shown() {
    let Some(scene) = Scene::new(16 << 20, PATIENT) else { return };
    scene.open(1, 11, 1);
    scene.begun();

    scene.copies.forget(&[FileId(11)]);
    scene.steps(1);

    assert_eq!(scene.told(), (1, "usual"));
    assert_eq!(scene.copies.held(), Held::default());
}

#[test]
fn bytes_that_cannot_be_read_are_not_copied_and_not_tried_again_at_once() {
    let Some(scene) = Scene::new(16 << 20, PATIENT) else { return };
    scene.open(1, 11, 1);
    scene.step.send(None).expect("it works");
    assert_eq!(scene.told(), (1, "usual"));
    scene.copies.release(NodeId(11));

    scene.open(2, 11, 1);

    assert_eq!(scene.told(), (2, "usual"));
    assert_eq!(scene.copies.held(), Held::default());
}

#[test]
fn whoever_waits_when_the_view_ends_is_answered() {
    let Some(scene) = Scene::new(16 << 20, PATIENT) else { return };
    scene.open(1, 11, 1);
    scene.begun();
    scene.open(2, 12, 2);

    scene.copies.close();
    scene.steps(2);

    let mut told = [scene.told(), scene.told()];
    told.sort_unstable();
    assert_eq!(told, [(1, "usual"), (2, "usual")]);
    scene.open(3, 13, 3);
    assert_eq!(scene.told(), (3, "usual"));
}

/// Says where it is let go.
struct Freed(Sender<Option<String>>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.send(std::thread::current().name().map(str::to_owned)).unwrap_or_default();
    }
}

/// What the kernel knows of a copy goes with its bytes.
struct Keeper(Sender<Option<String>>);

impl Opener for Keeper {
    type Backing = Freed;

    fn back(&self, _copy: &File) -> io::Result<Freed> {
        Ok(Freed(self.0.clone()))
    }

    fn pass_through(self, _backing: &Freed) {}

    fn read_usually(self) {}

    fn refuse(self) {}
}

#[test]
fn what_a_disk_takes_long_to_free_keeps_nobody_who_unmounts() {
    let temp = tempfile::tempdir().expect("a folder");
    let copies = Arc::new(Copies::new(temp.path().join("cache"), 16 << 20, PATIENT));
    if let Err(error) = copies.sample() {
        println!("skipped: no files without a name here: {error}");
        return;
    }
    let (tell, told) = channel();
    let worker = Arc::clone(&copies);
    let work = move || worker.work(|_, _, len| Some(vec![7; len]));
    let thread = std::thread::Builder::new().name("copier".to_owned()).spawn(work).expect("a thread");
    let file = LongFile { node: NodeId(1), file: FileId(1), hash: ContentHash::of(b"1"), size: BYTES };
    copies.open(file, Keeper(tell));
    while copies.held().copies == 0 {
        std::thread::yield_now();
    }
    copies.release(NodeId(1));

    copies.close();

    assert_eq!(told.recv_timeout(DEADLINE).expect("it is freed").as_deref(), Some("copier"));
    thread.join().expect("it ends");
}
