//! A run whose end is known before it begins: its input, its service, its folder, and what must be there at the end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::common::{Live, Output, Run, Sim, wait_for};
use crate::disk::Files;
use crate::frames;
use crate::task::{Goal, Plan, same, simulator};

/// A service and a folder in which a plan is carried out.
pub struct Scene {
    pub plan: Plan,
    pub sim: Sim,
    pub wanted: Arc<String>,
    folder: TempDir,
    /// Where results go.
    out: PathBuf,
}

impl Scene {
    pub fn new(plan: Plan) -> Scene {
        Scene::with_latency(plan, "zero")
    }

    pub fn with_latency(plan: Plan, latency: &str) -> Scene {
        let wanted = plan.wanted();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let scene = Scene { wanted, sim: simulator(latency), folder, out, plan };
        std::fs::write(scene.input_path(), scene.plan.input()).unwrap();
        scene
    }

    /// The folder of the output, empty and with nothing asked yet.
    pub fn reset(&self) {
        std::fs::remove_dir_all(self.out()).unwrap();
        std::fs::create_dir(self.out()).unwrap();
        self.sim.reset();
    }

    pub fn out(&self) -> PathBuf {
        self.out.clone()
    }

    /// Lets results go where something is mounted.
    pub fn look_at(&mut self, out: PathBuf) {
        self.out = out;
    }

    /// F, or what stands for it when there is none.
    pub fn file(&self) -> PathBuf {
        self.out().join("F")
    }

    pub fn journal(&self) -> PathBuf {
        self.out().join("F.journal")
    }

    pub fn input_path(&self) -> PathBuf {
        self.folder.path().join("in.jsonl")
    }

    /// A path outside of the output's folder.
    pub fn aside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command.
    pub fn run(&self) -> Run {
        let (flag, path) = match self.plan.goal {
            Goal::File => ("-o", self.file()),
            Goal::Stdout => ("--journal", self.journal()),
        };
        let run = Run::on(&self.sim).args(["-j", &self.plan.concurrency.to_string(), flag]).args([path]);
        let run = run.args(&self.plan.args);
        if self.plan.piped { run } else { run.args([self.input_path()]).stdin(File::open("/dev/null").unwrap()) }
    }

    /// Starts the command, or what `wrap` makes of it.
    pub fn start_as(&self, wrap: impl FnOnce(Run) -> Run) -> Live {
        let mut live = wrap(self.run()).start();
        if self.plan.piped {
            live.feed_and_close(self.plan.input().into_bytes());
        }
        live
    }

    pub fn start(&self) -> Live {
        self.start_as(|run| run)
    }

    /// Runs the command to its end.
    pub fn finish(&self) -> Output {
        self.start().finish()
    }

    /// The bytes of the journal; none if there is none.
    pub fn journal_bytes(&self) -> Vec<u8> {
        std::fs::read(self.journal()).unwrap_or_default()
    }

    /// Names in the folder of the output.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.out()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The files in that folder.
    pub fn files(&self) -> Files {
        let contents = |name: String| (name.clone(), std::fs::read(self.out().join(&name)).unwrap());
        self.names().into_iter().map(contents).collect()
    }

    /// What F holds, [`same`] for all runs that are right.
    pub fn found(&self) -> Option<String> {
        std::fs::read(self.file()).ok().map(|bytes| same(&String::from_utf8_lossy(&bytes)))
    }

    /// A file that exists is whole.
    #[track_caller]
    pub fn check_never_wrong(&self, when: &str) {
        let found = self.found();
        assert!(found.is_none() || found.as_ref() == Some(&self.wanted), "{when}: F is wrong:\n{found:?}");
    }

    /// The end is that of an undisturbed run.
    #[track_caller]
    pub fn check_end(&self, output: &Output, when: &str) {
        assert_eq!(output.status, self.plan.status(), "{when}: {output}\n{}", self.told());
        let names: &[&str] = match self.plan.goal {
            Goal::File => {
                assert_eq!(self.found().as_ref(), Some(&*self.wanted), "{when}: {output}");
                &["F", "F.journal"]
            }
            Goal::Stdout => {
                assert_eq!(&same(&output.text()), &*self.wanted, "{when}: {output}");
                &["F.journal"]
            }
        };
        assert_eq!(self.names(), names, "{when}: {output}");
    }

    /// Waits until the service has nothing more to do, and says how many requests it has got.
    pub fn sends(&self) -> u64 {
        wait_for("the simulator to be idle", || (self.sim.count("in_flight") == 0).then_some(()));
        self.sim.count("requests")
    }

    /// After so many crashes, at most N for each were sent without their outcomes in the journal.
    #[track_caller]
    pub fn check_unrecorded(&self, crashes: u64, when: &str) {
        let paid = frames::read(&self.journal_bytes()).iter().filter(|frame| frame.is_paid()).count() as u64;
        let (sends, bound) = (self.sends(), paid + crashes * self.plan.concurrency as u64);
        assert!(sends <= bound, "{when}: {sends} requests, {paid} outcomes recorded, {crashes} crashes");
    }

    /// At the end no line was sent more often than there were crashes, and at most N in sum for each.
    #[track_caller]
    pub fn check_sends(&self, crashes: u64, when: &str) {
        let sends = self.sends();
        let bound = self.plan.asked() + crashes * self.plan.concurrency as u64;
        assert!(sends >= self.plan.asked() && sends <= bound, "{when}: {sends} requests, {crashes} crashes");
        let requests = self.sim.requests();
        assert_eq!(requests.len() as u64, sends, "the simulator has forgotten requests");
        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        for (line, number) in self.plan.numbered().filter(|(line, _)| line.is_asked()) {
            *wanted.entry(line.prompt(number)).or_default() += 1;
        }
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for request in &requests {
            let prompt = request["body"]["messages"][0]["content"].as_str().unwrap();
            *found.entry(prompt.to_owned()).or_default() += 1;
        }
        assert!(wanted.keys().eq(found.keys()), "{when}: {found:?}");
        for (prompt, times) in &found {
            let lines = wanted[prompt];
            assert!((lines..=lines * (1 + crashes)).contains(times), "{when}: {prompt:?} was sent {times} times");
        }
    }

    /// The folder and the journal, for a failure's message.
    pub fn told(&self) -> String {
        let journal = self.journal_bytes();
        format!("{:?}\n{}", self.names(), String::from_utf8_lossy(&journal[..journal.len().min(6000)]))
    }
}

/// Something as an argument of a shell.
pub fn quoted(text: impl AsRef<OsStr>) -> String {
    format!("'{}'", text.as_ref().to_str().unwrap().replace('\'', r"'\''"))
}
