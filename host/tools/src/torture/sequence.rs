//! Checks that numbers arrive in order, each once.

use std::collections::BTreeSet;
use std::fmt;

/// The largest gap whose numbers are remembered. Numbers of a larger gap count as lost, and as duplicates if they
/// arrive later.
const LOOK_BACK: u64 = 10_000;

/// Numbers that should arrive in order, each once.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    next: u64,
    missing: BTreeSet<u64>,
}

/// The place of a number among those that have arrived before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the expected one.
    Next,
    /// This many numbers before it are missing.
    Ahead(u64),
    /// It was missing: it arrived after later ones.
    Late,
    /// It has arrived before.
    Again,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next => f.write_str("arrived in order"),
            Self::Ahead(missing) => write!(f, "arrived with {missing} missing before it"),
            Self::Late => f.write_str("arrived late"),
            Self::Again => f.write_str("arrived twice"),
        }
    }
}

impl Sequence {
    /// The numbers after `last`.
    pub(super) fn after(last: u64) -> Self {
        Self {
            next: last + 1,
            missing: BTreeSet::new(),
        }
    }

    /// The highest number so far.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes the next number that has arrived.
    pub(super) fn take(&mut self, number: u64) -> Place {
        if number >= self.next {
            let missed = number - self.next;
            if missed <= LOOK_BACK {
                self.missing.extend(self.next..number);
            }
            self.next = number + 1;
            return if missed == 0 { Place::Next } else { Place::Ahead(missed) };
        }
        if self.missing.remove(&number) {
            Place::Late
        } else {
            Place::Again
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: &[u64], expected: &[Place]) {
        let mut sequence = Sequence::after(0);
        let places: Vec<Place> = numbers.iter().map(|number| sequence.take(*number)).collect();
        assert_eq!(places, expected, "{numbers:?}");
    }

    #[test]
    fn numbers_in_order_are_each_the_next_one() {
        check(&[1, 2, 3], &[Place::Next; 3]);
    }

    #[test]
    fn a_number_that_is_left_out_is_missing_until_it_arrives_late() {
        check(&[1, 4, 3, 5], &[Place::Next, Place::Ahead(2), Place::Late, Place::Next]);
    }

    #[test]
    fn a_number_that_arrives_twice_is_noticed() {
        check(
            &[1, 1, 3, 2, 2],
            &[Place::Next, Place::Again, Place::Ahead(1), Place::Late, Place::Again],
        );
    }
}
