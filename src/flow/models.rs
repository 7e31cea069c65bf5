//! Models by number: names are looked up once a request, not at every step of it. Pure.

use std::collections::HashMap;

/// Models that are told apart; the rest share one number.
const MODELS_MAX: u16 = 256;

/// A model's number in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Model(u16);

impl Model {
    /// The first one of a run.
    pub const FIRST: Model = Model(0);

    /// All that are not told apart.
    pub const REST: Model = Model(MODELS_MAX);

    /// Its place in lists.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The numbers of all models of a run.
#[derive(Debug, Default)]
pub struct Models {
    numbers: HashMap<Box<str>, Model>,
    /// The names of the numbers.
    names: Vec<Box<str>>,
    /// The name that was looked up last; mostly it comes again.
    last: Option<(Box<str>, Model)>,
}

impl Models {
    /// The number of this name, if it has one yet.
    pub fn get(&self, name: &str) -> Option<Model> {
        match &self.last {
            Some((last, model)) if **last == *name => Some(*model),
            // Names beyond those that are told apart share a number.
            _ => self
                .numbers
                .get(name)
                .copied()
                .or((self.numbers.len() >= usize::from(MODELS_MAX)).then_some(Model::REST)),
        }
    }

    /// The name of a number; that of the rest has none.
    pub fn name(&self, model: Model) -> Option<&str> {
        self.names.get(model.index()).map(|name| &**name)
    }

    /// The number of this name.
    pub fn of(&mut self, name: &str) -> Model {
        if let Some((_, model)) = self.last.as_ref().filter(|(last, _)| **last == *name) {
            return *model;
        }
        let model = self.numbers.get(name).copied().unwrap_or_else(|| self.number(name));
        self.last = Some((name.into(), model));
        model
    }

    fn number(&mut self, name: &str) -> Model {
        let next = Model((self.numbers.len() as u16).min(MODELS_MAX));
        if next.0 < MODELS_MAX {
            self.numbers.insert(name.into(), next);
            self.names.push(name.into());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_numbers_are_bounded() {
        let mut models = Models::default();
        assert_eq!((models.of("a"), models.of("a")), (Model(0), Model(0)));
        assert_eq!((models.of("b"), models.of("a")), (Model(1), Model(0)));
        let numbers: Vec<Model> = (0..1000).map(|number| models.of(&format!("m{number}"))).collect();
        assert_eq!((numbers[0], numbers[998], numbers[999]), (Model(2), Model(MODELS_MAX), Model(MODELS_MAX)));
        assert_eq!((models.of("b"), models.of("m0")), (Model(1), Model(2)));
        assert_eq!((models.name(Model(2)), models.name(Model(MODELS_MAX))), (Some("m0"), None));
    }
}
