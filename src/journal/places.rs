//! Places: which record tells of which line of the input, eight bytes a line. Pure.
//!
//! Answers outlive the input that asked for them: lines are moved, added, taken away. What is kept here makes a journal
//! complete in itself: it says for every line of the last input which record is its outcome.

/// The line was met in this run: the top bit of its offset.
const MET: u64 = 1 << 63;
const NONE: u64 = 0;

/// The record of each line.
#[derive(Clone, Debug)]
pub struct Places {
    offsets: Vec<u64>,
    /// Which of every `count` lines is taken, from 1.
    index: u64,
    count: u64,
}

impl Places {
    /// No line yet. Of every `count` lines only the one numbered `index` (from 1) is ever asked for.
    pub fn new(index: u64, count: u64) -> Self {
        Self { offsets: Vec::new(), index, count: count.max(1) }
    }

    /// Where the record that tells of a line begins.
    pub fn get(&self, line: u64) -> Option<u64> {
        let offset = self.offsets.get(self.position(line))? & !MET;
        Some(offset).filter(|offset| *offset != NONE)
    }

    /// A record tells of a line.
    pub fn set(&mut self, line: u64, offset: u64) {
        *self.slot(line) = offset;
    }

    /// A record that was made in this run tells of a line.
    pub fn set_met(&mut self, line: u64, offset: u64) {
        *self.slot(line) = offset | MET;
    }

    /// The line was met in this run, and the record that told of it still does.
    pub fn meet(&mut self, line: u64) {
        *self.slot(line) |= MET;
    }

    /// The lines from one to another have no outcome any more.
    pub fn clear(&mut self, first: u64, last: u64) {
        let range = self.position(first)..(self.position(last) + 1).min(self.offsets.len());
        self.offsets.get_mut(range).into_iter().flatten().for_each(|offset| *offset = NONE);
    }

    /// Lines of earlier inputs that this run did not meet, as ranges from a first to a last one.
    pub fn unmet(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (line, _) in self.all().filter(|(_, offset)| offset & MET == 0) {
            match ranges.last_mut() {
                Some((_, last)) if *last + self.count == line => *last = line,
                _ => ranges.push((line, line)),
            }
        }
        ranges
    }

    /// Every line that has a record, in order, and where the record begins.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.all().map(|(line, offset)| (line, offset & !MET))
    }

    fn all(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let placed = self.offsets.iter().enumerate().filter(|(_, offset)| **offset & !MET != NONE);
        placed.map(|(position, offset)| (position as u64 * self.count + self.index, *offset))
    }

    fn position(&self, line: u64) -> usize {
        (line.saturating_sub(1) / self.count) as usize
    }

    fn slot(&mut self, line: u64) -> &mut u64 {
        let position = self.position(line);
        if position >= self.offsets.len() {
            self.offsets.resize(position + 1, NONE);
        }
        &mut self.offsets[position]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_record_at_a_time() {
        let mut places = Places::new(1, 1);
        places.set(1, 100);
        places.set(3, 300);
        assert_eq!((places.get(1), places.get(2), places.get(3), places.get(4)), (Some(100), None, Some(300), None));
        places.meet(3);
        places.set_met(4, 400);
        assert_eq!(places.unmet(), [(1, 1)]);
        places.clear(1, 1);
        assert_eq!(places.unmet(), []);
        assert_eq!(places.iter().collect::<Vec<_>>(), [(3, 300), (4, 400)]);
        places.meet(2);
        assert_eq!(places.get(2), None, "a line without a record stays without one");
    }

    #[test]
    fn a_shard_pays_for_its_own_lines_only() {
        for index in 1..=4 {
            let mut places = Places::new(index, 4);
            let lines: Vec<u64> = (1..=40).filter(|line| line % 4 == index % 4).collect();
            lines.iter().for_each(|line| places.set(*line, line * 10));
            assert_eq!(places.offsets.len(), 10);
            assert_eq!(places.unmet(), [(lines[0], lines[9])]);
            places.meet(lines[4]);
            assert_eq!(places.unmet(), [(lines[0], lines[3]), (lines[5], lines[9])]);
            let mut cleared = places.clone();
            cleared.clear(lines[5], 1000);
            assert_eq!(cleared.iter().count(), 5);
            assert_eq!(places.iter().map(|(line, _)| line).collect::<Vec<_>>(), lines);
        }
    }
}
