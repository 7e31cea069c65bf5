//! What comes in: the blocks of the reader, record by record.

use std::task::{Context, Poll, ready};

use super::pilot::Sample;
use super::reader::{End, Input, Reading};
use super::understanding::Understood;

/// The engine's side of the reader.
#[derive(Debug)]
pub struct Intake {
    input: Reading<Understood>,
    block: std::vec::IntoIter<Understood>,
    end: Option<End>,
    /// Which records are meant; all of them without one.
    sample: Option<Sample>,
}

impl Intake {
    /// Takes in what a reader gives.
    pub fn new(input: Reading<Understood>) -> Self {
        Self { input, block: Vec::new().into_iter(), end: None, sample: None }
    }

    /// The same, but only the records of a sample, when there is one.
    pub fn sampling(input: Reading<Understood>, sample: Option<Sample>) -> Self {
        Self { sample, ..Self::new(input) }
    }

    /// The next record; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Understood>> {
        loop {
            if let Some(understood) = self.next_of_block() {
                return Poll::Ready(Some(understood));
            }
            if self.end.is_some() {
                return Poll::Ready(None);
            }
            let next = ready!(self.input.poll_next(cx));
            self.take(next);
        }
    }

    /// The next record, for a thread that may wait.
    pub fn next_blocking(&mut self) -> Option<Understood> {
        loop {
            if let Some(understood) = self.next_of_block() {
                return Some(understood);
            }
            if self.end.is_some() {
                return None;
            }
            let next = self.input.next_blocking();
            self.take(next);
        }
    }

    fn next_of_block(&mut self) -> Option<Understood> {
        let sample = &mut self.sample;
        self.block.find(|understood| sample.as_mut().is_none_or(|sample| sample.takes(understood.request.is_ok())))
    }

    fn take(&mut self, next: Option<Input<Understood>>) {
        match next {
            Some(Input::Block(block)) => self.block = block.into_iter(),
            Some(Input::End(end)) => self.end = Some(end),
            None => self.end = Some(End { error: Some("the reading thread ended early".to_owned()), ..End::default() }),
        }
    }

    /// What the reader said at the end, if it came to it.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Hands every record that never became a request to `each`; waits for the reader only when `wait` says so.
    pub async fn drain(&mut self, wait: bool, mut each: impl FnMut(&Understood)) {
        loop {
            while let Some(understood) = self.next_of_block() {
                each(&understood);
            }
            if self.end.is_some() {
                return;
            }
            let next = if wait { self.input.next().await } else { self.input.next_now() };
            if next.is_none() {
                return;
            }
            self.take(next);
        }
    }
}
