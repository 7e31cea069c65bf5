//! Requests that were let in and wait for room, by model: changing the model can cost the server a model load, so those
//! of one model go together. The order of the output is not touched by that.
//!
//! Invariant: whoever came in waits for no more than a window of others that came in after it.

use std::collections::VecDeque;

use crate::engine::{Fit, Room, Work};

/// Requests for the one model there is that are looked at beyond the one that finds no room.
const ALIKE_MAX: usize = 64;

/// The requests that wait.
#[derive(Debug)]
pub struct Shelf {
    lanes: Vec<(Box<str>, VecDeque<Work>)>,
    len: usize,
    /// How many may be let in behind the one that waits longest before it must go.
    passed_max: u64,
    /// The key that was let in last.
    newest: u64,
}

impl Shelf {
    /// An empty shelf beside a window of so many lines.
    pub fn new(window_lines_max: usize) -> Self {
        Self { lanes: Vec::new(), len: 0, passed_max: window_lines_max as u64, newest: 0 }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether looking further for one that finds room is worth it.
    pub fn has_room(&self) -> bool {
        self.lanes.len() != 1 || self.len < ALIKE_MAX
    }

    /// Models for which something waits.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.lanes.iter().map(|(model, _)| &**model)
    }

    /// Adds one behind the others.
    pub fn push(&mut self, work: Work) {
        self.len += 1;
        self.newest = work.key.0;
        match self.lanes.iter_mut().find(|(model, _)| **model == *work.request.model) {
            Some((_, lane)) => lane.push_back(work),
            None => self.lanes.push(((&*work.request.model).into(), VecDeque::from([work]))),
        }
    }

    /// Takes the oldest of those that fit at least so well; or the oldest of all with any room, once it has waited for
    /// long enough.
    pub fn take(&mut self, room: &Room<'_>, wanted: Fit) -> Option<Work> {
        if self.is_empty() {
            return None;
        }
        let oldest = self.lanes.iter().filter_map(|(_, lane)| lane.front()).map(|work| work.key.0).min()?;
        let has_waited = self.newest.saturating_sub(oldest) >= self.passed_max;
        let waits = |model: &str| self.lanes.iter().any(|(own, _)| **own == *model);
        let fits = |(index, (model, lane)): (usize, &(Box<str>, VecDeque<Work>))| {
            let first = lane.front()?.key.0;
            // One that has waited long enough goes before those that fit better, and puts away what others wait for.
            let is_first = has_waited && first == oldest;
            let fit = if is_first { room.for_model(model) } else { room.beside(model, &waits) };
            fit.is_at_least(if is_first { Fit::Swap } else { wanted }).then_some((!is_first, first, index))
        };
        let (_, _, index) = self.lanes.iter().enumerate().filter_map(fits).min()?;
        let work = self.lanes[index].1.pop_front();
        if self.lanes[index].1.is_empty() {
            self.lanes.swap_remove(index);
        }
        self.len -= usize::from(work.is_some());
        work
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::Key;
    use crate::line::{Defaults, InputForm, Request};

    fn work(key: u64, model: &str) -> Work {
        let defaults = Defaults { model: Some(model.into()), ..Defaults::default() };
        Work { key: Key(key), request: Request::parse(b"hello", InputForm::Text, &defaults).unwrap() }
    }

    fn taken(shelf: &mut Shelf, wanted: Fit, fits: impl Fn(&str) -> Fit) -> Option<u64> {
        shelf.take(&Room::new(&|model, _| fits(model)), wanted).map(|work| work.key.0)
    }

    #[test]
    fn what_needs_no_load_goes_first() {
        let mut shelf = Shelf::new(100);
        (1..=6).for_each(|key| shelf.push(work(key, if key % 2 == 0 { "even" } else { "odd" })));
        let even = |model: &str| if model == "even" { Fit::Here } else { Fit::Swap };
        let order: Vec<u64> = std::iter::from_fn(|| taken(&mut shelf, Fit::Here, even)).collect();
        assert_eq!(order, [2, 4, 6]);
        assert_eq!(taken(&mut shelf, Fit::Swap, |_| Fit::None), None);
        let order: Vec<u64> = std::iter::from_fn(|| taken(&mut shelf, Fit::Swap, even)).collect();
        assert_eq!((order, shelf.is_empty()), (vec![1, 3, 5], true));
    }

    #[test]
    fn nobody_is_passed_for_ever() {
        let mut shelf = Shelf::new(10);
        shelf.push(work(0, "odd"));
        let even = |model: &str| if model == "even" { Fit::Here } else { Fit::Swap };
        for key in 1..10 {
            shelf.push(work(key, "even"));
            assert_eq!(taken(&mut shelf, Fit::Here, even), Some(key));
        }
        shelf.push(work(10, "even"));
        assert_eq!(taken(&mut shelf, Fit::Here, even), Some(0));
        assert_eq!(taken(&mut shelf, Fit::Here, even), Some(10));
    }

    #[test]
    fn one_model_without_room_is_not_read_ahead_of_for_long() {
        let mut shelf = Shelf::new(1000);
        let held = (0..).take_while(|key| {
            let has_room = shelf.has_room();
            shelf.push(work(*key, "m"));
            has_room
        });
        assert_eq!(held.count(), ALIKE_MAX);
        shelf.push(work(99, "other"));
        assert!(shelf.has_room());
    }
}
