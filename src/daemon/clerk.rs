//! A thread that writes what is only told: status files, reject files, the archive. In the order in which it is asked, so
//! that what was removed is not written again; nothing durable waits for it.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// The thread.
#[derive(Debug)]
pub struct Clerk {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Clerk {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("clerk".to_owned()).spawn(move || {
            queue.into_iter().for_each(|job| job());
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has something done, behind everything that was asked before.
    pub fn ask(&self, job: impl FnOnce() + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only with this handle.
            let _ = jobs.send(Box::new(job));
        }
    }

    /// Waits until everything is done.
    pub fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
