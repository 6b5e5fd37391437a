//! A project over a line that is much too thin for what it has to exchange: edits are recorded all the same, whoever asks is answered, nobody is called
//! away, and all of it arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::http::{free_address, join, machine};
use crate::support::{DAEMON_DEADLINE, Daemon, Dice, Lab, Project, until};

/// What passes of everything once the line is narrowed: small questions and their answers, and not the half of what is large.
const PASSES_BYTES: usize = 1 << 20;
const LARGE_BYTES: u32 = 4 << 20;

/// A line to a server, which can be narrowed.
struct Line {
    address: String,
    /// What may still pass, in bytes; `None` = everything.
    room: Arc<(Mutex<Option<usize>>, Condvar)>,
}

impl Line {
    fn to(server: &str) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let room = Arc::new((Mutex::new(None), Condvar::new()));
        let (server, its_room) = (server.to_owned(), room.clone());
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect(&server) else { continue };
                for (from, to) in [(&from, &to), (&to, &from)] {
                    let ends = from.try_clone().and_then(|from| Ok((from, to.try_clone()?)));
                    let (from, to) = ends.expect("a handle");
                    let room = its_room.clone();
                    std::thread::spawn(move || pass(from, to, &room));
                }
            }
        });
        Line { address, room }
    }

    fn narrow(&self) {
        *self.room.0.lock().expect("whole") = Some(PASSES_BYTES);
    }

    /// Waits until something large is stuck in it.
    fn wait_until_full(&self) {
        until("something large is under way", DAEMON_DEADLINE, || {
            self.room.0.lock().expect("whole").is_some_and(|left| left < PASSES_BYTES / 2)
        });
    }

    fn widen(&self) {
        *self.room.0.lock().expect("whole") = None;
        self.room.1.notify_all();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, room: &(Mutex<Option<usize>>, Condvar)) {
    let mut bytes = [0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        // What is small goes beside what is large.
        if len == bytes.len() {
            let left = room.0.lock().expect("whole");
            let mut left = room.1.wait_while(left, |left| left.is_some_and(|left| left < len)).expect("whole");
            *left = left.map(|left| left - len);
        }
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A server, and a machine that is paired with it over a line.
fn over_a_line(lab: &Lab) -> (Project, Daemon, Project, Line) {
    let (hub, a) = (machine(lab, "hub"), machine(lab, "a"));
    let address = free_address();
    let daemon = hub.up_with(["--serve", &address]);
    let line = Line::to(&address);
    join(&a, &hub, &line.address);
    (hub, daemon, a, line)
}

/// Bytes that do not compress, the same each time.
fn large() -> Vec<u8> {
    let mut dice = Dice::new(1);
    (0..LARGE_BYTES / 8).flat_map(|_| dice.roll().to_le_bytes()).collect()
}

#[track_caller]
fn edits_are_recorded_meanwhile(project: &Project, daemon: &mut Daemon) {
    for name in ["one.md", "two.md"] {
        project.write(format!("shared/{name}"), "text\n");
        daemon.wait_for(&format!("recorded shared/{name}"));
    }
    project.run(["star", "shared/one.md"]).expect(0).says("the exchange with the peer hub goes on");
    project.run(["status"]).says("the exchange with the peer hub goes on between edits");
}

#[track_caller]
fn all_arrives(at: &Project, large_at: &Project, daemon: Daemon) {
    until("the edits arrive", DAEMON_DEADLINE, || at.read("shared/two.md").is_some());
    until("what is large arrives", DAEMON_DEADLINE, || large_at.read("shared/large.bin") == Some(large()));
    let said = daemon.stop_telling();
    assert!(said.iter().all(|line| !line.contains("away")), "{said:#?}");
}

#[test]
fn while_much_goes_out_over_a_thin_line_edits_are_recorded_and_all_of_it_arrives() {
    let lab = Lab::new();
    let (hub, server, a, line) = over_a_line(&lab);
    let mut daemon = a.up();
    line.narrow();

    a.write("shared/large.bin", large());
    line.wait_until_full();
    edits_are_recorded_meanwhile(&a, &mut daemon);
    assert_eq!(hub.read("shared/large.bin"), None);
    line.widen();

    all_arrives(&hub, &hub, daemon);
    server.stop();
}

#[test]
fn while_much_comes_in_over_a_thin_line_edits_are_recorded_and_all_of_it_arrives() {
    let lab = Lab::new();
    let (hub, server, a, line) = over_a_line(&lab);
    let mut daemon = a.up();
    line.narrow();

    hub.write("shared/large.bin", large());
    line.wait_until_full();
    edits_are_recorded_meanwhile(&a, &mut daemon);
    assert_eq!(a.read("shared/large.bin"), None);
    line.widen();

    all_arrives(&hub, &a, daemon);
    server.stop();
}
