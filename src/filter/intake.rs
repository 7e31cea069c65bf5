//! What comes in: the blocks of the reader, record by record.

use std::task::{Context, Poll, ready};

use super::reader::{End, Input, Reading};
use super::understanding::Understood;

/// The engine's side of the reader.
#[derive(Debug)]
pub struct Intake {
    input: Reading<Understood>,
    block: std::vec::IntoIter<Understood>,
    end: Option<End>,
}

impl Intake {
    /// Takes in what a reader gives.
    pub fn new(input: Reading<Understood>) -> Self {
        Self { input, block: Vec::new().into_iter(), end: None }
    }

    /// The next record; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Understood>> {
        loop {
            if let Some(understood) = self.block.next() {
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
            if let Some(understood) = self.block.next() {
                return Some(understood);
            }
            if self.end.is_some() {
                return None;
            }
            let next = self.input.next_blocking();
            self.take(next);
        }
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
            self.block.by_ref().for_each(|understood| each(&understood));
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
