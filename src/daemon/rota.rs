//! Whose turn it is: owners in turn, and each owner's things in turn. Pure.
//!
//! Invariant: whoever was served goes to the end of the line, so that one with a million things waits as long as one
//! with a single one.

use std::collections::VecDeque;

/// Things of several owners, handed out in turn.
#[derive(Debug)]
pub struct Rota<T> {
    owners: VecDeque<(u32, VecDeque<T>)>,
    things: usize,
}

impl<T> Default for Rota<T> {
    fn default() -> Self {
        Self { owners: VecDeque::new(), things: 0 }
    }
}

impl<T> Rota<T> {
    /// Adds a thing of this owner, behind the others.
    pub fn add(&mut self, owner: u32, thing: T) {
        self.things += 1;
        match self.owners.iter_mut().find(|(own, _)| *own == owner) {
            Some((_, things)) => things.push_back(thing),
            None => self.owners.push_back((owner, VecDeque::from([thing]))),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.things
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.things == 0
    }

    /// Takes the first thing of the next owner whose first thing `may` be taken.
    pub fn take(&mut self, mut may: impl FnMut(u32, &T) -> bool) -> Option<T> {
        let found =
            self.owners.iter().position(|(owner, things)| things.front().is_some_and(|first| may(*owner, first)))?;
        let (owner, mut things) = self.owners.remove(found)?;
        let thing = things.pop_front();
        if !things.is_empty() {
            self.owners.push_back((owner, things));
        }
        self.things -= usize::from(thing.is_some());
        thing
    }

    /// Asks each thing in turn until one gives something; that one and its owner go to the end of the line.
    pub fn serve<R>(&mut self, mut ask: impl FnMut(&T) -> Option<R>) -> Option<R> {
        for owner in 0..self.owners.len() {
            let things = &mut self.owners[owner].1;
            for thing in 0..things.len() {
                let Some(served) = ask(&things[thing]) else { continue };
                if let Some(thing) = things.remove(thing) {
                    things.push_back(thing);
                }
                if let Some(owner) = self.owners.remove(owner) {
                    self.owners.push_back(owner);
                }
                return Some(served);
            }
        }
        None
    }

    /// Whether anything is so.
    pub fn any(&self, is_so: impl Fn(&T) -> bool) -> bool {
        self.owners.iter().any(|(_, things)| things.iter().any(&is_so))
    }

    /// Takes out everything that is so.
    pub fn take_out(&mut self, is_so: impl Fn(&T) -> bool) -> Vec<T> {
        if !self.any(&is_so) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for (_, things) in &mut self.owners {
            let (own, rest) = std::mem::take(things).into_iter().partition(&is_so);
            *things = rest;
            let own: VecDeque<T> = own;
            taken.extend(own);
        }
        self.retain(|_| true);
        taken
    }

    /// Takes out what is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.owners.iter_mut().for_each(|(_, things)| things.retain(&mut keep));
        self.owners.retain(|(_, things)| !things.is_empty());
        self.things = self.owners.iter().map(|(_, things)| things.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn owners_come_in_turn_whatever_they_bring() {
        let mut rota = Rota::default();
        (0..1000).for_each(|number| rota.add(1, (1, number)));
        rota.add(2, (2, 0));
        rota.add(2, (2, 1));
        let taken: Vec<_> = std::iter::from_fn(|| rota.take(|_, _| true)).take(5).collect();
        assert_eq!(taken, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
        assert_eq!((rota.len(), rota.take(|owner, _| owner == 2)), (997, None));
    }

    #[test]
    fn what_was_served_goes_to_the_end() {
        let mut rota = Rota::default();
        [(1, 'a'), (1, 'b'), (2, 'c')].into_iter().for_each(|(owner, thing)| rota.add(owner, thing));
        let served: String = (0..6).filter_map(|_| rota.serve(|thing| Some(*thing))).collect();
        assert_eq!(served, "acbcac");
        assert_eq!(rota.serve(|thing| (*thing == 'b').then_some(())), Some(()));
        rota.retain(|thing| *thing == 'b');
        assert_eq!((rota.take(|_, _| true), rota.is_empty()), (Some('b'), true));
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_all_others_once(owners in prop::collection::vec(0u32..5, 1..40)) {
            let mut rota = Rota::default();
            owners.iter().enumerate().for_each(|(number, owner)| rota.add(*owner, (*owner, number)));
            let mut distinct: Vec<u32> = owners.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let served: Vec<u32> = (0..distinct.len() * 7).filter_map(|_| rota.serve(|thing| Some(thing.0))).collect();
            for round in served.chunks(distinct.len()) {
                let mut round = round.to_vec();
                round.sort_unstable();
                prop_assert_eq!(&round, &distinct);
            }
        }
    }
}
