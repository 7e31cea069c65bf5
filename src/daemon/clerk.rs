//! A thread that writes what is only told: status files, reject files, the archive. In the order in which it is asked, so
//! that what was removed is not written again; nothing durable waits for it.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

/// What is still to be told at the end may take so long.
const FINISH_MAX: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce() + Send>;

/// The thread.
#[derive(Debug)]
pub struct Clerk {
    jobs: Option<mpsc::Sender<Job>>,
}

impl Clerk {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("clerk".to_owned()).spawn(move || {
            queue.into_iter().for_each(|job| job());
        })?;
        Ok(Self { jobs: Some(jobs) })
    }

    /// Has something done, behind everything that was asked before.
    pub fn ask(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only with this handle.
            let _ = jobs.send(Box::new(job));
        }
    }

    /// Waits until everything is done, but not for a file system that hangs.
    pub fn finish(&mut self) {
        let (done, is_done) = mpsc::channel();
        self.ask(move || {
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(FINISH_MAX);
        self.jobs = None;
    }
}
