//! Why topics could not be moved: each distinct reason, with how many topics it kept.

/// Distinct reasons that are kept. A plugin whose reasons name each topic's data has as many as topics.
const MOST_REASONS: usize = 8;

/// Topics that stayed where they were, or started anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    reasons: Vec<Failure>,
    /// Topics with further reasons.
    others: usize,
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it is.
    pub(crate) why: String,
    /// How many topics have it.
    pub(crate) topics: usize,
    /// The first of them.
    pub(crate) topic: String,
}

impl Failures {
    /// Adds a topic that could not be moved.
    pub(super) fn add(&mut self, topic: &str, why: String) {
        if let Some(known) = self.reasons.iter_mut().find(|known| known.why == why) {
            known.topics += 1;
        } else if self.reasons.len() < MOST_REASONS {
            let topic = topic.to_owned();
            self.reasons.push(Failure { why, topics: 1, topic });
        } else {
            self.others += 1;
        }
    }

    /// How many topics there are.
    #[must_use]
    pub(crate) fn topics(&self) -> usize {
        self.reasons.iter().map(|failure| failure.topics).sum::<usize>() + self.others
    }

    /// The first eight distinct reasons.
    #[must_use]
    pub(crate) fn reasons(&self) -> &[Failure] {
        &self.reasons
    }

    /// All reasons in one line, if there are any.
    #[must_use]
    pub(crate) fn shown(&self) -> Option<String> {
        let shown = |failure: &Failure| match failure.topics {
            1 => format!("{}: {}", failure.topic, failure.why),
            topics => format!("{} and {} more: {}", failure.topic, topics - 1, failure.why),
        };
        let mut shown: Vec<_> = self.reasons.iter().map(shown).collect();
        if self.others > 0 {
            shown.push(format!("{} more topics for other reasons", self.others));
        }
        (!shown.is_empty()).then(|| shown.join("; "))
    }

    /// Says each reason in the log, in a line of its own, behind `what` has happened to the topics.
    pub(crate) fn announce(&self, plugin: &str, what: &str) {
        for Failure { why, topics, topic } in &self.reasons {
            tracing::error!(plugin, failed = topics, topic, "{what}: {topic}: {why}");
        }
        if self.others > 0 {
            tracing::error!(plugin, failed = self.others, "{what}, for other reasons");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distinct_reason_is_kept_with_its_number_of_topics() {
        let mut failures = Failures::default();
        assert_eq!(failures.shown(), None);
        for (topic, why) in [("a", "too old"), ("b", "busy"), ("c", "too old"), ("d", "too old")] {
            failures.add(topic, why.to_owned());
        }
        assert_eq!(failures.topics(), 4);
        assert_eq!(failures.shown().as_deref(), Some("a and 2 more: too old; b: busy"));
    }

    #[test]
    fn beyond_the_bound_topics_are_only_counted() {
        let mut failures = Failures::default();
        for number in 0..20 {
            failures.add("t", format!("member {number}"));
        }
        failures.add("t", "member 3".to_owned());
        assert_eq!((failures.reasons().len(), failures.topics()), (MOST_REASONS, 21));
        assert_eq!(failures.reasons()[3].topics, 2);
        assert!(
            failures
                .shown()
                .unwrap()
                .ends_with("; 12 more topics for other reasons")
        );
    }
}
