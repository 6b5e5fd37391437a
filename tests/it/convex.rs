//! Convex through the shipped binary, over the vendor's mock that runs Larder's functions: machines that share nothing else converge,
//! and the vendor's client writes beside them.
//!
//! `scripts/test` installs what it needs and names it (`LARDER_CONVEX_NODE`); each test has a deployment of its own.

use std::path::Path;
use std::process::Stdio;

use crate::convex_server::{Deployment, SECRET};
use crate::support::{CONFIG, Lab, Project, finish, skip};

/// A deployment, or a reason not to go on.
fn start(test: &str) -> Option<Deployment> {
    let adapters = Path::new(env!("CARGO_MANIFEST_DIR")).join("adapters");
    Deployment::start(&adapters).map_err(|reason| skip(test, reason)).ok()
}

impl Deployment {
    fn machine(&self, lab: &Lab, name: &str) -> Project {
        let project = lab.project(name, CONFIG).with_home(&lab.path(format!("home-{name}")));
        let project = project.with_var("FILE_SYNC_BACKEND", "convex").with_var("CONVEX_URL", &self.url);
        project.with_var("CONVEX_LARDER_SECRET", SECRET)
    }

    /// Runs the vendor's client; what it printed.
    #[track_caller]
    fn client(&self, words: &[&str]) -> String {
        let mut command = self.client_command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command).expect(0).out.trim_end().to_owned()
    }
}

#[test]
fn two_machines_that_share_only_convex_converge_beside_a_program_of_the_vendors_client() {
    let test = "two_machines_that_share_only_convex_converge_beside_a_program_of_the_vendors_client";
    let Some(deployment) = start(test) else { return };
    let lab = Lab::new();
    let (a, b) = (deployment.machine(&lab, "a"), deployment.machine(&lab, "b"));
    let settle = || [&a, &b, &a].into_iter().for_each(|project| drop(project.sync_any()));
    settle();
    let large: Vec<u8> = (0..2_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    a.write("shared/große datei.md", "eins\n");
    a.write("shared/large.bin", &large);
    b.write("shared/of-b.md", "zwei\n");
    settle();
    assert_eq!(a.tree("shared"), b.tree("shared"));
    assert_eq!(b.read("shared/large.bin"), Some(large));

    deployment.client(&["put", "lab", "shared/theirs.md", "new\n"]);
    deployment.client(&["put", "lab", "shared/of-b.md", "edited\n"]);
    settle();
    assert_eq!(b.read("shared/theirs.md"), Some(b"new\n".to_vec()));
    assert_eq!(a.read("shared/of-b.md"), Some(b"edited\n".to_vec()));

    b.write("shared/theirs.md", "von b\n");
    settle();
    assert_eq!(deployment.client(&["read", "lab", "shared/theirs.md"]), "von b");
    deployment.client(&["delete", "lab", "shared/theirs.md"]);
    a.remove("shared/große datei.md");
    settle();
    assert_eq!((a.read("shared/theirs.md"), b.read("shared/große datei.md")), (None, None));
    assert_eq!(a.tree("shared"), b.tree("shared"));

    let stranger = deployment.machine(&lab, "c").with_var("CONVEX_LARDER_SECRET", "other");
    stranger.run(["sync"]).expect(2).says("is not the deployment's LARDER_SECRET");
}
