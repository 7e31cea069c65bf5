//! Lanes: futures that live as long as the engine and run one attempt after another. Knows nothing of retries or order.
//!
//! An attempt's state is a few kilobytes; a lane allocates it once and not once a request. Invariants: there are never
//! more lanes than attempts were in flight at once; every job that is started comes back once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

/// What lanes and their owner share; all of it on one task.
#[derive(Debug)]
struct Desk<J, R> {
    jobs: VecDeque<J>,
    idle: Vec<Waker>,
    results: VecDeque<R>,
    /// Lanes whose result is out and that have yet to clear up behind it.
    clearing: usize,
}

/// A set of lanes that turn jobs `J` into results `R`.
pub struct Lanes<'a, J, R> {
    desk: Rc<RefCell<Desk<J, R>>>,
    lanes: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    under_way: usize,
}

impl<'a, J: 'a, R: 'a> Lanes<'a, J, R> {
    /// No lanes yet.
    pub fn new() -> Self {
        let desk = Desk { jobs: VecDeque::new(), idle: Vec::new(), results: VecDeque::new(), clearing: 0 };
        Self { desk: Rc::new(RefCell::new(desk)), lanes: FuturesUnordered::new(), under_way: 0 }
    }

    /// Jobs started whose results have not been taken.
    pub fn len(&self) -> usize {
        self.under_way
    }

    /// The same, and those that are still being cleared up.
    pub fn occupied(&self) -> usize {
        self.under_way + self.desk.borrow().clearing
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.under_way == 0
    }

    /// Starts a job: on an idle lane, or on a new one that runs its jobs by `work`, which returns the result and what
    /// is to be cleared up while the result is already on its way.
    pub fn start<W, F, C>(&mut self, job: J, work: W)
    where
        W: Fn(J) -> F + 'a,
        F: Future<Output = (R, C)> + 'a,
        C: Future<Output = ()> + 'a,
    {
        self.under_way += 1;
        let mut desk = self.desk.borrow_mut();
        desk.jobs.push_back(job);
        match desk.idle.pop() {
            Some(waker) => waker.wake(),
            None => self.lanes.push(Box::pin(lane(Rc::clone(&self.desk), work))),
        }
    }

    /// The next result.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<R> {
        if let Some(result) = self.take_result() {
            return Poll::Ready(result);
        }
        // Lanes never end, so this only lets those run that were woken.
        let _ = self.lanes.poll_next_unpin(cx);
        self.take_result().map_or(Poll::Pending, Poll::Ready)
    }

    fn take_result(&mut self) -> Option<R> {
        let result = self.desk.borrow_mut().results.pop_front()?;
        self.under_way -= 1;
        Some(result)
    }
}

async fn lane<J, R, W, F, C>(desk: Rc<RefCell<Desk<J, R>>>, work: W)
where
    W: Fn(J) -> F,
    F: Future<Output = (R, C)>,
    C: Future<Output = ()>,
{
    loop {
        let job = poll_fn(|cx| {
            let mut desk = desk.borrow_mut();
            match desk.jobs.pop_front() {
                Some(job) => Poll::Ready(job),
                None => {
                    desk.idle.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        let (result, clear_up) = work(job).await;
        desk.borrow_mut().results.push_back(result);
        desk.borrow_mut().clearing += 1;
        clear_up.await;
        desk.borrow_mut().clearing -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_comes_back_once_and_lanes_are_used_again() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let mut done = runtime.block_on(async {
            let (mut lanes, mut done) = (Lanes::new(), Vec::new());
            for round in 0..10u64 {
                for job in 0..4 {
                    lanes.start(round * 4 + job, |job| async move {
                        tokio::time::sleep(std::time::Duration::from_millis(job % 3)).await;
                        (job, std::future::ready(()))
                    });
                }
                while !lanes.is_empty() {
                    done.push(poll_fn(|cx| lanes.poll_next(cx)).await);
                }
            }
            assert!(lanes.lanes.len() <= 8, "{}", lanes.lanes.len());
            done
        });
        done.sort_unstable();
        assert_eq!(done, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn a_result_does_not_wait_until_its_job_is_cleared_up() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let mut lanes = Lanes::new();
            let work = |job| async move { (job, tokio::time::sleep(std::time::Duration::from_millis(1))) };
            lanes.start(7, work);
            assert_eq!((poll_fn(|cx| lanes.poll_next(cx)).await, lanes.len(), lanes.occupied()), (7, 0, 1));
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            assert!(poll_fn(|cx| Poll::Ready(lanes.poll_next(cx))).await.is_pending());
            assert_eq!(lanes.occupied(), 0);
        });
    }
}
