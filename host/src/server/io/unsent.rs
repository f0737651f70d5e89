//! What waits for the clients of a thread, unsent.

/// A sum of bytes, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    bytes: usize,
    clients: usize,
}

impl Unsent {
    /// A client for which `before` bytes waited has `now` waiting.
    pub(super) fn change(&mut self, before: usize, now: usize) {
        self.bytes = self.bytes - before + now;
        self.clients = self.clients + usize::from(now > 0) - usize::from(before > 0);
    }

    /// Whether more waits than may, and for this client, with `own` bytes of it, at least as much as for the others on
    /// average. There is always one of those.
    pub(super) fn is_too_much(&self, own: usize, limit: usize) -> bool {
        self.bytes > limit && own.saturating_mul(self.clients) >= self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_it_is_those_with_the_most_who_have_too_much() {
        let mut unsent = Unsent::default();
        unsent.change(0, 10);
        unsent.change(0, 50);
        assert!(!unsent.is_too_much(50, 60));
        assert!(unsent.is_too_much(50, 59));
        assert!(!unsent.is_too_much(10, 59));
        unsent.change(50, 0);
        assert!(!unsent.is_too_much(10, 59));
        assert!(unsent.is_too_much(10, 9), "who is alone has it all");
    }
}
