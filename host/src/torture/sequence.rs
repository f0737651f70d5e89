//! Whether numbers come one after the other.

use std::collections::BTreeSet;

/// How far ahead a number may be for those before it to be waited for. Beyond, they count as lost for good.
const LOOK_BACK: u64 = 10_000;

/// Numbers that are to come one after the other, each once.
#[derive(Clone, Debug)]
pub struct Sequence {
    next: u64,
    missing: BTreeSet<u64>,
}

/// Where a number stands among those that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the one that was to come.
    Next,
    /// So many before it have not come.
    Ahead(u64),
    /// It was missing, and comes behind others that should follow it.
    Late,
    /// It was there before.
    Again,
}

impl Sequence {
    /// Numbers that go on behind `last`.
    #[must_use]
    pub fn after(last: u64) -> Self {
        Self {
            next: last + 1,
            missing: BTreeSet::new(),
        }
    }

    /// The highest number so far.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Takes the number that came.
    pub fn take(&mut self, number: u64) -> Place {
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
    fn what_comes_in_order_is_next() {
        check(&[1, 2, 3], &[Place::Next; 3]);
    }

    #[test]
    fn what_is_left_out_is_missed_until_it_comes_late() {
        check(&[1, 4, 3, 5], &[Place::Next, Place::Ahead(2), Place::Late, Place::Next]);
    }

    #[test]
    fn what_comes_twice_is_there_again() {
        check(
            &[1, 1, 3, 2, 2],
            &[Place::Next, Place::Again, Place::Ahead(1), Place::Late, Place::Again],
        );
    }
}
