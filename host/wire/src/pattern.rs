//! The topic patterns of routes: `room:lobby` for one topic, `room:*` for all topics with that prefix.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

/// A literal (`room:lobby`), or a prefix and everything behind it (`room:*`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicPattern {
    prefix: String,
    splat: bool,
}

/// Why a text is not a [`TopicPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// There is nothing in it.
    #[error("a topic pattern may not be empty")]
    Empty,
    /// There is a `*` before the last character.
    #[error("`*` may only stand at the end of a topic pattern")]
    InnerSplat {
        /// Where the first such `*` is, in bytes.
        at: usize,
    },
}

impl TopicPattern {
    /// Reads a pattern such as `room:lobby` or `room:*`. `*` alone takes every topic.
    ///
    /// # Errors
    ///
    /// If the text is empty, or has a `*` before its last character.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let (prefix, splat) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        match prefix.find('*') {
            Some(at) => Err(PatternError::InnerSplat { at }),
            None => Ok(Self {
                prefix: prefix.to_owned(),
                splat,
            }),
        }
    }

    /// A topic that matches: `room:1` for `room:*`.
    #[must_use]
    pub fn example(&self) -> String {
        format!("{}{}", self.prefix, if self.splat { "1" } else { "" })
    }

    /// Whether `topic` matches.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if self.splat {
            topic.starts_with(&self.prefix)
        } else {
            topic == self.prefix
        }
    }

    /// Whether it matches every topic that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.matches(&other.prefix) && (self.splat || !other.splat)
    }
}

impl FromStr for TopicPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, if self.splat { "*" } else { "" })
    }
}

/// Patterns, each with its places in file order.
#[derive(Debug, Default)]
pub struct PatternIndex {
    literals: HashMap<String, Vec<usize>>,
    splats: HashMap<String, Vec<usize>>,
    /// The lengths of the prefixes in `splats`: only prefixes of these lengths are looked up.
    lengths: BTreeSet<usize>,
}

impl PatternIndex {
    /// Adds a pattern. Places must be added in rising order.
    pub fn insert(&mut self, pattern: &TopicPattern, place: usize) {
        let map = if pattern.splat {
            &mut self.splats
        } else {
            &mut self.literals
        };
        map.entry(pattern.prefix.clone()).or_default().push(place);
        if pattern.splat {
            self.lengths.insert(pattern.prefix.len());
        }
    }

    /// The places of each pattern that matches `topic`.
    pub fn matching<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a [usize]> {
        self.literals
            .get(topic)
            .map(Vec::as_slice)
            .into_iter()
            .chain(self.splats_over(topic))
    }

    /// The places of each pattern that [covers](TopicPattern::covers) `pattern`.
    pub fn covering<'a>(&'a self, pattern: &'a TopicPattern) -> impl Iterator<Item = &'a [usize]> {
        let literal = if pattern.splat {
            None
        } else {
            self.literals.get(&pattern.prefix)
        };
        literal
            .map(Vec::as_slice)
            .into_iter()
            .chain(self.splats_over(&pattern.prefix))
    }

    fn splats_over<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a [usize]> {
        // A length inside a character is not that of a prefix.
        let prefixes = self
            .lengths
            .range(..=text.len())
            .filter_map(|length| text.get(..*length));
        prefixes.filter_map(|prefix| self.splats.get(prefix)).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, topic: &str, expected: bool) {
        let pattern = TopicPattern::parse(pattern).expect("a pattern");
        assert_eq!(pattern.matches(topic), expected, "{pattern} and {topic}");
    }

    #[track_caller]
    fn check_refused(pattern: &str, expected: PatternError) {
        assert_eq!(TopicPattern::parse(pattern), Err(expected));
    }

    #[test]
    fn a_literal_takes_its_own_topic_only() {
        check("room:lobby", "room:lobby", true);
        check("room:lobby", "room:lobby2", false);
        check("room:lobby", "room:lobb", false);
        check("room:lobby", "", false);
    }

    #[test]
    fn a_splat_takes_every_topic_with_its_prefix() {
        check("room:*", "room:lobby", true);
        check("room:*", "room:", true);
        check("room:*", "room", false);
        check("room:*", "rooms:1", false);
        check("*", "", true);
        check("*", "anything", true);
    }

    #[test]
    fn a_splat_stands_at_the_end_and_once() {
        check_refused("", PatternError::Empty);
        check_refused("room:*:x", PatternError::InnerSplat { at: 5 });
        check_refused("room:**", PatternError::InnerSplat { at: 5 });
        check_refused("*room", PatternError::InnerSplat { at: 0 });
    }

    #[test]
    fn a_pattern_is_displayed_as_it_was_written() {
        for text in ["room:lobby", "room:*", "*", "ünï:*"] {
            assert_eq!(TopicPattern::parse(text).expect("a pattern").to_string(), text);
        }
    }

    #[test]
    fn what_a_lookup_costs_grows_with_the_lengths_of_prefixes_only() {
        let mut index = PatternIndex::default();
        for place in 0..10_000 {
            index.insert(
                &TopicPattern::parse(&format!("room{place:05}:*")).expect("a pattern"),
                place,
            );
        }
        assert_eq!(index.lengths.len(), 1);
        assert_eq!(index.matching("room07777:lobby").map(<[_]>::len).sum::<usize>(), 1);
    }

    proptest! {
        #[test]
        fn a_pattern_covers_another_when_it_takes_all_of_its_topics(a in "[ab]{0,3}[*a]", b in "[ab]{0,3}[*a]") {
            let (a, b) = (TopicPattern::parse(&a).unwrap(), TopicPattern::parse(&b).unwrap());
            let topics = ["a", "b"].iter().flat_map(|end| [format!("{}{end}", b.prefix), format!("{}{end}{end}", b.prefix)]);
            let all = topics.chain([b.prefix.clone()]).filter(|topic| b.matches(topic)).all(|topic| a.matches(&topic));
            prop_assert_eq!(a.covers(&b), all);
        }
    }
}
